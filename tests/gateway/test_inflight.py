from __future__ import annotations

import asyncio

import pytest

from trustgate.errors import Unavailable
from trustgate.gateway.path.inflight import Cancellation, InFlight, RequestCancelled


async def held(running: InFlight, key_id: str = "key_1") -> tuple[asyncio.Task[str], Cancellation]:
    """A task that waits for ever on a cancellation, and says how it was ended."""
    cancellation = running.admit(key_id, "ten_1")

    async def hold() -> str:
        try:
            with cancellation:
                await asyncio.Event().wait()
        except RequestCancelled as cancelled:
            return cancelled.reason
        return "ended"

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    return task, cancellation


async def test_a_cancellation_ends_its_request_with_the_first_reason() -> None:
    task, cancellation = await held(InFlight(10, 0))
    cancellation.cancel("client_gone")
    cancellation.cancel("shutdown")
    assert await task == "client_gone"


async def test_a_cancellation_after_its_end_does_nothing() -> None:
    running = InFlight(10, 0)
    cancellation = running.admit("key_1", "ten_1")
    with cancellation:
        pass
    cancellation.cancel("shutdown")
    await asyncio.sleep(0)
    assert cancellation.reason is None
    assert len(running) == 0


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    task, cancellation = await held(InFlight(10, 0))
    cancellation.cancel("client_gone")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_request_passes_through() -> None:
    with pytest.raises(ValueError, match="own"), InFlight(10, 0).admit("key_1", "ten_1"):
        raise ValueError("own")


async def test_cutting_a_key_ends_its_requests_and_no_others() -> None:
    running = InFlight(10, 0)
    first, _ = await held(running, "key_1")
    second, _ = await held(running, "key_1")
    other, other_cancellation = await held(running, "key_2")
    running.cut_keys({"key_1"})
    assert [await first, await second] == ["key_revoked", "key_revoked"]
    assert len(running) == 1
    other_cancellation.cancel("shutdown")
    assert await other == "shutdown"


async def test_a_deadline_pulls() -> None:
    task, _ = await held(InFlight(10, 0.01))
    assert await asyncio.wait_for(task, 5) == "deadline"


async def test_each_request_has_its_own_deadline_whatever_the_others_did_before() -> None:
    running = InFlight(10, 0.01)
    with running.admit("key_1", "ten_1") as over:
        early, _ = await held(running)
    assert await asyncio.wait_for(early, 5) == "deadline"
    late, _ = await held(running)
    running.timeout_s = 0.03
    later, _ = await held(running)
    assert [await asyncio.wait_for(task, 5) for task in (late, later)] == ["deadline"] * 2
    assert len(running) == 0 and not over.is_slow and over.reason is None


async def test_what_a_request_holds_is_given_back_with_its_place_however_it_ends() -> None:
    running = InFlight(10, 0)
    released: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def release(self) -> None:
            released.append(self.name)

    place = running.admit("key_1", "ten_1")
    place.slot, place.room = Part("slot"), Part("room")
    with pytest.raises(ValueError, match="own"), place:
        raise ValueError("own")
    assert sorted(released) == ["room", "slot"] and len(running) == 0


async def test_no_more_are_admitted_than_may_run() -> None:
    running = InFlight(1, 0)
    task, cancellation = await held(running)
    with pytest.raises(Unavailable) as caught:
        running.admit("key_2", "ten_2")
    assert caught.value.code == "overloaded"
    assert caught.value.headers["retry-after"] == "1"
    cancellation.cancel("shutdown")
    await task
    with running.admit("key_2", "ten_2"):
        assert len(running) == 1


async def test_a_drain_waits_for_those_that_run_and_admits_nobody() -> None:
    running = InFlight(10, 0)
    release = asyncio.Event()

    async def request() -> str:
        with running.admit("key_1", "ten_1"):
            await release.wait()
        return "ended by itself"

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    drain = asyncio.create_task(running.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        running.admit("key_2", "ten_2")
    assert caught.value.code == "shutting_down"
    release.set()
    assert await task == "ended by itself"
    await asyncio.wait_for(drain, 5)


async def test_a_drain_cuts_what_is_left_after_its_grace() -> None:
    running = InFlight(10, 0)
    task, _ = await held(running)
    await asyncio.wait_for(running.drain(0.01), 5)
    assert await task == "shutdown"
