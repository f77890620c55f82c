"""Operations on rows that several processes count in, in batches: one transaction each.

What comes while a transaction is under way forms the next batch, so a busy gateway makes few commits and an idle one
waits for none. A transaction locks the rows that its operations need, in the order of their keys, has each operation
decided in memory in the order in which they came, and writes the rows back. One that meets another (40001, 40P01) is
done again.

Owns that an operation is carried out once. Where the connection is lost the outcome of a commit is unknown: the number
of each batch is written with it, in a row of its lane, and read before it is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from trustgate.cluster.database import DatabaseAway, DatabaseConnection, DatabaseSession, is_retried, may_pass
from trustgate.cluster.rows import DoneRow, HomeTaken, Row
from trustgate.errors import TrustGateError, Unavailable
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us

_logger = logging.getLogger("trustgate.cluster")

#: Operations of one batch at most.
_MOST = 256
#: How often a transaction that met another is done again before its operations fail.
_ATTEMPTS = 20
#: Keys that are remembered to have a row.
_KNOWN_MOST = 200_000
_AWAY_FIRST_S = 0.05
_AWAY_LAST_S = 2.0
_RETRY_AFTER_S = "2"
#: A failure that took longer is of a database that does not answer, rather than of one that has ended a connection.
_LONG_S = 2.0

#: The node must be alive until the transaction ends: a burial waits for it. Where it is not, no row is found.
_ALIVE = "WITH alive AS MATERIALIZED (SELECT 1 FROM nodes WHERE node_id = $2 FOR KEY SHARE) "
#: The time is read once a row is locked: that of the last is no earlier than any time by which a row was written.
_LOCK = (
    "SELECT l.key, l.state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at_us FROM ("
    "SELECT s.key, s.state::text AS state FROM shared_state s WHERE s.key = ANY($1::text[]){alive}"
    " ORDER BY s.key FOR UPDATE OF s) l"
)
_LOCK_ALIVE = _ALIVE + _LOCK.format(alive=" AND EXISTS (SELECT 1 FROM alive)")
_LOCK_ALL = _LOCK.format(alive="")
_THERE = "SELECT key FROM shared_state WHERE key = ANY($1::text[])"
_LAST = "SELECT state::text FROM shared_state WHERE key = $1 FOR UPDATE"
_RENUMBER = "UPDATE shared_state SET state = $2::text::jsonb WHERE key = $1"
_MAKE = (
    "INSERT INTO shared_state (key, state) SELECT * FROM unnest($1::text[], $2::text[]::jsonb[])"
    " ON CONFLICT (key) DO NOTHING"
)
_WRITE = (
    "UPDATE shared_state s SET state = v.state FROM unnest($1::text[], $2::text[]::jsonb[]) AS v (key, state)"
    " WHERE s.key = v.key"
)

#: Brings into memory what rows are to have that are missing.
Restore = Callable[[DatabaseConnection, Sequence[Row]], Awaitable[None]]

#: Writes rows, and adds receipts, in one statement, if all the rows are as this process wrote them last. Rows that
#: another transaction holds are waited for, and compared as they are then.
_SWAP = """WITH {alive}
    wanted AS MATERIALIZED (
        SELECT key, old, new FROM unnest($1::text[], $2::text[]::jsonb[], $3::text[]::jsonb[]) AS v (key, old, new)),
    locked AS MATERIALIZED (
        SELECT s.key FROM shared_state s JOIN wanted v ON v.key = s.key WHERE s.state = v.old {if_alive}
        ORDER BY s.key FOR UPDATE OF s),
    agreed AS MATERIALIZED (SELECT count(*) = cardinality($1::text[]) AS by_all FROM locked),
    kept AS (
        INSERT INTO waiting_receipts (receipt_id, entry)
        SELECT r.receipt_id, r.entry
        FROM agreed, unnest($4::text[], $5::bytea[]) WITH ORDINALITY AS r (receipt_id, entry, place)
        WHERE agreed.by_all ORDER BY r.place),
    written AS (
        UPDATE shared_state s SET state = v.new FROM wanted v, agreed WHERE agreed.by_all AND s.key = v.key)
    SELECT by_all, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at_us FROM agreed"""
_SWAP_ALL = _SWAP.format(alive="", if_alive="")
_SWAP_ALIVE = _SWAP.format(
    alive="alive AS MATERIALIZED (SELECT 1 FROM nodes WHERE node_id = $6 FOR KEY SHARE),",
    if_alive="AND EXISTS (SELECT 1 FROM alive)",
)
#: Batches for which no swap is tried after one has failed, doubled with each: others write the same rows.
_PASSED_OVER_MOST = 64
_STATES_MOST = 50_000


class DatabaseClock:
    """The time that all processes decide by, microseconds UTC: the database's, as of the last transaction."""

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        """``clock``: this process's, for the time between two transactions."""
        self._clock = clock
        self._ahead_us = 0
        self._last_us = 0

    def __call__(self) -> int:
        return self._clock() + self._ahead_us

    def set(self, at_us: int) -> int:
        """Take the database's time, and return it: never earlier than before, unless it was set back by a second."""
        if 0 < self._last_us - at_us < MICROSECONDS_PER_SECOND:
            at_us = self._last_us
        self._last_us = at_us
        self._ahead_us = at_us - self._clock()
        return at_us


