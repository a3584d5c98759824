"""The first place where a payload is readable: ends inner TLS, routes by host, dials private addresses.

The law of this room: bytes are counted before they are parsed; a request that two parsers could read differently is
refused, never repaired; nothing is dialled that the guard has not seen; bodies pass through unbuffered, and whoever goes
away takes the other side with it at once; what is refused is told in one sentence without an address in it.

heads, bodies, headers, routes, guard are pure. pipeline is the caller's side of a request, upstream the other, exchange
the life of one request between them; pool dials and keeps, listener ends WebSocket and TLS; oauth asks for tokens where a
route says so; live is what the settings amount to, reload watches their files, server puts it together.
"""
