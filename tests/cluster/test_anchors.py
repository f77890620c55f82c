"""Two processes anchor one log: whichever comes first, and wherever the other one was stopped, there is one anchor."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.anchoring import FINALITY_SLOTS, a_world
from tests.support.chain import Answer, Call, Wrong, encoded
from tests.support.postgres import GivenPostgres, Postgres
from trustgate.errors import AnchorsChanged
from trustgate.settings import PostgresAddress
from trustgate.store import open_store
from trustgate.store.postgres.anchors import SharedAnchorBook
from trustgate.store.postgres.store import PostgresStore

#: Calls before which one process is stopped, in their order: before it has signed, and after; before its transaction
#: was sent, and after.
_STOPS = ("getSignaturesForAddress", "getLatestBlockhash", "sendTransaction", "getSignatureStatuses")


@pytest.mark.parametrize("stop", _STOPS)
async def test_one_that_was_stopped_and_goes_on_posts_no_second_anchor(
    stop: str, postgres: Postgres | GivenPostgres, tmp_path: Path
) -> None:
    address = PostgresAddress(await asyncio.to_thread(postgres.clean))
    stores = [await open_store(tmp_path / str(turn), address, several=True, mark_folder=tmp_path) for turn in (1, 2)]
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def wait(call: Call) -> Answer:
        reached.set()
        await may_go_on.wait()
        return encoded(await call.forward())

    async with a_world() as world:
        await world.fund()
        books = []
        for store in stores:
            assert isinstance(store, PostgresStore)
            books.append(SharedAnchorBook(store))
        stopped = asyncio.ensure_future(world.flush(10, Wrong(stop, wait), book=books[0]))
        await asyncio.wait_for(reached.wait(), 30)
        other = await world.flush(10, book=books[1])
        assert other.tree_size == 10
        may_go_on.set()
        # It begins anew, as a server does.
        [found] = await asyncio.gather(stopped, return_exceptions=True)
        if not isinstance(found, BaseException):
            assert found.signature == other.signature
        else:
            assert isinstance(found, AnchorsChanged)
            assert (await world.flush(10, book=books[0])).signature == other.signature
        world.net.advance(FINALITY_SLOTS)
        assert len(world.notes) == 1
        assert [(anchor.state, anchor.tree_size) for anchor in await books[0].anchors()] == [("anchored", 10)]
    for store in stores:
        await store.close()