class RowsChanged(Exception):
    """An operation needs other rows than when its batch was sent."""


class Batch(NamedTuple):
    """The rows of a transaction, locked, and what is to be written with them."""

    node_id: str
    #: The batch's in its lane.
    number: int
    rows: dict[str, Any]
    at_us: int
    #: Receipts, in their order: id, and the entry without its place in the log.
    entries: list[tuple[str, bytes]]


class Operation(Protocol):
    """Something to be decided once the rows that it needs are locked."""

    def rows(self) -> Sequence[Row]:
        """Returns the rows that it needs, as far as is known now."""
        ...

    def apply(self, batch: Batch) -> Any:
        """Decide and change the rows. It may be called again where the transaction was not committed.

        Raises TrustGateError: a refusal, which changes nothing; RowsChanged.
        """
        ...


class _Waiting(NamedTuple):
    operation: Operation
    done: asyncio.Future[Any]
    on_commit: Callable[[], None] | None


class BatchLane:
    """The operations of one kind, over one connection, in the order in which they come."""

    def __init__(
        self,
        name: str,
        session: DatabaseSession,
        node_id: Callable[[], str],
        clock: DatabaseClock,
        *,
        persists: bool,
        on_lost: Callable[[Any], None] | None = None,
        on_connect: Callable[[DatabaseConnection], Awaitable[None]] | None = None,
        restore: Restore | None = None,
        states: dict[str, str] | None = None,
    ) -> None:
        """
        Args:
            name: of the row that has the number of its last committed batch.
            session: a connection for this lane alone.
            node_id: the node as it is now. Raises TrustGateError where it is none.
            clock: is set by every transaction.
            persists: Whether operations are tried until they are carried out, while the database is away too, and
                whether the node is alive or not. Otherwise they fail.
            on_connect: is called with every new connection, before it is used.
            restore: brings into memory what rows are to have that are missing; None: memory has it.
            states: of rows, by key, what this process wrote last, whichever of its lanes did.
            on_lost: is called with each result of a batch that was committed, though its operations had failed.
        """
        self.name = name
        self._session = session
        self._node_id = node_id
        self._clock = clock
        self._persists = persists
        self._on_lost = on_lost
        self._on_connect = on_connect
        self._restore = restore
        self._states = {} if states is None else states
        #: How many batches are to pass before a swap is tried again, and how many after the next that fails.
        self._passing, self._pass_next = 0, 1
        #: Batches that were written in one statement.
        self.swapped = 0
        self._connection: DatabaseConnection | None = None
        #: The number of the last batch that was committed.
        self.committed = 0
        self._queue: deque[_Waiting] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._number = 0
        self._known: set[str] = set()
        #: What the batch under way has granted, where it may have been committed.
        self._granted: list[Any] = []
        #: The batch whose outcome is unknown: the key of its row, its number, what it granted.
        self._uncertain: tuple[str, int, list[Any]] | None = None
        #: Called where nothing of this home may be committed any more.
        self.on_taken: Callable[[], object] = lambda: None
        #: Is done when the attempt at a batch that is under way has ended.
        self._attempt: asyncio.Future[None] | None = None
        #: Why nothing is committed, while that lasts.
        self.fault: str | None = None
        #: Transactions that met another and were done again.
        self.repeated = 0

    def submit(self, operation: Operation, on_commit: Callable[[], None] | None = None) -> asyncio.Future[Any]:
        """Have an operation carried out, after those that were submitted before.

        Args:
            operation: it.
            on_commit: is called once it is committed, however long that takes.

        Returns:
            What will have its result, or its refusal; None where the database is away and it is done later.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(operation, done, on_commit))
        self._idle.clear()
        self._work.set()
        return done

    def forget_rows(self) -> None:
        """Forget which rows there are, and what was in them: they were removed."""
        self._known.clear()
        self._states.clear()

    async def pass_on(self) -> None:
        """Wait until what is written is decided by memory as it is now, and nothing by what was there before."""
        if self._attempt is not None:
            await asyncio.shield(self._attempt)

    async def flush(self) -> None:
        """Wait until nothing is to be done any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Carry out what is submitted, for ever."""
        pause_s = _AWAY_FIRST_S
        while True:
            if self._uncertain is not None and not self._queue:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _AWAY_LAST_S)
                if not self._queue:
                    await self._settle_uncertain()
            else:
                await self._work.wait()
                pause_s = _AWAY_FIRST_S
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST))]
            if batch:
                self._number += 1
                await self._carry_out(batch, self._number)
            if not self._queue and self._uncertain is None:
                self._work.clear()
                self._idle.set()

    async def _carry_out(self, batch: list[_Waiting], number: int) -> None:
        try:
            node_id = self._node_id()
        except TrustGateError as error:
            _fail(batch, error)
            return
        row = DoneRow(node_id, self.name)
        pause_s, attempts = _AWAY_FIRST_S, 0
        while True:
            began_s = asyncio.get_running_loop().time()
            try:
                results = await self._try(batch, row, number)
            except DatabaseAway as error:
                self.fault = error.message
                if not self._persists:
                    _fail(batch, _away())
                    self._refuse_waiting(began_s)
                    if self._granted:
                        self._uncertain = row.key, number, self._granted
                    return
                self._on_away(batch)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _AWAY_LAST_S)
            except Exception as error:  # noqa: BLE001 - raised in each that waits
                attempts += 1
                if (isinstance(error, RowsChanged) or is_retried(error)) and (self._persists or attempts < _ATTEMPTS):
                    self.repeated += 1
                    continue
                if self._persists and (attempts < _ATTEMPTS or isinstance(error, TrustGateError) or may_pass(error)):
                    # What is given up is in the journal alone, and those after it are not: so not for what may pass.
                    # A TrustGateError is of the connection: an operation's own refusal is its result.
                    if isinstance(error, HomeTaken):
                        self.on_taken()
                    self.fault = str(error) if isinstance(error, TrustGateError) else type(error).__name__
                    self._on_away(batch)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _AWAY_LAST_S)
                    continue
                await self._fail_alone(batch, error)
                return
            else:
                self.fault, self.committed = None, number
                for waiting, result in zip(batch, results, strict=True):
                    _resolve(waiting.done, result)
                    if waiting.on_commit is not None:
                        waiting.on_commit()
                return

    async def _fail_alone(self, batch: list[_Waiting], error: Exception) -> None:
        """Carry out each operation by itself, so that one that cannot be does not stop the others."""
        if len(batch) > 1 and not isinstance(error, TrustGateError):
            for waiting in batch:
                self._number += 1
                await self._carry_out([waiting], self._number)
            return
        if not isinstance(error, TrustGateError):
            _logger.error("an operation of the %s failed", self.name, exc_info=error)
            self.fault = f"an operation failed ({type(error).__name__})"
            error = TrustGateError("The gateway failed. The error is in its log.")
        _fail(batch, error)

    def _refuse_waiting(self, began_s: float) -> None:
        """The database is away. Where that took long, what came meanwhile has waited as long, and would again."""
        if asyncio.get_running_loop().time() - began_s > _LONG_S:
            _fail(self._queue, _away())
            self._queue.clear()

    def _on_away(self, batch: list[_Waiting]) -> None:
        """The database is away: what waits is done when it is back, and no request is kept waiting for that."""
        for waiting in (*batch, *self._queue):
            _resolve(waiting.done, None)

    async def _try(self, batch: list[_Waiting], done: DoneRow, number: int) -> list[Any]:
        """Returns each operation's result or refusal."""
        self._attempt = attempt = asyncio.get_running_loop().create_future()
        try:
            return await self._commit(batch, done, number)
        finally:
            attempt.set_result(None)

    async def _commit(self, batch: list[_Waiting], done: DoneRow, number: int) -> list[Any]:
        done.last, self._granted = 0, []
        needed: dict[str, Any] = {done.key: done}
        for waiting in batch:
            for row in waiting.operation.rows():
                needed.setdefault(row.key, row)
        async with self._session.use() as connection:
            await self._greet(connection)
            await self._make(connection, needed)
            swapped = await self._swap(connection, batch, done, number, needed)
            if swapped is not None:
                return swapped
            async with connection.transaction():
                results, locked = await self._decide(connection, batch, done, number, needed)
                self._granted = _granted(results)
                contents = {} if locked is None else await _write(connection, locked)
            self._note(contents)
        return results

    async def _swap(
        self, connection: DatabaseConnection, batch: list[_Waiting], done: DoneRow, number: int, needed: dict[str, Any]
    ) -> list[Any] | None:
        """Decide by what this process wrote last, and write in one statement if that is what the rows have.

        Returns: each operation's result or refusal; None: nothing was written, since another may have changed a row.
        """
        if self._passing:
            self._passing -= 1
            return None
        keys = sorted(needed)
        old = [self._states.pop(key, None) for key in keys]
        if None in old:
            return None
        at_us = self._clock()
        for key, state in zip(keys, old, strict=True):
            needed[key].take_in(state, at_us)
        if done.last >= number:
            return None
        done.last = number
        found = Batch(done.node_id, number, needed, at_us, [])
        try:
            results = [_result(waiting.operation, found) for waiting in batch]
        except RowsChanged:
            return None
        self._granted = _granted(results)
        contents = {key: needed[key].content().decode() for key in keys}
        ids, entries = [receipt_id for receipt_id, _ in found.entries], [entry for _, entry in found.entries]
        if self._persists:
            swap = await connection.fetchrow(_SWAP_ALL, keys, old, list(contents.values()), ids, entries)
        else:
            swap = await connection.fetchrow(
                _SWAP_ALIVE, keys, old, list(contents.values()), ids, entries, done.node_id
            )
        assert swap is not None, "it has one row"
        self._clock.set(swap["at_us"])
        if not swap["by_all"]:
            done.last, self._granted = 0, []
            self._passing, self._pass_next = self._pass_next, min(2 * self._pass_next, _PASSED_OVER_MOST)
            return None
        self._pass_next = 1
        self.swapped += 1
        self._note(contents)
        return results

    def _note(self, contents: dict[str, str]) -> None:
        """Keep what was written and is committed, for the next swap."""
        if len(self._states) + len(contents) > _STATES_MOST:
            self._states.clear()
        self._states.update(contents)

    async def _greet(self, connection: DatabaseConnection) -> None:
        """Read over a new connection whether the batch that was under way over the last one was committed."""
        if connection is self._connection:
            return
        if self._on_connect is not None:
            await self._on_connect(connection)
        if self._uncertain is not None:
            key, number, granted = self._uncertain
            async with connection.transaction():
                # Its transaction had the row locked when it was to commit: this waits until it has, or has not.
                last = await connection.fetchval(_LAST, key)
                if last is not None and int(last) < number:
                    # What a network holds back arrives when it is mended, though its sender is gone: what was sent in
                    # one statement finds another number then, and writes nothing.
                    await connection.execute(_RENUMBER, key, str(number))
            if last is not None and int(last) >= number and self._on_lost is not None:
                for each in granted:
                    self._on_lost(each)
            self._uncertain = None
        self._connection = connection

    async def _settle_uncertain(self) -> None:
        """Read whether the last batch was committed, where no other batch follows that would."""
        began_s = asyncio.get_running_loop().time()
        try:
            async with self._session.use() as connection:
                await self._greet(connection)
        except TrustGateError as error:
            self.fault = error.message
            self._refuse_waiting(began_s)

    async def _make(self, connection: DatabaseConnection, needed: dict[str, Any]) -> None:
        """Make the rows that are missing, with what memory has; by themselves, so that they are locked in order."""
        missing = sorted(needed.keys() - self._known)
        if missing:
            if self._restore is not None:
                found = {record["key"] for record in await connection.fetch(_THERE, missing)}
                absent = [needed[key] for key in missing if key not in found]
                if absent:
                    await self._restore(connection, absent)
            contents = [needed[key].content().decode() for key in missing]
            async with connection.transaction():
                # A crash of the database must not lose it: what is held is known from the row alone.
                await connection.execute("SET LOCAL synchronous_commit = on")
                await connection.execute(_MAKE, missing, contents)
            if len(self._known) + len(missing) > _KNOWN_MOST:
                self._known.clear()
            self._known.update(missing)

    async def _decide(
        self, connection: DatabaseConnection, batch: list[_Waiting], done: DoneRow, number: int, needed: dict[str, Any]
    ) -> tuple[list[Any], Batch | None]:
        node_id, keys = done.node_id, sorted(needed)
        if self._persists:
            found = await connection.fetch(_LOCK_ALL, keys)
        else:
            found = await connection.fetch(_LOCK_ALIVE, keys, node_id)
            if not found:
                raise _away()
        if len(found) < len(keys):
            self._known.difference_update(keys)
            raise RowsChanged
        at_us = self._clock.set(max(record["at_us"] for record in found))
        for record in found:
            needed[record["key"]].take_in(record["state"], at_us)
        if done.last >= number:
            # It was committed when the connection was lost.
            return [None] * len(batch), None
        done.last = number
        locked = Batch(node_id, number, needed, at_us, [])
        return [_result(waiting.operation, locked) for waiting in batch], locked


