"""What a Solana chain says of a payment whose end was not seen: on a local chain, with tokens that really move."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import AdvanceNonceAccountParams, advance_nonce_account
from solders.transaction import VersionedTransaction

from tests.payment.conftest import FINALITY_SLOTS, PRICE, Shop
from tests.support.chain import (
    Wrong,
    behind,
    far_ahead,
    far_ahead_all,
    final_status,
    html_503,
    no_history,
    nothing,
    null_status,
    other_transaction,
)
from tests.support.payments import payment_of
from tests.support.tokens import settle_by_hand
from trustgate.errors import ChainError, RpcUnavailable
from trustgate.formats.solana_transaction import b58encode
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.types import Payment


async def sent(shop: Shop, payment: Payment) -> str:
    """Settled elsewhere; gives the signature."""
    return await asyncio.to_thread(settle_by_hand, shop.net.url, shop.fee_payer, json.loads(payment.payload))


UNKNOWN_SIGNATURE = b58encode(bytes(range(64)))
EXPIRED_SLOTS = 160 + FINALITY_SLOTS


async def old(shop: Shop, **members: Any) -> Payment:
    """A payment that arrived long enough ago that clocks are no question."""
    payment = await shop.payment(**members)
    return _aged(payment)


def _aged(payment: Payment) -> Payment:
    return msgspec.structs.replace(payment, created_us=payment.created_us - 2 * MICROSECONDS_PER_SECOND)


# it landed


@pytest.mark.parametrize("is_recorded", [True, False], ids=["its signature is known", "only its message is"])
async def test_what_landed_is_settled(shop: Shop, is_recorded: bool) -> None:
    payment = await shop.payment()
    signature = await sent(shop, payment)
    if is_recorded:
        payment = _with(payment, transaction=signature)
    shop.net.advance(1)
    found = await shop.chains().outcome(payment)
    assert found == ("settled", signature, shop.buyer.address, "")


def _with(payment: Payment, **members: Any) -> Payment:
    return msgspec.structs.replace(payment, **members)


async def test_what_is_not_confirmed_is_waited_for(shop: Shop) -> None:
    payment = await shop.payment(transaction=await sent(shop, await shop.payment()))
    signature = await sent(shop, payment)
    found = await shop.chains().outcome(_with(payment, transaction=signature))
    # The chain moves on by itself: either it was looked at within the slot, or after it.
    assert (found.outcome, found.transaction) in {("unknown", signature), ("settled", signature)}
    shop.net.advance(1)
    assert (await shop.chains().outcome(_with(payment, transaction=signature))).outcome == "settled"


def _ahead(payment: Payment) -> Payment:
    """The payment as it was recorded while this machine's clock ran two hours ahead."""
    ahead_us = payment.created_us + 7_200 * MICROSECONDS_PER_SECOND
    return _with(payment, created_us=ahead_us, updated_us=ahead_us)


async def test_what_landed_while_the_clock_ran_ahead_is_found(shop: Shop) -> None:
    payment = _ahead(await shop.payment())
    signature = await sent(shop, payment)
    shop.net.advance(FINALITY_SLOTS)
    assert await shop.chains().outcome(payment) == ("settled", signature, shop.buyer.address, "")


async def test_what_expired_while_the_clock_ran_ahead_is_a_failure(shop: Shop) -> None:
    payment = _ahead(await shop.payment())
    shop.net.advance(EXPIRED_SLOTS)
    assert (await shop.chains().outcome(payment)).outcome == "failed"


async def test_it_is_found_among_others(shop: Shop) -> None:
    payments = [await shop.payment() for _ in range(5)]
    signatures = [await sent(shop, payment) for payment in payments]
    shop.net.advance(FINALITY_SLOTS)
    chains = shop.chains()
    assert [(await chains.outcome(payment)).transaction for payment in payments] == signatures


async def test_it_is_found_long_after(shop: Shop) -> None:
    payment = await shop.payment()
    signature = await sent(shop, payment)
    shop.net.advance(1_000)
    assert await shop.chains().outcome(payment) == ("settled", signature, shop.buyer.address, "")


async def test_a_signature_of_another_transaction_does_not_count(shop: Shop) -> None:
    """A facilitator that names the transaction of another payment."""
    other, payment = await shop.payment(), await old(shop)
    signature = await sent(shop, other)
    shop.net.advance(FINALITY_SLOTS)
    with pytest.raises(RpcUnavailable, match="another transaction"):
        await shop.chains().outcome(_with(payment, transaction=signature))


async def test_what_failed_on_the_chain_is_a_failure_once_that_is_final(shop: Shop) -> None:
    poor = await shop.token.wallet(units=PRICE)
    shop.net.advance(FINALITY_SLOTS)
    first, second = [await shop.payment(buyer=poor) for _ in range(2)]
    await sent(shop, first)
    chains = shop.chains()
    # With preflight it would be refused.
    signed = await asyncio.to_thread(_signed, shop, json.loads(second.payload))
    await shop.token.rpc.send(signed, preflight=False)
    shop.net.advance(FINALITY_SLOTS)
    found = await chains.outcome(second)
    assert found.outcome == "failed"
    assert found.transaction and "InstructionError" in found.reason
    assert (await chains.outcome(first)).outcome == "settled"


