"""The ``Store`` on a DuckDB file: the verbs, and the SQL that answers them.

Owns every query. Each verb is a function over the connection that the engine runs on its writer thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import msgspec
from msgspec.structs import replace

from trustgate.errors import StoreDamaged, TrustGateError, Unavailable
from trustgate.ids import now_us
from trustgate.store.aside import load_aside, mend_aside, put_aside, storable, unstorable
from trustgate.store.base import (
    Balance,
    Compacted,
    Copied,
    ExportFilter,
    Kept,
    Lines,
    PaymentFilter,
    ReceiptFilter,
    SetAside,
    State,
    StoredTile,
    StoreInfo,
    TenantHead,
    UsageFilter,
    UsageRow,
    WindowUsage,
)
from trustgate.store.changes import Change
from trustgate.store.completeness import Completed, Completion, progress
from trustgate.store.copying import compact_database, copy_database
from trustgate.store.engine import Engine, in_transaction
from trustgate.store.exports import first_and_last_us, receipt_lines, usage_lines
from trustgate.store.migrations import schema_version
from trustgate.store.rows import (
    ALIASES,
    ANCHORS,
    BILLED,
    ENTRY_COLUMNS,
    ENTRY_SELECT,
    IS_COUNTED,
    KEYS,
    LOG_NAMES,
    PASSPORTS,
    PAYMENT_TERMS,
    PAYMENTS,
    PLANS,
    PRICE_CHANGES,
    PRICE_LISTS,
    TENANTS,
    RecordTable,
    S,
    entry_from_row,
    entry_to_row,
    sum_sql,
    table_of,
)
from trustgate.types import Alias, Anchor, Entry, LogName, Payment, PaymentState, Plan, PriceChange

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The appender holds the GIL for about 5 µs a row; between slices the event loop gets its turn.
SLICE_ROWS = 50
#: Records kept by one statement: 50 take a tenth of the time that they take one by one, more gain little.
_PUT_ROWS = 50

_TILE_COLUMNS = ("level", "position", "hashes")

_US_PER_DAY = 86_400_000_000
#: A request arrives, and its receipt is dated, before its payment is claimed: at most so long before.
_CLAIM_SLACK_US = _US_PER_DAY
_LAST_US = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RECEIPT_ID = re.compile(r"rcpt_([0-9a-f]{12})[0-9a-f]{20}")
_GROUPS = {"day": f"created_us // {_US_PER_DAY}", "model": "model", "key": '"key"', "tenant": "tenant"}


class DuckDBStore:
    """See ``store.base.Store``. Made by ``open``; must be closed."""

    def __init__(
        self,
        engine: Engine,
        completed: Completed,
        store_id: str,
        schema_version: int,
        last_seq: int,
        aside: dict[int, SetAside],
    ) -> None:
        self._engine = engine
        self._changes = completed.journal
        self._mark = completed.mark
        self._notes = completed.notes
        self._payments = completed.payments
        #: The last change is in the journal, and whether it is in the database is to be looked up.
        self._change_in_doubt = False
        engine.count_together = self._count_payments
        self._store_id = store_id
        self._schema_version = schema_version
        self._last_seq = last_seq
        #: What table ``receipts`` does not have as it is, by its number; replaced as a whole.
        self._aside = aside
        #: The instance died in a commit of entries: whether they are in the database is to be looked up.
        self._in_doubt = False

    @classmethod
    async def open(cls, path: Path, *, accept_loss: bool = False) -> DuckDBStore:
        """Open the database at ``path``; create it if there is none, migrate it if it is old.

        Raises HomeUnusable, StoreLocked, StoreTooNew, StoreDamaged, StoreIncomplete (unless ``accept_loss``), or
        Unavailable (``storage_full``).
        """
        engine = await asyncio.to_thread(Engine.open, path)
        try:
            identity = await engine.run(_load_identity)
            completed = await engine.run(_complete, path, identity[0], accept_loss)
            engine.forget_log()
            for note in completed.notes:
                logger.warning("%s", note)
            return cls(engine, completed, *identity, await engine.run(load_aside))
        except BaseException:
            await engine.close()
            raise

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def info(self) -> StoreInfo:
        return StoreInfo(
            schema_version=self._schema_version,
            size_bytes=self._engine.size_bytes,
            path=str(self._engine.path),
            notes=self._notes,
        )

    async def load_state(self) -> State:
        return await self._engine.run(_load_state)

    async def put(self, *records: Kept) -> None:
        if records:
            await self._engine.run(self._change, records, ())

    async def remove(self, *records: Plan | Alias) -> None:
        if records:
            await self._engine.run(self._change, (), records)

    async def last_seq(self) -> int:
        if self._in_doubt:
            await self._engine.run(self._resolve_doubt)
        return self._last_seq

    async def append_entries(self, entries: Sequence[Entry], tiles: Sequence[StoredTile] = ()) -> None:
        if not entries and not tiles:
            return
        try:
            await self._engine.run(self._append, entries, tiles)
        except Unavailable:
            if not self._in_doubt:
                raise
            await self._engine.run(self._append, entries, tiles)

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        return tuple(self._aside.values())

    async def mend_set_aside(self, *, accept: bool) -> tuple[SetAside, ...]:
        if self._aside:
            await self._engine.run(in_transaction, lambda connection: mend_aside(connection, accept=accept))
            self._aside = await self._engine.run(load_aside)
        return self.set_aside

    async def load_heads(self) -> list[TenantHead]:
        entries = self._as_journaled(await self._engine.run(_load_heads))
        return [TenantHead(entry.receipt.tenant, entry) for entry in entries]

    async def window_usage(self, since_us: int, until_us: int | None = None) -> list[WindowUsage]:
        return await self._engine.run(_window_usage, since_us, until_us)

    async def usage(self, query: UsageFilter) -> list[UsageRow]:
        return await self._engine.run(_usage, query)

    async def entries(self, query: ReceiptFilter) -> list[Entry]:
        return self._as_journaled(await self._engine.run(_entries, query))

    async def entry(self, receipt_id: str) -> Entry | None:
        return self._one_as_journaled(await self._engine.run(_entry, receipt_id))

    async def tile_count(self, level: int) -> int:
        return await self._engine.run(_tile_count, level)

    async def tiles(self, level: int, positions: Sequence[int]) -> dict[int, bytes]:
        return await self._engine.run(_tiles, level, positions)

    async def log_names(self) -> list[LogName]:
        names = await self._engine.run(_load, LOG_NAMES)
        return sorted(names, key=lambda name: name.created_us)

    async def price_changes(self, price_hash: str | None = None, passport_id: str | None = None) -> list[PriceChange]:
        return await self._engine.run(_price_changes, price_hash, passport_id)

    async def anchors(self) -> list[Anchor]:
        return list(await self._engine.run(_load, ANCHORS))

    async def export_receipts(self, query: ExportFilter, after_seq: int, up_to_seq: int) -> Lines:
        return await self._engine.run(receipt_lines, query, after_seq, up_to_seq)

    async def export_usage(self, query: ExportFilter) -> Lines:
        return await self._engine.run(usage_lines, query)

    async def first_and_last_us(self, query: ExportFilter) -> tuple[int, int] | None:
        return await self._engine.run(first_and_last_us, query)

    async def copy_to(self, path: Path) -> Copied:
        return await self._engine.run(copy_database, self._engine.path, path)

    async def compact(self) -> Compacted:
        return await self._engine.run_closed(compact_database)

    async def claim_payment(self, payment: Payment) -> Payment:
        return await self._engine.run_together(lambda connection: _claim_payment(connection, payment))

    async def move_payment(self, payment: Payment, *, before: PaymentState) -> bool:
        return await self._engine.run_together(lambda connection: _move_payment(connection, payment, before))

    async def release_payment(self, payment: Payment) -> None:
        await self._engine.run_together(lambda connection: _release_payment(connection, payment))

    async def payment(self, payment_id: str) -> Payment | None:
        return await self._engine.run(_payment, payment_id)

    async def payments(self, query: PaymentFilter) -> list[Payment]:
        return await self._engine.run(_payments, query)

    async def payment_receipt(self, payment: Payment) -> Entry | None:
        return self._one_as_journaled(await self._engine.run(_payment_receipt, payment))

    async def balances(self) -> list[Balance]:
        return await self._engine.run(_balances)

    async def close(self) -> None:
        await self._engine.close()
        self._changes.close()
        self._mark.close()

    def _as_journaled(self, entries: list[Entry]) -> list[Entry]:
        aside = self._aside
        return [aside[entry.seq].entry if entry.seq in aside else entry for entry in entries] if aside else entries

    def _one_as_journaled(self, entry: Entry | None) -> Entry | None:
        return None if entry is None else self._as_journaled([entry])[0]

    # On the writer thread: what these change needs no lock.

    def _change(self, connection: DuckDBPyConnection, put: Sequence[Kept], removed: Sequence[Plan | Alias]) -> None:
        """Journal the change, commit it, mark it. Where it is not committed the journal takes it back."""
        if self._change_in_doubt:
            self._settle_change(connection)
        try:
            change = self._changes.append(put, removed)
        except OSError as error:
            raise _not_journaled(error) from error
        try:
            in_transaction(connection, lambda connection: _apply(connection, change, False))
        except BaseException as error:
            self._change_in_doubt = True
            if not isinstance(error, duckdb.FatalException):
                self._settle_change(connection)
            raise
        self._write_mark(change.number, self._payments)

    def _settle_change(self, connection: DuckDBPyConnection) -> None:
        if progress(connection).changes < self._changes.number:
            try:
                self._changes.undo()
            except OSError as error:
                raise _not_journaled(error) from error
        self._change_in_doubt = False

    def _count_payments(self, connection: DuckDBPyConnection) -> Callable[[], None]:
        connection.execute("UPDATE progress SET payments = payments + 1, at_us = ?", [now_us()])
        count = int(_one(connection.execute("SELECT payments FROM progress")))

        def committed() -> None:
            self._payments = count
            self._write_mark(self._changes.number, count)

        return committed

    def _write_mark(self, changes: int, payments: int) -> None:
        try:
            self._mark.write(changes, payments)
        except OSError as error:
            logger.error("the mark beside the database cannot be written: %s", error.strerror)

    def _append(self, connection: DuckDBPyConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]) -> None:
        if self._in_doubt:
            self._resolve_doubt(connection)
            if entries and self._last_seq == entries[-1].seq:
                return
        for expected, entry in enumerate(entries, start=self._last_seq + 1):
            if entry.seq != expected:
                raise TrustGateError(f"Entry {entry.seq} does not continue the log: {expected} is next.")
        try:
            self._commit_entries(connection, entries, tiles)
        except duckdb.FatalException:
            # When the checkpoint that a commit set off runs out of space, the instance dies, the commit being durable.
            self._in_doubt = True
            raise
        if entries:
            self._last_seq = entries[-1].seq

    def _commit_entries(
        self, connection: DuckDBPyConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]
    ) -> None:
        """Commit them all. Where one does not fit, what fits of it, and the whole of it aside."""
        try:
            in_transaction(connection, lambda connection: _append_rows(connection, entries, tiles))
            return
        except (duckdb.FatalException, duckdb.IOException):
            raise
        except (duckdb.Error, TrustGateError, ValueError, TypeError, OverflowError):
            reasons = unstorable(connection, entries)
            if not reasons:
                raise
        rows = [replace(entry, receipt=storable(entry.receipt)) if entry.seq in reasons else entry for entry in entries]

        def commit(connection: DuckDBPyConnection) -> None:
            put_aside(connection, entries, reasons, now_us())
            _append_rows(connection, rows, tiles)

        in_transaction(connection, commit)
        self._aside = load_aside(connection)
        for seq, reason in reasons.items():
            logger.error("receipt %d is set aside, the database cannot hold it as it is: %s", seq, reason)

    def _resolve_doubt(self, connection: DuckDBPyConnection) -> None:
        self._last_seq = _load_identity(connection)[2]
        self._in_doubt = False


def _complete(connection: DuckDBPyConnection, path: Path, store_id: str, accept_loss: bool) -> Completed:
    return Completion(
        connection,
        path,
        store_id,
        apply=_apply,
        everything=_everything,
        in_transaction=in_transaction,
        accept_loss=accept_loss,
    ).run()


def _everything(connection: DuckDBPyConnection) -> tuple[Kept, ...]:
    """What a journal of changes begins with: all but the anchors that are on their chain."""
    state = _load_state(connection)
    kept: list[Kept] = [*state.tenants, *state.keys, *state.plans, *state.passports, *state.aliases]
    kept += [*state.payment_terms, *_load(connection, LOG_NAMES)]
    kept += [anchor for anchor in _load(connection, ANCHORS) if anchor.state == "planned"]
    return tuple(kept)


def _apply(connection: DuckDBPyConnection, change: Change, is_everything: bool) -> None:
    """Write a change. ``is_everything``: plans and aliases that it does not name had been removed."""
    if is_everything:
        for table in (PLANS, ALIASES):
            connection.execute(f"DELETE FROM {table.table}")  # noqa: S608 - constants
    _put(connection, change.put)
    _remove(connection, change.removed)
    connection.execute("UPDATE progress SET changes = ?, at_us = ?", [change.number, change.at_us])


def _not_journaled(error: OSError) -> Unavailable:
    code = "storage_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "journal_failed"
    return Unavailable(
        f"The change cannot be written to the operators' journal: {error.strerror or error}.",
        code=code,
        hint="Make room on the disk of the home folder, and check who owns its files. Nothing has been changed.",
    )


def _load_identity(connection: DuckDBPyConnection) -> tuple[str, int, int]:
    """The store's id, its schema, and the highest seq."""
    store_id = _one(connection.execute("SELECT store_id FROM meta"))
    last_seq, count = connection.execute("SELECT coalesce(max(seq), 0), count(*) FROM receipts").fetchall()[0]
    if last_seq != count:
        raise StoreDamaged(
            f"The database holds {count} receipts, but the last one is number {last_seq}.",
            hint="Put back a copy of the database, or, to start anew, move it away.",
        )
    return str(store_id), schema_version(connection), int(last_seq)


