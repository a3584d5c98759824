"""Alembic's folder, inside the package so that the wheel carries it."""
