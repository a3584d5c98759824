"""The only room that opens a database. Writers take the write lock first; readers see one moment.

SQLite in WAL mode now; what differs on another database (locks, wake-ups) is in `database` and `changes` alone.
"""
