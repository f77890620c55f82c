"""Notes of changes that are not counted yet: two commands at once, one of which has lost its lock and is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.members import session
from tests.support.postgres import Postgres
from trustgate.cluster.database import DatabaseSession
from trustgate.errors import Conflict
from trustgate.server import count_notes
from trustgate.server.count_notes import Counted
from trustgate.settings import PostgresAddress
from trustgate.store import open_store
from trustgate.store.postgres.store import PostgresStore
from trustgate.types import Alias

CHANGE = Alias(name="fast", target="gpt-4o")


class Place(NamedTuple):
    """A database, as a command of one process and the count of another have it."""

    url: str
    store: PostgresStore
    counting: DatabaseSession

    async def note(self, note: str) -> None:
        async with self.counting.use() as connection:
            await count_notes.add(connection, note)

    async def notes(self) -> frozenset[str]:
        async with self.counting.use() as connection:
            return await count_notes.load(connection)

    async def strike_out(self, counted: Counted) -> None:
        async with self.counting.use() as connection, connection.transaction():
            await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
            await count_notes.strike_out(connection, counted)

    async def changes(self) -> int:
        async with self.counting.use() as connection:
            return int(await connection.fetchval("SELECT changes FROM progress"))


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    return postgres.schema()


@pytest.fixture
async def place(url: str, tmp_path: Path) -> AsyncIterator[Place]:
    store = await open_store(tmp_path / "trustgate.duckdb", PostgresAddress(url))
    assert isinstance(store, PostgresStore)
    counting = session(url)
    async with counting.use() as connection:
        await connection.execute("DELETE FROM shared_state")
    yield Place(url, store, counting)
    await counting.close()
    await store.close()


async def test_a_count_strikes_out_its_own_note_and_leaves_that_of_a_command_under_way(place: Place) -> None:
    await place.note("one")
    await place.note("two")
    await place.strike_out(Counted("two"))
    assert await place.notes() == {"one"}
    await place.strike_out(Counted("one"))
    assert await place.notes() == frozenset()


async def test_a_change_whose_note_another_command_has_struck_out_is_not_made(place: Place) -> None:
    await place.note("one")
    await place.strike_out(Counted("", await place.notes(), await place.changes()))
    before = await place.changes()
    await place.note("two")
    with pytest.raises(Conflict, match="another command came between"):
        await place.store.put_noted("one", CHANGE)
    assert await place.changes() == before
    await place.store.put_noted("two", CHANGE)
    assert await place.changes() == before + 1


async def test_a_note_stays_whose_change_came_while_others_counted(place: Place) -> None:
    await place.note("one")
    counted = Counted("", await place.notes(), await place.changes())
    await place.store.put_noted("one", CHANGE)
    await place.strike_out(counted)
    assert await place.notes() == {"one"}
    await place.strike_out(counted._replace(last_change=await place.changes()))
    assert await place.notes() == frozenset()


async def test_a_count_waits_for_a_change_that_is_being_made(place: Place) -> None:
    await place.note("one")
    counted = Counted("", await place.notes(), await place.changes())
    making = session(place.url)
    async with making.use() as connection, connection.transaction():
        await connection.execute("UPDATE progress SET changes = changes + 1")
        counts = asyncio.ensure_future(place.strike_out(counted))
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await counts
    assert await place.notes() == {"one"}
    await making.close()


async def test_a_note_of_a_version_without_names_is_one_of_others(place: Place) -> None:
    async with place.counting.use() as connection:
        await connection.execute("INSERT INTO shared_state VALUES ('count', 'true')")
    assert await place.notes() == {""}
    await place.note("one")
    assert await place.notes() == {"", "one"}
    await place.strike_out(Counted("one", frozenset([""]), await place.changes()))
    assert await place.notes() == frozenset()
