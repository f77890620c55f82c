"""How one batch of operations is decided and committed.

Where this process was the last to write the rows, the batch is decided from what it wrote, and written in one statement
that compares the rows with that (a swap). Where other processes write them, too, a transaction locks the rows in the
order of their keys, decides each operation in memory in the order in which they came, and writes the rows back. What
has come meanwhile and needs no other rows joins the batch: the longer the wait for the rows, the more is done at once.

Owns the statements, and what is known to have a row. What this process wrote last: ``cluster.row_states``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from trustgate.cluster.changes import KnownChanges
from trustgate.cluster.database import RETRY_AFTER_S, DatabaseConnection
from trustgate.cluster.linked_receipts import LinkedReceipt, LinkedReceipts
from trustgate.cluster.row_states import RowStates
from trustgate.cluster.rows import DoneRow, Row
from trustgate.errors import TrustGateError, Unavailable
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us

#: Keys that are remembered to have a row.
_KNOWN_MOST = 200_000

#: The node must be alive until the transaction ends: a burial waits for it. Where it is dead, no row is found.
_ALIVE = "alive AS MATERIALIZED (SELECT 1 FROM nodes WHERE node_id = ${node} FOR KEY SHARE)"
_IF_ALIVE = " AND EXISTS (SELECT 1 FROM alive)"
#: The node is not buried, and has reported no change that the batch is decided without (``KnownChanges``). A burial
#: does not wait for it: a command that counts anew locks the table first, and so waits for what this has let through.
_IF_CURRENT = " AND EXISTS (SELECT 1 FROM nodes WHERE node_id = ${node} AND taken_in <= ${number})"
#: The time is read once a row is locked: that of the last is no earlier than any time by which a row was written.
_LOCK = (
    "{alive}SELECT l.key, l.state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS at_us FROM ("
    "SELECT s.key, s.state::text AS state FROM shared_state s WHERE s.key = ANY($1::text[]){if_alive}"
    " ORDER BY s.key FOR UPDATE OF s) l"
)
_LOCK_ALL = _LOCK.format(alive="", if_alive="")
_LOCK_ALIVE = _LOCK.format(alive=f"WITH {_ALIVE.format(node=2)} ", if_alive=_IF_ALIVE)
_LOCK_CURRENT = _LOCK.format(
    alive=f"WITH {_ALIVE.format(node=2)} ", if_alive=_IF_ALIVE + _IF_CURRENT.format(node=2, number=3)
)
_LAST = "SELECT state::text FROM shared_state WHERE key = $1"
_THERE = "SELECT key FROM shared_state WHERE key = ANY($1::text[])"
_MAKE = (
    "INSERT INTO shared_state (key, state) SELECT * FROM unnest($1::text[], $2::text[]::jsonb[])"
    " ON CONFLICT (key) DO NOTHING"
)
_WRITE = """{added}UPDATE shared_state s SET state = v.state
    FROM unnest($1::text[], $2::text[]::jsonb[]) AS v (key, state) WHERE s.key = v.key"""
_WRITE_ROWS = _WRITE.format(added="")
_WRITE_AND_ADD = _WRITE.format(
    added="""WITH added AS (
        INSERT INTO waiting_receipts (receipt_id, entry)
        SELECT r.receipt_id, r.entry
        FROM unnest($3::text[], $4::bytea[]) WITH ORDINALITY AS r (receipt_id, entry, place) ORDER BY r.place)
    """
)

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
_SWAP_CURRENT = _SWAP.format(alive="", if_alive=_IF_CURRENT.format(node=6, number=7))
_SWAP_ALIVE = _SWAP.format(alive=f"{_ALIVE.format(node=6)},", if_alive=_IF_ALIVE)
_SWAP_ALIVE_CURRENT = _SWAP.format(
    alive=f"{_ALIVE.format(node=6)},", if_alive=_IF_ALIVE + _IF_CURRENT.format(node=6, number=7)
)
#: Batches for which no swap is tried after one has failed, doubled with each: others write the same rows.
_PASSED_OVER_MOST = 64

#: Counts in memory what the rows that are missing are to be made with.
Restore = Callable[[DatabaseConnection, Sequence[Row]], Awaitable[None]]


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


class NotAlive(Exception):
    """The node is dead, as the database has it."""


class MemoryBehind(Exception):
    """This process is no node at the moment, or was buried: what it knows of the operators' changes may be old."""


