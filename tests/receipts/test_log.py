"""The log of receipts over a real store and a real journal: places, chains, and what happens while one fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.entries import make_receipt
from tests.support.processes import PATIENCE_S
from trustgate.errors import Unavailable
from trustgate.receipts import log as log_module
from trustgate.receipts.journal import Journal, mark_path
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.receipts.tree import Tree
from trustgate.store import ReceiptFilter, Store, StoredTile, open_store
from trustgate.store.marks import read_mark
from trustgate.types import Entry, Receipt


class Home:
    """A store, a journal and the log over them; ``reopen`` is a start after a death."""

    def __init__(self, folder: Path, store: Store, journal: Journal, tree: Tree, log: Log) -> None:
        self._folder = folder
        self.store = store
        self.journal = journal
        self.tree = tree
        self.log = log

    @classmethod
    async def open(cls, folder: Path) -> Home:
        store = await open_store(folder / "trustgate.duckdb")
        journal = Journal.open(
            folder / "journal", store_id=store.store_id, last_seq=await store.last_seq(), segment_bytes=64 * 1024
        )
        tree = await Tree.open(store)
        return cls(folder, store, journal, tree, await Log.recover(store, journal, tree))

    async def close(self) -> None:
        self.journal.close()
        await self.store.close()

    async def reopen(self) -> Home:
        await self.close()
        return await Home.open(self._folder)

    def append(self, tenant: str = "tenant_1") -> Receipt:
        return self.append_entry(tenant).receipt

    def append_entry(self, tenant: str = "tenant_1") -> Entry:
        tseq, tprev = self.log.link(tenant)
        receipt = make_receipt(self.log.last_seq + 1, tenant=tenant, tseq=tseq, tprev=tprev)
        return self.log.append(receipt, bytes(32))

    async def stored(self) -> list[int]:
        return [entry.seq for entry in await self.store.entries(ReceiptFilter(oldest_first=True, limit=1_000))]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    home = await Home.open(tmp_path)
    yield home
    with contextlib.suppress(Exception):
        await home.close()


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


# places and chains


async def test_each_tenant_has_a_chain_of_its_own_that_goes_on_after_a_death(home: Home) -> None:
    first, other, second = home.append(), home.append("tenant_2"), home.append()
    await home.log.flush()
    third = home.append()  # in the journal alone
    again = await home.reopen()
    fourth = again.append()
    chain = [first, second, third, fourth]
    assert [receipt.tseq for receipt in chain] == [1, 2, 3, 4]
    assert [receipt.tprev for receipt in chain] == [FIRST_TPREV, *(leaf_hash(receipt).hex() for receipt in chain[:3])]
    assert (other.tseq, other.tprev) == (1, FIRST_TPREV)
    await again.log.flush()
    assert await again.stored() == [1, 2, 3, 4, 5]
    await again.close()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_recovery_and_flush_take_everything_whatever_the_batches(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    monkeypatch.setattr(log_module, "_BATCH_ENTRIES", 2)
    for _ in range(count):
        home.append()
    caplog.set_level(logging.INFO)
    again = await home.reopen()
    assert (await again.stored(), again.log.pending) == (list(range(1, count + 1)), 0)
    assert (again.tree.size, again.journal.pending) == (count, 0)
    assert f"recovered {count} receipts from the journal" in caplog.messages
    for _ in range(count):
        again.append()
    assert again.log.pending == count
    await again.log.flush()
    assert (await again.stored(), again.log.pending) == (list(range(1, 2 * count + 1)), 0)
    assert (again.tree.size, again.journal.pending) == (2 * count, 0)
    await again.close()


async def test_full_batches_wait_for_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pause before each, what is integrated in a second would be bounded, and the rest wait in memory."""
    monkeypatch.setattr(log_module, "_BATCH_ENTRIES", 2)
    monkeypatch.setattr(log_module, "_BATCH_PAUSE_S", 3_600)
    for _ in range(6):
        home.append()
    async with running(home.log.run()):
        await until(lambda: home.log.pending == 0)
    assert await home.stored() == [1, 2, 3, 4, 5, 6]


