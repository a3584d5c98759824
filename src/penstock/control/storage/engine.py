"""SQLAlchemy's asyncio engine, and not its ORM, which comes with sessions that nothing here has: 80 ms of a start."""

from __future__ import annotations

from penstock import omit

with omit.hollow("sqlalchemy.ext.asyncio.session", "sqlalchemy.ext.asyncio.scoping"):
    from sqlalchemy.ext.asyncio import create_async_engine

__all__ = ("create_async_engine",)
