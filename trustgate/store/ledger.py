"""The ledger of payments, as rows of ``payments``.

Owns the SQL that claims, moves and finds them. Each function runs on the writer thread; those that write, within the
caller's transaction.
"""

from __future__ import annotations

from trustgate.store.queries import PaymentFilter
from trustgate.store.rows import ENTRY_SELECT, PAYMENTS, entry_from_row
from trustgate.store.sql import Rows, SqlConnection, dialect_of, one_value, where_clause
from trustgate.types import SPENT_ON, Entry, Payment, PaymentState

#: A request arrives, and its receipt is dated, before its payment is claimed: at most so long before, microseconds.
CLAIM_SLACK_US = 86_400_000_000


def claim_payment(connection: SqlConnection, payment: Payment) -> Payment:
    same, values = '"key" = ?', [payment.key]
    if payment.identifier:
        same += " OR (state <> 'failed' AND tenant_id = ? AND identifier = ?)"
        values += [payment.tenant_id, payment.identifier]
    dialect_of(connection).take_turns(connection, [payment.key, f"{payment.tenant_id} {payment.identifier}"])
    # Nearly every payment is new, and one column is read in half the time of all.
    found = connection.execute(f'SELECT "key" FROM payments WHERE {same}', values).fetchall()  # noqa: S608 - bound
    if found:
        keys = [key for (key,) in found]
        rows = connection.execute(
            f'SELECT {PAYMENTS.columns} FROM payments WHERE "key" = ?',  # noqa: S608 - bound
            [payment.key if payment.key in keys else keys[0]],
        ).fetchall()
        return PAYMENTS.read(rows[0])
    connection.execute(PAYMENTS.insert_sql, PAYMENTS.to_row(payment))
    return payment


def move_payment(connection: SqlConnection, payment: Payment, before: PaymentState) -> bool:
    """Only what changes after a claim is written."""
    # What two requests spend at once, one of them gets.
    moved = connection.execute(
        """UPDATE payments SET state = ?, "transaction" = ?, payer = ?, reason = ?, updated_us = ?
           WHERE "key" = ? AND id = ? AND state = ? AND NOT starts_with(reason, ?)""",
        [
            *(payment.state, payment.transaction, payment.payer, payment.reason, payment.updated_us),
            # No reason begins with the id.
            *(payment.key, payment.id, before, SPENT_ON if payment.spent_on else payment.id),
        ],
    )
    return _changed(moved) == 1


def _changed(result: Rows) -> int:
    """Returns how many rows a statement has changed. (``RETURNING`` would tell as well, for as much time again.)"""
    return int(one_value(result))


def release_payment(connection: SqlConnection, payment: Payment) -> None:
    connection.execute(
        "DELETE FROM payments WHERE \"key\" = ? AND id = ? AND state = 'reserved'", [payment.key, payment.id]
    )


def load_payment(connection: SqlConnection, payment_id: str) -> Payment | None:
    rows = connection.execute(
        f"SELECT {PAYMENTS.columns} FROM payments WHERE id = ?",  # noqa: S608 - bound
        [payment_id],
    ).fetchall()
    return PAYMENTS.read(rows[0]) if rows else None


def load_payments(connection: SqlConnection, query: PaymentFilter) -> list[Payment]:
    where, values = where_clause(
        ("tenant_id = ?", query.tenant_id),
        ("state = ANY(?::VARCHAR[])", list(query.states) or None),
        ("id < ?", query.before_id),
        ("id > ?", query.after_id),
    )
    order = "ASC" if query.oldest_first else "DESC"
    rows = connection.execute(
        f"SELECT {PAYMENTS.columns} FROM payments {where} ORDER BY id {order} LIMIT ?",  # noqa: S608 - bound
        [*values, query.limit],
    ).fetchall()
    return PAYMENTS.readable(rows)


def load_payment_receipt(connection: SqlConnection, source: str, payment: Payment) -> Entry | None:
    """No receipt of a payment is older than its claim."""
    rows = connection.execute(
        f"SELECT {ENTRY_SELECT} FROM {source} WHERE created_us >= ? AND payment = ?",  # noqa: S608 - bound
        [payment.created_us - CLAIM_SLACK_US, payment.id],
    ).fetchall()
    return entry_from_row(rows[0]) if rows else None