class Batch(NamedTuple):
    """The rows of a transaction, locked, and what is to be written with them."""

    node_id: str
    #: Of the batch in its lane; 0: a crash of the database does not lose it.
    number: int
    rows: dict[str, Any]
    at_us: int
    #: Receipts, in their order.
    entries: list[LinkedReceipt]


class Operation(Protocol):
    """A change of rows, decided once they are locked."""

    def add_rows(self, rows: dict[str, Any]) -> None:
        """Add the rows that it needs, as far as is known now, by their keys. Those that are there already stay."""
        ...

    def apply(self, batch: Batch) -> Any:
        """Decide, and change the rows. Is called again where the transaction was not committed.

        Returns:
            The operation's result.

        Raises:
            TrustGateError: A refusal, which changes nothing.
            RowsChanged: It needs other rows than those of the batch.
        """
        ...


class Gathering(Protocol):
    """The operations of a batch that others may still join."""

    def needs_live_node(self) -> bool:
        """Returns whether one of them is carried out only while the node is alive."""
        ...

    def join(self, rows: Mapping[str, Any], *, is_alive: bool) -> list[Operation]:
        """Let those join that come next and need no other rows.

        Args:
            rows: Those of the batch, by key.
            is_alive: Whether operations may join that are carried out only while the node is alive.

        Returns:
            The batch's operations, with those that joined.
        """
        ...

    def has_followers(self) -> bool:
        """Returns whether another batch follows at once."""
        ...


