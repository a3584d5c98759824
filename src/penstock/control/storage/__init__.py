"""The only room that opens a database. Writers take the write lock first; readers see one moment.

SQLite by default, PostgreSQL by URL. What differs between them is behind `backend`; one battery of tests runs over both.
"""
