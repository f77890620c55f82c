"""Callers without a key: each pays for its own request, and gets nothing that another has paid for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from x402.extensions.bazaar import extract_discovery_info, validate_discovery_extension
from x402.extensions.bazaar.facilitator import validate_discovery_extension_spec
from x402.http.utils import decode_payment_required_header, decode_payment_response_header
from x402.schemas import PaymentRequired

from tests.conftest import GatewayFactory
from tests.support.facilitator import HTML_502, held, moved
from tests.support.keyless import Shop, open_market
from tests.support.paying import HELLO, PRICE_NANO_USD, PRICE_UNITS, Market
from tests.support.upstream import CLOSE, Gate, Reply, delta
from trustgate.gateway.api.bazaar import SOLD_KEYLESS, bazaar, example
from trustgate.gateway.api.endpoints import ENDPOINTS


@pytest.fixture(scope="module")
def market(make_module_gateway: GatewayFactory) -> Iterator[Market]:
    with open_market(make_module_gateway) as opened:
        yield opened


@pytest.fixture
def shop(market: Market) -> Iterator[Shop]:
    opened = Shop(market)
    yield opened
    opened.close()
    assert market.upstream.unused == 0


def required_of(response: httpx.Response) -> PaymentRequired:
    required = decode_payment_required_header(response.headers["payment-required"])
    assert isinstance(required, PaymentRequired)
    return required


def test_nothing_is_sold_without_a_key_unless_the_operator_says_so(market: Market) -> None:
    body = {"model": "gpt-4o", "messages": HELLO}
    url = f"{market.gateway.base_url}/v1/chat/completions"
    market.customer()
    assert httpx.post(url, json=body, trust_env=False).status_code == 401
    shop = Shop(market)
    assert shop.opened["terms"]["keyless_key_id"].startswith("key_")
    assert shop.chat().status_code == 402
    shop.close()
    assert httpx.post(url, json=body, trust_env=False).status_code == 401


def test_an_answer_is_bought_without_a_key_and_no_change_is_given(market: Market, shop: Shop) -> None:
    refused = shop.chat()
    [accepts] = required_of(refused).accepts
    assert accepts.amount == str(PRICE_UNITS)
    assert "no change is given" in refused.json()["error"]["message"]

    paid = shop.chat(shop.owner.pay(refused))

    assert paid.status_code == 200
    assert decode_payment_response_header(paid.headers["payment-response"]).success
    [receipt] = shop.owner.receipts()
    assert receipt["charged_nano_usd"] == receipt["credited_nano_usd"] == PRICE_NANO_USD
    assert receipt["key"] == shop.opened["terms"]["keyless_key_id"]
    assert shop.owner.balance() == 0
    # The next one is asked to pay again, as is another who asks the same.
    assert shop.chat().status_code == 402


def test_the_price_is_the_worst_case_where_passports_have_prices(market: Market) -> None:
    market.gateway.cli(
        *("passport", "add", "sold", "--api-model-id", "gpt-4o", "--input-price", "1", "--output-price", "10")
    )
    shop = Shop(market, price_nano_usd=None)
    paid = shop.buy(model="sold", max_tokens=1000)
    assert paid.status_code == 200
    [receipt] = shop.owner.receipts()
    assert receipt["charged_nano_usd"] == receipt["credited_nano_usd"] > 10_000_000
    # What was used is in the receipt beside what was paid.
    assert receipt["cost_nano_usd"] == 7 * 1_000 + 5 * 10_000
    shop.close()


def test_what_costs_nothing_is_not_given_to_strangers(market: Market) -> None:
    market.gateway.cli("passport", "add", "gratis", "--api-model-id", "gpt-4o", "--free")
    shop = Shop(market, price_nano_usd=None)
    asked = len(market.upstream.requests)
    refused = shop.chat(model="gratis")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_sold")
    assert shop.chat(model="trustgate/echo").json()["error"]["code"] == "model_not_sold"
    assert len(market.upstream.requests) == asked
    shop.close()


def test_the_word_that_stands_for_no_key_is_none_and_a_wrong_key_stays_wrong(shop: Shop) -> None:
    assert shop.chat({"authorization": "Bearer x402"}).status_code == 402
    assert shop.chat({"authorization": "Bearer tgk_wrong"}).status_code == 401
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}
    assert shop.http.post("/v1/messages", json=body).status_code == 402
    assert shop.http.post("/v1/messages", json=body, headers={"x-api-key": "wrong"}).status_code == 401


def test_a_payment_buys_one_answer_whoever_presents_it(market: Market, shop: Shop) -> None:
    paying = shop.owner.pay(shop.chat())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.chat(paying), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-trustgate-receipt"] for answer in answers}) == 1
    assert shop.chat(paying, temperature=0.5).status_code == 409
    # The same bytes for another model, which the path names, are another request.
    body = {"model": "gpt-4o", "messages": HELLO}
    azures = shop.http.post("/openai/deployments/gpt-4o-other/chat/completions", json=body, headers=paying)
    assert azures.status_code == 409
    assert len([entry for entry in shop.owner.receipts() if entry["status"] == 200]) == 1


def test_without_a_key_nothing_is_named_that_an_upstream_keeps(market: Market, shop: Shop) -> None:
    """What is the seller's own is not its customers'."""
    market.upstream.script(Reply.json({"id": f"file-{shop.owner.name}", "object": "file", "purpose": "assistants"}))
    uploaded = shop.owner.http.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a", b"abc")})
    content = [{"type": "file", "file": {"file_id": uploaded.json()["id"]}}]
    refused = shop.chat(messages=[{"role": "user", "content": content}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter"), refused.text


def test_strangers_who_ask_the_same_pay_each(market: Market, shop: Shop) -> None:
    """Neither the one's answer nor its name for a payment serves the other."""
    first = shop.owner.pay(shop.chat(), identifier="the-same-name-for-both")
    second = shop.owner.pay(shop.chat(), identifier="the-same-name-for-both")
    asked = len(market.upstream.requests)
    assert shop.chat(first).status_code == shop.chat(second).status_code == 200
    assert len(market.upstream.requests) == asked + 2
    assert "payment-identifier" not in (required_of(shop.chat()).extensions or {})


