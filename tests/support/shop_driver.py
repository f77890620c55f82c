"""Random customers at a shop (tests.support.shop), in a process to be killed: ``python -m tests.support.shop_driver``.

    shop_driver HOME SEED MOST     serve at most so many requests, some ten at a time, until killed

Whatever a customer may do is done here: pay before the work or with the answer in hand, pay and leave, pay twice with
one payment, retry after being left alone, draw on the balance. A byte goes to stdout for each request that ended, so
that who kills knows how many there were.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from tests.support.shop import OFFER, SOLANA_OFFER, UPFRONT, Shop, order, shuffled, signed, terms
from trustgate.errors import TrustGateError
from trustgate.payment.x402_wire import Presented
from trustgate.types import PaymentMode

_TENANTS = tuple(f"tenant_{number}" for number in range(4))
_AT_ONCE = 10
#: How long a payment on Solana waits for its answer; some answers take longer.
_SETTLE_WITHIN_S = 0.003
_OFFERS = (OFFER, OFFER, SOLANA_OFFER, SOLANA_OFFER, UPFRONT)
#: Nano-USD a request costs at most; 1,000 are an atomic unit.
_MOST_PRICE = 5_000_000


async def main(home: Path, seed: int, most: int) -> None:
    shop = await Shop.open(home)
    shop.cashier.settle_within_s = _SETTLE_WITHIN_S
    chance = random.Random(seed)
    upkeep = asyncio.ensure_future(shop.log.run())
    looking = asyncio.ensure_future(shop.reconciler.run(0.3))
    customers = [asyncio.ensure_future(_customer(shop, chance, most // _AT_ONCE)) for _ in range(_AT_ONCE)]
    await asyncio.gather(*customers)
    looking.cancel()
    upkeep.cancel()
    await shop.close()


async def _customer(shop: Shop, chance: random.Random, requests: int) -> None:
    for _ in range(requests):
        await _request(shop, chance)
        os.write(1, b".")


async def _request(shop: Shop, chance: random.Random) -> None:
    tenant_id = chance.choice(_TENANTS)
    price = chance.randrange(0, _MOST_PRICE)
    prepaid = chance.random() < 0.3
    offer = chance.choice(_OFFERS)
    mode: PaymentMode = "prepaid" if prepaid else "per-request"
    chosen = terms(mode, tenant_id=tenant_id, top_up_nano_usd=3 * _MOST_PRICE, offers=(offer,))
    asked = max(price, chosen.top_up_nano_usd) if prepaid else price
    paying = signed(max(1, -(-asked // 1_000)), offer=offer) if chance.random() < 0.4 else None
    if chance.random() < 0.5:
        shop.paper.plan.append(shuffled(chance))
    body = os.urandom(8)

    async def once(payment: Presented | None) -> None:
        dies = chance.choices(["", "before", "after"], [80, 10, 10])[0]
        made = order(price, body=body, paying=payment, tenant_id=tenant_id, terms=chosen)
        # Some cost more than their worst case, as a model may write more than it was asked to.
        cost = chance.randrange(0, price + price // 10 + 1)
        try:
            await shop.serve(made, cost=cost, dies=dies, work_s=chance.choice((0.0, 0.0, 0.001, 0.006)))
        except (TrustGateError, ConnectionError, asyncio.CancelledError):
            return

    tries = [asyncio.ensure_future(once(paying)) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    if chance.random() < 0.2:
        await asyncio.sleep(chance.random() * 0.01)
        tries[0].cancel()
    await asyncio.gather(*tries, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
