"""One request's dealings with money: its hold on the balance, its claim on a payment, and how both end.

Owns that both are given up or used up, once, however the request ends. What is not settled when the request ends was
never charged; what is settled is on the balance before the first byte leaves, and in the request's receipt (or in one
of its own) before the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from trustgate.errors import PaymentRequired, TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.payment import x402_wire
from trustgate.payment.balance import BalanceHold, Balances
from trustgate.payment.credit import append_credit, payment_members
from trustgate.payment.ledger import Ledger
from trustgate.payment.order import Order, pending
from trustgate.payment.paid_answers import AnswerRecorder, Answers
from trustgate.receipts.log import Log
from trustgate.types import Entry, Payment

_logger = logging.getLogger("trustgate.payment")

Headers = list[tuple[bytes, bytes]]

#: Paid answers are for their payer alone.
_PRIVATE: Headers = [(b"cache-control", b"private, no-store")]


class Timing(NamedTuple):
    """When a payment is settled."""

    #: At the latest, microseconds UTC: it would be void soon after.
    by_us: int
    #: Who pays; None: it is settled before the upstream is asked, and never waits.
    waiting_payer: str | None


class Till(Protocol):
    """What a sale asks of the cashier that made it."""

    ledger: Ledger
    balances: Balances
    log: Log
    answers: Answers

    async def settle(self, payment: Payment) -> Payment: ...
    def challenge(self, order: Order, reason: str = "", why: str = "") -> PaymentRequired: ...
    def leaves(self, payment: Payment) -> None: ...
    def waits(self, payer: str) -> None: ...
    def waits_no_more(self, payer: str) -> None: ...
    def give_up(self, payment: Payment) -> None: ...
    def finished(self, payment: Payment) -> None: ...
    def behind(self, work: Coroutine[Any, Any, Any]) -> None: ...


class Sale:
    """One request's dealings with money; an asynchronous context manager around all that may end it."""

    __slots__ = (
        "_cashier",
        "_closed",
        "_has_left",
        "_hold",
        "_is_awaited",
        "_is_recorded",
        "_order",
        "_retried",
        "_settling",
        "_timer",
        "_timing",
        "_waiting",
        "charging",
        "failure",
        "on_unpaid",
        "payment",
        "recorder",
    )

    def __init__(
        self,
        cashier: Till,
        order: Order,
        *,
        payment: Payment | None = None,
        hold: BalanceHold | None = None,
        retried: Payment | None = None,
        timing: Timing | None = None,
    ) -> None:
        """``retried``: a payment that was credited, and whose credit (in ``hold``) pays for this request.

        ``timing``: of ``payment``. None: it is settled when ``settle`` is called, and not before.
        """
        self._cashier = cashier
        self._order = order
        self._hold = hold
        self._settling: asyncio.Task[None] | None = None
        self._timing = timing
        self._timer: asyncio.TimerHandle | None = None
        #: The payer among whose unsettled payments this one counts; it does from here on, so that none slips past.
        self._waiting = None if timing is None else timing.waiting_payer
        if self._waiting is not None:
            cashier.waits(self._waiting)
        self._closed = False
        #: What the receipt of its request settles; None: nothing, or it is settled.
        self.charging: BalanceHold | None = None
        #: Its request waits for the settling, and learns by itself how it ends.
        self._is_awaited = False
        #: Is called where the payment, settled before there was an answer, turns out not to pay: the answer is not
        #: worth waiting for. ``failure`` is then the reason.
        self.on_unpaid: Callable[[], None] | None = None
        self.failure: TrustGateError | None = None
        #: The request's receipt, or one of its own, records the payment.
        self._is_recorded = False
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

    @property
    def is_upfront(self) -> bool:
        """Whether it is settled before the upstream is asked."""
        return self.payment is not None and self._timing is not None and self._timing.waiting_payer is None

    async def settle(self) -> Headers:
        """Collect, before the first byte leaves; gives ``headers``.

        Raises ``PaymentRequired`` where the payment failed, ``Unavailable`` where its outcome is unknown. A caller that
        is cancelled meanwhile learns of it after the settling has ended, for better or worse.
        """
        if self.payment is not None:
            self._is_awaited = True
            await to_its_end(self._begin_settling(), self._leave)
        return self.headers

    def _begin_settling(self) -> asyncio.Task[None]:
        """Returns the settling that is under way, or a new one. Also called by the timer, before there is an answer."""
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle())
            self._settling.add_done_callback(self._has_settled)
        return self._settling

    def _has_settled(self, settling: asyncio.Task[None]) -> None:
        """Where the timer began it, nothing else may ask how it ended; work that is paid for no more is ended."""
        error = None if settling.cancelled() else settling.exception()
        if isinstance(error, TrustGateError) and not self._is_awaited and self.on_unpaid is not None:
            self.failure = error
            self.on_unpaid()

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._cashier.waits_no_more(waiting)

    def _leave(self) -> None:
        assert self.payment is not None
        self._has_left = True
        self._cashier.leaves(self.payment)

    async def _settle(self) -> None:
        assert self.payment is not None
        order, balances = self._order, self._cashier.balances
        self.payment = payment = await self._cashier.settle(self.payment)
        self._wait_no_more()
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
            self.charging = self._cashier.balances.charge_unheld(self._order.tenant_id, charged_nano_usd)
        else:
            self.charging = self._hold
            charged_nano_usd = self._hold.charge(charged_nano_usd)
        if settled is not None:
            self._is_recorded = True
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
        assert not self._is_recorded
        self._closed = self._is_recorded = True
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
        if self._timing is not None:
            delay_s = max(0.0, (self._timing.by_us - now_us()) / MICROSECONDS_PER_SECOND)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._begin_settling)
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
        self._wait_no_more()
        self.on_unpaid = None
        try:
            if self._settling is not None and not self._settling.done():
                await to_its_end(self._settling)
        except TrustGateError:
            _logger.debug("payment %s was not settled when its request had ended", self.payment.id)
        finally:
            self._end()

    def _end(self) -> None:
        """Give up, or use up, what the request had, now that nothing is under way any more."""
        assert self.payment is not None
        if self.is_settled and not self._is_recorded:
            # It settled after the request's receipt was written, or the request has none.
            self.credit()
        if self._hold is not None:
            self._hold.settle(0)
        is_kept = self.is_settled and self._keep_answer(self.payment)
        if is_kept and self._has_left and not self._order.is_keyless:
            self._cashier.answers.owe(self._order.request, self.payment.id)
        if self.payment.state == "reserved":
            self._cashier.give_up(self.payment)
        else:
            # What is behind the response is in the store's queue already, before whatever a waiting retry asks.
            self._cashier.finished(self.payment)

    def _keep_answer(self, payment: Payment) -> bool:
        """Keep the answer for a retry with the same payment. Returns whether there is one that can be kept."""
        if self.recorder is None:
            return False
        answers, recorded = self._cashier.answers, self.recorder.recorded()
        if recorded is not None:
            answers.keep(payment.id, recorded)
        elif self.recorder.is_too_large:
            answers.keep_none(payment.id)
        else:
            return False
        self._cashier.behind(answers.write(payment.id, self._order.answer_key))
        return recorded is not None

    def _end_retry(self, credited: Payment) -> None:
        """Keep the answer that the payment's credit has bought; where there is none, its credit is unspent again."""
        if self._closed:
            self._keep_answer(credited)
        else:
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
        raise cancelled
    return task.result()
