"""Notices: what happens in a running gateway that people should hear of, on its way from the parts that see it.

Owns the form of a notice and the way from those who publish to those who subscribe. Publishing only appends to a
bounded queue, so it may happen anywhere on the event loop, the path of a request included. Who is told, and how, is
decided by the room ``notify``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal, get_args

import msgspec

#: What a notice is about. What people subscribe to.
Kind = Literal["budget", "limit", "key", "credit", "upstream", "anchor", "certificate", "disk", "payment", "log"]

KINDS: tuple[Kind, ...] = get_args(Kind)

#: Notices that wait for one subscriber; what comes on top is dropped and counted.
QUEUE_MOST = 5_000


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that has begun to hold (``firing``), or is over (``resolved``). Holds no secret, no prompt, no key.

    A condition is told once when it begins and once when it is over, however often it is published meanwhile and
    across restarts: a publisher need not remember what it has published, and publishes again after a restart.
    """

    kind: Kind
    #: Whom or what it concerns, by id or name: a tenant, a key, an upstream's host, a file's name.
    subject: str
    #: One sentence for people, which names what to do where something is to be done.
    message: str
    #: Identifies the condition: two steps of one budget in one window differ in it, their repetition does not.
    #: "": there is one condition for each kind and subject.
    condition: str = ""
    state: Literal["firing", "resolved"] = "firing"
    #: Members for programs: ids, integers with their unit last in the name.
    data: dict[str, str | int | bool | None] = {}
    #: Microseconds since the epoch.
    at_us: int
    #: When the condition is over by itself, as a budget's window is; None: when its ``resolved`` is published.
    until_us: int | None = None
    #: It was found by looking (``notify.conditions``), and is over when it is found no more; set by the notifier.
    is_watched: bool = False

    @property
    def identity(self) -> str:
        """Returns what the notices of one condition have in common."""
        return f"{self.kind}:{self.condition or self.subject}"


class Subscription:
    """Notices on their way to one subscriber, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[Notice] = deque()
        self._filled = asyncio.Event()
        #: How many found the queue full.
        self.dropped = 0

    def put(self, notice: Notice) -> None:
        """Append a notice, or count it as dropped where ``QUEUE_MOST`` wait. Never blocks."""
        if len(self._queue) >= QUEUE_MOST:
            self.dropped += 1
        else:
            self._queue.append(notice)
            self._filled.set()

    async def take(self) -> list[Notice]:
        """Wait until there is a notice; returns all that wait."""
        await self._filled.wait()
        return self.take_now()

    def take_now(self) -> list[Notice]:
        """Returns all notices that wait; there may be none."""
        self._filled.clear()
        taken = list(self._queue)
        self._queue.clear()
        return taken


class Notices:
    """Passes every notice to every subscriber. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

    def subscribe(self) -> Subscription:
        """Returns a queue of what is published from now on."""
        subscription = Subscription()
        self._subscriptions.append(subscription)
        return subscription

    def publish(self, notice: Notice) -> None:
        """Pass a notice on. Never blocks and never fails."""
        for subscription in self._subscriptions:
            subscription.put(notice)
