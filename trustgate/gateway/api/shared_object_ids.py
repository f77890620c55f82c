"""Ids of upstreams' objects where several processes give them out: a table of the database, and memory that follows it.

What a process keeps it writes to the table before the answer's last byte leaves, and follows what others write; a
request that names ids or lists them looks first (``catch_up``). So an id belongs to its tenant at every process, and to
no other tenant at any. The file in the process's folder has the same, for when it serves alone again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from trustgate.cluster.database import DatabaseConnection, DatabaseSession
from trustgate.errors import TrustGateError
from trustgate.gateway.api.object_ids import MOST_HANDLES, Kind, ObjectId, ObjectIds
from trustgate.tasks import wait_at_most

_logger = logging.getLogger("trustgate.gateway")

_CHANNEL = "trustgate_object_ids"
#: Between two reads of the table where no note comes.
_LOOK_EVERY_S = 5.0
_RETRY_S = 1.0

#: One writer at a time: a row that is read has no row before it that is yet to be committed.
_TURNS = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' object ids', 0))"
_NEW = (
    "INSERT INTO object_ids (kind, upstream, id, tenant, n, handle)"
    " SELECT kind, upstream, id, tenant, nextval('object_ids_n'), handle FROM"
    " unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[]) AS v (kind, upstream, id, tenant, handle)"
    " ON CONFLICT (kind, upstream, id) DO "
)
#: A stranger's id is never taken over.
_PUT = _NEW + ("UPDATE SET n = excluded.n, handle = excluded.handle WHERE object_ids.tenant = excluded.tenant")
_ADD = _NEW + "NOTHING"
_AFTER = "SELECT n, handle FROM object_ids WHERE n > $1 ORDER BY n"
#: Those of one statement.
_OLDEST_MOST = 1_000
_OLDEST = """SELECT n, handle FROM object_ids
    WHERE n > $1 AND n <= (SELECT n FROM object_ids ORDER BY n DESC OFFSET $2 LIMIT 1) ORDER BY n LIMIT $3"""
_REMOVE = "DELETE FROM object_ids WHERE n = ANY($1::bigint[])"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObjectId).decode


class SharedObjectIds(ObjectIds):
    """See ``ObjectIds``."""

    def __init__(self, path: Path, session: DatabaseSession, most: int = MOST_HANDLES) -> None:
        """
        Args:
            path: the process's own file.
            session: a connection for this alone.
            most: ids remembered.

        Raises OSError: the file cannot be read or written.
        """
        super().__init__(path, most)
        self._session = session
        self._seen = 0
        #: What is yet to be written to the table, the latest of each; and what is done once it is.
        self._unwritten: dict[tuple[Kind, str, str], ObjectId] = {}
        self._written: asyncio.Future[None] | None = None
        self._work = asyncio.Event()
        self._is_taking_in = False
        session.on_note(_CHANNEL, self._work.set)

    async def begin(self) -> None:
        """Bring what the file has into the table, and what that has into memory. Raises Unavailable."""
        own = self._all()
        async with self._session.use() as connection:
            await _write(connection, _ADD, own)
        await self.catch_up()
        for handle in own:
            if handle.owed < 0:
                # Charged by this process while it served alone, which the table does not know.
                now = self.current(handle)
                if now is not None and now.owed >= 0:
                    self.settle(now)

    def written(self) -> asyncio.Future[None] | None:
        """Returns what is done once all that was kept up to now is in the table, or it is away; None: it is there."""
        return self._written

    def settle(self, handle: ObjectId) -> None:
        """Note that the work of this id is charged, by this process or another."""
        now = self.current(handle)
        if now is not None:
            self.keep(msgspec.structs.replace(now, owed=-1, accepted=None))

    async def catch_up(self) -> None:
        """Take in what other processes have kept and forgotten. Raises Unavailable."""
        async with self._session.use() as connection:
            rows = await connection.fetch(_AFTER, self._seen)
        self._is_taking_in = True
        try:
            for row in rows:
                self._seen = max(self._seen, row["n"])
                self._take_in(_decode(row["handle"]))
        finally:
            self._is_taking_in = False

    async def remove_old(self) -> None:
        """Remove from the table what is more than a process remembers, the longest unchanged first. Raises Unavailable.

        Work that goes on upstream stays: it is still to be charged.
        """
        after = 0
        while True:
            async with self._session.use() as connection:
                rows = await connection.fetch(_OLDEST, after, self._most, _OLDEST_MOST)
                old = [row["n"] for row in rows if not _is_owed(_decode(row["handle"]))]
                await connection.execute(_REMOVE, old)
            if len(rows) < _OLDEST_MOST:
                return
            after = rows[-1]["n"]

    def _take_in(self, handle: ObjectId) -> None:
        if handle.place in self._unwritten or handle == self.current(handle):
            return
        if handle.alive:
            self._put(handle)
        elif not self._drop(handle):
            return
        self._append(handle)

    async def run(self) -> None:
        """Write what was kept and follow what others keep, for ever."""
        while True:
            await wait_at_most(self._work, _LOOK_EVERY_S)
            self._work.clear()
            try:
                await self._write_out()
                await self.catch_up()
            except TrustGateError as error:
                _logger.warning("ids of upstreams' objects wait for the database: %s", error.message)
                self._end_waiting()
                await asyncio.sleep(_RETRY_S)
                self._work.set()

    async def _write_out(self) -> None:
        while self._unwritten:
            batch, self._unwritten = self._unwritten, {}
            written, self._written = self._written, None
            try:
                async with self._session.use() as connection:
                    await _write(connection, _PUT, batch.values())
            except BaseException:
                self._unwritten = batch | self._unwritten
                raise
            finally:
                _end(written)

    def _end_waiting(self) -> None:
        written, self._written = self._written, None
        _end(written)

    def _append(self, handle: ObjectId) -> None:
        super()._append(handle)
        if not self._is_taking_in:
            self._unwritten[handle.place] = handle
            if self._written is None:
                self._written = asyncio.get_running_loop().create_future()
            self._work.set()


def _is_owed(handle: ObjectId) -> bool:
    return handle.alive and handle.owed >= 0


def _end(written: asyncio.Future[None] | None) -> None:
    if written is not None and not written.done():
        written.set_result(None)


async def _write(connection: DatabaseConnection, statement: str, handles: Iterable[ObjectId]) -> None:
    rows = [(each.kind, each.upstream, each.id, each.tenant, _encode(each)) for each in handles]
    if not rows:
        return
    async with connection.transaction():
        await connection.execute(_TURNS)
        await connection.execute(statement, *(list(column) for column in zip(*rows, strict=True)))
        await connection.execute(f"NOTIFY {_CHANNEL}")
