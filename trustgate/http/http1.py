"""The quick way through HTTP/1.1: a request that is ordinary is read, run and answered here, in few steps.

Ordinary is what every client of the API sends: one head in one piece, without anything that changes how the connection
is read on, and a body of a stated length. Whatever else comes first (HTTP/2, an upgrade, a chunked body, ``Expect``, a
head in pieces or one that is wrong) goes, with its connection and from its first byte, to Hypercorn's protocols
(``protocols``), which read all of HTTP and refuse what is none. So nothing is judged here: a head is recognised
(``heads``) or it is somebody else's.

Owns the recognised connections: flow control both ways, keep-alive, the end of the process, and the bytes of answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from trustgate.errors import TrustGateError
from trustgate.http.heads import Head, read_head
from trustgate.http.sending import error_body

_logger = logging.getLogger("trustgate.server")

#: What is read ahead of the application, bytes; the client waits beyond it.
_AHEAD_BYTES = 64 * 1024
_KEEP_ALIVE_S = 75.0
#: What a client gets to take the last bytes of a connection that is being closed.
CLOSING_S = 5.0

_BODILESS = frozenset((204, 304))
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class Door:
    """What all connections of a listener share: the application, who else takes connections, and when all must go."""

    def __init__(self, app: ASGIApp, hand_over: Callable[[Connection], None], patience_s: float) -> None:
        """``patience_s``: how long a client may take in nothing of an answer before its connection is reset."""
        self.app = app
        self.patience_s = patience_s
        self.hand_over = hand_over
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.connections: set[Connection] = set()
        self.closing = False
        self._date = b""
        self._date_s = 0

    def date(self) -> bytes:
        """The field ``date`` (RFC 9110 section 6.6.1), made once a second."""
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = b"date: %b\r\n" % formatdate(now_s, usegmt=True).encode()
        return self._date

    async def close(self, grace_s: float) -> None:
        """End idle connections at once, others with their request, and after ``grace_s`` seconds all."""
        self.closing = True
        for connection in list(self.connections):
            connection.end_when_idle()
        until = self.loop.time() + grace_s
        while self.tasks and self.loop.time() < until:
            await asyncio.wait(set(self.tasks), timeout=until - self.loop.time())
        late = list(self.tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.connections):
            connection.close()
        # Closing flushes what is still to be sent: only who does not read is cut.
        for _ in range(int(CLOSING_S / 0.05)):
            if not self.connections:
                return
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One connection, as long as all that comes through it is ordinary."""

    transport: asyncio.Transport

    def __init__(self, door: Door) -> None:
        self._door = door
        #: What came behind the request that is being answered.
        self._ahead = b""
        self._exchange: Exchange | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_reading = True
        self._discards = False
        self._has_left = False
        self._timer: asyncio.TimerHandle | None = None
        self.lost = False

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        tls = transport.get_extra_info("ssl_object")
        self._scheme = "http" if tls is None else "https"
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._leave(b"")
            return
        self._door.connections.add(self)
        self._idle_since = self._door.loop.time()
        self._timer = self._door.loop.call_later(_KEEP_ALIVE_S, self._look_whether_idle)

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        if self._has_left:
            self._ahead += data
            return
        exchange = self._exchange
        if exchange is None:
            self._begin(data)
            return
        if exchange.missing:
            part = data[: exchange.missing]
            exchange.feed(part)
            data = data[len(part) :]
        if data:
            self._ahead += data
        if len(self._ahead) + exchange.unread > _AHEAD_BYTES and self._is_reading:
            self._is_reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        # Who stops sending has gone, as far as HTTP/1.1 clients are known to behave; the transport closes itself.
        self._gone()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._gone()
        self._door.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._drained = self._door.loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # inside

    def _gone(self) -> None:
        self.lost = True
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.wake()

    def _begin(self, data: bytes) -> None:
        """Read a head and run the application on it, or give the connection away."""
        head = read_head(data)
        door = self._door
        if head is None:
            self._leave(data)
            return
        path, _, query = head.target.partition(b"?")
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": head.method,
            "scheme": self._scheme,
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": self._client,
            "server": self._server,
            "state": {},
            "extensions": {},
        }
        ends = head.begins + head.length
        exchange = self._exchange = Exchange(self, door, head, data[head.begins : ends])
        if len(data) > ends:
            self._ahead = data[ends:]
        task = door.loop.create_task(exchange.run(scope))
        door.tasks.add(task)

    def _leave(self, data: bytes) -> None:
        """The connection is somebody else's from now on."""
        self._has_left = True
        self._ahead = data
        self._door.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._door.hand_over(self)

    def taken(self) -> bytes:
        """What has come and was not read, for whoever reads on."""
        data, self._ahead = self._ahead, b""
        return data

    def read_on(self) -> None:
        """The application has taken in what was read ahead."""
        if not self._is_reading and len(self._ahead) <= _AHEAD_BYTES and not self.lost:
            self._is_reading = True
            self.transport.resume_reading()

    def ended(self, *, keeps: bool) -> None:
        """The answer has been written: on to the next request, if there may be one."""
        self._exchange = None
        if self.lost:
            return
        if not keeps:
            self.close()
            return
        self._idle_since = self._door.loop.time()
        self.read_on()
        if self._ahead:
            data, self._ahead = self._ahead, b""
            self._begin(data)

    def linger(self) -> None:
        """Say no more, and let the client finish speaking: closed at once, it might not see the answer."""
        self._exchange = None
        if self.lost:
            return
        self._discards = True
        self._ahead = b""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.read_on()
            self._door.loop.call_later(CLOSING_S, self.transport.abort)
        else:
            self.close()

    def close(self) -> None:
        """Close when what was written has been taken, or after a while."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._door.loop.call_later(CLOSING_S, self.transport.abort)

    def end_when_idle(self) -> None:
        if self._exchange is None:
            self.close()

    def _look_whether_idle(self) -> None:
        left_s = self._idle_since + _KEEP_ALIVE_S - self._door.loop.time()
        if self._exchange is None and left_s <= 0:
            self.close()
            return
        self._timer = self._door.loop.call_later(max(left_s, 1.0), self._look_whether_idle)

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client takes in less than it is given."""
        if self.lost:
            return
        self.transport.write(data)
        if self._drained is not None:
            timer = self._door.loop.call_later(self._door.patience_s, self.transport.abort)
            try:
                await self._drained
            finally:
                timer.cancel()


