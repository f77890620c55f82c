"""What DuckDB's failures mean. Owns the reading of its texts, as DuckDB 2.0.0 writes them.

They may quote values, so they go no further than ``__cause__``.
"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from trustgate.errors import HomeUnusable, StoreDamaged, StoreTooNew, TrustGateError, Unavailable
from trustgate.store.files import beside
from trustgate.store.locking import locked_error


def open_failure(path: Path, error: duckdb.Error) -> TrustGateError:
    """Returns the error for a database file that DuckDB did not open."""
    text = str(error)
    if "Could not set lock" in text:
        pid = re.search(r"\(PID (\d+)\)", text)
        return locked_error(path, int(pid.group(1)) if pid else None)
    if "with version number" in text:
        return StoreTooNew(
            f"The database {path} was written by a version of DuckDB that this program cannot read.",
            hint="Use the TrustGate that wrote it, or choose another folder with --home.",
        )
    if _is_full(text):
        return _storage_full(path.parent)
    if "WAL" in text:
        wal = beside(path, ".wal")
        return StoreDamaged(
            f"The write-ahead log {wal} is damaged: what was written last is in it alone.",
            hint=f"Put back copies of {path.name} and {wal.name} that belong together. Without one, move {wal.name} "
            "away: the journals put back what they have, and what is missing then is named at the start.",
        )
    if "Cannot open file" in text or "Permission denied" in text:
        return HomeUnusable(
            f"The database {path} cannot be opened: {text.rpartition(': ')[2]}.",
            hint="Check who owns the folder and its files, or choose another one with --home.",
        )
    return _damaged(path)


def translate(error: duckdb.Error) -> TrustGateError:
    """Returns the error for a failure of DuckDB in the middle of work."""
    text = str(error)
    if _is_full(text):
        return _storage_full(None)
    if "Corrupt" in text or "checksum" in text or isinstance(error, duckdb.InternalException):
        return _damaged(None)
    return Unavailable(f"The database failed ({type(error).__name__}).", code="store_failed", hint="See the log.")


def _is_full(text: str) -> bool:
    return "No space left" in text or "Disk quota exceeded" in text or "max_temp_directory_size" in text


def is_fatal(error: BaseException) -> bool:
    """Returns whether the database can do nothing more until it is opened anew: where a checkpoint failed."""
    return isinstance(error, duckdb.FatalException) or "has been invalidated" in str(error)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns whether a limit of memory is why DuckDB failed: in a commit, or in the reading of a log, it fails as a
    transaction does, with this advice in the text.
    """
    return isinstance(error, duckdb.OutOfMemoryException) or "SET memory_limit=" in str(error)


def _storage_full(folder: Path | None) -> Unavailable:
    return Unavailable(
        f"The disk {f'of {folder} ' if folder else ''}is full: nothing more can be recorded.",
        code="storage_full",
        hint="Free some space; nothing recorded is lost and no restart is needed.",
    )


def _damaged(path: Path | None) -> StoreDamaged:
    return StoreDamaged(
        f"The database {path} is damaged." if path else "The database is damaged.",
        hint="Put back a copy of it with its .wal file; the journal adds what the copy lacks as far as it reaches, and "
        "the start names what is missing then. To start anew, move the database away.",
    )