def test_a_paid_request_that_fails_is_served_once_for_its_payment_and_nobody_elses(market: Market, shop: Shop) -> None:
    """The upstream cuts the stream: what was paid is kept for that request, and does not serve another."""
    paying = shop.owner.pay(shop.chat(stream=True))
    market.upstream.script(Reply.sse([delta("Hel"), CLOSE]))
    with (
        shop.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": HELLO, "stream": True},
            headers=paying,
        ) as cut,
        contextlib.suppress(httpx.HTTPError),
    ):
        cut.read()
    assert shop.owner.balance() == PRICE_NANO_USD
    assert shop.chat(stream=True).status_code == 402
    assert shop.chat(paying, stream=True).status_code == 200
    assert shop.owner.balance() == 0
    assert shop.chat(paying, stream=True).status_code in (200, 409)
    assert shop.owner.balance() == 0


def test_who_leaves_while_it_pays_leaves_nothing_to_others(market: Market, shop: Shop) -> None:
    """Another who asks the same is neither kept waiting nor given the answer; the payer is, with its payment."""
    paying, gate = shop.owner.pay(shop.chat()), Gate()
    settles, asked = len(market.facilitator.settles), len(market.upstream.requests)
    market.facilitator.on_settle(held(gate))
    with ThreadPoolExecutor() as pool:

        def leave() -> None:
            body = {"model": "gpt-4o", "messages": HELLO}
            with pytest.raises(httpx.ReadTimeout):
                shop.http.post("/v1/chat/completions", json=body, headers=paying, timeout=0.5)

        leaving = pool.submit(leave)
        market.facilitator.wait_for_settles(settles + 1)
        leaving.result()
        assert shop.chat().status_code == 402
        again = pool.submit(shop.chat, paying)
        gate.open()
        assert again.result().status_code == 200
    assert shop.chat().status_code == 402
    assert len(market.upstream.requests) == asked + 1
    assert shop.owner.balance() == 0


def test_a_payment_of_unknown_outcome_stops_its_payer_alone(market: Market, shop: Shop) -> None:
    paying = shop.owner.pay(shop.chat())
    market.facilitator.on_settle(moved(HTML_502))
    for _ in range(2):
        pending = shop.chat(paying)
        assert (pending.status_code, pending.json()["error"]["code"]) == (503, "payment_pending")
    [payment] = market.payments(shop.owner)
    assert shop.http.get(f"/v1/payments/{payment.id}").json()["state"] == "unknown"
    # Another asks, and buys, the same meanwhile.
    assert shop.buy().status_code == 200

    market.node.now_s += 10_000
    market.reconcile()

    assert shop.owner.balance() == PRICE_NANO_USD
    assert shop.chat().status_code == 402
    assert shop.chat(paying).status_code == 200
    assert shop.owner.balance() == 0
    assert sum(receipt["charged_nano_usd"] for receipt in shop.owner.receipts()) == 2 * PRICE_NANO_USD


