"""Who may speak for what: certificates, the rules they obey, and the only place an `SSLContext` is built.

This package holds no socket and no loop, reads no clock and rolls no dice: times and serial numbers are arguments. Files
are read in `contexts` alone. Handshakes happen in `penstock.net.tls`, which takes a context from here.
"""
