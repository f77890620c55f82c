"""The records of operators, and those that the log keeps of itself: tenants, keys, plans, passports, anchors, prices.

Owns the SQL that reads and replaces them. Each function runs on the writer thread; those that write, within the
caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from trustgate.errors import StoreDamaged
from trustgate.store.changes import Change
from trustgate.store.queries import DamagedRow, Kept, State
from trustgate.store.rows import (
    ALIASES,
    ANCHORS,
    BUDGETS,
    CREDIT_NOTES,
    END_USERS,
    KEYS,
    LOG_NAMES,
    PASSPORTS,
    PAYMENT_TERMS,
    PLANS,
    PRICE_CHANGES,
    PRICE_LISTS,
    PROFILES,
    PSEUDONYM_KEYS,
    RECORD_TABLES,
    SUBSCRIBERS,
    TENANTS,
    RecordTable,
    S,
    table_of,
)
from trustgate.store.sql import SqlConnection, where_clause
from trustgate.types import Alias, CreditNote, Plan, PriceChange

#: Rows looked at together.
_READ_ROWS = 2_000


def load_table(connection: SqlConnection, table: RecordTable[S]) -> tuple[S, ...]:
    """Raises StoreDamaged, naming the row, where one cannot be read."""
    return tuple(table.read(row) for row in connection.execute(table.select_sql).fetchall())


def load_readable(connection: SqlConnection, table: RecordTable[S]) -> list[S]:
    """Returns the records that decide nothing: rows that cannot be read are left out, and named in the log."""
    return table.readable(connection.execute(table.select_sql).fetchall())


def damaged_rows(connection: SqlConnection) -> list[DamagedRow]:
    """Returns all rows of records that cannot be read."""
    found: list[DamagedRow] = []
    for table in RECORD_TABLES:
        result = connection.execute(table.select_sql)
        while rows := result.fetchmany(_READ_ROWS):
            for row in rows:
                try:
                    table.read(row)
                except StoreDamaged as error:
                    found.append(DamagedRow(table=table.table, row=table.name_of(row), problem=error.message))
    return found


def load_state(connection: SqlConnection) -> State:
    return State(
        tenants=load_table(connection, TENANTS),
        keys=load_table(connection, KEYS),
        plans=load_table(connection, PLANS),
        passports=load_table(connection, PASSPORTS),
        aliases=load_table(connection, ALIASES),
        payment_terms=load_table(connection, PAYMENT_TERMS),
        budgets=load_table(connection, BUDGETS),
        end_users=load_table(connection, END_USERS),
        pseudonym_key=next(iter(load_table(connection, PSEUDONYM_KEYS)), None),
        price_lists=tuple(sorted(load_table(connection, PRICE_LISTS), key=lambda kept: kept.installed_us)),
        subscribers=load_table(connection, SUBSCRIBERS),
        profiles=load_table(connection, PROFILES),
    )


def load_credit_notes(connection: SqlConnection, tenant_id: str) -> list[CreditNote]:
    rows = connection.execute(
        f"SELECT {CREDIT_NOTES.columns} FROM credit_notes WHERE tenant_id = ? ORDER BY id",  # noqa: S608 - constants
        [tenant_id],
    ).fetchall()
    return [CREDIT_NOTES.read(row) for row in rows]


def load_price_changes(connection: SqlConnection, price_hash: str | None, passport_id: str | None) -> list[PriceChange]:
    where, values = where_clause(("price_hash = ?", price_hash), ("passport_id = ?", passport_id))
    rows = connection.execute(
        f"SELECT {PRICE_CHANGES.columns} FROM price_changes {where} ORDER BY from_us, id",  # noqa: S608 - bound
        values,
    ).fetchall()
    return [PRICE_CHANGES.read(row) for row in rows]


def put_records(connection: SqlConnection, records: Sequence[Kept]) -> None:
    for table, group in groupby(records, key=table_of):
        table.put(connection, list(group))


def remove_records(connection: SqlConnection, records: Sequence[Plan | Alias]) -> None:
    for record in records:
        table_of(record).delete(connection, [record.name])


def apply_change(connection: SqlConnection, change: Change, is_everything: bool) -> None:
    """Write a change. ``is_everything``: plans and aliases that it does not name had been removed."""
    if is_everything:
        for table in (PLANS, ALIASES):
            connection.execute(f"DELETE FROM {table.table}")  # noqa: S608 - constants
    put_records(connection, change.put)
    remove_records(connection, change.removed)
    connection.execute("UPDATE progress SET changes = ?, at_us = ?", [change.number, change.at_us])


def load_everything(connection: SqlConnection) -> tuple[Kept, ...]:
    """Returns what a journal of changes begins with: all but the anchors that are on their chain."""
    state = load_state(connection)
    kept: list[Kept] = [*state.tenants, *state.keys, *state.plans, *state.passports, *state.aliases]
    kept += [*state.payment_terms, *state.budgets, *state.end_users, *state.subscribers, *state.profiles]
    kept += [*load_table(connection, LOG_NAMES)]
    kept += [] if state.pseudonym_key is None else [state.pseudonym_key]
    kept += [note for note in load_table(connection, CREDIT_NOTES)]  # noqa: C416 - of a wider type
    kept += [anchor for anchor in load_readable(connection, ANCHORS) if anchor.state == "planned"]
    return tuple(kept)
