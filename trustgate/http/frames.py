"""Reading frames of HTTP/2 in turns: those of one connection hold up no other, however many come and however small.

A frame of nine bytes costs about as much to read as one of sixteen thousand, and a request's field that repeats is one
byte (HPACK). So what arrives is cut into pieces of a bounded amount of work (``Cutter``), and all connections
together read a bounded amount at each turn of the event loop (``Turns``).

Source: RFC 9113 sections 3.4 (preface), 4.1 (frames) and 10.5 (denial of service).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

_HEAD_BYTES = 9
_PREFACE_BYTES = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
# Kinds of frames (section 6).
_DATA, _HEADERS, _RST_STREAM, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 8, 9
_END_STREAM = 0x1
#: Kinds of frames that a request is made of, or that go with one.
_OF_REQUESTS = frozenset((_HEADERS, _RST_STREAM, _WINDOW_UPDATE, _CONTINUATION))

#: How much work is read in one piece. A frame counts one, which is some tens of microseconds.
PIECE_WORK = 16
#: So many bytes of a request's fields, as they are compressed, count one more: each can be a field.
_FIELD_BYTES = 16
#: How much work is read at one turn of the loop.
TURN_WORK = 64


class Cutter:
    """Cuts the bytes of a connection into pieces, and counts frames that ask for nothing."""

    def __init__(self) -> None:
        #: Bytes that are left of the frame under way, or of the preface.
        self._left = _PREFACE_BYTES
        #: What has come of the next frame's head.
        self._head = b""
        #: How many frames came that neither belong to a request nor bring any of its body.
        self.idle_frames = 0

    def cut(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Yields pieces of ``data``, in order, and the work of each: above ``PIECE_WORK`` only for a single frame."""
        at = begin = work = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            frame_at = at
            part = data[at : at + _HEAD_BYTES - len(self._head)]
            at += len(part)
            self._head += part
            if len(self._head) < _HEAD_BYTES:
                break
            frame_work = self._begin_frame()
            if work and work + frame_work > PIECE_WORK:
                yield data[begin:frame_at], work
                begin, work = frame_at, 0
            work += frame_work
        if begin < len(data):
            yield data[begin:], work

    def _begin_frame(self) -> int:
        """Read the head of a frame. Returns the frame's work."""
        head, self._head = self._head, b""
        self._left = size = int.from_bytes(head[:3], "big")
        kind = head[3]
        if kind in (_HEADERS, _CONTINUATION):
            return 1 + size // _FIELD_BYTES
        if kind == _DATA:
            self.idle_frames += not size and not head[4] & _END_STREAM
        else:
            self.idle_frames += kind not in _OF_REQUESTS
        return 1


class Turns:
    """Shares the turns of an event loop among all connections that read frames, first come, first served."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        #: What was read at this turn.
        self._work = 0
        self._is_counting = False

    async def take(self, work: int) -> None:
        """Wait until a piece of that much work may be read."""
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._turn)
        if self._work < TURN_WORK and not self._waiting:
            self._work += work
            return
        turn = self._loop.create_future()
        self._waiting.append((turn, work))
        await turn

    def _turn(self) -> None:
        """Begin the next turn."""
        self._work = 0
        while self._waiting and self._work < TURN_WORK:
            turn, work = self._waiting.popleft()
            if not turn.done():  # its connection may have gone
                turn.set_result(None)
                self._work += work
        self._is_counting = self._work > 0
        if self._is_counting:
            self._loop.call_soon(self._turn)
