"""Hypercorn's protocols (HTTP/1.1, HTTP/2 by prior knowledge, by upgrade and over TLS), for connections given here.

Owns what Hypercorn leaves open towards hostile or unlucky clients:

    a request head that does not come to its end                    408 after a while
    a head that cannot be read, or is too large                     a JSON error instead of an empty one
    more body than anybody wants to read                            dropped, instead of waited for
    a peer that does not read while its connection is closed        aborted after a while
    HTTP/2: data for a request that was answered already            counted, instead of ending every other request
    HTTP/2: an answer that was broken off                           a reset, instead of silence
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import h2.events
import h2.exceptions
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.types import ASGIApp

from trustgate.errors import InvalidRequest, TrustGateError
from trustgate.http.http1 import CLOSING_S, Connection
from trustgate.http.sending import error_body

_logger = logging.getLogger("trustgate.server")

_KEEP_ALIVE_S = 75.0
_MAX_HEADERS_BYTES = 64 * 1024
_INTERNAL_ERROR = 2  # RFC 9113 section 7


class Protocols:
    """The connections that were given here."""

    def __init__(self, app: ASGIApp, head_timeout_s: float, patience_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = _config()
        self._context = WorkerContext(None)
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._head_timeout_s = head_timeout_s
        self._patience_s = patience_s
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
            await _Connection(*parts, self._head_timeout_s, self._patience_s).run()

    async def close(self, grace_s: float) -> None:
        """End idle connections at once, others with their request, and after ``grace_s`` seconds all."""
        await self._context.terminated.set()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("trustgate.hypercorn")
    config.include_server_header = False
    config.keep_alive_timeout = _KEEP_ALIVE_S
    config.h11_max_incomplete_size = _MAX_HEADERS_BYTES
    config.h2_max_header_list_size = _MAX_HEADERS_BYTES
    return config


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
        head_timeout_s: float,
        patience_s: float,
    ) -> None:
        super().__init__(app, loop, config, context, {}, reader, writer)
        self._head_timeout_s = head_timeout_s
        self._patience_s = patience_s
        self._head_deadline: float | None = None

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
                    is_h2=tls is not None and tls.selected_alpn_protocol() == "h2",
                )
                await self.protocol.initiate()
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass
        finally:
            await self._close()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                async with asyncio.timeout_at(self._head_deadline):
                    data = await self.reader.read(MAX_RECV)
            except TimeoutError:
                await self.protocol.protocol._send_error_response(408)  # type: ignore[union-attr]  # noqa: SLF001
                break
            except (OSError, ssl.SSLError):
                break
            await self.protocol.handle(RawData(data))
            self._watch_head()
        await self.protocol.handle(Closed())

    def _watch_head(self) -> None:
        """A head that has begun must come to its end."""
        protocol = self.protocol.protocol
        if isinstance(protocol, H11Protocol) and protocol.stream is None and protocol.connection.trailing_data[0]:
            self._head_deadline = self._head_deadline or self.loop.time() + self._head_timeout_s
        else:
            self._head_deadline = None

    async def protocol_send(self, event: Event) -> None:
        timer = self.loop.call_later(self._patience_s, self.writer.transport.abort)
        try:
            await super().protocol_send(event)
        finally:
            timer.cancel()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSING_S):
                await super()._close()
        except TimeoutError:
            self.writer.transport.abort()
        except OSError:
            pass


def _address(connection: Any, name: Callable[[], Any]) -> tuple[str, int] | None:
    return parse_socket_addr(connection.family, name())


class _Protocol:
    """What a connection speaks: HTTP/1.1 until it asks for HTTP/2."""

    def __init__(self, parts: tuple[Any, ...], *, is_h2: bool) -> None:
        self._parts = parts
        self.protocol: H11Protocol | H2Protocol = _H2(*parts) if is_h2 else _H11(*parts)

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
        self.protocol = _H2(*self._parts)
        await self.protocol.initiate(*upgrade)
        if data:
            await self.protocol.handle(RawData(data))


class _H11(H11Protocol):
    async def stream_send(self, event: StreamEvent) -> None:
        import h11

        if isinstance(event, Response) and self.connection.their_state is h11.SEND_BODY:
            # A client that is not told would send its next request into a closed connection.
            said = any(name == b"connection" for name, _ in event.headers)
            headers = event.headers if said else [*event.headers, (b"connection", b"close")]
            event = Response(stream_id=event.stream_id, headers=headers, status_code=event.status_code)
        await super().stream_send(event)

    async def _send_error_response(self, status_code: int) -> None:
        """What is refused before there is a request: said as everything else is."""
        import h11

        body = error_body(_unreadable(status_code))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _unreadable(status: int) -> TrustGateError:
    what, code = {
        408: ("The head of the request did not come to its end in time.", "request_timeout"),
        431: ("The head of the request is too large.", "header_too_large"),
        501: ("The request has a transfer encoding that is not served.", "unsupported_transfer_encoding"),
    }.get(status, ("The request is not HTTP that can be read.", "invalid_http"))
    return InvalidRequest(what, code=code)


class _H2(H2Protocol):
    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if self._is_welcome(event):
                await super()._handle_events([event])
        await self._flush()

    def _is_welcome(self, event: h2.events.Event) -> bool:
        """Whether Hypercorn can take an event without ending the whole connection."""
        if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
            # The request was answered already: what still comes counts for the connection's flow alone.
            with contextlib.suppress(h2.exceptions.H2Error):
                self.connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            return False
        if isinstance(event, h2.events.RequestReceived):
            pseudo = [bytes(value) for name, value in event.headers or () if bytes(name)[:1] == b":"]
            if not all(value.isascii() for value in pseudo):
                self.connection.reset_stream(event.stream_id, _INTERNAL_ERROR)
                return False
        return True

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            buffer = self.stream_buffers.get(event.stream_id)
            # Its application has ended without ending its answer.
            if buffer is not None and not buffer._complete:  # noqa: SLF001 - it has no other way to ask
                with contextlib.suppress(h2.exceptions.H2Error):
                    self.connection.reset_stream(event.stream_id, _INTERNAL_ERROR)
                await self._flush()
                await buffer.close()
        await super().stream_send(event)


class _Tasks(TaskGroup):
    """Applications whose unread requests hold up nobody once they have ended."""

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        events = _Events(config.max_app_queue_size)

        async def run() -> None:
            try:
                await app(scope, events.get, send, None, None)
            except asyncio.CancelledError:
                raise
            except Exception:
                _logger.exception("internal error in a request")
            finally:
                events.close()
                await send(None)

        self.spawn(run)
        return events.put


class _Events(asyncio.Queue[Any]):
    """What a request's application is told. Once there is nobody to tell, nothing is kept and nobody waits."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._is_closed = False

    async def put(self, item: Any) -> None:
        if self._is_closed:
            return
        if item["type"] == "http.disconnect":
            # It comes from where the answer is sent: behind a body that nobody reads it would wait for itself.
            self.close()
            self.put_nowait(item)
        else:
            await super().put(item)

    def close(self) -> None:
        self._is_closed = True
        while not self.empty():
            self.get_nowait()
