"""Receipts that the database cannot hold as they are, and what stands in their place.

A receipt is set aside when a member of it does not fit its column: it was journaled before there were bounds
(``receipts.bounds``), or by another program. Its number, its place in the tree and its canonical bytes are kept, in
table ``set_aside``, so that the log, its proofs and its tenant's chain are what they were; the row of table
``receipts`` has the same members but for those that do not fit, which count as nothing there. Sums are those of the
rows, and what was set aside is told wherever the state is (``doctor``, ``/ready``, ``/metrics``) until it is stored or
accepted.

Owns which entries cannot be stored, and the rows of both tables. Nothing here decides when.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from trustgate.errors import StoreDamaged, TrustGateError
from trustgate.ids import now_us
from trustgate.store.archives import archived_last_seq
from trustgate.store.entries import append_rows
from trustgate.store.queries import SetAside, StoredTile
from trustgate.store.rows import ENTRY_COLUMNS, ENTRY_SELECT, HASHES, entry_from_row, entry_to_row
from trustgate.store.sql import SqlConnection, dialect_of, in_transaction
from trustgate.types import Entry, Receipt

logger = logging.getLogger(__name__)

_BIGINT_MOST = 2**63 - 1
_SMALLINT_MOST = 2**15 - 1
_NO_HASH = "0" * 64
#: What a value that does not fit raises before it comes to the database.
_UNFIT = (ValueError, TypeError, OverflowError)
#: Members that reports need: what is always there has no substitute.
_KEPT = frozenset({"v", "finish", "usage_source", "stream"})
_canonical = msgspec.json.Encoder(order="sorted").encode  # as receipts.receipt has it, which stands above this room
_receipt = msgspec.json.Decoder(Receipt).decode


def commit_entries(
    connection: SqlConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile], fatal: tuple[type[Exception], ...]
) -> bool:
    """Commit them all. Where one does not fit, what fits of it, and the whole of it aside.

    ``fatal``: failures of the database that are not an entry's fault. Returns whether something was set aside.
    """
    failures: tuple[type[Exception], ...] = (*dialect_of(connection).failures, TrustGateError, *_UNFIT)
    try:
        if dialect_of(connection).appends_whole and not tiles:
            append_rows(connection, entries, ())
        else:
            in_transaction(connection, lambda connection: append_rows(connection, entries, tiles))
        return False
    except fatal:
        raise
    except failures:
        reasons = unstorable(connection, entries)
        if not reasons:
            raise
    rows = [replace(entry, receipt=storable(entry.receipt)) if entry.seq in reasons else entry for entry in entries]

    def commit(connection: SqlConnection) -> None:
        put_aside(connection, entries, reasons, now_us())
        append_rows(connection, rows, tiles)

    in_transaction(connection, commit)
    for seq, reason in reasons.items():
        logger.error("receipt %d is set aside, the database cannot hold it as it is: %s", seq, reason)
    return True


def unstorable(connection: SqlConnection, entries: Sequence[Entry]) -> dict[int, str]:
    """Returns the numbers of those entries that table ``receipts`` does not take, each with the reason.

    Changes nothing.
    """
    found: dict[int, str] = {}
    dialect = dialect_of(connection)
    dialect.make_trial(connection)
    try:
        for entry in entries:
            reason = _refusal(connection, entry)
            if reason is not None:
                found[entry.seq] = reason
    finally:
        connection.execute(f"DROP TABLE IF EXISTS {dialect.trial}")
    return found


def _refusal(connection: SqlConnection, entry: Entry) -> str | None:
    dialect = dialect_of(connection)
    failures: tuple[type[Exception], ...] = (*dialect.failures, TrustGateError, *_UNFIT)
    try:
        row = entry_to_row(entry)
        dialect.try_row(connection, ENTRY_COLUMNS, row)
    except failures as error:
        return error.message if isinstance(error, TrustGateError) else _misfit(entry.receipt)
    return None if dialect.why_unfit(row) is None else _misfit(entry.receipt)


def _misfit(receipt: Receipt) -> str:
    """Returns which members do not fit; no values, which may be a tenant's."""
    row = storable(receipt)
    names = [name for name in Receipt.__struct_fields__ if getattr(row, name) != getattr(receipt, name)]
    return f"out of range: {', '.join(names)}" if names else "the database does not take it"


