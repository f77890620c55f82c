"""A Solana payment whose answer takes longer than its blockhash lives, on the local chain."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from tests.payment.conftest import PRICE, Shop
from tests.support.shop import Shop as Counter
from tests.support.shop import order, terms
from trustgate.errors import PaymentRequired
from trustgate.payment.facilitators.embedded import EmbeddedFacilitator
from trustgate.payment.interfaces import OnTransaction, Settlement
from trustgate.payment.networks import SOLANA_DEVNET
from trustgate.payment.order import Order
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import read_payment
from trustgate.types import Offer, Payment

#: More than the 150 for which a blockhash is good.
_A_LIFE_OF_SLOTS = 200


class _Facilitators:
    """The embedded one, and when it has settled."""

    def __init__(self, embedded: EmbeddedFacilitator) -> None:
        self._embedded = embedded
        self.supported, self.verify, self.close = embedded.supported, embedded.verify, embedded.close
        self.has_settled = asyncio.Event()

    async def get(self, name: str) -> _Facilitators:
        assert name == "embedded"
        return self

    async def settle(self, payment: Payment, on_transaction: OnTransaction) -> Settlement:
        settlement = await self._embedded.settle(payment, on_transaction)
        self.has_settled.set()
        return settlement


async def _paid_order(shop: Shop) -> Order:
    """A request with a payment as the SDK's client makes it."""
    offer = Offer(
        network=SOLANA_DEVNET,
        asset=shop.token.mint,
        decimals=6,
        pay_to=shop.seller.address,
        facilitator="embedded",
        extra={"feePayer": shop.fee_payer.address},
    )
    payload = await shop.token.payment(shop.buyer, shop.requirements(PRICE))
    presented = read_payment({b"payment-signature": base64.b64encode(json.dumps(payload).encode())})
    return order(PRICE * 1_000, paying=presented, terms=terms(offers=(offer,)))


@pytest.mark.parametrize("in_time", [True, False], ids=["settled in time", "left to the answer"])
async def test_an_answer_that_outlives_a_blockhash_is_paid_for(shop: Shop, in_time: bool) -> None:
    """Left to the answer, as payments once were, it is refused when the work is done: the counterpart of the test."""
    counter = await Counter.open(shop.home / "counter")
    facilitators = _Facilitators(shop.facilitator())
    counter.cashier._facilitators = facilitators
    counter.cashier.settle_within_s = 0.05 if in_time else 3_600.0
    admitted = await counter.cashier.admit(await _paid_order(shop))
    assert isinstance(admitted, Sale)
    async with admitted as sale:
        if in_time:
            async with asyncio.timeout(20):
                await facilitators.has_settled.wait()
        shop.net.advance(_A_LIFE_OF_SLOTS)
        if in_time:
            await sale.settle()
            sale.close(1)
        else:
            with pytest.raises(PaymentRequired):
                await sale.settle()
    assert await shop.earned() == (PRICE if in_time else 0)
    await counter.cashier.close()
    [payment] = await counter.payments()
    assert payment.state == ("delivered" if in_time else "failed")
    await counter.close()