def _one(result: DuckDBPyConnection) -> Any:
    row = result.fetchone()
    if row is None:
        raise StoreDamaged("The database has lost a row that is always there.", hint="Put back a copy of the database.")
    return row[0]


def _load(connection: DuckDBPyConnection, table: RecordTable[S]) -> tuple[S, ...]:
    rows = connection.execute(table.select_sql).fetchall()
    try:
        return tuple(table.from_row(row) for row in rows)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise StoreDamaged(
            f"A row of table {table.table} cannot be read: {error}.", hint="Put back a copy of the database."
        ) from error


def _load_state(connection: DuckDBPyConnection) -> State:
    return State(
        tenants=_load(connection, TENANTS),
        keys=_load(connection, KEYS),
        plans=_load(connection, PLANS),
        passports=_load(connection, PASSPORTS),
        aliases=_load(connection, ALIASES),
        payment_terms=_load(connection, PAYMENT_TERMS),
        price_lists=tuple(sorted(_load(connection, PRICE_LISTS), key=lambda kept: kept.installed_us)),
    )


def _price_changes(
    connection: DuckDBPyConnection, price_hash: str | None, passport_id: str | None
) -> list[PriceChange]:
    where, values = _where(("price_hash = ?", price_hash), ("passport_id = ?", passport_id))
    rows = connection.execute(
        f"SELECT {PRICE_CHANGES.columns} FROM price_changes {where} ORDER BY from_us, id",  # noqa: S608 - bound
        values,
    ).fetchall()
    return [PRICE_CHANGES.from_row(row) for row in rows]


