"""Hypercorn's protocols, for connections given here: HTTP/2 (by prior knowledge or ALPN) and WebSockets.

Owns what Hypercorn leaves open towards hostile or unlucky clients:

    a body that the application does not read                       dropped, instead of waited for
    a peer that does not read while its connection is closed        aborted after a while
    HTTP/2: a body that is not read yet                             held up by its own window, instead of all streams
    HTTP/2: data for a request that was answered already            counted, instead of ending every other request
    HTTP/2: an answer that was broken off                           a reset, instead of silence
    HTTP/2: frames for streams that have ended, in any order        the end of that stream, instead of the connection's
    HTTP/2: priorities (RFC 9113 section 5.3)                       ignored, instead of kept without end
    HTTP/2: requests that are made and reset, one after another     the end of the connection
    HTTP/2: frames that ask for nothing, one after another          the end of the connection
    HTTP/2: many small frames at once, from many connections        read in turns, between which other requests run
    HTTP/2: an answer for which the client gives no window          a reset after a while; little of it is in memory
    HTTP/2: more fields than HTTP/1.1 may have                      refused
    HTTP/2: a request without room                                  waits or is refused, and no stream is made for it
    HTTP/2: the end of a connection from here                       announced (GOAWAY), so that no request is lost
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, Response
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import (
    STREAM_ID,
    H2ProtocolAssumedError,
    H11Protocol,
    H11WSConnection,
)
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.types import ASGIApp

from trustgate.http.capacity import Idle
from trustgate.http.frames import Turns
from trustgate.http.http1 import Connection
from trustgate.http.http2 import PEER_FAULTS, Http2, Http2Door
from trustgate.http.http2_tasks import Tasks
from trustgate.http.hypercorn_config import make_config
from trustgate.http.refusals import Refusals, Shed
from trustgate.http.timeouts import ConnectionTimeouts
from trustgate.http.websockets import WebSocketStream
from trustgate.tasks import end_tasks, wait_at_most

_logger = logging.getLogger("trustgate.server")

#: How long a client of HTTP/2 has to acknowledge that its connection ends, seconds.
_ANNOUNCED_S = 1.0


class Protocols:
    """The connections that were given here."""

    def __init__(
        self,
        app: ASGIApp,
        timeouts: ConnectionTimeouts,
        shed: Shed | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        """``shed``: judges requests of HTTP/2 before anything is begun for them; they wait for room in ``refusals``."""
        self._door = None if shed is None or refusals is None else Http2Door(shed, refusals)
        self._loop = asyncio.get_running_loop()
        self._config = make_config(timeouts)
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._timeouts = timeouts
        self._turns = Turns(self._loop)
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    def adopt(self, connection: Connection) -> None:
        """Take over a connection, from what it has not read."""
        reader = asyncio.StreamReader(loop=self._loop)
        connection.hand_to(asyncio.StreamReaderProtocol(reader, self._serve, loop=self._loop))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        parts = (self._app, self._loop, self._config, WorkerContext(None), reader, writer)
        connection = self._connections[task] = _Connection(*parts, self._timeouts, self._door, self._turns)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await connection.run()
        finally:
            del self._connections[task]

    def count(self) -> int:
        """Returns how many connections there are."""
        return len(self._connections)

    def idle(self) -> Iterator[Idle]:
        """Yields those of HTTP/2 that are idle."""
        for connection in self._connections.values():
            since = connection.idle_since()
            if since is not None:
                yield Idle(has_had_request=True, since=since, end=connection.end)

    async def close(self, grace_s: float) -> None:
        """End each connection when it is idle, and after ``grace_s`` seconds all.

        The end is announced to clients of HTTP/2 first (GOAWAY), and what they send before they know of it is answered.
        It is announced when none of their requests runs, at the latest after half of the time: some clients (httpcore)
        give up what runs then.
        """
        if self._door is not None:
            for streams in list(self._door.waiting):
                streams.refuse()
            await asyncio.gather(*self._door.answers, return_exceptions=True)
        if not self._connections:
            return
        ends = [asyncio.ensure_future(each.end_when_idle(grace_s / 2)) for each in self._connections.values()]
        _, late = await asyncio.wait(set(self._connections), timeout=grace_s)
        await end_tasks((*ends, *late))


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
        door: Http2Door | None,
        turns: Turns,
    ) -> None:
        super().__init__(app, loop, config, context, {}, reader, writer)
        self._door = door
        self._turns = turns
        self._timeouts = timeouts
        self._has_ended = False
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        protocol: _Protocol | None = None
        try:
            connection: Any = self.writer.get_extra_info("socket")
            tls: Any = self.writer.get_extra_info("ssl_object")
            async with Tasks(self.loop) as tasks:
                self._task_group = tasks
                protocol = self.protocol = _Protocol(  # type: ignore[assignment]
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
                    partial(Http2, turns=self._turns, write_s=self._timeouts.write_s),
                    self._door,
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
            _, ours = errors.split(PEER_FAULTS)
            if ours is not None:
                _logger.error("internal error in a connection", exc_info=ours)
        finally:
            if protocol is not None:
                protocol.leave_door()
            await self._close()
            if self._ending is not None:
                await asyncio.wait([self._ending])

    async def end_when_idle(self, announced_after_s: float) -> None:
        """End the connection when no request runs.

        To a client of HTTP/2 the end is announced before (``Http2.announce_end``): when no request of it runs, and at
        the latest after ``announced_after_s`` seconds, with requests that run.
        """
        if (http2 := self._http2) is not None:
            await wait_at_most(http2.is_idle, announced_after_s)
            try:
                async with asyncio.timeout(_ANNOUNCED_S):
                    await http2.announce_end()
            except TimeoutError:
                await http2.send_last_goaway()
        await self.context.terminated.set()

    def idle_since(self) -> float | None:
        """Returns since when it is idle, in the loop's time; None: it has requests, or does not speak HTTP/2."""
        http2 = self._http2
        return None if http2 is None else http2.idle_since()

    def end(self) -> bool:
        """End the connection, which is idle, now. A GOAWAY frame names the last request.

        Returns:
            Whether it ends: always.
        """
        self._ending = self.loop.create_task(self._initiate_server_close())
        return True

    @property
    def _http2(self) -> Http2 | None:
        protocol = getattr(self, "protocol", None)
        return protocol.http2 if isinstance(protocol, _Protocol) else None

    async def _initiate_server_close(self) -> None:
        if (http2 := self._http2) is not None:
            await http2.send_last_goaway()
        await super()._initiate_server_close()

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
    """What a connection speaks: HTTP/1.1 until its first bytes are those of HTTP/2."""

    def __init__(
        self, parts: tuple[Any, ...], make_http2: Callable[..., Http2], door: Http2Door | None, *, is_h2: bool
    ) -> None:
        self._parts = parts
        self._make_http2 = make_http2
        self._door = door
        self.protocol: H11Protocol | H2Protocol = self._h2() if is_h2 else _H11(*parts)

    def _h2(self) -> Http2:
        protocol = self._make_http2(*self._parts)
        if self._door is not None:
            protocol.ask(self._door)
        return protocol

    @property
    def http2(self) -> Http2 | None:
        return self.protocol if isinstance(self.protocol, Http2) else None

    async def initiate(self) -> None:
        await self.protocol.initiate()

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            self.protocol = self._h2()
            await self.protocol.initiate()
            await self.protocol.handle(RawData(error.data))

    def leave_door(self) -> None:
        if isinstance(self.protocol, Http2):
            self.protocol.leave_door()


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
