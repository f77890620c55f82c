"""Notes of commands whose changes are not counted yet, where several processes serve one database.

A command that limits what has been used before makes a note, then its change, then counts the use anew, and strikes out
its note in the transaction of the count. Where its process ends in between, or loses the database, another one finds
the note and counts everything. Commands keep each other waiting by a lock of a session, which may be lost in the middle
of one. So the change is made only while its note is there (``store.postgres.changes.check_noted``), and a note of
another command is struck out only where no change has come since the last one that is counted: of both at once one
waits for the other, by the lock of the row that numbers changes.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from trustgate.cluster.database import DatabaseConnection
from trustgate.store.postgres.changes import COUNT_KEY

_ADD = (
    "INSERT INTO shared_state AS s (key, state) VALUES ($1, jsonb_build_array($2::text)) ON CONFLICT (key) DO UPDATE"
    " SET state = CASE jsonb_typeof(s.state) WHEN 'array' THEN s.state ELSE '[\"\"]' END || excluded.state"
)
_LOAD = "SELECT state::text FROM shared_state WHERE key = $1"
_STRIKE_OUT = "UPDATE shared_state SET state = state - $2::text[] WHERE key = $1 AND jsonb_typeof(state) = 'array'"
_REMOVE = "DELETE FROM shared_state WHERE key = $1 AND (state = '[]' OR jsonb_typeof(state) <> 'array')"
#: Until the transaction ends no operator changes anything.
_LAST_CHANGE = "SELECT changes FROM progress FOR SHARE"


class Counted(NamedTuple):
    """What a count has counted, and the notes that it makes superfluous."""

    #: Of the command that counts, whose change is made; "": it has none.
    own: str
    #: Of other commands, where everything is counted.
    others: frozenset[str] = frozenset()
    #: The number of the last change that is counted.
    last_change: int = 0


async def add(connection: DatabaseConnection, note: str) -> None:
    """Make a note, beside those that are there."""
    await connection.execute(_ADD, COUNT_KEY, note)


async def load(connection: DatabaseConnection) -> frozenset[str]:
    """Returns the notes that are there; "" is one of a version that gave them no names."""
    found = await connection.fetchval(_LOAD, COUNT_KEY)
    notes = [] if found is None else msgspec.json.decode(found)
    return frozenset(notes if isinstance(notes, list) else [""])


async def strike_out(connection: DatabaseConnection, counted: Counted) -> None:
    """Strike out notes, in the transaction of the count."""
    struck = {counted.own}
    if counted.others and await connection.fetchval(_LAST_CHANGE) == counted.last_change:
        struck |= counted.others
    await connection.execute(_STRIKE_OUT, COUNT_KEY, sorted(struck))
    await connection.execute(_REMOVE, COUNT_KEY)
