"""Between records and rows. Owns which table a record lives in and how each member is kept in a column.

A column is named as the member it keeps. Members that are structures (limits, prices, …) are kept as JSON text; the
64-digit hashes of a receipt as 32 bytes; everything else as it is. Reading a row gives back an equal record, so a
receipt has the same canonical bytes, and the same leaf hash, after the round trip.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from trustgate.errors import StoreDamaged, TrustGateError
from trustgate.store.queries import SUM_MOST, Kept
from trustgate.store.sql import SqlConnection, dialect_of
from trustgate.types import (
    COUNTED,
    END_USER_VERSIONS,
    PAYMENT_VERSIONS,
    PRICE_VERSIONS,
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    WORK_VERSIONS,
    Alias,
    Anchor,
    ApiKey,
    Budget,
    CreditNote,
    EndUser,
    Entry,
    LogName,
    Passport,
    Payment,
    PaymentTerms,
    Plan,
    PriceChange,
    PriceList,
    Profile,
    PseudonymKey,
    Receipt,
    Subscriber,
    Tenant,
)

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=msgspec.Struct)

#: Members of a receipt that are hexadecimal hashes, kept as bytes: they are most of a receipt's size.
HASHES = frozenset({"tprev", "request_commitment", "response_commitment", "price_hash", "policy_hash"})


#: Records kept by one statement: 50 take a tenth of the time that they take one by one, more gain little.
_ROWS_A_STATEMENT = 50


class RecordTable(Generic[S]):
    """How one kind of record is kept: its table, its identity, and which members are JSON text."""

    def __init__(self, kind: type[S], table: str, identity: str, json: frozenset[str] = frozenset()) -> None:
        self.kind = kind
        self.table = table
        self.identity = identity
        self._json = json
        self._members = kind.__struct_fields__
        self.column_names = tuple(f'"{member}"' for member in self._members)
        columns = ", ".join(self.column_names)
        marks = ", ".join("?" * len(self._members))
        self.columns = columns
        self.insert_sql = f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - constants
        self.select_sql = f"SELECT {columns} FROM {table} ORDER BY {identity}"  # noqa: S608 - constants

    def put(self, connection: SqlConnection, records: Sequence[S]) -> None:
        """Keep the records in the place of older ones; of two with one identity the later. The caller's transaction."""
        dialect = dialect_of(connection)
        for start in range(0, len(records), _ROWS_A_STATEMENT):
            # A statement takes one of an identity alone.
            rows = {getattr(each, self.identity): each for each in records[start : start + _ROWS_A_STATEMENT]}
            sql = dialect.upsert(self.table, self.column_names, self.identity, len(rows))
            connection.execute(sql, [value for record in rows.values() for value in self.to_row(record)])

    def delete(self, connection: SqlConnection, identities: Sequence[str]) -> None:
        """Delete the records of these identities, where there are such. The caller's transaction."""
        for start in range(0, len(identities), _ROWS_A_STATEMENT):
            some = list(identities[start : start + _ROWS_A_STATEMENT])
            marks = ", ".join("?" * len(some))
            connection.execute(f"DELETE FROM {self.table} WHERE {self.identity} IN ({marks})", some)  # noqa: S608

    def to_row(self, record: S) -> list[Any]:
        return [
            msgspec.json.encode(getattr(record, member)).decode() if member in self._json else getattr(record, member)
            for member in self._members
        ]

    def from_row(self, row: Sequence[Any]) -> S:
        """Returns the record of a row. Raises msgspec.ValidationError for a row that no TrustGate wrote."""
        values = {
            member: msgspec.json.decode(value) if member in self._json else value
            for member, value in zip(self._members, row, strict=True)
        }
        return msgspec.convert(values, self.kind)

    def read(self, row: Sequence[Any]) -> S:
        """Returns the record of a row. Raises StoreDamaged, naming it, for a row that no TrustGate wrote."""
        try:
            return self.from_row(row)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise StoreDamaged(
                f"Row {self.name_of(row)} of table {self.table} cannot be read: {error}.",
                hint="Put back a copy of the database, or a backup: trustgate restore FILE",
            ) from error

    def name_of(self, row: Sequence[Any]) -> str:
        """Returns which row it is, for people."""
        identity = "id" if "id" in self._members else self.identity
        return str(row[self._members.index(identity)])

    def readable(self, rows: Sequence[Sequence[Any]]) -> list[S]:
        """Returns the records of those rows that can be read. The others are named in the log, and by an audit."""
        records: list[S] = []
        for row in rows:
            try:
                records.append(self.read(row))
            except StoreDamaged as error:
                logger.error("%s It is left out.", error.message)
        return records


