"""The commands on subscribers to notices: add, list, show, remove, test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from trustgate.admin.context import AdminContext
from trustgate.admin.subscriptions import (
    DeliveryState,
    NotifyAdd,
    NotifyList,
    NotifyRemove,
    NotifyShow,
    NotifyTest,
    SubscriberDetail,
    SubscriberMade,
    SubscriberState,
    TrialOutcome,
)
from trustgate.errors import NotFound
from trustgate.ids import new_id, now_us
from trustgate.notify.messages import trial_body
from trustgate.notify.queue import attempt_delivery
from trustgate.notify.subscribers import removed, shown_url
from trustgate.store import NoticeDelivery
from trustgate.types import Subscriber


async def notify_add(context: AdminContext, command: NotifyAdd) -> SubscriberMade:
    made = context.subscribers.make(
        name=command.name,
        kinds=command.kinds,
        url=command.url,
        command=command.command,
        is_private=command.is_private,
    )
    await context.keep(made)
    return SubscriberMade(subscriber=_state(made, ()), secret=made.secret)


async def notify_list(context: AdminContext, command: NotifyList) -> tuple[SubscriberState, ...]:
    deliveries = await _deliveries(context)
    return tuple(_state(each, deliveries) for each in context.subscribers.all())


async def notify_show(context: AdminContext, command: NotifyShow) -> SubscriberDetail:
    found = context.subscribers.find(command.subscriber)
    mine = [each for each in await _deliveries(context) if each.subscriber_id == found.id]
    return SubscriberDetail(
        subscriber=_state(found, mine), deliveries=tuple(_delivery(each) for each in reversed(mine))
    )


async def notify_remove(context: AdminContext, command: NotifyRemove) -> SubscriberState:
    found = context.subscribers.find(command.subscriber)
    await context.keep(removed(found))
    return _state(found, ())


async def notify_test(context: AdminContext, command: NotifyTest) -> tuple[TrialOutcome, ...]:
    found = context.subscribers.all() if command.subscriber is None else [context.subscribers.find(command.subscriber)]
    if not found:
        raise NotFound("There is no subscriber yet.", hint="Add one: trustgate notify add URL")
    status = context.status
    gateway = context.settings.payment.public_url or ("" if status is None else (await status()).address)
    body = trial_body(now_us(), gateway)
    timeout_s = context.settings.notify.timeout_s
    outcomes = await asyncio.gather(*(attempt_delivery(each, new_id("msg"), body, timeout_s) for each in found))
    return tuple(
        TrialOutcome(name=each.name, ok=outcome.ok, detail=outcome.detail)
        for each, outcome in zip(found, outcomes, strict=True)
    )


async def _deliveries(context: AdminContext) -> Sequence[NoticeDelivery]:
    """Returns what the running server knows, or else what is kept; the oldest first."""
    if context.deliveries is not None:
        return context.deliveries()
    return (await context.store.load_notifications()).deliveries


def _state(subscriber: Subscriber, deliveries: Sequence[NoticeDelivery]) -> SubscriberState:
    mine = [each for each in deliveries if each.subscriber_id == subscriber.id]
    tried = [each for each in mine if each.attempts]
    last = max(tried, key=lambda each: each.updated_us, default=None)
    return SubscriberState(
        id=subscriber.id,
        name=subscriber.name,
        kinds=subscriber.kinds,
        url=shown_url(subscriber.url),
        command=subscriber.command,
        is_private=subscriber.is_private,
        created_us=subscriber.created_us,
        waiting=sum(each.state == "waiting" for each in mine),
        retrying=sum(each.state == "waiting" for each in tried),
        failed=sum(each.state == "failed" for each in mine),
        delivered_us=max((each.updated_us for each in mine if each.state == "delivered"), default=None),
        detail="" if last is None else last.detail,
    )


def _delivery(delivery: NoticeDelivery) -> DeliveryState:
    return DeliveryState(
        id=delivery.id,
        message=delivery.message,
        state=delivery.state,
        attempts=delivery.attempts,
        detail=delivery.detail,
        created_us=delivery.created_us,
        next_us=delivery.next_us if delivery.state == "waiting" else None,
    )
