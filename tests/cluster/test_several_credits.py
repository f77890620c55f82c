"""Money that comes in at gateways which serve one Postgres: at any of them, and however often, it counts once."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.cluster.money import MoneyRun
from tests.cluster.town import BANK, Town, name
from tests.gateway.test_credit_webhooks import standard_head
from tests.support.keyless import Shop
from tests.support.paying import PRICE_NANO_USD
from tests.support.processes import wait_until
from trustgate.types import NANO_USD_PER_USD


def test_what_a_shop_reports_to_all_at_once_is_credited_once(world: Town) -> None:
    tenant = name()
    world.gateway.add_tenant(tenant)
    world.gateway.cli("payment", "set", tenant, "--mode", "prepaid")
    event = {"type": "credit", "data": {"tenant": tenant, "amount_cents": 250, "currency": "USD"}}
    body = json.dumps(event).encode()
    head = {"content-type": "application/json", **standard_head(body, tenant, secret=BANK)}

    def report(turn: int) -> Any:
        url = f"http://127.0.0.1:{world.neighbours[turn % 3].port}/v1/credit-webhooks/standard"
        answer = httpx.post(url, content=body, headers=head, timeout=30.0, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(9) as pool:
        told = list(pool.map(report, range(9)))
    assert Counter(each["booked"] for each in told) == {True: 1, False: 8}
    assert len({each["receipt"] for each in told}) == 1
    # The operator adds by the same reference at yet another.
    again = world.neighbours[2].gateway.cli_json(
        "tenant", "credit", tenant, "--add", "2.5", "--reference", told[0]["reference"]
    )
    assert again["repeated"]
    assert world.balance(tenant)["balance_nano_usd"] == 5 * NANO_USD_PER_USD // 2
    world.books()


def test_a_payment_of_credit_sent_to_all_at_once_is_credited_once(world: Town) -> None:
    customer = world.market.customer(mode="prepaid", top_up_nano_usd=3 * PRICE_NANO_USD)
    key = customer.http.headers["authorization"].removeprefix("Bearer ")
    paying, moves = customer.pay(customer.http.post("/v1/credits")), world.market.facilitator.moves
    with ThreadPoolExecutor(9) as pool:
        sent = list(pool.map(lambda turn: world.request(turn % 3, "POST", "/credits", key, headers=paying), range(9)))
    assert {answer.status_code for answer in sent} <= {200, 503}
    later: list[httpx.Response] = []

    def all_answer() -> bool:
        later[:] = [world.request(gateway, "POST", "/credits", key, headers=paying) for gateway in range(3)]
        return all(answer.status_code == 200 for answer in later)

    wait_until(all_answer, "the payment to be known at each")
    assert world.market.facilitator.moves == moves + 1
    assert [answer.json()["balance_nano_usd"] for answer in later] == [3 * PRICE_NANO_USD] * 3
    world.books()


def test_without_a_key_too_an_answer_that_was_paid_for_is_found_at_each(world: Town) -> None:
    shop = Shop(world.market)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"What is {name()}?"}]}

    def ask(gateway: int, paying: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{world.neighbours[gateway].port}/v1/chat/completions"
        return httpx.post(url, json=body | changes, headers=paying, timeout=30.0, trust_env=False)

    paying = shop.owner.pay(ask(0))
    first = ask(1, paying)
    assert first.status_code == 200, first.text
    for gateway in range(3):
        wait_until(lambda gateway=gateway: ask(gateway, paying).status_code == 200, "it is found")  # type: ignore[misc]
        again = ask(gateway, paying)
        assert (again.content, again.headers["x-trustgate-receipt"]) == (
            first.content,
            first.headers["x-trustgate-receipt"],
        )
        # Who has the payment alone has bought nothing.
        assert ask(gateway, paying, seed=1).status_code == 409
    shop.close()
    world.books()


def test_a_facilitator_that_is_away_is_not_taken_for_the_database(world: Town) -> None:
    tenant = name()
    world.gateway.add_tenant(tenant)
    offer = ("--network", "base-sepolia", "--pay-to", "0x" + "1" * 40, "--facilitator", "http://127.0.0.1:9")
    refused = world.gateway.cli("payment", "set", tenant, *offer, check=False)
    assert refused.returncode == 1
    assert "facilitator" in refused.stderr
    assert "database" not in refused.stderr


def test_money_adds_up_while_gateways_are_killed(world: Town) -> None:
    run = MoneyRun(world, 20261130)
    run.run(requests=90, kills=1)
    run.check()
