"""From conditions to deliveries: what has begun is told once, what is over is told once, across restarts.

Owns which conditions are open. They come from two sides: parts publish notices (``observe.notices``), and ``Watch``
looks again and again at what holds; a condition that it has found and finds no more is over. One that is not found
for a moment (an upstream that comes and goes) is over only when it stays away for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from trustgate.errors import TrustGateError
from trustgate.ids import now_us
from trustgate.notify.messages import message_body
from trustgate.notify.queue import DeliveryQueue, NotificationStore, attempt_delivery, new_delivery
from trustgate.notify.subscribers import Subscribers
from trustgate.notify.webhook import AttemptOutcome
from trustgate.observe.notices import Notice, Notices
from trustgate.settings import NotifySettings
from trustgate.store import NoticeDelivery, NotificationChange, Notifications, OpenCondition
from trustgate.types import Subscriber

_logger = logging.getLogger("trustgate.notify")

#: Conditions that are open at the same time; what comes on top is told when there is room.
_CONDITIONS_MOST = 5_000
#: Conditions that change in one transaction: where very many do, receipts are stored in between.
_AT_ONCE = 100
_FIRST_LOOK_S = 2.0


class Watch(Protocol):
    """Looks at what holds now."""

    async def firing(self, is_open: Callable[[str], bool]) -> Sequence[Notice]:
        """Returns a notice of each condition that holds. ``is_open``: whether one, by its identity, was told."""
        ...


class Notifier:
    def __init__(
        self,
        store: NotificationStore,
        subscribers: Subscribers,
        notices: Notices,
        watch: Watch,
        *,
        gateway: str,
        settings: Callable[[], NotifySettings],
    ) -> None:
        """``gateway``: its public address, which every message names. ``settings``: as they hold now."""
        self._store = store
        self._subscribers = subscribers
        self._published = notices.subscribe()
        self._watch = watch
        self._gateway = gateway
        self._settings = settings
        self._open: dict[str, Notice] = {}
        #: Since when a condition has not been found, in the loop's time.
        self._missing: dict[str, float] = {}
        self._queue = DeliveryQueue(store, subscribers, self._attempt)
        self._dropped = 0
        self._changing = asyncio.Lock()

    def deliveries(self) -> list[NoticeDelivery]:
        """Returns what waits and what of the past is kept, the oldest first."""
        return self._queue.deliveries()

    def skip_published(self) -> None:
        """Leave what was published until now to the process that has sent it."""
        self._published.take_now()

    async def run(self) -> None:
        """For ever: tell what is published and what is found, and deliver it."""
        try:
            kept = await self._store.load_notifications()
        except (TrustGateError, msgspec.ValidationError) as error:
            _logger.error("what was kept of notices cannot be read (%s): they begin anew", error)
            kept = Notifications()
        self._open = {each.identity: each for condition in kept.conditions for each in _read(condition)}
        self._queue.load(kept.deliveries)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run())
            tasks.create_task(self._take_for_ever())
            tasks.create_task(self._look_for_ever())

    async def _take_for_ever(self) -> None:
        while True:
            await self.take_published()

    async def take_published(self) -> None:
        """Wait until something is published, and tell all that is."""
        notices = await self._published.take()
        if self._published.dropped > self._dropped:
            _logger.warning("%d notices were dropped", self._published.dropped - self._dropped)
            self._dropped = self._published.dropped
        await self._change(
            [each for each in notices if each.state == "firing"],
            [each.identity for each in notices if each.state == "resolved"],
        )

    async def _look_for_ever(self) -> None:
        await asyncio.sleep(min(_FIRST_LOOK_S, self._settings().check_every_s))
        while True:
            try:
                await self.look()
            except TrustGateError as error:
                _logger.warning("conditions could not be looked at: %s", error.message)
            except Exception:  # a fault in looking must not take the server down
                _logger.exception("internal error in looking at conditions")
            await asyncio.sleep(self._settings().check_every_s)

    async def look(self) -> None:
        """Look once at what holds, and tell what has changed."""
        found = {
            each.identity: replace(each, is_watched=True) for each in await self._watch.firing(self._open.__contains__)
        }
        at_s, at_us = asyncio.get_running_loop().time(), now_us()
        over = []
        for identity, notice in self._open.items():
            if not notice.is_watched:
                if notice.until_us is not None and notice.until_us <= at_us:
                    over.append(identity)
            elif identity in found:
                self._missing.pop(identity, None)
            elif at_s - self._missing.setdefault(identity, at_s) >= self._settings().resolve_after_s:
                over.append(identity)
        await self._change(found.values(), over)

    async def _change(self, firing: Iterable[Notice], over: Iterable[str]) -> None:
        """Open and close conditions, with the deliveries that tell of it, all of them durable before they are sent."""
        async with self._changing:
            opened, closed = [], []
            for notice in firing:
                if notice.identity not in self._open and len(self._open) < _CONDITIONS_MOST:
                    self._open[notice.identity] = notice
                    opened.append(notice)
            for identity in over:
                was = self._open.pop(identity, None)
                self._missing.pop(identity, None)
                if was is not None:
                    closed.append(was)
            # Of steps that end together the last makes a notice, and none where a further step of the same goes on.
            go_on = {(each.kind, each.subject) for each in self._open.values()} if closed else set()
            last = {(each.kind, each.subject): each.identity for each in closed}
            told = {identity for what, identity in last.items() if what not in go_on}
            for start in range(0, len(opened), _AT_ONCE):
                some = opened[start : start + _AT_ONCE]
                await self._queue.add(self._deliveries(some), NotificationChange(conditions=tuple(map(_kept, some))))
            for start in range(0, len(closed), _AT_ONCE):
                some = closed[start : start + _AT_ONCE]
                resolved = [_resolved(each) for each in some if each.identity in told]
                over_now = tuple(each.identity for each in some)
                await self._queue.add(self._deliveries(resolved), NotificationChange(over=over_now))

    def _deliveries(self, notices: Iterable[Notice]) -> list[NoticeDelivery]:
        return [delivery for notice in notices for delivery in self._make(notice)]

    def _make(self, notice: Notice) -> list[NoticeDelivery]:
        body = message_body(notice, self._gateway)
        interested = self._subscribers.interested(notice.kind)
        return [new_delivery(each, body, notice.message) for each in interested]

    async def _attempt(self, subscriber: Subscriber, delivery: NoticeDelivery) -> AttemptOutcome:
        return await attempt_delivery(subscriber, delivery.id, delivery.body, self._settings().timeout_s)


def _kept(notice: Notice) -> OpenCondition:
    return OpenCondition(identity=notice.identity, notice=msgspec.json.encode(notice).decode())


def _resolved(was: Notice) -> Notice:
    return replace(was, state="resolved", message=f"Over: {was.message}", at_us=now_us())


def _read(condition: OpenCondition) -> list[Notice]:
    """Returns the notice of a condition; nothing for one that a later version wrote."""
    try:
        return [msgspec.json.decode(condition.notice, type=Notice)]
    except msgspec.DecodeError:
        return []