def test_a_stranger_sees_its_own_receipt_and_payment_and_nobody_elses(market: Market, shop: Shop) -> None:
    paid = shop.buy()
    receipt = paid.headers["x-trustgate-receipt"]
    shown = shop.http.get(f"/v1/receipts/{receipt}")
    assert shown.status_code == 200
    assert shop.http.get(f"/v1/receipts/{receipt}/proof").status_code == 200
    payment = shown.json()["receipt"]["payment"]
    assert shop.http.get(f"/v1/payments/{payment}").json()["state"] == "delivered"
    # Those that the tenant's keys made are the tenant's.
    shop.owner.chat(shop.owner.pay(shop.owner.chat()))
    others = [entry["id"] for entry in shop.owner.receipts() if entry["id"] != receipt]
    assert shop.http.get(f"/v1/receipts/{others[-1]}").status_code == 404
    for path in ("/v1/receipts", "/v1/payments", "/v1/usage", "/v1/credits", "/v1/files", "/v1/batches"):
        assert shop.http.get(path).status_code == 401, path


@pytest.mark.parametrize(
    "endpoint", [each for each in ENDPOINTS if not each.sells_keyless], ids=lambda each: f"{each.method} {each.path}"
)
def test_what_is_kept_or_sent_as_a_form_wants_a_key(shop: Shop, endpoint: Any) -> None:
    path = endpoint.path.replace("{id}", "resp_1")
    assert shop.http.request(endpoint.method, path, json={}).status_code == 401


def test_the_sale_ends_with_its_key_its_plan_or_its_tenant(market: Market) -> None:
    shop = Shop(market)
    market.gateway.cli("tenant", "suspend", shop.owner.name)
    assert shop.chat().status_code == 401
    market.gateway.cli("tenant", "resume", shop.owner.name)
    assert shop.chat().status_code == 402
    assert "not sold while payment is off" in market.gateway.cli("payment", "off", shop.owner.name).stdout
    assert shop.chat().status_code == 401
    market.gateway.cli("payment", "set", shop.owner.name)
    assert shop.chat().status_code == 402
    market.gateway.cli("key", "revoke", shop.opened["terms"]["keyless_key_id"])
    assert shop.chat().status_code == 401
    shop.close()


def test_one_tenant_sells_and_only_one_that_takes_payments(market: Market, shop: Shop) -> None:
    other = market.customer()
    refused = market.gateway.cli("payment", "open", other.name, check=False)
    assert refused.returncode == 5
    assert f"trustgate payment close {shop.owner.name}" in refused.stderr
    market.gateway.add_tenant("takes-no-payments")
    assert market.gateway.cli("payment", "open", "takes-no-payments", check=False).returncode == 5
    assert market.gateway.cli("payment", "close", "takes-no-payments", check=False).returncode == 4
    # Opened again it is the same sale; its other key is told of.
    again = market.gateway.cli_json("payment", "open", shop.owner.name)
    assert again["terms"] == shop.opened["terms"]
    assert "payment.public_url" in again["notes"][0]
    assert "1 key of this tenant" in again["notes"][1]


def test_the_plan_holds_for_strangers_too(market: Market, shop: Shop) -> None:
    market.gateway.cli("plan", "add", "shop-window", "--models", "gpt-4o-mini", "--requests-per-day", "1")
    market.gateway.cli("tenant", "set", shop.owner.name, "--plan", "shop-window")
    assert shop.buy(model="another").status_code == 403
    assert shop.buy(model="gpt-4o-mini").status_code == 200
    assert shop.buy(model="gpt-4o-mini").status_code == 429


# the directory of paid services


@pytest.mark.parametrize("endpoint", SOLD_KEYLESS, ids=lambda each: each.path)
def test_each_endpoint_declares_itself_to_directories(shop: Shop, endpoint: Any) -> None:
    """The validators are those of the x402 SDK, which facilitators use; the example is a request that is taken."""
    refused = shop.http.post(endpoint.path, json=example(endpoint, "gpt-4o"))
    assert refused.status_code == 402
    required = required_of(refused)
    assert required.extensions is not None
    declared = required.extensions["bazaar"]
    assert declared == bazaar(endpoint, "gpt-4o")["bazaar"]
    for validate in (validate_discovery_extension, validate_discovery_extension_spec):
        assert validate(declared).errors in ([], None)
    assert required.resource is not None
    payload = {
        "x402Version": 2,
        "resource": required.resource.model_dump(by_alias=True),
        "extensions": required.extensions,
    }
    found = extract_discovery_info(payload, required.accepts[0].model_dump(by_alias=True))
    assert found is not None
    assert (found.method, found.resource_url) == ("POST", f"{shop.market.gateway.base_url}{endpoint.path}")
    # aiohttp's limit for a line of the head.
    assert len(refused.headers["payment-required"]) < 8_000


def test_a_tenants_own_402_is_not_declared_to_directories(shop: Shop) -> None:
    assert "bazaar" not in (required_of(shop.owner.chat()).extensions or {})


def test_the_books_balance(market: Market) -> None:
    shop = Shop(market)
    for number in range(5):
        assert shop.buy(seed=number).status_code == 200
    shop.close()
    report = market.audit()
    assert report.difference_count == 0, json.dumps([each.detail for each in report.differences])