def _signed(shop: Shop, payload: dict[str, Any]) -> bytes:
    transaction = VersionedTransaction.from_bytes(base64.b64decode(payload["payload"]["transaction"]))
    signature = shop.fee_payer.sign(to_bytes_versioned(transaction.message))
    return bytes(
        VersionedTransaction.populate(
            transaction.message, [Signature.from_bytes(signature), *transaction.signatures[1:]]
        )
    )


# it did not land


async def test_what_can_still_land_is_unknown(shop: Shop) -> None:
    payment = await old(shop)
    assert (await shop.chains().outcome(payment)).outcome == "unknown"
    shop.net.advance(100)
    assert (await shop.chains().outcome(payment)).outcome == "unknown"
    signature = await sent(shop, payment)
    shop.net.advance(FINALITY_SLOTS)
    assert await shop.chains().outcome(payment) == ("settled", signature, shop.buyer.address, "")


@pytest.mark.parametrize("is_recorded", [True, False], ids=["its signature is known", "only its message is"])
async def test_what_expired_unseen_is_a_failure(shop: Shop, is_recorded: bool) -> None:
    payment = await old(shop, transaction=UNKNOWN_SIGNATURE if is_recorded else "")
    shop.net.advance(EXPIRED_SLOTS)
    found = await shop.chains().outcome(payment)
    assert (found.outcome, found.transaction) == ("failed", "")
    assert "expired" in found.reason


async def test_a_blockhash_that_the_node_has_not_seen_yet_is_not_an_expired_one(shop: Shop) -> None:
    """A node says the same of both. A payment that arrived just now may have a hash newer than what is final."""
    payment = await shop.payment()
    shop.net.advance(EXPIRED_SLOTS)
    assert (await shop.chains(clocks_s=60).outcome(payment)).outcome == "unknown"


async def test_a_durable_nonce_never_expires(shop: Shop) -> None:
    nonce = advance_nonce_account(
        AdvanceNonceAccountParams(nonce_pubkey=Pubkey.new_unique(), authorized_pubkey=shop.buyer.keypair.pubkey())
    )
    message = MessageV0.try_compile(Keypair().pubkey(), [nonce], [], Hash.new_unique())
    raw = bytes(VersionedTransaction.populate(message, [Signature.default()] * message.header.num_required_signatures))
    payload = {"payload": {"transaction": base64.b64encode(raw).decode()}}
    payment = _aged(payment_of(payload, shop.requirements()))
    shop.net.advance(EXPIRED_SLOTS)
    assert (await shop.chains().outcome(payment)).outcome == "unknown"


async def test_a_payload_without_a_transaction_is_not_decided(shop: Shop) -> None:
    payment = payment_of({"payload": {"something": "new"}}, shop.requirements())
    assert (await shop.chains().outcome(payment)).outcome == "unknown"


# a node that is wrong: it may delay, and may not decide

LIES = {
    "it does not know it": [Wrong("getSignatureStatuses", null_status, times=100)],
    "it has no history": [Wrong("getSignaturesForAddress", no_history, times=1)],
    "it knows nothing, once": [
        Wrong("getSignatureStatuses", null_status, times=1),
        Wrong("getSignaturesForAddress", no_history, times=1),
    ],
    "it lags": [Wrong("*", behind, times=100)],
    "it has other bytes": [Wrong("getTransaction", other_transaction, times=100)],
    "it does not have it": [Wrong("getTransaction", nothing, times=100)],
    "it is down": [Wrong("*", html_503, times=100)],
    "it is down later": [Wrong("getSignaturesForAddress", html_503, times=100)],
}


async def test_a_node_that_lies_does_not_lose_a_payment(shop: Shop) -> None:
    payments = {name: await old(shop) for name in LIES}
    signatures = {name: await sent(shop, payment) for name, payment in payments.items()}
    shop.net.advance(EXPIRED_SLOTS)
    for name, wrongs in LIES.items():
        for members in ({}, {"transaction": signatures[name]}):
            payment = _with(payments[name], **members)
            try:
                # Times of blocks tell that a node lags; a chain moved by hand makes all of its blocks at once.
                chains = shop.chains(*wrongs, clocks_s=60 if name == "it lags" else 0)
                outcome = (await chains.outcome(payment)).outcome
            except ChainError:
                outcome = "unknown"
            assert outcome in ("settled", "unknown"), (name, members)


async def test_a_node_that_is_ahead_of_itself_does_not_lose_a_payment(shop: Shop) -> None:
    for lie in (far_ahead, far_ahead_all):
        payment = await old(shop)
        try:
            outcome = (await shop.chains(Wrong("getEpochInfo", lie, times=100)).outcome(payment)).outcome
        except ChainError:
            outcome = "unknown"
        assert outcome == "unknown", lie


async def test_a_node_that_says_final_of_what_it_does_not_have_is_not_believed(shop: Shop) -> None:
    payment = await old(shop, transaction=UNKNOWN_SIGNATURE)
    with pytest.raises(RpcUnavailable):
        await shop.chains(Wrong("getSignatureStatuses", final_status, times=100)).outcome(payment)
