"""Copying and rewriting the database file, on the writer thread.

Owns what must not go wrong when the file itself is touched. The database's lock is a POSIX lock, which this process
loses when anything in it opens and closes the file: so a copy is made by a child process, while the writer has nothing
else to do and the write-ahead log is empty. A rewrite happens while the database is closed, into a new file that takes
the old one's place once both have been found to hold the same.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from trustgate.errors import StoreDamaged, TrustGateError, Unavailable
from trustgate.formats.durable import sync
from trustgate.store.engine import CHECKPOINT_HEADROOM_BYTES
from trustgate.store.entries import load_identity
from trustgate.store.faults import translate
from trustgate.store.files import beside
from trustgate.store.queries import Compacted, Copied

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: A receipt waits in the journal for some seconds; while the disk is full, for longer.
_JOURNALED_US = 3_600 * 1_000_000


def copy_database(connection: DuckDBPyConnection, path: Path, to: Path) -> Copied:
    """Copy the open database as it is now. Raises Unavailable, with code ``storage_full`` on a full disk.

    The file at ``to`` is whole or is not there.
    """
    _check_space(path, to.parent, path.stat().st_size + 2 * _size(beside(path, ".wal")))
    connection.execute("CHECKPOINT")
    if _size(beside(path, ".wal")):
        raise Unavailable("The database could not be brought to rest for a copy.", code="store_busy")
    _, _, last_seq = load_identity(connection)
    try:
        _copy(path, to)
        _reopen_payments(to)
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    return Copied(last_seq=last_seq, size_bytes=to.stat().st_size)


def _copy(path: Path, to: Path) -> None:
    child = subprocess.run(  # noqa: S603 - two paths of ours, no shell
        ["cp", "--", str(path), str(to)],  # noqa: S607 - POSIX has it, wherever it stands
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if child.returncode != 0:
        reason = child.stderr.decode(errors="replace").strip().rpartition(": ")[2]
        code = "storage_full" if "space" in reason or "quota" in reason.lower() else "store_not_copied"
        raise Unavailable(f"The database could not be copied: {reason or 'cp failed'}.", code=code)
    to.chmod(0o600)


def _reopen_payments(copy: Path) -> None:
    """Take back the end of payments whose receipts the copy does not have: they were in the journal alone.

    Where the copy is restored, such a payment is settled and nothing is recorded of what it paid for: it is credited.
    """
    try:
        with duckdb.connect(copy, config={"threads": 1, "autoinstall_known_extensions": False}) as connection:
            connection.execute(
                """UPDATE payments SET state = 'settled'
                    WHERE state IN ('delivered', 'credited')
                        AND updated_us >= (SELECT max(updated_us) FROM payments) - ?
                        AND NOT EXISTS (SELECT 1 FROM receipts WHERE receipts.payment = payments.id)""",
                [_JOURNALED_US],
            )
            connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        raise translate(error) from error


def compact_database(path: Path) -> Compacted:
    """Rewrite the closed database without its unused blocks. Keeps the old file unless the new one is smaller.

    The caller holds the sidecar's lock. Raises Unavailable (``storage_full``), or StoreDamaged where the copy does not
    hold what the original holds; the original is untouched then.
    """
    if _size(beside(path, ".wal")):
        raise Unavailable("The database still has a write-ahead log; it is not rewritten now.", code="store_busy")
    before = path.stat().st_size
    _check_space(path, path.parent, before)
    new = beside(path, ".compact")
    leftovers = (new, beside(new, ".wal"))
    try:
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        _rewrite(path, new)
        after = new.stat().st_size
        if after >= before:
            return Compacted(before_bytes=before, after_bytes=before)
        new.chmod(0o600)
        sync(new)
        new.rename(path)
        sync(path.parent)
        return Compacted(before_bytes=before, after_bytes=after)
    except duckdb.Error as error:
        raise translate(error) from error
    finally:
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)


def _rewrite(path: Path, new: Path) -> None:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": "512MB",
        "threads": 2,
        "temp_directory": str(beside(path, ".tmp")),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute(f"ATTACH {_quoted(path)} AS old (READ_ONLY)")
        connection.execute(f"ATTACH {_quoted(new)} AS new")
        connection.execute("COPY FROM DATABASE old TO new")
        # The order of rows counts too: receipts are found quickly because they stand in the order of time.
        if _digests(connection, "old") != _digests(connection, "new"):
            raise StoreDamaged("The rewritten database does not hold what the original holds; the original is kept.")
        connection.execute("DETACH new")
        connection.execute("DETACH old")


def _digests(connection: DuckDBPyConnection, name: str) -> list[tuple[object, ...]]:
    """Of every table: its definition, how many rows it has and what they hold."""
    tables = connection.execute(
        "SELECT table_name, sql FROM duckdb_tables() WHERE database_name = ? ORDER BY table_name", [name]
    ).fetchall()
    return [
        (
            table,
            sql,
            *connection.execute(
                # Not by rowid: after rows were deleted, those of the copy are others.
                f"""SELECT count(*), bit_xor(hash(t)), bit_xor(hash(place, t))
                    FROM (SELECT row_number() OVER () AS place, t FROM {name}."{table}" t)"""  # noqa: S608 - ours
            ).fetchall(),
        )
        for table, sql in tables
    ]


def _quoted(path: Path) -> str:
    text = str(path)
    return "'" + text.replace("'", "''") + "'"


def _check_space(path: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + CHECKPOINT_HEADROOM_BYTES:
        raise Unavailable(
            f"The disk of {folder} has no room for a copy of {path.name} (it takes {needed // 2**20 + 64} MiB).",
            code="storage_full",
            hint="Make room there first. Nothing has been changed.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return 0
        raise TrustGateError(f"{path} cannot be looked at: {error.strerror}.") from error
