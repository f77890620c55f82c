"""What a batch may still use is held once in this process, and given back once."""

from __future__ import annotations

import msgspec
import pytest

from tests.cluster.bookkeeping import drawer_of, make_caller
from tests.support.shop import terms
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller
from trustgate.access.quota import Quota
from trustgate.gateway.api.object_ids import ObjectId, ObjectIds, StepReceipt, Work
from trustgate.gateway.path.work_holds import OwnWorkHolds, WorkOwner
from trustgate.ids import now_us
from trustgate.payment.balance import Balances
from trustgate.types import Budget, Limits

WORK = Work(prompt_tokens=100, completion_tokens=50, cost_nano_usd=7_000)
BATCH = ObjectId("batch", "batch_1", "ten_1", "pas_1", "m", "m", owed=0, work=WORK)


def caller_with(*, price_nano_usd: int | None = None, pays: bool = True) -> Caller:
    caller = make_caller(plan=Limits(tokens_per_day=1_000))
    chosen = terms(tenant_id="ten_1", price_nano_usd=price_nano_usd) if pays else None
    return msgspec.structs.replace(caller, terms=chosen)


def owner(caller: Caller | None) -> WorkOwner:
    return WorkOwner(caller, "key_of_ten_1", None if caller is None else drawer_of(caller))


class Books:
    def __init__(self) -> None:
        self.quota, self.budgets, self.balances, self.handles = Quota(), Budgets(), Balances(), ObjectIds()
        self.budgets.put(Budget(id="bud_1", name="all", unit="tokens", amount=1_000, span="total", everyone=True))
        self.holds = OwnWorkHolds(self.handles, self.quota, self.budgets, self.balances)
        self.handles.keep(BATCH)

    def held(self) -> tuple[int, int, int]:
        """Tokens of the quota and of the budget, and nano-USD of the balance."""
        [standing] = self.budgets.standings(now_us())
        return (
            self.quota.used("ten_1", now_us())["day"]["tokens"],
            standing.held,
            self.balances.held("ten_1"),
        )


@pytest.mark.parametrize(
    ("caller", "money"),
    [
        (caller_with(), 7_000),
        (caller_with(price_nano_usd=5), 0),
        (caller_with(pays=False), 0),
    ],
    ids=["by use", "by request", "without terms"],
)
def test_it_is_held_once_and_given_back_once(caller: Caller, money: int) -> None:
    books = Books()
    for _ in range(2):
        books.holds.begin(BATCH, owner(caller))
        assert books.held() == (150, 150, money)
    for _ in range(2):
        books.holds.end(BATCH, (StepReceipt(0, "rcpt_1"),))
        assert books.held() == (0, 0, 0)
    found = books.handles.current(BATCH)
    assert found is not None
    assert found.owed == -1, "the receipt that is written next charges it"


def test_nothing_is_held_of_what_has_no_work_and_only_tokens_where_its_key_is_gone() -> None:
    books = Books()
    books.holds.begin(ObjectId("batch", "batch_2", "ten_1", "pas_1", "m", "m", owed=0), owner(caller_with()))
    assert books.held() == (0, 0, 0)
    books.holds.begin(BATCH, owner(None))
    assert books.held() == (150, 0, 0)
    books.holds.end(BATCH, (StepReceipt(0, "rcpt_1"),))
    assert books.held() == (0, 0, 0)
