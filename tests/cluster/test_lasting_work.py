"""Work that goes on after its request: held by itself and by no process, and charged once, however many see its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.cluster.bookkeeping import (
    SEGMENT_BYTES,
    WAITING_FOR_ROWS,
    Bookkeeper,
    bookkeepers,
    bury,
    drawer_of,
    make_caller,
    stored_receipts,
)
from tests.support.entries import make_receipt
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.processes import PATIENCE_S
from trustgate.access.quota import Ask
from trustgate.cluster import connections
from trustgate.cluster.connections import closing_session
from trustgate.cluster.counted_once import counted_by_others
from trustgate.cluster.drafts import Drafts
from trustgate.cluster.holds import UnheldMoney, Use
from trustgate.cluster.lasting_work import EndedWork, work_key
from trustgate.cluster.rows import credited_key
from trustgate.gateway.api.object_ids import ObjectId, ObjectIds
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.settings import PostgresAddress
from trustgate.types import Budget, Entry, Limits, Receipt

CALLER = make_caller(plan=Limits(tokens_per_day=1_000))
DRAWER = drawer_of(CALLER)
BUDGET = Budget(id="bud_1", name="shared", unit="tokens", amount=10_000, span="total", everyone=True)
KEY = work_key("batch", "http://upstream", "batch_1")


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


async def begin(keeper: Bookkeeper, key: str = KEY, tokens: int = 600) -> None:
    await keeper.books.hold_work(keeper.books.work_of(key, CALLER, DRAWER, Ask(tokens, 50), 50))


async def figures(keeper: Bookkeeper) -> tuple[int, int, int, int]:
    """The tokens that the quota counts, what is used and held of the budget, what is held of the balance."""
    await keeper.books.refresh_counts("ten_1")
    await keeper.books.refresh_balances("ten_1")
    [standing] = keeper.books.budgets.standings(keeper.clock())
    used = keeper.books.quota.used("ten_1", keeper.clock())["day"]["tokens"]
    return used, standing.used, standing.held, keeper.books.balances.held("ten_1")


def charging(number: int) -> Receipt:
    used = {"prompt_tokens": 100, "completion_tokens": 0, "cost_nano_usd": 30, "charged_nano_usd": 30}
    used |= {"credited_nano_usd": 0}
    return make_receipt(number, tenant="ten_1", v=2, **used)


def left_in_journal(receipt: Receipt, mark: str = "") -> Entry:
    return Entry(seq=1, receipt=msgspec.structs.replace(receipt, tseq=0, tprev=mark), secret=bytes(32))


async def charge(keeper: Bookkeeper, number: int, key: str = KEY, *, is_look: bool) -> Receipt | None:
    """As a request that sees the end, or a look of the gateway's own."""
    hold = None if is_look else await keeper.ask(CALLER)
    return await keeper.books.close(
        receipt=charging(number),
        secret=bytes(32),
        hold=hold,
        money=UnheldMoney("ten_1", None),
        use=Use(100, 30, 30),
        late=keeper.books.late(CALLER, DRAWER) if is_look else None,
        work=EndedWork(key, is_look),
    )


async def test_what_is_held_outlives_the_process_that_began_it_and_is_given_back_once(url: str) -> None:
    async with bookkeepers(url, 3, BUDGET) as keepers:
        await asyncio.gather(*(begin(keeper) for keeper in keepers))
        assert await figures(keepers[1]) == (600, 0, 600, 50)
        await bury(keepers[1], keepers[0])
        await keepers[0].join()
        assert await figures(keepers[1]) == (600, 0, 600, 50)
        assert await keepers[2].ask(CALLER, Ask(401, 0)) is None
        assert await charge(keepers[2], 1, is_look=True) is not None
        # Nothing holds it again.
        await begin(keepers[0])
        assert await figures(keepers[0]) == (100, 100, 0, 0)
        assert keepers[0].books.balances.balance("ten_1") == -30


