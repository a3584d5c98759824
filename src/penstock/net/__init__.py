"""Where every await on a socket is: transports that stack, and what moves bytes between them.

The law of this room: every hop is an `asyncio.Transport` under the contract of `transports`, the data path is made of
callbacks (no task a stream, no await a chunk), everything that waits has a limit, and nothing here knows what a tunnel,
a route or a tenant is.
"""
