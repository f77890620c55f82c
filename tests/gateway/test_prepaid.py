"""Tenants that draw on credit which their operator adds, with no network to pay on; markups of their own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway

#: The echo, at a price for each request.
_PRICE = ("--price", "0.01")


@pytest.fixture(scope="module")
def gateway(make_module_gateway: GatewayFactory) -> Gateway:
    gateway = make_module_gateway(upstream="builtin:echo").start()
    gateway.cli(
        *(
            "passport",
            "add",
            "echo",
            "--base-url",
            "builtin:echo",
            "--api-model-id",
            "trustgate/echo",
            "--input-price",
            "1",
            "--output-price",
            "2",
        ),
    )
    return gateway


def _ask(gateway: Gateway, secret: str, **members: Any) -> httpx.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, **members}
    return httpx.post(
        f"{gateway.api_url}/chat/completions",
        headers={"authorization": f"Bearer {secret}"},
        json=body,
        trust_env=False,
    )


def _receipts(gateway: Gateway, tenant: str) -> list[dict[str, Any]]:
    """Oldest first."""
    return [each["receipt"] for each in reversed(gateway.cli_json("receipt", "list", "--tenant", tenant)["receipts"])]


def test_a_prepaid_tenant_draws_on_what_is_added_and_learns_how_to_get_more(gateway: Gateway) -> None:
    secret = gateway.add_tenant("prepaid")
    gateway.cli("payment", "set", "prepaid", "--mode", "prepaid", "--contact", "mail billing@example.com", *_PRICE)

    refused = _ask(gateway, secret)
    assert refused.status_code == 402
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert "may cost 0.01 USD: the balance is 0 USD. To get more credit: mail billing@example.com" in refused.text
    assert "payment-required" not in refused.headers
    assert "accepts" not in refused.json()
    assert refused.headers["x-should-retry"] == "false"

    added = gateway.cli_json("tenant", "credit", "prepaid", "--add", "0.025")
    assert added["balance_nano_usd"] == 25_000_000
    assert [_ask(gateway, secret).status_code for _ in range(3)] == [200, 200, 402]
    assert gateway.cli_json("tenant", "credit", "prepaid")["balance_nano_usd"] == 5_000_000
    credit, *asked = _receipts(gateway, "prepaid")
    assert (credit["id"], credit["finish"], credit["credited_nano_usd"]) == (added["receipt"], "credited", 25_000_000)
    assert [each["charged_nano_usd"] for each in asked] == [10_000_000, 10_000_000]
    card = httpx.get(f"{gateway.api_url}/credits", headers={"authorization": f"Bearer {secret}"}, trust_env=False)
    assert card.json()["balance_usd"] == "0.005"
    assert (card.json()["mode"], card.json()["top_up_usd"]) == ("prepaid", None)
    assert card.json()["contact"] == "mail billing@example.com"
    top_up = httpx.post(f"{gateway.api_url}/credits", headers={"authorization": f"Bearer {secret}"}, trust_env=False)
    assert top_up.status_code == 403
    assert "To get more: mail billing@example.com" in top_up.text


def test_the_contact_of_the_settings_is_for_all(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(
        upstream="builtin:echo", environment={"TRUSTGATE_PAYMENT_CONTACT": "https://example.com/credit"}
    ).start()
    secret = gateway.add_tenant("settled")
    gateway.cli("payment", "set", "settled", "--mode", "prepaid", *_PRICE)
    assert "To get more credit: https://example.com/credit" in _ask(gateway, secret, model="trustgate/echo").text
    card = httpx.get(f"{gateway.api_url}/credits", headers={"authorization": f"Bearer {secret}"}, trust_env=False)
    assert card.json()["contact"] == "https://example.com/credit"
    assert "prepaid: trustgate payment terms settled" in gateway.cli("tenant", "show", "settled").stdout


def test_without_a_contact_the_refusal_names_the_operator(gateway: Gateway) -> None:
    secret = gateway.add_tenant("silent")
    gateway.cli("payment", "set", "silent", "--mode", "prepaid", *_PRICE)
    assert "Ask the operator of this gateway for more credit." in _ask(gateway, secret).text


def test_a_reference_counts_once(gateway: Gateway) -> None:
    gateway.add_tenant("invoiced")
    gateway.cli("payment", "set", "invoiced", "--mode", "prepaid", *_PRICE)
    first = gateway.cli_json("tenant", "credit", "invoiced", "--add", "5", "--reference", "invoice 7")
    again = gateway.cli_json("tenant", "credit", "invoiced", "--add", "5", "--reference", "invoice 7")
    assert (first["balance_nano_usd"], first["repeated"]) == (5_000_000_000, False)
    assert again == {**first, "repeated": True}
    other = gateway.cli("tenant", "credit", "invoiced", "--add", "6", "--reference", "invoice 7", check=False)
    assert other.returncode == 5
    assert "'invoice 7' was used for 5 USD" in other.stderr
    gateway.add_tenant("another")
    gateway.cli("payment", "set", "another", "--mode", "prepaid", *_PRICE)
    others = gateway.cli_json("tenant", "credit", "another", "--add", "5", "--reference", "invoice 7")
    assert others["repeated"] is False
    assert gateway.cli_json("tenant", "credit", "invoiced")["balance_nano_usd"] == 5_000_000_000
    assert gateway.cli("doctor", "--books").returncode == 0


def test_credit_that_nothing_draws_on_is_refused(gateway: Gateway) -> None:
    gateway.add_tenant("postpaid")
    refused = gateway.cli("tenant", "credit", "postpaid", "--add", "5", check=False)
    assert refused.returncode == 5
    assert "would lie idle" in refused.stderr
    assert "trustgate payment set postpaid --mode prepaid" in refused.stderr
    assert gateway.cli_json("tenant", "credit", "postpaid")["balance_nano_usd"] == 0


def test_paying_for_each_request_still_wants_a_network(gateway: Gateway) -> None:
    gateway.add_tenant("per-request")
    refused = gateway.cli("payment", "set", "per-request", *_PRICE, check=False)
    assert refused.returncode == 2
    assert "No network is set" in refused.stderr
    assert "--mode prepaid" in refused.stderr


def test_a_tenants_own_factor_stands_over_its_plans(gateway: Gateway) -> None:
    gateway.cli("plan", "add", "dear", "--price-factor", "3")
    secret = gateway.add_tenant("marked", plan="dear")
    gateway.cli("tenant", "set", "marked", "--price-factor", "1.5")
    assert _ask(gateway, secret).status_code == 200
    gateway.cli("tenant", "set", "marked", "--price-factor", "none")
    assert _ask(gateway, secret).status_code == 200
    own, plans = _receipts(gateway, "marked")
    assert own["cost_nano_usd"] == plans["cost_nano_usd"] > 0
    assert (own["price_factor_ppm"], plans["price_factor_ppm"]) == (1_500_000, 3_000_000)
    assert own["billed_nano_usd"] == -(-own["cost_nano_usd"] * 3 // 2)
    assert plans["billed_nano_usd"] == 3 * plans["cost_nano_usd"]
    assert own["policy_hash"] != plans["policy_hash"]


def test_what_is_held_goes_by_the_tenants_own_factor(gateway: Gateway) -> None:
    """Ten tokens at 2 USD a million and a short prompt: 1,000 times that is more than the credit, once is not."""
    secret = gateway.add_tenant("held")
    gateway.cli("payment", "set", "held", "--mode", "prepaid")
    gateway.cli("tenant", "credit", "held", "--add", "0.001")
    gateway.cli("tenant", "set", "held", "--price-factor", "1000")
    assert _ask(gateway, secret).status_code == 402
    gateway.cli("tenant", "set", "held", "--price-factor", "1")
    assert _ask(gateway, secret).status_code == 200


def test_a_removed_tenant_comes_back_with_its_keys_and_its_balance(gateway: Gateway) -> None:
    secret = gateway.add_tenant("comes-back")
    gateway.cli("payment", "set", "comes-back", "--mode", "prepaid", *_PRICE)
    gateway.cli("tenant", "credit", "comes-back", "--add", "1")
    dead = gateway.cli_json("key", "create", "comes-back")["key"]
    gateway.cli("key", "revoke", dead["id"])

    asked = gateway.cli("tenant", "remove", "comes-back", check=False)
    assert asked.returncode == 5
    assert "1 key, which dies" in asked.stderr
    assert "balance of $1.00 can no longer be used" in asked.stderr
    assert "trustgate tenant remove comes-back --yes" in asked.stderr
    assert _ask(gateway, secret).status_code == 200, "nothing has been changed"

    removed = gateway.cli("tenant", "remove", "comes-back", "--yes")
    assert "trustgate tenant restore ten_" in removed.stderr
    assert _ask(gateway, secret).status_code == 401
    back = gateway.cli_json("tenant", "restore", "comes-back")
    assert back["tenant"]["status"] == "active"
    assert _ask(gateway, secret).status_code == 200
    assert _ask(gateway, dead["secret"]).status_code == 401, "it was dead before"
    assert gateway.cli_json("tenant", "credit", "comes-back")["balance_nano_usd"] == 1_000_000_000 - 2 * 10_000_000


def test_a_restored_tenant_gives_way_to_the_one_that_has_its_name_now(gateway: Gateway) -> None:
    gateway.add_tenant("twin")
    [first] = [each for each in gateway.cli_json("tenant", "list")["tenants"] if each["name"] == "twin"]
    gateway.cli("tenant", "remove", "twin", "--yes")
    gateway.add_tenant("twin")
    refused = gateway.cli("tenant", "restore", first["id"], check=False)
    assert refused.returncode == 5
    assert "--name NAME" in refused.stderr
    assert gateway.cli_json("tenant", "restore", first["id"], "--name", "twin 1")["tenant"]["name"] == "twin 1"
    again = gateway.cli("tenant", "restore", "twin 1", check=False)
    assert "is not removed" in again.stderr


# what a mistaken price billed


def _priced(gateway: Gateway, slug: str, *prices: str) -> None:
    gateway.cli(*("passport", "add", slug, "--base-url", "builtin:echo", "--api-model-id", "trustgate/echo"), *prices)


def test_what_a_mistaken_price_billed_is_given_back_once(gateway: Gateway) -> None:
    _priced(gateway, "mistaken", "--input-price", "100", "--output-price", "200")
    secret = gateway.add_tenant("overbilled")
    gateway.cli("payment", "set", "overbilled", "--mode", "prepaid")
    gateway.cli("tenant", "set", "overbilled", "--price-factor", "1.5")
    gateway.cli("tenant", "credit", "overbilled", "--add", "1")
    assert [_ask(gateway, secret, model=model).status_code for model in ("mistaken", "mistaken", "echo")] == [200] * 3
    gateway.cli("passport", "set", "mistaken", "--input-price", "1", "--output-price", "2")
    receipts = [each for each in _receipts(gateway, "overbilled") if each["model"] == "mistaken"]
    # By hand: 1 and 2 USD a million are 1,000 and 2,000 nano-USD a token; times 1.5.
    fair = [-(-(each["prompt_tokens"] * 1_000 + each["completion_tokens"] * 2_000) * 3 // 2) for each in receipts]
    expected = sum(each["charged_nano_usd"] for each in receipts) - sum(fair)
    assert expected > 0

    correct = ("tenant", "correct", "overbilled", "--since", "today")
    shown = gateway.cli(*correct, check=False)
    assert shown.returncode == 5
    assert "mistaken" in shown.stdout
    assert "the input is not a terminal" in shown.stderr
    before = gateway.cli_json("tenant", "credit", "overbilled")["balance_nano_usd"]
    preview = gateway.cli_json(*correct)
    assert (preview["credit_nano_usd"], preview["change"], preview["same"]) == (expected, None, 1)
    assert gateway.cli_json("tenant", "credit", "overbilled")["balance_nano_usd"] == before

    one = gateway.cli_json("tenant", "correct", "overbilled", "--for", receipts[0]["id"], "--yes")
    assert one["credit_nano_usd"] == receipts[0]["charged_nano_usd"] - fair[0]
    rest = gateway.cli_json(*correct, "--yes", "--reference", "price of November")
    assert (rest["corrected"], rest["credit_nano_usd"]) == (1, expected - one["credit_nano_usd"])
    booked = gateway.cli_json("receipt", "show", rest["change"]["receipt"])["receipt"]
    assert (booked["finish"], booked["credited_nano_usd"]) == ("credited", rest["credit_nano_usd"])
    again = gateway.cli_json(*correct, "--yes")
    assert (again["corrected"], again["credit_nano_usd"], again["change"]) == (2, 0, None)
    assert gateway.cli_json("tenant", "credit", "overbilled")["balance_nano_usd"] == before + expected
    assert gateway.cli("doctor", "--books").returncode == 0


def test_a_tenant_that_pays_later_is_given_back_too_and_by_a_given_price(gateway: Gateway) -> None:
    _priced(gateway, "slip", "--input-price", "50", "--output-price", "0")
    secret = gateway.add_tenant("by-invoice")
    assert _ask(gateway, secret, model="slip").status_code == 200
    [receipt] = _receipts(gateway, "by-invoice")
    correct = ("tenant", "correct", "by-invoice", "--since", "today", "--model", "sli*")
    given = gateway.cli_json(*correct, "--input-price", "0.5", "--output-price", "0", "--yes")
    assert given["draws"] is False
    assert given["credit_nano_usd"] == receipt["prompt_tokens"] * 49_500
    assert given["change"]["balance_nano_usd"] == given["credit_nano_usd"]


def test_a_price_that_was_too_low_takes_nothing(gateway: Gateway) -> None:
    _priced(gateway, "cheap", "--input-price", "1", "--output-price", "1")
    secret = gateway.add_tenant("lucky")
    assert _ask(gateway, secret, model="cheap").status_code == 200
    gateway.cli("passport", "set", "cheap", "--input-price", "9")
    shown = gateway.cli("tenant", "correct", "lucky", "--since", "today", "--yes")
    assert "nothing to give back" in shown.stdout
    assert gateway.cli_json("tenant", "credit", "lucky")["balance_nano_usd"] == 0


def test_a_price_for_each_request_is_no_models_price(gateway: Gateway) -> None:
    secret = gateway.add_tenant("flat")
    gateway.cli("payment", "set", "flat", "--mode", "prepaid", *_PRICE)
    gateway.cli("tenant", "credit", "flat", "--add", "1")
    assert _ask(gateway, secret).status_code == 200
    found = gateway.cli_json("tenant", "correct", "flat", "--since", "today")
    assert (found["otherwise"], found["credit_nano_usd"]) == (1, 0)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "either --for RECEIPT or --since"),
        (("--for", "rcpt_none"), 4, "has no receipt 'rcpt_none'"),
        (("--since", "today", "--input-price", "1"), 2, "--model MODEL"),
    ],
)
def test_a_correction_of_nothing_in_particular_is_refused(
    gateway: Gateway, options: tuple[str, ...], code: int, said: str
) -> None:
    name = f"vague-{len(options)}"
    gateway.add_tenant(name)
    refused = gateway.cli("tenant", "correct", name, *options, check=False)
    assert refused.returncode == code
    assert said in refused.stderr