class Exchange:
    """One request and its answer: the application's ``receive`` and ``send``."""

    __slots__ = (
        *("_closes", "_connection", "_door", "_is_chunked", "_is_done", "_left", "_parts"),
        *("_start", "_woken", "missing", "unread"),
    )

    def __init__(self, connection: Connection, door: Door, head: Head, body: bytes) -> None:
        self._connection = connection
        self._door = door
        self._closes = head.closes
        #: Bytes of the body that have not come yet, and that have come and were not read yet.
        self.missing = head.length - len(body)
        self.unread = len(body)
        self._parts = deque((body,))
        self._woken: asyncio.Future[None] | None = None
        #: The head of the answer while it waits for the first piece of its body.
        self._start: Message | None = None
        self._is_chunked = False
        #: Bytes that the answer still owes, where it has told its length; None: not begun, or not told.
        self._left: int | None = None
        self._is_done = False

    async def run(self, scope: Scope) -> None:
        task = asyncio.current_task()
        assert task is not None, "an exchange runs as a task"
        try:
            await self._door.app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass
        except Exception:
            _logger.exception("internal error in a request")
            if self._left is None and not self._is_chunked and not self._is_done:
                await self._fail()
        finally:
            self._door.tasks.discard(task)
            if not self._is_done:
                # It ended without ending its answer: the client sees that the end is missing.
                self._is_done = True
                self._connection.ended(keeps=False)

    # towards the application

    def feed(self, part: bytes) -> None:
        self._parts.append(part)
        self.unread += len(part)
        self.missing -= len(part)
        self.wake()

    def wake(self) -> None:
        woken, self._woken = self._woken, None
        if woken is not None and not woken.done():
            woken.set_result(None)

    async def receive(self) -> Message:
        while True:
            if self._is_done or self._connection.lost:
                return {"type": "http.disconnect"}
            if self._parts:
                part = self._parts.popleft()
                self.unread -= len(part)
                self._connection.read_on()
                return {"type": "http.request", "body": part, "more_body": bool(self.missing or self._parts)}
            self._woken = self._door.loop.create_future()
            await self._woken

    # towards the client

    async def send(self, message: Message) -> None:
        if self._is_done:
            return
        if message["type"] == "http.response.start":
            self._start = message
            # A piece of the body nearly always follows at once: they leave in one packet.
            self._door.loop.call_soon(self._send_head)
            return
        body: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        start, self._start = self._start, None
        if start is not None:
            head = self._render(start, len(body) if is_last else None)
            if start["status"] in _BODILESS:
                body = b""
        else:
            head = b""
        if self._left is not None:
            self._left -= len(body)
        elif self._is_chunked and body:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if is_last:
            await self._end(head + body)
        elif head or body:
            await self._connection.write(head + body)

    def _send_head(self) -> None:
        start, self._start = self._start, None
        if start is not None and not self._connection.lost:
            self._connection.transport.write(self._render(start, None))

    async def _end(self, data: bytes) -> None:
        if self._is_chunked:
            data += b"0\r\n\r\n"
        connection = self._connection
        await connection.write(data)
        if self._is_done:
            return
        self._is_done = True
        self.wake()
        if self._left:
            _logger.error("an answer was %d bytes shorter than it said", self._left)
            connection.ended(keeps=False)
        elif self.missing or self.unread > _AHEAD_BYTES:
            connection.linger()
        else:
            connection.ended(keeps=not self._closes and not self._door.closing)

    def _render(self, start: Message, size: int | None) -> bytes:
        """The bytes of the answer's head. ``size``: of the whole body, where it is known."""
        status: int = start["status"]
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        says_close = False
        for name, value in start.get("headers", ()):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and value == b"close":
                says_close = self._closes = True
        if status in _BODILESS:
            self._left = 0
        elif self._left is None:
            if size is None:
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self._left = size
                lines.append(b"content-length: %d\r\n" % size)
        lines.append(self._door.date())
        if self.missing or self._closes or self._door.closing:
            self._closes = True
            if not says_close:
                lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise ValueError("a response header holds a line end")
        return head + b"\r\n"

    async def _fail(self) -> None:
        body = error_body(TrustGateError("The gateway failed. The error is in its log."))
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]}
        )
        await self.send({"type": "http.response.body", "body": body})


def _address(name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