def storable(receipt: Receipt) -> Receipt:
    """Returns the receipt with what does not fit its column left out."""
    changes: dict[str, Any] = {}
    for name in Receipt.__struct_fields__:
        value = getattr(receipt, name)
        if name in HASHES:
            if not _is_hash(value):
                changes[name] = _NO_HASH
        elif isinstance(value, bool) or name in _KEPT:
            continue
        elif isinstance(value, int):
            if not 0 <= value <= (_SMALLINT_MOST if name == "status" else _BIGINT_MOST):
                changes[name] = 0
        elif isinstance(value, str):
            valid = value.encode(errors="replace").decode().replace("\0", "?")  # which Postgres's text does not hold
            if valid != value:
                changes[name] = valid
    return msgspec.structs.replace(receipt, **changes)


def _is_hash(digits: str) -> bool:
    try:
        return bytes.fromhex(digits).hex() == digits
    except ValueError:
        return False


def put_aside(connection: SqlConnection, entries: Sequence[Entry], reasons: dict[int, str], now_us: int) -> None:
    """Keep those entries that have a reason. The caller's transaction; their rows are the caller's too."""
    for entry in entries:
        if entry.seq in reasons:
            connection.execute(
                "INSERT INTO set_aside VALUES (?, ?, ?, ?, ?, false)",
                [entry.seq, _canonical(entry.receipt), entry.secret, reasons[entry.seq], now_us],
            )


def load_aside(connection: SqlConnection) -> dict[int, SetAside]:
    """Returns all that is set aside, by its number. Raises StoreDamaged for a row that no TrustGate wrote."""
    rows = connection.execute("SELECT * FROM set_aside ORDER BY seq").fetchall()
    try:
        return {
            seq: SetAside(
                entry=Entry(seq=seq, receipt=_receipt(receipt), secret=secret),
                reason=reason,
                set_aside_us=set_aside_us,
                accepted=accepted,
                counted=_row_of(connection, seq, receipt),
            )
            for seq, receipt, secret, reason, set_aside_us, accepted in rows
        }
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreDamaged(
            f"A receipt that was set aside cannot be read: {error}.", hint="Put back a copy of the database."
        ) from error


def load_changed_aside(connection: SqlConnection, known: Sequence[tuple[int, bool]]) -> dict[int, SetAside] | None:
    """Returns all that is set aside; None where nothing has changed.

    ``known``: the numbers of what was set aside, in order, and whether each is accepted.
    """
    if connection.execute("SELECT seq, accepted FROM set_aside ORDER BY seq").fetchall() == list(known):
        return None
    return load_aside(connection)


def _row_of(connection: SqlConnection, seq: int, receipt: bytes) -> Receipt:
    """Returns what stands in the receipt's place.

    Of one in an archive file that is what was made of it for the table.
    """
    rows = connection.execute(f"SELECT {ENTRY_SELECT} FROM receipts WHERE seq = ?", [seq]).fetchall()  # noqa: S608
    if not rows and seq <= archived_last_seq(connection):
        return storable(_receipt(receipt))
    if not rows:
        raise StoreDamaged(f"Receipt {seq} was set aside, but its row is missing.", hint="Put back a copy.")
    return entry_from_row(rows[0]).receipt


def mend_aside(connection: SqlConnection, *, accept: bool) -> None:
    """Store what the database takes by now; with ``accept`` mark the rest as seen. The caller's transaction."""
    waiting = [aside.entry for aside in load_aside(connection).values()]
    archived = archived_last_seq(connection)  # what is in a file stays as it is there
    reasons = unstorable(connection, waiting)
    columns = ", ".join(f'"{column}" = ?' for column in ENTRY_COLUMNS)
    for entry in waiting:
        if entry.seq in reasons or entry.seq <= archived:
            continue
        connection.execute(f"UPDATE receipts SET {columns} WHERE seq = ?", [*entry_to_row(entry), entry.seq])  # noqa: S608
        connection.execute("DELETE FROM set_aside WHERE seq = ?", [entry.seq])
    if accept:
        connection.execute("UPDATE set_aside SET accepted = true")
