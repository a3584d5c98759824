"""Bearer tokens in front of servers without authorization of their own: `require_oauth` of a route.

The law of this room: a token counts only when the configured issuer signed it, with an asymmetric key of its own, for the
configured audience, and not for the holder of some other key; nothing of a token is logged or told; keys are fetched only
from addresses on the route's own list, and a flood of unknown keys fetches no more often than a trickle.

tokens is pure; fetch gets a document, keys keeps an issuer's, gate decides about a request.
"""
