"""Credit from elsewhere: signed messages of a shop or a bank's script, each booked once, none without a signature."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import GatewayFactory
from tests.notify.conftest import QUICK
from tests.support.gateway import Gateway
from tests.support.receiver import Receiver
from tests.support.upstream import Upstream
from trustgate.errors import AuthenticationFailed, InvalidRequest, SettingsError
from trustgate.payment.shop_events import WINDOW_S, check_signature, read_event
from trustgate.settings import Settings
from trustgate.settings.sections import CreditSettings

_SHOP = "whsec_c2hvcC1zZWNyZXQtb2YtdGhlLXRlc3Rz"
_OLD_SHOP = "whsec_b2xkLXNlY3JldC1vZi10ZXN0cw"
_BANK = "whsec_" + base64.b64encode(b"the bank script's own secret").decode()
_CENT = 10_000_000
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(make_module_gateway: GatewayFactory) -> Iterator[Gateway]:
    upstream = Upstream().start()
    environment = {
        "SHOP": f"{_OLD_SHOP},{_SHOP}",
        "BANK": _BANK,
        "TRUSTGATE_CREDIT_STRIPE_SECRET_ENV": "SHOP",
        "TRUSTGATE_CREDIT_WEBHOOK_SECRET_ENV": "BANK",
    }
    yield make_module_gateway(upstream=upstream.api_url, environment=environment).start()
    upstream.stop()


@pytest.fixture
def tenant(gateway: Gateway) -> str:
    """One that draws on credit and has none."""
    name = f"prepaid-{next(_numbers)}"
    gateway.add_tenant(name)
    gateway.cli("payment", "set", name, "--mode", "prepaid")
    return name


def checkout(tenant: str, cents: int = 500, **changes: Any) -> dict[str, Any]:
    session = {
        "id": f"cs_{next(_numbers)}",
        "object": "checkout.session",
        "amount_total": cents,
        "currency": "usd",
        "payment_status": "paid",
        "metadata": {"tenant": tenant},
        **changes,
    }
    return {"id": f"evt_{next(_numbers)}", "type": "checkout.session.completed", "data": {"object": session}}


def stripe_head(body: bytes, *, secret: str = _SHOP, at_s: int | None = None) -> dict[str, str]:
    at_s = int(time.time()) if at_s is None else at_s
    signed = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return {"stripe-signature": f"t={at_s},v1={signed},v0=ignored"}


def standard_head(body: bytes, message_id: str, *, secret: str = _BANK, at_s: int | None = None) -> dict[str, str]:
    at_s = int(time.time()) if at_s is None else at_s
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = base64.b64encode(hmac.digest(key, f"{message_id}.{at_s}.".encode() + body, "sha256")).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(at_s), "webhook-signature": f"v1,bm8= v1,{signed}"}


def send(gateway: Gateway, form: str, body: bytes, head: dict[str, str]) -> httpx.Response:
    url = f"{gateway.base_url}/v1/credit-webhooks/{form}"
    return httpx.post(url, content=body, headers={"content-type": "application/json", **head}, trust_env=False)


def report(gateway: Gateway, event: dict[str, Any], **signing: Any) -> httpx.Response:
    body = json.dumps(event).encode()
    return send(gateway, "stripe", body, stripe_head(body, **signing))


def balance(gateway: Gateway, tenant: str) -> int:
    amount: int = gateway.cli_json("tenant", "credit", tenant)["balance_nano_usd"]
    return amount


def test_a_paid_checkout_is_credited_with_a_receipt(gateway: Gateway, tenant: str) -> None:
    booked = report(gateway, checkout(tenant, 1234))
    assert (booked.status_code, booked.json()["booked"]) == (200, True)
    assert balance(gateway, tenant) == 1234 * _CENT
    receipt = gateway.cli_json("receipt", "show", booked.json()["receipt"])["receipt"]
    assert (receipt["credited_nano_usd"], receipt["finish"]) == (1234 * _CENT, "credited")


def test_what_is_reported_again_counts_once(gateway: Gateway, tenant: str) -> None:
    """The same message, another event about the same checkout, eight at once, and after the server was killed."""
    event = checkout(tenant)
    later = {**event, "id": "evt_later", "type": "checkout.session.async_payment_succeeded"}
    first = report(gateway, event).json()["receipt"]
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda _: report(gateway, later).json(), range(8)))
    assert {(each["booked"], each["receipt"]) for each in again} == {(False, first)}
    gateway.kill()
    gateway.start()
    assert report(gateway, event).json() == again[0]
    assert balance(gateway, tenant) == 500 * _CENT


def test_a_bank_script_credits_by_standard_webhooks(gateway: Gateway, tenant: str) -> None:
    body = json.dumps({"type": "credit", "data": {"tenant": tenant, "amount_cents": 250, "currency": "USD"}}).encode()
    for _ in range(2):
        assert send(gateway, "standard", body, standard_head(body, "msg_1")).status_code == 200
    assert send(gateway, "standard", body, standard_head(body, "msg_2")).json()["booked"]
    assert balance(gateway, tenant) == 500 * _CENT


def test_either_secret_signs_while_one_is_replaced(gateway: Gateway, tenant: str) -> None:
    assert report(gateway, checkout(tenant), secret=_OLD_SHOP).json()["booked"]
    assert report(gateway, checkout(tenant), secret=_SHOP).json()["booked"]


def test_nothing_is_booked_without_a_signature_of_now(gateway: Gateway, tenant: str) -> None:
    event = checkout(tenant)
    body, now_s = json.dumps(event).encode(), int(time.time())
    other = json.dumps(checkout(tenant, 10**6)).encode()
    standard = json.dumps({"type": "credit", "data": {"tenant": tenant, "amount_cents": 1}}).encode()
    heads = [
        {},
        {"stripe-signature": ""},
        {"stripe-signature": "t=,v1="},
        {"stripe-signature": f"t={now_s},v1=" + "0" * 64},
        {"stripe-signature": stripe_head(body)["stripe-signature"].replace("v1=", "v0=")},
        stripe_head(body, secret=_BANK),
        stripe_head(body, at_s=now_s - WINDOW_S - 60),
        stripe_head(body, at_s=now_s + WINDOW_S + 60),
        stripe_head(other),
    ]
    for head in heads:
        refused = send(gateway, "stripe", body, head)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_signature"), head
    signed = standard_head(standard, "msg_9")
    for name, value in [
        ("webhook-id", "msg_8"),
        ("webhook-timestamp", str(now_s - 1)),
        ("webhook-signature", "v1,AA=="),
    ]:
        assert send(gateway, "standard", standard, signed | {name: value}).status_code == 401, name
    assert send(gateway, "standard", body, stripe_head(body)).status_code == 401
    assert balance(gateway, tenant) == 0


def test_events_that_say_nothing_of_money_are_taken_and_not_booked(gateway: Gateway, tenant: str) -> None:
    unpaid = checkout(tenant, payment_status="unpaid")
    for event in ({"id": "evt_1", "type": "customer.created", "data": {"object": {"id": "cus_1"}}}, unpaid):
        answered = report(gateway, event)
        assert (answered.status_code, answered.json()) == (200, {"object": "credit", "booked": False})
    assert balance(gateway, tenant) == 0


def test_what_cannot_be_booked_is_refused_so_that_the_shop_shows_it(gateway: Gateway, tenant: str) -> None:
    gateway.add_tenant("pays-nothing")
    wrong = [
        (checkout(tenant, currency="eur"), 400, "invalid_event"),
        (checkout(tenant, 0), 400, "invalid_event"),
        (checkout(tenant, -5), 400, "invalid_event"),
        (checkout(tenant, metadata=None), 400, "invalid_event"),
        (checkout(tenant, amount_total="500"), 400, "invalid_event"),
        # Without an id the next one would count as the same; a tax below zero would add to what was paid.
        (checkout(tenant, id=""), 400, "invalid_event"),
        (checkout(tenant, total_details={"amount_tax": -100}), 400, "invalid_event"),
        (checkout("nobody"), 404, "tenant_not_found"),
        (checkout("pays-nothing"), 409, "not_prepaid"),
    ]
    for event, status, code in wrong:
        refused = report(gateway, event)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), event
    assert balance(gateway, tenant) == 0


def test_a_tax_is_no_credit_and_the_clients_reference_names_the_tenant(gateway: Gateway, tenant: str) -> None:
    event = checkout(
        tenant, 1190, metadata={}, client_reference_id=tenant, total_details={"amount_tax": 190, "amount_discount": 0}
    )
    assert report(gateway, event).json()["booked"]
    assert balance(gateway, tenant) == 1000 * _CENT


def test_a_form_that_is_not_switched_on_is_not_there(make_gateway: GatewayFactory) -> None:
    body = json.dumps(checkout("anybody")).encode()
    served = make_gateway(environment={}).start()
    assert send(served, "stripe", body, stripe_head(body)).status_code == 404
    assert send(served, "other", body, {}).status_code == 404


def test_a_secret_that_is_missing_is_told_at_the_start(make_gateway: GatewayFactory) -> None:
    unset = make_gateway(environment={"TRUSTGATE_CREDIT_STRIPE_SECRET_ENV": "NOT_SET"})
    with pytest.raises(AssertionError, match="The environment variable NOT_SET"):
        unset.start()


@pytest.mark.parametrize("secret", ["whsec_", "whsec_c2hvcnQ", ",", f"{_SHOP},whsec_"])
def test_a_secret_that_everybody_can_guess_signs_nothing(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("SHOP", secret)
    for form in ("stripe_secret_env", "webhook_secret_env"):
        with pytest.raises(SettingsError, match="too short to be safe") as refused:
            Settings(home=Path("unused"), credit=CreditSettings(**{form: "SHOP"})).credit_secrets()
        assert secret not in str(refused.value).split()


def test_a_dispute_is_told_when_it_begins_and_when_it_ends(make_gateway: GatewayFactory) -> None:
    variables = {"TRUSTGATE_CREDIT_STRIPE_SECRET_ENV": "SHOP", "TRUSTGATE_CREDIT_WEBHOOK_SECRET_ENV": "BANK"}
    with Receiver() as receiver:
        gateway = make_gateway(environment={**QUICK, **variables, "SHOP": _SHOP, "BANK": _BANK}).start()
        gateway.cli("notify", "add", receiver.url, "--private", "--on", "credit")
        dispute = {"id": "du_1", "object": "dispute", "amount": 1205, "currency": "usd", "payment_intent": "pi_7"}
        event = {"id": "evt_1", "type": "charge.dispute.created", "data": {"object": dispute}}
        for _ in range(2):
            assert report(gateway, event).json() == {"object": "dispute", "booked": False}
        begun = receiver.take()
        assert (begun.type, begun.data["details"]["payment"]) == ("credit.firing", "pi_7")
        assert begun.data["message"].endswith("trustgate payment refund-credit TENANT --amount 12.05")
        assert report(gateway, {**event, "type": "charge.dispute.closed"}).status_code == 200
        over = receiver.take()
        assert (over.type, over.data["message"]) == ("credit.resolved", f"Over: {begun.data['message']}")

        case = {"id": "case 7", "tenant": "a b", "amount_cents": 500}
        body = json.dumps({"type": "dispute", "data": case}).encode()
        assert send(gateway, "standard", body, standard_head(body, "msg_1")).json()["object"] == "dispute"
        assert "refund-credit 'a b' --amount 5.00" in receiver.take().data["message"]
        for wrong in ({**dispute, "amount": -1}, {**dispute, "id": ""}, {**dispute, "id": "du\n2"}):
            refused = report(gateway, {**event, "data": {"object": wrong}})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_event")


@settings(max_examples=200)
@given(
    st.binary(max_size=200),
    st.dictionaries(
        st.sampled_from([b"stripe-signature", b"webhook-id", b"webhook-signature", b"webhook-timestamp"]),
        st.binary(max_size=80),
    ),
)
def test_whatever_is_sent_is_refused_in_words(body: bytes, head: dict[bytes, bytes]) -> None:
    for form in ("stripe", "standard"):
        with pytest.raises(AuthenticationFailed):
            check_signature(form, head, body, [_SHOP], 1_000)
        with contextlib.suppress(InvalidRequest):
            assert read_event(form, body, "msg") is None
