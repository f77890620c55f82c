"""One request's dealings with money: its hold on the balance, its claim on a payment, and how both end.

Owns that both are given up or used up, once, however the request ends. What is not settled when the request ends was
never charged; what is settled is on the balance before the first byte leaves, and in the request's receipt (or in one
of its own) before the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self

from trustgate.errors import PaymentRequired
from trustgate.payment import x402_wire
from trustgate.payment.balance import BalanceHold, Balances
from trustgate.payment.credit import append_credit, payment_members
from trustgate.payment.ledger import Ledger
from trustgate.payment.order import Order, pending
from trustgate.payment.paid_answers import AnswerRecorder, Answers
from trustgate.receipts.log import Log
from trustgate.types import Entry, Payment

Headers = list[tuple[bytes, bytes]]

#: Paid answers are for their payer alone.
_PRIVATE: Headers = [(b"cache-control", b"private, no-store")]


class Till(Protocol):
    """What a sale asks of the cashier that made it."""

    ledger: Ledger
    balances: Balances
    log: Log
    answers: Answers

    async def settle(self, payment: Payment) -> Payment: ...
    def challenge(self, order: Order, reason: str = "", why: str = "") -> PaymentRequired: ...
    def leaves(self, payment: Payment) -> None: ...
    def give_up(self, payment: Payment) -> None: ...
    def finished(self, payment: Payment) -> None: ...
    def behind(self, work: Coroutine[Any, Any, Any]) -> None: ...


class Sale:
    """One request's dealings with money; an asynchronous context manager around all that may end it."""

    __slots__ = ("_cashier", "_closed", "_has_left", "_hold", "_order", "_retried", "_settling", "payment", "recorder")

    def __init__(
        self,
        cashier: Till,
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
            raise pending(payment)
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
