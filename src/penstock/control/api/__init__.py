"""HTTP in, service calls out: no rule is decided here but how a request and an error look.

Published paths (`/v1/tunnels`) keep the published shapes, headers and errors exactly; ours live under `/penstock/v1`.
"""

from __future__ import annotations

from penstock import omit
from penstock.schema.wire import built_late

# It has forty types for its description of an API, which nobody but `document` uses: building them takes 55 ms. For one of them
# it would import a checker of mail addresses, where somebody has installed that: 25 ms.
with built_late(), omit.absent("email_validator"):
    import fastapi

__all__ = ("fastapi",)
