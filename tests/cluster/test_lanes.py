"""What becomes of a batch's operations when it fails: without a database, whose answers are the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest

from tests.support.processes import PATIENCE_S
from trustgate.cluster import lanes
from trustgate.cluster.batches import BatchWriter, DatabaseClock, MemoryBehind, NotAlive, RowsChanged
from trustgate.cluster.changes import KnownChanges
from trustgate.cluster.database import DatabaseAway
from trustgate.cluster.lanes import BatchLane
from trustgate.cluster.row_states import RowStates
from trustgate.cluster.rows import DoneRow, HomeTaken
from trustgate.errors import TrustGateError, Unavailable

AWAY = DatabaseAway("The database is away.", why="nothing listens at 5432")


class Session:
    """A session whose connection is the same, until ``cut``; reads answer ``last``."""

    def __init__(self) -> None:
        self._connection = self
        self.last: str | None = None
        self.read: list[str] = []
        #: Is called at each use; what it raises is what becomes of it.
        self.on_use: Callable[[], object] = int

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        self.on_use()
        yield self._connection

    def cut(self) -> None:
        """The next use has another connection."""
        other = Session()
        other.last, other.read = self.last, self.read
        self._connection = other

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def fetchval(self, statement: str, key: str) -> str | None:
        self.read.append(key)
        return self.last

    async def execute(self, statement: str, key: str, state: str) -> None:
        self.read.append(f"{key}={state}")


class Lane:
    """A lane, the database's answers in turn (then all goes well), and what it was asked."""

    def __init__(self, *, persists: bool) -> None:
        self.session = Session()
        self.answers: list[Callable[[list[Any]], list[Any]] | Exception] = []
        #: The operations of each attempt, and the number of its batch.
        self.attempts: list[tuple[list[Any], int]] = []
        self.granted: list[Any] = []
        self.lost: list[Any] = []
        self.lane = BatchLane(
            "closing",
            cast(Any, self.session),
            lambda: "node_1",
            DatabaseClock(),
            persists=persists,
            on_lost=self.lost.append,
        )

    async def write(self, writer: BatchWriter, gathering: Any) -> list[Any]:
        operations = [waiting.operation for waiting in gathering.batch]
        self.attempts.append((operations, self.lane._number))
        writer.granted = list(self.granted)
        answer = self.answers.pop(0) if self.answers else None
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return [f"{name} done" for name in operations] if answer is None else answer(operations)

    def submit(self, *names: str, **options: Any) -> list[asyncio.Future[Any]]:
        """Operations of one batch."""
        return [asyncio.ensure_future(self._result(name, options)) for name in names]

    async def _result(self, name: str, options: dict[str, Any]) -> Any:
        return await self.lane.submit(cast(Any, name), **options)

    @property
    def sizes(self) -> list[int]:
        return [len(operations) for operations, _ in self.attempts]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that lanes made, which take no time."""
    taken: list[float] = []
    pause = asyncio.sleep

    class Turns:
        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            if seconds:
                taken.append(seconds)
            await pause(0)

    monkeypatch.setattr(lanes, "asyncio", Turns())
    return taken


@contextlib.asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, *, persists: bool) -> AsyncIterator[Lane]:
    lane = Lane(persists=persists)

    async def write(writer: BatchWriter, _: object, gathering: Any, *__: Any) -> list[Any]:
        return await lane.write(writer, gathering)

    monkeypatch.setattr(BatchWriter, "write", write)
    task = asyncio.ensure_future(lane.lane.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield lane
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def raising(name: str, error: Exception) -> Callable[[list[Any]], list[Any]]:
    """Fails while an operation of that name is in the batch."""

    def answer(operations: list[Any]) -> list[Any]:
        if name in operations:
            raise error
        return [f"{each} done" for each in operations]

    return answer


def doubled(first_s: float, last_s: float) -> Iterator[float]:
    while True:
        yield first_s
        first_s = min(2 * first_s, last_s)


async def test_what_goes_well_is_numbered_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, persists=True) as lane:
        committed: list[str] = []
        [first] = lane.submit("a", on_commit=lambda: committed.append("a"))
        assert await first == "a done"
        refusal = Unavailable("There is no room.")
        lane.answers.append(lambda operations: [refusal, "c done"])
        second, third = lane.submit("b", "c")
        with pytest.raises(Unavailable, match="no room"):
            await second
        assert await third == "c done"
        await lane.lane.flush()
        assert (lane.attempts, committed) == ([(["a"], 1), (["b", "c"], 2)], ["a"])
        assert (lane.lane.committed, lane.lane.repeated, lane.lane.fault, lane.lane.is_busy) == (2, 0, None, False)
        assert not lane.lane.is_loaded
        await asyncio.gather(*lane.submit("d", "e", "f", "g"))
        await lane.lane.flush()
        assert lane.lane.is_loaded


async def test_rows_that_changed_have_it_done_again_at_once_and_then_alone(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    """Twenty times together; where each by itself is refused, too, the other is done."""
    async with running(monkeypatch, persists=True) as lane:
        lane.answers = [*[RowsChanged()] * 20, *[raising("a", RowsChanged())] * 24]
        bad, good = lane.submit("a", "b")
        assert (await bad, await good) == ("a done", "b done")
        await lane.lane.flush()
        # It is not given up, and others wait for it: with pauses, and with what is wrong.
        assert lane.sizes == [2] * 20 + [1] * 25 + [1]
        assert [names for names, _ in lane.attempts[20:]] == [["a"]] * 25 + [["b"]]
        assert lane.lane.repeated == 20 + 24
        assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8]
        assert lane.lane.fault is None


async def test_what_need_not_persist_fails_after_its_attempts(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    async with running(monkeypatch, persists=False) as lane:
        lane.answers = [RowsChanged()] * 20
        [only] = lane.submit("a")
        with pytest.raises(TrustGateError, match="The gateway failed"):
            await only
        assert (lane.sizes, lane.lane.repeated, pauses) == ([1] * 20, 19, [])
        assert lane.lane.fault == "an operation failed (RowsChanged)"
        # The first time an operation's own fault is met, those that came with it go by themselves.
        lane.attempts.clear()
        lane.answers = [raising("b", ValueError("b"))] * 9
        good, bad, other = lane.submit("a", "b", "c")
        assert (await good, await other) == ("a done", "c done")
        with pytest.raises(TrustGateError, match="The gateway failed"):
            await bad
        assert [names for names, _ in lane.attempts] == [["a", "b", "c"], ["a"], ["b"], ["c"]]
        lane.answers = [Unavailable("The session is over.")]
        both = lane.submit("d", "e")
        for each in both:
            with pytest.raises(Unavailable, match="session is over"):
                await each


async def test_what_persists_is_tried_twenty_times_where_it_fails_by_itself(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    async with running(monkeypatch, persists=True) as lane:
        lane.answers = [ValueError("a")] * 20
        seen = []

        def note(_: list[Any]) -> list[Any]:
            seen.append(lane.lane.fault)
            raise ValueError("a")

        lane.answers[10] = note
        [only] = lane.submit("a")
        assert await only is None, "its request does not wait"
        await lane.lane.flush()
        assert (lane.sizes, seen) == ([1] * 20, ["ValueError"])
        assert lane.lane.fault == "an operation failed (ValueError)"
        wait = doubled(0.05, 2.0)
        assert pauses == [next(wait) for _ in range(19)]
        [after] = lane.submit("b")
        assert await after == "b done"
        assert lane.lane.fault is None


async def test_a_home_that_was_taken_is_told_and_tried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, persists=True) as lane:
        taken = asyncio.Event()
        lane.lane.on_taken = taken.set
        lane.answers = [HomeTaken("Another process has it.")] * 25
        [only] = lane.submit("a")
        assert await only is None
        assert lane.lane.fault == "Another process has it."
        await lane.lane.flush()
        assert (taken.is_set(), lane.sizes) == (True, [1] * 26)


async def test_a_node_that_is_dead_or_behind_opens_nothing_and_closes_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch, persists=True) as lane:
        committed: list[str] = []
        lane.answers = [MemoryBehind(), NotAlive()]
        closing, opening = lane.submit("a", on_commit=lambda: committed.append("a")) + lane.submit("b", persists=False)
        assert await closing is None
        with pytest.raises(Unavailable):
            await opening
        assert lane.lane.fault == "this process's lease was over, and it has not loaded the operators' changes yet"
        await lane.lane.flush()
        assert [names for names, _ in lane.attempts] == [["a", "b"], ["a"], ["a"]]
        assert committed == ["a"]
        assert not lane.lane.fault
    async with running(monkeypatch, persists=False) as lane:
        lane.answers = [NotAlive()]
        [refused] = lane.submit("a")
        with pytest.raises(Unavailable):
            await refused
        await lane.lane.flush()
        assert (lane.sizes, lane.lane.fault) == ([1], None)


async def test_a_database_that_is_away_holds_up_no_request(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    async with running(monkeypatch, persists=True) as lane:
        came: list[asyncio.Future[Any]] = []

        def away(_: list[Any]) -> list[Any]:
            came.extend(lane.submit("later") + lane.submit("opens later", persists=False))
            raise AWAY

        def still_away(_: list[Any]) -> list[Any]:
            assert lane.lane.fault == "nothing listens at 5432"
            raise AWAY

        lane.answers = [away, still_away, still_away]
        closing, opening = lane.submit("a") + lane.submit("b", persists=False)
        assert await closing is None
        with pytest.raises(Unavailable):
            await opening
        later, opens_later = came
        assert await later is None
        with pytest.raises(Unavailable):
            await opens_later
        await lane.lane.flush()
        assert [names for names, _ in lane.attempts] == [["a", "b"], ["a"], ["a"], ["a"], ["later"]]
        # A batch keeps the number of its first attempt.
        assert [number for _, number in lane.attempts] == [1, 1, 1, 1, 2]
        assert pauses == [0.05, 0.1, 0.2]
        assert (lane.lane.committed, lane.lane.fault) == (2, None)


@pytest.mark.parametrize(("last", "gives_back"), [("1", True), ("2", True), ("0", False), ("-1", False), (None, False)])
async def test_what_a_lost_commit_granted_is_given_back_where_it_was_committed(
    monkeypatch: pytest.MonkeyPatch, last: str | None, gives_back: bool
) -> None:
    """Its requests were refused, as its outcome was unknown."""
    async with running(monkeypatch, persists=False) as lane:
        lane.granted = ["grant"]
        lane.answers = [AWAY]
        lane.session.last = last
        [opening] = lane.submit("a")
        with pytest.raises(Unavailable):
            await opening
        lane.session.cut()
        await lane.lane.flush()
        assert lane.lost == (["grant"] if gives_back else [])
        assert [read.rpartition("/")[2] for read in lane.session.read] == (
            ["closing", "closing=-1"] if last == "0" else ["closing"]
        )
        assert (lane.sizes, lane.lane.fault) == ([1], None)


async def test_what_comes_while_it_cannot_be_read_what_was_committed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "_LONG_S", -1.0)
    async with running(monkeypatch, persists=False) as lane:
        came, faults = [], []

        def away() -> None:
            faults.append(lane.lane.fault)
            if len(faults) == 1:
                came.append(asyncio.ensure_future(_result(lane.lane.submit(cast(Any, "b")))))
            if len(faults) < 3:
                raise AWAY

        def lost(_: list[Any]) -> list[Any]:
            lane.session.cut()
            lane.session.on_use = away
            raise AWAY

        lane.granted, lane.answers = ["grant"], [lost]
        [opening] = lane.submit("a")
        with pytest.raises(Unavailable):
            await opening
        await lane.lane.flush()
        [other] = came
        with pytest.raises(Unavailable):
            await other
        assert (lane.sizes, faults, lane.lane.fault) == (
            [1],
            [None, "The database is away.", "The database is away."],
            None,
        )


async def test_what_comes_during_a_long_wait_is_refused_and_after_a_short_one_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for long_s, is_refused in ((3_600.0, False), (-1.0, True)):
        monkeypatch.setattr(lanes, "_LONG_S", long_s)
        async with running(monkeypatch, persists=False) as lane:
            came: list[asyncio.Future[Any]] = []

            _ = lane.lane.submit(cast(Any, "a"))

            def away(_: list[Any]) -> list[Any]:
                came.append(asyncio.ensure_future(_result(lane.lane.submit(cast(Any, "b")))))  # noqa: B023 - as above
                raise AWAY

            lane.answers = [away]
            await lane.lane.flush()
            [other] = came
            if is_refused:
                with pytest.raises(Unavailable):
                    await other
            else:
                assert await other == "b done"


async def _result(waiting: Any) -> Any:
    return await waiting


@pytest.mark.parametrize(
    ("last", "changes", "found"),
    [("3", "same", None), ("4", "same", None), ("2", "same", MemoryBehind), (None, "other", RowsChanged)],
)
async def test_a_batch_whose_memory_was_behind_is_done_again_unless_it_is_committed(
    last: str | None, changes: str, found: type[Exception] | None
) -> None:
    known = KnownChanges("node_1", 1)
    now = known if changes == "same" else KnownChanges("node_1", 2)
    writer = BatchWriter(DatabaseClock(), RowStates(), is_durable=True, restore=None, known_changes=lambda: now)
    session = Session()
    session.last = last
    queue = [lanes._Waiting(asyncio.get_running_loop(), cast(Any, "a"), None, True)]
    gathering, done = lanes._Gathering(queue, lanes._NO_QUEUE), DoneRow("node_1", "closing")
    deciding = writer._not_current(cast(Any, session), gathering, done, 3, known)
    if found is None:
        assert await deciding == [None]
    else:
        with pytest.raises(found):
            await deciding
