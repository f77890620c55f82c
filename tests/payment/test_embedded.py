"""The embedded facilitator on a local chain, with payments by the SDK's own client and tokens that really move."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

import pytest

from tests.payment.conftest import FINALITY_SLOTS, PRICE, TIMING, Shop, settle
from tests.support.chain import (
    Answer,
    Call,
    Wrong,
    accepted_but_refused,
    behind,
    drop_after,
    drop_before,
    failed_status,
    garbage,
    html_503,
    null_status,
    refused,
    status_500,
    swallowed,
    too_many,
)
from tests.support.payments import payment_of
from tests.support.tokens import Wallet
from trustgate.errors import FacilitatorUnavailable, SettingsError
from trustgate.formats.solana_transaction import read_transaction
from trustgate.payment.facilitators.signing_policy import MOST_FEE_LAMPORTS
from trustgate.payment.interfaces import Settlement
from trustgate.payment.networks import SOLANA_DEVNET
from trustgate.types import Payment

# what goes well


@pytest.mark.parametrize("version", [1, 2])
async def test_a_stock_client_pays(shop: Shop, version: int) -> None:
    facilitator = shop.facilitator()
    payment = await shop.payment(version=version)
    verdict = await facilitator.verify(payment)
    assert verdict == (True, "", shop.buyer.address)
    assert await shop.earned() == 0

    settlement, recorded = await settle(shop, facilitator, payment)
    assert settlement == ("settled", recorded[0], shop.buyer.address, "")
    assert await shop.earned() == PRICE
    assert await shop.token.units(shop.buyer.address) == 100_000 - PRICE
    landed = await shop.token.rpc.transaction(settlement.transaction, "confirmed")
    assert landed is not None and landed.err is None
    assert landed.fee_lamports <= MOST_FEE_LAMPORTS


async def test_what_it_supports_is_what_clients_are_told(shop: Shop) -> None:
    kinds = await shop.facilitator().supported()
    assert {(kind.x402_version, kind.network) for kind in kinds} >= {(2, SOLANA_DEVNET), (1, "solana-devnet")}
    assert {kind.extra["feePayer"] for kind in kinds} == {shop.fee_payer.address}


async def test_nothing_signed_leaves_before_it_is_recorded(shop: Shop) -> None:
    """What a node is shown to simulate could not be sent: the fee payer has not signed it."""
    seen = []

    async def look(call: Call) -> Answer:
        seen.append(read_transaction(base64.b64decode(call.request["params"][0])))
        return Answer(json.dumps(await call.forward()).encode())

    facilitator = shop.facilitator(Wrong("simulateTransaction", look, times=10))
    payment = await shop.payment()
    await facilitator.verify(payment)
    settlement, recorded = await settle(shop, facilitator, payment)
    assert settlement.outcome == "settled"
    assert len(seen) == 2
    assert all(transaction.signatures[0] == bytes(64) for transaction in seen)
    assert len(recorded) == 1


async def test_many_at_once(shop: Shop) -> None:
    facilitator = shop.facilitator()
    payments = [await shop.payment() for _ in range(12)]

    async def whole(payment: Payment) -> Settlement:
        assert (await facilitator.verify(payment)).valid

        async def record(_: str) -> None:
            pass

        return await facilitator.settle(payment, record)

    settlements = await asyncio.gather(*(whole(payment) for payment in payments))
    assert {settlement.outcome for settlement in settlements} == {"settled"}
    assert len({settlement.transaction for settlement in settlements}) == 12
    assert await shop.earned() == 12 * PRICE


async def test_the_event_loop_is_not_held_up(shop: Shop) -> None:
    """Eight verifications stand in the node at the same time, which is asked by the loop that they were begun on."""
    together = asyncio.Barrier(8)

    async def wait_for_all(call: Call) -> Answer:
        await together.wait()
        return Answer(json.dumps(await call.forward()).encode())

    facilitator = shop.facilitator(Wrong("simulateTransaction", wait_for_all, times=8))
    payments = [await shop.payment() for _ in range(8)]
    async with asyncio.timeout(5):
        verdicts = await asyncio.gather(*(facilitator.verify(payment) for payment in payments))
    assert all(verdict.valid for verdict in verdicts)


# what is refused: by the chain


async def test_no_money(shop: Shop) -> None:
    poor = await shop.token.wallet(units=PRICE - 1)
    shop.net.advance(FINALITY_SLOTS)
    facilitator = shop.facilitator()
    payment = await shop.payment(buyer=poor)
    assert await facilitator.verify(payment) == (False, "insufficient_funds", poor.address)
    settlement, recorded = await settle(shop, facilitator, payment)
    assert (settlement.outcome, settlement.reason, recorded) == ("failed", "insufficient_funds", [])
    assert shop.lane.calls["sendTransaction"] == 0


async def test_an_expired_blockhash(shop: Shop) -> None:
    facilitator = shop.facilitator()
    payment = await shop.payment()
    assert (await facilitator.verify(payment)).valid
    shop.net.advance(200)
    verdict = await facilitator.verify(payment)
    assert verdict.reason == "transaction_simulation_failed_blockhash_not_found"
    settlement, recorded = await settle(shop, facilitator, payment)
    assert (settlement.outcome, recorded) == ("failed", [])
    assert await shop.earned() == 0


async def test_a_payment_that_is_on_the_chain_already_is_not_taken_for_another(shop: Shop) -> None:
    facilitator = shop.facilitator()
    payment = await shop.payment()
    assert (await settle(shop, facilitator, payment))[0].outcome == "settled"
    shop.net.advance(1)
    assert (await facilitator.verify(payment)).reason == "transaction_simulation_failed_already_processed"
    shop.lane.calls.clear()
    settlement, recorded = await settle(shop, facilitator, payment)
    assert (settlement.outcome, recorded) == ("unknown", [])
    assert await shop.earned() == PRICE


async def test_a_payment_that_was_signed_before_is_left_to_the_chain(shop: Shop) -> None:
    facilitator = shop.facilitator()
    payment = await shop.payment(transaction="1" * 64)
    settlement, recorded = await settle(shop, facilitator, payment)
    assert (settlement.outcome, settlement.transaction, recorded) == ("unknown", "1" * 64, [])
    assert not shop.lane.calls


async def test_a_transaction_that_fails_on_the_chain_is_a_failure(shop: Shop) -> None:
    """The money is spent between the simulation and the block. The stock facilitator calls this a success."""
    facilitator = shop.facilitator()
    payments = [await shop.payment(units) for units in (60_000, 60_000)]
    assert all([(await facilitator.verify(payment)).valid for payment in payments])
    other = shop.facilitator()

    async def spend_first(_: str) -> None:
        settled = await other.settle(payments[0], unheard)
        assert settled.outcome == "settled"

    settlement = await facilitator.settle(payments[1], spend_first)
    assert settlement.outcome == "failed"
    assert "InstructionError" in settlement.reason
    assert settlement.transaction
    assert await shop.earned() == 60_000
    assert await shop.chains().outcome(payments[1]) == settlement._replace(
        reason=settlement.reason.replace("the transaction", "it")
    )


async def unheard(_: str) -> None:
    pass


async def test_a_failure_to_record_sends_nothing(shop: Shop) -> None:
    facilitator = shop.facilitator()

    async def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    settlement = await facilitator.settle(await shop.payment(), full)
    assert settlement.outcome == "failed"
    assert shop.lane.calls["sendTransaction"] == 0
    assert await shop.earned() == 0


# a node that fails

WHILE_SETTLING = [
    ("sendTransaction", drop_before),
    ("sendTransaction", drop_after),
    ("sendTransaction", html_503),
    ("sendTransaction", status_500),
    ("sendTransaction", too_many),
    ("sendTransaction", refused),
    ("sendTransaction", accepted_but_refused),
    ("sendTransaction", swallowed),
    ("sendTransaction", garbage),
    ("getSignatureStatuses", drop_before),
    ("getSignatureStatuses", null_status),
    ("getSignatureStatuses", behind),
    ("getSignatureStatuses", html_503),
]


async def test_a_node_that_fails_for_a_while_delays_only(shop: Shop) -> None:
    for count, (method, fault) in enumerate(WHILE_SETTLING, start=1):
        facilitator = shop.facilitator(Wrong(method, fault, times=2))
        settlement, recorded = await settle(shop, facilitator, await shop.payment())
        assert (settlement.outcome, settlement.transaction) == ("settled", recorded[0]), (method, fault, settlement)
        assert shop.lane.went_wrong >= 1
        assert await shop.earned() == count * PRICE


@pytest.mark.parametrize("fault", [drop_after, swallowed, html_503], ids=["done", "lost", "down"])
async def test_a_node_that_fails_for_good_leaves_it_unknown(shop: Shop, fault: Any) -> None:
    facilitator = shop.facilitator(
        Wrong("sendTransaction", fault, times=1_000),
        Wrong("getSignatureStatuses", null_status, times=1_000),
        timing=TIMING._replace(settle_s=0.6),
    )
    payment = await shop.payment()
    settlement, recorded = await settle(shop, facilitator, payment)
    assert (settlement.outcome, settlement.transaction, settlement.payer) == (
        "unknown",
        recorded[0],
        shop.buyer.address,
    )
    assert "0.6 s" in settlement.reason
    moved = fault is drop_after
    assert await shop.earned() == (PRICE if moved else 0)
    # What settling could not tell, the chain does.
    found = await shop.chains().outcome(payment)
    assert found.outcome == ("settled" if moved else "unknown")
    assert found.transaction == (recorded[0] if moved else "")


async def test_a_status_of_failure_that_may_be_another_tomorrow_is_waited_out(shop: Shop) -> None:
    """A node that says "finalized, with an error" is believed: nothing is paid for. The chain is asked again then."""
    facilitator = shop.facilitator(Wrong("getSignatureStatuses", failed_status))
    settlement, _ = await settle(shop, facilitator, await shop.payment())
    assert settlement.outcome == "failed"


async def test_a_node_that_cannot_simulate_is_no_refusal(shop: Shop) -> None:
    for fault in (drop_before, html_503, garbage, too_many):
        facilitator = shop.facilitator(Wrong("simulateTransaction", fault, times=2))
        payment = await shop.payment()
        with pytest.raises(FacilitatorUnavailable):
            await facilitator.verify(payment)
        settlement, recorded = await settle(shop, facilitator, payment)
        assert (settlement.outcome, recorded) == ("failed", []), fault
        assert "nothing was sent" in settlement.reason
        assert (await facilitator.verify(payment)).valid


async def test_a_node_that_never_answers(shop: Shop) -> None:
    end, waiting = asyncio.Event(), []

    async def never(_: Call) -> Answer:
        waiting.append(asyncio.current_task())
        await end.wait()
        return Answer(None)

    facilitator = shop.facilitator(
        Wrong("simulateTransaction", never, times=2), timing=TIMING._replace(verify_s=0.1, settle_s=0.1)
    )
    payment = await shop.payment()
    with pytest.raises(FacilitatorUnavailable):
        await facilitator.verify(payment)
    settlement, recorded = await settle(shop, facilitator, payment)
    assert (settlement.outcome, recorded) == ("failed", [])
    end.set()
    await asyncio.gather(*(task for task in waiting if task is not None))


async def test_a_fee_payer_without_money_is_not_the_clients_fault(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    poor: Wallet = await shop.token.wallet(units=None)
    poor.write(shop.home / "facilitator.json")
    facilitator = shop.facilitator()
    requirements = shop.token.requirements(shop.seller.address, PRICE, poor.address)
    payment = payment_of(await shop.token.payment(shop.buyer, requirements), requirements)
    with caplog.at_level(logging.WARNING), pytest.raises(FacilitatorUnavailable):
        await facilitator.verify(payment)
    assert "send SOL to it" in caplog.text
    assert await facilitator.balance(SOLANA_DEVNET) == 0


async def test_no_key(shop: Shop) -> None:
    (shop.home / "facilitator.json").unlink()
    facilitator = shop.facilitator()
    with pytest.raises(SettingsError, match="There is no keypair file") as raised:
        await facilitator.supported()
    assert raised.value.hint is not None and "keygen" in raised.value.hint
    with pytest.raises(FacilitatorUnavailable) as told:
        await facilitator.verify(await shop.payment())
    assert str(shop.home) not in told.value.message
