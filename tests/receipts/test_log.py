"""The log of receipts over a real store and a real journal: places, chains, and what happens while one fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
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
from trustgate.store import ReceiptFilter, Store, open_store
from trustgate.store.marks import read_mark
from trustgate.types import Receipt


class Home:
    """A store, a journal and the log over them; ``reopen`` is a start after a death."""

    def __init__(self, folder: Path, store: Store, journal: Journal, log: Log) -> None:
        self._folder = folder
        self.store = store
        self.journal = journal
        self.log = log

    @classmethod
    async def open(cls, folder: Path) -> Home:
        store = await open_store(folder / "trustgate.duckdb")
        journal = Journal.open(
            folder / "journal", store_id=store.store_id, last_seq=await store.last_seq(), segment_bytes=64 * 1024
        )
        return cls(folder, store, journal, await Log.recover(store, journal, await Tree.open(store)))

    async def close(self) -> None:
        self.journal.close()
        await self.store.close()

    async def reopen(self) -> Home:
        await self.close()
        return await Home.open(self._folder)

    def append(self, tenant: str = "tenant_1") -> Receipt:
        tseq, tprev = self.log.link(tenant)
        receipt = make_receipt(self.log.last_seq + 1, tenant=tenant, tseq=tseq, tprev=tprev)
        return self.log.append(receipt, bytes(32)).receipt

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
    home: Home, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(log_module, "_BATCH_ENTRIES", 2)
    for _ in range(count):
        home.append()
    again = await home.reopen()
    assert (await again.stored(), again.log.pending) == (list(range(1, count + 1)), 0)
    for _ in range(count):
        again.append()
    assert again.log.pending == count
    await again.log.flush()
    assert (await again.stored(), again.log.pending) == (list(range(1, 2 * count + 1)), 0)
    await again.close()


async def test_full_batches_wait_for_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pause before each, what is integrated in a second would be bounded, and the rest wait in memory."""
    monkeypatch.setattr(log_module, "_BATCH_ENTRIES", 2)
    monkeypatch.setattr(log_module, "_BATCH_PAUSE_S", 3_600)
    for _ in range(7):
        home.append()
    async with running(home.log.run()):
        await until(lambda: home.log.pending == 1)
    assert await home.stored() == [1, 2, 3, 4, 5, 6]
    await home.log.flush()


# while something fails


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
    async with running(home.log.sync_journal(0)):
        await asyncio.sleep(0)
        assert kept_up == 0
        home.append()
        await until(lambda: kept_up == 1)
        fails = True
        monkeypatch.setattr(home.journal, "check_room", no_room)
        with pytest.raises(Unavailable):
            home.log.check_room(1)
        await until(lambda: kept_up >= 3)
        assert home.log.fault == "the journal cannot be kept up: no space"


async def test_the_receipts_of_a_turn_are_marked_together_behind_it(home: Home) -> None:
    home.append()
    home.append()
    home.append()
    await asyncio.sleep(0)
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