def _put(connection: DuckDBPyConnection, records: Sequence[Kept]) -> None:
    for table, group in groupby(records, key=table_of):
        kept = list(group)
        for start in range(0, len(kept), _PUT_ROWS):
            # Of two with one identity the later counts, and a statement takes one alone.
            rows = {getattr(record, table.identity): table.to_row(record) for record in kept[start : start + _PUT_ROWS]}
            connection.execute(table.upsert_many_sql(len(rows)), [value for row in rows.values() for value in row])


def _remove(connection: DuckDBPyConnection, records: Sequence[Plan | Alias]) -> None:
    for record in records:
        connection.execute(table_of(record).delete_sql, [record.name])


def _append_rows(connection: DuckDBPyConnection, entries: Sequence[Entry], tiles: Sequence[StoredTile]) -> None:
    if entries:
        _append_slices(connection, "receipts", ENTRY_COLUMNS, entries, entry_to_row)
    if tiles:
        _append_slices(connection, "tiles", _TILE_COLUMNS, tiles, list)


def _append_slices(
    connection: DuckDBPyConnection,
    table: str,
    columns: Sequence[str],
    records: Sequence[T],
    to_row: Callable[[T], list[Any]],
) -> None:
    appender = connection.appender(table, columns=list(columns))
    try:
        for start in range(0, len(records), SLICE_ROWS):
            appender.append_rows([to_row(record) for record in records[start : start + SLICE_ROWS]])
            time.sleep(0)
        appender.flush()
    except BaseException:
        appender.clear()  # what it still buffers would otherwise be committed on its own, after the rollback
        raise


