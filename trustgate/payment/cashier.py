"""Step 3 of the path: what a request owes, and how it is paid.

    no payment, the balance covers the worst case   → the balance, held
    no payment                                      → 402 with what would do
    a payment that is new                           → claimed in the ledger, verified; settled before the first byte
    a payment that was presented before             → its kept answer; or 409; or 503 while its outcome is unknown
    a payment that was credited                     → served once against that credit, then as above

What is asked for is the worst case and what the balance lacks: a tenant below zero first pays what it owes. Callers
without a key have no balance: each pays for its request by itself, and what it paid is what it is charged.

A payment counts for one tenant and one request: its row in the ledger has the state. It is settled once and never
looked at again; what it brings beyond the request's cost is the tenant's balance, which the next request draws on.

Owns which of these a request gets; the sale that comes of it (``sale.py``) is the request's own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import msgspec

from trustgate.errors import Conflict, PaymentRequired, TrustGateError
from trustgate.payment import x402_wire
from trustgate.payment.balance import Balances
from trustgate.payment.interfaces import Facilitator, Settlement
from trustgate.payment.ledger import Ledger
from trustgate.payment.order import Order, Request, claim_of, pending, request_of
from trustgate.payment.paid_answers import Answers, Recorded
from trustgate.payment.payment_key import same_payer
from trustgate.payment.sale import Sale, Timing, to_its_end
from trustgate.payment.validity import settle_by_us
from trustgate.payment.x402_wire import Presented
from trustgate.receipts.log import Log
from trustgate.tasks import end_tasks
from trustgate.types import Offer, Payment, PaymentTerms

_logger = logging.getLogger("trustgate.payment")

#: How long the end of the gateway waits for what is done behind answers, seconds.
_BEHIND_S = 4.0


class FindFacilitator(Protocol):
    async def get(self, name: str) -> Facilitator: ...


class Cashier:
    def __init__(
        self,
        ledger: Ledger,
        balances: Balances,
        log: Log,
        facilitators: FindFacilitator,
        *,
        public_url: str,
        settle_within_s: float = 20.0,
        unsettled_per_payer: int = 2,
        contact: str = "",
        on_doubt: Callable[[], None] = lambda: None,
        answers: Answers | None = None,
    ) -> None:
        """``public_url``: what clients call the gateway, without a slash at its end.

        ``settle_within_s``: how long a Solana payment may wait for an answer. ``unsettled_per_payer``: how many of one
        payer may wait at once; each further one is settled before the upstream is asked, so that a wallet that holds
        one payment cannot have twenty answers made. ``contact``: how tenants get more credit, where their terms do not
        say. ``on_doubt``: is called where a payment is refused for the fee payer that its offer named.
        """
        self.ledger = ledger
        self.balances = balances
        self.log = log
        self.answers = answers or Answers()
        self._facilitators = facilitators
        self._public_url = public_url
        self._contact = contact
        self.settle_within_s = settle_within_s
        self._unsettled_per_payer = unsettled_per_payer
        self._on_doubt = on_doubt
        #: Payments that wait for their answers, by payer.
        self._unsettled: Counter[str] = Counter()
        #: Payments that a running request has claimed, by key.
        self._active: dict[str, asyncio.Event] = {}
        #: Payments of unknown outcome, by id.
        self._undecided: dict[str, Payment] = {}
        #: Requests whose client left while it paid, and that still run: the key of the payment.
        self._left: dict[Request, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def admit(self, order: Order) -> Sale | Recorded:
        """Returns a sale to be entered (``async with``), or the answer that the presented payment has bought already.

        Raises ``PaymentRequired`` (402), ``Conflict`` (409: the payment paid for something else), ``Unavailable`` (503:
        the payment's outcome is unknown, or it cannot be verified).
        """
        # The same request without a key may be another client's.
        owed = None if order.is_keyless else await self._owed(order)
        if owed is not None:
            return owed
        if order.presented is None:
            return await self._on_balance(order)
        offer, amount = self._wanted(order, order.presented)
        payment = claim_of(order, order.presented, offer, amount, self._public_url)
        while True:
            running = self._active.get(payment.key)
            if running is None:
                existing = await self._claim(payment)
                if existing.id == payment.id:
                    return await self._verified(order, payment)
                recorded = await self.answers.look_up(existing.id, order.answer_key)
                running = self._active.get(existing.key)
                if running is None:
                    return await self._again(order, payment, existing, recorded)
            await running.wait()

    # what was presented

    def _wanted(self, order: Order, presented: Presented) -> tuple[Offer, int]:
        """Returns the offer that a payment answers, and the amount. Raises ``PaymentRequired`` where there is none."""
        price = self._price(order)
        for offer in order.terms.offers:
            if (offer.scheme, offer.network) != (presented.scheme, presented.network):
                continue
            amount = x402_wire.atomic(price, offer)
            accepted = presented.accepted
            if accepted is not None:
                ours = x402_wire.requirements(offer, amount)
                differing = [name for name in ("asset", "amount", "payTo") if accepted.get(name) != ours[name]]
                if differing:
                    raise self.challenge(
                        order, "invalid_payment_requirements", f"its {differing[0]} is not the required one"
                    )
            return offer, amount
        raise self.challenge(order, "invalid_network", "no offer has that scheme and network")

    async def _claim(self, payment: Payment) -> Payment:
        """Claim it in the ledger; while that is under way, and while the claim holds, it counts as running."""
        self._active[payment.key] = asyncio.Event()
        claiming = asyncio.get_running_loop().create_task(self.ledger.claim(payment))
        try:
            existing: Payment = await to_its_end(claiming)
        except asyncio.CancelledError:
            self.give_up(payment)
            raise
        except BaseException:
            self.finished(payment)
            raise
        if existing.id != payment.id:
            self.finished(payment)
        return existing

    async def _verified(self, order: Order, payment: Payment) -> Sale:
        """Returns the sale of a payment that is claimed. Gives the claim up where it would not do."""
        try:
            facilitator = await self._facilitators.get(payment.offer.facilitator)
            verdict = await facilitator.verify(payment)
            self._doubt_offer(verdict.reason)
            if not verdict.valid:
                raise self.challenge(order, verdict.reason or "invalid_payload", "the facilitator refused it")
        except BaseException:
            self.give_up(payment)
            raise
        payment = msgspec.structs.replace(payment, payer=verdict.payer)
        return Sale(self, order, payment=payment, timing=self._timing(payment))

    def _timing(self, payment: Payment) -> Timing:
        """Returns when a verified payment is to be settled at the latest, and whether before its upstream is asked."""
        payer = f"{payment.offer.network} {same_payer(payment.offer.network, payment.payer)}"
        is_upfront = payment.offer.flow == "upfront" or self._unsettled[payer] >= self._unsettled_per_payer
        return Timing(settle_by_us(payment, self.settle_within_s), None if is_upfront else payer)

    async def _again(
        self, order: Order, payment: Payment, existing: Payment, recorded: Recorded | None
    ) -> Sale | Recorded:
        """Returns what a payment gets that was presented before, or whose identifier was.

        ``recorded``: the answer that is kept of it.

        Until a sale of it counts as running nothing is awaited, so two retries cannot both come to one.
        """
        if existing.tenant_id != order.tenant_id:
            raise self.challenge(order, "payment_already_used", "it has been used")
        if existing.request_sha256 != order.request_sha256:
            what = "payment" if existing.key == payment.key else "payment identifier"
            raise Conflict(f"This {what} was used for another request.", code="payment_already_used", retryable=False)
        if recorded is not None:
            return recorded
        if existing.state == "credited" and order.tops_up:
            return Sale(self, order)
        if existing.state == "credited" and not existing.spent_on:
            return await self._on_own_credit(order, existing)
        if existing.state == "delivered" and self.answers.is_on_its_way(existing):
            raise pending(existing)
        if existing.state in ("delivered", "credited"):
            raise Conflict(
                f"This payment has been used, and {self.answers.why_gone(existing.id)}.",
                code="payment_already_used",
                retryable=False,
            )
        if existing.state == "failed":
            raise self.challenge(order, existing.reason or "invalid_transaction_state", "it failed")
        raise pending(existing)

    # the balance

    async def _on_balance(self, order: Order) -> Sale:
        """Raises ``PaymentRequired`` where the balance does not cover the worst case, or is below zero."""
        if order.tops_up or (order.is_keyless and order.price_nano_usd > 0):
            raise self.challenge(order)
        hold = await self.balances.reserve(order.tenant_id, order.price_nano_usd)
        if hold is None and (order.price_nano_usd > 0 or (order.is_sold and self._debt(order) > 0)):
            raise self.challenge(order)
        return Sale(self, order, hold=hold)

    async def _on_own_credit(self, order: Order, credited: Payment) -> Sale:
        """Returns the sale of a request whose payment was credited because the request was not served then.

        That its credit is spent on this request is in the ledger before the request runs; where the request is not
        served either, it is taken back. Raises ``PaymentRequired`` where other requests have spent the credit.
        """
        if order.is_keyless and credited.value_nano_usd < order.price_nano_usd:
            raise self.challenge(order, "payment_already_used", "it does not cover what this request costs now")
        self._active[credited.key] = asyncio.Event()
        try:
            hold = await self.balances.reserve(order.tenant_id, order.price_nano_usd)
            if hold is None:
                raise self.challenge(order, "payment_already_used", "other requests have spent its credit")
        except BaseException:
            self.finished(credited)
            raise
        spending = asyncio.get_running_loop().create_task(self.ledger.spend(credited, order.receipt_id))
        try:
            spent: Payment = await to_its_end(spending)
        except BaseException as error:
            hold.settle(0)
            if isinstance(error, asyncio.CancelledError):
                self.behind(self.ledger.spend(credited, ""))
            self.finished(credited)
            raise
        return Sale(self, order, hold=hold, retried=spent)

    async def _owed(self, order: Order) -> Recorded | None:
        """Returns the answer that an earlier payment for this very request has bought, where its client left while it
        paid.

        A retry often comes with a fresh payment, or with none: it must not buy the same thing twice. While the outcome
        of the earlier one is unknown, no second one is accepted: raises ``Unavailable``.
        """
        while (key := self._left.get(order.request)) is not None and (running := self._active.get(key)) is not None:
            await running.wait()
        owed = self.answers.take_owed(order.request, order.answer_key)
        if owed is None:
            for payment in self._undecided.values():
                if request_of(payment) == order.request:
                    raise pending(payment)
        return owed

    # the challenge

    def _price(self, order: Order) -> int:
        """Returns what is asked for, nano-USD: the worst case, and what the balance lacks to be at zero."""
        if order.tops_up or order.is_keyless:
            return order.price_nano_usd
        price = order.price_nano_usd + self._debt(order)
        return max(order.terms.top_up_nano_usd, price) if order.terms.mode == "prepaid" else price

    def _debt(self, order: Order) -> int:
        return max(0, -self.balances.balance(order.tenant_id))

    def challenge(self, order: Order, reason: str = "", why: str = "") -> PaymentRequired:
        """Returns the 402 for an order. ``reason``: x402's word for what is wrong with a payment; ``why``: ours."""
        price = self._price(order)
        dollars = x402_wire.usd(price)
        if not order.terms.offers:
            return self._credit_needed(order)
        if why:
            message = f"The payment was rejected: {why} ({reason}). This request costs {dollars} USD."
        elif order.is_keyless:
            message = f"This request requires a payment of {dollars} USD. Without an API key no change is given."
        elif order.terms.mode == "prepaid":
            message = f"The balance does not cover this request. Top up {dollars} USD: POST /v1/credits."
        else:
            message = f"This request requires a payment of {dollars} USD; what it does not use is credited."
        return x402_wire.challenge(
            order.terms.offers,
            price,
            resource=self._public_url + order.path,
            description=order.description,
            message=message,
            reason=reason,
            extensions=order.extensions,
            # The names that strangers give their payments may be the same.
            takes_identifier=not order.is_keyless,
        )

    def contact_for(self, terms: PaymentTerms) -> str:
        """Returns how a tenant gets more credit, for people; "" where none is set."""
        return terms.contact or self._contact

    def _credit_needed(self, order: Order) -> PaymentRequired:
        """Returns the 402 of a tenant that draws on what its operator adds: no network takes a payment."""
        balance, held = self.balances.balance(order.tenant_id), self.balances.held(order.tenant_id)
        price, free = x402_wire.usd(order.price_nano_usd), x402_wire.usd(balance)
        in_use = f", {x402_wire.usd(held)} of it in use by requests that run" if held else ""
        contact = self.contact_for(order.terms)
        way = f"To get more credit: {contact}" if contact else "Ask the operator of this gateway for more credit."
        return PaymentRequired(
            f"The credit of this account does not cover this request, which may cost {price} USD: the balance is "
            f"{free} USD{in_use}. {way}",
            code="insufficient_quota",
            headers={"cache-control": "no-store"},
            retryable=False,
        )

    # for sales, and for the reconciler

    async def settle(self, payment: Payment) -> Payment:
        """Have a claimed payment settled; gives it back as ``settled``, ``failed`` or ``unknown``."""
        payment = await self.ledger.settling(payment)
        facilitator = await self._facilitators.get(payment.offer.facilitator)

        async def note(transaction: str) -> None:
            nonlocal payment
            payment = await self.ledger.sending(payment, transaction)

        try:
            settlement = await facilitator.settle(payment, note)
        except Exception:
            _logger.exception("a facilitator failed to settle payment %s", payment.id)
            settlement = Settlement("unknown", reason="the facilitator failed")
        if settlement.outcome == "unknown":
            _logger.warning("the outcome of payment %s is unknown: %s", payment.id, settlement.reason)
            self.undecided([payment])
        self._doubt_offer(settlement.reason)
        try:
            return await self.ledger.settled(payment, settlement)
        except TrustGateError:
            # Its outcome is not recorded, so it must not be relied on: the chain will tell.
            self.undecided([payment])
            raise

    def _doubt_offer(self, reason: str) -> None:
        """Where a facilitator has changed its fee payer, this is how it refuses the one that the offer named."""
        if "fee_payer" in reason:
            self._on_doubt()

    def decided(self, payment: Payment) -> None:
        self._undecided.pop(payment.id, None)

    def undecided(self, payments: Iterable[Payment]) -> None:
        """Take note of payments whose outcome is unknown from before."""
        for payment in payments:
            self._undecided[payment.id] = payment

    def leaves(self, payment: Payment) -> None:
        """The client of the request that this pays for hung up."""
        self._left[request_of(payment)] = payment.key

    def waits(self, payer: str) -> None:
        """One more payment of a payer waits for its answer before it is settled."""
        self._unsettled[payer] += 1

    def waits_no_more(self, payer: str) -> None:
        self._unsettled[payer] -= 1
        if self._unsettled[payer] <= 0:
            del self._unsettled[payer]

    def is_active(self, payment: Payment) -> bool:
        """Returns whether a running request has it."""
        return payment.key in self._active

    def give_up(self, payment: Payment) -> None:
        """Release a claim. The release is in the store's queue before any later claim."""
        self.behind(self.ledger.release(payment))
        self.finished(payment)

    def finished(self, payment: Payment) -> None:
        if self._left.get(request_of(payment)) == payment.key:
            del self._left[request_of(payment)]
        event = self._active.pop(payment.key, None)
        if event is not None:
            event.set()

    def behind(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it behind the response; what fails is found again by the reconciler."""
        task = asyncio.get_running_loop().create_task(self._logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _logged(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except TrustGateError as error:
            _logger.warning("the payment ledger lags behind: %s", error.message)

    async def close(self) -> None:
        """Wait for what is behind, for ``_BEHIND_S`` seconds; the reconciler finds what is not done by then."""
        until_s = time.monotonic() + _BEHIND_S
        while self._tasks and (left_s := until_s - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        await end_tasks(self._tasks)
