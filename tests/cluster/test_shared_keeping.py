"""Which of a request's moments is which operation on the books that several processes keep, and with what of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tests.cluster.bookkeeping import make_caller
from tests.support.entries import make_receipt
from trustgate.access.budget_reach import Drawer
from trustgate.access.quota import Ask
from trustgate.cluster.holds import Use
from trustgate.cluster.lasting_work import work_key
from trustgate.cluster.shared_answers import SharedAnswers
from trustgate.cluster.shared_balances import SharedBalanceHold
from trustgate.errors import RateLimited
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.object_ids import ObjectId, Work
from trustgate.gateway.path import shared_keeping
from trustgate.gateway.path.accounting import AccountEnd, Request
from trustgate.gateway.path.shared_keeping import SharedEntry, SharedKeeping, SharedWorkHolds
from trustgate.gateway.path.work_holds import WorkOwner
from trustgate.ids import now_us
from trustgate.tasks import Deferred
from trustgate.types import Limits, PaymentTerms

ASK = Ask(5, 7)
DRAWER = Drawer("ten_1", "key_1", "p", (), None)
WORK = ObjectId("batch", "b1", "ten_1", "passport_1", "m", "m", work=Work(1, 2, 3, 40))


class _Books:
    """Books that note what is asked of them; the database is this test."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.budgets = SimpleNamespace(generation=1)
        #: What is held at once; None: the database has to admit it.
        self.at_once: Any = None
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def open_at_once(self, *told: Any) -> Any:
        self.calls.append(("open_at_once", *told))
        return self.at_once

    async def open(self, *told: Any) -> Any:
        self.calls.append(("open", *told))
        return await self.answer

    async def enter(self, caller: Any) -> Any:
        self.calls.append(("enter", caller))
        return await self.answer

    def close(self, **told: Any) -> None:
        self.calls.append(("close", told))

    def late(self, *told: Any) -> Any:
        return "late", *told

    def work_of(self, *told: Any) -> Any:
        return told

    def hold_work(self, work: Any) -> Deferred[None]:
        self.calls.append(("hold_work", work))
        return Deferred(asyncio.get_running_loop())


class _Log:
    """A log whose receipts are kept when the test has them be."""

    def __init__(self) -> None:
        self.books = _Books()
        self.closed: list[dict[str, Any]] = []
        self.pending: Deferred[Any] | None = None

    def close(self, receipt: Any, secret: bytes, **settled: Any) -> str:
        self.closed.append({"receipt": receipt, "secret": secret, **settled})
        return "the draft"

    def kept(self, draft: str) -> Deferred[Any] | None:
        assert draft == "the draft"
        return self.pending


class _Ids:
    def __init__(self) -> None:
        self.settled: list[ObjectId] = []
        self.writing: asyncio.Future[None] | None = None

    def settle(self, handle: ObjectId) -> None:
        self.settled.append(handle)

    def written(self) -> asyncio.Future[None] | None:
        return self.writing


class _Desk:
    def __init__(self) -> None:
        self.log, self.ids = _Log(), _Ids()
        self.books = self.log.books
        self.keeping = SharedKeeping(cast(Any, self.log), cast(Any, self.ids))
        self.holds = SharedWorkHolds(cast(Any, self.log))

    def entry(self, slot: Any) -> SharedEntry:
        return SharedEntry(cast(Any, self.log), slot)

    def end(self, request: Request, **members: Any) -> Deferred[Any] | None:
        told = {"receipt": make_receipt(1, v=4), "hold": None, "counted": True, "sale": None}
        return self.keeping.close(AccountEnd(request=request, secret=b"s", **{**told, **members}))


@pytest.fixture
async def desk() -> _Desk:
    return _Desk()


@pytest.fixture
def request_of() -> Request:
    return Request(cast(Any, None), cast(Any, None), make_caller(), Call(model="m"), b"", known_drawer=DRAWER)