def _tile_count(connection: DuckDBPyConnection, level: int) -> int:
    count, last = connection.execute(
        "SELECT count(*), coalesce(max(position), -1) FROM tiles WHERE level = ?", [level]
    ).fetchall()[0]
    if last + 1 != count:
        raise StoreDamaged(
            f"The database holds {count} tiles of level {level}, but the last one is number {last}.",
            hint="Put back a copy of the database.",
        )
    return int(count)


def _tiles(connection: DuckDBPyConnection, level: int, positions: Sequence[int]) -> dict[int, bytes]:
    if not positions:
        return {}
    marks = ", ".join("?" * len(positions))
    rows = connection.execute(
        f"SELECT position, hashes FROM tiles WHERE level = ? AND position IN ({marks})",  # noqa: S608 - bound
        [level, *positions],
    ).fetchall()
    return dict(rows)


def _load_heads(connection: DuckDBPyConnection) -> list[Entry]:
    rows = connection.execute(
        f"SELECT {ENTRY_SELECT} FROM receipts WHERE seq IN (SELECT max(seq) FROM receipts GROUP BY tenant)"  # noqa: S608
    ).fetchall()
    return [entry_from_row(row) for row in rows]


def _window_usage(connection: DuckDBPyConnection, since_us: int, until_us: int | None) -> list[WindowUsage]:
    rows = connection.execute(
        f"""SELECT tenant, "key", count(*), {sum_sql("prompt_tokens::HUGEINT + completion_tokens")},
                {sum_sql(BILLED)}
            FROM receipts WHERE created_us >= ? AND created_us < ? AND {IS_COUNTED}
            GROUP BY tenant, "key" ORDER BY tenant, "key" """,  # noqa: S608 - constants
        [since_us, _LAST_US if until_us is None else until_us],
    ).fetchall()
    return [
        WindowUsage(tenant_id=tenant, key_id=key, requests=requests, tokens=int(tokens), cost_nano_usd=int(cost))
        for tenant, key, requests, tokens, cost in rows
    ]


