"""The store: what is kept between runs. Everything above speaks to the ``Store`` protocol, in domain verbs."""

from __future__ import annotations

from pathlib import Path

from trustgate.store.base import (
    Balance,
    Kept,
    PaymentFilter,
    ReceiptFilter,
    State,
    Store,
    StoredTile,
    StoreInfo,
    TenantHead,
    UsageFilter,
    UsageRow,
    WindowUsage,
)

__all__ = [
    "Balance",
    "Kept",
    "PaymentFilter",
    "ReceiptFilter",
    "State",
    "Store",
    "StoreInfo",
    "StoredTile",
    "TenantHead",
    "UsageFilter",
    "UsageRow",
    "WindowUsage",
    "open_store",
]


async def open_store(path: Path) -> Store:
    """Open the database file at ``path``, creating or migrating it.

    Raises HomeUnusable (its folder is missing or cannot be written), StoreLocked (the message names the process),
    StoreTooNew, StoreDamaged, or Unavailable with code ``storage_full``.
    """
    from trustgate.store.duckdb import DuckDBStore  # loading DuckDB takes 0.2 s

    return await DuckDBStore.open(path)
