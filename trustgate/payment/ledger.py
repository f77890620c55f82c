"""The ledger of payments: every step of a payment, written down before the act that it announces.

    reserved ──► settling ──► settled ──► delivered      the request it pays for has its receipt
        │            │            └─────► credited       it was not served: the credit has a receipt
        ▼            ├──► failed                          the money did not move and will not
     (released)      └──► unknown ──► credited | failed   decided later, by the chain (payment.reconciler)

Owns the moves between the states. A row goes from one state to another only where it is still in the first (one atomic
verb of the store), so two who decide on one payment cannot both go on. Money is never moved on the word of memory.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trustgate.errors import Unavailable
from trustgate.ids import now_us
from trustgate.payment.interfaces import Settlement
from trustgate.store import Store
from trustgate.types import SPENT_ON, Payment, PaymentState


class Ledger:
    def __init__(self, store: Store, node_id: Callable[[], str] = lambda: "") -> None:
        """``node_id``: this process among several; raises ``Unavailable`` where it is none at the moment."""
        self._store = store
        self._node_id = node_id

    async def claim(self, payment: Payment) -> Payment:
        """Returns the payment, or the one that has its key (or its tenant's identifier) already. Durable."""
        return await self._store.claim_payment(msgspec.structs.replace(payment, node=self._node_id()))

    async def release(self, payment: Payment) -> None:
        """Give a claim up: no facilitator was asked to settle."""
        await self._store.release_payment(payment)

    async def settling(self, payment: Payment) -> Payment:
        """Record that the facilitator is about to settle. Raises ``Unavailable`` where another request has the
        payment."""
        moved = await self._move(payment, "settling")
        if moved is None:
            raise Unavailable("Another request is using this payment now.", code="payment_pending")
        return moved

    async def sending(self, payment: Payment, transaction: str) -> Payment:
        """Returns the transaction that will carry it, before it is sent. Raises ``Unavailable`` where that cannot be
        kept.
        """
        noted = msgspec.structs.replace(payment, transaction=transaction, updated_us=now_us())
        if not await self._store.move_payment(noted, before=payment.state):
            raise Unavailable("Another request is using this payment now.", code="payment_pending")
        return noted

    async def settled(self, payment: Payment, settlement: Settlement) -> Payment:
        """Returns what came of settling: ``settled``, ``failed`` or ``unknown``; as it stands where it has been moved
        on.
        """
        moved = await self._move(
            payment,
            settlement.outcome,
            transaction=settlement.transaction or payment.transaction,
            payer=settlement.payer or payment.payer,
            reason=settlement.reason,
        )
        return moved or await self._store.payment(payment.id) or payment

    async def end(self, payment: Payment, state: PaymentState) -> bool:
        """``delivered`` or ``credited``: the receipt exists. False where another request or the reconciler moved it
        on."""
        return await self._move(payment, state) is not None

    async def spend(self, payment: Payment, receipt_id: str) -> Payment:
        """Note on a credited payment which request its credit pays for; "": none, after all.

        Raises ``Unavailable`` where the payment is not credited any more.
        """
        spent = msgspec.structs.replace(
            payment, reason=f"{SPENT_ON}{receipt_id}" if receipt_id else "", updated_us=now_us()
        )
        if not await self._store.move_payment(spent, before="credited"):
            raise Unavailable("Another request is using this payment now.", code="payment_pending")
        return spent

    async def _move(self, payment: Payment, state: PaymentState, **changes: str) -> Payment | None:
        moved = msgspec.structs.replace(payment, state=state, updated_us=now_us(), **changes)
        return moved if await self._store.move_payment(moved, before=payment.state) else None
