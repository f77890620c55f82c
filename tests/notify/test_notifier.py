"""Conditions and deliveries over a real database: what is told once, what is bounded, what is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from trustgate.errors import Unavailable
from trustgate.ids import now_us
from trustgate.notify.notifier import Notifier
from trustgate.notify.queue import BACKOFF_S, DONE_KEPT, DeliveryQueue, new_delivery
from trustgate.notify.subscribers import Subscribers, removed
from trustgate.notify.webhook import AttemptOutcome, is_public
from trustgate.observe.notices import Notice, Notices
from trustgate.settings import NotifySettings
from trustgate.store import NoticeDelivery, NotificationChange, Notifications, Store, open_store
from trustgate.types import Subscriber


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "trustgate.duckdb")
    yield opened
    await opened.close()


class _Scripted:
    """A watch that finds what the test says."""

    def __init__(self) -> None:
        self.found: list[Notice] = []

    async def firing(self, is_open: Callable[[str], bool]) -> Sequence[Notice]:
        return self.found


def _subscriber() -> Subscriber:
    return Subscribers().make(name="one", kinds=(), url="https://example.com/", command=(), is_private=False)


def _notifier(store: Store, watch: _Scripted, notices: Notices, subscriber: Subscriber, after_s: float = 0) -> Notifier:
    settings = NotifySettings(resolve_after_s=after_s)
    return Notifier(store, Subscribers((subscriber,)), notices, watch, gateway="", settings=lambda: settings)


def _budget(percent: int, until_us: int | None = None) -> Notice:
    return Notice(
        kind="budget",
        subject="budget_1",
        condition=f"budget_1:2026-11:{percent}",
        message=f"{percent} % are used.",
        at_us=now_us(),
        until_us=until_us,
    )


def _told(notifier: Notifier) -> list[str]:
    return [delivery.message for delivery in notifier.deliveries()]


async def _publish(notifier: Notifier, notices: Notices, *published: Notice) -> None:
    """Have what is published taken in."""
    for notice in published:
        notices.publish(notice)
    await notifier.take_published()


async def test_steps_of_a_budget_are_told_once_each_and_their_end_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices, subscriber = Notices(), _subscriber()
    notifier = _notifier(store, _Scripted(), notices, subscriber)
    ends_us = now_us() + 3_600_000_000

    await _publish(notifier, notices, _budget(50, ends_us), _budget(80, ends_us), _budget(80, ends_us))
    await notifier.look()
    assert _told(notifier) == ["50 % are used.", "80 % are used."]
    monkeypatch.setattr("trustgate.notify.notifier.now_us", lambda: ends_us)
    await notifier.look()
    await notifier.look()

    assert _told(notifier) == ["50 % are used.", "80 % are used.", "Over: 80 % are used."]
    assert (await store.load_notifications()).conditions == ()


async def test_very_many_at_once_are_told_in_changes_of_some_and_each_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustgate.notify.queue.WAITING_MOST", 2_000)
    notices, subscriber, sizes = Notices(), _subscriber(), list[int]()

    class Watched:
        """The store, where receipts wait for the end of each change."""

        async def load_notifications(self) -> Notifications:
            return await store.load_notifications()

        async def change_notifications(self, change: NotificationChange) -> None:
            sizes.append(max(len(change.conditions), len(change.over)))
            await store.change_notifications(change)

    watched: Any = Watched()
    notifier = _notifier(watched, _Scripted(), notices, subscriber)
    ends_us = now_us() + 3_600_000_000
    steps = [
        Notice(
            kind="limit",
            subject=f"ten_{number}",
            condition=f"ten_{number}:{step}",
            message=f"{number} at {step}",
            at_us=now_us(),
            until_us=ends_us if number % 2 else ends_us + 1,
        )
        for number in range(200)
        for step in (50, 80)
    ]
    await _publish(notifier, notices, *steps)
    assert sorted(_told(notifier)) == sorted(each.message for each in steps)
    assert len((await store.load_notifications()).conditions) == 400
    assert sizes == [100] * 4

    monkeypatch.setattr("trustgate.notify.notifier.now_us", lambda: ends_us)
    await notifier.look()
    monkeypatch.setattr("trustgate.notify.notifier.now_us", lambda: ends_us + 1)
    await notifier.look()
    over = [text for text in _told(notifier) if text.startswith("Over")]
    assert sorted(over) == sorted(f"Over: {number} at 80" for number in range(200))
    assert (await store.load_notifications()).conditions == ()
    assert max(sizes) == 100


async def test_what_was_told_is_known_to_the_next_process(store: Store) -> None:
    notices, subscriber = Notices(), _subscriber()
    first = _notifier(store, _Scripted(), notices, subscriber)
    await _publish(first, notices, _budget(50))
    kept = await store.load_notifications()
    assert [condition.identity for condition in kept.conditions] == ["budget:budget_1:2026-11:50"]
    assert [delivery.state for delivery in kept.deliveries] == ["waiting"]


async def test_what_comes_and_goes_is_over_only_after_a_while(store: Store) -> None:
    watch, subscriber = _Scripted(), _subscriber()
    notifier = _notifier(store, watch, Notices(), subscriber, after_s=0.2)
    down = Notice(kind="upstream", subject="host", message="It is down.", at_us=1)
    for watch.found in ([down], [], [down], []):
        await notifier.look()
    assert _told(notifier) == ["It is down."]
    began_s = asyncio.get_running_loop().time()
    while len(_told(notifier)) == 1:
        await notifier.look()
    assert asyncio.get_running_loop().time() - began_s >= 0.19
    assert _told(notifier) == ["It is down.", "Over: It is down."]


async def test_what_is_published_is_not_over_because_looking_does_not_find_it(store: Store) -> None:
    notices, subscriber, watch = Notices(), _subscriber(), _Scripted()
    notifier = _notifier(store, watch, notices, subscriber)
    watch.found = [Notice(kind="payment", subject="unknown", message="Two are in doubt.", at_us=1)]
    await notifier.look()
    await _publish(notifier, notices, Notice(kind="payment", subject="offer", message="It has changed.", at_us=1))
    watch.found = []
    await notifier.look()
    await notifier.look()
    assert _told(notifier) == ["Two are in doubt.", "It has changed.", "Over: Two are in doubt."]
    await _publish(notifier, notices, Notice(kind="payment", subject="offer", message="", state="resolved", at_us=2))
    assert _told(notifier)[3:] == ["Over: It has changed."]


class _Failing:
    """A store that has no room."""

    async def load_notifications(self) -> Notifications:
        return Notifications()

    async def change_notifications(self, change: NotificationChange) -> None:
        raise Unavailable("The disk is full.", code="storage_full")


async def test_a_full_disk_does_not_keep_a_notice_from_being_sent() -> None:
    subscriber, sent = _subscriber(), asyncio.Event()

    async def attempt(to: Subscriber, delivery: NoticeDelivery) -> AttemptOutcome:
        sent.set()
        return AttemptOutcome(True, "")

    queue = DeliveryQueue(_Failing(), Subscribers((subscriber,)), attempt)
    running = asyncio.ensure_future(queue.run())
    await queue.add([new_delivery(subscriber, "{}", "The disk is nearly full.")], NotificationChange())
    await asyncio.wait_for(sent.wait(), 10)
    running.cancel()


async def test_a_queue_is_bounded_and_what_is_of_nobody_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustgate.notify.queue.WAITING_MOST", most := 20)
    subscriber = _subscriber()
    subscribers = Subscribers((subscriber,))

    async def attempt(to: Subscriber, delivery: NoticeDelivery) -> AttemptOutcome:
        raise AssertionError("nothing is sent here")

    queue = DeliveryQueue(store, subscribers, attempt)
    made = [new_delivery(subscriber, "{}", str(number)) for number in range(most + 10)]
    await queue.add(made, NotificationChange())
    await queue.add([], NotificationChange())
    assert [each.message for each in queue.deliveries()] == [str(10 + number) for number in range(most)]
    assert len((await store.load_notifications()).deliveries) == most

    subscribers.put(removed(subscriber))
    await queue.add([], NotificationChange())
    assert queue.deliveries() == [] and (await store.load_notifications()).deliveries == ()


async def test_attempts_end_after_two_days_and_the_wait_grows(store: Store) -> None:
    subscriber = _subscriber()
    attempts, waits = asyncio.Queue[int](), []

    async def attempt(to: Subscriber, delivery: NoticeDelivery) -> AttemptOutcome:
        attempts.put_nowait(delivery.attempts)
        return AttemptOutcome(False, "status 500")

    queue = DeliveryQueue(store, Subscribers((subscriber,)), attempt)
    running = asyncio.ensure_future(queue.run())
    await queue.add([new_delivery(subscriber, "{}", "m")], NotificationChange())
    for number in range(len(BACKOFF_S) + 1):
        assert await asyncio.wait_for(attempts.get(), 10) == number
        async with asyncio.timeout(10):
            while (delivery := queue.deliveries()[0]).attempts == number:  # noqa: ASYNC110 - there is no event of it
                await asyncio.sleep(0.001)
        waits.append((delivery.next_us - delivery.updated_us) / 1e6)
        # As if that time had passed.
        held = queue._waiting[subscriber.id]
        for waiting in list(held.values()):
            held[waiting.id] = replace(waiting, next_us=0)
        queue._changed.set()
    running.cancel()
    assert (delivery.state, delivery.detail) == ("failed", "status 500")
    for wait, least in zip(waits, BACKOFF_S, strict=False):
        assert least <= wait <= least * 1.1
    assert len([each for each in queue.deliveries() if each.state == "failed"]) <= DONE_KEPT


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1%eth0", "fd00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "::127.0.0.1"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2",),
    ],
)
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "193.0.6.139"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)
