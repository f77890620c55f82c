"""Requests of HTTP/2 that wait at the door (``refusals``), each with what came of its stream meanwhile.

Of one that waits nothing is begun: no stream of Hypercorn's, no task. Its data count against the stream's window and
the bytes that may wait in all. The other streams of its connection go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import h2.events

from trustgate.http.parser import RequestHead
from trustgate.http.refusals import AT_ONCE_S, Refusals, Shed, Wait

#: Of how many requests a connection remembers that they were refused just now.
_MOST_REFUSED: Final = 32
#: What a head takes beside its fields, bytes.
_HEAD_BYTES: Final = 256
#: In the place of a reason: its client has reset the stream.
GONE: Final = object()


class WaitingStream:
    """One request that waits, or that was let through and whose events are still to be handed on."""

    def __init__(self, request: h2.events.RequestReceived, head: RequestHead, streams: WaitingStreams) -> None:
        self.request = request
        self.head = head
        #: What came of its stream since, in its order.
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
    """Those of a connection."""

    def __init__(self, shed: Shed, refusals: Refusals, decided: Callable[[WaitingStream, Any], None]) -> None:
        """``decided`` is called once for each: why it is refused, ``GONE``, or something empty: it is let through."""
        self._shed = shed
        self._refusals = refusals
        self._decided = decided
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, WaitingStream] = {}
        #: When requests were refused, by their fields (``_fields``); the last ones.
        self._refused: dict[tuple[bytes, ...], float] = {}

    def judge(self, request: h2.events.RequestReceived, head: RequestHead) -> bool:
        """Returns whether a request is let through now; else it waits, and ``decided`` is called later."""
        reason = self._shed.judge(head, self._refusals.queues)
        if not reason:
            return True
        stream = WaitingStream(request, head, self)
        self._streams[stream.stream_id] = stream
        at_once = self._loop.time() - self._refused.get(_fields(head), -1.0) < AT_ONCE_S
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
        """The events of a stream come to where they came before."""
        self._streams.pop(stream.stream_id, None)

    def refuse(self) -> None:
        """Nothing waits any more: where there is no room now, it is refused."""
        for stream in list(self._streams.values()):
            if not stream.wait.is_over:
                stream.look_again()

    def clear(self) -> None:
        """The connection has gone."""
        for stream in self._streams.values():
            stream.wait.leave()
        self._streams.clear()


def _fields(head: RequestHead) -> tuple[bytes, ...]:
    """Returns what requests of one client have in common: all but the length of their body."""
    fields = [part for name, value in head.headers if name != b"content-length" for part in (name, value)]
    return (head.method.encode(), head.target, *fields)
