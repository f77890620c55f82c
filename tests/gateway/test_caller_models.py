"""What a model's name means to a caller is worked out once, and anew when anything that it follows from changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from trustgate.access.directory import Directory
from trustgate.access.keys import mint
from trustgate.gateway.path.caller_models import CallerModel, CallerModels
from trustgate.models.catalog import Catalog
from trustgate.store import State
from trustgate.types import Alias, ApiKey, Budget, Fallback, Limits, Passport, Plan, Prices, Tenant

NOW = 1_000_000


class World:
    def __init__(self) -> None:
        minted = mint()
        self.secret = minted.secret.encode()
        self.plan = Plan(name="pro")
        self.tenant = Tenant(id="ten_1", name="acme", plan="pro")
        self.key = ApiKey(
            id="key_1", tenant_id="ten_1", name="default", secret_sha256=minted.sha256, redacted=minted.redacted
        )
        self.spare = Passport(id="passport_spare", slug="spare", api_model_id="spare")
        self.passport = Passport(
            id="passport_fast", slug="fast", api_model_id="llama", fallbacks=(Fallback(passport="passport_spare"),)
        )
        self.directory = Directory(
            State(
                tenants=(self.tenant,),
                keys=(self.key,),
                plans=(self.plan, Plan(name="other", limits=Limits(max_tokens=7))),
                passports=(),
                aliases=(),
            )
        )
        self.catalog = Catalog([self.passport, self.spare], [Alias(name="quick", target="fast")])
        self.models = CallerModels(self.catalog)

    def find(self, name: str | None = "quick") -> CallerModel:
        return self.models.find(self.directory.authenticate(self.secret, NOW), name)


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_worked_out_once(world: World) -> None:
    found = world.find()
    assert found.resolved is not None
    assert (found.resolved.passport, [each.passport for each in found.fallbacks]) == (world.passport, [world.spare])
    assert (found.plan_names, found.names) == (("fast", "passport_fast"), ("fast", "passport_fast", "quick"))
    assert world.find() is found
    assert world.find("fast") is not found


def test_a_name_that_means_nothing_is_told_by_itself_and_a_request_for_no_model_by_nothing(world: World) -> None:
    unknown, none = world.find("gone"), world.find(None)
    assert (unknown.resolved, unknown.plan_names, unknown.names) == (None, ("gone",), ("gone",))
    assert (none.resolved, none.plan_names, none.names) == (None, (), ())


Change = Callable[[World], Any]
_BUDGET = Budget(id="bud_1", name="all", unit="cost_nano_usd", amount=5, span="day", everyone=True)

CHANGES: dict[str, tuple[Change, Callable[[CallerModel], object]]] = {
    "plan's limit": (
        lambda world: world.directory.put(replace(world.plan, limits=Limits(max_tokens=5))),
        lambda found: found.completion_cap,
    ),
    "bound of a request without one, by the plan": (
        lambda world: world.directory.put(replace(world.plan, limits=Limits(max_tokens=5))),
        lambda found: found.usual_bound,
    ),
    "bound of a request without one, by the model": (
        lambda world: world.catalog.put(replace(world.passport, max_output_tokens=11)),
        lambda found: found.usual_bound,
    ),
    "plan's price factor": (
        lambda world: world.directory.put(replace(world.plan, price_factor_ppm=2_000_000)),
        lambda found: found.caller.price_factor_ppm,
    ),
    "tenant's price factor": (
        lambda world: world.directory.put(replace(world.tenant, price_factor_ppm=3_000_000)),
        lambda found: found.caller.price_factor_ppm,
    ),
    "tenant's plan": (
        lambda world: world.directory.put(replace(world.tenant, plan="other")),
        lambda found: found.completion_cap,
    ),
    "key's limit": (
        lambda world: world.directory.put(replace(world.key, limits=Limits(max_tokens=3))),
        lambda found: found.completion_cap,
    ),
    "budget": (
        lambda world: world.directory.put(_BUDGET),
        lambda found: found.wants_price,
    ),
    "price": (
        lambda world: world.catalog.put(replace(world.passport, prices=Prices(call_nano_usd=9))),
        lambda found: found.resolved is not None and found.resolved.price.prices.call_nano_usd,
    ),
    "alias": (
        lambda world: world.catalog.put(Alias(name="quick", target="spare")),
        lambda found: found.plan_names,
    ),
    "revoked passport": (
        lambda world: world.catalog.put(replace(world.passport, status="revoked")),
        lambda found: found.resolved is None,
    ),
    "revoked fallback": (
        lambda world: world.catalog.put(replace(world.spare, status="revoked")),
        lambda found: found.fallbacks,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_holds_from_the_next_request_on(world: World, name: str) -> None:
    change, look = CHANGES[name]
    before = look(world.find())
    change(world)
    assert look(world.find()) != before


def test_names_that_callers_make_up_are_not_kept_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustgate.gateway.path.caller_models._MOST", 3)
    found = world.find()
    assert world.find("x" * 257) is not world.find("x" * 257)
    for number in range(3):
        world.find(f"made up {number}")
    assert world.find() is not found
