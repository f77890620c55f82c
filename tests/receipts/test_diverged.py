"""A journal with receipts that its database lacks, after another machine has gone on from the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.entries import make_receipt
from trustgate.receipts.diverged import (
    append_diverged,
    append_drafts,
    put_aside_left,
    remove_asides,
    set_aside_diverged,
)
from trustgate.receipts.journal import Journal, mark_path
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.receipts.tree import Tree
from trustgate.store import ReceiptFilter, Store, open_store
from trustgate.types import Entry


async def open_log(store: Store, folder: Path) -> tuple[Journal, Log]:
    """The log over a machine's journal, opened as a server does it."""
    await set_aside_diverged(folder, store)
    journal = Journal.open(folder, store_id=store.store_id, last_seq=await store.last_seq(), segment_bytes=64 * 1024)
    return journal, await Log.recover(store, journal, await Tree.open(store))


def append(log: Log, tenant: str = "tenant_1") -> str:
    tseq, tprev = log.link(tenant)
    receipt = make_receipt(log.last_seq + 1, tenant=tenant, tseq=tseq, tprev=tprev)
    return log.append(receipt, bytes(32)).receipt.id


@pytest.mark.parametrize("killed", [False, True])
async def test_what_one_journal_alone_has_comes_to_the_logs_end_once(tmp_path: Path, killed: bool) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    one, two = tmp_path / "one", tmp_path / "two"
    journal, log = await open_log(store, one)
    ids = [append(log), append(log, "tenant_2"), append(log)]
    await log.flush()
    ids += [append(log), append(log, "tenant_2")]
    journal.close()  # killed: these two are in its journal alone
    journal, log = await open_log(store, two)
    ids += [append(log), append(log), append(log, "tenant_3")]
    await log.flush()
    journal.close()
    journal, log = await open_log(store, one)
    if killed:  # after the journal was put aside, before its receipts are in the log
        journal.close()
        journal, log = await open_log(store, one)
    assert await append_diverged(one, store, log) == 2
    assert await append_diverged(one, store, log) == 0
    assert [path.name for path in tmp_path.iterdir() if "diverged" in path.name] == []
    journal.close()
    entries = await store.entries(ReceiptFilter(oldest_first=True, limit=100))
    assert [entry.seq for entry in entries] == list(range(1, 9))
    assert [entry.receipt.id for entry in entries] == [*ids[:3], *ids[5:], *ids[3:5]]
    heads: dict[str, tuple[int, str]] = {}
    for entry in entries:
        receipt = entry.receipt
        tseq, tprev = heads.get(receipt.tenant, (0, FIRST_TPREV))
        assert (receipt.tseq, receipt.tprev) == (tseq + 1, tprev)
        heads[receipt.tenant] = (receipt.tseq, leaf_hash(receipt).hex())
    await store.close()


async def test_a_journal_that_continues_the_database_is_left_alone(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    journal, log = await open_log(store, tmp_path / "one")
    append(log)
    await log.flush()
    append(log)
    journal.close()
    journal, log = await open_log(store, tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir() if "diverged" in path.name] == []
    assert await append_diverged(tmp_path / "one", store, log) == 0
    assert await store.last_seq() == 2
    journal.close()
    await store.close()


async def test_a_start_that_was_killed_while_it_put_a_journal_aside_goes_on(tmp_path: Path) -> None:
    """The first of two folders was removed already, and the second keeps its number."""
    store = await open_store(tmp_path / "trustgate.duckdb")
    one, two = tmp_path / "one", tmp_path / "two"
    journal, log = await open_log(store, one)
    append(log)
    await log.flush()
    append(log)
    journal.close()
    journal, log = await open_log(store, two)
    append(log)
    await log.flush()
    journal.close()
    one.rename(tmp_path / "one.diverged-2")
    mark_path(one).unlink()
    journal, log = await open_log(store, one)
    append(log)
    journal.close()
    journal, log = await open_log(store, two)
    append(log)
    await log.flush()
    journal.close()
    journal, log = await open_log(store, one)
    assert await append_diverged(one, store, log) == 2
    assert await store.last_seq() == 5
    journal.close()
    await store.close()


async def test_a_process_that_serves_alone_appends_what_one_among_several_had_in_its_journal_alone(
    tmp_path: Path,
) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    folder, drafts = tmp_path / "journal", tmp_path / "drafts"
    journal, log = await open_log(store, folder)
    closed = [append(log), append(log, "tenant_2")]
    await log.flush()
    left = Journal.open(drafts, store_id="home_1", last_seq=0, segment_bytes=64 * 1024)
    left_ids = ["rcpt_left_1", "rcpt_left_2"]
    ids = [*closed, *left_ids]
    for number, receipt_id in enumerate([*ids, "rcpt_of_others"], start=1):
        receipt = make_receipt(number, id=receipt_id, tenant="tenant_2", tseq=0, tprev="")
        left.append(Entry(seq=number, receipt=receipt, secret=bytes(32)))
    left.close()

    async def settle(entries: list[Entry]) -> list[Entry]:
        """Of the third one another process has put the same on record."""
        assert [entry.receipt.id for entry in entries] == [*left_ids, "rcpt_of_others"]
        return entries[:2]

    assert await append_drafts(drafts, "home_1", store, log, settle) == 3
    journal.close()
    assert [entry.receipt.id for entry in await store.entries(ReceiptFilter(oldest_first=True))] == ids
    assert [entry.receipt.tseq for entry in await store.entries(ReceiptFilter(oldest_first=True))] == [1, 1, 2, 3]
    # Where it goes on as one among several, it begins a journal after the last number that is closed.
    anew = Journal.open(drafts, store_id="home_1", last_seq=2, segment_bytes=64 * 1024)
    assert anew.last_seq == 2
    anew.close()
    await store.close()


async def test_one_among_several_finds_what_a_process_that_served_alone_has_left_until_the_database_has_it(
    tmp_path: Path,
) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    folder = tmp_path / "journal"
    journal, log = await open_log(store, folder)
    append(log)
    await log.flush()
    ids = [append(log), append(log, "tenant_2")]
    journal.close()
    for _ in range(2):
        assert [entry.receipt.id for entry in await put_aside_left(folder, store)] == ids
        assert not folder.exists()
    entries = await put_aside_left(folder, store)
    await store.append_entries(entries)
    assert await put_aside_left(folder, store) == []
    await remove_asides(folder)
    assert [path.name for path in tmp_path.iterdir() if "journal" in path.name] == []
    await store.close()