async def test_only_a_caller_with_a_limit_on_parallel_requests_asks_the_books(desk: _Desk) -> None:
    free = desk.keeping.enter(make_caller())
    assert isinstance(free, SharedEntry)
    free.release()
    assert (free.slot, desk.books.calls) == (None, [])
    desk.books.answer.set_result("a slot")
    limits = Limits(parallel_requests=3)
    for caller in (make_caller(plan=limits), make_caller(key=limits)):
        asked = desk.keeping.enter(caller)
        assert not isinstance(asked, SharedEntry)
        entered: Any = await asked
        assert (entered.slot, desk.books.calls.pop()) == ("a slot", ("enter", caller))


async def test_a_parallel_request_is_given_back_once(desk: _Desk) -> None:
    entered = desk.entry("a slot")
    entered.release()
    entered.release()
    assert desk.books.calls == [("close", {"slot": "a slot"})]


@pytest.mark.parametrize("is_counted", [False, True], ids=["at-once", "by-the-database"])
async def test_a_hold_takes_the_parallel_request_over(desk: _Desk, request_of: Request, is_counted: bool) -> None:
    entered = desk.entry("a slot")
    if is_counted:
        desk.books.answer.set_result("a hold")
        held = await cast(Any, desk.keeping.open(request_of, ASK, entered))
    else:
        desk.books.at_once = "a hold"
        held = desk.keeping.open(request_of, ASK, entered)
    assert held == "a hold"
    told = (request_of.caller, DRAWER, ASK, "a slot")
    assert desk.books.calls == [("open_at_once", *told), *([("open", *told)] if is_counted else [])]
    entered.release()
    assert len(desk.books.calls) == 1 + is_counted, "the hold has it"
    desk.keeping.void(cast(Any, "a hold"))
    assert desk.books.calls[-1] == ("close", {"hold": "a hold"})


async def test_a_refused_hold_leaves_the_parallel_request_to_be_given_back(desk: _Desk, request_of: Request) -> None:
    entered = desk.entry("a slot")
    desk.books.answer.set_exception(RateLimited("Too many."))
    with pytest.raises(RateLimited):
        await cast(Any, desk.keeping.open(request_of, ASK, entered))
    entered.release()
    assert desk.books.calls[-1] == ("close", {"slot": "a slot"})


async def test_a_request_without_a_parallel_request_is_held_too(desk: _Desk, request_of: Request) -> None:
    desk.books.answer.set_result("a hold")
    assert await cast(Any, desk.keeping.open(request_of, ASK, None)) == "a hold"
    desk.books.at_once = "another"
    assert cast(Any, desk.keeping.open(request_of, ASK, None)) == "another"
    assert {call[-1] for call in desk.books.calls} == {None}


async def test_what_is_settled_is_what_the_receipt_records(desk: _Desk, request_of: Request) -> None:
    assert desk.end(request_of, hold="a hold") is None
    closed = desk.log.closed.pop()
    receipt = closed.pop("receipt")
    used = Use(receipt.prompt_tokens + receipt.completion_tokens, receipt.billed_nano_usd, receipt.charged_nano_usd)
    assert closed == {"secret": b"s", "hold": "a hold", "money": None, "use": used, "late": None}
    assert desk.end(request_of, hold="a hold", counted=False) is None
    assert (desk.log.closed.pop()["use"], desk.ids.settled) == (None, [])
    assert desk.end(request_of) is None
    assert desk.log.closed.pop()["late"] == ("late", request_of.caller, DRAWER), "it was admitted before"
    assert desk.end(request_of, counted=False) is None
    closed = desk.log.closed.pop()
    assert (closed["late"], closed["use"]) == (None, None)


async def test_money_that_the_books_hold_is_settled_with_the_receipt(desk: _Desk, request_of: Request) -> None:
    held = SharedBalanceHold(cast(Any, desk.books), cast(Any, "what is held"))
    for charging, money in ((held, "what is held"), (SimpleNamespace(money="a payment's"), None), (None, None)):
        desk.end(request_of, hold="a hold", sale=SimpleNamespace(charging=charging))
        assert desk.log.closed.pop()["money"] == money


@pytest.mark.parametrize("hold", [None, "a hold"])
async def test_ended_work_is_settled_once_its_receipt_is_committed(
    desk: _Desk, request_of: Request, hold: str | None
) -> None:
    desk.end(request_of, hold=hold, work=WORK)
    closed = desk.log.closed.pop()
    assert closed["work"] == (work_key("batch", "", "b1"), hold is None)
    assert desk.ids.settled == []
    closed["on_commit"]()
    assert desk.ids.settled == [WORK]


