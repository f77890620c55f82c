"""A facilitator somewhere else, over real sockets: what is believed of it, and what is not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.facilitator import (
    EMPTY,
    HANGS,
    HTML_200,
    HTML_502,
    HUGE,
    NO_OBJECT,
    NOT_JSON,
    REDIRECTS,
    RESETS,
    SETTLE_FAULTS,
    TRUNCATED,
    Answer,
    FacilitatorDouble,
    fails,
    held,
    invalid,
    moved,
    success,
)
from tests.support.payments import PAYER, evm_payload, evm_requirements, payment_of
from tests.support.processes import free_port
from tests.support.upstream import Gate, Reply
from trustgate.errors import FacilitatorUnavailable, InvalidRequest
from trustgate.payment.facilitators.remote import RemoteFacilitator, check_facilitator_url
from trustgate.payment.networks import BASE_SEPOLIA, SOLANA_DEVNET
from trustgate.types import Payment

TIMEOUT_S = 1.0
REQUIREMENTS = evm_requirements()
#: A transaction on an EVM chain.
HASH = "0x" + "ab" * 32


@pytest.fixture
def double() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as facilitator:
        yield facilitator


@pytest.fixture
async def remote(double: FacilitatorDouble) -> AsyncIterator[RemoteFacilitator]:
    client = RemoteFacilitator(double.url, verify_timeout_s=TIMEOUT_S, settle_timeout_s=TIMEOUT_S)
    yield client
    await client.close()


def payment(nonce: int = 1, **members: Any) -> Payment:
    return payment_of(evm_payload(REQUIREMENTS, nonce=nonce), REQUIREMENTS, facilitator="https://f.example", **members)


async def unheard(_: str) -> None:
    raise AssertionError("the transaction is not known before the facilitator has answered")


# what goes well


@pytest.mark.parametrize("version", [1, 2])
async def test_a_payment_is_verified_and_settled(
    double: FacilitatorDouble, remote: RemoteFacilitator, version: int
) -> None:
    paid = payment(version=version)
    verdict = await remote.verify(paid)
    assert verdict == (True, "", PAYER)
    settled = await remote.settle(paid, unheard)
    assert settled.outcome == "settled"
    assert settled.transaction == double.transactions[paid.key]
    assert settled.payer == PAYER
    for call in (*double.verifies, *double.settles):
        assert call.body == {
            "x402Version": version,
            "paymentPayload": json.loads(paid.payload),
            "paymentRequirements": json.loads(paid.requirements),
        }
    assert double.moves == 1


async def test_what_is_supported(double: FacilitatorDouble, remote: RemoteFacilitator) -> None:
    kinds = await remote.supported()
    assert {(kind.x402_version, kind.network) for kind in kinds} >= {(2, SOLANA_DEVNET), (1, "base-sepolia")}
    (solana,) = [kind for kind in kinds if kind.network == SOLANA_DEVNET]
    assert solana.extra == {"feePayer": double.fee_payer}


async def test_a_kind_of_another_shape_is_passed_over(double: FacilitatorDouble, remote: RemoteFacilitator) -> None:
    known = {"x402Version": 2, "scheme": "exact", "network": BASE_SEPOLIA}
    odd: list[Any] = [
        {"scheme": "upto", "networks": ["base"]},
        {**known, "x402Version": "3"},
        {**known, "extra": []},
        "exact",
    ]
    double.kinds = [*odd, known]
    assert [kind.network for kind in await remote.supported()] == [BASE_SEPOLIA]
    double.kinds = odd
    with pytest.raises(FacilitatorUnavailable):
        await remote.supported()


async def test_a_payload_that_is_no_payment_is_for_the_facilitator_to_judge(
    double: FacilitatorDouble, remote: RemoteFacilitator
) -> None:
    odd = payment_of({"payload": {"what": ["is", "this"]}}, REQUIREMENTS)
    double.on_verify(invalid("invalid_payload"))
    assert (await remote.verify(odd)).reason == "invalid_payload"
    assert double.verifies[0].payload == {"payload": {"what": ["is", "this"]}}


# verify


@pytest.mark.parametrize("reason", ["insufficient_funds", "invalid_exact_evm_payload_signature", "some_new_reason"])
async def test_a_refusal_is_given_on(double: FacilitatorDouble, remote: RemoteFacilitator, reason: str) -> None:
    double.on_verify(invalid(reason))
    assert await remote.verify(payment()) == (False, reason, PAYER)


@pytest.mark.parametrize("status", [400, 402, 412, 422])
@pytest.mark.parametrize("body", [{"isValid": False, "invalidReason": "invalid_payload"}, {"error": "?"}, "oops"])
async def test_what_a_facilitator_calls_a_bad_request_is_a_refusal(
    double: FacilitatorDouble, remote: RemoteFacilitator, status: int, body: Any
) -> None:
    double.on_verify(Reply.json(body, status=status))
    verdict = await remote.verify(payment())
    assert not verdict.valid
    assert verdict.reason in ("invalid_payload", "unspecified")


VERIFY_FAULTS: dict[str, Answer] = {
    "hangs": HANGS,
    "resets": RESETS,
    "html 502": HTML_502,
    "html 200": HTML_200,
    "not json": NOT_JSON,
    "empty": EMPTY,
    "no object": NO_OBJECT,
    "huge": HUGE,
    "truncated": TRUNCATED,
    "redirects": REDIRECTS,
    "503 that says valid": Reply.json({"isValid": True}, status=503),
    "400 that says valid": Reply.json({"isValid": True}, status=400),
    "neither": Reply.json({"valid": True}),
    "a word for true": Reply.json({"isValid": "true"}),
    "unauthorized": Reply.json({"error": "no key"}, status=401),
    "too many": Reply.json({"error": "slow down"}, status=429),
}


@pytest.mark.parametrize("fault", VERIFY_FAULTS)
async def test_an_answer_that_is_none_is_not_now(
    double: FacilitatorDouble, remote: RemoteFacilitator, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    double.on_verify(VERIFY_FAULTS[fault])
    with caplog.at_level(logging.WARNING), pytest.raises(FacilitatorUnavailable) as raised:
        await remote.verify(payment())
    assert raised.value.status == 503
    # A client does not need to know who settles; the operator does.
    assert "127.0.0.1" not in f"{raised.value.message}{raised.value.hint}"
    assert "127.0.0.1" in caplog.text
    assert [request.path for request in double.requests] == ["/facilitator/verify"], "nothing is followed or repeated"


async def test_a_reason_that_is_a_page_is_not_shown(double: FacilitatorDouble, remote: RemoteFacilitator) -> None:
    double.on_verify(invalid("<script>alert(1)</script>" * 100))
    assert (await remote.verify(payment())).reason == "unspecified"


# settle


@pytest.mark.parametrize("fault", SETTLE_FAULTS)
@pytest.mark.parametrize("did_move", [False, True], ids=["not moved", "moved"])
async def test_a_fault_of_settling_says_nothing_about_the_money(
    double: FacilitatorDouble, remote: RemoteFacilitator, fault: str, did_move: bool
) -> None:
    answer = SETTLE_FAULTS[fault]
    double.on_settle(moved(answer) if did_move else answer)
    settlement = await remote.settle(payment(), unheard)
    assert settlement.outcome == "unknown"
    assert settlement.reason
    assert "127.0.0.1" not in settlement.reason
    assert len(double.requests) == 1, "nothing is followed or repeated"


async def test_a_pending_transaction_is_kept_for_the_chain_to_be_asked(
    double: FacilitatorDouble, remote: RemoteFacilitator
) -> None:
    paid = payment()
    double.on_settle(moved(SETTLE_FAULTS["settlement_pending"]))
    settlement = await remote.settle(paid, unheard)
    assert (settlement.outcome, settlement.transaction) == ("unknown", double.transactions[paid.key])


@pytest.mark.parametrize(
    "reason",
    [
        "insufficient_funds",
        "invalid_exact_evm_payload_authorization_valid_before",
        "invalid_exact_svm_payload_amount_insufficient",
        "invalid_exact_svm_payload_transaction_could_not_be_decoded",
        "unsupported_scheme",
        "invalid_payment_requirements",
        "invalid_exact_evm_insufficient_funds",
        "invalid_exact_evm_token_name_mismatch",
        "permit2_insufficient_balance",
        "permit2_deadline_expired",
        "unsupported_payment_flow",
    ],
)
async def test_a_final_refusal_is_a_failure(double: FacilitatorDouble, remote: RemoteFacilitator, reason: str) -> None:
    double.on_settle(fails(reason))
    assert await remote.settle(payment(), unheard) == ("failed", "", PAYER, reason)


@pytest.mark.parametrize(
    "reason",
    [
        "transaction_failed",
        "transaction_simulation_failed",
        "invalid_exact_svm_payload_transaction_simulation_failed",
        "invalid_exact_evm_nonce_already_used",
        "invalid_exact_evm_transaction_failed",
        "invalid_exact_evm_failed_to_execute_transfer",
        "permit2_invalid_nonce",
        "duplicate_settlement",
        "settlement_pending",
        "unexpected_settle_error",
        "settle_exact_failed_onchain",
        "settle_exact_node_failure",
        "settle_exact_svm_block_height_exceeded",
        "a_reason_of_next_year",
        "",
    ],
)
async def test_a_refusal_that_may_come_after_the_money_is_not_a_failure(
    double: FacilitatorDouble, remote: RemoteFacilitator, reason: str
) -> None:
    double.on_settle(fails(reason))
    assert (await remote.settle(payment(), unheard)).outcome == "unknown"


async def test_a_refusal_with_a_transaction_is_not_a_failure(
    double: FacilitatorDouble, remote: RemoteFacilitator
) -> None:
    body = {"success": False, "errorReason": "insufficient_funds", "transaction": HASH, "network": "base"}
    double.on_settle(Reply.json(body))
    settlement = await remote.settle(payment(), unheard)
    assert (settlement.outcome, settlement.transaction) == ("unknown", HASH)


@pytest.mark.parametrize("status", [201, 202, 204, 400, 402, 409, 500])
async def test_a_refusal_under_another_status_is_not_a_failure(
    double: FacilitatorDouble, remote: RemoteFacilitator, status: int
) -> None:
    body = {"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": "base"}
    double.on_settle(Reply.json(body, status=status))
    assert (await remote.settle(payment(), unheard)).outcome == "unknown"


@pytest.mark.parametrize(
    "members",
    [
        *({"network": None}, {"network": BASE_SEPOLIA}, {"network": "moon"}, {"amount": "1"}, {"transaction": "<b>"}),
        *({"transaction": word} for word in ("undefined", "pending", "0x", "0xabc", "0x" + "0" * 64)),
        {"errorReason": "insufficient_funds"},
    ],
    ids=str,
)
async def test_a_success_that_contradicts_the_payment_is_none(
    double: FacilitatorDouble, remote: RemoteFacilitator, members: dict[str, Any]
) -> None:
    body = {"success": True, "transaction": HASH, "network": "eip155:8453", "payer": PAYER, **members}
    double.on_settle(Reply.json(body))
    assert (await remote.settle(payment(), unheard)).outcome == "unknown"


@pytest.mark.parametrize(
    "members", [{"network": "base"}, {"amount": "10000"}, {"amount": None, "payer": None}, {"errorReason": ""}]
)
async def test_a_success_by_other_words(
    double: FacilitatorDouble, remote: RemoteFacilitator, members: dict[str, Any]
) -> None:
    body = {"success": True, "transaction": HASH, "network": "eip155:8453", **members}
    double.on_settle(Reply.json(body))
    assert (await remote.settle(payment(), unheard)).outcome == "settled"


@pytest.mark.parametrize("transaction", ["pending", "1" * 64, "5" * 63, "0" * 64])
async def test_a_word_in_place_of_a_solana_transaction_is_none(
    double: FacilitatorDouble, remote: RemoteFacilitator, transaction: str
) -> None:
    requirements = {**REQUIREMENTS, "network": SOLANA_DEVNET}
    double.on_settle(Reply.json({"success": True, "transaction": transaction, "network": SOLANA_DEVNET}))
    settlement = await remote.settle(payment_of(evm_payload(requirements), requirements), unheard)
    assert (settlement.outcome, settlement.transaction) == ("unknown", "")


async def test_the_signer_is_the_payer_whatever_is_answered(
    double: FacilitatorDouble, remote: RemoteFacilitator
) -> None:
    double.on_verify(Reply.json({"isValid": True}))
    assert (await remote.verify(payment())).payer == PAYER
    double.on_settle(lambda call: Reply.json(success(call, HASH, payer="0x" + "33" * 20)))
    assert await remote.settle(payment(payer=PAYER), unheard) == ("settled", HASH, PAYER, "")


async def test_a_member_that_comes_twice_is_no_answer(double: FacilitatorDouble, remote: RemoteFacilitator) -> None:
    twice = f'{{"isValid":false,"isValid":true,"success":false,"success":true,"transaction":"{HASH}","network":"base"}}'
    double.on_verify(Reply.body(twice.encode()))
    with pytest.raises(FacilitatorUnavailable):
        await remote.verify(payment())
    double.on_settle(Reply.body(twice.encode()))
    assert (await remote.settle(payment(), unheard)).outcome == "unknown"


async def test_settling_a_second_time_is_not_paid_twice(double: FacilitatorDouble, remote: RemoteFacilitator) -> None:
    paid = payment()
    assert (await remote.settle(paid, unheard)).outcome == "settled"
    assert (await remote.settle(paid, unheard)).outcome == "unknown"
    assert (double.moves, double.asked[paid.key]) == (1, 2)


async def test_calls_do_not_wait_for_each_other(double: FacilitatorDouble, remote: RemoteFacilitator) -> None:
    gate = Gate()
    double.on_settle(held(gate))
    slow = asyncio.create_task(remote.settle(payment(1), unheard))
    await asyncio.to_thread(double.wait_for_settles)
    assert (await remote.settle(payment(2), unheard)).outcome == "settled"
    gate.open()
    assert (await slow).outcome == "settled"


async def test_nobody_there() -> None:
    remote = RemoteFacilitator(f"http://127.0.0.1:{free_port()}/f", verify_timeout_s=1.0, settle_timeout_s=1.0)
    with pytest.raises(FacilitatorUnavailable):
        await remote.verify(payment())
    with pytest.raises(FacilitatorUnavailable, match=r"127\.0\.0\.1"):
        await remote.supported()
    assert (await remote.settle(payment(), unheard)).outcome == "unknown"
    await remote.close()


async def test_what_the_url_holds_shows_nowhere(double: FacilitatorDouble, caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cr3t-of-the-provider"
    remote = RemoteFacilitator(f"{double.url}/{secret}", verify_timeout_s=1.0, settle_timeout_s=1.0)
    double.on_verify(HTML_502)
    double.on_settle(fails(f"no such key {secret}"))
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(FacilitatorUnavailable) as raised:
            await remote.verify(payment())
        settlement = await remote.settle(payment(), unheard)
    await remote.close()
    assert secret not in f"{raised.value.message}{raised.value.hint}{settlement}{caplog.text}"


@pytest.mark.parametrize(
    "url", ["https://x402.org/facilitator", "http://127.0.0.1:4021/", "http://localhost:1", "http://[::1]:9"]
)
def test_urls_of_facilitators(url: str) -> None:
    assert check_facilitator_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["", "x402.org", "http://x402.org", "ftp://x402.org", "https://u:p@x402.org", "https://x/?a=b", "builtin://echo"],
)
def test_what_is_no_url_of_a_facilitator(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_facilitator_url(url)
    assert refused.value.param == "facilitator"
    assert refused.value.hint