class Pauses:
    """Stands for ``asyncio`` in the log: its pauses are noted, and take no time."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        self.taken.append(seconds)
        return asyncio.timeout(0)


async def test_batches_form_in_pauses(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones, so that a receipt is soon to be found; longer where many come, which costs less for each."""
    pauses = Pauses()
    monkeypatch.setattr(log_module, "asyncio", pauses)
    short, long = log_module._BATCH_PAUSE_S, log_module._BUSY_PAUSE_S
    async with running(home.log.run()):
        for count, taken in (
            (1, [short]),
            (log_module._BUSY_ENTRIES - 1, [short]),
            (log_module._BUSY_ENTRIES, [short, long - short]),
        ):
            for _ in range(count):
                home.append()
            await until(lambda: home.log.pending == 0)
            for _ in range(10):  # nothing is left to be done
                await asyncio.sleep(0)
            assert pauses.taken == taken
            pauses.taken.clear()
        home.log.commits_first = True
        home.append()
        await until(lambda: home.log.pending == 0)
        assert pauses.taken == []


# where answers wait for the commit


async def test_an_answer_waits_until_its_receipt_is_committed_where_the_store_commits_first(home: Home) -> None:
    assert home.log.committed(home.append_entry()) is None
    home.log.commits_first = True
    waiting = [home.log.committed(home.append_entry()) for _ in range(2)]
    assert None not in waiting
    await home.log.flush()
    async with asyncio.timeout(PATIENCE_S):
        for each in waiting:
            assert each is not None
            await each
    assert await home.stored() == [1, 2, 3]


async def test_a_commit_that_takes_too_long_is_waited_for_no_longer(home: Home) -> None:
    home.log.commits_first = True
    home.log._late.after_s = 0.0
    waiting = home.log.committed(home.append_entry())
    assert waiting is not None
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert home.log.fault == "the database does not answer"
    assert home.log.committed(home.append_entry()) is None, "those that follow do not wait at all"
    await home.log.flush()
    assert not home.log.fault


async def test_a_commit_that_fails_is_waited_for_no_longer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> None:
        raise Unavailable("The database is away.")

    home.log.commits_first = True
    home.log._late.after_s = 3_600.0
    waiting = home.log.committed(home.append_entry())
    assert waiting is not None
    monkeypatch.setattr(home.store, "append_entries", fail)
    async with running(home.log.run()):
        await asyncio.wait_for(waiting, PATIENCE_S)
    assert home.log.fault == "The database is away."


