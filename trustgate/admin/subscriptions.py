"""The verbs on subscribers to notices, as data. SUBSCRIBER is an id or a name everywhere."""

from __future__ import annotations

import msgspec

from trustgate.admin.commands import Command


class SubscriberState(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber, without its secret, and how its deliveries go."""

    id: str
    name: str
    kinds: tuple[str, ...]
    #: "" for a program. Without most of its path and query: at many receivers these are the only secret.
    url: str
    command: tuple[str, ...]
    is_private: bool
    created_us: int
    #: Deliveries that wait: for the first attempt or a further one.
    waiting: int
    #: Of those, the ones that have failed at least once.
    retrying: int
    #: Deliveries that were given up, as far as they are remembered.
    failed: int
    #: The last one that succeeded; None: none is remembered.
    delivered_us: int | None
    #: What came of the last attempt; "" before the first.
    detail: str


class DeliveryState(msgspec.Struct, frozen=True, kw_only=True):
    """One notice for one subscriber. Times are microseconds since the epoch."""

    #: The message's ``webhook-id``.
    id: str
    message: str
    state: str
    attempts: int
    detail: str
    created_us: int
    #: When the next attempt is due; None: there is none.
    next_us: int | None


class SubscriberDetail(msgspec.Struct, frozen=True, kw_only=True):
    subscriber: SubscriberState
    #: The newest first.
    deliveries: tuple[DeliveryState, ...]


class SubscriberMade(msgspec.Struct, frozen=True, kw_only=True):
    """``secret``: of a webhook, the only moment it is shown; "" for a program."""

    subscriber: SubscriberState
    secret: str


class TrialOutcome(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ok: bool
    detail: str


class NotifyAdd(Command[SubscriberMade], frozen=True, kw_only=True, tag="notify.add"):
    """Add a webhook (``url``) or a program (``command``). Which kinds: none for all."""

    url: str = ""
    command: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    name: str = ""
    is_private: bool = False
    result = SubscriberMade


class NotifyList(Command[tuple[SubscriberState, ...]], frozen=True, kw_only=True, tag="notify.list"):
    result = tuple[SubscriberState, ...]


class NotifyShow(Command[SubscriberDetail], frozen=True, kw_only=True, tag="notify.show"):
    subscriber: str
    result = SubscriberDetail


class NotifyRemove(Command[SubscriberState], frozen=True, kw_only=True, tag="notify.remove"):
    subscriber: str
    result = SubscriberState


class NotifyTest(Command[tuple[TrialOutcome, ...]], frozen=True, kw_only=True, tag="notify.test"):
    """Send a test to one subscriber, or to all, and wait for what comes of it. Nothing is tried again."""

    subscriber: str | None = None
    result = tuple[TrialOutcome, ...]
