"""HTTP in, service calls out: no rule is decided here but how a request and an error look.

Published paths (`/v1/tunnels`) keep the published shapes, headers and errors exactly; ours live under `/penstock/v1`.
"""

from __future__ import annotations

from penstock.schema.wire import built_late

# It has forty types for its description of an API, which nobody but `document` uses: building them takes 55 ms.
with built_late():
    import fastapi

__all__ = ("fastapi",)
