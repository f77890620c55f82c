"""What an upstream answered: a body that was read whole, a stream of events, or a stream of bytes without frames.

Owns the moment until which a stream of events is held back from its client: its first content, its end, a failure, or
a short time. Until then the answer can still become something else: an error with a status, another try, a fallback.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trustgate.errors import UpstreamFailed
from trustgate.models.metering.answer import Failure
from trustgate.models.metering.chunks import FrameKind, StreamMeter
from trustgate.models.metering.lenient import read_json
from trustgate.models.metering.sse import SseScanner, frame_data, frame_parts
from trustgate.models.metering.whole import Reported
from trustgate.models.upstream.failures import translate
from trustgate.models.upstream.response import Response
from trustgate.models.upstream.targets import Target

if TYPE_CHECKING:
    import httpx

    from trustgate.models.upstream.response import AiohttpResponse

#: A frame of a stream and what it is.
Frame = tuple[FrameKind, bytes]

#: Kinds of frames that end the time in which a stream is held back.
_TELLING = frozenset({FrameKind.CONTENT, FrameKind.END, FrameKind.DONE})
FAILED = frozenset({FrameKind.ERROR, FrameKind.FAILED})
#: Kinds of frames behind which nothing comes.
_LAST = FAILED | {FrameKind.DONE}
#: What is held back of a stream at most: bytes, and frames. One of two bytes takes a hundred of memory, and all that
#: are held are passed on in one turn of the event loop.
_HELD_MOST_BYTES = 1024 * 1024
HELD_MOST_FRAMES = 1024
#: How many frames of a piece are read at one turn of the event loop: each takes some microseconds, and may have two
#: bytes.
_FRAMES_PER_TURN = 64
#: How long a response may go on behind its last event, seconds: by then its connection is closed instead of kept.
END_S = 1.0


class Apart(Protocol):
    """A large answer that was taken apart."""

    @property
    def skeleton(self) -> bytes:
        """What is left of it to be decoded."""

    @property
    def hash(self) -> Any:
        """The SHA-256 of all of it, still open."""


class EventStream:
    """A stream of server-sent events, cut into frames and metered as they arrive."""

    __slots__ = ("_at_once", "_chunks", "_first", "_held", "_is_over", "_next", "_scanner", "_unread", "meter")

    def __init__(
        self, chunks: AsyncIterator[bytes], meter: StreamMeter, max_event_bytes: int, first: bytes = b""
    ) -> None:
        """``first``: what was read of the stream already."""
        self._chunks = chunks
        self._first = first
        self._scanner = SseScanner(max_event_bytes)
        self.meter = meter
        self._held: list[Frame] = []
        #: Frames that came with others and are read in the next turns.
        self._unread: deque[bytes] = deque()
        self._is_over = False
        #: What ``batches`` was called with.
        self._at_once: Callable[[list[Frame]], bool] | None = None
        #: The chunk that was waited for when the time was over.
        self._next: asyncio.Future[bytes | None] | None = None

    async def hold(self, hold_s: float) -> Failure | None:
        """Wait until it is known what the stream is, and at most ``hold_s`` from its first bytes.

        Returns: the failure that it is, None where there is content, or no more time.
        Raises ``UpstreamFailed`` for a stream that ends without any, and what reading it raises.
        """
        until: float | None = None
        size = 0
        while True:
            chunk: bytes | None = b""
            if self._unread:
                frames = await self._frames_of_next_turn()
            elif (chunk := await self._chunk(until)) is not None:
                size += len(chunk)
                frames = self._frames(chunk)
            elif self._is_over:
                frames = self._read_tail()
            else:
                return None
            self._held += frames
            for kind, _ in frames:
                if kind is FrameKind.DONE and not self.meter.finished:
                    raise UpstreamFailed("The upstream ended its stream before it began.", retryable=False)
                if kind in _TELLING:
                    return None
                if kind in FAILED:
                    return self.meter.failure or Failure()
            if self._is_over and not self._unread:
                raise UpstreamFailed("The upstream ended its stream before it began.", retryable=False)
            if size > _HELD_MOST_BYTES or len(self._held) >= HELD_MOST_FRAMES:
                return None
            if until is None and chunk and not chunk.isspace():
                until = asyncio.get_running_loop().time() + hold_s

    async def _chunk(self, until: float | None) -> bytes | None:
        """Returns the next chunk; None at the end (``_is_over`` then), or when the time is over."""
        if self._first:
            first, self._first = self._first, b""
            return first
        chunks = self._chunks
        if until is not None and isinstance(chunks, Response):
            if not await chunks.wait_until(until):
                return None
            until = None
        if until is None:
            chunk = await anext(chunks, None)
            self._is_over = chunk is None
            return chunk
        waiting = asyncio.ensure_future(_next(chunks))
        try:
            await asyncio.wait([waiting], timeout=until - asyncio.get_running_loop().time())
        except BaseException:
            waiting.cancel()
            with suppress(BaseException):
                await waiting
            raise
        if not waiting.done():
            self._next = waiting
            return None
        chunk = waiting.result()
        self._is_over = chunk is None
        return chunk

    async def batches(self, at_once: Callable[[list[Frame]], bool] | None = None) -> AsyncGenerator[list[Frame], None]:
        """The frames, those that were held first, in the pieces in which they arrive.

        ``at_once``: gets the frames of a piece in the moment in which it comes, while this waits for it; they are left
        out here where it returns True. To resume a task for each costs as much as to relay it.

        Raises ``UpstreamFailed`` when the stream breaks off or falls silent, or sends an event that is too large.
        """
        held, self._held = self._held, []
        if held:
            yield held
        while self._unread:
            yield await self._frames_of_next_turn()
        if self._is_over:
            return
        try:
            if self._next is not None:
                chunk = await self._next
                self._next = None
                if chunk is None:
                    self._is_over = True
                else:
                    yield self._frames(chunk)
                    while self._unread:
                        yield await self._frames_of_next_turn()
            if not self._is_over:
                chunks = self._chunks
                if at_once is not None and isinstance(chunks, Response):
                    self._at_once = at_once
                    chunks.taker = self
                async for each in chunks:
                    if self._held:
                        held, self._held = self._held, []
                        yield held
                    if each:
                        yield self._frames(each)
                    while self._unread:
                        yield await self._frames_of_next_turn()
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except Exception as error:
            raise translate(error) from error
        finally:
            if isinstance(self._chunks, Response):
                # They hold this stream, which holds the response.
                self._chunks.taker = self._at_once = None
        last = self._read_tail()
        if last:
            yield last

    def _frames(self, chunk: bytes) -> list[Frame]:
        """Returns the frames that a chunk completes, metered; none behind the stream's last event.

        What a server sends behind its own end is neither counted nor passed on: the receipt is closed at that end, and
        its figures must not depend on where TCP cuts the stream.
        """
        if self.meter.done:
            return []
        parts = self._scanner.only_frame(chunk)
        return self._frames_of(chunk) if parts is None else [(self.meter.feed(*parts), chunk)]

    def _frames_of(self, chunk: bytes) -> list[Frame]:
        """As ``_frames``, of a chunk that is not one usual frame; those that are too many for one turn are kept."""
        frames = self._scanner.feed(chunk)
        if len(frames) > _FRAMES_PER_TURN:
            self._unread.extend(frames[_FRAMES_PER_TURN:])
            frames = frames[:_FRAMES_PER_TURN]
        return self._read(frames)

    async def _frames_of_next_turn(self) -> list[Frame]:
        """Returns the next of the frames that were kept, metered, at the next turn of the loop."""
        await asyncio.sleep(0)
        unread = self._unread
        return self._read([unread.popleft() for _ in range(min(len(unread), _FRAMES_PER_TURN))])

    def take_piece(self, piece: bytes) -> bool:
        """Returns whether a piece was passed on; else its frames are kept for ``batches``, which waits."""
        meter, at_once = self.meter, self._at_once
        if meter.done:
            return True
        parts = self._scanner.only_frame(piece)
        if parts is None:
            frames = self._frames_of(piece)
            if not frames and not self._unread:
                return True
        else:
            data, event = parts
            frames = [(meter.feed(data, event), piece)]
        if at_once is not None and not self._unread and at_once(frames):
            return True
        self._held = frames
        return False

    def _read_tail(self) -> list[Frame]:
        """Returns the last frame where it lacks its blank line.

        Not one that is cut off: an error may come behind it.
        """
        tail = self._scanner.tail()
        if not tail or self.meter.done:
            return []
        [(kind, frame)] = self._read([tail])
        if kind in _LAST:
            return [(kind, frame)]
        data = frame_data(frame)
        return [] if data is None or read_json(data) is None else [(kind, frame.rstrip(b"\r\n") + b"\n\n")]

    def _read(self, frames: list[bytes]) -> list[Frame]:
        feed = self.meter.feed
        read: list[Frame] = []
        for frame in frames:
            data, event = frame_parts(frame)
            kind = feed(data, event)
            read.append((kind, frame))
            if kind is FrameKind.ERROR or kind is FrameKind.FAILED or self.meter.done:
                # Nothing behind it counts: of a failure not even the end of the stream.
                self._unread.clear()
                break
        return read

    async def wait_for_end(self) -> None:
        """Wait for the end of the response, behind the stream's last event: then its connection can be used again.

        At most ``END_S``. What comes meanwhile, or goes wrong, is of no account.
        """
        chunks = self._chunks
        if not self.meter.done or self._is_over or (isinstance(chunks, Response) and chunks.is_whole):
            return
        with suppress(Exception):
            async with asyncio.timeout(END_S):
                async for _ in chunks:
                    pass

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            with suppress(BaseException):
                await self._next


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


class Answer(msgspec.Struct, eq=False):
    """What an upstream answered with a success's status, once it is known that it is no failure.

    One of three: ``events``; ``chunks``, bytes without frames; or neither, then ``body`` and what it ``reported``.
    """

    target: Target
    _response: httpx.Response | Response | AiohttpResponse
    status: int
    content_type: str
    body: bytes = b""
    #: Of a large body; None: it can be decoded as it is.
    apart: Apart | None = None
    reported: Reported | None = None
    events: EventStream | None = None
    chunks: AsyncIterator[bytes] | None = None
    _is_closed: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The upstream's, by name in any case."""
        return self._response.headers

    @property
    def is_stream(self) -> bool:
        return self.events is not None or self.chunks is not None

    async def close(self) -> None:
        """Let go of the upstream's connection; a stream that is not at its end is aborted."""
        closing = self.let_go()
        if closing is not None:
            await closing

    def let_go(self) -> Awaitable[None] | None:
        """As ``close``. Returns what is to be awaited; None: it is closed."""
        if not self._is_closed:
            self._is_closed = True
            self.target.load.end()
        response = self._response
        if self.events is None and isinstance(response, Response):
            response.let_go()
            return None
        return self._close_slowly()

    async def _close_slowly(self) -> None:
        if self.events is not None:
            await self.events.close()
        with suppress(Exception):
            await self._response.stream.aclose()  # type: ignore[union-attr]


async def translated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks; raises ``UpstreamFailed`` when they break off or fall silent."""
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        raise translate(error) from error
