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

Owns the sale: a request's hold on the balance, its claim on a payment, and that both are given up or used up, once,
however the request ends. What is not settled when the request ends was never charged; what is settled is on the balance
before the first byte leaves, and in the request's receipt (or in one of its own) before the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from trustgate.errors import Conflict, PaymentRequired, TrustGateError, Unavailable
from trustgate.ids import new_id, now_us
from trustgate.payment import x402_wire
from trustgate.payment.balance import BalanceHold, Balances
from trustgate.payment.credit import append_credit, payment_members
from trustgate.payment.interfaces import Facilitator, Settlement
from trustgate.payment.ledger import Ledger
from trustgate.payment.paid_answers import AnswerRecorder, Answers, Recorded
from trustgate.payment.payment_key import payment_key
from trustgate.payment.x402_wire import Presented
from trustgate.receipts.log import Log
from trustgate.types import Entry, Offer, Payment, PaymentTerms

_logger = logging.getLogger("trustgate.payment")

Headers = list[tuple[bytes, bytes]]
#: What distinguishes requests: the tenant, and SHA-256 (hex) of what is asked.
Request = tuple[str, str]

#: Paid answers are for their payer alone.
_PRIVATE: Headers = [(b"cache-control", b"private, no-store")]
_PENDING_RETRY_S = 5


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What one request would have to pay for."""

    tenant_id: str
    key_id: str
    terms: PaymentTerms
    receipt_id: str
    #: SHA-256 (hex) of what is paid for: endpoint and body.
    request_sha256: str
    #: Path of the endpoint, and what it does, for the challenge.
    path: str
    description: str
    #: The worst case.
    price_nano_usd: int
    presented: Presented | None
    #: It buys nothing but balance, so the balance is not drawn on.
    tops_up: bool = False
    #: The endpoint is one that costs something. One whose price is 0 is refused while the balance is below zero.
    is_sold: bool = True
    #: Its caller has no key: it is paid for by itself, and neither draws on the tenant's balance nor adds to it.
    is_keyless: bool = False
    #: Further extensions (x402 version 2) of the challenge, by name.
    extensions: dict[str, Any] = {}

    @property
    def request(self) -> Request:
        return self.tenant_id, self.request_sha256


def request_of(payment: Payment) -> Request:
    return payment.tenant_id, payment.request_sha256


class FindFacilitator(Protocol):
    async def get(self, name: str) -> Facilitator: ...


class Cashier:
    def __init__(
        self, ledger: Ledger, balances: Balances, log: Log, facilitators: FindFacilitator, *, public_url: str
    ) -> None:
        """``public_url``: what clients call the gateway, without a slash at its end."""
        self.ledger = ledger
        self.balances = balances
        self.log = log
        self.answers = Answers()
        self._facilitators = facilitators
        self._public_url = public_url
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
        # Who asks the same without a key may be somebody else.
        owed = None if order.is_keyless else await self._owed(order)
        if owed is not None:
            return owed
        if order.presented is None:
            return self._on_balance(order)
        offer, amount = self._wanted(order, order.presented)
        payment = _payment(order, order.presented, offer, amount, self._public_url)
        while True:
            running = self._active.get(payment.key)
            if running is None:
                existing = await self._claim(payment)
                if existing.id == payment.id:
                    return await self._verified(order, payment)
                running = self._active.get(existing.key)
                if running is None:
                    return await self._again(order, payment, existing)
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
        """The sale of a payment that is claimed. Gives the claim up where it would not do."""
        try:
            facilitator = await self._facilitators.get(payment.offer.facilitator)
            verdict = await facilitator.verify(payment)
            if not verdict.valid:
                raise self.challenge(order, verdict.reason or "invalid_payload", "the facilitator refused it")
        except BaseException:
            self.give_up(payment)
            raise
        return Sale(self, order, payment=msgspec.structs.replace(payment, payer=verdict.payer))

    async def _again(self, order: Order, payment: Payment, existing: Payment) -> Sale | Recorded:
        """Returns what a payment gets that was presented before, or whose identifier was.

        Until a sale of it counts as running nothing is awaited, so two retries cannot both come to one.
        """
        if existing.tenant_id != order.tenant_id:
            raise self.challenge(order, "payment_already_used", "it has been used")
        if existing.request_sha256 != order.request_sha256:
            what = "payment" if existing.key == payment.key else "payment identifier"
            raise Conflict(f"This {what} was used for another request.", code="payment_already_used", retryable=False)
        recorded = self.answers.find(existing.id)
        if recorded is not None:
            return recorded
        if existing.state == "credited" and order.tops_up:
            return Sale(self, order)
        if existing.state == "credited" and not existing.spent_on:
            return await self._on_own_credit(order, existing)
        if existing.state in ("delivered", "credited"):
            raise Conflict(
                "This payment has been used, and its answer is no longer kept.",
                code="payment_already_used",
                retryable=False,
            )
        if existing.state == "failed":
            raise self.challenge(order, existing.reason or "invalid_transaction_state", "it failed")
        raise _pending(existing)

    # the balance

    def _on_balance(self, order: Order) -> Sale:
        """Raises ``PaymentRequired`` where the balance does not cover the worst case, or is below zero."""
        if order.tops_up or (order.is_keyless and order.price_nano_usd > 0):
            raise self.challenge(order)
        hold = self.balances.hold(order.tenant_id, order.price_nano_usd)
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
        hold = self.balances.hold(order.tenant_id, order.price_nano_usd)
        if hold is None:
            raise self.challenge(order, "payment_already_used", "other requests have spent its credit")
        self._active[credited.key] = asyncio.Event()
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
        owed = self.answers.take_owed(order.request)
        if owed is None:
            for payment in self._undecided.values():
                if request_of(payment) == order.request:
                    raise _pending(payment)
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
        try:
            return await self.ledger.settled(payment, settlement)
        except TrustGateError:
            # Its outcome is not recorded, so it must not be relied on: the chain will tell.
            self.undecided([payment])
            raise

    def decided(self, payment: Payment) -> None:
        self._undecided.pop(payment.id, None)

    def undecided(self, payments: Iterable[Payment]) -> None:
        """Take note of payments whose outcome is unknown from before."""
        for payment in payments:
            self._undecided[payment.id] = payment

    def leaves(self, payment: Payment) -> None:
        """The client of the request that this pays for hung up."""
        self._left[request_of(payment)] = payment.key

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
        """Wait for what is behind."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class Sale:
    """One request's dealings with money; an asynchronous context manager around all that may end it."""

    __slots__ = ("_cashier", "_closed", "_has_left", "_hold", "_order", "_retried", "_settling", "payment", "recorder")

    def __init__(
        self,
        cashier: Cashier,
        order: Order,
        *,
        payment: Payment | None = None,
        hold: BalanceHold | None = None,
        retried: Payment | None = None,
    ) -> None:
        """``retried``: a payment that was credited, and whose credit (in ``hold``) pays for this request."""
        self._cashier = cashier
        self._order = order
        self._hold = hold
        self._settling: asyncio.Task[None] | None = None
        self._closed = False
        #: Its client hung up while it paid.
        self._has_left = False
        #: The payment; None where the balance pays.
        self.payment = payment
        self._retried = retried
        #: Takes the answer down for a retry with the same payment.
        self.recorder = AnswerRecorder() if payment is not None or retried is not None else None

    @property
    def is_settled(self) -> bool:
        return self.payment is not None and self.payment.state == "settled"

    @property
    def headers(self) -> Headers:
        """What the answer has to have among its headers."""
        payment = self.payment or self._retried
        return _PRIVATE if payment is None else [*_PRIVATE, *x402_wire.settled_headers(payment)]

    async def settle(self) -> Headers:
        """Collect, before the first byte leaves; gives ``headers``.

        Raises ``PaymentRequired`` where the payment failed, ``Unavailable`` where its outcome is unknown. A caller that
        is cancelled meanwhile learns of it after the settling has ended, for better or worse.
        """
        if self.payment is not None:
            if self._settling is None:
                self._settling = asyncio.get_running_loop().create_task(self._settle())
            await to_its_end(self._settling, self._leave)
        return self.headers

    def _leave(self) -> None:
        assert self.payment is not None
        self._has_left = True
        self._cashier.leaves(self.payment)

    async def _settle(self) -> None:
        assert self.payment is not None
        order, balances = self._order, self._cashier.balances
        self.payment = payment = await self._cashier.settle(self.payment)
        if payment.state == "failed":
            raise self._cashier.challenge(order, payment.reason or "settlement_failed", "it could not be settled")
        if payment.state != "settled":
            raise _pending(payment)
        balances.settled(order.tenant_id, payment.value_nano_usd)
        if not order.tops_up:
            self._hold = balances.hold_at_least(order.tenant_id, order.price_nano_usd)

    def close(self, charged_nano_usd: int, *, delivered: bool = True) -> dict[str, Any]:
        """The request has ended and its receipt is being written: gives the receipt's members that tell of money.

        ``delivered``: whether the client got what it paid for. Where it did not, its payment ends as credited, and
        presented again it is served once against that credit.

        Without a payment that settled or a balance that was held nothing is charged, whatever was used.
        """
        assert not self._closed, "a sale is closed once"
        self._closed = True
        settled = self.payment if self.is_settled else None
        paying = settled or self._retried
        if self._order.is_keyless and delivered and paying is not None:
            charged_nano_usd = paying.value_nano_usd
        if self._hold is None and self.payment is not None:
            charged_nano_usd = 0
        elif self._hold is None:
            self._cashier.balances.change(self._order.tenant_id, -charged_nano_usd)
        else:
            self._hold.settle(charged_nano_usd)
        if settled is not None:
            self._cashier.balances.recorded(settled.tenant_id, settled.value_nano_usd)
            self._cashier.behind(self._cashier.ledger.end(settled, "delivered" if delivered else "credited"))
        return {
            "charged_nano_usd": charged_nano_usd,
            "credited_nano_usd": 0 if settled is None else settled.value_nano_usd,
            **payment_members(settled),
        }

    def credit(self) -> Entry:
        """Write the receipt of a payment that settled and was for nothing but the balance, or not delivered."""
        assert self.payment is not None
        assert self.is_settled
        assert not self._closed
        self._closed = True
        self._cashier.balances.recorded(self.payment.tenant_id, self.payment.value_nano_usd)
        entry = append_credit(
            self._cashier.log,
            self.payment.tenant_id,
            key_id=self.payment.key_id,
            credited_nano_usd=self.payment.value_nano_usd,
            payment=self.payment,
        )
        self._cashier.behind(self._cashier.ledger.end(self.payment, "credited"))
        return entry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.payment is None:
            if self._hold is not None:
                self._hold.settle(0)
            if self._retried is not None:
                self._end_retry(self._retried)
            return
        if self._settling is not None and not self._settling.done():
            await to_its_end(self._settling)
        if self.is_settled and not self._closed:
            self.credit()
        if self._hold is not None:
            self._hold.settle(0)
        recorded = self.recorder.recorded() if self.recorder is not None and self.is_settled else None
        if recorded is not None:
            self._cashier.answers.keep(self.payment.id, recorded)
            if self._has_left and not self._order.is_keyless:
                self._cashier.answers.owe(self._order.request, self.payment.id)
        if self.payment.state == "reserved":
            self._cashier.give_up(self.payment)
        else:
            # What is behind the response is in the store's queue already, before whatever a waiting retry asks.
            self._cashier.finished(self.payment)

    def _end_retry(self, credited: Payment) -> None:
        """Keep the answer that the payment's credit has bought; where there is none, its credit is unspent again."""
        recorded = None if self.recorder is None else self.recorder.recorded()
        if recorded is not None and self._closed:
            self._cashier.answers.keep(credited.id, recorded)
        elif not self._closed:
            self._cashier.behind(self._cashier.ledger.spend(credited, ""))
        self._cashier.finished(credited)


