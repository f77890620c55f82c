"""Rows: every process has the same key for the same thing, and a node's share in what is held can be given back."""

from __future__ import annotations

import msgspec

from tests.cluster.bookkeeping import drawer_of, make_caller
from trustgate.access.budgets import Budgets
from trustgate.access.quota import Ask, Hold, Quota
from trustgate.cluster import rows, rows_anew
from trustgate.cluster.rows import BalanceRow, BudgetRow, QuotaRow, given_back
from trustgate.payment.balance import Balances
from trustgate.types import Budget

NOON = 1_779_019_200_000_000  # 2026-05-17
MINUTE = 60_000_000
CALLER = make_caller("ten_1")
#: Who held something; another is living.
GONE = ("gone", "gone too", "unknown")


def take(quota: Quota, row: QuotaRow, node_id: str, ask: Ask, at_us: int = NOON) -> Hold:
    hold = quota.reserve(CALLER.tenant, CALLER.plan, CALLER.key, ask, at_us)
    row.hold(node_id, hold)
    row.enter(node_id, 1)
    return hold


def test_what_nodes_held_of_a_quota_that_are_gone_is_given_back_in_each_unit() -> None:
    quota = Quota()
    quota.begin(NOON)
    row = QuotaRow(quota, "ten_1")
    early = take(quota, row, "gone", Ask(1, 2))
    # As another batch takes it in, a minute later.
    row.take_in(row.content().decode(), NOON + MINUTE)
    for node_id in ("living", "gone", "gone too", "gone"):
        take(quota, row, node_id, Ask(10, 300), NOON + MINUTE)
    quota.charge(("ten_1",), 5, 7, NOON + MINUTE)
    row.let_go("gone", early)
    row.enter("gone", -1)
    quota.void(early)

    left, content = Quota(), row.content().decode()
    assert row.has("gone") and row.has("living") and not row.has("unknown")
    row = QuotaRow(left, "ten_1")
    row.take_in(given_back(row.key, content, GONE).decode(), NOON + MINUTE)
    for used in left.used("ten_1", NOON + MINUTE).values():
        assert used == {"requests": 2, "tokens": 15, "cost_nano_usd": 307}
    assert left.parallel("ten_1") == 1
    assert row.has("living") and not row.has("gone")


def test_what_nodes_held_of_a_budget_that_are_gone_is_given_back_in_its_cells() -> None:
    budget = Budget(id="budget_1", name="b", unit="tokens", amount=99, span="3600s", everyone=True)
    budgets, left = Budgets(lambda: NOON), Budgets(lambda: NOON)
    for each in (budgets, left):
        each.put(budget)
    [counter] = budgets.counters_of(drawer_of(CALLER), NOON)
    row = BudgetRow(counter)
    for node_id, amount, at_us in (("gone", 3, NOON - MINUTE), ("living", 20, NOON), ("gone too", 4, NOON)):
        for _ in range(2):
            counter.hold(counter.at(at_us, budgets.clock), amount)
            row.hold(node_id, at_us, amount)
    row.let_go("gone too", NOON, 4)
    row.let_go("living", NOON - MINUTE, 9)  # of a row that was written anew since
    budgets.count(drawer_of(CALLER), 7, 0, NOON - MINUTE)

    [counter] = left.counters_of(drawer_of(CALLER), NOON)
    found = BudgetRow(counter)
    found.take_in(given_back(row.key, row.content().decode(), GONE).decode(), NOON)
    assert counter.state().cells == [(NOON - MINUTE, 7, 0), (NOON, 0, 40)]
    assert found.has("living") and not found.has("gone")


def test_what_nodes_held_of_a_balance_that_are_gone_is_given_back() -> None:
    balances, left = Balances(), Balances()
    balances.change("ten_1", 100)
    row, found = BalanceRow(balances, "ten_1"), BalanceRow(left, "ten_1")
    for node_id, amount in (("gone", 30), ("living", 10), ("gone", 20), ("gone too", 5)):
        assert balances.hold("ten_1", amount) is not None
        row.hold(node_id, amount)
    found.take_in(given_back(row.key, row.content().decode(), GONE).decode(), NOON)
    assert (left.balance("ten_1"), left.held("ten_1")) == (100, 10)
    assert found.has("living") and not found.has("gone")


def test_all_rows_are_written_from_what_memory_has() -> None:
    quota, budgets, balances = Quota(), Budgets(lambda: NOON), Balances()
    quota.begin(NOON)
    quota.charge(("ten_1", "key_of_ten_1", "ten_2"), 5, 7, NOON)
    budgets.put(Budget(id="budget_1", name="b", unit="tokens", amount=99, span="day", everyone=True, each="tenant"))
    budgets.count(drawer_of(CALLER), 7, 0, NOON)
    balances.change("ten_3", 100)
    written = rows_anew.written_anew(quota, budgets, balances, {"ten_4": (9, "ab" * 32)}, {"ten_1"})
    [counter] = budgets.counters()
    keys = ("quota/ten_1", BudgetRow(counter).key, BalanceRow(balances, "ten_3").key, rows.head_key("ten_4"))
    assert written.keys() == set(keys)
    head = rows.HeadRow("ten_4")
    head.take_in(written[keys[3]], NOON)
    assert head.link() == (10, "ab" * 32)

    others = Budgets(lambda: NOON)
    others.put(counter.of.budget)
    rows.look_at_budget(others, keys[1], written[keys[1]], NOON)
    assert [(each.subject, each.used) for each in others.standings(NOON)] == [("ten_1", 7)]
    others.put(msgspec.structs.replace(counter.of.budget, models=("other",)))
    rows.look_at_budget(others, keys[1], written[keys[1]], NOON)
    assert others.counters() == [], "it counts other use now"


def test_counted_anew_is_what_receipts_have_and_what_is_held() -> None:
    quota = Quota()
    quota.begin(NOON)
    row = QuotaRow(quota, "ten_1")
    for node_id in ("one", "two"):
        take(quota, row, node_id, Ask(10, 300))
    quota.hold_work(("ten_1",), Ask(1_000, 50), NOON)
    quota.charge(("ten_1",), 77, 77, NOON)
    row.count_anew([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    used = quota.used("ten_1", NOON).values()
    assert [tuple(each.values()) for each in used] == [(3, 1_022, 653), (6, 1_025, 656), (9, 1_028, 659)]


def key(budget: Budget) -> str:
    """As a process finds it that has not been asked for an equal budget."""
    rows.reach_digest.cache_clear()
    return rows.budget_key(budget, "")


def test_a_budgets_row_is_the_same_one_wherever_the_budget_was_read() -> None:
    """One process was told of the budget, another has read it from the database when it started."""
    made = Budget(id="budget_1", name="team", unit="requests", amount=5, span="total", tenants=("ten_1",))
    told = msgspec.json.decode(msgspec.json.encode(made), type=Budget)
    # Another tuple than the default, though it is equal.
    read = msgspec.structs.replace(made, models=tuple("*"))
    assert {key(each) for each in (made, told, read)} == {key(made)}
    assert key(msgspec.structs.replace(made, amount=9, name="others")) == key(made)
    for other in ({"models": ("gpt-*",)}, {"tenants": ("ten_2",)}, {"span": "day"}, {"each": "tenant"}):
        assert key(msgspec.structs.replace(made, **other)) != key(made)
