"""Pages of a gateway with very many tenants: as large as one of few, and nothing is left out without a word."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import msgspec

from tests.conftest import GatewayFactory
from tests.console.test_threats import sign_in
from trustgate.access.budget_counter import BudgetStanding
from trustgate.console import directory, usage
from trustgate.console.view import CHOICES_MOST
from trustgate.store import UsageRow, open_store
from trustgate.types import Budget, Tenant


async def _add_tenants(home: Path, count: int) -> None:
    store = await open_store(home / "trustgate.duckdb")
    await store.put(*(Tenant(id=f"ten_{n:04}", name=f"customer {n:04}", plan="pro") for n in range(count)))
    await store.close()


def test_a_page_names_a_tenant_in_a_field_where_there_are_too_many_to_choose_from(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway().make_home()
    asyncio.run(_add_tenants(gateway.home, CHOICES_MOST + 1))
    gateway.start()
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as http:
        sign_in(gateway, http)
        for page in ("usage", "receipts", "statements", "end-users"):
            for tenant in ("", "ten_0007", "customer 0007"):
                shown = http.get(f"/console/{page}", params={"tenant": tenant})
                assert shown.status_code == 200, (page, tenant)
                assert "ten_0008" not in shown.text and "customer 0008" not in shown.text, (page, tenant)
                [field] = re.findall(r'<input [^>]*name="tenant"[^>]*>', shown.text)
                assert f'value="{tenant}"' in field
            missing = http.get(f"/console/{page}", params={"tenant": "customer 9"})
            assert missing.status_code == 404 and "There is no tenant" in missing.text, page


def _used(group: str, cost: int) -> UsageRow:
    return UsageRow(
        group=group,
        requests=1,
        refused=0,
        failed=0,
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=1,
        reasoning_tokens=0,
        cost_nano_usd=cost,
        estimated=0,
    )


def test_a_table_of_usage_has_the_dearest_and_the_sum_of_all() -> None:
    rows = [_used(f"ten_{n}", n) for n in range(600)]
    text = str(usage._usage_table(rows, "tenant", {}))
    assert "500 of 600: the dearest" in text
    assert "ten_599<" in text and "ten_100<" in text and "ten_99<" not in text
    assert re.search(r"Total.*?600<", text)
    hours = str(usage._usage_table(rows, "hour", {}))
    assert "the latest" in hours and hours.index("ten_100<") < hours.index("ten_599<")
    assert " of " not in str(usage._usage_table(rows[:500], "tenant", {}))


def _standing(subject: str, used: int) -> BudgetStanding:
    return BudgetStanding(
        budget="budget_1",
        name="each",
        unit="requests",
        amount=1000,
        span="day",
        hard=True,
        subject=subject,
        used=used,
        held=0,
        left=1000 - used,
        since_us=0,
        resets_us=None,
    )


def test_of_many_budgets_those_are_shown_of_which_most_is_used() -> None:
    text = str(directory._standings([_standing(f"ten_{n}", n) for n in range(600)], {}, ()))
    assert "500 of 600: those of which most is used" in text
    assert text.index("ten_599<") < text.index("ten_100<") and "ten_99<" not in text


def test_a_budget_that_each_tenant_has_and_none_has_used_is_not_called_shared() -> None:
    budget = Budget(
        id="budget_1", name="each", unit="requests", amount=1000, span="6h", tenants=("ten_1",), each="tenant"
    )
    unused = _standing("", 0)
    of_each = str(directory._standings([unused], {}, [budget]))
    assert "each tenant" in of_each and "shared" not in of_each and "never" not in of_each
    total = msgspec.structs.replace(unused, span="total")
    of_all = str(directory._standings([total], {}, [msgspec.structs.replace(budget, each="all")]))
    assert "shared" in of_all and "never" in of_all