async def to_its_end(task: asyncio.Task[Any], on_cancel: Callable[[], None] = lambda: None) -> Any:
    """Returns the result of a task that must not be interrupted: a caller that is cancelled is so once the task has
    ended.

    ``on_cancel`` is called at once.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
            on_cancel()
        except Exception:  # noqa: BLE001 - told below, once
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


def _payment(order: Order, presented: Presented, offer: Offer, amount: int, public_url: str) -> Payment:
    at_us = now_us()
    ours = (
        x402_wire.requirements(offer, amount)
        if presented.x402_version == 2
        else x402_wire.requirements_v1(offer, amount, public_url + order.path, order.description)
    )
    return Payment(
        id=new_id("pay", at_us),
        key=payment_key(presented.x402_version, offer.scheme, offer.network, offer.asset, presented.payload),
        tenant_id=order.tenant_id,
        key_id=order.key_id,
        receipt_id=order.receipt_id,
        request_sha256=order.request_sha256,
        identifier="" if order.is_keyless else presented.identifier,
        x402_version=presented.x402_version,
        offer=offer,
        amount=str(amount),
        value_nano_usd=x402_wire.worth_nano_usd(amount, offer),
        payload=presented.raw,
        requirements=msgspec.json.encode(ours),
        created_us=at_us,
        updated_us=at_us,
    )


def _pending(payment: Payment) -> Unavailable:
    transaction = f"transaction {payment.transaction} on {payment.offer.network}" if payment.transaction else ""
    return Unavailable(
        f"Payment {payment.id} for this request{' (' + transaction + ')' if transaction else ''} is being looked up: "
        "whether it went through is not known yet. Do not pay again; try again with the same payment. "
        f"See how it stands: GET /v1/payments/{payment.id}",
        code="payment_pending",
        headers={"retry-after": str(_PENDING_RETRY_S)},
        retryable=True,
    )
