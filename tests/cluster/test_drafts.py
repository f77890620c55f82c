"""Receipts in a process's own journal: killed anywhere, none that was kept is lost, none is there twice."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bookkeeping import SEGMENT_BYTES, WORKER, Bookkeeper, bookkeepers, bury, drawer_of, stored_receipts
from tests.support.entries import make_receipt
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import PATIENCE_S
from trustgate.access.quota import Ask
from trustgate.cluster import drafts as drafts_module
from trustgate.cluster import nodes
from trustgate.cluster.books import give_back
from trustgate.cluster.drafts import Drafts, home_id, part_from_copy
from trustgate.cluster.holds import Use
from trustgate.cluster.lasting_work import EndedWork, work_key
from trustgate.cluster.rows import DRAFTS, HomeTaken, done_key
from trustgate.formats.durable import write_durably
from trustgate.receipts.diverged import has_asides
from trustgate.receipts.journal import Journal
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.server.missing_rows import MissingRows
from trustgate.types import Budget, Entry


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


async def read(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout
    said: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
    return said


async def work_until_killed(url: str, home: Path, kept: int) -> tuple[str, list[str]]:
    """Gives the process's node, and the receipts that it said are kept."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.cluster.bookkeeping", url, str(home)), stdout=asyncio.subprocess.PIPE
    )
    try:
        node = (await read(process))["node"]
        await read(process)
        ids = [(await read(process))["kept"] for _ in range(kept)]
    finally:
        process.kill()
    assert process.stdout
    # What it said before it died counts too.
    rest = (await process.stdout.read()).splitlines()
    await process.wait()
    for line in rest:
        try:
            ids.append(json.loads(line)["kept"])
        except ValueError:
            break
    return node, ids


@pytest.mark.slow
async def test_processes_that_are_killed_lose_and_double_nothing(url: str, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("home_1", "home_2")]
    for home in homes:
        home.mkdir()
    kept: list[str] = []
    dead: list[str] = []
    async with bookkeepers(url, 1) as [keeper]:
        for number in range(3):
            for node, ids in await asyncio.gather(*(work_until_killed(url, home, 40 + 30 * number) for home in homes)):
                kept += ids
                dead.append(node)
            async with keeper.own.use() as connection, connection.transaction():
                # The database may still be at what they sent last, and a node in the middle of a write is not buried.
                await connection.fetch("SELECT 1 FROM nodes WHERE node_id = ANY($1::text[]) FOR UPDATE", dead)
                await connection.execute(
                    "UPDATE nodes SET lease_until = now() - interval '1 s' WHERE node_id = ANY($1::text[])", dead
                )
                assert sorted(await nodes.bury(connection, give_back)) == sorted(dead)
            dead.clear()
        await _close_what_is_left(keeper, homes)
        [chain] = (await stored_receipts(url)).values()
        assert await keeper.ask(WORKER, Ask(1, 1)) is not None
        used = keeper.counters.quota.used("ten_1", keeper.clock())["day"]
    assert [receipt.tseq for receipt in chain] == list(range(1, len(chain) + 1))
    assert [receipt.tprev for receipt in chain] == [FIRST_TPREV, *(leaf_hash(each).hex() for each in chain[:-1])]
    stored = {receipt.id for receipt in chain}
    assert len(stored) == len(chain)
    assert set(kept) <= stored
    assert used == {
        "requests": len(chain) + 1,
        "tokens": 7 * len(chain) + 1,
        "cost_nano_usd": 3 * len(chain) + 1,
    }


async def _close_what_is_left(keeper: Bookkeeper, homes: list[Path]) -> None:
    for home in homes:
        drafts = await _open(keeper, home)
        await drafts.recover(lambda receipt: (WORKER, drawer_of(WORKER)))
        assert drafts.journal.pending == 0
        drafts.journal.close()


