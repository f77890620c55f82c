"""The sequencer: one log of what several processes have linked, whichever process dies between which two steps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bookkeeping import Bookkeeper, bookkeepers, make_caller
from tests.support.postgres import GivenPostgres, Postgres
from trustgate.cluster import roles
from trustgate.cluster import sequencer as sequencing
from trustgate.cluster.holds import Use
from trustgate.cluster.roles import Role, RoleLost, Tenure
from trustgate.cluster.sequencer import Sequencer
from trustgate.errors import StoreDamaged, Unavailable
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.settings import PostgresAddress
from trustgate.store import ReceiptFilter, Store, open_store
from trustgate.types import Entry


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


@pytest.fixture
async def store(url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """The log's, in the same database."""
    opened = await open_store(tmp_path / "trustgate.duckdb", PostgresAddress(url))
    yield opened
    await opened.close()


async def close_some(keepers: list[Bookkeeper], count: int) -> None:
    """Requests of four tenants, at once over all processes."""

    async def one(number: int) -> None:
        keeper = keepers[number % len(keepers)]
        hold = await keeper.ask(make_caller(f"ten_{number % 4}"))
        assert hold is not None
        await keeper.close(hold, Use(1, 1))

    await asyncio.gather(*(one(number) for number in range(count)))


async def take_role(keeper: Bookkeeper) -> Tenure:
    async with keeper.own.use() as connection:
        [tenure] = await roles.take(connection, keeper.node_id, [Role.SEQUENCER])
    return tenure


async def entries_of(store: Store) -> list[Entry]:
    return await store.entries(ReceiptFilter(after_seq=0, oldest_first=True, limit=10_000))


def check_log(entries: list[Entry], count: int) -> None:
    """No place is empty, no receipt is there twice, and every chain is whole."""
    assert [entry.seq for entry in entries] == list(range(1, count + 1))
    assert len({entry.receipt.id for entry in entries}) == count
    ends: dict[str, tuple[int, str]] = {}
    for entry in entries:
        receipt = entry.receipt
        tseq, tprev = ends.get(receipt.tenant, (0, FIRST_TPREV))
        assert (receipt.tseq, receipt.tprev) == (tseq + 1, tprev)
        ends[receipt.tenant] = receipt.tseq, leaf_hash(receipt).hex()


async def test_what_several_link_becomes_one_log(url: str, store: Store) -> None:
    async with bookkeepers(url, 3) as keepers:
        sequencer = await Sequencer.begin(keepers[0].own, store, await take_role(keepers[0]))
        linking = asyncio.ensure_future(close_some(keepers, 300))
        while not linking.done():
            await sequencer.take()
        await linking
        await close_some(keepers, 100)
        assert await sequencer.take() > 0
        assert await sequencer.take() == 0
    check_log(await entries_of(store), 400)
    assert sequencer.tree.size == 400


async def test_what_the_sequencers_process_has_linked_is_not_read_again(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes; what the first one has linked before it was the sequencer is read, too."""
    decoded: list[str] = []
    decode: Callable[[bytes], Entry] = getattr(sequencing, "decode_entry")  # noqa: B009 - it is another module's

    def counted(text: bytes) -> Entry:
        entry = decode(text)
        decoded.append(entry.receipt.id)
        return entry

    monkeypatch.setattr(sequencing, "decode_entry", counted)
    async with bookkeepers(url, 2) as keepers:
        await close_some(keepers[:1], 10)
        with keepers[0].books.closing.linked.wanted() as linked:
            sequencer = await Sequencer.begin(keepers[0].own, store, await take_role(keepers[0]), None, linked)
            await close_some(keepers, 100)
            assert await sequencer.take() == 110
            await close_some(keepers[:1], 40)
            assert await sequencer.take() == 40
    check_log(await entries_of(store), 150)
    assert len(decoded) == 10 + 50
    assert all(linked.take(receipt_id) is None for receipt_id in decoded)


async def test_others_have_their_turns_while_many_get_their_places(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, done = 0, Counter[tuple[str, int]]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def counted(name: str) -> Callable[..., Any]:
        work = getattr(sequencing, name)

        def do(given: Any) -> Any:
            done[name, turns] += 1
            return work(given)

        return do

    async with bookkeepers(url, 1) as [keeper]:
        await close_some([keeper], 200)
        sequencer = await Sequencer.begin(keeper.own, store, await take_role(keeper))
        for name in ("decode_entry", "leaf_hash"):
            monkeypatch.setattr(sequencing, name, counted(name))
        running = asyncio.ensure_future(others())
        assert await sequencer.take() == 200
        running.cancel()
    assert done.total() == 400
    assert max(done.values()) <= 50


async def test_one_that_dies_after_its_append_leaves_nothing_twice(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bookkeepers(url, 2) as keepers:
        await close_some(keepers, 40)
        tenure = await take_role(keepers[0])
        first = await Sequencer.begin(keepers[0].own, store, tenure)
        append = store.append_entries

        async def dies(*appended: Any) -> None:
            await append(*appended)
            raise Unavailable("killed")

        monkeypatch.setattr(store, "append_entries", dies)
        with pytest.raises(Unavailable):
            await first.take()
        monkeypatch.setattr(store, "append_entries", append)
        await close_some(keepers, 20)
        async with keepers[0].own.use() as connection:
            await roles.release(connection, tenure)
        second = await Sequencer.begin(keepers[1].own, store, await take_role(keepers[1]))
        assert await second.take() == 60
        with pytest.raises(RoleLost):
            await first.take()
    check_log(await entries_of(store), 60)


async def test_a_gap_in_a_chain_is_told_and_nothing_appended(url: str, store: Store) -> None:
    async with bookkeepers(url, 1) as [keeper]:
        await close_some([keeper], 12)
        async with keeper.own.use() as connection:
            await connection.execute(
                "DELETE FROM waiting_receipts WHERE n = (SELECT n FROM waiting_receipts ORDER BY n OFFSET 5 LIMIT 1)"
            )
        sequencer = await Sequencer.begin(keeper.own, store, await take_role(keeper))
        with pytest.raises(StoreDamaged, match="of tenant ten_"):
            await sequencer.take()
    assert await entries_of(store) == []
