"""HTTP/1.1 connections: reading requests off them, one after another, and running the application on each.

llhttp reads (``parser``). What is not HTTP/1.1 goes, with its connection and from the request's first byte, to
Hypercorn's protocols (``hypercorn_adapter``): HTTP/2 by prior knowledge or ALPN, and requests that ask for h2c, or for
a WebSocket where there may be one.

    idle → (head, in one piece or several) → exchange (``exchange``) → idle → … → closed

Owns flow control both ways, keep-alive, the time limits of a connection and its end. A request that cannot be read is
answered with an error in OpenAI's form, and ends its connection: where the next one begins is unknown.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from starlette.types import Scope

from trustgate.errors import InvalidRequest
from trustgate.http.door import Door
from trustgate.http.exchange import Exchange, whole_answer
from trustgate.http.parser import (
    HTTP2_PREFACE,
    InvalidHttp,
    KnownHead,
    RequestHead,
    find_head_end,
    head_too_slow,
    read_head,
)
from trustgate.http.sending import EXCHANGE, error_body

#: What is read ahead of the application, bytes; the client waits beyond it.
AHEAD_BYTES = 64 * 1024
#: How many turns of the loop a request that is to be refused waits for its body: one reads what is there by then.
_LOOKS_FOR_BODY = 2
#: How soon, and from then on at most how often, a client is looked after that has said all it will ever say.
_FIRST_LOOK_S = 0.01
_LOOK_EVERY_S = 1.0
_CRLF = b"\r\n"
#: Protocols that Hypercorn switches to: with a method, or without a body.
_WEBSOCKET, _H2C = b"websocket", b"h2c"


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
        #: The last head and its bytes, and how it is recognised, once it has come twice.
        self._last: tuple[bytes, RequestHead] | None = None
        self._known: KnownHead | None = None
        self._exchange: Exchange | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_reading = True
        #: Its next request has no room, and has not been refused yet.
        self._waits_at_door = False
        #: How often it was looked at for its body.
        self._looks = 0
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
        if self._exchange is None and not self._waits_at_door:
            self._read_request()
        elif self._is_reading and self._is_ahead():
            self._is_reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it waits for its answer with its half of the connection closed, or it has gone.

        Both look the same until something is sent to it: one that has gone answers with a reset.
        """
        if self._waits_at_door:
            self.look_again()
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

    def _read_request(self, *, has_place: bool = False) -> None:
        """Read the next head, if it is whole, and run the application on its request.

        ``has_place``: where it is refused, it is one of those that are at this turn of the loop.
        """
        data = self._ahead
        if data[:2] == _CRLF and not self._has_skipped_line:
            # One empty line may come before a request (RFC 9112 section 2.2).
            self._has_skipped_line = True
            data = self._ahead = data[2:]
        if not data or (data == b"\r" and not self._has_skipped_line):
            return
        known = None if self._known is None else self._known.read(data)
        try:
            if known is not None:
                head, size = known
            else:
                size = find_head_end(data, self._looked_at)
                if not size:
                    self._wait_for_head(len(data))
                    return
                if data.startswith(HTTP2_PREFACE):
                    self._leave()
                    return
                head = self._read_head(data[:size])
        except InvalidHttp as error:
            self.refuse(error)
            return
        self._looked_at = 0
        self._has_skipped_line = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if head.upgrade and _switches(head, self._door.websockets):
            self._leave()
            return
        self._ahead = b""
        is_first, self._is_new = self._is_new, False
        if self._door.shed is not None:
            reason = self._door.shed.judge(head)
            if reason:
                self._refuse_at_door(head, data, size, reason, has_place=has_place)
                return
        exchange = self._begin(head, data, size)
        if exchange.is_done:
            self._door.begun(head)  # its body cannot be read
            return
        self._door.start(exchange, self._scope(head, exchange), is_first=is_first)

    def _begin(self, head: RequestHead, data: bytes, size: int) -> Exchange:
        exchange = self._exchange = Exchange(self, self._door, head)
        if len(data) > size:
            rest = data[size:]
            self._ahead = rest if exchange.is_whole else exchange.feed(rest)
        return exchange

    def _read_head(self, data: bytes) -> RequestHead:
        """Returns the head that ``data`` is. Raises ``InvalidHttp``."""
        head = read_head(data)
        last, self._last = self._last, (data, head) if KnownHead.may_be(head) else None
        # Not before the second request: many connections have but one.
        self._known = None if last is None or self._last is None else KnownHead(data, head)
        return head

    def _refuse_at_door(self, head: RequestHead, data: bytes, size: int, reason: Any, *, has_place: bool) -> None:
        """Answer with a refusal before anything is begun, in this turn of the loop or in one of the next.

        ``has_place``: it is one of those that are refused at this turn.
        """
        door, shed = self._door, self._door.shed
        assert shed is not None, "a request was judged"
        if not door.closing and self._waits_for_turn(head, len(data) - size, has_place=has_place):
            self._ahead = data
            self._waits_at_door = True
            door.refusals.add(self)
            return
        self._looks = 0
        refusal = shed.refusal(head, reason)
        is_whole = KnownHead.may_be(head) and len(data) - size == head.length
        is_last = not head.keeps_alive or self._has_input_ended or door.closing
        if not is_whole or is_last or self._drained is not None:
            exchange = self._begin(head, data, size)
            if not exchange.is_done:
                exchange.answer(*refusal)
            return
        self._idle_since = door.loop.time()
        self.transport.write(whole_answer(*refusal, door.date()))
        self.read_on()

    def _waits_for_turn(self, head: RequestHead, body_size: int, *, has_place: bool) -> bool:
        """Returns whether a request is refused in one of the next turns rather than now.

        Many clients send their body in a packet of its own, right behind the head. Refused without it they would lose
        their connection, and come back with a new one.
        """
        if body_size < head.length <= AHEAD_BYTES and self._looks < _LOOKS_FOR_BODY:
            self._looks += 1
            return True
        return not has_place and not self._door.refusals.take_place()

    def look_again(self) -> None:
        """It is the turn of a request that waits to be refused, if one still does."""
        waits, self._waits_at_door = self._waits_at_door, False
        if waits and not self.lost:
            self._read_request(has_place=True)

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
        if self._has_input_ended and not self._is_busy():
            self.close()
            return
        self.read_on()

    def _is_busy(self) -> bool:
        """Returns whether a request is being answered, or waits to be refused."""
        return self._exchange is not None or self._waits_at_door

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

    @property
    def is_new(self) -> bool:
        """Whether no request of it was read yet."""
        return self._is_new and not self._has_left

    def end_when_idle(self) -> None:
        self.look_again()
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
        if not self._is_busy() and self._head_timer is None and left_s <= 0:
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


def _switches(head: RequestHead, websockets: Collection[bytes]) -> bool:
    """Returns whether Hypercorn would change the protocol for this request; others are served as if they had not
    asked.
    """
    if head.version != "1.1":
        return False
    if head.upgrade == _WEBSOCKET and head.path in websockets:
        return head.method == "GET" and not head.length and not head.is_chunked
    return head.upgrade == _H2C and not head.length and not head.is_chunked


def _is_reset(transport: asyncio.Transport) -> bool:
    """Returns whether the other side has reset the connection: seen without reading from it or writing to it."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))


def _address(name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
