"""One HTTP/1.1 request and its answer: the application's ``receive`` and ``send``.

Owns the bytes of answers (RFC 9112 sections 6 and 7): how long a body is said to be, chunks, whether the connection
goes on, and that no header field can hold a line end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from trustgate.errors import TrustGateError
from trustgate.http.parser import ChunkedBody, Headers, InvalidHttp, RequestHead
from trustgate.http.sending import BODY_FOLLOWS, error_body

_logger = logging.getLogger("trustgate.server")

_BODILESS = frozenset((204, 304))
_VERSION = b"HTTP/1.1 "
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: A larger body is sent beside its head: to put both together would copy it.
_JOINED_BYTES = 256 * 1024


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    lost: bool

    def put(self, data: bytes) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def write_at_once(self, data: bytes) -> bool: ...
    def is_full(self) -> bool: ...
    def read_on(self) -> None: ...
    def ended(self, *, keeps: bool) -> None: ...
    def linger(self) -> None: ...
    def refuse(self, error: InvalidHttp) -> None: ...


class Surroundings(Protocol):
    """What an exchange needs of what all connections share."""

    loop: asyncio.AbstractEventLoop
    closing: bool
    tasks: set[asyncio.Task[None]]

    def date(self) -> bytes: ...
    def begun(self, head: RequestHead) -> None: ...


class Exchange:
    """One request and its answer."""

    __slots__ = (
        *("_chunks", "_connection", "_door", "_expects_continue", "_has_begun", "_is_bodiless", "_is_chunked"),
        *("_is_told", "_is_unusual", "_keeps", "_left", "_missing", "_parts", "_sent_early", "_start", "_woken"),
        *("head", "is_done", "is_whole", "task", "unread"),
    )

    def __init__(self, connection: Carrier, door: Surroundings, head: RequestHead) -> None:
        self._connection = connection
        self._door = door
        self.head = head
        #: What runs the application, once it does.
        self.task: asyncio.Task[None] | None = None
        #: The answer is to have one of the unusual forms, which ``send_whole`` leaves to others, or it has begun.
        self._is_unusual = not head.is_ordinary
        #: The connection may go on after this exchange.
        self._keeps = head.keeps_alive
        #: The answer has no body, whatever the application sends as one.
        self._is_bodiless = head.method == "HEAD"
        self._expects_continue = head.expects_continue
        #: Bytes of the body that have not come yet, where its length was told.
        self._missing = head.length
        self._chunks = ChunkedBody() if head.is_chunked else None
        #: The request's body has come to its end.
        self.is_whole = not (head.length or head.is_chunked)
        #: Bytes of the body that have come and that the application has not read.
        self.unread = 0
        self._parts: list[bytes] = []
        #: The application knows that the body has ended.
        self._is_told = False
        self._woken: asyncio.Future[None] | None = None
        #: The head of the answer, and its fields rendered, while it waits for the first piece of its body.
        self._start: tuple[int, Headers, bytes] | None = None
        #: The head of the answer has been written.
        self._has_begun = False
        #: Of the head's first bytes, how many have been written before it was known.
        self._sent_early = 0
        self._is_chunked = False
        #: Bytes that the answer still owes, where it has told its length; None: not begun, or not told.
        self._left: int | None = None
        #: The answer has ended, as far as it will: what the application still sends is dropped.
        self.is_done = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application answer."""
        self._door.begun(self.head)
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass
        except Exception:
            _logger.exception("internal error in a request")
            if not self._has_begun and not self.is_done:
                await self._fail()
        finally:
            if self.task is not None:
                self._door.tasks.discard(self.task)
            if not self.is_done:
                # It ended without ending its answer: the client sees that the end is missing.
                self._is_unusual = self.is_done = True
                self._connection.ended(keeps=False)

    def is_abandoned(self) -> bool:
        """The client has gone, or the request has turned out not to be one."""
        return self.is_done or self._connection.lost

    # the request

    def feed(self, data: bytes) -> bytes:
        """Take in what has come of the body.

        Returns:
            What belongs to the next request.
        """
        if self._chunks is None:
            part = data[: self._missing]
            self._missing -= len(part)
            self.is_whole = not self._missing
            rest = data[len(part) :]
        else:
            try:
                part, rest = self._chunks.feed(data)
            except InvalidHttp as error:
                self._break_off(error)
                return b""
            self.is_whole = self._chunks.is_whole
        self._expects_continue = False
        if part:
            self._parts.append(part)
            self.unread += len(part)
        if self._woken is not None:
            self.wake()
        return rest

    def feed_all(self, data: bytes) -> None:
        """Take in the whole body of a request with a Content-Length, where it has come with its head."""
        self.is_whole = True
        self._missing = 0
        self._expects_continue = False
        self._parts.append(data)
        self.unread = len(data)

    def _break_off(self, error: InvalidHttp) -> None:
        """The body cannot be read: for the application its client is gone, the client gets an error if it still can."""
        has_begun, self._start = self._has_begun, None
        self._is_unusual = True
        self._keeps = False
        self.is_done = True
        self._parts.clear()
        self.wake()
        if has_begun:
            self._connection.ended(keeps=False)
        else:
            self._connection.refuse(error)

    def wake(self) -> None:
        woken, self._woken = self._woken, None
        if woken is not None and not woken.done():
            woken.set_result(None)

    def take_whole(self) -> bytes | None:
        """Returns the request's body, if all of it is here and none of it was read; from then on it is read."""
        if not self.is_whole or self._is_told or self.is_done or self._connection.lost:
            return None
        self._is_told = True
        parts = self._parts
        if len(parts) == 1:
            body = parts.pop()
        else:
            body = b"".join(parts)
            parts.clear()
        self.unread = 0
        self._connection.read_on()
        return body

    async def receive(self) -> Message:
        while True:
            if self.is_done or self._connection.lost:
                return {"type": "http.disconnect"}
            if self._parts:
                part = self._parts.pop(0)
                self.unread -= len(part)
                self._connection.read_on()
                self._is_told = self.is_whole and not self._parts
                return {"type": "http.request", "body": part, "more_body": not self._is_told}
            if self.is_whole and not self._is_told:
                self._is_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._expects_continue and not self._has_begun and self._start is None:
                self._expects_continue = False
                self._connection.put(_CONTINUE)
            self._woken = self._door.loop.create_future()
            await self._woken

    # the answer

    async def send(self, message: Message) -> None:
        if self.is_done:
            return
        self._is_unusual = True
        if message["type"] == "http.response.start":
            headers: Headers = list(message.get("headers", ()))
            self._start = (message["status"], headers, render_fields(headers))
            if BODY_FOLLOWS not in message:
                # A piece of the body nearly always follows at once: they leave in one packet.
                self._door.loop.call_soon(self._send_head)
            return
        body: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        head = self._head(len(body) if is_last else None)
        if self._is_bodiless:
            body = b""
        elif self._left is not None:
            if len(body) > self._left:
                _logger.error("an answer was longer than it said")
                body, is_last, self._keeps = body[: self._left], True, False
            self._left -= len(body)
        elif self._is_chunked and body:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if is_last:
            await self._end(head + body)
        elif head or body:
            await self._connection.write(head + body)

    def send_at_once(self, body: bytes) -> bool:
        """Send a piece of a chunked body that has begun, as ``send`` does, if that need not wait.

        Returns False, and has sent nothing, where it must wait, or where the body is another.
        """
        if not self._is_chunked or self.is_done or not body:
            return False
        return self._connection.write_at_once(b"%x\r\n%b\r\n" % (len(body), body))

    def send_whole(self, status: int, headers: Headers, body: bytes) -> Awaitable[None] | None:
        """Send a whole answer: what ``send`` does with the messages of its head and its body.

        Returns:
            What is to be awaited; None: all of it has been sent, and nothing has to be waited for.
        """
        fields = render_fields(headers)
        connection = self._connection
        if (
            self._is_unusual
            or not self.is_whole
            or self.unread
            or self._door.closing
            or status in _BODILESS
            or fields.find(b"connection: ") >= 0
            or fields.find(b"content-length: ") >= 0
        ):
            return self._send_in_messages(status, headers, body)
        self._is_unusual = self._has_begun = True
        data = _whole_head(status, fields, len(body), self._door.date())
        if len(body) > _JOINED_BYTES:
            connection.put(data)
            data = body
        else:
            data += body
        if not connection.write_at_once(data):
            return self._end_behind(connection.write(data))
        if connection.is_full():
            return self._end_behind(connection.drain())
        self._end_whole()
        return None

    async def _send_in_messages(self, status: int, headers: Headers, body: bytes) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers, BODY_FOLLOWS: True})
        await self.send({"type": "http.response.body", "body": body})

    async def _end_behind(self, sending: Awaitable[None]) -> None:
        await sending
        self._end_whole()

    def _end_whole(self) -> None:
        """A whole answer to a request that has come whole has been written."""
        if not self.is_done:
            self.is_done = True
            if self._woken is not None:
                self.wake()
            self._connection.ended(keeps=True)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Give the whole answer at once, in the place of the application, which has not begun."""
        self._is_unusual = True
        self._start = (status, headers, render_fields(headers))
        head = self._head(len(body))
        self._left = 0
        self._connection.put(head if self._is_bodiless else head + body)
        self._finish()

    def _send_head(self) -> None:
        if self._start is not None and not self._connection.lost:
            self._connection.put(self._head(None))

    async def _end(self, data: bytes) -> None:
        if self._is_chunked:
            data += b"0\r\n\r\n"
        connection = self._connection
        await connection.write(data)
        if not self.is_done:
            self._finish()

    def _finish(self) -> None:
        """The answer has been written: on to what comes after it."""
        connection = self._connection
        self.is_done = True
        self.wake()
        if self._left:
            _logger.error("an answer was %d bytes shorter than it said", self._left)
            connection.ended(keeps=False)
        elif not self.is_whole:
            connection.linger()
        else:
            connection.ended(keeps=self._keeps)

    def begin_early(self) -> None:
        """Write what the answer goes on with in any case, if that is known: whether it arrives is of interest."""
        self._is_unusual = True
        if not self._has_begun:
            if not self._sent_early:
                self._sent_early = len(_VERSION)
                self._connection.put(_VERSION)
        elif self._is_chunked and not self.is_done:
            # The size of a chunk may have leading zeros (RFC 9112 section 7.1).
            self._connection.put(b"0")

    def _head(self, size: int | None) -> bytes:
        """The bytes of the answer's head, unless it was written. ``size``: of the whole body, where it is known."""
        if self._start is None:
            return b""
        (status, headers, fields), self._start = self._start, None
        self._has_begun = True
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, fields]
        says_close = False
        for name, value in headers:
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and value == b"close":
                says_close = True
                self._keeps = False
        if status in _BODILESS or self._is_bodiless:
            self._is_bodiless = True
            self._left = 0
        elif self._left is None:
            if size is not None:
                self._left = size
                lines.append(b"content-length: %d\r\n" % size)
            elif self.head.version == "1.1":
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self._keeps = False  # the connection's end is the body's
        lines.append(self._door.date())
        if not self.is_whole or self._door.closing:
            self._keeps = False
        if not self._keeps:
            if not says_close:
                lines.append(b"connection: close\r\n")
        elif self.head.version != "1.1":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        early, self._sent_early = self._sent_early, 0
        return b"".join(lines)[early:]

    async def _fail(self) -> None:
        body = error_body(TrustGateError("The gateway failed. The error is in its log."))
        self._start = None
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]}
        )
        await self.send({"type": "http.response.body", "body": body})


def whole_answer(status: int, headers: Headers, body: bytes, date: bytes) -> bytes:
    """Returns a whole answer on a connection that goes on after it. Raises as ``render_fields`` does.

    ``date``: the line of that field. ``headers`` say nothing of the body's length or of the connection.
    """
    return _whole_head(status, render_fields(headers), len(body), date) + body


def _whole_head(status: int, fields: bytes, size: int, date: bytes) -> bytes:
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%bcontent-length: %d\r\n%b\r\n" % (line, fields, size, date)


def render_fields(headers: Headers) -> bytes:
    """Returns the lines of header fields.

    Raises:
        ValueError: one of them holds a line end or a NUL byte, with which it could forge fields or a whole answer.
    """
    fields = b"\r\n".join(map(b": ".join, headers)) + b"\r\n" if headers else b""
    # Each field has its own line end, of two bytes; with any other there are more of them.
    if len(fields) - len(fields.translate(None, b"\r\n\0")) != 2 * len(headers):
        raise ValueError("a response header holds a line end")
    return fields
