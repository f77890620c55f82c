"""Hypercorn's HTTP/2 with what is added to it; ``hypercorn_adapter`` has the list."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

import h2.events
import h2.exceptions
import h11
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame
from priority.priority import PriorityError

from trustgate.errors import InvalidRequest
from trustgate.http.exchange import render_fields
from trustgate.http.frames import Cutter, Turns
from trustgate.http.http2_tasks import Tasks
from trustgate.http.parser import MAX_FIELDS, RequestHead, too_many_fields
from trustgate.http.refusals import Refusals, Shed
from trustgate.http.sending import Headers, error_body
from trustgate.http.waiting_streams import GONE, WaitingStream, WaitingStreams

_logger = logging.getLogger("trustgate.server")

# RFC 9113 section 7
_INTERNAL_ERROR = 2
_REFUSED_STREAM = 7
_CANCEL = 8
_ENHANCE_YOUR_CALM = 11
_HTTP_1_1_REQUIRED = 13
#: The last stream of a GOAWAY that announces another one (section 6.8).
_NO_LAST_STREAM = 2**31 - 1
#: What the PING frames before and behind it bring back.
_ANSWERS_PING, _END_PING = b"answers.", b"the end."
#: Resets of requests, in a second, that no client has a reason for (CVE-2023-44487).
_MAX_RESETS_PER_S = 200
#: The same of frames that ask for nothing: pings, settings, priorities, empty pieces of a body (section 10.5).
_MAX_IDLE_FRAMES_PER_S = 1000
#: The largest piece that is put into a stream's buffer, and how much in the buffer makes the next one wait: less than
#: twice as much is kept. The rest of an answer waits in the application.
_PIECE_BYTES = 16 * 1024
#: How many bytes of all streams of a connection may be unread; of each stream it is 64 KiB.
_CONNECTION_WINDOW_BYTES = 4 * 1024 * 1024
#: Exceptions whose cause is the client.
PEER_FAULTS = (OSError, h2.exceptions.H2Error, h11.ProtocolError, PriorityError)


class Http2Door:
    """What the HTTP/2 connections of a listener share for judging requests before they begin."""

    def __init__(self, shed: Shed, refusals: Refusals) -> None:
        self.shed = shed
        self.refusals = refusals
        #: The waiting streams of each connection, and the tasks that answer those that have waited.
        self.waiting: set[WaitingStreams] = set()
        self.answers: set[asyncio.Task[None]] = set()


class Http2(H2Protocol):
    """A connection of HTTP/2 whose streams do not hold each other up."""

    task_group: Tasks

    def __init__(self, *parts: Any, turns: Turns, write_s: float) -> None:
        """
        Args:
            parts: as ``H2Protocol`` takes them.
            turns: those of all connections.
            write_s: how long a client may take in nothing of an answer before its stream is reset, seconds.
        """
        super().__init__(*parts)
        self._turns = turns
        self._write_s = write_s
        self._cutter = Cutter()
        #: Resets, and frames that ask for nothing, since ``_counted_since``.
        self._resets = 0
        self._idle_frames = 0
        self._counted_since = 0.0
        #: Of each stream with an answer under way: since when nothing of it was sent, in the loop's time.
        self._unsent_since: dict[int, float] = {}
        self._stall_timer: asyncio.TimerHandle | None = None
        #: Of the streams whose applications wait, or have waited, for space in a buffer: set when there is some.
        self._drained: dict[int, asyncio.Event] = {}
        self._door: Http2Door | None = None
        self._waiting: WaitingStreams | None = None
        #: The heads of requests that were let through, by their streams, until they are begun.
        self._let_through: dict[int, RequestHead] = {}
        #: Set while no request runs.
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        #: Since when none did, in the loop's time.
        self._idle_since = asyncio.get_running_loop().time()
        #: The PING frame that is waited for; set when the client has acknowledged it, or has gone.
        self._ping_data = b""
        self._is_acknowledged = asyncio.Event()
        #: The last stream that is answered; None: there is no last one yet.
        self._last_stream: int | None = None

    def ask(self, door: Http2Door) -> None:
        """Have requests judged by a door before anything is begun for them. Called once, before the first request."""
        self._door = door
        self._waiting = WaitingStreams(door.shed, door.refusals, self._decided)
        door.waiting.add(self._waiting)

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        await super().initiate(headers, settings)
        window = self.connection.inbound_flow_control_window
        self.connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - window)
        await self._flush()

    async def announce_end(self) -> None:
        """Have the client begin no more requests; those that are on their way are answered (RFC 9113 section 6.8).

        The first GOAWAY names no last stream. The answer to the PING behind it comes after all requests that the client
        has sent before it had the first GOAWAY; then the second one names the last stream.

        A PING before them waits until the client has read all answers. Clients on h2 (httpx) take a PING behind a
        GOAWAY for an error, and lose the answers that they read together with it.
        """
        with contextlib.suppress(h2.exceptions.H2Error):
            await self._ping(_ANSWERS_PING)
            await self.send(RawData(GoAwayFrame(last_stream_id=_NO_LAST_STREAM).serialize()))
            await self._ping(_END_PING)
        await self.send_last_goaway()

    async def _ping(self, data: bytes) -> None:
        """Wait until the client has acknowledged a PING frame with 8 bytes of data, or has gone."""
        if self.closed:
            return
        self._ping_data = data
        self._is_acknowledged.clear()
        self.connection.ping(data)
        await self._flush()
        await self._is_acknowledged.wait()

    async def send_last_goaway(self) -> None:
        """Send the GOAWAY with the last stream that is answered, once."""
        if self._last_stream is not None or self.closed:
            return
        self._last_stream = last = self.connection.highest_inbound_stream_id
        await self._flush()
        await self.send(RawData(GoAwayFrame(last_stream_id=last).serialize()))

    def idle_since(self) -> float | None:
        """Returns since when no request of it runs, in the loop's time; None: one does, or waits, or it ends."""
        is_idle = self.is_idle.is_set() and (self._waiting is None or not self._waiting.are_any)
        return self._idle_since if is_idle and self._last_stream is None and not self.closed else None

    def leave_door(self) -> None:
        """Drop the requests that wait: the connection has gone."""
        if self._door is not None and self._waiting is not None:
            self._waiting.clear()
            self._door.waiting.discard(self._waiting)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._read(event.data)
            return
        await super().handle(event)
        if isinstance(event, Closed):
            if self._stall_timer is not None:
                self._stall_timer.cancel()
            self._is_acknowledged.set()
            self.is_idle.set()
            self.leave_door()
            # Nothing is sent any more: no answer has to wait for space in a buffer.
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _read(self, data: bytes) -> None:
        """Read frames, in turns with the other connections."""
        for piece, work in self._cutter.cut(data):
            await self._turns.take(work)
            if self.closed:
                return
            self._count_anew()
            if self._cutter.idle_frames - self._idle_frames > _MAX_IDLE_FRAMES_PER_S:
                await self._calm_down()
                return
            await super().handle(RawData(piece))

    async def _calm_down(self) -> None:
        """End the connection of a client that floods it."""
        with contextlib.suppress(h2.exceptions.H2Error):
            self.connection.close_connection(_ENHANCE_YOUR_CALM)
            await self._flush()
        await self.send(Closed())

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.StreamReset):
                self._resets += 1
                if self._resets > _MAX_RESETS_PER_S:
                    await self._calm_down()
                    return
            if isinstance(event, h2.events.PingAckReceived) and event.ping_data == self._ping_data:
                self._is_acknowledged.set()
            if self._waiting is None or not self._waiting.take(event):
                await self._handle_event(event)
        await self._flush()

    async def _handle_event(self, event: h2.events.Event) -> None:
        try:
            if isinstance(event, h2.events.DataReceived):
                await self._take(event)
            elif self._is_welcome(event):
                if isinstance(event, h2.events.RequestReceived):
                    await self._receive(event)
                else:
                    await super()._handle_events([event])
        except (*PEER_FAULTS, KeyError) as error:
            # Its stream, or the connection, is in a state by now in which the event has no meaning.
            _logger.debug("an HTTP/2 event was dropped: %r", error)

    async def _take(self, event: h2.events.DataReceived) -> None:
        """Keep data for its request's application. It counts against the stream's window until it is read."""
        stream = self.streams.get(event.stream_id)
        data = event.data or b""
        counted = event.flow_controlled_length or 0
        if stream is None:
            # The request has been answered: what still comes counts for the connection's flow control alone.
            self._acknowledge(event.stream_id, counted)
            return
        self._acknowledge(event.stream_id, counted - len(data))  # padding
        if data:
            await stream.handle(Body(stream_id=event.stream_id, data=data))

    def _acknowledge(self, stream_id: int, size: int) -> None:
        if size:
            with contextlib.suppress(h2.exceptions.H2Error):
                self.connection.acknowledge_received_data(size, stream_id)

    async def _was_read(self, stream_id: int, size: int) -> None:
        self._acknowledge(stream_id, size)
        await self._flush()

    def _count_anew(self) -> None:
        """Begin to count floods anew, once a second."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_since > 1:
            self._counted_since, self._resets, self._idle_frames = now, 0, self._cutter.idle_frames

    def _is_welcome(self, event: h2.events.Event) -> bool:
        """Returns whether an event is passed to Hypercorn."""
        if isinstance(event, h2.events.RequestReceived):
            if len(event.headers or ()) > MAX_FIELDS:
                wrong = too_many_fields()
                body = error_body(InvalidRequest(wrong.message, code=wrong.code))
                self._answer(event.stream_id, wrong.status, [(b"content-type", b"application/json")], body)
                return False
            pseudo = {bytes(name): bytes(value) for name, value in event.headers or () if bytes(name)[:1] == b":"}
            if pseudo.get(b":method") == b"CONNECT" or b":path" not in pseudo:
                self._reset(event.stream_id, _HTTP_1_1_REQUIRED)
                return False
            if not all(value.isascii() for value in pseudo.values()):
                self._reset(event.stream_id, _INTERNAL_ERROR)
                return False
        return not isinstance(event, h2.events.PriorityUpdated)

    async def _receive(self, request: h2.events.RequestReceived) -> None:
        """Begin a request, or let it wait at the door: then it is begun or refused later."""
        if self._last_stream is not None or self.context.terminated.is_set():
            # Sent again elsewhere, it is not carried out twice.
            self._reset(request.stream_id, _REFUSED_STREAM)
            return
        door = self._door
        if door is None or self._waiting is None:
            await super()._handle_events([request])
            return
        head = _head(request)
        if not self._waiting.judge(request, head):
            await self.send(Updated(idle=False))
            return
        await self._begin(request, head)

    async def _begin(self, request: h2.events.RequestReceived, head: RequestHead) -> None:
        """Run the application on a request that was let through."""
        self._let_through[request.stream_id] = head
        try:
            await super()._handle_events([request])
        finally:
            self._has_begun(request.stream_id)

    def _has_begun(self, stream_id: int) -> None:
        """Note that a request which was let through has begun, or has gone before it could.

        That counts from the next turn of the loop on, when its application has taken its first step: until then those
        that came in the same packet find one place less.
        """
        head = self._let_through.pop(stream_id, None)
        if head is not None and self._door is not None:
            asyncio.get_running_loop().call_soon(self._door.shed.begun, head)

    def _decided(self, stream: WaitingStream, reason: Any) -> None:
        door = self._door
        assert door is not None, "something has waited at it"
        if not reason:
            self._let_through[stream.stream_id] = stream.head
        task = self.task_group.spawn_task(self._go_on(stream, reason))
        door.answers.add(task)

        def is_done(task: asyncio.Task[None]) -> None:
            door.answers.discard(task)
            self._has_begun(stream.stream_id)  # where it has gone before it could

        task.add_done_callback(is_done)

    async def _go_on(self, stream: WaitingStream, reason: Any) -> None:
        """Begin a request that has waited, or refuse it (``reason``)."""
        assert self._waiting is not None, "something has waited"
        if not reason:
            try:
                await self._begin(stream.request, stream.head)
            except (*PEER_FAULTS, KeyError) as error:
                _logger.debug("an HTTP/2 request was dropped: %r", error)
        while stream.events:
            event = stream.events.popleft()
            if not reason or isinstance(event, h2.events.DataReceived):
                await self._handle_event(event)
        self._waiting.over(stream)
        if reason and reason is not GONE:
            with contextlib.suppress(*PEER_FAULTS, KeyError):
                self._refuse(stream, reason)
            await self.send(Updated(idle=not self.streams))
        await self._flush()

    def _refuse(self, stream: WaitingStream, reason: Any) -> None:
        assert self._door is not None, "it was judged"
        self._answer(stream.stream_id, *self._door.shed.refusal(stream.head, reason))

    def _answer(self, stream_id: int, status: int, headers: Headers, body: bytes) -> None:
        """Give the whole answer to a request for which nothing was begun. Raises what h2 does."""
        render_fields(headers)
        if self.connection.local_flow_control_window(stream_id) < len(body):
            body = b""  # the client's flow-control window is smaller
        fields = [(b":status", b"%d" % status), *headers, (b"content-length", b"%d" % len(body))]
        self.connection.send_headers(stream_id, fields, end_stream=not body)
        if body:
            self.connection.send_data(stream_id, body, end_stream=True)

    def _reset(self, stream_id: int, code: int) -> None:
        with contextlib.suppress(h2.exceptions.H2Error):
            self.connection.reset_stream(stream_id, code)

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            # Its client may have reset it: nothing waits for the rest to be sent. A whole answer has left it by now.
            await buffer.close()
        drained = self._drained.pop(stream_id, None)
        if drained is not None:
            drained.set()
        if not self.streams and not self.is_idle.is_set():
            self.is_idle.set()
            self._idle_since = asyncio.get_running_loop().time()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        self.is_idle.clear()
        self.task_group.on_read = partial(self._was_read, request.stream_id)
        await super()._create_stream(request)
        self._has_begun(request.stream_id)  # now, since what follows may wait for the client

    async def stream_send(self, event: StreamEvent) -> None:
        if self.closed and not isinstance(event, StreamClosed):
            return
        if isinstance(event, Response):
            render_fields(event.headers)
        elif isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            # Its application has ended without ending its answer.
            if buffer is not None and not buffer._complete:  # noqa: SLF001 - it has no other way to ask
                self._reset(event.stream_id, _INTERNAL_ERROR)
                await self._flush()
                await buffer.close()
        elif isinstance(event, Body):
            await self._send_body(event.stream_id, event.data)
            return
        await super().stream_send(event)

    async def _send_body(self, stream_id: int, data: bytes) -> None:
        """Put a part of an answer into its stream's buffer in pieces, each once there is space for it.

        Hypercorn's own wait for space ends with each attempt to send, even where the window is closed.
        """
        for at in range(0, len(data), _PIECE_BYTES):
            self._watch(stream_id)
            while stream_id in self.streams and self._is_full(stream_id):
                drained = self._drained.setdefault(stream_id, asyncio.Event())
                drained.clear()
                await drained.wait()
            if stream_id not in self.streams:
                return
            piece = data if len(data) <= _PIECE_BYTES else data[at : at + _PIECE_BYTES]
            await super().stream_send(Body(stream_id=stream_id, data=piece))

    def _is_full(self, stream_id: int) -> bool:
        buffer = self.stream_buffers.get(stream_id)
        return buffer is not None and len(buffer.buffer) >= _PIECE_BYTES

    def _watch(self, stream_id: int) -> None:
        """Begin to measure how long nothing of a stream's answer is taken in. It is reset after ``write_s``."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None or buffer.buffer:
            return
        loop = asyncio.get_running_loop()
        self._unsent_since[stream_id] = loop.time()
        if self._stall_timer is None:
            self._stall_timer = loop.call_later(self._write_s, self._look_for_stalled)

    def _look_for_stalled(self) -> None:
        self._stall_timer = None
        if self.closed:
            return
        now = asyncio.get_running_loop().time()
        for stream_id, since in list(self._unsent_since.items()):
            buffer = self.stream_buffers.get(stream_id)
            if buffer is None or not buffer.buffer:
                # All that the application has given is sent.
                del self._unsent_since[stream_id]
            elif now - since >= self._write_s:
                del self._unsent_since[stream_id]
                _ = self.task_group.spawn_task(self._cut(stream_id))  # the group keeps it
        if self._unsent_since:
            after_s = min(self._unsent_since.values()) + self._write_s - now
            self._stall_timer = asyncio.get_running_loop().call_later(after_s, self._look_for_stalled)

    async def _cut(self, stream_id: int) -> None:
        """Reset a stream; for its application the client has gone."""
        self._reset(stream_id, _CANCEL)
        await self._flush()
        await self._close_stream(stream_id)
        await self._window_updated(stream_id)

    async def _send_data(self, stream_id: int) -> None:
        try:
            if stream_id in self._unsent_since and self.connection.local_flow_control_window(stream_id) > 0:
                self._unsent_since[stream_id] = asyncio.get_running_loop().time()
            await super()._send_data(stream_id)
            drained = self._drained.get(stream_id)
            if drained is not None and not self._is_full(stream_id):
                drained.set()
        except (*PEER_FAULTS, KeyError):
            # The stream has gone between two steps of sending.
            buffer = self.stream_buffers.pop(stream_id, None)
            if buffer is not None:
                await buffer.close()
            with contextlib.suppress(PriorityError):
                self.priority.remove_stream(stream_id)


def _head(event: h2.events.RequestReceived) -> RequestHead:
    """Returns the head of an HTTP/2 request in the form of HTTP/1.1's. The request has a method and a path."""
    fields = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
    pseudo = dict(field for field in fields if field[0][:1] == b":")
    path = pseudo[b":path"]
    is_path = path[:1] == b"/" and b"#" not in path
    head = RequestHead(pseudo[b":method"].decode().upper(), path if is_path else b"/", "2")
    head.headers = [field for field in fields if field[0][:1] != b":"]
    return head
