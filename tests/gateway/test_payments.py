"""Paid requests over real sockets, and everything that can go wrong: never unpaid, never twice, never lost."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

import httpx
import pytest
from x402.http.utils import decode_payment_required_header, decode_payment_response_header
from x402.schemas import PaymentRequired
from x402.schemas.v1 import PaymentRequirementsV1

from tests.conftest import GatewayFactory
from tests.support.facilitator import (
    CLOSES,
    HTML_502,
    SETTLE_FAULTS,
    SETTLES,
    fails,
    held,
    invalid,
    moved,
)
from tests.support.keyless import open_market
from tests.support.paying import HELLO, PRICE_NANO_USD, PRICE_UNITS, Customer, Market
from tests.support.payments import PAYER, SHOP
from tests.support.processes import PATIENCE_S
from tests.support.upstream import CLOSE, DONE, Gate, Recorded, Reply, delta
from trustgate.admin.money import PaymentSet
from trustgate.types import PaymentFlow


@pytest.fixture(scope="module")
def market(make_module_gateway: GatewayFactory) -> Iterator[Market]:
    with open_market(make_module_gateway) as market:
        yield market


@pytest.fixture
def customer(market: Market) -> Iterator[Customer]:
    yield market.customer()
    assert market.upstream.unused == 0


def challenge_of(response: httpx.Response) -> PaymentRequired:
    required = decode_payment_required_header(response.headers["payment-required"])
    assert isinstance(required, PaymentRequired)
    return required


def only_payment(market: Market, customer: Customer) -> Any:
    [payment] = market.payments(customer)
    return payment


# the challenge


def test_who_does_not_pay_is_told_what_would_do_in_both_versions(market: Market, customer: Customer) -> None:
    asked = len(market.upstream.requests)
    refused = customer.chat()

    assert refused.status_code == 402
    assert len(market.upstream.requests) == asked
    required = challenge_of(refused)
    [accepts] = required.accepts
    assert (accepts.network, accepts.amount, accepts.pay_to) == ("eip155:8453", str(PRICE_UNITS), SHOP)
    assert accepts.extra == {"name": "USD Coin", "version": "2"}
    assert required.resource is not None
    assert required.resource.url == f"{market.gateway.base_url}/v1/chat/completions"
    assert required.extensions is not None
    assert "payment-identifier" in required.extensions
    body = refused.json()
    assert body["x402Version"] == 1
    [older] = body["accepts"]
    assert PaymentRequirementsV1.model_validate(older).network == "base"
    assert body["error"]["type"] == body["error"]["code"] == "payment_required"
    assert refused.headers["cache-control"] == "no-store"
    assert customer.receipts() == []


def test_the_price_is_the_worst_case_by_the_passports_prices(market: Market) -> None:
    market.gateway.cli(
        *("passport", "add", "priced", "--api-model-id", "gpt-4o", "--input-price", "1", "--output-price", "10")
    )
    customer = market.customer(price_nano_usd=None)
    refused = customer.chat(model="priced", max_tokens=1000)
    [accepts] = challenge_of(refused).accepts
    # 1,000 tokens at 10 USD a million are 10,000 units; the prompt's estimate comes on top.
    assert 10_000 < int(accepts.amount) < 10_100

    paid = customer.chat(customer.pay(refused), model="priced", max_tokens=1000)

    assert paid.status_code == 200
    [receipt] = customer.receipts()
    assert receipt["credited_nano_usd"] == int(accepts.amount) * 1_000
    assert receipt["charged_nano_usd"] == receipt["cost_nano_usd"] == 7 * 1_000 + 5 * 10_000
    assert customer.balance() == receipt["credited_nano_usd"] - receipt["charged_nano_usd"]
    # The rest is drawn first.
    assert customer.chat(model="priced", max_tokens=500).status_code == 200
    assert customer.chat(model="unpriced").json()["error"]["code"] == "model_not_priced"


def test_a_tenant_without_terms_owes_nothing(market: Market) -> None:
    secret = market.gateway.add_tenant("owes-nothing")
    headers = {"authorization": f"Bearer {secret}", "payment-signature": "nonsense"}
    answered = httpx.post(
        f"{market.gateway.api_url}/chat/completions", json={"model": "gpt-4o", "messages": HELLO}, headers=headers
    )
    assert answered.status_code == 200
    assert httpx.get(f"{market.gateway.api_url}/credits", headers=headers).json()["mode"] == "off"
    assert httpx.post(f"{market.gateway.api_url}/credits", headers=headers).status_code == 403


# paying


@pytest.mark.parametrize("version", [1, 2])
def test_paying_for_an_answer(market: Market, customer: Customer, version: int) -> None:
    paid = customer.chat(customer.pay(customer.chat(), version=version))

    assert paid.status_code == 200
    assert paid.json()["choices"]
    assert paid.headers["cache-control"] == "private, no-store"
    settled = decode_payment_response_header(paid.headers["payment-response" if version == 2 else "x-payment-response"])
    assert settled.success
    assert settled.network == ("eip155:8453" if version == 2 else "base")
    [receipt] = customer.receipts()
    assert receipt["v"] == 4
    assert receipt["payment_transaction"] == settled.transaction
    assert (receipt["payment_amount"], receipt["payment_payer"]) == (str(PRICE_UNITS), PAYER)
    assert receipt["credited_nano_usd"] == receipt["charged_nano_usd"] == PRICE_NANO_USD
    assert only_payment(market, customer).state == "delivered"
    assert customer.balance() == 0


def test_a_stream_is_settled_after_its_first_piece_came_and_before_it_leaves(
    market: Market, customer: Customer
) -> None:
    first, settle = Gate(), Gate()
    challenge = customer.chat(stream=True)
    market.upstream.script(Reply.sse([first, delta("Hel"), delta("lo"), delta(None, finish_reason="stop"), DONE]))
    market.facilitator.on_settle(held(settle))
    settles = len(market.facilitator.settles)
    with ThreadPoolExecutor() as pool:

        def ask() -> tuple[int, list[str], str]:
            with customer.stream(customer.pay(challenge)) as answer:
                return answer.status_code, answer.headers.get_list("cache-control"), answer.read().decode()

        answering = pool.submit(ask)
        first.wait_reached()
        assert len(market.facilitator.settles) == settles, "settled before there was anything to pay for"
        first.open()
        market.facilitator.wait_for_settles(settles + 1)
        assert not answering.done()
        settle.open()
        status, cache_control, text = answering.result()
    assert (status, cache_control) == (200, ["private, no-store"])
    assert text.endswith("data: [DONE]\n\n")
    [receipt] = customer.receipts()
    assert receipt["stream"]
    assert receipt["charged_nano_usd"] == PRICE_NANO_USD


@pytest.mark.parametrize(
    "failure",
    [
        Reply.error(400),
        Reply.error(401),
        Reply.html(502),
        Reply.reset(),
        Reply.body(b"", status=307, content_type=None),
    ],
    ids=["400", "401", "502", "reset", "redirect"],
)
def test_an_upstream_that_fails_before_its_first_byte_costs_nothing(
    market: Market, customer: Customer, failure: Reply
) -> None:
    paying = customer.pay(customer.chat())
    settles = len(market.facilitator.settles)
    market.upstream.script(failure)
    failed = customer.chat(paying)

    assert failed.status_code >= 400
    assert failed.json()["error"]["message"]
    assert len(market.facilitator.settles) == settles
    assert market.payments(customer) == []
    # The payment is as good as new.
    assert customer.chat(paying).status_code == 200


def test_a_stream_that_the_upstream_breaks_off_is_credited(market: Market, customer: Customer) -> None:
    market.upstream.script(Reply.sse([delta("Hel"), delta("lo"), CLOSE]))
    with customer.stream(customer.pay(customer.chat(stream=True))) as answer:
        assert "error" in answer.read().decode()

    [receipt] = customer.receipts()
    assert (receipt["finish"], receipt["charged_nano_usd"]) == ("upstream_cut", 0)
    assert customer.balance() == PRICE_NANO_USD
    assert only_payment(market, customer).state == "credited"
    # And drawn on by the next.
    assert customer.chat().status_code == 200
    assert customer.balance() == 0


def test_a_payment_whose_answer_broke_off_buys_one_whole_answer(market: Market, customer: Customer) -> None:
    market.upstream.script(Reply.sse([delta("Hel"), CLOSE]))
    paying, moves = customer.pay(customer.chat(stream=True)), market.facilitator.moves
    bodies = []
    for _ in range(3):
        with customer.stream(paying) as answer:
            bodies.append(answer.read())
    assert b"error" in bodies[0]
    assert bodies[1].endswith(b"data: [DONE]\n\n")
    assert bodies[2] == bodies[1]
    assert (market.facilitator.moves, customer.balance()) == (moves + 1, 0)
    assert [receipt["finish"] for receipt in customer.receipts()] == ["upstream_cut", "complete"]


def test_a_tenant_looks_at_its_own_payments(market: Market, customer: Customer) -> None:
    other = market.customer()
    assert customer.http.get("/v1/payments").json()["data"] == []
    others: list[dict[str, Any]] = [{}, {"user": "another"}]
    for members in others:
        assert customer.chat(customer.pay(customer.chat(**members)), **members).status_code == 200
    listed = customer.http.get("/v1/payments?limit=1").json()
    [newest] = listed["data"]
    assert (listed["object"], listed["has_more"], newest["state"]) == ("list", True, "delivered")
    [oldest] = customer.http.get(f"/v1/payments?after={listed['last_id']}").json()["data"]
    assert oldest["receipt"] == customer.receipts()[0]["id"]
    assert (newest["amount"], newest["value_nano_usd"], newest["payer"]) == (str(PRICE_UNITS), PRICE_NANO_USD, PAYER)
    assert "payload" not in newest and "requirements" not in newest
    assert customer.http.get(f"/v1/payments/{newest['id']}").json() == newest
    for http, path in ((other.http, newest["id"]), (customer.http, "pay_none")):
        assert http.get(f"/v1/payments/{path}").status_code == 404
    assert customer.http.get("/v1/payments?limit=0").json()["error"]["param"] == "limit"


def test_what_the_facilitator_refuses_is_a_new_402_with_its_reason_and_on_record(
    market: Market, customer: Customer
) -> None:
    market.facilitator.on_verify(invalid("insufficient_funds"))
    refused = customer.chat(customer.pay(customer.chat()))
    assert refused.status_code == 402
    assert challenge_of(refused).error == "insufficient_funds"
    [receipt] = customer.receipts()
    assert (receipt["status"], receipt["finish"], receipt["charged_nano_usd"]) == (402, "refused", 0)


def test_a_payment_that_fails_to_settle_buys_nothing(market: Market, customer: Customer) -> None:
    market.facilitator.on_settle(fails("insufficient_funds"))
    refused = customer.chat(customer.pay(customer.chat()))
    assert refused.status_code == 402
    assert only_payment(market, customer).state == "failed"
    assert customer.balance() == 0


@pytest.mark.parametrize("answer", [HTML_502, CLOSES], ids=["html", "closes"])
def test_while_nobody_can_verify_nothing_is_taken(market: Market, customer: Customer, answer: Any) -> None:
    market.facilitator.on_verify(answer)
    paying = customer.pay(customer.chat())
    unavailable = customer.chat(paying)
    assert unavailable.status_code == 503
    assert unavailable.json()["error"]["code"] == "facilitator_unavailable"
    assert customer.chat(paying).status_code == 200


# bindings


@pytest.mark.parametrize(
    "altered",
    [
        {"payTo": "0x" + "11" * 20},
        {"asset": "0x" + "22" * 20},
        {"network": "eip155:84532"},
        {"amount": str(PRICE_UNITS - 1)},
        {"amount": "0"},
        {"scheme": "upto"},
    ],
    ids=str,
)
def test_other_terms_are_refused_before_anybody_is_asked(
    market: Market, customer: Customer, altered: dict[str, str]
) -> None:
    verifies = len(market.facilitator.verifies)
    refused = customer.chat(customer.pay(customer.chat(), accepted=altered))
    assert refused.status_code == 402
    assert len(market.facilitator.verifies) == verifies


def test_a_payment_counts_for_one_request_and_one_tenant(market: Market, customer: Customer) -> None:
    paying = customer.pay(customer.chat())
    first = customer.chat(paying)
    again = customer.chat(paying)
    assert again.content == first.content
    assert again.headers["x-trustgate-receipt"] == first.headers["x-trustgate-receipt"]
    assert again.headers["payment-response"] == first.headers["payment-response"]

    other = customer.chat(paying, temperature=0)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "payment_already_used")
    stranger = market.customer()
    assert stranger.chat(paying).status_code == 402
    assert len(customer.receipts()) == 1


def test_one_payment_sent_eight_times_at_once_settles_once(market: Market, customer: Customer) -> None:
    paying = customer.pay(customer.chat())
    moves = market.facilitator.moves
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: customer.chat(paying), range(8)))
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    assert len({answer.headers["x-trustgate-receipt"] for answer in answers}) == 1
    assert market.facilitator.moves == moves + 1
    assert len(customer.receipts()) == 1


def test_one_identifier_in_parallel_settles_once(market: Market, customer: Customer) -> None:
    challenge, moves = customer.chat(), market.facilitator.moves
    payments = [customer.pay(challenge, identifier="order-1234567890-abcdef") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(customer.chat, payments))
    assert len({answer.headers["x-trustgate-receipt"] for answer in answers}) == 1
    assert market.facilitator.moves == moves + 1
    other = customer.chat(customer.pay(challenge, identifier="order-1234567890-abcdef"), temperature=0)
    assert other.status_code == 409


MALFORMED = {
    "not base64": "%%%",
    "not json": "bm90IGpzb24=",
    "no object": "W10=",
    "no members": "e30=",
    "unknown version": "eyJ4NDAyVmVyc2lvbiI6IDk5fQ==",
    "not utf-8": "/////w==",
    "empty": "",
    "wrong types": "eyJ4NDAyVmVyc2lvbiI6MiwicGF5bG9hZCI6MSwiYWNjZXB0ZWQiOltdfQ==",
    "long": "A" * 20_000,
}


@pytest.mark.parametrize("header", ["payment-signature", "x-payment"])
@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_header_is_the_clients_fault(customer: Customer, header: str, value: str) -> None:
    refused = customer.chat({header: value})
    assert refused.status_code in (400, 402, 431), refused.text
    assert refused.json()["error"]["message"]


@pytest.mark.parametrize("inner", [{}, {"transaction": 5}, {"authorization": "x"}, {"signature": None}, {"a": [[[]]]}])
def test_what_cannot_be_decoded_is_judged_by_the_facilitator(
    market: Market, customer: Customer, inner: dict[str, Any]
) -> None:
    import base64

    [accepted] = json.loads(base64.b64decode(customer.chat().headers["payment-required"]))["accepts"]
    raw = {"x402Version": 2, "accepted": accepted, "payload": inner}
    market.facilitator.on_verify(invalid("invalid_payload"))
    verifies = len(market.facilitator.verifies)
    refused = customer.chat({"payment-signature": base64.b64encode(json.dumps(raw).encode()).decode()})
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "invalid_payload")
    assert len(market.facilitator.verifies) == verifies + 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods_on_the_paid_route_take_no_payment(market: Market, customer: Customer, method: str) -> None:
    verifies = len(market.facilitator.verifies)
    answered = customer.http.request(method, "/v1/chat/completions", headers=customer.pay(customer.chat()))
    # GET lists the caller's own stored completions, which is not sold.
    assert answered.status_code == (200 if method == "GET" else 405)
    assert len(market.facilitator.verifies) == verifies


# the outcome is not known


@pytest.mark.parametrize(
    ("fault", "flow"),
    [(fault, "authorization") for fault in SETTLE_FAULTS] + [(fault, "upfront") for fault in list(SETTLE_FAULTS)[:3]],
)
def test_after_a_fault_nothing_is_served_and_nothing_asked_for_twice(
    market: Market, fault: str, flow: PaymentFlow
) -> None:
    """Twice: the money moved all the same, and it did not. Both end right, by what the chain says."""
    did_move, did_not = market.customer(), market.customer()
    for customer in (did_move, did_not):
        market.admin(PaymentSet(tenant=customer.name, flow=flow))
    market.facilitator.on_settle(moved(SETTLE_FAULTS[fault]), SETTLE_FAULTS[fault])
    payments = {customer: customer.pay(customer.chat()) for customer in (did_move, did_not)}
    moves = market.facilitator.moves
    for customer, paying in payments.items():
        for attempt in (paying, paying, None, customer.pay(market.customer().chat())):
            pending = customer.chat(attempt)
            assert (pending.status_code, pending.json()["error"]["code"]) == (503, "payment_pending"), pending.text
            assert "retry-after" in pending.headers
            payment = only_payment(market, customer)
            assert payment.id in pending.json()["error"]["message"]
            assert customer.http.get(f"/v1/payments/{payment.id}").json()["state"] == "unknown"
        assert only_payment(market, customer).state == "unknown"
    assert market.facilitator.moves == moves + 1

    market.node.now_s += 10_000  # past what the authorizations are good for
    market.reconcile()

    assert only_payment(market, did_move).state == "credited"
    assert did_move.balance() == PRICE_NANO_USD
    assert did_move.chat(payments[did_move]).status_code == 200
    assert did_move.balance() == 0
    assert only_payment(market, did_not).state == "failed"
    refused = did_not.chat(payments[did_not])
    assert refused.status_code == 402
    assert did_not.chat(did_not.pay(refused)).status_code == 200
    assert market.facilitator.moves == moves + 2


# interruptions


def test_a_client_that_leaves_while_it_pays_gets_its_answer_with_the_same_payment(
    market: Market, customer: Customer
) -> None:
    paying, gate = customer.pay(customer.chat()), Gate()
    settles, asked = len(market.facilitator.settles), len(market.upstream.requests)
    market.facilitator.on_settle(held(gate))
    with ThreadPoolExecutor() as pool:

        def leave() -> None:
            with pytest.raises(httpx.ReadTimeout):
                customer.http.post(
                    "/v1/chat/completions",
                    json={"model": "gpt-4o", "messages": HELLO},
                    headers=paying,
                    timeout=0.5,
                )

        leaving = pool.submit(leave)
        market.facilitator.wait_for_settles(settles + 1)
        leaving.result()
        again = pool.submit(customer.chat, paying)
        gate.open()
        answer = again.result()
    assert answer.status_code == 200
    assert len(market.upstream.requests) == asked + 1, "the upstream was asked again for what was paid and done"
    [receipt] = customer.receipts()
    assert receipt["charged_nano_usd"] == PRICE_NANO_USD
    assert answer.headers["x-trustgate-receipt"] == receipt["id"]


@pytest.mark.parametrize("has_moved", [True, False], ids=["moved", "not moved"])
def test_killed_while_it_settles(market: Market, customer: Customer, has_moved: bool) -> None:
    paying, gate = customer.pay(customer.chat()), Gate()
    settles, moves = len(market.facilitator.settles), market.facilitator.moves
    market.facilitator.on_settle(held(gate, SETTLES if has_moved else HTML_502))
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(customer.chat, paying)
        market.facilitator.wait_for_settles(settles + 1)
        market.gateway.kill()
        gate.open()
        with pytest.raises(httpx.HTTPError):
            asking.result()
    market.gateway.start()

    assert customer.chat(paying).json()["error"]["code"] == "payment_pending"
    market.node.now_s += 10_000
    market.reconcile()

    retried = customer.chat(paying)
    if has_moved:
        assert retried.status_code == 200
    else:
        assert retried.status_code == 402
    assert market.facilitator.moves == moves + has_moved
    assert customer.balance() == 0
    assert market.audit().differences == ()


def test_killed_after_it_settled_and_before_the_end_of_the_answer(market: Market, customer: Customer) -> None:
    paying, gate = customer.pay(customer.chat(stream=True)), Gate()
    moves = market.facilitator.moves
    market.upstream.script(Reply.sse([delta("Hel"), gate, delta("lo"), DONE]))
    with customer.stream(paying) as answer:
        pieces = answer.iter_raw()
        assert b"Hel" in next(pieces)
        market.gateway.kill()
        with pytest.raises(httpx.HTTPError):
            next(pieces)
    gate.open()
    market.gateway.start()

    assert customer.balance() == PRICE_NANO_USD
    assert only_payment(market, customer).state == "credited"
    [receipt] = customer.receipts()
    assert (receipt["endpoint"], receipt["finish"]) == ("credits", "credited")
    # The same request with the same payment is served from it; money moves no second time.
    with customer.stream(paying) as answer:
        assert answer.read().endswith(b"data: [DONE]\n\n")
    assert customer.balance() == 0
    assert market.facilitator.moves == moves + 1


def test_after_a_restart_a_used_payment_stays_used(market: Market, customer: Customer) -> None:
    paying = customer.pay(customer.chat())
    first = customer.chat(paying)
    assert first.status_code == 200
    market.gateway.stop()
    market.gateway.start()
    asked = len(market.upstream.requests)
    again = customer.chat(paying)
    assert (again.status_code, again.json()) == (200, first.json()), "the kept answer"
    assert len(market.upstream.requests) == asked
    kept = b"".join(path.read_bytes() for path in (market.gateway.home / "answers").iterdir())
    assert first.content not in kept
    assert b"choices" not in kept


def test_a_retry_is_told_that_the_answer_was_too_large_to_keep(market: Market, customer: Customer) -> None:
    market.upstream.script(Reply.chat("long " * 1_000_000))
    paying = customer.pay(customer.chat())
    assert len(customer.chat(paying).content) > 4 * 1024 * 1024
    used = customer.chat(paying)
    assert (used.status_code, used.json()["error"]["code"]) == (409, "payment_already_used")
    assert "larger than" in used.json()["error"]["message"]


# the balance


def test_prepaid_requests_draw_on_a_balance_that_is_topped_up(market: Market) -> None:
    customer = market.customer(mode="prepaid", top_up_nano_usd=3 * PRICE_NANO_USD)
    assert customer.chat().status_code == 402
    unpaid = customer.http.post("/v1/credits")
    [accepts] = challenge_of(unpaid).accepts
    assert int(accepts.amount) == 3 * PRICE_UNITS

    paying = customer.pay(unpaid)
    topped_up = customer.http.post("/v1/credits", headers=paying)
    assert topped_up.status_code == 200
    assert topped_up.json()["balance_nano_usd"] == 3 * PRICE_NANO_USD
    assert "payment-response" in topped_up.headers
    again = customer.http.post("/v1/credits", headers=paying)
    assert again.json()["balance_nano_usd"] == 3 * PRICE_NANO_USD, "a top-up sent twice counts once"

    assert [customer.chat().status_code for _ in range(4)] == [200, 200, 200, 402]
    assert customer.balance() == 0
    other = customer.http.post("/v1/credits", json={"amount_usd": "0.5"})
    [accepts] = challenge_of(other).accepts
    assert int(accepts.amount) == 500_000
    wrong: Any
    for wrong in ("-1", "0", "NaN", "1e400", "0.0000000001", [], {}, "x"):
        assert customer.http.post("/v1/credits", json={"amount_usd": wrong}).status_code == 400
    kinds = [(receipt["endpoint"], receipt["finish"]) for receipt in customer.receipts()]
    assert kinds == [("credits", "credited"), *[("chat.completions", "complete")] * 3]


def test_concurrent_requests_cannot_overspend_a_balance(market: Market) -> None:
    customer = market.customer(mode="prepaid", top_up_nano_usd=5 * PRICE_NANO_USD)
    unpaid = customer.http.post("/v1/credits")
    customer.http.post("/v1/credits", headers=customer.pay(unpaid))
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: customer.chat().status_code, range(16)))
    assert sorted(statuses) == [200] * 5 + [402] * 11
    assert customer.balance() == 0


def test_the_books_balance(market: Market) -> None:
    report = market.audit()
    assert report.differences == ()


# batches


def test_a_batch_is_asked_for_with_all_of_its_lines_and_held_to_its_end(market: Market) -> None:
    market.gateway.cli("passport", "add", "batched", "--input-price", "1", "--output-price", "10")
    customer = market.customer(price_nano_usd=None)
    file_id, batch_id = f"file-{customer.name}", f"batch-{customer.name}"
    body = {"model": "batched", "messages": HELLO, "max_tokens": 1000}
    one = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body}
    content = b"\n".join([json.dumps(one).encode()] * 20)
    done = {"input_tokens": 200, "output_tokens": 100, "total_tokens": 300}
    scripted = (
        {"id": file_id, "object": "file"},
        {"id": batch_id, "object": "batch", "status": "validating"},
        {"id": batch_id, "object": "batch", "status": "completed", "usage": done},
    )
    market.upstream.script(*(Reply.json(each) for each in scripted))
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", content)}}
    assert customer.http.post("/v1/files", **form).status_code == 200
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refused = customer.http.post("/v1/batches", json=asked)
    assert refused.status_code == 402
    [accepts] = challenge_of(refused).accepts
    # 20 times 1,000 tokens at 10 USD a million are 200,000 units; the prompts' estimates come on top.
    assert 200_000 < int(accepts.amount) < 201_000

    made = customer.http.post("/v1/batches", json=asked, headers=customer.pay(refused))

    assert made.status_code == 200
    account = customer.http.get("/v1/credits").json()
    assert account["balance_nano_usd"] == int(accepts.amount) * 1_000
    # All of it is held for the batch: nothing else can spend it.
    assert account["held_nano_usd"] > 200_000_000
    assert customer.chat(model="batched", max_tokens=1000).status_code == 402
    assert customer.http.get(f"/v1/batches/{batch_id}").json()["status"] == "completed"
    account = customer.http.get("/v1/credits").json()
    cost = 200 * 1_000 + 100 * 10_000
    assert (account["balance_nano_usd"], account["held_nano_usd"]) == (int(accepts.amount) * 1_000 - cost, 0)


def test_a_price_for_each_request_is_asked_for_each_line_and_charged(market: Market) -> None:
    customer = market.customer()
    file_id = f"file-{customer.name}"
    market.upstream.script(Reply.json({"id": file_id, "object": "file"}))
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 10}
    one = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body}
    form: dict[str, Any] = {
        "data": {"purpose": "batch"},
        "files": {"file": ("a", b"\n".join([json.dumps(one).encode()] * 7))},
    }
    assert customer.http.post("/v1/files", **form).status_code == 200
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refused = customer.http.post("/v1/batches", json=asked)
    [accepts] = challenge_of(refused).accepts
    assert int(accepts.amount) == 7 * PRICE_UNITS

    market.upstream.script(Reply.json({"id": f"batch-{customer.name}", "object": "batch", "status": "validating"}))
    assert customer.http.post("/v1/batches", json=asked, headers=customer.pay(refused)).status_code == 200
    assert customer.http.get("/v1/credits").json()["balance_nano_usd"] == 0


def test_a_wallet_that_holds_one_payment_has_few_answers_made_for_twenty(market: Market, customer: Customer) -> None:
    """One is paid for; the upstream works for those that may wait for their answers, and for none of the others."""
    payments = [customer.pay(customer.chat(user=str(number))) for number in range(20)]
    before = len(market.upstream.requests)
    market.facilitator.on_settle(SETTLES, *[fails("insufficient_funds")] * 19)
    # None that may wait ends before the others were refused: then one that came late might wait in its place.
    gate = Gate()
    market.upstream.script(*[Reply.chat().held(gate)] * 3)
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(customer.chat, paying, user=str(number)) for number, paying in enumerate(payments)]
        refused = list(islice(as_completed(asked, timeout=PATIENCE_S), 17))
        assert all(answer.result().status_code == 402 for answer in refused)
        gate.open()
        statuses = Counter(answer.result().status_code for answer in asked)
    assert statuses == {200: 1, 402: 19}
    assert len(market.upstream.requests) - before <= 3, "two that wait, and the one that paid"


def test_an_upfront_payment_is_settled_before_the_upstream_is_asked_and_credited_where_that_fails(
    market: Market,
) -> None:
    customer = market.customer()
    market.admin(PaymentSet(tenant=customer.name, flow="upfront"))
    challenge = customer.chat()
    required = decode_payment_required_header(challenge.headers["payment-required"])
    assert (required.accepts[0].extra or {})["paymentFlow"] == "upfront"
    paying = customer.pay(challenge)
    settles = len(market.facilitator.settles)
    market.upstream.script(Reply.error(400))
    failed = customer.chat(paying)
    assert failed.status_code == 400
    assert decode_payment_response_header(failed.headers["payment-response"]).success, "it says what was settled"
    assert "credited" in failed.json()["error"]["message"]
    assert len(market.facilitator.settles) == settles + 1
    assert customer.balance() == PRICE_NANO_USD
    assert only_payment(market, customer).state == "credited"
    assert market.gateway.cli("doctor", "--books", check=False).returncode == 0
    # Sent again, the same payment buys the answer.
    assert customer.chat(paying).status_code == 200
    assert customer.balance() == 0
    assert len(market.facilitator.settles) == settles + 1


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
def test_work_is_ended_that_a_payment_settled_in_time_turns_out_not_to_pay_for(
    market: Market, customer: Customer, outcome: str
) -> None:
    """Its authorization is void soon, so it is settled while the upstream works; that has no reason to go on then."""
    paying = customer.pay(customer.chat(), valid_before_s=int(time.time()) + 1)
    market.upstream.script(Reply.hang())
    market.facilitator.on_settle(fails() if outcome == "failed" else HTML_502)
    asked = len(market.upstream.requests)
    answer = customer.chat(paying)
    assert answer.status_code == (402 if outcome == "failed" else 503)
    [request] = market.upstream.requests[asked:]
    request.wait_aborted()
    assert only_payment(market, customer).state == outcome


def test_an_upfront_payment_that_fails_asks_nothing_of_the_upstream(market: Market) -> None:
    customer = market.customer()
    market.admin(PaymentSet(tenant=customer.name, flow="upfront"))
    before = len(market.upstream.requests)
    paying = customer.pay(customer.chat())
    market.facilitator.on_settle(fails())
    assert customer.chat(paying).status_code == 402
    assert len(market.upstream.requests) == before


def test_a_facilitator_that_does_not_answer_holds_up_no_stop(market: Market, customer: Customer) -> None:
    """At its start the gateway asks facilitators again; one that hangs is left behind when it stops."""
    del customer  # its offer names the facilitator
    asked = threading.Event()
    supported = market.facilitator._server.probe

    def hangs(request: Recorded) -> Reply:
        asked.set()
        return Reply.hang()

    market.gateway.stop()
    market.facilitator._server.probe = hangs
    market.gateway.start()
    assert asked.wait(PATIENCE_S)
    began = time.monotonic()
    market.gateway.stop()
    assert time.monotonic() - began < 10, "it waits for as long as a facilitator may take: 15 s"
    market.facilitator._server.probe = supported
    market.gateway.start()
