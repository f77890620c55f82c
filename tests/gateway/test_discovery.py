"""What a program finds that has nothing but the gateway's address: what is sold, at what price, how it is paid."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from x402.extensions.bazaar import validate_discovery_extension
from x402.schemas import PaymentRequirements

from tests.conftest import GatewayFactory
from tests.support.keyless import Shop, open_market
from tests.support.paying import PRICE_UNITS, Market
from tests.support.programs import require_node_modules
from trustgate.gateway.api.bazaar import SOLD_KEYLESS

_ABILITIES = ("chat", "completions", "embeddings", "moderations", "rerank", "images", "speech")
_PRICED = ("--input-price", "1", "--output-price", "10", "--image-price", "0.01", "--character-price", "5")


@pytest.fixture(scope="module")
def market(make_module_gateway: GatewayFactory) -> Iterator[Market]:
    with open_market(make_module_gateway) as opened:
        able = [word for ability in _ABILITIES for word in ("--capability", ability)]
        opened.gateway.cli("passport", "add", "able", "--api-model-id", "able-1", *_PRICED, *able)
        opened.gateway.cli(
            "passport", "add", "dear", "--api-model-id", "dear-1", "--input-price", "100", "--output-price", "900"
        )
        opened.gateway.cli("passport", "add", "gratis", "--api-model-id", "gratis-1", "--free")
        yield opened


@pytest.fixture
def shop(market: Market) -> Iterator[Shop]:
    """Sells at the prices of its passports."""
    opened = Shop(market, price_nano_usd=None)
    yield opened
    opened.close()


def get(market: Market, path: str) -> httpx.Response:
    return httpx.get(market.gateway.base_url + path, trust_env=False)


def asked(response: httpx.Response) -> dict[str, Any]:
    required: dict[str, Any] = json.loads(base64.b64decode(response.headers["payment-required"]))
    return required


def test_nothing_shows_while_nothing_is_sold(market: Market) -> None:
    for path in ("/.well-known/x402", "/.well-known/x402.json"):
        assert get(market, path).status_code == 404
    text = get(market, "/llms.txt").text
    assert "An API key is needed" in text
    assert "`able`" not in text and "USD" not in text
    assert "x-payment-info" not in get(market, "/openapi.json").text


def test_what_is_published_is_what_a_402_asks(market: Market, shop: Shop) -> None:
    manifest = get(market, "/.well-known/x402").json()
    assert manifest == get(market, "/.well-known/x402.json").json() | {"items": manifest["items"]}
    assert (manifest["version"], manifest["x402Version"]) == (1, 2)
    assert manifest["resources"] == [market.gateway.base_url + endpoint.path for endpoint in SOLD_KEYLESS]
    for item in manifest["items"]:
        declared = item["extensions"]["bazaar"]
        assert validate_discovery_extension(declared).valid
        for accepts in item["accepts"]:
            PaymentRequirements.model_validate(accepts)
        refused = shop.http.request(item["method"], item["resource"], json=declared["info"]["input"]["body"])
        assert refused.status_code == 402, item["resource"]
        required = asked(refused)
        assert required["accepts"] == item["accepts"]
        assert required["extensions"] == item["extensions"]
        assert required["resource"]["url"] == item["resource"]


def test_the_cheapest_model_is_the_example_and_the_models_have_their_prices(market: Market, shop: Shop) -> None:
    items = get(market, "/.well-known/x402").json()["items"]
    models = {
        item["resource"].partition("/v1/")[2]: item["extensions"]["bazaar"]["info"]["input"]["body"]["model"]
        for item in items
    }
    # The price list knows a cheaper one that chats; what the others are for, one alone is said to do.
    assert models["chat/completions"] == models["messages"] == "gpt-4o-mini"
    assert models["embeddings"] == models["audio/speech"] == "able"
    listed = {model["id"]: model["pricing"] for model in shop.http.get("/v1/models").json()["data"]}
    assert listed["able"] == {
        "currency": "USD",
        "prompt": "0.000001",
        "completion": "0.00001",
        "image": "0.01",
        "character": "0.000005",
    }
    assert (listed["dear"]["prompt"], listed["dear"]["completion"]) == ("0.0001", "0.0009")
    assert listed["gratis"] == {"currency": "USD", "prompt": "0", "completion": "0"}
    assert listed["gpt-4o"] is not None, "the price list knows it"
    text = get(market, "/llms.txt").text
    assert "`able`: prompt 0.000001 USD, completion 0.00001 USD" in text
    assert "`gratis`" not in text
    assert "`dear`: prompt 0.0001 USD" in text
    # What changes is published at once.
    market.gateway.cli("passport", "set", "dear", "--input-price", "200")
    assert "`dear`: prompt 0.0002 USD" in get(market, "/llms.txt").text


def test_a_plan_bounds_what_is_published(market: Market, shop: Shop) -> None:
    market.gateway.cli("plan", "add", "narrow", "--models", "dear", "--endpoints", "chat.completions")
    market.gateway.cli("tenant", "set", shop.owner.name, "--plan", "narrow")
    [item] = get(market, "/.well-known/x402").json()["items"]
    assert item["resource"].endswith("/v1/chat/completions")
    assert [model["id"] for model in shop.http.get("/v1/models").json()["data"]] == ["dear"]
    assert "`able`" not in get(market, "/llms.txt").text


def test_one_price_for_every_request_is_published_as_it_is(market: Market) -> None:
    shop = Shop(market)
    [accepts] = get(market, "/.well-known/x402").json()["items"][0]["accepts"]
    assert accepts["amount"] == str(PRICE_UNITS)
    operation = get(market, "/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]
    price = {"mode": "fixed", "currency": "USD", "amount": "0.01"}
    assert operation["x-payment-info"] == {"price": price, "protocols": [{"x402": {}}]}
    pricing = shop.http.get("/v1/models/able").json()["pricing"]
    assert pricing == {"currency": "USD", "prompt": "0", "completion": "0", "request": "0.01"}
    shop.close()


def test_no_tenant_and_no_upstream_shows(market: Market, shop: Shop) -> None:
    for path in ("/.well-known/x402", "/llms.txt", "/openapi.json"):
        text = get(market, path).text.replace(market.gateway.base_url, "")
        assert shop.owner.name not in text
        assert "127.0.0.1" not in text
        assert market.facilitator.url not in text


def test_validators_find_nothing_in_the_description_with_prices(market: Market, shop: Shop) -> None:
    described = get(market, "/openapi.json").json()
    assert [error.message for error in OpenAPIV31SpecValidator(described).iter_errors()] == []
    assert described["paths"]["/v1/chat/completions"]["post"]["security"] == [{}, {"bearer": []}]


_REGISTRY = """
import * as registry from '@agentcash/discovery';
const { checkEndpointSchema, discoverOriginSchema, validatePaymentRequiredDetailed } = registry;
const [url] = process.argv.slice(-1);
const found = await discoverOriginSchema({ target: url });
const checked = await checkEndpointSchema({ url: url + '/v1/chat/completions', probe: true });
const refused = await fetch(url + '/v1/chat/completions', {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ model: 'able', messages: [{ role: 'user', content: 'Hello!' }], max_tokens: 5 }),
});
const header = refused.headers.get('payment-required');
const required = JSON.parse(Buffer.from(header, 'base64').toString());
const judged = validatePaymentRequiredDetailed(required);
console.log(JSON.stringify({ found, checked, judged }));
"""


@pytest.mark.clients
def test_the_registry_of_x402_finds_what_is_sold(market: Market, shop: Shop) -> None:
    """x402scan's own discovery and validator."""
    node = require_node_modules()
    done = subprocess.run(
        ["node", "--input-type=module", "-e", _REGISTRY, market.gateway.base_url],
        cwd=node,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["found"]["found"]
    paid = {each["path"] for each in said["found"]["endpoints"] if each.get("authMode") == "paid"}
    assert paid == {endpoint.path for endpoint in SOLD_KEYLESS}
    [advisory] = said["checked"]["advisories"]
    print(advisory)
    assert advisory["authMode"] == "paid"
    assert said["judged"]["valid"] and said["judged"]["issues"] == []
    assert said["judged"]["normalized"]["hasInputSchema"]


@pytest.mark.parametrize("body", [b"", b"{}", b"{"])
def test_a_request_that_asks_for_nothing_yet_is_told_the_price_of_the_example(
    market: Market, shop: Shop, body: bytes
) -> None:
    refused = shop.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 402
    [item, *_] = get(market, "/.well-known/x402").json()["items"]
    assert asked(refused)["accepts"] == item["accepts"]
    # With a payment it is judged as it is.
    paying = shop.owner.pay(refused)
    wrong = shop.http.post("/v1/chat/completions", content=body, headers=paying)
    assert wrong.status_code in (400, 402, 403)
    assert market.payments(shop.owner) == []
