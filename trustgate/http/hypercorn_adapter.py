"""Hypercorn's protocols, for connections given here: HTTP/2 (by prior knowledge, upgrade or ALPN) and other upgrades.

Owns what Hypercorn leaves open towards hostile or unlucky clients:

    a body that the application does not read                       dropped, instead of waited for
    a peer that does not read while its connection is closed        aborted after a while
    HTTP/2: a body that is not read yet                             held up by its own window, instead of all streams
    HTTP/2: data for a request that was answered already            counted, instead of ending every other request
    HTTP/2: an answer that was broken off                           a reset, instead of silence
    HTTP/2: frames for streams that have ended, in any order        the end of that stream, instead of the connection's
    HTTP/2: priorities (RFC 9113 section 5.3)                       ignored, instead of kept without end
    HTTP/2: requests that are made and reset, one after another     the end of the connection
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import h2.events
import h2.exceptions
import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import (
    STREAM_ID,
    H2CProtocolRequiredError,
    H2ProtocolAssumedError,
    H11Protocol,
    H11WSConnection,
)
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from priority.priority import PriorityError
from starlette.types import ASGIApp, Message

from trustgate.http.exchange import render_fields
from trustgate.http.http1 import Connection
from trustgate.http.hypercorn_config import make_config
from trustgate.http.parser import RequestHead
from trustgate.http.refusals import Shed
from trustgate.http.timeouts import ConnectionTimeouts
from trustgate.http.websockets import WebSocketStream

_logger = logging.getLogger("trustgate.server")

# RFC 9113 section 7
_INTERNAL_ERROR = 2
_ENHANCE_YOUR_CALM = 11
_HTTP_1_1_REQUIRED = 13
#: Resets of requests, in a second, that no client has a reason for (CVE-2023-44487).
_MAX_RESETS_PER_S = 200
#: What all streams of a connection may have sent without its having been read; each may have 64 KiB.
_CONNECTION_WINDOW_BYTES = 4 * 1024 * 1024
#: What is the other side's doing.
_PEER_FAULTS = (OSError, h2.exceptions.H2Error, h11.ProtocolError, PriorityError)


class Protocols:
    """The connections that were given here."""

    def __init__(self, app: ASGIApp, timeouts: ConnectionTimeouts, shed: Shed | None = None) -> None:
        """``shed``: judges requests of HTTP/2 before anything is begun for them."""
        self._shed = shed
        self._loop = asyncio.get_running_loop()
        self._config = make_config(timeouts)
        self._context = WorkerContext(None)
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._timeouts = timeouts
        self._connections: set[asyncio.Task[None]] = set()

    def adopt(self, connection: Connection) -> None:
        """Take over a connection, from what it has not read."""
        reader = asyncio.StreamReader(loop=self._loop)
        connection.hand_to(asyncio.StreamReaderProtocol(reader, self._serve, loop=self._loop))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(asyncio.CancelledError):
            parts = (self._app, self._loop, self._config, self._context, reader, writer)
            await _Connection(*parts, self._timeouts, self._shed).run()

    async def close(self, grace_s: float) -> None:
        """End idle connections at once, others with their request, and after ``grace_s`` seconds all."""
        await self._context.terminated.set()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class _Connection(TCPServer):
    """One connection, whichever protocol it turns out to speak."""

    def __init__(
        self,
        app: ASGIWrapper,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeouts: ConnectionTimeouts,
        shed: Shed | None,
    ) -> None:
        super().__init__(app, loop, config, context, {}, reader, writer)
        self._shed = shed
        self._timeouts = timeouts
        self._has_ended = False

    async def run(self) -> None:
        try:
            connection: Any = self.writer.get_extra_info("socket")
            tls: Any = self.writer.get_extra_info("ssl_object")
            async with _Tasks(self.loop) as tasks:
                self._task_group = tasks
                self.protocol = _Protocol(  # type: ignore[assignment]
                    (
                        self.app,
                        self.config,
                        self.context,
                        tasks,
                        ConnectionState({}),
                        tls is not None,
                        _address(connection, connection.getpeername),
                        _address(connection, connection.getsockname),
                        self.protocol_send,
                    ),
                    self._shed,
                    is_h2=tls is not None and tls.selected_alpn_protocol() == "h2",
                )
                await self.protocol.initiate()
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
                # It would go on waiting for the next request of a client that has gone.
                self._has_ended = True
                await self.idle_task.stop()
        except OSError:
            pass
        except ExceptionGroup as errors:
            _, ours = errors.split(_PEER_FAULTS)
            if ours is not None:
                _logger.error("internal error in a connection", exc_info=ours)
        finally:
            await self._close()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except (OSError, ssl.SSLError):
                break
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        if self._has_ended and isinstance(event, Updated):
            return
        timer = self.loop.call_later(self._timeouts.write_s, self.writer.transport.abort)
        try:
            await super().protocol_send(event)
        finally:
            timer.cancel()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self._timeouts.closing_s):
                await super()._close()
        except TimeoutError:
            self.writer.transport.abort()
        except OSError:
            pass


def _address(connection: Any, name: Callable[[], Any]) -> tuple[str, int] | None:
    return parse_socket_addr(connection.family, name())


class _Protocol:
    """What a connection speaks: HTTP/1.1 until it asks for HTTP/2."""

    def __init__(self, parts: tuple[Any, ...], shed: Shed | None, *, is_h2: bool) -> None:
        self._parts = parts
        self._shed = shed
        self.protocol: H11Protocol | H2Protocol = self._h2() if is_h2 else _H11(*parts)

    def _h2(self) -> _H2:
        protocol = _H2(*self._parts)
        protocol.shed = self._shed
        return protocol

    async def initiate(self) -> None:
        await self.protocol.initiate()

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            await self._switch(error.data)
        except H2CProtocolRequiredError as error:
            await self._switch(error.data, error.headers, error.settings)

    async def _switch(self, data: bytes, *upgrade: Any) -> None:
        self.protocol = self._h2()
        await self.protocol.initiate(*upgrade)
        if data:
            await self.protocol.handle(RawData(data))


class _H11(H11Protocol):
    """The request that asks for another protocol. Where that is refused its connection ends with the answer."""

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and event.status_code >= 200:
            headers = [*event.headers, (b"connection", b"close")]
            event = Response(stream_id=event.stream_id, headers=headers, status_code=event.status_code)
        await super().stream_send(event)

    async def _create_stream(self, request: h11.Request) -> None:
        if not any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in request.headers):
            await super()._create_stream(request)
            return
        connection = self.connection
        assert isinstance(connection, h11.Connection), "it has spoken HTTP/1.1 so far"
        self.stream = WebSocketStream(
            *(self.app, self.config, self.context, self.task_group, self.ssl, self.client, self.server),
            *(self.stream_send, STREAM_ID),
        )
        self.connection = H11WSConnection(connection)
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )


class _H2(H2Protocol):
    """HTTP/2. Its streams do not disturb each other, whatever one of them does."""

    task_group: _Tasks
    #: Judges requests before anything is begun for them.
    shed: Shed | None = None

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._resets = 0
        self._resets_since = 0.0

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        await super().initiate(headers, settings)
        window = self.connection.inbound_flow_control_window
        self.connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - window)
        await self._flush()

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            # Nothing is sent any more: answers that wait for it need not.
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            try:
                if isinstance(event, h2.events.DataReceived):
                    await self._take(event)
                elif isinstance(event, h2.events.StreamReset) and self._is_flooded():
                    self.connection.close_connection(_ENHANCE_YOUR_CALM)
                    await self._flush()
                    await self.send(Closed())
                    return
                elif self._is_welcome(event) and not self._is_refused(event):
                    await super()._handle_events([event])
            except (*_PEER_FAULTS, KeyError) as error:
                # Its stream, or the connection, has gone on to a state in which the event means nothing any more.
                _logger.debug("an HTTP/2 event was dropped: %r", error)
        await self._flush()

    async def _take(self, event: h2.events.DataReceived) -> None:
        """Keep data for its request's application. It counts against the stream's window until it is read."""
        stream = self.streams.get(event.stream_id)
        data = event.data or b""
        counted = event.flow_controlled_length or 0
        if stream is None:
            # The request was answered already: what still comes counts for the connection's flow alone.
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

    def _is_flooded(self) -> bool:
        """Returns whether resets come quicker than from a client that only changes its mind."""
        now = asyncio.get_running_loop().time()
        if now - self._resets_since > 1:
            self._resets_since, self._resets = now, 0
        self._resets += 1
        return self._resets > _MAX_RESETS_PER_S

    def _is_welcome(self, event: h2.events.Event) -> bool:
        """Returns whether Hypercorn is to have an event."""
        if isinstance(event, h2.events.RequestReceived):
            pseudo = {bytes(name): bytes(value) for name, value in event.headers or () if bytes(name)[:1] == b":"}
            if pseudo.get(b":method") == b"CONNECT" or b":path" not in pseudo:
                self._reset(event.stream_id, _HTTP_1_1_REQUIRED)
                return False
            if not all(value.isascii() for value in pseudo.values()):
                self._reset(event.stream_id, _INTERNAL_ERROR)
                return False
        return not isinstance(event, h2.events.PriorityUpdated)

    def _is_refused(self, event: h2.events.Event) -> bool:
        """Returns whether a request is refused at the door; it is answered then, and no stream made for it."""
        shed = self.shed
        if shed is None or not isinstance(event, h2.events.RequestReceived) or self.context.terminated.is_set():
            return False
        head = _head(event)
        reason = shed.judge(head)
        if not reason:
            shed.begun(head)  # its application runs from the next turn of the loop on
            return False
        status, headers, body = shed.refusal(head, reason)
        render_fields(headers)
        if self.connection.local_flow_control_window(event.stream_id) < len(body):
            body = b""  # its client has said that it takes in nothing
        fields = [(b":status", b"%d" % status), *headers, (b"content-length", b"%d" % len(body))]
        self.connection.send_headers(event.stream_id, fields, end_stream=not body)
        if body:
            self.connection.send_data(event.stream_id, body, end_stream=True)
        return True

    def _reset(self, stream_id: int, code: int) -> None:
        with contextlib.suppress(h2.exceptions.H2Error):
            self.connection.reset_stream(stream_id, code)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        self.task_group.on_read = partial(self._was_read, request.stream_id)
        await super()._create_stream(request)

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
        await super().stream_send(event)

    async def _send_data(self, stream_id: int) -> None:
        try:
            await super()._send_data(stream_id)
        except (*_PEER_FAULTS, KeyError):
            # The stream has gone between two steps of sending.
            buffer = self.stream_buffers.pop(stream_id, None)
            if buffer is not None:
                await buffer.close()
            with contextlib.suppress(PriorityError):
                self.priority.remove_stream(stream_id)


def _head(event: h2.events.RequestReceived) -> RequestHead:
    """Returns the head of a request of HTTP/2 as one of HTTP/1.1 is; its method and path were seen to be there."""
    fields = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
    pseudo = dict(field for field in fields if field[0][:1] == b":")
    path = pseudo[b":path"]
    is_path = path[:1] == b"/" and b"#" not in path
    head = RequestHead(pseudo[b":method"].decode().upper(), path if is_path else b"/", "2")
    head.headers = [field for field in fields if field[0][:1] != b":"]
    return head


class _Tasks(TaskGroup):
    """Applications whose unread requests hold up no others."""

    #: Is told how many bytes of a body were read, for the request that is begun next.
    on_read: Callable[[int], Awaitable[None]] | None = None

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        events = _Events(self.on_read)

        async def run() -> None:
            # Cancelled, it goes with its whole connection, and what sends for it: nothing can be ended then.
            try:
                await app(scope, events.get, send, None, None)
            except Exception:
                _logger.exception("internal error in a request")
            await events.close()
            await send(None)

        self.spawn(run)
        return events.put


class _Events:
    """What a request's application is told. Its bound is the stream's window: what was not read is not given back."""

    def __init__(self, on_read: Callable[[int], Awaitable[None]] | None) -> None:
        self._on_read = on_read
        self._body = bytearray()
        self._is_whole = False
        self._is_told = False
        self._is_gone = False
        self._is_closed = False
        self._others: deque[Message] = deque()
        self._woken = asyncio.Event()

    async def put(self, message: Message) -> None:
        if message["type"] == "http.request":
            if self._is_closed:
                await self._read(len(message["body"]))
                return
            self._body += message["body"]
            self._is_whole = not message["more_body"]
        elif message["type"] == "http.disconnect":
            self._is_gone = True
        else:
            self._others.append(message)
        self._woken.set()

    async def get(self) -> Message:
        while True:
            if self._others:
                return self._others.popleft()
            if self._is_gone:
                return {"type": "http.disconnect"}
            if self._body or (self._is_whole and not self._is_told):
                body, self._body = bytes(self._body), bytearray()
                self._is_told = self._is_whole
                await self._read(len(body))
                return {"type": "http.request", "body": body, "more_body": not self._is_told}
            self._woken.clear()
            await self._woken.wait()

    async def close(self) -> None:
        """Its application has ended: nothing is kept any more."""
        self._is_closed = True
        size = len(self._body)
        self._body.clear()
        await self._read(size)

    async def _read(self, size: int) -> None:
        if size and self._on_read is not None:
            await self._on_read(size)