@pytest.mark.parametrize("ids_first", [False, True])
async def test_an_answer_waits_for_its_receipt_and_for_the_ids_in_it(
    desk: _Desk, request_of: Request, ids_first: bool
) -> None:
    loop = asyncio.get_running_loop()
    desk.log.pending = kept = Deferred[Any](loop)
    assert desk.end(request_of) is kept, "no id is being written"
    desk.ids.writing = writing = loop.create_future()
    both = desk.end(request_of)
    assert both is not None and both is not kept
    if ids_first:
        writing.set_result(None)
        await asyncio.sleep(0)
        assert not both.done()
        kept.succeed(None)
    else:
        kept.succeed(None)
        assert not both.done()
        writing.set_result(None)
    await asyncio.wait_for(both.ended(), 30)


async def test_an_answer_waits_for_its_ids_alone_where_the_receipt_is_kept(desk: _Desk, request_of: Request) -> None:
    desk.ids.writing = asyncio.get_running_loop().create_future()
    waiting = desk.end(request_of)
    assert waiting is not None and not waiting.done()
    desk.ids.writing.set_result(None)
    await asyncio.wait_for(waiting.ended(), 30)


def _owner(**terms: Any) -> WorkOwner:
    caller = make_caller()
    if terms:
        caller = replace(caller, terms=PaymentTerms(tenant_id="ten_1", mode="prepaid", **terms))
    return WorkOwner(caller, "key_1", DRAWER)


async def test_work_is_held_once_and_again_where_a_budget_was_made_or_it_failed(desk: _Desk) -> None:
    held = desk.holds.begin(WORK, _owner())
    assert held is not None
    assert desk.books.calls == [("hold_work", (work_key("batch", "", "b1"), make_caller(), DRAWER, Ask(5, 40), 0))]
    assert desk.holds.begin(WORK, _owner()) is held
    held.succeed(None)
    assert desk.holds.begin(WORK, _owner()) is held
    desk.books.budgets.generation += 1
    failed = desk.holds.begin(WORK, _owner())
    assert failed is not None and failed is not held
    failed.fail(OSError())
    assert desk.holds.begin(WORK, _owner()) is not failed
    desk.holds.end(WORK, ())
    desk.holds.end(WORK, ())
    desk.holds.begin(WORK, _owner())
    assert len(desk.books.calls) == 4


@pytest.mark.parametrize(("price", "money"), [(None, 40), (9, 0)])
async def test_money_is_held_of_an_owner_that_pays_at_the_end(desk: _Desk, price: int | None, money: int) -> None:
    desk.holds.begin(WORK, _owner(price_nano_usd=price))
    [(_, work)] = desk.books.calls
    assert work[-1] == money


@pytest.mark.parametrize("missing", ["work", "caller", "drawer"])
async def test_nothing_is_held_of_what_has_no_owner_or_is_no_work(desk: _Desk, missing: str) -> None:
    owner = _owner()
    if missing != "work":
        owner = owner._replace(caller=None) if missing == "caller" else owner._replace(drawer=None)
    assert desk.holds.begin(replace(WORK, work=None) if missing == "work" else WORK, owner) is None
    assert desk.books.calls == []


async def test_what_is_remembered_to_be_held_is_bounded(desk: _Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_keeping, "_HELD_MOST", 2)
    works = [replace(WORK, id=f"b{n}") for n in range(3)]
    for work in (*works[:2], *works[:2], works[2], works[2], works[0]):
        desk.holds.begin(work, _owner())
    numbers = {work_key(*work.place): number for number, work in enumerate(works)}
    assert [numbers[work[0]] for _, work in desk.books.calls] == [0, 1, 2, 0], "held anew after the third"


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_an_answer_is_on_its_way_for_a_moment_whatever_the_other_process_has_for_a_clock(ahead_s: int) -> None:
    answers = SharedAnswers(cast(Any, None), most_bytes=1)
    assert answers.is_on_its_way(cast(Any, SimpleNamespace(updated_us=now_us())))
    assert not answers.is_on_its_way(cast(Any, SimpleNamespace(updated_us=now_us() + ahead_s * 1_000_000)))