async def _write(connection: DatabaseConnection, batch: Batch) -> dict[str, str]:
    """Returns what was written, by key."""
    # What memory has now: once this waits, another transaction may begin a new window.
    contents = {key: row.content().decode() for key, row in batch.rows.items()}
    if batch.entries:
        await connection.execute(
            "INSERT INTO waiting_receipts (receipt_id, entry) SELECT * FROM unnest($1::text[], $2::bytea[])",
            [receipt_id for receipt_id, _ in batch.entries],
            [entry for _, entry in batch.entries],
        )
    await connection.execute(_WRITE, list(contents), list(contents.values()))
    return contents


def _granted(results: list[Any]) -> list[Any]:
    return [each for each in results if each is not None and not isinstance(each, TrustGateError)]


def _away() -> Unavailable:
    return Unavailable(
        "The gateway's database cannot be reached: nothing can be admitted until it can.",
        code="store_unreachable",
        headers={"retry-after": _RETRY_AFTER_S},
    )


def _result(operation: Operation, batch: Batch) -> Any:
    try:
        return operation.apply(batch)
    except TrustGateError as refusal:
        return refusal


def _resolve(done: asyncio.Future[Any], result: Any) -> None:
    if done.done():
        return
    if isinstance(result, TrustGateError):
        done.set_exception(result)
        # The request may be gone.
        done.exception()
    else:
        done.set_result(result)


def _fail(batch: Iterable[_Waiting], error: TrustGateError) -> None:
    for waiting in batch:
        _resolve(waiting.done, error)
