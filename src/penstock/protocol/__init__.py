"""The wire, without the wire: bytes in, events and bytes out.

The law of this room: no I/O, no clock, no randomness, no logging. Whatever a peer sends ends in events or in
`RemoteProtocolError`, never in another exception; every buffer and every count has a limit that is a parameter.
"""
