"""The operators' changes on Postgres: a table, numbered and chained, where DuckDB has a file (``store.changes``).

A change and its row are one transaction. Numbers follow each other without a gap, whichever process writes, because
each locks table ``progress``'s one row first. With it goes a notification, so that other processes take the change in.

What Postgres acknowledged can be lost all the same, by a failover to a standby that was behind or a backup that was put
back: a mark in the home folder (``store.marks``) has the number of the last change that this gateway has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from trustgate.errors import Conflict, HomeUnusable, StoreIncomplete
from trustgate.ids import iso_us, now_us
from trustgate.store.changes import Change
from trustgate.store.completeness import progress
from trustgate.store.marks import Mark
from trustgate.store.queries import DamagedRow, Kept
from trustgate.store.records import apply_change
from trustgate.store.sql import SqlConnection, one_value
from trustgate.types import Alias, Plan

#: Its payload is the change's number. All schemas of a database share it: each notification is looked up.
CHANNEL = "trustgate_changes"

#: The row of table ``shared_state`` with the notes of commands whose changes are not counted yet: JSON, a list.
COUNT_KEY = "count"

_encode = msgspec.json.Encoder().encode
#: Changes looked at together.
_PAGE = 500


def apply_next_change(connection: SqlConnection, put: Sequence[Kept], removed: Sequence[Plan | Alias]) -> int:
    """Keep a change and what it changes. The caller's transaction. Returns its number."""
    number = int(one_value(connection.execute("SELECT changes FROM progress FOR UPDATE"))) + 1
    rows = connection.execute("SELECT digest FROM changes WHERE number = ?", [number - 1]).fetchall()
    before = rows[0][0] if rows else b""
    change = Change(number=number, at_us=now_us(), put=tuple(put), removed=tuple(removed))
    body = _encode(change)
    connection.execute(
        "INSERT INTO changes VALUES (?, ?, ?, ?, ?)",
        [number, change.at_us, before, hashlib.sha256(before + body).digest(), body],
    )
    apply_change(connection, change, False)
    connection.execute("SELECT pg_notify(?, ?)", [CHANNEL, str(number)])
    return number


def check_noted(connection: SqlConnection, note: str) -> None:
    """Check in the transaction of a change that the note is there by which other processes count it.

    Raises:
        Conflict: it is not.
    """
    found = connection.execute(
        "SELECT 1 FROM shared_state WHERE key = ? AND jsonb_exists(state, ?)", [COUNT_KEY, note]
    ).fetchone()
    if found is None:
        raise Conflict(
            "Nothing was changed: another command came between, since the connection to the database was lost.",
            hint="Type it again.",
            code="command_overtaken",
        )


def broken_changes(connection: SqlConnection) -> Iterator[DamagedRow]:
    """Returns the changes that are not what was written, or do not follow each other."""
    last, digest = 0, None
    # Other processes may add changes meanwhile.
    least = progress(connection).changes
    while rows := connection.execute(
        "SELECT number, before, digest, body FROM changes WHERE number > ? ORDER BY number LIMIT ?", [last, _PAGE]
    ).fetchall():
        for number, before, told, body in rows:
            if digest is not None and (number != last + 1 or before != digest):
                yield _broken(number, f"it does not follow change {last}")
            if hashlib.sha256(before + body).digest() != told:
                yield _broken(number, "its digest is another")
            last, digest = number, told
    kept = progress(connection).changes
    if not least <= last <= kept:
        yield _broken(kept, f"the last one that is there is {last}")


def _broken(number: int, problem: str) -> DamagedRow:
    return DamagedRow(table="changes", row=str(number), problem=f"Change {number} of the operators: {problem}.")


def open_mark(connection: SqlConnection, home: Path, store_id: str, *, accept_loss: bool) -> tuple[Mark, list[str]]:
    """Open this home's mark of the database. Returns it, and what is worth telling.

    Raises StoreIncomplete where the database has fewer changes than the mark (unless ``accept_loss``), HomeUnusable.
    """
    path = home / f"postgres-{store_id.rpartition('_')[2][-12:]}.mark"
    notes = []
    try:
        mark = Mark(path)
        has, found = progress(connection), mark.found
        if found is not None and found.numbers[0] > has.changes:
            lost = (
                f"changes {has.changes + 1} to {found.numbers[0]} of what operators decide are missing (keys, plans, "
                f"tenants), the last of {iso_us(found.at_us)}"
            )
            if not accept_loss:
                mark.close()
                error = StoreIncomplete(f"The database lacks what this gateway has seen in it: {lost}.")
                error.hint = (
                    "Let store.url name the database that has it, or restore a newer backup. To go on without what is "
                    "missing: trustgate accept-loss"
                )
                raise error
            mark.write(has.changes)  # into both places of the mark: the higher one of the two is believed
            notes.append(f"Accepted as lost: {lost}.")
        mark.write(has.changes)
    except OSError as error:
        raise HomeUnusable(
            f"{error.filename or path} cannot be used: {error.strerror or error}.",
            hint="Give it to the user who runs TrustGate, or make room on its disk.",
        ) from error
    return mark, notes
