"""Payments whose outcome was not seen: brought to one, at start and on a timer, without a person's help.

    reserved (left by a dead process)   → released: no facilitator was asked
    settling (the same), unknown        → as on the chain: credited, or failed; while the chain has nothing: unknown
    settled (the same)                  → delivered or credited, as in the receipt; without one: credited, with one

Owns the order in which that is safe: a receipt is looked for before one is written, and written before the ledger's
row, so that a crash anywhere leaves a state from which this runs again to the same end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from trustgate.errors import TrustGateError
from trustgate.payment.balance import Balances
from trustgate.payment.credit import append_credit
from trustgate.payment.interfaces import PaymentChain, Settlement
from trustgate.payment.ledger import Ledger
from trustgate.receipts.log import Log
from trustgate.store import PaymentFilter, Store
from trustgate.types import COUNTED, OPEN, Finish, Payment

_logger = logging.getLogger("trustgate.payment")

#: How long after the facilitator was asked again it is asked once more, seconds; doubled each time.
_ASK_AGAIN_S = 30.0
_ASK_AGAIN_MOST_S = 3_600.0
#: Payments that are looked up at the same time.
_LOOKS_MOST = 8


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
        settle_again: Callable[[Payment], Awaitable[Settlement]] | None = None,
        on_round: Callable[[], None] = lambda: None,
        are_free: Callable[[Sequence[Payment]], Awaitable[list[Payment]]] | None = None,
    ) -> None:
        """``is_active``: whether a running request has a payment, which is then left to it.

        ``settle_again``: asks the facilitator once more to settle a payment that no node can tell of. What was signed
        moves money once, so it changes nothing but what is known, or collects what was authorized. Only that it settled
        is believed: a refusal may be of the second time alone. ``on_round``: is called with every round of ``run``.
        ``are_free``: returns those that no other process's request has; None: there is no other process.
        """
        self._store = store
        self._ledger = ledger
        self._log = log
        self._balances = balances
        self._chain = chain
        self._is_active = is_active
        self._on_decided = on_decided
        #: Looks under way, by the payment's id: a second one at the same payment waits for the first instead.
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._at_once = asyncio.Semaphore(_LOOKS_MOST)
        self._settle_again = settle_again
        self._on_round = on_round
        self._are_free = are_free
        #: When the facilitator is asked again, and how long after that, seconds (monotonic), by the payment's id.
        self._asks: dict[str, tuple[float, float]] = {}
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
                await self._ledger.settled(
                    payment, Settlement("unknown", reason="the gateway stopped while the payment settled")
                )
            elif payment.state == "settled":
                await self._end_settled(payment)
        return await self._open()

    async def unknown(self) -> list[Payment]:
        """Returns the payments whose outcome is unknown."""
        return await self._store.payments(PaymentFilter(states=("unknown",), limit=None))

    async def run(self, every_s: float) -> None:
        """For ever."""
        while True:
            try:
                await self.reconcile()
            except TrustGateError as error:
                _logger.warning("payments cannot be looked up: %s", error.message)
            self._on_round()
            await asyncio.sleep(every_s)

    async def reconcile(self) -> list[Payment]:
        """Look at everything that is open and no running request's; gives each as it stands afterwards.

        Several are looked at at once, and a payment at which another call looks already is not looked at twice. A chain
        that cannot be asked leaves the payment as it is. Raises what the store raises.
        """
        found = [payment for payment in await self._open() if not self._is_active(payment)]
        if self._are_free is not None:
            found = await self._are_free(found)
        looks = [self._look(payment) for payment in found]
        for done in await asyncio.gather(*(asyncio.shield(look) for look in looks), return_exceptions=True):
            if isinstance(done, BaseException):
                raise done
        return [await self._store.payment(payment.id) or payment for payment in found]

    def _look(self, payment: Payment) -> asyncio.Task[None]:
        """Returns the look at a payment that is under way, or a new one."""
        look = self._looks.get(payment.id)
        if look is None:
            look = self._looks[payment.id] = asyncio.get_running_loop().create_task(self._bounded(payment))
            look.add_done_callback(lambda _: self._looks.pop(payment.id, None))
        return look

    async def _bounded(self, payment: Payment) -> None:
        async with self._at_once:
            self.problems.pop(payment.id, None)
            # It may have been decided on since it was listed.
            current = await self._store.payment(payment.id)
            if current is not None and current.state in OPEN and not self._is_active(current):
                await self._decide(current)

    async def close(self) -> None:
        """End the looks that are under way; they are begun anew at the next start."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def resolve(self, payment: Payment, transaction: str | None) -> Payment:
        """End a payment as the operator has found it: settled by that transaction, or (None) failed.

        Returns the payment as it stands afterwards. A payment that has been decided on meanwhile stays as it is.
        """
        outcome: Literal["settled", "failed"] = "failed" if transaction is None else "settled"
        decided = await self._ledger.settled(
            payment, Settlement(outcome, transaction or "", reason="resolved by the operator")
        )
        if decided.state == "settled":
            await self._end_settled(decided)
        elif decided.state == "failed":
            self._on_decided(decided)
        return await self._store.payment(payment.id) or decided

    async def _decide(self, payment: Payment) -> None:
        if payment.state == "reserved":
            await self._ledger.release(payment)
        elif payment.state == "settled":
            await self._end_settled(payment)
        else:
            try:
                settlement = await self._chain.outcome(payment)
            except TrustGateError as error:
                again = await self._asked_again(payment)
                if again is None:
                    self.problems[payment.id] = error.message
                    _logger.warning("the outcome of payment %s cannot be looked up: %s", payment.id, error.message)
                    return
                settlement = again
            if settlement.outcome == "unknown" and payment.state == "unknown":
                return
            decided = await self._ledger.settled(payment, settlement)
            if decided.state == "settled":
                await self._end_settled(decided)
            elif decided.state == "failed":
                self._on_decided(decided)

    async def _asked_again(self, payment: Payment) -> Settlement | None:
        """Returns the settlement, where the facilitator has one now; None otherwise, or if it is too soon to ask."""
        now = time.monotonic()
        at, delay_s = self._asks.get(payment.id, (0.0, _ASK_AGAIN_S))
        if self._settle_again is None or payment.state != "unknown" or now < at:
            return None
        self._asks[payment.id] = now + delay_s, min(2 * delay_s, _ASK_AGAIN_MOST_S)
        try:
            settlement = await self._settle_again(payment)
        except TrustGateError as error:
            _logger.warning("the facilitator of payment %s cannot be asked again: %s", payment.id, error.message)
            return None
        if settlement.outcome != "settled":
            return None
        self._asks.pop(payment.id, None)
        return settlement

    async def _end_settled(self, payment: Payment) -> None:
        """The money moved: write the receipt, then the ledger's row."""
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
        delivered = entry is not None and _delivered(entry.receipt.finish)
        await self._ledger.end(payment, "delivered" if delivered else "credited")
        self._on_decided(payment)

    async def _open(self) -> list[Payment]:
        query = PaymentFilter(states=("reserved", "settling", "settled", "unknown"), limit=None)
        return await self._store.payments(query)


def _delivered(finish: Finish) -> bool:
    """Returns whether a request that ended so had its answer: paid for before, it may have failed afterwards."""
    return finish in COUNTED and finish != "upstream_cut"