TENANTS = RecordTable(Tenant, "tenants", "id")
KEYS = RecordTable(ApiKey, "keys", "id", frozenset({"limits", "scope"}))
PLANS = RecordTable(Plan, "plans", "name", frozenset({"limits", "scope"}))
PASSPORTS = RecordTable(
    Passport, "passports", "id", frozenset({"capabilities", "prices", "default_parameters", "fallbacks", "pool"})
)
ALIASES = RecordTable(Alias, "aliases", "name")
ANCHORS = RecordTable(Anchor, "anchors", "id", frozenset({"attempts"}))
LOG_NAMES = RecordTable(LogName, "log_names", "vkey")
PRICE_LISTS = RecordTable(PriceList, "price_lists", "id")
PRICE_CHANGES = RecordTable(PriceChange, "price_changes", "id", frozenset({"prices"}))
CREDIT_NOTES = RecordTable(CreditNote, "credit_notes", "id", frozenset({"corrects"}))
PAYMENT_TERMS = RecordTable(PaymentTerms, "payment_terms", "tenant_id", frozenset({"offers"}))
BUDGETS = RecordTable(Budget, "budgets", "id", frozenset({"tenants", "keys", "plans", "models", "notice_at_percent"}))
END_USERS = RecordTable(EndUser, "end_users", "id", frozenset({"amounts"}))
PSEUDONYM_KEYS = RecordTable(PseudonymKey, "pseudonym_keys", "id")
SUBSCRIBERS = RecordTable(Subscriber, "subscribers", "id", frozenset({"kinds", "command"}))
PROFILES = RecordTable(Profile, "profiles", "id", frozenset({"rules"}))
PAYMENTS = RecordTable(Payment, "payments", '"key"', frozenset({"offer"}))

#: What operators keep, and the ledger.
RECORD_TABLES: tuple[RecordTable[Any], ...] = (
    *(TENANTS, KEYS, PLANS, PASSPORTS, ALIASES, ANCHORS, LOG_NAMES, PAYMENT_TERMS, CREDIT_NOTES),
    *(PRICE_LISTS, PRICE_CHANGES, BUDGETS, END_USERS, PSEUDONYM_KEYS, SUBSCRIBERS, PROFILES, PAYMENTS),
)
_TABLES: dict[type[Kept], RecordTable[Any]] = {table.kind: table for table in RECORD_TABLES if table is not PAYMENTS}


def table_of(record: Kept) -> RecordTable[Any]:
    return _TABLES[type(record)]


#: Members that are kept as one JSON list each: of most receipts all are empty. A list ends where its version does.
PAYMENT_DETAIL = RECEIPT_PAYMENT_MEMBERS[3:]
PRICE_DETAIL = (*RECEIPT_PRICE_MEMBERS[2:], *RECEIPT_WORK_MEMBERS)
_PAYMENT_COLUMNS = RECEIPT_PAYMENT_MEMBERS[:3]
_PRICE_COLUMNS = RECEIPT_PRICE_MEMBERS[:2]
_FIRST_PAYMENT = Receipt.__struct_fields__.index(RECEIPT_PAYMENT_MEMBERS[0])
_FIRST_PRICE = Receipt.__struct_fields__.index(RECEIPT_PRICE_MEMBERS[0])
_FIRST_END_USER = Receipt.__struct_fields__.index(RECEIPT_END_USER_MEMBERS[0])
_FIRST_WORK = Receipt.__struct_fields__.index(RECEIPT_WORK_MEMBERS[0])
#: What every version has.
_COMMON = Receipt.__struct_fields__[:_FIRST_PAYMENT]
_HASH_POSITIONS = tuple(i for i, member in enumerate(_COMMON) if member in HASHES)
_NO_PAYMENT = (None,) * (len(_PAYMENT_COLUMNS) + 1)
_NO_PRICE = (None,) * (len(_PRICE_COLUMNS) + 1)
_NO_END_USER = (None,) * len(RECEIPT_END_USER_MEMBERS)

#: The columns of table ``receipts`` in the order of ``entry_to_row``, and as a list for a SELECT.
ENTRY_COLUMNS = (
    *("seq", *_COMMON, *_PAYMENT_COLUMNS, "payment_detail", *_PRICE_COLUMNS, "price_detail"),
    *RECEIPT_END_USER_MEMBERS,
    "secret",
)
ENTRY_SELECT = ", ".join(f'"{column}"' for column in ENTRY_COLUMNS)

#: The condition for receipts that count against quotas.
IS_COUNTED = "finish IN (" + ", ".join(f"'{finish}'" for finish in sorted(COUNTED)) + ")"

#: What a request was billed at; before version 3 that was its cost.
BILLED = "coalesce(billed_nano_usd, cost_nano_usd)"


def sum_sql(column: str, condition: str = "true") -> str:
    """Returns the sum of a column over the rows of the condition, at most ``SUM_MOST``; 0 over none."""
    return f"least(coalesce(sum({column}) FILTER (WHERE {condition}), 0), {SUM_MOST})::BIGINT"