async def test_work_is_held_on_a_budget_that_comes_while_its_hold_waits_for_rows(url: str) -> None:
    stranger = connections.lengthy_session(PostgresAddress(url))
    async with bookkeepers(url, 2) as [keeper, other]:
        other.books.budgets.put(BUDGET)
        async with stranger.use() as connection, connection.transaction():
            await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
            holding = asyncio.ensure_future(begin(keeper))
            async with asyncio.timeout(PATIENCE_S):
                while not await connection.fetchval(WAITING_FOR_ROWS):
                    pass
            keeper.books.budgets.put(BUDGET)
        await holding
        assert await figures(keeper) == await figures(other) == (600, 0, 600, 50)
        assert await charge(keeper, 1, is_look=True) is not None
        assert await figures(keeper) == await figures(other) == (100, 100, 0, 0)
    await stranger.close()


async def test_what_one_key_holds_is_given_back_by_a_request_of_another(url: str) -> None:
    """The receipt's own rows are of the other key, and the process that sees the end has not begun the work."""
    limits = Limits(tokens_per_day=1_000)
    one, two = (make_caller(key_id=key_id, plan=limits, key=limits) for key_id in ("key_1", "key_2"))
    async with bookkeepers(url, 2, BUDGET) as [began, saw]:
        await began.books.hold_work(began.books.work_of(KEY, one, drawer_of(one), Ask(600, 50), 50))
        hold = await saw.ask(two)
        closing = saw.books.close(
            receipt=charging(1), secret=bytes(32), hold=hold, use=Use(100, 30, 30), work=EndedWork(KEY, is_look=False)
        )
        assert await closing is not None
        for keeper in (began, saw):
            await keeper.books.refresh_counts("key_1", "key_2")
            keys = [keeper.books.quota.used(key, keeper.clock())["day"]["tokens"] for key in ("key_1", "key_2")]
            assert (await figures(keeper), keys) == ((100, 100, 0, 0), [0, 100])


async def test_of_all_that_see_the_end_at_once_one_charges(url: str) -> None:
    async with bookkeepers(url, 3, BUDGET) as keepers:
        keys = [work_key("batch", "http://upstream", f"batch_{number}") for number in range(8)]
        await asyncio.gather(*(begin(keepers[number % 3], key, 10) for number, key in enumerate(keys)))
        seen = await asyncio.gather(
            *(
                charge(keeper, 100 * which + turn, key, is_look=turn % 2 == 0)
                for which, key in enumerate(keys)
                for turn, keeper in enumerate([*keepers, *keepers])
            )
        )
        receipts = [receipt for receipt in seen if receipt is not None]
        assert sum(receipt.prompt_tokens == 100 for receipt in receipts) == 8
        assert await figures(keepers[0]) == (800, 800, 0, 0)
        assert keepers[0].books.balances.balance("ten_1") == -8 * 30
        # A request has its receipt in any case; a look has one only where it charged.
        lost = [receipt for receipt in receipts if not receipt.prompt_tokens]
        assert all((receipt.charged_nano_usd, receipt.cost_nano_usd) == (0, 0) for receipt in lost)
        assert 8 * 2 <= len(lost) <= 8 * 3
        assert len((await stored_receipts(url))["ten_1"]) == len(receipts)


