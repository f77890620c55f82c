"""Gateways that serve one Postgres: no limit is passed, money is to the unit, and a payment buys one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.side_by_side import SideBySide
from tests.support.postgres import GivenPostgres, Postgres

_ECHO = (
    *("passport", "add", "echo", "--base-url", "builtin:echo", "--api-model-id", "trustgate/echo"),
    *("--input-price", "1", "--output-price", "2"),
)


@pytest.fixture(scope="module")
def world(postgres: Postgres | GivenPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SideBySide]:
    world = SideBySide(tmp_path_factory.mktemp("several"), postgres.schema(), 3, "builtin:echo", {})
    try:
        world.gateway.cli(*_ECHO)
        yield world
    finally:
        world.close()


def test_of_a_thousand_at_once_over_three_gateways_exactly_the_quota_passes(world: SideBySide) -> None:
    world.gateway.cli("plan", "add", "hundred", "--requests-per-day", "100")
    key = world.gateway.add_tenant("limited", plan="hundred")
    answers = world.ask(key, 1_000)
    assert answers.statuses == Counter({200: 100, 429: 900})
    world.books()


def test_of_money_no_unit_is_spent_twice(world: SideBySide) -> None:
    key = world.gateway.add_tenant("prepaid")
    world.gateway.cli("payment", "set", "prepaid", "--mode", "prepaid", "--price", "0.01")
    world.gateway.cli("tenant", "credit", "prepaid", "--add", "0.505")
    answers = world.ask(key, 300)
    assert answers.statuses == Counter({200: 50, 402: 250})
    balance = world.balance("prepaid")
    assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (5_000_000, 0)
    # Every gateway gives the same.
    for each in world.neighbours:
        card = httpx.get(
            f"http://127.0.0.1:{each.port}/v1/credits", headers={"authorization": f"Bearer {key}"}, trust_env=False
        ).json()
        assert card["balance_nano_usd"] == 5_000_000
    world.books()