def entry_to_row(entry: Entry) -> list[Any]:
    """Returns the row of an entry.

    Raises TrustGateError for a hash that is not lower-case hexadecimal.
    """
    receipt = entry.receipt
    values = msgspec.structs.astuple(receipt)
    kept = list(values[:_FIRST_PAYMENT])
    for position in _HASH_POSITIONS:
        kept[position] = _bytes_of(kept[position], _COMMON[position])
    kept += (
        _columns(values[_FIRST_PAYMENT:_FIRST_PRICE], len(_PAYMENT_COLUMNS))
        if receipt.v in PAYMENT_VERSIONS
        else _NO_PAYMENT
    )
    work = values[_FIRST_WORK:] if receipt.v in WORK_VERSIONS else ()
    kept += (
        _columns((*values[_FIRST_PRICE:_FIRST_END_USER], *work), len(_PRICE_COLUMNS))
        if receipt.v in PRICE_VERSIONS
        else _NO_PRICE
    )
    kept += values[_FIRST_END_USER:_FIRST_WORK] if receipt.v in END_USER_VERSIONS else _NO_END_USER
    return [entry.seq, *kept, entry.secret]


def entries_to_columns(entries: Sequence[Entry]) -> list[Sequence[Any]]:
    """Returns the values of each column of ``entry_to_row`` for several entries, at less than half of its cost.

    Raises TrustGateError for a hash that is not lower-case hexadecimal.
    """
    version = entries[0].receipt.v
    if any(entry.receipt.v != version for entry in entries):
        return list(zip(*map(entry_to_row, entries), strict=True))
    columns = list(zip(*[msgspec.structs.astuple(entry.receipt) for entry in entries], strict=True))
    kept: list[Sequence[Any]] = list(columns[:_FIRST_PAYMENT])
    for position in _HASH_POSITIONS:
        kept[position] = _bytes_of_all(columns[position], _COMMON[position])
    nothing = (None,) * len(entries)
    payment = columns[_FIRST_PAYMENT:_FIRST_PRICE] if version in PAYMENT_VERSIONS else []
    price = columns[_FIRST_PRICE:_FIRST_END_USER] if version in PRICE_VERSIONS else []
    if version in WORK_VERSIONS:
        price += columns[_FIRST_WORK:]
    for members, plain, absent in (
        (payment, len(_PAYMENT_COLUMNS), len(_NO_PAYMENT)),
        (price, len(_PRICE_COLUMNS), len(_NO_PRICE)),
    ):
        if members:
            details = zip(*members[plain:], strict=True)
            kept += members[:plain]
            kept.append([msgspec.json.encode(values).decode() for values in details])
        else:
            kept += [nothing] * absent
    has_end_users = version in END_USER_VERSIONS
    kept += columns[_FIRST_END_USER:_FIRST_WORK] if has_end_users else [nothing] * len(_NO_END_USER)
    return [[entry.seq for entry in entries], *kept, [entry.secret for entry in entries]]


def _bytes_of_all(digits: Sequence[str], member: str) -> list[bytes]:
    """Returns what ``_bytes_of`` does for each, those of 64 digits in one go."""
    joined = "".join(digits)
    if set(map(len, digits)) == {64}:
        with contextlib.suppress(ValueError):
            values = bytes.fromhex(joined)
            if values.hex() == joined:
                return [values[start : start + 32] for start in range(0, len(values), 32)]
    return [_bytes_of(each, member) for each in digits]


def _columns(values: tuple[Any, ...], columns: int) -> tuple[Any, ...]:
    """So many values as they are, and the rest as one JSON list."""
    return (*values[:columns], msgspec.json.encode(values[columns:]).decode())


def _bytes_of(digits: str, member: str) -> bytes:
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if value.hex() != digits:  # upper case or blanks would come back changed
        raise TrustGateError(f"The receipt's {member} is not lower-case hexadecimal.")
    return value


def entry_from_row(row: Sequence[Any]) -> Entry:
    """Returns the entry of a row. Raises StoreDamaged, naming it, for a row that no TrustGate wrote."""
    try:
        return _entry_from_row(row)
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
        raise StoreDamaged(
            f"Receipt number {row[0]} cannot be read: its row in the database is damaged.",
            hint="Put back a copy of the database, or a backup: trustgate restore FILE",
        ) from error


def _entry_from_row(row: Sequence[Any]) -> Entry:
    values = list(row[1 : 1 + _FIRST_PAYMENT])
    for position in _HASH_POSITIONS:
        values[position] = values[position].hex()
    members = dict(zip(_COMMON, values, strict=True))
    payment = row[1 + _FIRST_PAYMENT : 1 + _FIRST_PAYMENT + len(_NO_PAYMENT)]
    price = row[1 + _FIRST_PAYMENT + len(_NO_PAYMENT) : -1 - len(_NO_END_USER)]
    end_user = row[-1 - len(_NO_END_USER) : -1]
    if payment[-1] is not None:
        members |= zip(RECEIPT_PAYMENT_MEMBERS, (*payment[:-1], *msgspec.json.decode(payment[-1])), strict=True)
    if price[-1] is not None:
        names: tuple[str, ...] = RECEIPT_PRICE_MEMBERS
        if members["v"] in WORK_VERSIONS:
            names = (*names, *RECEIPT_WORK_MEMBERS)
        members |= zip(names, (*price[:-1], *msgspec.json.decode(price[-1])), strict=True)
    if end_user[0] is not None:
        members |= zip(RECEIPT_END_USER_MEMBERS, end_user, strict=True)
    return Entry(seq=row[0], receipt=Receipt(**members), secret=row[-1])
