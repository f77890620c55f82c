"""One DuckDB file, one connection, one thread.

Owns opening (the hardening, the schema), the writer thread that all work runs on, and going on after a failure. What
the work is, is ``store.duckdb``'s; what a failure means, ``store.faults``'s; the lock, ``store.locking``'s.

Traps this file is built around (DuckDB 2.0.0, measured): nothing here opens the database file, which would lose
DuckDB's own lock on it. A commit on a full disk fails and can be tried again; a checkpoint on a full disk kills the
database, whether or not the commit it ran in became durable: close, connect again, look. A database file that is
missing beside its write-ahead log is created empty and the log deleted without an error: refuse.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Concatenate, ParamSpec, TypeVar

import duckdb

from trustgate.errors import HomeUnusable, StoreDamaged, TrustGateError
from trustgate.formats.durable import sync
from trustgate.ids import now_us
from trustgate.store.archives import FOLDER, quoted
from trustgate.store.faults import is_fatal, is_out_of_memory, open_failure, translate
from trustgate.store.files import beside, size_of, unusable
from trustgate.store.locking import lock_database
from trustgate.store.migrations import migrate
from trustgate.store.worker import Worker

#: The ending of the file that was the database before it went to Postgres.
MOVED = ".moved"

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

#: Rows of a row group, in which DuckDB writes a table and reads it again. Each checkpoint begins another one, and
#: merges those before it as far as that makes fewer of them. With DuckDB's own 122,880 each receipt was written several
#: times, half of the writer's CPU under unbroken load. Sums over a million receipts cost a tenth more with this.
ROW_GROUP_ROWS = 16_384
#: DuckDB checkpoints inside a commit when the write-ahead log is so large, which makes that commit wait up to half a
#: second. What no checkpoint has written yet is in memory: it must not be much larger. Of receipts there is a
#: checkpoint before that, where batches have filled a row group (``Engine.close_row_group``): of some 7 MB.
CHECKPOINT_THRESHOLD = "16MB"
#: The writer checkpoints earlier, when it has had nothing to do for a while.
IDLE_S = 1.0
IDLE_CHECKPOINT_BYTES = 2 * 1024 * 1024
#: What DuckDB may hold of the file and for its work: as much as a small file, a part of a large one, within bounds.
#: More makes nothing quicker, and a busy server's memory grows until it has used that up: to write a row group 16 MB
#: are enough. But what its work takes grows with the file, too (of ten million receipts, 2.4 GB, it is between 32 and
#: 48 MB for a start; sums of 106,000 groups take 32 MB, of 350,000 they take 64).
MEMORY_LEAST_BYTES = 16 * 1024 * 1024
MEMORY_WHOLE_BYTES = 64 * 1024 * 1024
MEMORY_MOST_BYTES = 512 * 1024 * 1024
MEMORY_PART = 16
#: What the database is called in SQL.
_CATALOG = "trustgate"
#: A checkpoint writes what the log holds into the file before it deletes the log; it must not run out of space.
CHECKPOINT_HEADROOM_BYTES = 64 * 1024 * 1024


class Engine(Worker[duckdb.DuckDBPyConnection]):
    """An open database. ``run`` does work on its thread; nothing else touches the connection."""

    idle_s = IDLE_S

    def __init__(self, path: Path, lock: IO[str], connection: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self._lock = lock
        self._connection: duckdb.DuckDBPyConnection | None = connection
        #: What it was opened with (``memory_limit_bytes``), and the least it is opened with from now on.
        self._limit_bytes = memory_limit_bytes(path)
        self._least_bytes = 0
        #: Rows of receipts that were added since the last checkpoint.
        self._added = 0
        #: Folders that the database may write archive files to, besides those that it knows.
        self._allowed: set[Path] = {path.parent / FOLDER}
        super().__init__("trustgate-store")

    @classmethod
    def open(cls, path: Path) -> Engine:
        """Open the database, creating or migrating it. Blocks; leaves nothing behind when it fails.

        Raises HomeUnusable, StoreLocked, StoreTooNew, StoreDamaged, or Unavailable (``storage_full``).
        """
        # Whatever is made beside the database, its write-ahead log too, is for this user alone.
        os.umask(os.umask(0o077) | 0o077)
        lock = lock_database(path)
        try:
            _clean_up(path)
            if not path.exists():
                _create(path)
            _make_private(path)
            _check_writable(path)
            _keep_log(path)
            return cls(path, lock, _connect(path))
        except BaseException:
            lock.close()
            raise

    async def run_closed(self, work: Callable[[Path], R]) -> R:
        """``work(path)`` on the writer thread while the database is closed; whatever comes next opens it again."""

        def closed() -> R:
            self._drop_connection()
            return work(self.path)

        return await self._submit(closed)

    async def allow(self, folder: Path) -> None:
        """Let the database read and write files of that folder. It is opened anew where it may not yet."""

        def allowed() -> None:
            if folder not in self._allowed:
                self._allowed.add(folder)
                self._drop_connection()

        await self._submit(allowed)

    def forget_log(self) -> None:
        """The database is complete: the copy of the log that was found at the start is not needed."""
        with contextlib.suppress(OSError):
            beside(self.path, ".wal.kept").unlink()

    @property
    def wal_bytes(self) -> int:
        return size_of(beside(self.path, ".wal"))

    @property
    def size_bytes(self) -> int:
        """The database file and its write-ahead log. Reads their sizes without opening them."""
        return size_of(self.path) + self.wal_bytes

    # On the writer thread from here on.

    def close_row_group(self, rows: int) -> None:
        """Write the log into the file unless the receipts since the last time and ``rows`` more fit a row group.

        Called as receipts are about to be added, within ``run``. So row groups are nearly full and none is merged.
        """
        if self._added + rows > ROW_GROUP_ROWS:
            self._write_log()
        self._added += rows

    def _attempt(
        self, work: Callable[Concatenate[duckdb.DuckDBPyConnection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        try:
            return self._once(work, *args, **kwargs)
        except duckdb.Error as error:
            if is_fatal(error) or not (is_out_of_memory(error) and self._take_more()):
                raise translate(error) from error
            # The transaction was rolled back: nothing is done twice.
            logger.info("The database is opened anew with more memory: %s", str(error).partition("\n")[0])
            self._drop_connection()
        try:
            return self._once(work, *args, **kwargs)
        except duckdb.Error as error:
            raise translate(error) from error

    def _once(
        self, work: Callable[Concatenate[duckdb.DuckDBPyConnection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        if self._connection is None:
            self._connection = self._open()
        try:
            return work(self._connection, *args, **kwargs)
        except duckdb.Error as error:
            if is_fatal(error):
                logger.error("The database failed and is being opened again: %s", error)
                if is_out_of_memory(error):
                    self._take_more()
                self._drop_connection()
            raise

    def _take_more(self) -> bool:
        """Take ``MEMORY_WHOLE_BYTES`` at least from now on. Returns whether that is more than the database has now."""
        self._least_bytes = MEMORY_WHOLE_BYTES
        return self._next_limit_bytes() > self._limit_bytes

    def _next_limit_bytes(self) -> int:
        """Returns what the database would be opened with."""
        return max(memory_limit_bytes(self.path), self._least_bytes)

    def _open(self) -> duckdb.DuckDBPyConnection:
        self._added = 0
        self._limit_bytes = self._next_limit_bytes()
        return _connect(self.path, self._allowed, limit_bytes=self._limit_bytes)

    def _drop_connection(self) -> None:
        """Close the instance; the next job connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(duckdb.Error):
                connection.close()

    def _end(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(duckdb.Error):
                self._connection.close()
        self._lock.close()

    def _idle(self) -> None:
        """Write the log into the file, where that is worthwhile; let the database have more where the file has grown.

        The limit of its memory is set as it is opened. It is opened anew at once: nothing waits for it now.
        """
        if self.wal_bytes >= IDLE_CHECKPOINT_BYTES:
            self._write_log()
        if self._connection is not None and self._next_limit_bytes() >= 2 * self._limit_bytes:
            self._drop_connection()
            try:
                self._connection = self._open()
            except TrustGateError as error:  # the next work tries again, and its caller has the error
                logger.warning("The database could not be opened anew: %s", error.message)

    def _write_log(self) -> None:
        """Write the log into the file, where the disk has room for that."""
        if self._connection is None:
            return
        wal_bytes = self.wal_bytes
        if shutil.disk_usage(self.path.parent).free < 2 * wal_bytes + CHECKPOINT_HEADROOM_BYTES:
            return
        try:
            self._connection.execute("CHECKPOINT")
            self._added = 0
        except duckdb.Error as error:
            logger.warning("The database could not be checkpointed: %s", error)
            if (is_out_of_memory(error) and self._take_more()) or is_fatal(error):
                self._drop_connection()


def _create(path: Path) -> None:
    """Make a new database beside ``path`` and move it there whole, so that a crash leaves either none or a good one.

    Raises StoreDamaged if what belongs to a database lies where it is missing: its log (which DuckDB would delete), its
    operators' journal, its mark.
    """
    for suffix, what in ((".wal", "write-ahead log"), (".changes", "operators' journal"), (".mark", "mark")):
        left = beside(path, suffix)
        if left.exists():
            raise StoreDamaged(
                f"The database {path.name} is missing, but its {what} {left.name} is there.",
                hint=f"Put the database back into {path.parent}, or restore a backup: trustgate restore FILE. To start "
                f"with an empty one, move {path.name}.*, the folder journal, checkpoint and log.key away.",
            )
    if beside(path, MOVED).exists():
        raise StoreDamaged(
            f"The database of {path.parent} was moved to Postgres.",
            hint=f"Name it with store.url. To start with an empty one, move {path.name}{MOVED}*, the folder journal, "
            "checkpoint and log.key away.",
        )
    new = beside(path, ".new")
    try:
        for leftover in (new, beside(new, ".wal")):
            leftover.unlink(missing_ok=True)
        _connect(new).close()
        new.chmod(0o600)
        new.rename(path)
        sync(path.parent)
    except OSError as error:
        raise unusable(path.parent, error) from error


def _clean_up(path: Path) -> None:
    """Remove what commands that were killed have left. The caller holds the lock, so no process is at work on it."""
    for suffix in (".new", ".new.wal", ".compact", ".compact.wal", ".changes.new"):
        with contextlib.suppress(OSError):
            beside(path, suffix).unlink()
    shutil.rmtree(beside(path, ".tmp"), ignore_errors=True)


def _check_writable(path: Path) -> None:
    """DuckDB opens a log that it cannot write, and fails at the first commit. Raises HomeUnusable."""
    wal = beside(path, ".wal")
    if wal.exists() and not os.access(wal, os.R_OK | os.W_OK):
        raise HomeUnusable(
            f"The write-ahead log {wal} cannot be read and written by this user.",
            hint=f"Give it to the user who runs TrustGate. See who owns it: ls -l {wal}",
        )


def _keep_log(path: Path) -> None:
    """A copy of the write-ahead log that a kill has left, until the database is found to be complete.

    DuckDB passes over a log whose beginning is damaged, and removes it.
    """
    wal = beside(path, ".wal")
    if size_of(wal):
        try:
            shutil.copyfile(wal, beside(path, ".wal.kept"))
        except OSError as error:
            logger.warning("No copy of %s can be kept while it is read: %s", wal.name, error.strerror)


def _make_private(path: Path) -> None:
    """Of earlier versions, which left the write-ahead log to the user's umask."""
    for suffix in ("", ".wal", ".lock", ".changes", ".mark"):
        with contextlib.suppress(OSError):
            file = beside(path, suffix)
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def memory_limit_bytes(path: Path) -> int:
    """Returns what DuckDB may take while it works on this file, as large as it is now."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = 0
    return min(max(size // MEMORY_PART, min(size, MEMORY_WHOLE_BYTES), MEMORY_LEAST_BYTES), MEMORY_MOST_BYTES)


def _connect(
    path: Path, allowed: Collection[Path] = (), *, limit_bytes: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Open and harden the database and bring its schema up to date. The caller holds the sidecar's lock.

    Of other files it may touch those in the folders that are ``allowed``, and where its archive files are.
    ``limit_bytes``: of its memory; None: as ``memory_limit_bytes`` has it. Reading a log, or bringing the schema up to
    date, may take more than work does later: it gets ``MEMORY_MOST_BYTES`` then.
    """
    limit_bytes = memory_limit_bytes(path) if limit_bytes is None else limit_bytes
    try:
        return _connect_within(path, allowed, limit_bytes)
    except TrustGateError as error:
        if limit_bytes >= MEMORY_MOST_BYTES or not is_out_of_memory(error.__cause__):
            raise
        logger.info("Opening the database takes more than %d MB of memory.", limit_bytes >> 20)
    _connect_within(path, allowed, MEMORY_MOST_BYTES).close()
    return _connect_within(path, allowed, limit_bytes)


def _connect_within(path: Path, allowed: Collection[Path], limit_bytes: int) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{limit_bytes}B",
            "threads": 2,
            # DuckDB starts eight by default, for files read over a network; there are none here.
            "async_threads": 1,
            # A checkpoint frees tens of megabytes; without these threads they return to the system at a later one.
            "allocator_background_threads": True,
            "temp_directory": str(beside(path, ".tmp")),
            "checkpoint_threshold": CHECKPOINT_THRESHOLD,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
        },
    )
    try:
        # Attached, which alone can set the size of row groups; those that a file has stay as they are.
        connection.execute(f"ATTACH {quoted(path)} AS {_CATALOG} (ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
        connection.execute(f"USE {_CATALOG}")
    except duckdb.Error as error:
        connection.close()
        raise open_failure(path, error) from error
    try:
        # Refused inside ``config``, because the two switch off the setting of the temporary folder.
        folders = {path.parent / FOLDER, *allowed, *_archive_folders(connection)}
        names = ", ".join(quoted(folder) for folder in sorted(folders))
        connection.execute(f"SET allowed_directories = [{names}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        migrate(connection, now_us())
    except duckdb.Error as error:
        connection.close()
        raise translate(error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _archive_folders(connection: duckdb.DuckDBPyConnection) -> list[Path]:
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'archives'").fetchall():
        return []  # of an earlier schema, or new
    return [Path(name) for (name,) in connection.execute("SELECT DISTINCT folder FROM archives").fetchall() if name]
