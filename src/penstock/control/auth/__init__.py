"""Credentials: what each looks like, how it is stored (never as itself), and who it makes of its bearer."""
