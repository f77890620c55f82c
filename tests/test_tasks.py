"""What several tasks wait for: each gets the result or the error, and one that is cancelled takes it from no other."""

from __future__ import annotations

import asyncio

import pytest

from trustgate.tasks import Deferred


async def wait_for(deferred: Deferred[int]) -> int:
    return await deferred


def state(deferred: Deferred[int]) -> tuple[bool, int | None, BaseException | None]:
    return deferred.done(), deferred.result, deferred.error


def begin(deferred: Deferred[int], tasks: int) -> list[asyncio.Task[int]]:
    return [asyncio.ensure_future(wait_for(deferred)) for _ in range(tasks)]


async def test_all_that_wait_get_the_result_and_one_that_is_cancelled_ends_its_own_waiting_alone() -> None:
    deferred = Deferred[int](asyncio.get_running_loop())
    tasks = begin(deferred, 3)
    await asyncio.sleep(0)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert state(deferred) == (False, None, None) and not any(task.done() for task in tasks[1:])
    # Another is cancelled in the turn in which the result comes.
    tasks[1].cancel()
    deferred.succeed(7)
    assert state(deferred) == (True, 7, None)
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert await tasks[2] == 7 and await deferred == 7, "who comes later waits for nothing"
    await deferred.ended()


async def test_an_error_is_raised_where_the_result_is_asked_for_and_not_where_only_the_end_is() -> None:
    deferred, error = Deferred[int](asyncio.get_running_loop()), ValueError("no")
    [waiting] = begin(deferred, 1)
    ended = asyncio.ensure_future(deferred.ended())
    await asyncio.sleep(0)
    assert not ended.done()
    deferred.fail(error)
    await ended
    for each in (waiting, wait_for(deferred)):
        with pytest.raises(ValueError, match="no"):
            await each
    assert state(deferred) == (True, None, error)


@pytest.mark.parametrize("fails_first", [True, False])
async def test_it_ends_once(fails_first: bool) -> None:
    deferred, error = Deferred[int](asyncio.get_running_loop()), ValueError("no")
    calls: list[tuple[str, Deferred[int]]] = []
    for name in ("first", "second"):
        deferred.on_end(lambda ended, name=name: calls.append((name, ended)))  # type: ignore[misc]
    assert not calls
    for fails in (fails_first, not fails_first, fails_first):
        if fails:
            deferred.fail(error)
        else:
            deferred.succeed(7)
    assert calls == [("first", deferred), ("second", deferred)]
    assert state(deferred) == ((True, None, error) if fails_first else (True, 7, None))
    deferred.on_end(lambda ended: calls.append(("late", ended)))
    assert calls[2:] == [("late", deferred)]
