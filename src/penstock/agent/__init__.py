"""The agent: dials out to the edges and carries streams to the proxy beside it.

It opens no port but a private one for health, and reads no payload. The published `cloudflared` may stand in its place
on the same token; what it shows on the wire, in its log and on `/ready` is what that program shows.
"""
