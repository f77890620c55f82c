"""Deadlines that share one timer of the loop."""

from __future__ import annotations

import asyncio

from trustgate.deadlines import Deadlines


async def test_what_is_due_is_called_once_and_in_order_and_what_was_taken_back_never() -> None:
    deadlines = Deadlines(0.02)
    called: list[str] = []
    over = asyncio.Event()
    first, second, third = (lambda: called.append("first")), (lambda: called.append("second")), over.set
    for call in (first, second, third):
        deadlines.set(call)
    deadlines.discard(second)
    deadlines.discard(second)
    await asyncio.wait_for(over.wait(), 10)
    assert called == ["first"]


async def test_the_timer_goes_on_for_what_is_set_later_and_from_within_a_call() -> None:
    deadlines = Deadlines(0.01)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends: list[float] = []
    over = asyncio.Event()

    def last() -> None:
        ends.append(loop.time() - began)
        over.set()

    def first() -> None:
        ends.append(loop.time() - began)
        deadlines.set(last)

    deadlines.set(first)
    await asyncio.wait_for(over.wait(), 10)
    assert ends[0] >= 0.01
    assert ends[1] >= 0.02


async def test_what_was_set_later_is_not_called_with_what_was_set_before() -> None:
    deadlines = Deadlines(0.05)
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()
    deadlines.set(first.set)
    await asyncio.sleep(0.02)
    began = loop.time()
    deadlines.set(second.set)
    await asyncio.wait_for(first.wait(), 10)
    await asyncio.wait_for(second.wait(), 10)
    assert loop.time() - began >= 0.05
