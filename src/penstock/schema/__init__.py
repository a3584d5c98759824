"""The REST wire types that control, its clients and the console share: shapes only, no I/O and no policy."""
