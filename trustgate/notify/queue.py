"""The deliveries that wait, and those that are done: each notice for each subscriber, on the disk before it is sent.

Owns the retries and the bounds. A delivery that fails is tried again after ``BACKOFF_S``, about two days in all, under
the same id; one attempt at a time goes to a subscriber, so that a receiver that hangs delays no other. A process that
is killed sends again whatever it had not noted as delivered: at least once. Nothing here is on the path of a request.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from trustgate.errors import TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id, now_us
from trustgate.notify.program import run_program
from trustgate.notify.subscribers import Subscribers
from trustgate.notify.webhook import AttemptOutcome, post
from trustgate.store import NoticeDelivery, NotificationChange, Notifications
from trustgate.types import Subscriber

_logger = logging.getLogger("trustgate.notify")

#: Waits after the first, second … failed attempt, seconds; after the last the delivery has failed.
BACKOFF_S = (1, 10, 60, 300, 1800, 7200, 21_600, 43_200, 86_400)
#: Of one subscriber: what may wait, as many as conditions may be open (beyond it the oldest are given up), and what is
#: kept of those that are done.
WAITING_MOST = 5_000
DONE_KEPT = 20
_JITTER = 0.1
_LOOK_AT_LEAST_S = 60.0


class NotificationStore(Protocol):
    """What of the store is needed here."""

    async def load_notifications(self) -> Notifications: ...

    async def change_notifications(self, change: NotificationChange) -> None: ...


Attempt = Callable[[Subscriber, NoticeDelivery], Awaitable[AttemptOutcome]]


async def attempt_delivery(subscriber: Subscriber, message_id: str, body: str, timeout_s: float) -> AttemptOutcome:
    """Send a message once, the way the subscriber has it."""
    send = post if subscriber.url else run_program
    return await send(subscriber, message_id, body.encode(), timeout_s)


class DeliveryQueue:
    """The deliveries of all subscribers. ``load`` first, then ``run``."""

    def __init__(self, store: NotificationStore, subscribers: Subscribers, attempt: Attempt) -> None:
        self._store = store
        self._subscribers = subscribers
        self._attempt = attempt
        #: By subscriber, in the order in which they were made.
        self._waiting: defaultdict[str, dict[str, NoticeDelivery]] = defaultdict(dict)
        self._done: defaultdict[str, dict[str, NoticeDelivery]] = defaultdict(dict)
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def load(self, deliveries: Iterable[NoticeDelivery]) -> None:
        """Go on with what an earlier process has left."""
        latest_us = now_us() + BACKOFF_S[-1] * MICROSECONDS_PER_SECOND
        for delivery in deliveries:
            place = self._waiting if delivery.state == "waiting" else self._done
            # A clock that ran ahead then must not make it wait for years.
            place[delivery.subscriber_id][delivery.id] = replace(delivery, next_us=min(delivery.next_us, latest_us))
        self._changed.set()

    def deliveries(self) -> list[NoticeDelivery]:
        """Returns what waits and what of the past is kept, the oldest first."""
        places = (*self._waiting.values(), *self._done.values())
        return sorted((each for place in places for each in place.values()), key=lambda each: each.created_us)

    async def add(self, deliveries: Sequence[NoticeDelivery], change: NotificationChange) -> None:
        """Put new deliveries into the queue, once they are durable together with what else changes."""
        await self._keep(deliveries, change)
        for delivery in deliveries:
            self._waiting[delivery.subscriber_id][delivery.id] = delivery
        self._changed.set()

    def _trim(self) -> list[str]:
        """Forget what is done and old, what is too much, and what is of subscribers that are gone; gives the ids."""
        gone: list[str] = []
        for place, keep in ((self._waiting, WAITING_MOST), (self._done, DONE_KEPT)):
            for subscriber_id in list(place):
                subscriber = self._subscribers.get(subscriber_id)
                held = place[subscriber_id]
                surplus = list(held)[: max(0, len(held) - keep) if subscriber is not None else len(held)]
                if surplus and subscriber is not None and place is self._waiting:
                    _logger.error("%d notices for %s are given up: too many wait", len(surplus), subscriber.name)
                for delivery_id in surplus:
                    del held[delivery_id]
                gone += surplus
                if not held:
                    del place[subscriber_id]
        return gone

    async def run(self) -> None:
        """For ever: make every attempt when it is due."""
        try:
            while True:
                self._changed.clear()
                self._begin_due()
                await _wait_for(self._changed, self._next_wait_s())
        finally:
            for task in self._at_work.values():
                task.cancel()
            await asyncio.gather(*self._at_work.values(), return_exceptions=True)

    def _begin_due(self) -> None:
        at_us = now_us()
        for subscriber_id, waiting in self._waiting.items():
            subscriber = self._subscribers.get(subscriber_id)
            if subscriber is None or subscriber_id in self._at_work:
                continue
            due = min(waiting.values(), key=lambda each: each.next_us, default=None)
            if due is not None and due.next_us <= at_us:
                self._at_work[subscriber_id] = asyncio.ensure_future(self._deliver(subscriber, due))

    def _next_wait_s(self) -> float:
        idle = [w for subscriber_id, w in self._waiting.items() if subscriber_id not in self._at_work]
        next_us = min((each.next_us for waiting in idle for each in waiting.values()), default=None)
        if next_us is None:
            return _LOOK_AT_LEAST_S
        return min(_LOOK_AT_LEAST_S, max(0.01, (next_us - now_us()) / MICROSECONDS_PER_SECOND))

    async def _deliver(self, subscriber: Subscriber, delivery: NoticeDelivery) -> None:
        try:
            try:
                outcome = await self._attempt(subscriber, delivery)
            except Exception:  # a fault of ours must not end the deliveries of others
                _logger.exception("internal error in a delivery")
                outcome = AttemptOutcome(False, "internal error; it is in the server's log")
            after = _after(delivery, outcome)
            self._waiting[subscriber.id].pop(delivery.id, None)
            place = self._waiting if after.state == "waiting" else self._done
            place[subscriber.id][after.id] = after
            if after.state == "failed":
                _logger.error("the notice %s was not delivered to %s: %s", after.id, subscriber.name, after.detail)
            await self._keep((after,), NotificationChange())
        finally:
            self._at_work.pop(subscriber.id, None)
            self._changed.set()

    async def _keep(self, deliveries: Sequence[NoticeDelivery], change: NotificationChange) -> None:
        """Make deliveries durable, with what else changes. Where the store fails they go on in memory alone."""
        change = replace(change, deliveries=tuple(deliveries), forgotten=tuple(self._trim()))
        try:
            await self._store.change_notifications(change)
        except TrustGateError as error:
            _logger.warning("notices are kept in memory alone: %s", error.message)


def new_delivery(subscriber: Subscriber, body: str, message: str) -> NoticeDelivery:
    """Returns a delivery that is due at once."""
    at_us = now_us()
    return NoticeDelivery(
        id=new_id("msg", at_us),
        subscriber_id=subscriber.id,
        body=body,
        message=message,
        created_us=at_us,
        next_us=at_us,
    )


def _after(delivery: NoticeDelivery, outcome: AttemptOutcome) -> NoticeDelivery:
    """Returns the delivery after one more attempt."""
    attempts, at_us = delivery.attempts + 1, now_us()
    changed = replace(delivery, attempts=attempts, detail=outcome.detail, updated_us=at_us)
    if outcome.ok:
        return replace(changed, state="delivered")
    if outcome.is_final or attempts > len(BACKOFF_S):
        return replace(changed, state="failed")
    wait_s = BACKOFF_S[attempts - 1] * (1 + _JITTER * random.random())  # noqa: S311 - no secret
    return replace(changed, next_us=at_us + int(wait_s * MICROSECONDS_PER_SECOND))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
