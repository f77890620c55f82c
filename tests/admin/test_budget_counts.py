"""What budgets count, rebuilt from receipts: against sums made by hand, at a moment of any kind of span."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from tests.admin.conftest import Plane
from tests.support.entries import make_entry
from trustgate.access.budget_counter import BudgetStanding
from trustgate.access.budgets import BudgetEvent
from trustgate.admin.budget_counts import budget_differences, count_anew
from trustgate.admin.budgeting import BudgetList, BudgetPut, BudgetRemove
from trustgate.admin.commands import KeyRotate, TenantAdd, TenantSet
from trustgate.admin.model_commands import AliasSet, PassportAdd
from trustgate.errors import InvalidRequest
from trustgate.models.passports import PassportFields
from trustgate.observe.budget_notices import budget_notice
from trustgate.types import COUNTED, Budget, Entry

SECOND = 1_000_000
DAY = 86_400 * SECOND
#: 2026-11-18 12:34:56 UTC, a Wednesday.
NOW = 1_795_005_296 * SECOND
#: Where each span began at that moment; a rolling one is counted to the cell.
STARTS = {
    "minute": NOW - 56 * SECOND,
    "hour": NOW - 56 * SECOND - 34 * 60 * SECOND,
    "day": NOW - 45_296 * SECOND,
    "week": NOW - 45_296 * SECOND - 2 * DAY,
    "month": NOW - 45_296 * SECOND - 17 * DAY,
    "total": 0,
    "600s": (NOW // (10 * SECOND) - 60) * 10 * SECOND,
}


#: Around every beginning of a span; -1: of a clock that ran ahead.
AGES_S = (0, 1, 9, 30, 56, 57, 599, 601, 2_097, 40_000, 46_000, 200_000, 1_000_000, 3_000_000, -1)


def made_traffic(number: int, tenants: list[str], keys: list[str]) -> list[Entry]:
    """Receipts of all endings over forty days up to now, thicker towards it, and some of a clock that ran ahead."""
    chance = random.Random(7)
    entries = []
    for seq in range(1, number + 1):
        age_s = chance.choice(AGES_S)
        which = chance.randrange(len(tenants))
        members: dict[str, Any] = {
            "created_us": NOW - age_s * SECOND if age_s >= 0 else NOW + 40 * DAY,
            "tenant": tenants[which],
            "key": keys[which],
            "model": chance.choice(["gpt-4o", "nick", "local"]),
            "finish": chance.choice(["complete", "complete", "client_gone", "cut", "refused", "upstream_error"]),
            "prompt_tokens": chance.randrange(1_000),
            "completion_tokens": chance.randrange(1_000),
            "billed_nano_usd": chance.randrange(10**9),
            "v": chance.choice([3, 5]),
        }
        if members["v"] == 5:
            members["end_user"] = chance.choice(["", "eu_1", "eu_2"])
        entries.append(make_entry(seq, **members))
    return entries


def by_hand(entries: list[Entry], budget: Budget, start_us: int) -> int:
    total = 0
    for entry in entries:
        receipt = entry.receipt
        is_now = start_us <= receipt.created_us and (receipt.created_us <= NOW or budget.span == "total")
        if receipt.finish in COUNTED and is_now:
            use = {
                "requests": 1,
                "tokens": receipt.prompt_tokens + receipt.completion_tokens,
                "cost_nano_usd": receipt.billed_nano_usd,
            }[budget.unit]
            assert isinstance(use, int)
            total += use
    return total


@pytest.mark.parametrize("span", STARTS)
async def test_what_is_rebuilt_is_the_sum_by_hand(plane: Plane, span: str) -> None:
    entries = made_traffic(1_500, ["ten_1", "ten_2"], ["key_1", "key_2"])
    await plane.store.append_entries(entries)
    everyone = Budget(id="b1", name="b1", unit="tokens", amount=1, span=span, everyone=True)
    wanted = [
        everyone,
        replace(everyone, id="b2", unit="cost_nano_usd"),
        replace(everyone, id="b3", unit="requests", everyone=False, tenants=("ten_2",)),
        replace(everyone, id="b4", unit="requests", each="tenant"),
        replace(everyone, id="b5", unit="requests", each="end_user"),
        replace(everyone, id="b6", models=("local",)),
    ]
    budgets = await count_anew(
        store=plane.store, directory=plane.directory, catalog=plane.catalog, at_us=NOW, wanted=wanted
    )
    found = {(each.budget, each.subject): each.used for each in budgets.standings(NOW)}
    expected: defaultdict[tuple[str, str], int] = defaultdict(int)
    for budget in wanted:
        for entry in entries:
            receipt = entry.receipt
            use = by_hand([entry], budget, STARTS[span])
            if budget.tenants and receipt.tenant not in budget.tenants:
                continue
            if not budget.covers_all_models and receipt.model != "local":
                continue
            if budget.each == "end_user" and receipt.end_user is UNSET:
                continue
            named = receipt.end_user or f"{receipt.tenant}/unnamed"
            subject = {"all": "", "tenant": receipt.tenant, "end_user": str(named)}[budget.each]
            expected[budget.id, subject] += use
    assert {place: used for place, used in found.items() if used} == {
        place: used for place, used in expected.items() if used
    }
    assert any(used for used in found.values()), "the traffic missed the span"


@pytest.mark.parametrize("online", [True, False])
async def test_a_budget_that_is_added_counts_what_was_used_and_what_comes(plane: Plane, online: bool) -> None:
    admin = plane.admin
    if not online:
        plane.context.budgets = None
    acme = await admin.execute(TenantAdd(name="acme"))
    entries = [
        make_entry(seq, v=3, tenant=acme.tenant.id, key=acme.key.id, model=model)
        for seq, model in enumerate(("nick", "openai/x", "other"), start=1)
    ]
    await plane.store.append_entries(entries)
    await admin.execute(PassportAdd(slug="openai/x", fields=PassportFields(api_model_id="x")))
    await admin.execute(AliasSet(name="nick", target="openai/x"))
    new = await admin.execute(KeyRotate(key=acme.key.id))

    async def used(name: str, **terms: Any) -> list[int]:
        await admin.execute(BudgetPut(budget=name, create=True, unit="requests", amount=9, span="total", **terms))
        return [each.used for each in (await admin.execute(BudgetList(budget=name))).standings]

    assert await used("by-key", keys=(new.key.id,)) == [3], "the key that it goes back to"
    assert await used("by-glob", everyone=True, models=("openai/*",)) == [2], "an alias is the model it stands for"
    assert await used("by-plan", plans=("growth",)) == [0]
    await admin.execute(TenantSet(tenant="acme", plan="growth"))
    assert [each.used for each in (await admin.execute(BudgetList(budget="by-plan"))).standings] == [3]
    removed = await admin.execute(BudgetRemove(budget="by-plan"))
    assert removed.id not in {each.budget for each in (await admin.execute(BudgetList())).standings}


async def test_the_audit_finds_a_counter_that_lost_something(plane: Plane) -> None:
    await plane.store.append_entries([make_entry(1, v=3, created_us=NOW), make_entry(2, v=3, created_us=NOW)])
    budget = Budget(id="b", name="b", unit="requests", amount=9, span="total", everyone=True)
    plane.directory.put(budget)
    where: dict[str, Any] = {"store": plane.store, "directory": plane.directory, "catalog": plane.catalog, "at_us": NOW}
    right = (await count_anew(**where)).standings(NOW)
    assert [each.used for each in right] == [2]
    assert await budget_differences(right, **where, until_seq=2) == []
    assert await budget_differences(right, **where, until_seq=1) == [("budget b", "2 counted, by the receipts 1")]
    less = [replace(each, used=1) for each in right]
    assert await budget_differences(less, **where, until_seq=2) == [("budget b", "1 counted, by the receipts 2")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": -1},
        {"amount": 2**53},
        {"span": "fortnight"},
        {"models": ()},
        {"everyone": False},
        {"notice_at_percent": (0,)},
        {"notice_at_percent": tuple(range(1, 20))},
    ],
    ids=str,
)
async def test_a_budget_cannot_have_what_makes_no_sense(plane: Plane, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"unit": "tokens", "amount": 5, "span": "day", "everyone": True, **wrong}
    with pytest.raises(InvalidRequest):
        await plane.admin.execute(BudgetPut(budget="b", create=True, **given))
    assert plane.directory.budgets() == []


def test_a_notice_says_who_how_much_and_when_it_begins_anew(tmp_path: Path) -> None:
    standing = BudgetStanding(
        budget="budget_1",
        name="team",
        unit="cost_nano_usd",
        amount=5_000_000_000,
        span="month",
        hard=True,
        subject="",
        used=4_000_000_000,
        held=0,
        left=1_000_000_000,
        since_us=STARTS["month"],
        resets_us=STARTS["month"] + 30 * DAY,
    )
    notice = budget_notice(BudgetEvent(standing, 80, False, NOW))
    assert notice.message == (
        "The budget 'team' is used to 80 %: $4.00 of $5.00, span month. It resets at 2026-12-01 00:00:00 UTC."
    )
    assert (notice.kind, notice.subject, notice.until_us) == ("budget", "team", standing.resets_us)
    refused = budget_notice(BudgetEvent(standing, 100, True, NOW))
    assert "has no room for a request" in refused.message and "are refused" in refused.message
    assert refused.identity != notice.identity
    next_month = replace(standing, since_us=standing.resets_us or 0)
    assert budget_notice(BudgetEvent(next_month, 80, False, NOW)).identity != notice.identity
    rolling = replace(standing, span="6h", rolling_us=6 * 3_600 * SECOND, since_us=NOW - 6 * 3_600 * SECOND)
    first, repeated = (budget_notice(BudgetEvent(rolling, 80, False, at_us)) for at_us in (NOW, NOW + SECOND))
    assert first.identity == repeated.identity, "after a restart it is the same condition"
