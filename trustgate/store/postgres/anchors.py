"""The book of anchors where several processes may anchor at once (optimistic concurrency control).

A flush reads the book, signs a transaction, records it and sends it (``solana.anchors``). Two flushes at once, or one
that was stopped in between and goes on after another has anchored, would post two anchors. So what a flush records is
kept only while all anchors are as the flush has read or recorded them; else it has to begin anew.
"""

from __future__ import annotations

from trustgate.errors import AnchorsChanged
from trustgate.store.postgres.changes import apply_next_change
from trustgate.store.postgres.dialect import PostgresConnection
from trustgate.store.postgres.store import PostgresStore
from trustgate.store.records import load_readable
from trustgate.store.rows import ANCHORS
from trustgate.store.sql import in_transaction, one_value
from trustgate.types import Anchor

#: Locks the row that ``apply_next_change`` locks: one change at a time, of all processes.
_LOCK = "SELECT changes FROM progress FOR UPDATE"
_DIGEST = "SELECT md5(coalesce(string_agg(a::text, ',' ORDER BY a.id), '')) FROM anchors a"


class SharedAnchorBook:
    """See ``solana.log_status.AnchorBook``. For one flush at a time."""

    def __init__(self, store: PostgresStore) -> None:
        """``store``: the database that all processes share."""
        self._store = store
        self._seen = ""

    async def anchors(self) -> list[Anchor]:
        """Returns all anchors, the oldest first. ``put`` compares with them."""

        def load(connection: PostgresConnection) -> tuple[list[Anchor], str]:
            connection.execute(_LOCK).fetchone()
            return load_readable(connection, ANCHORS), one_value(connection.execute(_DIGEST))

        found, self._seen = await self._store.on_writer(in_transaction, load)
        return found

    async def put(self, anchor: Anchor, /) -> None:
        """Add or replace it, by its id.

        Raises:
            AnchorsChanged: Another process has changed the anchors since they were read or put here. Nothing is kept.
        """
        seen = self._seen

        def keep(connection: PostgresConnection) -> str:
            connection.execute(_LOCK).fetchone()
            if one_value(connection.execute(_DIGEST)) != seen:
                raise AnchorsChanged("Another process anchors the log, too.", hint="Run trustgate anchor flush again.")
            apply_next_change(connection, [anchor], ())
            return str(one_value(connection.execute(_DIGEST)))

        self._seen = await self._store.on_writer(in_transaction, keep)
