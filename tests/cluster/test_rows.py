"""Keys of rows: every process has the same one for the same thing."""

from __future__ import annotations

import msgspec

from trustgate.cluster import rows
from trustgate.types import Budget


def key(budget: Budget) -> str:
    """As a process finds it that has not been asked for an equal budget."""
    rows._reach_digest.cache_clear()
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