def _usage(connection: DuckDBPyConnection, query: UsageFilter) -> list[UsageRow]:
    where, values = _where(
        ("finish <> ?", "credited"),  # which is no request, and has no model
        ("tenant = ?", query.tenant_id),
        ("created_us >= ?", query.since_us),
        ("created_us < ?", query.until_us),
        ("seq <= ?", query.until_seq),
    )
    sums = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd")
    rows = connection.execute(
        f"""SELECT {_GROUPS[query.by]} AS "group",
                count(*) FILTER (WHERE {IS_COUNTED}),
                count(*) FILTER (WHERE finish = 'refused'),
                count(*) FILTER (WHERE finish = 'upstream_error'),
                {", ".join(sum_sql(name, IS_COUNTED) for name in sums)},
                count(*) FILTER (WHERE {IS_COUNTED} AND usage_source = 'estimate'),
                {sum_sql(BILLED, IS_COUNTED)},
                count(*) FILTER (WHERE {IS_COUNTED} AND price_known = false)
            FROM receipts {where} GROUP BY "group" ORDER BY "group" """,  # noqa: S608 - constants; values are bound
        values,
    ).fetchall()
    members = ("requests", "refused", "failed", *sums, "estimated", "billed_nano_usd", "unpriced")
    return [
        UsageRow(
            group=_day(row[0]) if query.by == "day" else row[0],
            **{member: int(value) for member, value in zip(members, row[1:], strict=True)},
        )
        for row in rows
    ]


def _day(days: int) -> str:
    """The date, ISO 8601, so many days after the epoch."""
    return (_EPOCH + timedelta(days=days)).date().isoformat()


def _entries(connection: DuckDBPyConnection, query: ReceiptFilter) -> list[Entry]:
    where, values = _where(
        ("tenant = ?", query.tenant_id),
        ('"key" = ?', query.key_id),
        ("created_us >= ?", query.since_us),
        ("seq < ?", query.before_seq),
        ("seq > ?", query.after_seq),
        ("seq <= ?", query.until_seq),
    )
    order = "ASC" if query.oldest_first else "DESC"
    rows = connection.execute(
        f"SELECT {ENTRY_SELECT} FROM receipts {where} ORDER BY seq {order} LIMIT ?",  # noqa: S608 - values are bound
        [*values, max(query.limit, 0)],
    ).fetchall()
    return [entry_from_row(row) for row in rows]


def _entry(connection: DuckDBPyConnection, receipt_id: str) -> Entry | None:
    """Found by the millisecond that the id begins with (ids.new_id): receipts are nearly in the order of time."""
    parts = _RECEIPT_ID.fullmatch(receipt_id)
    if parts is None:
        return None
    since_us = int(parts.group(1), 16) * 1000
    rows = connection.execute(
        f"SELECT {ENTRY_SELECT} FROM receipts WHERE created_us BETWEEN ? AND ? AND id = ?",  # noqa: S608 - bound
        [since_us, since_us + 999, receipt_id],
    ).fetchall()
    return entry_from_row(rows[0]) if rows else None