async def test_what_only_the_journal_has_is_closed_by_the_next_process_once(url: str, tmp_path: Path) -> None:
    """The database was away when its answers ended, and the process was killed before it was back."""
    home, everybody = (
        tmp_path / "home_1",
        Budget(id="bud_1", name="all", unit="tokens", amount=1_000, span="total", everyone=True),
    )
    home.mkdir()
    async with bookkeepers(url, 2, everybody) as [dead, living]:
        drafts = await _open(dead, home)
        holds = [await dead.ask(WORKER, Ask(100, 10)) for _ in range(5)]

        async def away() -> Any:
            raise ConnectionRefusedError("nothing listens there")

        there, dead.closing._connect = dead.closing._connect, away
        await dead.closing.close()
        closing = [
            drafts.close(
                make_receipt(number, tenant="ten_1", prompt_tokens=5, completion_tokens=2, cost_nano_usd=3),
                bytes(32),
                hold=hold,
                use=Use(7, 3),
            )
            for number, hold in enumerate(holds)
        ]
        assert await asyncio.wait_for(asyncio.gather(*closing), PATIENCE_S) == [None] * 5
        drafts.journal.close()
        await bury(living, dead)

        for count in (5, 0):
            recovering = await _open(living, home)
            assert await recovering.recover(lambda receipt: (WORKER, drawer_of(WORKER))) == count
            assert recovering.journal.pending == 0
            recovering.journal.close()
        # The one that was taken for dead is not: it does not close them again, and learns why.
        await dead.join()
        dead.closing._connect = there
        await asyncio.wait_for(dead.taken.wait(), PATIENCE_S)
        assert await living.ask(WORKER, Ask(1, 1)) is not None
        used = living.counters.quota.used("ten_1", living.clock())["day"]
        assert used == {"requests": 6, "tokens": 36, "cost_nano_usd": 16}
        [standing] = living.counters.budgets.standings(living.clock())
        assert (standing.used, standing.held) == (35, 1)
    [chain] = (await stored_receipts(url)).values()
    assert [receipt.tseq for receipt in chain] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("first", ["the home", "its copy", "both", "alone"])
async def test_a_home_and_its_copy_put_on_record_once_what_both_have_in_their_journals(
    first: str, url: str, tmp_path: Path
) -> None:
    """The copy goes on under the id, and the home parts from it, while one of them is killed or both are at it.

    "alone": what the home has put on record is known from the receipts alone, as that of a process that serves alone.
    """
    home = tmp_path / "home_1"
    home.mkdir()
    left = [
        Entry(
            seq=number,
            receipt=make_receipt(
                number, tenant="ten_1", tseq=0, tprev="", prompt_tokens=5, completion_tokens=2, cost_nano_usd=3
            ),
            secret=bytes(32),
        )
        for number in range(1, 6)
    ]
    journal = Journal.open(home / "journal", store_id=home.name, last_seq=0, segment_bytes=SEGMENT_BYTES)
    for entry in left:
        journal.append(entry)
    journal.close()
    who = WORKER, drawer_of(WORKER)
    async with bookkeepers(url, 2) as [one, two]:

        async def take_in_aside() -> None:
            """As ``server.shared_start`` does where the home has parted from its copy."""
            await asyncio.gather(*(one.books.close_late(each.receipt, each.secret, None, who=who) for each in left))

        async def go_on() -> None:
            drafts = await _open(two, home)
            assert await drafts.recover(lambda _: who) == 5
            assert drafts.journal.pending == 0
            drafts.journal.close()

        if first == "alone":
            await take_in_aside()
            await asyncio.to_thread(run_sql, url, "DELETE FROM shared_state WHERE key ~ '^recorded/'")
            nothing: Any = None
            two.books.restore = MissingRows(nothing, nothing, nothing, two.counters.quota, two.clock, nothing).restore
            await go_on()
        elif first == "both":
            await asyncio.gather(take_in_aside(), go_on())
        else:
            for take_in in (take_in_aside, go_on) if first == "the home" else (go_on, take_in_aside):
                await take_in()
        assert await one.ask(WORKER, Ask(1, 1)) is not None
        used = one.counters.quota.used("ten_1", one.clock())["day"]
        assert used == {"requests": 6, "tokens": 36, "cost_nano_usd": 16}
    [chain] = (await stored_receipts(url)).values()
    assert sorted(receipt.id for receipt in chain) == sorted(each.receipt.id for each in left)
    assert [receipt.tseq for receipt in chain] == [1, 2, 3, 4, 5]


async def _open(keeper: Bookkeeper, home: Path) -> Drafts:
    return await Drafts.open(keeper.books, keeper.own, home / "journal", home_id=home.name, segment_bytes=SEGMENT_BYTES)


def _journaled(home: Path, home_id: str) -> list[Entry]:
    """What the journal of a home has; no process uses it."""
    journal = Journal.open(home / "drafts", store_id=home_id, last_seq=0, segment_bytes=SEGMENT_BYTES)
    entries = list(journal.replay(0))
    journal.close()
    return entries