async def test_a_batch_that_becomes_full_ends_the_pause(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gathers in a pause would be in memory until its end, however much that is."""
    monkeypatch.setattr(log_module, "_BATCH_ENTRIES", 3)
    monkeypatch.setattr(log_module, "_BATCH_PAUSE_S", 3_600)
    async with running(home.log.run()):
        for seq in range(1, 8):
            home.append()
            for _ in range(10):  # turns of the loop: the pause has begun
                await asyncio.sleep(0)
            if seq % 3 == 0:
                await until(lambda: not home.log.pending)
        assert await home.stored() == [1, 2, 3, 4, 5, 6]
    await home.log.flush()


# while something fails


@pytest.mark.parametrize("commits_first", [False, True])
async def test_a_store_that_goes_on_failing_is_tried_more_and_more_slowly(
    home: Home, monkeypatch: pytest.MonkeyPatch, commits_first: bool
) -> None:
    pauses = Pauses()
    monkeypatch.setattr(log_module, "asyncio", pauses)
    monkeypatch.setattr(log_module, "_BATCH_PAUSE_S", 0)
    home.log.commits_first = commits_first
    append, tries, failures = home.store.append_entries, 0, {1, 2, 3, 4, 5, 6, 7, 9}

    async def failing(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries in failures:
            raise Unavailable("The disk is full.")
        await append(*arguments)

    monkeypatch.setattr(home.store, "append_entries", failing)
    async with running(home.log.run()):
        for count in (1, 2):
            home.append()
            await until(lambda: home.log.pending == 0)
            assert tries == (8, 10)[count - 1]
    waited = [seconds for seconds in pauses.taken if seconds]
    assert waited == ([0.25] * 8 if commits_first else [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 1.0])


async def test_a_store_that_fails_is_tried_again_and_the_fault_is_told_while_it_lasts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_BATCH_PAUSE_S", 0)
    monkeypatch.setattr(log_module, "_RETRY_FIRST_S", 0)
    append, tries = home.store.append_entries, 0

    async def failing(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("The disk is full.")
        assert home.log.fault == (None if tries > 3 else "The disk is full.")
        await append(*arguments)

    monkeypatch.setattr(home.store, "append_entries", failing)
    async with running(home.log.run()):
        home.append()
        await until(lambda: home.log.pending == 0)
        assert (tries, home.log.fault, await home.stored()) == (3, None, [1])
        home.append()
        await until(lambda: home.log.pending == 0)
        assert tries == 4


async def test_a_batch_whose_caller_is_cancelled_is_committed_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    committing, goes_on = asyncio.Event(), asyncio.Event()
    append_entries = home.store.append_entries
    batches: list[int] = []

    async def slow(entries: Sequence[Entry], tiles: Sequence[StoredTile]) -> None:
        batches.append(len(entries))
        committing.set()
        await goes_on.wait()
        await append_entries(entries, tiles)

    monkeypatch.setattr(home.store, "append_entries", slow)
    home.append()
    first = asyncio.create_task(home.log.flush())
    await committing.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    home.append()
    again = asyncio.create_task(home.log.flush())
    goes_on.set()
    await again
    assert batches == [1, 1]
    assert (home.log.pending, await home.store.last_seq()) == (0, 2)


async def test_nothing_is_admitted_when_the_store_lags_too_far_behind_and_fails(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_PENDING_MOST", 2)
    for _ in range(3):
        home.append()
    home.log.check_room(1)  # it lags, but it works
    home.log.fault = "the disk is full"
    with pytest.raises(Unavailable) as refused:
        home.log.check_room(1)
    assert (refused.value.code, refused.value.headers) == ("storage_full", {"retry-after": "30"})
    await home.log.flush()
    home.log.check_room(1)
    home.log.fault = "the disk is full"
    home.append()
    home.log.check_room(1)  # it fails, and there is room


async def test_the_journal_is_kept_up_after_an_append_and_after_a_refusal(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_RETRY_FIRST_S", 0)
    kept_up = 0
    fails = False

    def maintain() -> None:
        nonlocal kept_up
        kept_up += 1
        if fails:
            raise OSError("no space")

    def no_room(records: int) -> None:
        raise Unavailable("There is no room.", code="storage_full")

    monkeypatch.setattr(home.journal, "maintain", maintain)
    pauses = Pauses()
    monkeypatch.setattr(log_module, "asyncio", pauses)
    async with running(home.log.sync_journal(0.5)):
        for _ in range(10):
            await asyncio.sleep(0)
        assert (kept_up, pauses.taken) == (0, [])
        home.append()
        await until(lambda: kept_up == 1)
        for _ in range(10):  # nothing is left to be kept up
            await asyncio.sleep(0)
        assert pauses.taken == [0.5]
        fails = True
        monkeypatch.setattr(home.journal, "check_room", no_room)
        with pytest.raises(Unavailable):
            home.log.check_room(1)
        await until(lambda: kept_up >= 3)
        assert home.log.fault == "the journal cannot be kept up: no space"
        assert pauses.taken[:4] == [0.5, 0.5, 0, 0.5], "it is tried again after a pause"


async def test_the_receipts_of_a_turn_are_marked_together_behind_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, marks = home.journal.mark, 0

    def counted() -> None:
        nonlocal marks
        marks += 1
        mark()

    monkeypatch.setattr(home.journal, "mark", counted)
    home.append()
    home.append()
    home.append()
    await asyncio.sleep(0)
    assert marks == 1
    found = read_mark(mark_path(home.journal.folder))
    assert found is not None
    assert found.numbers[0] == home.log.last_seq == 3


async def test_what_the_journal_cannot_take_is_stored_all_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(entry: object, *, marks: bool) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(home.journal, "append", broken)
        home.append()
    assert home.log.fault == "the journal cannot be written: no space"
    await home.log.flush()
    assert await home.stored() == [1]
    assert not home.log.fault
