"""The store: what is kept between runs. Everything above speaks to the ``Store`` protocol, in domain verbs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from trustgate.errors import ExtraMissing, HomeUnusable
from trustgate.settings import PostgresAddress
from trustgate.store.base import Store
from trustgate.store.locking import hold_database
from trustgate.store.queries import (
    ArchiveFile,
    ArchiveProblem,
    Balance,
    Compacted,
    Copied,
    DamagedRow,
    ExportFilter,
    Kept,
    Lines,
    NoticeDelivery,
    NotificationChange,
    Notifications,
    OpenCondition,
    PaymentFilter,
    ReceiptFilter,
    SetAside,
    State,
    StatementSpan,
    StoredTile,
    StoreInfo,
    TenantHead,
    UsageFilter,
    UsageRow,
    WindowUsage,
)

if TYPE_CHECKING:
    from trustgate.store.postgres.store import PostgresStore

__all__ = [
    "ArchiveFile",
    "ArchiveProblem",
    "Balance",
    "Compacted",
    "Copied",
    "DamagedRow",
    "ExportFilter",
    "Kept",
    "Lines",
    "NoticeDelivery",
    "NotificationChange",
    "Notifications",
    "OpenCondition",
    "PaymentFilter",
    "ReceiptFilter",
    "SetAside",
    "State",
    "StatementSpan",
    "Store",
    "StoreInfo",
    "StoredTile",
    "TenantHead",
    "UsageFilter",
    "UsageRow",
    "WindowUsage",
    "hold_database",
    "open_store",
    "postgres_store",
]


#: The marks that homes keep of databases on Postgres (postgres.changes).
POSTGRES_MARKS = "postgres-*.mark"


async def open_store(
    path: Path,
    postgres: PostgresAddress | None = None,
    *,
    accept_loss: bool = False,
    is_copy: bool = False,
    several: bool = False,
    mark_folder: Path | None = None,
) -> Store:
    """Open the database file at ``path``, creating or migrating it; with ``postgres`` that database in its place.

    Args:
        path: the file; of Postgres, one that must not exist.
        postgres: the database's address.
        accept_loss: go on where something that was acknowledged is missing.
        is_copy: the file is a backup's, found whole: that nothing stands beside it yet is no loss.
        several: other processes may have the database open, too (Postgres alone).
        mark_folder: where the mark of a database on Postgres lies, if not beside ``path``.

    Raises HomeUnusable (its folder is missing, not to be written, or has another database), StoreLocked (it names
    the process),
    StoreTooNew, StoreDamaged, StoreIncomplete (something that was acknowledged is missing, unless ``accept_loss``), or
    Unavailable with code ``storage_full``. Of Postgres also ExtraMissing, StoreUnusable, and Unavailable with code
    ``store_unreachable``.
    """
    if postgres is not None:
        return await postgres_store().open(
            postgres, mark_folder or path.parent, file=path, accept_loss=accept_loss, several=several
        )
    if not accept_loss:
        await asyncio.to_thread(_check_not_on_postgres, path)
    from trustgate.store.duckdb import DuckDBStore  # loading DuckDB takes 0.2 s

    return await DuckDBStore.open(path, accept_loss=accept_loss, is_copy=is_copy)


def postgres_store() -> type[PostgresStore]:
    """Returns the store on Postgres. Raises ``ExtraMissing`` without its driver."""
    try:
        from trustgate.store.postgres.store import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ExtraMissing.of("A database on Postgres wants asyncpg.", "postgres", "asyncpg>=0.30,<0.33") from error
    return PostgresStore


def _check_not_on_postgres(path: Path) -> None:
    if not path.exists() and any(path.parent.glob(POSTGRES_MARKS)):
        raise HomeUnusable(
            f"The database of the home {path.parent} is on Postgres, and store.url is not set.",
            hint="Set it as the server has it: TRUSTGATE_STORE_URL, or store.url in trustgate.toml. For a new database "
            "in a file, choose another --home.",
        )
