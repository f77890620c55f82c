"""Notices between runs: the conditions that subscribers were told of, and what is on its way to them.

Owns the two tables, which are small: conditions that are over and deliveries that are of no more use are deleted. They
are no decision of operators, so no journal has them.
"""

from __future__ import annotations

from trustgate.store.queries import NoticeDelivery, NotificationChange, Notifications, OpenCondition
from trustgate.store.rows import RecordTable
from trustgate.store.sql import SqlConnection

_CONDITIONS = RecordTable(OpenCondition, "open_conditions", "identity")
_DELIVERIES = RecordTable(NoticeDelivery, "deliveries", "id")


def load_notifications(connection: SqlConnection) -> Notifications:
    """Returns everything that is kept; ids are in the order of time."""
    return Notifications(
        conditions=tuple(map(_CONDITIONS.from_row, connection.execute(_CONDITIONS.select_sql).fetchall())),
        deliveries=tuple(map(_DELIVERIES.from_row, connection.execute(_DELIVERIES.select_sql).fetchall())),
    )


def apply_notifications(connection: SqlConnection, change: NotificationChange) -> None:
    """Write a change; within a transaction."""
    for identity in change.over:
        connection.execute(_CONDITIONS.delete_sql, [identity])
    for condition in change.conditions:
        _CONDITIONS.put(connection, [condition])
    for delivery_id in change.forgotten:
        connection.execute(_DELIVERIES.delete_sql, [delivery_id])
    for delivery in change.deliveries:
        _DELIVERIES.put(connection, [delivery])
