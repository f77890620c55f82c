"""Frames of a stream that are passed on in the moment in which they come: none is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.processes import PATIENCE_S
from trustgate.errors import UpstreamFailed
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.upstream.answer import EventStream, Frame
from trustgate.models.upstream.response import Reader, Response
from trustgate.server.process import loop_factory

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FRAMES = tuple(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % n for n in range(12))


class _Connection:
    """What a response holds back, lets go on and closes."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold_back(self) -> None:
        self.calls.append("hold back")

    def go_on(self) -> None:
        self.calls.append("go on")

    def close(self) -> None:
        self.calls.append("close")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Stream:
    """A stream whose bytes come when ``come`` is called, and its frames as they were passed on."""

    def __init__(self, silence_s: float = 60.0) -> None:
        self.reader = Reader(_Connection(), silence_s)
        response = self.reader.begin(_HEAD)
        assert isinstance(response, Response)
        self.response = response
        self.events = EventStream(response, StreamMeter(), 1_000)
        self.passed: list[tuple[str, bytes]] = []
        self.takes = True

    def at_once(self, frames: list[Frame]) -> bool:
        if self.takes:
            self.passed += [("at once", frame) for _, frame in frames]
        return self.takes

    async def relay(self) -> None:
        async for frames in self.events.batches(self.at_once):
            self.passed += [("later", frame) for _, frame in frames]

    async def come(self, data: bytes, *, takes: bool, is_waited_for: bool = True) -> None:
        self.takes = takes
        self.reader.feed(data)
        if is_waited_for:
            await _turns()


def test_what_is_waited_for_until_a_time_is_not_waited_for_any_longer() -> None:
    """A timer of the servers' loop may end before the loop's clock has reached its time: one in four does."""

    async def wait() -> list[bool]:
        response, loop = _Stream().response, asyncio.get_running_loop()
        return [await asyncio.wait_for(response.wait_until(loop.time() + 0.01), PATIENCE_S) for _ in range(50)]

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert not any(runner.run(wait()))


async def _turns() -> None:
    """Whatever is ready in the loop runs, and what that makes ready."""
    for _ in range(10):
        await asyncio.sleep(0)


Piece = tuple[int, bool, bool]


@given(
    pieces=st.lists(st.tuples(st.integers(1, 150), st.booleans(), st.booleans()), min_size=1, max_size=30),
    is_apart=st.booleans(),
)
async def test_frames_are_passed_on_in_order_at_once_and_by_the_task(pieces: list[Piece], is_apart: bool) -> None:
    """``pieces``: how many bytes come, whether they can be passed on at once, and whether they are waited for."""
    stream = _Stream()
    relaying = asyncio.create_task(stream.relay())
    await asyncio.sleep(0)
    data = b"".join(map(_chunk, _FRAMES)) if is_apart else _chunk(b"".join(_FRAMES))
    for size, takes, is_waited_for in pieces:
        piece, data = data[:size], data[size:]
        if piece:
            await stream.come(piece, takes=takes, is_waited_for=is_waited_for)
    await stream.come(data + b"0\r\n\r\n", takes=True)
    await relaying
    assert b"".join(frame for _, frame in stream.passed) == b"".join(_FRAMES)
    assert stream.events.meter.done is False


async def test_what_is_waited_for_is_passed_on_without_the_task_that_waits() -> None:
    stream = _Stream()
    relaying = asyncio.create_task(stream.relay())
    await asyncio.sleep(0)
    for frame in _FRAMES[:3]:
        stream.reader.feed(_chunk(frame))
    assert stream.passed == [("at once", frame) for frame in _FRAMES[:3]]
    await stream.come(_chunk(_FRAMES[3]), takes=False)
    assert stream.passed[3:] == [("later", _FRAMES[3])]
    stream.takes = True
    relaying.cancel()
    stream.reader.feed(_chunk(_FRAMES[4]))
    with pytest.raises(asyncio.CancelledError):
        await relaying
    stream.reader.feed(_chunk(_FRAMES[5]))
    assert len(stream.passed) == 4, "nothing is passed on any more once it is cancelled"


async def test_a_fault_in_what_is_passed_on_at_once_is_raised_where_it_is_waited_for() -> None:
    stream = _Stream()
    relaying: asyncio.Task[Any] = asyncio.create_task(stream.relay())
    await asyncio.sleep(0)
    stream.reader.feed(_chunk(b"data: " + b"x" * 2_000 + b"\n\n"))
    with pytest.raises(UpstreamFailed, match="longer than 1000 bytes"):
        await relaying


async def test_a_stream_is_held_back_until_its_content_and_no_longer_than_it_may() -> None:
    stream = _Stream()
    stream.reader.feed(_chunk(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'))
    assert await asyncio.wait_for(stream.events.hold(0.01), 10) is None, "the time is over"
    relaying = asyncio.create_task(stream.relay())
    await stream.come(_chunk(_FRAMES[0]), takes=True)
    assert [frame for _, frame in stream.passed][1:] == [_FRAMES[0]]
    relaying.cancel()

    stream = _Stream()
    stream.reader.feed(_chunk(b": a comment\n\n"))
    holding = asyncio.create_task(stream.events.hold(60.0))
    await _turns()
    assert not holding.done()
    stream.reader.feed(_chunk(_FRAMES[0][:20]))
    await _turns()
    assert not holding.done()
    stream.reader.feed(_chunk(_FRAMES[0][20:]))
    assert await asyncio.wait_for(holding, 10) is None
    assert stream.response.waiter is None or stream.response.waiter.done()


async def test_silence_ends_a_stream_that_is_held_back() -> None:
    stream = _Stream(silence_s=0.01)
    stream.reader.feed(_chunk(b": a comment\n\n"))
    with pytest.raises(TimeoutError, match="fell silent"):
        await asyncio.wait_for(stream.events.hold(60.0), 10)