async def test_a_home_parts_from_its_copy_once_another_process_has_gone_on_with_that(url: str, tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    async with bookkeepers(url, 1) as [keeper], keeper.own.use() as connection:

        async def begin(at: Path) -> Drafts:
            return await Drafts.open(
                *(keeper.books, keeper.opening, at / "drafts"),
                home_id=home_id(at / "drafts"),
                segment_bytes=SEGMENT_BYTES,
            )

        assert not await part_from_copy(connection, home / "drafts"), "it is new"
        own_id = home_id(home / "drafts")
        assert not await part_from_copy(connection, home / "drafts"), "the database has nothing of it"
        begun = await begin(home)
        # Nothing is under way that would write the home's row meanwhile.
        await asyncio.wait_for(begun.close(make_receipt(1, tenant="ten_1", tseq=0, tprev=""), bytes(32)), PATIENCE_S)
        await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
        begun.journal.close()
        await begun.check_life(connection)
        assert not await part_from_copy(connection, home / "drafts"), "its last life is its own"
        with pytest.MonkeyPatch.context() as killing:
            killing.setattr(drafts_module, "_begin_life", None)
            with pytest.raises(TypeError):
                await begin(home)
        assert not await part_from_copy(connection, home / "drafts"), "a start was killed before its life began"
        (await begin(home)).journal.close()
        assert not await part_from_copy(connection, home / "drafts")
        with pytest.raises(HomeTaken):
            await begun.check_life(connection)

        shutil.copytree(home, copy)
        assert home_id(copy / "drafts") == own_id == home_id(home / "drafts")
        (await begin(copy)).journal.close()
        assert not await part_from_copy(connection, copy / "drafts")
        assert await part_from_copy(connection, home / "drafts")
        new_id = home_id(home / "drafts")
        assert new_id != own_id
        assert {path.name for path in home.iterdir()} >= {"drafts.id"}
        assert not (home / "drafts").exists() and has_asides(home / "drafts"), "what waits in it is kept"
        assert not await part_from_copy(connection, home / "drafts"), "it is a home of its own now"
        (await begin(home)).journal.close()
        assert not await part_from_copy(connection, home / "drafts")
        assert _journaled(home, new_id) == []
        assert len(_journaled(copy, own_id)) == 1


async def test_a_life_that_another_process_began_meanwhile_is_not_gone_on_with(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def another_begins(path: Path, content: bytes) -> None:
        run_sql(url, f"INSERT INTO shared_state (key, state) VALUES ('{key}', '[3, \"life_of_another\"]')")
        write_durably(path, content)

    key = done_key(tmp_path.name, DRAFTS)
    monkeypatch.setattr(drafts_module, "write_durably", another_begins)
    async with bookkeepers(url, 1) as [keeper]:
        with pytest.raises(HomeTaken, match="begins with this home, or with a copy of it, at the same time"):
            await _open(keeper, tmp_path)
        async with keeper.own.use() as connection:
            assert "life_of_another" in await connection.fetchval("SELECT state::text FROM shared_state")


async def test_the_journal_has_with_a_receipt_whose_end_of_work_it_charges_and_no_place(
    url: str, tmp_path: Path
) -> None:
    work = EndedWork(work_key("batch", "http://upstream", "batch_1"), False)
    async with bookkeepers(url, 1) as [keeper]:
        drafts = await Drafts.open(
            keeper.books, keeper.own, tmp_path / "drafts", home_id="home_1", segment_bytes=SEGMENT_BYTES
        )
        committed: list[int] = []
        for number, (tseq, tprev, ended) in enumerate([(0, "", work), (7, "", None), (0, "abc", None)], 1):
            hold = await keeper.ask(WORKER, Ask(100, 10))
            receipt = make_receipt(number, tenant="ten_1", tseq=tseq, tprev=tprev)
            on_commit = partial(committed.append, number)
            closing = drafts.close(receipt, bytes(32), hold=hold, use=Use(7, 3), work=ended, on_commit=on_commit)
            assert await asyncio.wait_for(closing, PATIENCE_S) is not None
        await asyncio.wait_for(keeper.books.closing.flush(), PATIENCE_S)
        assert (committed, drafts.journal.pending) == ([1, 2, 3], 0)
        drafts.journal.close()
    assert [(entry.receipt.tseq, entry.receipt.tprev) for entry in _journaled(tmp_path, "home_1")] == [
        (0, work.mark),
        (0, ""),
        (0, ""),
    ]
