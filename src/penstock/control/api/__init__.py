"""HTTP in, service calls out: no rule is decided here but how a request and an error look.

Published paths (`/v1/tunnels`) keep the published shapes, headers and errors exactly; ours live under `/penstock/v1`.
"""