class BatchWriter:
    """Commits the batches of one lane."""

    def __init__(
        self,
        clock: DatabaseClock,
        states: RowStates,
        *,
        is_durable: bool,
        restore: Restore | None,
        known_changes: Callable[[], KnownChanges | None] | None = None,
    ) -> None:
        """
        Args:
            clock: Set by every transaction.
            states: What this process wrote last; one for all of its lanes.
            is_durable: Whether a crash of the database loses nothing that was committed.
            restore: Counts in memory what missing rows are to be made with; None: memory has it.
            known_changes: What memory decides by now; gives None where it may be behind. None: no operator changes
                anything.
        """
        self._clock = clock
        self._known_changes = known_changes
        self._states = states
        #: What the batch under way has linked.
        self._linking: list[LinkedReceipt] = []
        #: What is linked and committed.
        self.linked = LinkedReceipts()
        self._is_durable = is_durable
        self._restore = restore
        self._known: set[str] = set()
        #: How many batches go without a swap before one is tried again, and how many after the next that fails.
        self._passing, self._pass_next = 0, 1
        #: The connection on which the next transaction has begun already.
        self._begun: DatabaseConnection | None = None
        #: Batches that were written in one statement.
        self.swapped = 0
        #: The results of the batch under way that hold something, once it may have been committed.
        self.granted: list[Any] = []

    @property
    def is_contended(self) -> bool:
        """Whether other processes write the same rows."""
        return self._pass_next > 1

    def forget_rows(self) -> None:
        """Forget which rows there are, and what was in them: they were removed."""
        self._known.clear()
        self._states.forget()

    async def write(
        self, connection: DatabaseConnection, gathering: Gathering, done: DoneRow, number: int
    ) -> list[Any]:
        """Decide a batch and commit it.

        Args:
            connection: Used for nothing else meanwhile.
            gathering: The batch's operations.
            done: The row of the lane's last batch.
            number: Of this batch.

        Returns:
            The result or refusal of each operation, of those that joined, too.

        Raises:
            RowsChanged: To be done again.
            NotAlive: The node is dead, and an operation is carried out only while it is alive.
            MemoryBehind: Nothing was written; to be done again.
        """
        done.last, self.granted, self._linking = 0, [], []
        self._current()
        needed: dict[str, Any] = {done.key: done}
        for operation in gathering.join({}, is_alive=True):
            operation.add_rows(needed)
        await self._make(connection, needed)
        async with self._states.own(needed.keys()):
            results = await self._swap(connection, gathering, done, number, needed)
            if results is None:
                async with self._transaction(connection, gathering):
                    results, contents = await self._lock_and_write(connection, gathering, done, number, needed)
                self._states.note(contents)
            self.linked.note(self._linking)
        return results

    async def _swap(
        self,
        connection: DatabaseConnection,
        gathering: Gathering,
        done: DoneRow,
        number: int,
        needed: dict[str, Any],
    ) -> list[Any] | None:
        """Decide from what this process wrote last, and write in one statement if the rows still have that.

        Returns:
            The result or refusal of each operation; None: nothing was written, since another process may have changed
            a row.
        """
        if self._passing:
            self._passing -= 1
            return None
        keys = sorted(needed)
        old = self._states.take(keys)
        if old is None:
            return None
        # Before the decision: from that to its statement nothing waits, so that it is by the limits of now.
        await self._end_begun(connection)
        known = self._current()
        at_us = self._clock()
        for key, state in zip(keys, old, strict=True):
            needed[key].take_in(state, at_us)
        if done.last >= number:
            return None
        done.last = number
        found = self._batch(done, number, needed, at_us)
        try:
            results = [_result(operation, found) for operation in gathering.join(needed, is_alive=True)]
        except RowsChanged:
            return None
        self.granted = _granted(results)
        contents = {key: needed[key].content().decode() for key in keys}
        written = (keys, old, list(contents.values()), *_apart(found.entries))
        is_alive = gathering.needs_live_node()
        if is_alive and known is not None and known.node_id != done.node_id:
            raise NotAlive
        if known is not None:
            swap = await connection.fetchrow(_SWAP_ALIVE_CURRENT if is_alive else _SWAP_CURRENT, *written, *known)
        elif is_alive:
            swap = await connection.fetchrow(_SWAP_ALIVE, *written, done.node_id)
        else:
            swap = await connection.fetchrow(_SWAP_ALL, *written)
        assert swap is not None, "it has one row"
        self._clock.set(swap["at_us"])
        if not swap["by_all"]:
            done.last, self.granted, self._linking = 0, [], []
            self._passing, self._pass_next = self._pass_next, min(2 * self._pass_next, _PASSED_OVER_MOST)
            return None
        self._pass_next = 1
        self.swapped += 1
        self._states.note(contents)
        return results

    @contextlib.asynccontextmanager
    async def _transaction(self, connection: DatabaseConnection, gathering: Gathering) -> AsyncIterator[None]:
        """A transaction, for the block. Its commit begins the next one where another batch follows."""
        if self._begun is not connection:
            await connection.execute("BEGIN")
        self._begun = None
        try:
            yield
        except Exception:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        follows = gathering.has_followers()
        await connection.execute("COMMIT AND CHAIN" if follows else "COMMIT")
        self._begun = connection if follows else None

    async def _end_begun(self, connection: DatabaseConnection) -> None:
        """End the transaction that the last commit began: what follows needs none, or its own."""
        if self._begun is connection:
            self._begun = None
            await connection.execute("ROLLBACK")

    async def _make(self, connection: DatabaseConnection, needed: dict[str, Any]) -> None:
        """Make the missing rows, with what memory has; in a transaction of its own: locks are taken in order."""
        missing = sorted(needed.keys() - self._known)
        if missing:
            await self._end_begun(connection)
            if self._restore is not None:
                found = {record["key"] for record in await connection.fetch(_THERE, missing)}
                absent = [needed[key] for key in missing if key not in found]
                if absent:
                    await self._restore(connection, absent)
            contents = [needed[key].content().decode() for key in missing]
            async with connection.transaction():
                # A crash of the database must not lose it: what is held is in the row alone.
                await connection.execute("SET LOCAL synchronous_commit = on")
                await connection.execute(_MAKE, missing, contents)
            if len(self._known) + len(missing) > _KNOWN_MOST:
                self._known.clear()
            self._known.update(missing)

    async def _lock_and_write(
        self,
        connection: DatabaseConnection,
        gathering: Gathering,
        done: DoneRow,
        number: int,
        needed: dict[str, Any],
    ) -> tuple[list[Any], dict[str, str]]:
        """Returns each operation's result or refusal, and what was written, by key."""
        keys = sorted(needed)
        known = self._current()
        # Operations that need a live node may join a batch that does not.
        if known is None:
            found = await connection.fetch(_LOCK_ALIVE, keys, done.node_id)
        else:
            found = await connection.fetch(_LOCK_CURRENT, keys, *known)
        is_alive = bool(found) and (known is None or known.node_id == done.node_id)
        if not is_alive and gathering.needs_live_node() and (found or known == self._current()):
            raise NotAlive
        if not found and known is not None:
            return await self._not_current(connection, gathering, done, number, known), {}
        if not found:
            found = await connection.fetch(_LOCK_ALL, keys)
        if len(found) < len(keys):
            self._known.difference_update(keys)
            raise RowsChanged
        at_us = self._clock.set(max(record["at_us"] for record in found))
        for record in found:
            needed[record["key"]].take_in(record["state"], at_us)
        operations = gathering.join(needed, is_alive=is_alive)
        if done.last >= number:
            # It was committed when the connection was lost.
            return [None] * len(operations), {}
        done.last = number
        locked = self._batch(done, number, needed, at_us)
        results = [_result(operation, locked) for operation in operations]
        self.granted = _granted(results)
        return results, await _write(connection, locked)

    def _current(self) -> KnownChanges | None:
        """Returns what memory decides by; None: no operator changes anything. Raises ``MemoryBehind``."""
        if self._known_changes is None:
            return None
        known = self._known_changes()
        if known is None:
            raise MemoryBehind
        return known

    async def _not_current(
        self, connection: DatabaseConnection, gathering: Gathering, done: DoneRow, number: int, known: KnownChanges
    ) -> list[Any]:
        """Returns no results where the batch is committed already. Raises ``RowsChanged`` or ``MemoryBehind``."""
        last = await connection.fetchval(_LAST, done.key)
        if last is not None and int(last) >= number:
            return [None] * len(gathering.join({}, is_alive=True))
        # Rows may have been removed, too.
        self._known.clear()
        if known != self._current():
            raise RowsChanged
        raise MemoryBehind

    def _batch(self, done: DoneRow, number: int, rows: dict[str, Any], at_us: int) -> Batch:
        self._linking = []
        return Batch(done.node_id, 0 if self._is_durable else number, rows, at_us, self._linking)


async def _write(connection: DatabaseConnection, batch: Batch) -> dict[str, str]:
    """Returns what was written, by key."""
    # What memory has now: once this waits, another transaction may begin a new window.
    contents = {key: row.content().decode() for key, row in batch.rows.items()}
    written = list(contents), list(contents.values())
    if batch.entries:
        await connection.execute(_WRITE_AND_ADD, *written, *_apart(batch.entries))
    else:
        await connection.execute(_WRITE_ROWS, *written)
    return contents


def _apart(entries: Iterable[LinkedReceipt]) -> tuple[list[str], list[bytes]]:
    return [linked.entry.receipt.id for linked in entries], [linked.encoded for linked in entries]


def _granted(results: list[Any]) -> list[Any]:
    return [each for each in results if each is not None and not isinstance(each, TrustGateError)]


def _result(operation: Operation, batch: Batch) -> Any:
    try:
        return operation.apply(batch)
    except TrustGateError as refusal:
        return refusal


def unreachable() -> Unavailable:
    """Returns the refusal of what the database would have to admit, while it is away."""
    return Unavailable(
        "The gateway's database cannot be reached: nothing can be admitted until it can.",
        code="store_unreachable",
        headers={"retry-after": RETRY_AFTER_S},
    )
