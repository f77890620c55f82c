"""The log as every process shows it: what one sequences and signs, the others prove."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.bookkeeping import Bookkeeper, bookkeepers
from tests.cluster.members import session
from tests.cluster.test_sequencer import close_some, take_role
from tests.support.postgres import GivenPostgres, Postgres
from trustgate.cluster import roles
from trustgate.cluster.following import Follower, LogIdentity, identify
from trustgate.cluster.roles import Tenure
from trustgate.cluster.sequencer import Sequencer, Signing
from trustgate.errors import StoreDamaged, StoreLocked, Unavailable
from trustgate.receipts.archive import Archive
from trustgate.receipts.logkey import create_log_key
from trustgate.receipts.proof import parse_proof
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.tiles import TileId
from trustgate.settings import PostgresAddress
from trustgate.store import ReceiptFilter, Store, open_store


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


@pytest.fixture
async def stores(url: str, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """The database as three processes have it open at once."""
    opened = await asyncio.gather(*(_open(url, tmp_path / str(number)) for number in range(3)))
    yield opened
    await asyncio.gather(*(store.close() for store in opened))


async def _open(url: str, home: Path) -> Store:
    home.mkdir()
    return await open_store(home / "trustgate.duckdb", PostgresAddress(url), several=True)


@contextlib.asynccontextmanager
async def follow(
    url: str, store: Store, home: Path, identity: LogIdentity, lease_s: float = 5.0
) -> AsyncIterator[Follower]:
    looking, file = session(url), home / "checkpoint"
    try:
        yield await Follower.open(looking, store, identity, checkpoint_file=file, seen_files=(), lease_s=lease_s)
    finally:
        await looking.close()


async def sequence(keeper: Bookkeeper, store: Store, identity: LogIdentity, file: Path) -> Sequencer:
    assert identity.key is not None
    signing = Signing(identity.key, file, lambda: 3_600.0)
    return await Sequencer.begin(keeper.own, store, await take_role(keeper), signing)


def tenure_of(sequencer: Sequencer) -> Tenure:
    assert sequencer._tenure is not None
    return sequencer._tenure


async def test_all_prove_what_one_has_signed(url: str, stores: list[Store], tmp_path: Path) -> None:
    identity = await identify(stores[0], tmp_path / "0/log.key", "")
    assert (await identify(stores[1], tmp_path / "1/log.key", "")).unfit.endswith("copy it from a home that has it")
    create_log_key(tmp_path / "2/log.key", "another")
    stranger = await identify(stores[2], tmp_path / "2/log.key", "")
    assert stranger.verifier == identity.verifier
    assert (stranger.key, stranger.unfit) == (None, f"{tmp_path}/2/log.key is another log's, of another")
    async with bookkeepers(url, 2) as keepers, follow(url, stores[1], tmp_path / "1", stranger) as follower:
        await close_some(keepers, 300)
        sequencer = await sequence(keepers[0], stores[0], identity, tmp_path / "0/checkpoint")
        running = asyncio.ensure_future(sequencer.run())
        await follower.flush()
        assert follower.last_seq == 300
        archive = Archive(stores[1], follower.tree, follower)
        entries = await stores[1].entries(ReceiptFilter(after_seq=290, oldest_first=True, limit=1))
        proof = parse_proof(await archive.proof(entries[0]))
        assert archive.checkpoint_size == 300
        assert archive.checkpoint == (tmp_path / "0/checkpoint").read_bytes()
        assert proof.index == 290
        full, rest = await archive.tile(TileId(0, 0), 256), await archive.tile(TileId(0, 1), 44)
        assert full is not None
        assert rest is not None
        leaves = [leaf_hash(entry.receipt) for entry in await stores[2].entries(ReceiptFilter(oldest_first=True))]
        assert (full + rest)[: 32 * len(leaves)] == b"".join(leaves)
        # Another goes on where it was, with the same log.
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await close_some(keepers, 20)
        async with keepers[0].own.use() as connection:
            await roles.release(connection, tenure_of(sequencer))
        second = await sequence(keepers[1], stores[2], identity, tmp_path / "2/checkpoint")
        await second.take()
        assert await second.sign() is False  # no process waits for it, and the last one is younger than an hour
        waiting = asyncio.ensure_future(follower.renew())
        while not await second.sign():
            pass
        await waiting
        assert follower.checkpoint.size == 320


async def test_two_that_believe_to_be_the_sequencer_make_one_log(url: str, stores: list[Store], tmp_path: Path) -> None:
    """One was stopped between its look at the role and its append, and its role was given to another meanwhile."""
    identity = await identify(stores[0], tmp_path / "0/log.key", "")
    async with bookkeepers(url, 2) as keepers:
        first = await sequence(keepers[0], stores[0], identity, tmp_path / "0/checkpoint")
        await close_some(keepers, 40)
        append, hold = stores[0].append_entries, asyncio.Event()

        async def late(*appended: object) -> None:
            await keepers[0].own.close()  # the database has ended its transaction
            async with keepers[1].own.use() as connection:
                await roles.release(connection, tenure_of(first))
            hold.set()
            await resume.wait()
            await append(*appended)  # type: ignore[arg-type]

        resume = asyncio.Event()
        stores[0].append_entries = late  # type: ignore[method-assign,assignment]
        asleep = asyncio.ensure_future(first.take())
        await hold.wait()
        second = await sequence(keepers[1], stores[1], identity, tmp_path / "1/checkpoint")
        assert await second.take() == 40
        resume.set()
        with pytest.raises(Exception, match=r"does not continue|is away|duplicate"):
            await asleep
        await close_some(keepers, 10)
        assert await second.take() == 10
        await second.sign()
    seqs = [entry.seq for entry in await stores[2].entries(ReceiptFilter(oldest_first=True, limit=100))]
    assert seqs == list(range(1, 51))


async def test_a_database_that_knows_less_than_a_home_has_seen_is_noticed(
    url: str, stores: list[Store], tmp_path: Path
) -> None:
    identity = await identify(stores[0], tmp_path / "0/log.key", "")
    async with bookkeepers(url, 1) as [keeper]:
        await close_some([keeper], 9)
        sequencer = await sequence(keeper, stores[0], identity, tmp_path / "0/checkpoint")
        await sequencer.take()
        await sequencer.sign()
        async with follow(url, stores[1], tmp_path / "1", identity, lease_s=0.01) as follower:
            await follower._keep()
            await close_some([keeper], 1)
            with pytest.raises(Unavailable, match="no process does that now"):
                await follower.flush()
        async with keeper.own.use() as connection:
            await connection.execute("DELETE FROM receipts WHERE seq > 5")
            await connection.execute("DELETE FROM log_state")
    with pytest.raises(StoreDamaged, match="ends at receipt 5, but this home has seen a signed checkpoint of 9"):
        async with follow(url, stores[1], tmp_path / "1", identity):
            pass


async def test_a_version_with_another_schema_waits_until_all_others_have_ended(
    url: str, stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustgate.store.postgres.session.comes_beside", lambda connection: False)
    with pytest.raises(StoreLocked, match="is older than this version's") as refused:
        await open_store(Path("/nonexistent/trustgate.duckdb"), PostgresAddress(url), several=True)
    assert "Stop every `trustgate serve`" in str(refused.value.hint)


async def test_one_that_counts_in_memory_does_not_come_among_several(url: str, stores: list[Store]) -> None:
    with pytest.raises(StoreLocked):
        await open_store(Path("/nonexistent/trustgate.duckdb"), PostgresAddress(url))
