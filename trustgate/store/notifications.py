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
    _CONDITIONS.delete(connection, change.over)
    _CONDITIONS.put(connection, change.conditions)
    _DELIVERIES.delete(connection, change.forgotten)
    _DELIVERIES.put(connection, change.deliveries)
