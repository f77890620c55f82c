"""Rows that several processes keep against what may come twice: removed when they are old, and what comes again counts
once all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cluster.bookkeeping import Bookkeeper, bookkeepers, make_caller, shared_budget, stored_receipts
from tests.support.entries import make_receipt
from tests.support.postgres import GivenPostgres, Postgres
from trustgate.access.quota import Ask
from trustgate.cluster import sequencer
from trustgate.cluster.connections import closing_session, lengthy_session
from trustgate.cluster.holds import Use
from trustgate.cluster.lasting_work import EndedWork, work_key
from trustgate.cluster.old_rows import KEPT_DAYS, remove_old_rows
from trustgate.cluster.rows import OnceRow
from trustgate.gateway.api.object_ids import ObjectId
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id, now_us
from trustgate.payment.credit import payment_members
from trustgate.server.missing_rows import restore_done_once
from trustgate.settings import PostgresAddress
from trustgate.store import open_store
from trustgate.store.postgres import connecting
from trustgate.types import Budget, Receipt

DAY_US = 86_400 * MICROSECONDS_PER_SECOND
OLD_US, YOUNG_US = now_us() - (KEPT_DAYS + 1) * DAY_US, now_us() - (KEPT_DAYS - 1) * DAY_US


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


async def sql(url: str, statement: str, *args: Any) -> list[Any]:
    """Run a statement. Gives the first column of its rows."""
    connection = await connecting.connect(PostgresAddress(url), "test")
    try:
        return [row[0] for row in await connection.fetch(statement, *args)]
    finally:
        await connection.close()


async def keys(url: str, kind: str) -> list[str]:
    return await sql(url, "SELECT key FROM shared_state WHERE key LIKE $1 ORDER BY key", f"{kind}/%")


async def remove(keeper: Bookkeeper, *budgets: Budget, removed: tuple[Budget, ...] = (), in_us: int = 0) -> int:
    """Remove what is old, as it is so much later."""
    async with keeper.own.use() as connection:
        return await remove_old_rows(connection, budgets, removed, now_us() + in_us)


def credit(at_us: int, **members: Any) -> Receipt:
    """A receipt of that time that adds 500 nano-USD: an operator's credit, or ``payment``'s."""
    receipt = make_receipt(tenant="ten_1", v=2, created_us=at_us, id=new_id("rcpt", at_us))
    given = {"finish": "credited", "credited_nano_usd": 500, "charged_nano_usd": 0, **payment_members(None), **members}
    return msgspec.structs.replace(receipt, **given)


async def test_what_comes_again_counts_once_before_and_after_its_row_is_removed(url: str, tmp_path: Path) -> None:
    old, young = new_id("pay", OLD_US), new_id("pay", YOUNG_US)
    operators = credit(OLD_US)
    store = await open_store(tmp_path / "trustgate.duckdb", PostgresAddress(url))

    async def restore(connection: Any, rows: Any) -> None:
        await restore_done_once(connection, [row for row in rows if isinstance(row, OnceRow)])

    async with bookkeepers(url, 2) as keepers:
        for keeper in keepers:
            keeper.books.restore = restore

        async def come(keeper: Bookkeeper) -> None:
            """All of it, in receipts of another process's, but for the operator's credit, whose id is its note's."""
            for payment, at_us in ((old, OLD_US), (young, YOUNG_US)):
                receipt = credit(at_us, payment=payment)
                await keeper.books.close(receipt=receipt, secret=bytes(32), credit_nano_usd=500)
            await keeper.books.close_late(operators, bytes(32), None, who=None, credit_nano_usd=500)

        await come(keepers[0])
        await come(keepers[1])
        session = lengthy_session(PostgresAddress(url))
        await sequencer.place_waiting(session, store)
        await session.close()
        assert await remove(keepers[1]) == 3
        assert (await keys(url, "credited"), await keys(url, "recorded")) == ([f"credited/{young}"], [])
        await come(keepers[0])
        await come(keepers[1])
        await keepers[0].books.refresh_balances("ten_1")
        assert keepers[0].books.balances.balance("ten_1") == 1_500
    await store.close()
    assert await stored_receipts(url) == {}, "nothing came again"


