"""Payments that nobody saw the end of: brought to one, at start and on a timer, without a person's help.

    reserved (left by a dead process)   → released: nothing was asked of anybody
    settling (the same), unknown        → the chain says: credited, or failed; as long as it says nothing: unknown
    settled (the same)                  → delivered or credited, as the receipt says; without one: credited, with one

Owns the order in which that is safe: a receipt is looked for before one is written, and written before the ledger says
so, so that a crash anywhere leaves a state from which this runs again to the same end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from trustgate.errors import TrustGateError
from trustgate.payment.balance import Balances
from trustgate.payment.credit import append_credit
from trustgate.payment.interfaces import PaymentChain, Settlement
from trustgate.payment.ledger import Ledger
from trustgate.receipts.log import Log
from trustgate.store import PaymentFilter, Store
from trustgate.types import Payment

_logger = logging.getLogger("trustgate.payment")


class Reconciler:
    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        log: Log,
        balances: Balances,
        chain: PaymentChain,
        *,
        is_active: Callable[[Payment], bool] = lambda payment: False,
        on_decided: Callable[[Payment], None] = lambda payment: None,
    ) -> None:
        """``is_active``: whether a running request has a payment, which is then its business."""
        self._store = store
        self._ledger = ledger
        self._log = log
        self._balances = balances
        self._chain = chain
        self._is_active = is_active
        self._on_decided = on_decided
        self._one_at_a_time = asyncio.Lock()
        #: Why the chain could not say, by the payment's id; of the last look.
        self.problems: dict[str, str] = {}

    async def recover(self) -> list[Payment]:
        """Before the first request: end what a dead process left, as far as the receipts tell; gives what is unknown.

        Asks no chain. The log has been recovered, so every receipt that was acknowledged is in the store.
        """
        for payment in await self._open():
            if payment.state == "reserved":
                await self._ledger.release(payment)
            elif payment.state == "settling":
                await self._ledger.settled(payment, Settlement("unknown", reason="the gateway ended while it settled"))
            elif payment.state == "settled":
                await self._end_settled(payment)
        return await self._open()

    async def run(self, every_s: float) -> None:
        """For ever."""
        while True:
            try:
                await self.reconcile()
            except TrustGateError as error:
                _logger.warning("payments cannot be looked up: %s", error.message)
            await asyncio.sleep(every_s)

    async def reconcile(self) -> list[Payment]:
        """Look at everything that is open and no running request's; gives each as it stands afterwards.

        A chain that cannot be asked leaves the payment as it is. Raises what the store raises.
        """
        async with self._one_at_a_time:
            looked_at = []
            self.problems = {}
            for payment in await self._open():
                if not self._is_active(payment):
                    await self._decide(payment)
                    looked_at.append(await self._store.payment(payment.id) or payment)
            return looked_at

    async def _decide(self, payment: Payment) -> None:
        if payment.state == "reserved":
            await self._ledger.release(payment)
        elif payment.state == "settled":
            await self._end_settled(payment)
        else:
            try:
                settlement = await self._chain.fate(payment)
            except TrustGateError as error:
                self.problems[payment.id] = error.message
                _logger.warning("the fate of payment %s cannot be looked up: %s", payment.id, error.message)
                return
            if settlement.outcome == "unknown" and payment.state == "unknown":
                return
            decided = await self._ledger.settled(payment, settlement)
            if decided.state == "settled":
                await self._end_settled(decided)
            elif decided.state == "failed":
                self._on_decided(decided)

    async def _end_settled(self, payment: Payment) -> None:
        """The money moved: see that a receipt says so, then let the ledger say so."""
        await self._log.flush()
        entry = await self._store.payment_receipt(payment)
        if entry is None:
            append_credit(
                self._log,
                payment.tenant_id,
                key_id=payment.key_id,
                credited_nano_usd=payment.value_nano_usd,
                payment=payment,
            )
            self._balances.change(payment.tenant_id, payment.value_nano_usd)
            _logger.info("payment %s settled and its request was not served: credited", payment.id)
        delivered = entry is not None and entry.receipt.finish != "credited"
        await self._ledger.end(payment, "delivered" if delivered else "credited")
        self._on_decided(payment)

    async def _open(self) -> list[Payment]:
        query = PaymentFilter(states=("reserved", "settling", "settled", "unknown"), limit=None)
        return await self._store.payments(query)
