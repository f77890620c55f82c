"""The entries of the log and the tiles of the tree over them, as rows of ``receipts`` and ``tiles``.

Owns the SQL that appends and finds them. Each function runs on the writer thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from trustgate.errors import StoreDamaged
from trustgate.store.archives import archived_last_seq
from trustgate.store.migrations import schema_version
from trustgate.store.queries import ReceiptFilter, StoredTile
from trustgate.store.rows import ENTRY_COLUMNS, ENTRY_SELECT, entries_to_columns, entry_from_row, entry_to_row
from trustgate.store.sql import SqlConnection, dialect_of, one_value, where_clause
from trustgate.types import Entry

#: How many whole rows are read at a time, and how many are sorted as such.
_ROWS = 1_000
_FEW = 100
#: So many entries are added as columns: that costs about a millisecond more for a statement, and less for each entry.
_MANY = 400
#: Entries that are made into columns before another thread gets its turn.
_SLICE = 50
_TILE_COLUMNS = ("level", "position", "hashes")
_RECEIPT_ID = re.compile(r"rcpt_([0-9a-f]{12})[0-9a-f]{20}")


def load_identity(connection: SqlConnection) -> tuple[str, int, int]:
    """Returns the store's id, its schema, and the highest seq."""
    store_id = one_value(connection.execute("SELECT store_id FROM meta"))
    archived = archived_last_seq(connection)
    last_seq, count = connection.execute("SELECT coalesce(max(seq), ?), count(*) FROM receipts", [archived]).fetchall()[
        0
    ]
    if last_seq != archived + count:
        after = f" after {archived} archived ones" if archived else ""
        raise StoreDamaged(
            f"The database holds {count} receipts{after}, but the last one is number {last_seq}.",
            hint="Put back a copy of the database, or, to start anew, move it away.",
        )
    return str(store_id), schema_version(connection), int(last_seq)


def append_rows(connection: SqlConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]) -> None:
    dialect = dialect_of(connection)
    if len(entries) >= _MANY and dialect.append_columns(connection, "receipts", ENTRY_COLUMNS, _in_slices(entries)):
        pass
    elif entries:
        dialect.append(connection, "receipts", ENTRY_COLUMNS, [partial(entry_to_row, entry) for entry in entries])
    if tiles:
        dialect.append(connection, "tiles", _TILE_COLUMNS, [partial(list, tile) for tile in tiles])


def _in_slices(entries: Sequence[Entry]) -> Iterator[list[Sequence[Any]]]:
    for start in range(0, len(entries), _SLICE):
        yield entries_to_columns(entries[start : start + _SLICE])


def count_tiles(connection: SqlConnection, level: int) -> int:
    count, last = connection.execute(
        "SELECT count(*), coalesce(max(position), -1) FROM tiles WHERE level = ?", [level]
    ).fetchall()[0]
    if last + 1 != count:
        raise StoreDamaged(
            f"The database holds {count} tiles of level {level}, but the last one is number {last}.",
            hint="Put back a copy of the database.",
        )
    return int(count)


def load_tiles(connection: SqlConnection, level: int, positions: Sequence[int]) -> dict[int, bytes]:
    if not positions:
        return {}
    marks = ", ".join("?" * len(positions))
    rows = connection.execute(
        f"SELECT position, hashes FROM tiles WHERE level = ? AND position IN ({marks})",  # noqa: S608 - bound
        [level, *positions],
    ).fetchall()
    return dict(rows)


def load_heads(connection: SqlConnection) -> list[Entry]:
    """Returns the last entry of each tenant.

    A thousand rows at a time: all columns of ten thousand take more memory than the limit of a small database.
    """
    last = dict(connection.execute("SELECT tenant, max(seq) FROM receipts GROUP BY tenant").fetchall())
    # Compared here: NOT IN would have the database make a table of all receipts, of the ten million 0.8 s of CPU.
    archived = connection.execute("SELECT tenant, seq FROM archived_heads").fetchall()
    return [
        entry_from_row(row)
        for table, seqs in (
            ("receipts", list(last.values())),
            ("archived_heads", [seq for tenant, seq in archived if tenant not in last]),
        )
        for row in _rows_of(connection, table, sorted(seqs))
    ]


def _rows_of(connection: SqlConnection, table: str, seqs: Sequence[int]) -> Iterator[Sequence[Any]]:
    """Yields the rows with those numbers, which are in ascending order."""
    for start in range(0, len(seqs), _ROWS):
        page = seqs[start : start + _ROWS]
        marks = ", ".join("?" * len(page))
        yield from connection.execute(
            f"SELECT {ENTRY_SELECT} FROM {table} WHERE seq BETWEEN ? AND ? AND seq IN ({marks})",  # noqa: S608 - bound
            [page[0], page[-1], *page],
        ).fetchall()


def load_entries(connection: SqlConnection, source: str, query: ReceiptFilter) -> list[Entry]:
    """``source``: as ``Archives.source`` has it."""
    where, values = where_clause(
        ("tenant = ?", query.tenant_id),
        ('"key" = ?', query.key_id),
        dialect_of(connection).glob("model", query.model),
        ("status >= ?", None if query.status is None else query.status[0]),
        ("status <= ?", None if query.status is None else query.status[1]),
        ("finish = ?", query.finish),
        ("created_us >= ?", query.since_us),
        ("created_us < ?", query.until_us),
        ("seq < ?", query.before_seq),
        ("seq > ?", query.after_seq),
        ("seq <= ?", query.until_seq),
    )
    order = "ASC" if query.oldest_first else "DESC"
    which = f"FROM {source} {where} ORDER BY seq {order} LIMIT ?"
    bound = [*values, max(query.limit, 0)]
    if query.limit > _FEW:
        # Found by their numbers first: to sort whole rows the database would take what a small one may have, and more.
        seqs = [seq for (seq,) in connection.execute(f"SELECT seq {which}", bound).fetchall()]
        if len(seqs) > _FEW:
            rows = _rows_of(connection, source, sorted(seqs))
            return sorted((entry_from_row(row) for row in rows), key=_seq_of, reverse=not query.oldest_first)
    return [entry_from_row(row) for row in connection.execute(f"SELECT {ENTRY_SELECT} {which}", bound).fetchall()]


def _seq_of(entry: Entry) -> int:
    return entry.seq


def made_us(receipt_id: str) -> int | None:
    """Returns the millisecond that the id begins with (ids.new_id), in microseconds.

    None for what is no receipt's id.
    """
    parts = _RECEIPT_ID.fullmatch(receipt_id)
    return None if parts is None else int(parts.group(1), 16) * 1000


def load_entry(connection: SqlConnection, source: str, receipt_id: str, since_us: int) -> Entry | None:
    """Found by the millisecond that its id begins with: receipts are nearly in the order of time."""
    rows = connection.execute(
        f"SELECT {ENTRY_SELECT} FROM {source} WHERE created_us BETWEEN ? AND ? AND id = ?",  # noqa: S608 - bound
        [since_us, since_us + 999, receipt_id],
    ).fetchall()
    return entry_from_row(rows[0]) if rows else None
