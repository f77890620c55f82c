"""Prices on the request path: what is not priced is not free, conditions count, and both are in the receipt."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import HELLO, Tenant
from tests.support.upstream import Reply, Upstream

_numbers = itertools.count(1)


def limited(tenant: Tenant, **plan: str) -> str:
    """A plan of its own for the tenant, with a limit on money."""
    name = f"limited-{next(_numbers)}"
    given = {"usd-per-month": "100", **plan}
    tenant.gateway.cli("plan", "add", name, *(part for flag, text in given.items() for part in (f"--{flag}", text)))
    tenant.gateway.cli("tenant", "set", tenant.name, "--plan", name)
    return name


def model(tenant: Tenant, *prices: str, **more: str) -> str:
    slug = f"priced-{next(_numbers)}"
    tenant.gateway.cli(
        "passport", "add", slug, *prices, *(p for flag, text in more.items() for p in (f"--{flag}", text))
    )
    return slug


def answered(scripted: Upstream, usage: dict[str, Any], **members: Any) -> None:
    scripted.script(Reply.json({"id": "x", "choices": [{"message": {"content": "hi"}}], "usage": usage, **members}))


def code_of(response: httpx.Response) -> str:
    code: str = response.json()["error"]["code"]
    return code


def test_a_limit_on_money_refuses_what_has_no_price(tenant: Tenant, scripted: Upstream) -> None:
    unpriced, free = model(tenant), model(tenant, "--free")
    plan = limited(tenant)
    refused = tenant.chat(model=unpriced)
    assert (refused.status_code, code_of(refused)) == (403, "model_not_priced")
    told = refused.json()["error"]["message"]
    assert "trustgate passport set" in told and f"trustgate plan set {plan} --unpriced-models allow" in told
    assert scripted.requests == []

    answered(scripted, {"prompt_tokens": 7, "completion_tokens": 3})
    assert tenant.chat(model=free).status_code == 200
    receipt = tenant.receipts()[-1]
    assert (receipt["v"], receipt["price_known"], receipt["cost_nano_usd"]) == (3, True, 0)

    tenant.gateway.cli("plan", "set", plan, "--unpriced-models", "allow")
    answered(scripted, {"prompt_tokens": 7, "completion_tokens": 3})
    assert tenant.chat(model=unpriced).status_code == 200
    receipt = tenant.receipts()[-1]
    assert (receipt["price_known"], receipt["cost_nano_usd"]) == (False, 0)


def test_a_request_without_a_model_is_told_so_under_a_limit_on_money(tenant: Tenant, scripted: Upstream) -> None:
    limited(tenant)
    refused = tenant.http.post("/v1/chat/completions", json={"messages": HELLO})
    assert (refused.status_code, code_of(refused)) == (400, "missing_required_parameter")
    assert scripted.requests == []


def test_a_key_with_a_limit_on_money_refuses_it_too(tenant: Tenant, scripted: Upstream) -> None:
    made = tenant.gateway.cli_json("key", "create", tenant.name, "--usd-per-day", "1")["key"]
    unpriced = model(tenant)
    shown = tenant.gateway.cli("key", "show", made["id"]).stdout
    assert "without a price, so refused where spending is limited" in " ".join(shown.split())
    body = {"model": unpriced, "messages": [{"role": "user", "content": "Hi"}]}
    with tenant.client(made["secret"]) as http:
        response = http.post("/v1/chat/completions", json=body)
    assert (response.status_code, code_of(response)) == (403, "model_not_priced")
    assert scripted.requests == []


def test_without_a_limit_on_money_it_is_served_and_the_receipt_tells(tenant: Tenant, scripted: Upstream) -> None:
    answered(scripted, {"prompt_tokens": 7, "completion_tokens": 3})
    assert tenant.chat(model=model(tenant)).status_code == 200
    receipt = tenant.receipts()[-1]
    assert (receipt["price_known"], receipt["cost_nano_usd"], receipt["billed_nano_usd"]) == (False, 0, 0)
    assert "had a model without a price" in tenant.gateway.cli("usage", "--tenant", tenant.name).stdout


def test_a_fallback_without_a_price_is_not_taken(tenant: Tenant, scripted: Upstream) -> None:
    unpriced = model(tenant)
    nobody = {"base-url": "http://127.0.0.1:9/v1", "fallback": unpriced}
    priced = model(tenant, "--input-price", "1", "--output-price", "1", **nobody)
    limited(tenant)
    response = tenant.chat(model=priced)
    assert response.status_code >= 500
    assert scripted.requests == []


def test_the_operator_is_told(tenant: Tenant) -> None:
    unpriced = model(tenant)
    plan = limited(tenant)
    for shown in (
        tenant.gateway.cli("plan", "show", plan).stdout,
        tenant.gateway.cli("plan", "set", plan, "--usd-per-month", "50").stdout,
        tenant.gateway.cli("doctor").stdout,
    ):
        assert "without a price, so refused where spending is limited" in " ".join(shown.split()), shown
    listed = tenant.gateway.cli("passport", "list").stdout
    assert any(unpriced in line and "not priced" in line for line in listed.splitlines())


@pytest.mark.parametrize(
    ("factor", "billed"), [("1.2", 1_200), ("0.9", 900), ("1.0000001", None), ("0", 0), ("1001", None)]
)
def test_a_plan_bills_the_cost_times_its_factor(
    tenant: Tenant, scripted: Upstream, factor: str, billed: int | None
) -> None:
    name = f"billed-{next(_numbers)}"
    done = tenant.gateway.cli("plan", "add", name, "--price-factor", factor, check=False)
    assert (done.returncode == 0) == (billed is not None)
    if billed is None:
        return
    tenant.gateway.cli("tenant", "set", tenant.name, "--plan", name)
    answered(scripted, {"prompt_tokens": 1, "completion_tokens": 1})
    assert tenant.chat(model=model(tenant, "--input-price", "1")).status_code == 200
    receipt = tenant.receipts()[-1]
    assert (receipt["cost_nano_usd"], receipt["billed_nano_usd"]) == (1_000, billed)
    assert tenant.used()["month"]["cost_nano_usd"] == billed


def test_a_well_known_model_is_priced_and_its_budget_binds(tenant: Tenant, scripted: Upstream) -> None:
    """A newcomer's way: nothing said of prices, a cent a month, and chats of a model that everybody knows.

    By hand: 2,000 prompt tokens at 2.50 USD a million and 500 completion tokens at 10.00 are 1 cent.
    """
    limited(tenant, **{"usd-per-month": "0.015"})
    answered(scripted, {"prompt_tokens": 2_000, "completion_tokens": 500})
    assert tenant.chat(model="gpt-4o", max_tokens=500).status_code == 200
    receipt = tenant.receipts()[-1]
    assert (receipt["cost_nano_usd"], receipt["price_known"]) == (10_000_000, True)
    shown = tenant.gateway.cli("passport", "prices", "show", receipt["price_hash"]).stdout
    assert "gpt-4o" in shown and "LiteLLM" in shown
    refused = tenant.chat(model="gpt-4o", max_tokens=1_000)
    assert (refused.status_code, code_of(refused)) == (429, "insufficient_quota")
    unknown = tenant.chat(model="nobody-knows-this")
    assert (unknown.status_code, code_of(unknown)) == (403, "model_not_priced")
    # The command that it names gives the model its price.
    command = "passport add nobody-knows-this --input-price"
    assert f"trustgate {command} USD --output-price USD" in unknown.json()["error"]["message"]
    tenant.gateway.cli(*command.split(), "1", "--output-price", "2")
    limited(tenant, **{"usd-per-month": "1"})
    answered(scripted, {"prompt_tokens": 1_000, "completion_tokens": 5})
    assert tenant.chat(model="nobody-knows-this", max_tokens=5).status_code == 200
    assert tenant.receipts()[-1]["cost_nano_usd"] == 1_010_000


def test_another_price_list(tenant: Tenant, scripted: Upstream, tmp_path: Path) -> None:
    """It shows what changes, is taken on demand, and what older receipts name is found in the older one."""
    name = "gpt-4.1-nano"
    cli = tenant.gateway.cli
    answered(scripted, {"prompt_tokens": 1_000, "completion_tokens": 5})
    assert tenant.chat(model=name).status_code == 200
    table = tmp_path / "table.json"
    entry = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 9e-06, "output_cost_per_token": 0}
    table.write_text(json.dumps({name: entry}))
    update = ("passport", "prices", "update", "--from-litellm", str(table), "--as-of", "2099-01-01")
    shown = cli(*update).stdout
    assert f"{name}: input $0.10 → $9.00 per million tokens" in shown and "Nothing has been changed" in shown
    answered(scripted, {"prompt_tokens": 1_000, "completion_tokens": 5})
    assert tenant.chat(model=name).status_code == 200
    assert "holds from the next request on" in cli(*update, "--yes").stdout
    answered(scripted, {"prompt_tokens": 1_000, "completion_tokens": 5})
    assert tenant.chat(model=name).status_code == 200
    first, second, third = tenant.receipts()
    assert [each["cost_nano_usd"] for each in (first, second, third)] == [102_000, 102_000, 9_000_000]
    assert first["price_hash"] == second["price_hash"] != third["price_hash"]
    for receipt, price in ((first, "$0.10"), (third, "$9.00")):
        assert price in cli("passport", "prices", "show", receipt["price_hash"]).stdout


def test_a_passports_prices_have_a_history(tenant: Tenant) -> None:
    slug = model(tenant, "--input-price", "1")
    cli = tenant.gateway.cli
    first = tenant.gateway.cli_json("passport", "prices", "show", slug)["prices"][0]
    cli("passport", "set", slug, "--input-price", "2")
    history = tenant.gateway.cli_json("passport", "prices", "history", slug)["prices"]
    assert [each["prices"]["input_pico_usd"] for each in history] == [1_000_000, 2_000_000]
    assert history[0]["price_hash"] == first["price_hash"]
    assert slug in cli("passport", "prices", "show", first["price_hash"]).stdout
    missing = cli("passport", "prices", "show", "0" * 64, check=False)
    assert missing.returncode != 0 and "hash" in missing.stderr


def test_a_slip_of_the_unit_asks(tenant: Tenant) -> None:
    slug = f"slip-{next(_numbers)}"
    command = ("passport", "add", slug, "--input-price", "25000")
    refused = tenant.gateway.cli(*command, check=False)
    assert refused.returncode != 0 and "slip of the unit" in refused.stderr and "--yes" in refused.stderr
    tenant.gateway.cli(*command, "--yes")


def test_importing_again_keeps_a_price_set_by_hand(tenant: Tenant, tmp_path: Path) -> None:
    slug = f"imported-{next(_numbers)}"
    config = tmp_path / "config.yaml"
    text = "model_list: [{model_name: %s, litellm_params: {model: openai/x, input_cost_per_token: %s}}]"
    cli, cli_json = tenant.gateway.cli, tenant.gateway.cli_json
    config.write_text(text % (slug, "1.0e-06"))
    cli("passport", "import", str(config))
    cli("passport", "set", slug, "--call-price", "0.002")
    config.write_text(text % (slug, "2.0e-06"))
    cli("passport", "import", str(config))
    shown = cli_json("passport", "show", slug)["passport"]
    assert (shown["prices"]["input_pico_usd"], shown["prices"]["call_nano_usd"]) == (2_000_000, 2_000_000)
    assert shown["price_source"] == "imported from config.yaml"


def test_what_an_answer_tells_is_priced_by_the_table(tenant: Tenant, scripted: Upstream, tmp_path: Path) -> None:
    """Through a real answer: its tier, the length of its prompt, and what was written to the cache. Figures by hand."""
    slug = f"table-{next(_numbers)}"
    info = {
        "input_cost_per_token": 5e-06,
        "output_cost_per_token": 25e-06,
        "cache_creation_input_token_cost": 6.25e-06,
        "cache_creation_input_token_cost_above_1hr": 1e-05,
        "input_cost_per_token_above_200k_tokens": 1e-05,
        "output_cost_per_token_above_200k_tokens": 4.5e-05,
        "input_cost_per_token_priority": 1.25e-05,
        "output_cost_per_token_priority": 7.5e-05,
    }
    config = tmp_path / "config.yaml"
    deployment = {"model_name": slug, "litellm_params": {"model": "openai/x"}, "model_info": info}
    config.write_text(json.dumps({"model_list": [deployment]}))
    tenant.gateway.cli("passport", "import", str(config))
    cache = {"cached_tokens": 0, "cache_creation_tokens": 100_000}
    written = {
        "prompt_tokens": 100_010,
        "completion_tokens": 10,
        "prompt_tokens_details": cache,
        "cache_creation_input_tokens": 100_000,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100_000},
    }
    for usage, members in (
        (written, {}),
        ({"prompt_tokens": 300_000, "completion_tokens": 1_000}, {}),
        ({"prompt_tokens": 1_000, "completion_tokens": 1_000}, {"service_tier": "priority"}),
    ):
        answered(scripted, usage, **members)
        assert tenant.chat(model=slug, **members).status_code == 200
    first, second, third = tenant.receipts()
    assert (first["cost_nano_usd"], first["cache_write_1h_tokens"]) == (1_000_300_000, 100_000)
    assert second["cost_nano_usd"] == 3_045_000_000
    assert (third["cost_nano_usd"], third["service_tier"]) == (12_500_000 + 75_000_000, "priority")
    shown = tenant.gateway.cli("receipt", "show", first["id"]).stdout
    assert "100,000 tokens written to the cache" in shown


def test_a_receipt_shows_all_that_its_price_looked_at(tenant: Tenant, scripted: Upstream, tmp_path: Path) -> None:
    """Names that are longer than a receipt keeps: what holds for their beginning is what is billed, and recomputed."""
    size, tier = "s" * 32, "t" * 32
    slug = model(tenant, "--image-price", "0.01", "--input-price", "1", "--output-price", "1")
    for condition in (("--image-size", size, "--image-price", "0.02"), ("--service-tier", tier, "--input-price", "3")):
        tenant.gateway.cli("passport", "set", slug, *condition)
    scripted.script(Reply.json({"created": 1, "data": [{"b64_json": "aGk="}]}))
    asked = {"model": slug, "prompt": "p", "size": size + "more"}
    assert tenant.http.post("/v1/images/generations", json=asked).status_code == 200
    for more in ("", "more"):
        answered(scripted, {"prompt_tokens": 1000, "completion_tokens": 1}, service_tier=tier + more)
        assert tenant.chat(model=slug).status_code == 200
    image, *chats = tenant.receipts()
    assert (image["image_size"], image["cost_nano_usd"] >= 20_000_000) == (size, True)
    assert [(chat["service_tier"], chat["cost_nano_usd"]) for chat in chats] == [(tier, 3_001_000)] * 2
    statement = tmp_path / "statement.json"
    tenant.gateway.cli("statement", tenant.name, "--month", "this", "-o", str(statement))
    assert tenant.gateway.cli("statement", "verify", str(statement)).returncode == 0
    refused = tenant.gateway.cli("passport", "set", slug, "--service-tier", "t" * 33, "--input-price", "3", check=False)
    assert (refused.returncode, "1 to 32 printable characters" in refused.stderr) == (2, True)