async def test_work_that_was_charged_is_known_for_as_long(url: str) -> None:
    key = work_key("batch", "http://upstream", "batch_1")

    async def charge(keeper: Bookkeeper) -> Receipt | None:
        receipt = make_receipt(tenant="ten_1", tseq=0, tprev="")
        work = EndedWork(key, is_look=True)
        return await keeper.books.close(receipt=receipt, secret=bytes(32), use=Use(1, 1), work=work)

    async with bookkeepers(url, 1) as [keeper]:
        assert await charge(keeper) is not None
        assert await remove(keeper, in_us=(KEPT_DAYS - 1) * DAY_US) == 0
        assert await charge(keeper) is None
        # As a version wrote it that did not write the time down: from now on.
        await sql(url, "UPDATE shared_state SET state = state - 'settled_us' WHERE key LIKE 'work/%'")
        assert await remove(keeper) == 0
        assert await charge(keeper) is None
        assert await remove(keeper, in_us=(KEPT_DAYS - 1) * DAY_US) == 0
        assert await remove(keeper, in_us=(KEPT_DAYS + 1) * DAY_US) >= 1
        assert await keys(url, "work") == []


async def test_rows_of_budgets_go_when_all_that_they_count_has_ended(url: str) -> None:
    daily = shared_budget("requests", 10)
    daily = msgspec.structs.replace(daily, span="day", each="tenant")
    ever = msgspec.structs.replace(daily, id="bud_2", name="ever", span="total")
    async with bookkeepers(url, 1, daily, ever) as [keeper]:
        for tenant in ("ten_1", "ten_2"):
            hold = await keeper.ask(make_caller(tenant), Ask(0, 0))
            assert hold is not None
            if tenant == "ten_1":
                await keeper.close(hold, Use(1, 0))
        assert await remove(keeper, daily, ever, in_us=DAY_US) == 0, "a request may hold something of yesterday"
        assert await remove(keeper, daily, ever, in_us=3 * DAY_US) == 2
        assert {key.split("/")[1] for key in await keys(url, "budget")} == {"bud_2"}
        # Another day begins with nothing used, and the other goes on.
        assert await keeper.ask(make_caller("ten_1"), Ask(0, 0)) is not None
        gone = msgspec.structs.replace(ever, removed_us=now_us())
        assert await remove(keeper, daily, removed=(gone,)) == 0
        assert {key.split("/")[1] for key in await keys(url, "budget")} == {"bud_1", "bud_2"}
        assert await remove(keeper, removed=(gone,), in_us=2 * DAY_US) == 2
        assert {key.split("/")[1] for key in await keys(url, "budget")} == {"bud_1"}


async def test_the_numbers_of_nodes_that_are_gone_go(url: str) -> None:
    gone, young, living = new_id("node", OLD_US), new_id("node", YOUNG_US), new_id("node", OLD_US)
    async with bookkeepers(url, 1) as [keeper]:
        await sql(url, "UPDATE nodes SET node_id = $1", living)
        found = [f"done/{node}/close" for node in (gone, young, living)]
        found.append(f"done/{new_id('home', OLD_US)}/drafts")
        await sql(url, "INSERT INTO shared_state SELECT unnest($1::text[]), '1'", found)
        assert await remove(keeper) == 1
        assert await keys(url, "done") == sorted(found[1:])


async def test_ids_beyond_what_a_process_remembers_are_removed_but_for_work_under_way(url: str, tmp_path: Path) -> None:
    session = closing_session(PostgresAddress(url), 60.0)
    object_ids = SharedObjectIds(tmp_path / "ids", session, most=3)
    made = "INSERT INTO object_ids VALUES ('response', 'u', $1, 'ten_1', $2, $3)"
    for number in range(1, 9):
        owed = 0 if number in (1, 4) else -1
        handle = ObjectId("response", str(number), "ten_1", "pas_1", "m", "m", owed=owed)
        await sql(url, made, str(number), number, msgspec.json.encode(handle))
    for _ in range(2):
        await object_ids.remove_old()
        assert await sql(url, "SELECT n FROM object_ids ORDER BY n") == [1, 4, 6, 7, 8]
    await session.close()
    object_ids.close()