async def test_what_a_killed_process_had_in_its_journal_is_charged_unless_another_has(url: str, tmp_path: Path) -> None:
    async with bookkeepers(url, 2, BUDGET) as keepers:
        keys = [work_key("batch", "http://upstream", f"batch_{number}") for number in range(3)]
        for key in keys:
            await begin(keepers[0], key, 10)
        killed = Bookkeeper(url, [BUDGET])
        await killed.join()

        async def opened(keeper: Bookkeeper) -> Drafts:
            folder = tmp_path / "drafts"
            return await Drafts.open(keeper.books, keeper.own, folder, home_id="h", segment_bytes=SEGMENT_BYTES)

        # Its lanes do not run: what it closes is in its journal alone.
        drafts = await opened(killed)
        for number, key in enumerate(keys):
            work = EndedWork(key, is_look=number == 1)
            _ = drafts.close(charging(number), bytes(32), use=Use(100, 30, 30), work=work)
        drafts.journal.close()
        await bury(keepers[0], killed)
        for number, key in enumerate(keys[:2]):
            await charge(keepers[1], 10 + number, key, is_look=True)
        # Where the next process serves alone.
        left = [
            left_in_journal(charging(number), EndedWork(key, is_look=number == 1).mark)
            for number, key in enumerate(keys)
        ]
        async with keepers[0].own.use() as connection:
            kept = [entry.receipt for entry in await counted_by_others(connection, left)]
        assert [(receipt.id, receipt.prompt_tokens, receipt.charged_nano_usd) for receipt in kept] == [
            (left[0].receipt.id, 0, 0),
            (left[2].receipt.id, 100, 30),
        ]
        drafts = await opened(keepers[0])
        assert await drafts.recover(lambda _: (CALLER, DRAWER)) == 3
        drafts.journal.close()
        await killed.end()
        assert await figures(keepers[0]) == (300, 300, 0, 0)
        assert keepers[0].books.balances.balance("ten_1") == -3 * 30
        # Of the request whose work another had charged there is a receipt of nothing, of the look none.
        assert [receipt.prompt_tokens for receipt in (await stored_receipts(url))["ten_1"]] == [100, 100, 0, 100]


async def test_a_credit_that_is_on_record_is_not_added_by_a_receipt_that_was_left_in_a_journal(url: str) -> None:
    credit = {"tenant": "ten_1", "v": 2, "credited_nano_usd": 700}
    added = make_receipt(1, finish="credited", payment="", **credit)
    refund = {"credited_nano_usd": 0, "charged_nano_usd": 300}
    refunded, refunding = (make_receipt(n, finish="credited", payment="", **(credit | refund)) for n in (4, 5))
    paying, other = (make_receipt(number, payment=f"pay_{number}", **credit) for number in (2, 3))
    nothing = make_receipt(6, payment="pay_2", **{**credit, "credited_nano_usd": 0})
    least = make_receipt(7, payment="pay_2", **{**credit, "credited_nano_usd": 1})
    async with bookkeepers(url, 1) as (keeper,), keeper.own.use() as connection:
        for counted in (added.id, "pay_2", refunded.id):
            await connection.execute("INSERT INTO shared_state VALUES ($1, 'true')", credited_key(counted))
        left = [left_in_journal(receipt) for receipt in (added, paying, other, refunded, refunding, nothing, least)]
        kept = [entry.receipt for entry in await counted_by_others(connection, left)]
    assert [(receipt.id, receipt.credited_nano_usd, receipt.payment) for receipt in kept] == [
        *((paying.id, 0, ""), (other.id, 700, "pay_3"), (refunding.id, 0, "")),
        *((nothing.id, 0, "pay_2"), (least.id, 0, "")),
    ]


async def test_what_a_process_charged_while_it_served_alone_is_not_charged_beside_others(
    url: str, tmp_path: Path
) -> None:
    """That charge is in the process's own file, and not in the table that all processes follow."""
    batch = ObjectId("batch", "batch_1", "ten_1", "pas_1", "m", "m", owed=0)
    address = PostgresAddress(url)

    async def beside_others(name: str, *made: ObjectId) -> ObjectId | None:
        session = closing_session(address, 60.0)
        object_ids = SharedObjectIds(tmp_path / name, session)
        running = asyncio.ensure_future(object_ids.run())
        await object_ids.begin()
        for handle in made:
            object_ids.keep(handle)
        written = object_ids.written()
        if written is not None:
            await written
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await session.close()
        object_ids.close()
        return object_ids.current(batch)

    assert await beside_others("first", batch) == await beside_others("second") == batch
    alone = ObjectIds(tmp_path / "first")
    alone.keep(msgspec.structs.replace(batch, owed=-1))
    alone.close()
    for name in ("first", "second"):
        found = await beside_others(name)
        assert found is not None and found.owed == -1
