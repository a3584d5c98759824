"""The control plane: who may have which tunnel, who may call it, and what edges are told about both.

It holds public CA certificates and sealed token secrets, never a TLS private key of a tunnel. `api` turns HTTP into calls
of `service` and decides nothing; `service` holds the rules; `auth` knows credentials; `storage` is the only room of Penstock
that opens a database.
"""
