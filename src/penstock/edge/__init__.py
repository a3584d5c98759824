"""The edge: the relay that agents and callers both dial.

It decides from local state in microseconds (who may use which tunnel, over which link) and then moves bytes. It never
parses a WebSocket frame, holds no database credential, cannot write certificates, and reads no payload: what passes is
inner TLS between a caller and a proxy.
"""