def _claim_payment(connection: DuckDBPyConnection, payment: Payment) -> Payment:
    same, values = '"key" = ?', [payment.key]
    if payment.identifier:
        same += " OR (state <> 'failed' AND tenant_id = ? AND identifier = ?)"
        values += [payment.tenant_id, payment.identifier]
    # Nearly every payment is new, and one column is read in half the time of all.
    found = connection.execute(f'SELECT "key" FROM payments WHERE {same}', values).fetchall()  # noqa: S608 - bound
    if found:
        keys = [key for (key,) in found]
        rows = connection.execute(
            f'SELECT {PAYMENTS.columns} FROM payments WHERE "key" = ?',  # noqa: S608 - bound
            [payment.key if payment.key in keys else keys[0]],
        ).fetchall()
        return PAYMENTS.from_row(rows[0])
    connection.execute(PAYMENTS.insert_sql, PAYMENTS.to_row(payment))
    return payment


def _move_payment(connection: DuckDBPyConnection, payment: Payment, before: PaymentState) -> bool:
    """Only what changes after a claim is written."""
    moved = connection.execute(
        """UPDATE payments SET state = ?, "transaction" = ?, payer = ?, reason = ?, updated_us = ?
           WHERE "key" = ? AND id = ? AND state = ?""",
        [
            *(payment.state, payment.transaction, payment.payer, payment.reason, payment.updated_us),
            *(payment.key, payment.id, before),
        ],
    )
    return _changed(moved) == 1


def _changed(result: DuckDBPyConnection) -> int:
    """How many rows a statement has changed. (``RETURNING`` would tell as well, for as much time again.)"""
    return int(_one(result))


def _release_payment(connection: DuckDBPyConnection, payment: Payment) -> None:
    connection.execute(
        "DELETE FROM payments WHERE \"key\" = ? AND id = ? AND state = 'reserved'", [payment.key, payment.id]
    )


def _payment(connection: DuckDBPyConnection, payment_id: str) -> Payment | None:
    rows = connection.execute(
        f"SELECT {PAYMENTS.columns} FROM payments WHERE id = ?",  # noqa: S608 - bound
        [payment_id],
    ).fetchall()
    return PAYMENTS.from_row(rows[0]) if rows else None


def _payments(connection: DuckDBPyConnection, query: PaymentFilter) -> list[Payment]:
    where, values = _where(
        ("tenant_id = ?", query.tenant_id),
        ("list_contains(?::VARCHAR[], state)", list(query.states) or None),
        ("id < ?", query.before_id),
        ("id > ?", query.after_id),
    )
    order = "ASC" if query.oldest_first else "DESC"
    rows = connection.execute(
        f"SELECT {PAYMENTS.columns} FROM payments {where} ORDER BY id {order} LIMIT ?",  # noqa: S608 - bound
        [*values, query.limit],
    ).fetchall()
    return [PAYMENTS.from_row(row) for row in rows]


def _payment_receipt(connection: DuckDBPyConnection, payment: Payment) -> Entry | None:
    """No receipt of a payment is older than its claim."""
    rows = connection.execute(
        f"SELECT {ENTRY_SELECT} FROM receipts WHERE created_us >= ? AND payment = ?",  # noqa: S608 - bound
        [payment.created_us - _CLAIM_SLACK_US, payment.id],
    ).fetchall()
    return entry_from_row(rows[0]) if rows else None


def _balances(connection: DuckDBPyConnection) -> list[Balance]:
    rows = connection.execute(
        f"""SELECT tenant, {sum_sql("credited_nano_usd")}, {sum_sql("charged_nano_usd")} FROM receipts
            WHERE charged_nano_usd IS NOT NULL GROUP BY tenant ORDER BY tenant"""  # noqa: S608 - constants
    ).fetchall()
    return [
        Balance(tenant_id=tenant, credited_nano_usd=int(credited), charged_nano_usd=int(charged))
        for tenant, credited, charged in rows
    ]


def _where(*conditions: tuple[str, Any]) -> tuple[str, list[Any]]:
    """A WHERE clause of the conditions whose value is given, and those values."""
    given = [(sql, value) for sql, value in conditions if value is not None]
    return ("WHERE " + " AND ".join(sql for sql, _ in given) if given else ""), [value for _, value in given]
