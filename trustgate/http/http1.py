"""HTTP/1.1 connections: reading requests off them, one after another, and running the application on each.

llhttp reads (``parser``). What is not HTTP/1.1 goes, with its connection and from the request's first byte, to
Hypercorn's protocols (``hypercorn_adapter``): HTTP/2 by prior knowledge or ALPN, and requests that ask for h2c or a
WebSocket.

    idle → (head, in one piece or several) → exchange (``exchange``) → idle → … → closed

Owns flow control both ways, keep-alive, the time limits of a connection and its end. A request that cannot be read is
answered with an error in OpenAI's form, and ends its connection: where the next one begins is unknown.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from starlette.types import ASGIApp, Scope

from trustgate.errors import InvalidRequest
from trustgate.http.exchange import Exchange
from trustgate.http.parser import HTTP2_PREFACE, InvalidHttp, RequestHead, find_head_end, head_too_slow, read_head
from trustgate.http.sending import EXCHANGE, Headers, error_body
from trustgate.http.starts import MAX_REFUSED_PER_TURN, Starts
from trustgate.http.timeouts import ConnectionTimeouts

#: What is read ahead of the application, bytes; the client waits beyond it.
AHEAD_BYTES = 64 * 1024
#: How soon, and from then on at most how often, a client is looked after that has said all it will ever say.
_FIRST_LOOK_S = 0.01
_LOOK_EVERY_S = 1.0
_CRLF = b"\r\n"
#: Protocols that Hypercorn switches to: with a method, or without a body.
_WEBSOCKET, _H2C = b"websocket", b"h2c"


#: The status, header fields and body of an answer to a request that is not begun.
Refusal = tuple[int, Headers, bytes]
#: Gives the refusal of a request; None: it is begun.
Shed = Callable[[Scope], Refusal | None]


class Door:
    """What all connections of a listener share: the application, who speaks other protocols, and the end of all."""

    def __init__(
        self,
        app: ASGIApp,
        hand_over: Callable[[Connection], None],
        timeouts: ConnectionTimeouts,
        shed: Shed | None = None,
    ) -> None:
        """
        Args:
            app: what answers.
            hand_over: takes connections that speak something else than HTTP/1.1.
            shed: is asked of each request when it comes and again when it is started.
        """
        self.app = app
        self.timeouts = timeouts
        self.hand_over = hand_over
        self._shed = shed
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self._starts = Starts(self.loop, self._run)
        self._refusals = Starts(self.loop, self._refuse, MAX_REFUSED_PER_TURN)
        self.connections: set[Connection] = set()
        self.closing = False
        self._date = b""
        self._date_s = 0

    def date(self) -> bytes:
        """Returns the field ``date`` (RFC 9110 section 6.6.1), made once a second."""
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = b"date: %b\r\n" % formatdate(now_s, usegmt=True).encode()
        return self._date

    def start(self, exchange: Exchange, scope: Scope, *, is_first: bool) -> None:
        """Run the application on a request, now or in one of the next turns. ``is_first``: of its connection."""
        if not self._is_shed(exchange, scope):
            self._starts.add((exchange, scope), is_first=is_first)

    def _is_shed(self, exchange: Exchange, scope: Scope) -> bool:
        refusal = None if self._shed is None else self._shed(scope)
        if refusal is not None:
            self._refusals.add((exchange, refusal), is_first=False)
        return refusal is not None

    def _refuse(self, refused: tuple[Exchange, Refusal]) -> bool:
        exchange, refusal = refused
        if exchange.is_abandoned:
            return False
        exchange.answer(*refusal)
        return True

    def _run(self, request: tuple[Exchange, Scope]) -> bool:
        """Returns whether the application runs on it."""
        exchange, scope = request
        if exchange.is_abandoned or self._is_shed(exchange, scope):
            return False
        # It takes itself out of the set: a callback of the task would be one more turn for each request.
        task = exchange.task = self.loop.create_task(exchange.run(self.app, scope))
        self.tasks.add(task)
        return True

    async def close(self, grace_s: float) -> None:
        """End idle connections at once, others with their request, and after ``grace_s`` seconds all."""
        self.closing = True
        for connection in list(self.connections):
            connection.end_when_idle()
        until = self.loop.time() + grace_s
        while (self.tasks or self._starts.are_waiting or self._refusals.are_waiting) and self.loop.time() < until:
            self.tasks -= {task for task in self.tasks if task.done()}
            if self.tasks:
                await asyncio.wait(set(self.tasks), timeout=until - self.loop.time())
            else:
                await asyncio.sleep(0)
        self._starts.clear()
        self._refusals.clear()
        late = list(self.tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.connections):
            connection.close()
        # Closing flushes what is still to be sent: only a client that does not read is cut.
        for _ in range(int(self.timeouts.closing_s / 0.05)):
            if not self.connections:
                return
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One connection, as long as it speaks HTTP/1.1."""

    transport: asyncio.Transport

    def __init__(self, door: Door) -> None:
        self._door = door
        #: What came and was not read yet: the beginning of a head, or requests behind the one that is being answered.
        self._ahead = b""
        #: How much of an unfinished head has been searched for its end.
        self._looked_at = 0
        self._has_skipped_line = False
        self._exchange: Exchange | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_reading = True
        #: No request has come through it.
        self._is_new = True
        #: The client has said that it sends no more.
        self._has_input_ended = False
        self._discards = False
        self._has_left = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self.lost = False

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        tls = transport.get_extra_info("ssl_object")
        self._scheme = "http" if tls is None else "https"
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._leave()
            return
        self._door.connections.add(self)
        self._idle_since = self._door.loop.time()
        self._idle_timer = self._door.loop.call_later(self._door.timeouts.keep_alive_s, self._look_whether_idle)

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        exchange = self._exchange
        if exchange is not None and not exchange.is_whole:
            data = exchange.feed(data)
        if data:
            self._ahead = self._ahead + data if self._ahead else data
        if self._has_left:
            return
        if self._exchange is None:
            self._read_request()
        elif self._is_reading and self._is_ahead():
            self._is_reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it waits for its answer with its half of the connection closed, or it has gone.

        Both look the same until something is sent to it: one that has gone answers with a reset.
        """
        exchange = self._exchange
        if self._has_left or self._scheme == "https" or exchange is None or not exchange.is_whole:
            self._gone()
            return False
        self._has_input_ended = True
        exchange.begin_early()
        self._door.loop.call_later(_FIRST_LOOK_S, self._look_whether_gone, _FIRST_LOOK_S)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._gone()
        self._door.connections.discard(self)
        self._stop_timers()

    def pause_writing(self) -> None:
        self._drained = self._door.loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # reading

    def _read_request(self) -> None:
        """Read the next head, if it is whole, and run the application on its request."""
        data = self._ahead
        if data[:2] == _CRLF and not self._has_skipped_line:
            # One empty line may come before a request (RFC 9112 section 2.2).
            self._has_skipped_line = True
            data = self._ahead = data[2:]
        if not data or (data == b"\r" and not self._has_skipped_line):
            return
        try:
            size = find_head_end(data, self._looked_at)
            if not size:
                self._wait_for_head(len(data))
                return
            if data.startswith(HTTP2_PREFACE):
                self._leave()
                return
            head = read_head(data[:size])
        except InvalidHttp as error:
            self.refuse(error)
            return
        self._looked_at = 0
        self._has_skipped_line = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if head.upgrade and _switches(head):
            self._leave()
            return
        self._ahead = b""
        exchange = self._exchange = Exchange(self, self._door, head)
        if len(data) > size:
            rest = data[size:]
            self._ahead = rest if exchange.is_whole else exchange.feed(rest)
        if exchange.is_done:
            return  # its body cannot be read
        is_first, self._is_new = self._is_new, False
        self._door.start(exchange, self._scope(head, exchange), is_first=is_first)

    def _wait_for_head(self, size: int) -> None:
        self._looked_at = size
        if self._head_timer is None:
            self._head_timer = self._door.loop.call_later(self._door.timeouts.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._exchange is None and not self._has_left and not self.lost:
            self.refuse(head_too_slow())

    def _scope(self, head: RequestHead, exchange: Exchange) -> Scope:
        path = head.path.decode("ascii")
        return {
            "type": "http",
            "http_version": head.version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": head.method,
            "scheme": self._scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": self._client,
            "server": self._server,
            "state": {},
            "extensions": {EXCHANGE: exchange},
        }

    def _is_ahead(self) -> bool:
        """Returns whether more was read than the application has taken in."""
        unread = 0 if self._exchange is None else self._exchange.unread
        return len(self._ahead) + unread > AHEAD_BYTES

    def read_on(self) -> None:
        """The application has taken in what was read ahead."""
        if not self._is_reading and not self.lost and not self._has_input_ended and not self._is_ahead():
            self._is_reading = True
            self.transport.resume_reading()

    # other protocols

    def _leave(self) -> None:
        """The connection speaks something else from now on, beginning with what has not been read."""
        if self._has_input_ended:
            self.close()
            return
        self._has_left = True
        self._door.connections.discard(self)
        self._stop_timers()
        self._door.hand_over(self)

    def hand_to(self, protocol: asyncio.Protocol) -> None:
        """Let another protocol go on, in the state in which the connection is."""
        data, self._ahead = self._ahead, b""
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self._drained is not None:
            # The transport will tell it that it may write again.
            protocol.pause_writing()
        if not self._is_reading:
            self.transport.resume_reading()
        if data:
            protocol.data_received(data)

    def pause(self) -> None:
        """Read nothing until ``hand_to``."""
        if self._is_reading:
            self._is_reading = False
            self.transport.pause_reading()

    # the end of a request, and of the connection

    def ended(self, *, keeps: bool) -> None:
        """The answer has been written: on to the next request, if there may be one."""
        self._exchange = None
        if self.lost:
            return
        if not keeps:
            self.close()
            return
        self._idle_since = self._door.loop.time()
        if self._ahead:
            self._read_request()
        if self._has_left or self._discards:
            return
        if self._has_input_ended and self._exchange is None:
            self.close()
            return
        self.read_on()

    def refuse(self, error: InvalidHttp) -> None:
        """Answer what cannot be read, and end the connection."""
        body = error_body(InvalidRequest(error.message, code=error.code))
        status = HTTPStatus(error.status)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n%b"
            % (status, status.phrase.encode(), len(body), self._door.date(), body)
        )
        self.linger()

    def linger(self) -> None:
        """Say no more, and let the client finish speaking: closed at once, it might not see the answer."""
        self._exchange = None
        self._stop_timers()
        if self.lost:
            return
        self._discards = True
        self._ahead = b""
        if self.transport.can_write_eof() and not self._has_input_ended:
            self.transport.write_eof()
            self.read_on()
            self._door.loop.call_later(self._door.timeouts.closing_s, self.transport.abort)
        else:
            self.close()

    def close(self) -> None:
        """Close when what was written has been taken, or after a while."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._door.loop.call_later(self._door.timeouts.closing_s, self.transport.abort)

    def end_when_idle(self) -> None:
        if self._exchange is None:
            self.close()

    def _gone(self) -> None:
        self.lost = True
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.wake()

    def _look_whether_gone(self, after_s: float) -> None:
        """Notice the reset of a client that had closed its whole connection, not only its half."""
        if self.lost or self._exchange is None or self.transport.is_closing():
            return
        if _is_reset(self.transport):
            self._gone()
            self.transport.abort()
            return
        after_s = min(2 * after_s, _LOOK_EVERY_S)
        self._door.loop.call_later(after_s, self._look_whether_gone, after_s)

    def _look_whether_idle(self) -> None:
        left_s = self._idle_since + self._door.timeouts.keep_alive_s - self._door.loop.time()
        # A head that has begun has its own, shorter time.
        if self._exchange is None and self._head_timer is None and left_s <= 0:
            self.close()
            return
        self._idle_timer = self._door.loop.call_later(max(left_s, 1.0), self._look_whether_idle)

    def _stop_timers(self) -> None:
        for timer in (self._idle_timer, self._head_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._head_timer = None

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client takes in less than it is given."""
        if self.lost:
            return
        self.transport.write(data)
        if self._drained is not None:
            timer = self._door.loop.call_later(self._door.timeouts.write_s, self.transport.abort)
            try:
                await self._drained
            finally:
                timer.cancel()


def _switches(head: RequestHead) -> bool:
    """Returns whether Hypercorn would change the protocol for this request; others are served as if they had not
    asked.
    """
    if head.version != "1.1":
        return False
    if head.upgrade == _WEBSOCKET:
        return head.method == "GET"
    return head.upgrade == _H2C and not head.length and not head.is_chunked


def _is_reset(transport: asyncio.Transport) -> bool:
    """Returns whether the other side has reset the connection: seen without reading from it or writing to it."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))


def _address(name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
