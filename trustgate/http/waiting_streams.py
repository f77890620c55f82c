"""Requests of HTTP/2 that wait at the door (``refusals``), each with the events of its stream since.

For one that waits nothing is begun: no stream of Hypercorn's, no task. Its data count against the stream's window and
the bytes that may wait in all. The other streams of its connection go on.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import h2.events

from trustgate.http.parser import RequestHead
from trustgate.http.refusals import AT_ONCE_S, Refusals, Shed, Wait

#: How many requests that were refused last are kept for each connection, to recognise them when they come again.
_MOST_REFUSED: Final = 32
#: What a head takes in memory beside its fields, bytes.
_HEAD_BYTES: Final = 256
#: In place of a reason for a refusal: the client has reset the stream.
GONE: Final = object()


class WaitingStream:
    """A request that waits, or was let through while events of its stream are still to be passed on."""

    def __init__(self, request: h2.events.RequestReceived, head: RequestHead, streams: WaitingStreams) -> None:
        self.request = request
        self.head = head
        #: The events of its stream since, in order.
        self.events: deque[h2.events.Event] = deque()
        self._streams = streams
        self.wait: Wait

    @property
    def stream_id(self) -> int:
        return self.request.stream_id or 0

    def look_again(self) -> None:
        self.wait.leave()
        self._streams.decide(self)


class WaitingStreams:
    """The waiting streams of a connection."""

    def __init__(self, shed: Shed, refusals: Refusals, decided: Callable[[WaitingStream, Any], None]) -> None:
        """``decided`` is called once for each stream, with why it is refused, ``GONE``, or "" (it is let through)."""
        self._shed = shed
        self._refusals = refusals
        self._decided = decided
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, WaitingStream] = {}
        #: When requests were refused, by their fields (``_fields``); the last ones.
        self._refused: dict[tuple[bytes, ...], float] = {}

    @property
    def are_any(self) -> bool:
        return bool(self._streams)

    def judge(self, request: h2.events.RequestReceived, head: RequestHead) -> bool:
        """Returns whether a request is let through now; else it waits, and ``decided`` is called later."""
        reason = self._shed.judge(head, self._refusals.queues)
        if not reason:
            return True
        stream = WaitingStream(request, head, self)
        self._streams[stream.stream_id] = stream
        at_once = self._loop.time() - self._refused.get(_fields(head), -math.inf) < AT_ONCE_S
        size = _HEAD_BYTES + sum(len(name) + len(value) for name, value in head.headers)
        tenant_id = self._shed.waits_for(head, reason)
        stream.wait = self._refusals.wait(stream, tenant_id, size, at_once=at_once)
        return False

    def take(self, event: h2.events.Event) -> bool:
        """Returns whether an event is one of a stream that waits, which keeps it."""
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return False
        stream.events.append(event)
        if isinstance(event, h2.events.StreamReset) and not stream.wait.is_over:
            stream.wait.leave()
            self._decided(stream, GONE)
        elif isinstance(event, h2.events.DataReceived):
            self._refusals.grow(stream.wait, event.flow_controlled_length or 0)
        return True

    def decide(self, stream: WaitingStream) -> None:
        reason = self._shed.judge(stream.head)
        if reason:
            if len(self._refused) >= _MOST_REFUSED:
                del self._refused[next(iter(self._refused))]
            self._refused[_fields(stream.head)] = self._loop.time()
        self._decided(stream, reason)

    def over(self, stream: WaitingStream) -> None:
        """Keep no more events of a stream: they are handled as they come again."""
        self._streams.pop(stream.stream_id, None)

    def refuse(self) -> None:
        """Decide on all that wait now: what has no room is refused."""
        for stream in list(self._streams.values()):
            if not stream.wait.is_over:
                stream.look_again()

    def clear(self) -> None:
        """Drop all that wait: the connection has gone."""
        for stream in self._streams.values():
            stream.wait.leave()
        self._streams.clear()


def _fields(head: RequestHead) -> tuple[bytes, ...]:
    """Returns what a request is recognised by when it comes again: its fields without its body's length."""
    fields = [part for name, value in head.headers if name != b"content-length" for part in (name, value)]
    return (head.method.encode(), head.target, *fields)
