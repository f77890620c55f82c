"""Notices on their way from those who publish to those who subscribe."""

from __future__ import annotations

import asyncio

from trustgate.observe.notices import QUEUE_MOST, Notice, Notices


def _notice(number: int) -> Notice:
    return Notice(kind="budget", subject=f"tenant_{number}", message="80 % are used.", at_us=number)


async def test_each_subscriber_gets_every_notice_in_order() -> None:
    notices = Notices()
    notices.publish(_notice(0))  # there is no subscriber yet
    one, other = notices.subscribe(), notices.subscribe()
    waiting = asyncio.ensure_future(one.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    notices.publish(_notice(1))
    notices.publish(_notice(2))
    assert [notice.at_us for notice in await waiting] == [1, 2]
    assert [notice.at_us for notice in await other.take()] == [1, 2]
    assert one.take_now() == []


async def test_a_subscriber_that_does_not_keep_up_blocks_nothing_and_knows_what_it_has_missed() -> None:
    notices = Notices()
    slow = notices.subscribe()
    for number in range(QUEUE_MOST + 5):
        notices.publish(_notice(number))
    assert [notice.at_us for notice in await slow.take()] == list(range(QUEUE_MOST))
    assert slow.dropped == 5
    notices.publish(_notice(7))
    assert [notice.at_us for notice in await slow.take()] == [7]


def test_a_condition_is_known_by_its_kind_and_what_it_is_about() -> None:
    eighty = Notice(kind="budget", subject="tenant_1", condition="budget_1:2026-11:80", message="", at_us=1)
    assert eighty.identity == "budget:budget_1:2026-11:80"
    assert _notice(1).identity == "budget:tenant_1"
