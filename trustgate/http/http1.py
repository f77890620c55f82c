"""HTTP/1.1 connections: reading requests off them, one after another, and running the application on each.

llhttp reads (``parser``). What is not HTTP/1.1 goes, with its connection and from the request's first byte, to
Hypercorn's protocols (``hypercorn_adapter``): HTTP/2 by prior knowledge or ALPN, and requests that ask for a WebSocket
where there may be one.

    idle → (head, in one piece or several) → exchange (``exchange``) → idle → … → closed

Owns flow control both ways, keep-alive, the time limits of a connection and its end. A request that cannot be read is
answered with an error in OpenAI's form, and ends its connection: where the next one begins is unknown.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from trustgate.errors import InvalidRequest
from trustgate.http.door import Door
from trustgate.http.exchange import Exchange
from trustgate.http.parser import (
    HTTP2_PREFACE,
    InvalidHttp,
    KnownHead,
    RequestHead,
    find_head_end,
    head_too_slow,
    read_head,
)
from trustgate.http.peers import address_of, has_unread, is_reset, scope_of, switches
from trustgate.http.refusals import AT_ONCE_S, Wait
from trustgate.http.sending import error_body
from trustgate.outbox import LARGE_BYTES

#: What is read ahead of the application, bytes; the client waits beyond it.
AHEAD_BYTES = 64 * 1024
#: How soon, and from then on at most how often, a client is looked after that has said all it will ever say.
_FIRST_LOOK_S = 0.01
_LOOK_EVERY_S = 1.0
_CRLF = b"\r\n"


class Connection(asyncio.Protocol):
    """One connection, as long as it speaks HTTP/1.1."""

    __slots__ = (
        *("_ahead", "_asked", "_client", "_discards", "_door", "_drained", "_exchange", "_follows", "_has_input_ended"),
        *("_has_left", "_has_skipped_line", "_head_timer", "_idle_since", "_idle_timer", "_is_new", "_is_reading"),
        *("_known", "_last", "_looked_at", "_refused", "_scheme", "_server", "_unwritten", "_wait", "_waiting"),
        *("lost", "transport"),
    )

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
        #: The head of the last request; what the whole request is recognised by where it was refused at the door.
        self._asked: RequestHead | None = None
        self._refused: KnownHead | None = None
        self._exchange: Exchange | None = None
        self._drained: asyncio.Future[None] | None = None
        #: What is to be written in this turn of the event loop.
        self._unwritten = b""
        self._is_reading = True
        #: Its next request has no room, and has not been refused yet.
        self._wait: Wait | None = None
        #: The head of that request, and its size in bytes.
        self._waiting: tuple[RequestHead, int] | None = None
        #: One of its requests is being refused, and the next came with it.
        self._follows = False
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
        self._client = address_of(transport.get_extra_info("peername"))
        self._server = address_of(transport.get_extra_info("sockname"))
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._leave()
            return
        self._door.connections.add(self)
        self._idle_since = self._door.loop.time()
        self._idle_timer = self._door.loop.call_later(self._door.timeouts.keep_alive_s, self._look_whether_idle)

    def data_received(self, data: bytes) -> None:
        refused = self._refused
        if refused is not None:
            if self._wait is None and refused.is_request(data):
                self._ask_door(refused.head, data, refused.size)
                return
            self._refused = None
        if self._discards:
            return
        exchange = self._exchange
        if exchange is not None and not exchange.is_whole:
            data = exchange.feed(data)
        if data:
            self._ahead = self._ahead + data if self._ahead else data
        if self._has_left:
            return
        if self._exchange is None and self._wait is None:
            self._read_request()
            return
        if self._wait is not None:
            self._door.refusals.grow(self._wait, len(data))
        if self._is_reading and self._is_ahead():
            self._is_reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it waits for its answer with its half of the connection closed, or it has gone.

        Both look the same until something is sent to it: one that has gone answers with a reset.
        """
        self.write_out()
        while self._wait is not None and not self.lost:
            # Nothing more will come of it, and each request that is here gets its answer.
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
        self._refused = None

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
        if head.upgrade and switches(head, self._door.websockets):
            self._leave()
            return
        self._ahead = b""
        if self._door.shed is None:
            self._start(head, data, size)
        else:
            self._ask_door(head, data, size)

    def _ask_door(self, head: RequestHead, data: bytes, size: int) -> None:
        """Run the application on a request if there is room for it; else let it wait.

        ``data`` begins with its head, of ``size`` bytes.
        """
        door = self._door
        shed = door.shed
        assert shed is not None, "there is a door"
        tenant_id = head.judged_as
        if tenant_id is None or tenant_id not in door.refusals.queues:
            reason = shed.judge(head, door.refusals.queues)
            if not reason:
                self._refused = None
                self._asked = head
                self._start(head, data, size)
                return
            tenant_id = shed.waits_for(head, reason)
        self._is_new = False
        self._ahead = data
        self._waiting = (head, size)
        at_once = head is self._asked and door.loop.time() - self._idle_since < AT_ONCE_S
        self._asked = head
        follows = self._follows and len(data) - size >= head.length
        self._wait = door.refusals.wait(
            self, None if door.closing else tenant_id, len(data), at_once=at_once, follows=follows
        )

    def _start(self, head: RequestHead, data: bytes, size: int) -> None:
        is_first, self._is_new = self._is_new, False
        exchange = self._begin(head, data, size)
        if exchange.is_done:
            self._door.begun(head)  # its body cannot be read
            return
        scope = scope_of(head, exchange, scheme=self._scheme, client=self._client, server=self._server)
        self._door.start(exchange, scope, is_first=is_first)

    def _begin(self, head: RequestHead, data: bytes, size: int) -> Exchange:
        exchange = self._exchange = Exchange(self, self._door, head)
        if len(data) > size:
            rest = data[size:]
            if len(rest) == head.length:  # as nearly always
                exchange.feed_all(rest)
            else:
                self._ahead = rest if exchange.is_whole else exchange.feed(rest)
        return exchange

    def _read_head(self, data: bytes) -> RequestHead:
        """Returns the head that ``data`` is. Raises ``InvalidHttp``."""
        head = read_head(data)
        last, self._last = self._last, (data, head) if KnownHead.may_be(head) else None
        # Not before the second request: many connections have but one.
        self._known = None if last is None or self._last is None else KnownHead(data, head)
        return head

    def _refuse_at_door(self, head: RequestHead, data: bytes, size: int, reason: Any) -> None:
        """Answer with a refusal; no application is run."""
        door, shed = self._door, self._door.shed
        assert shed is not None, "a request was judged"
        is_whole = len(data) - size == head.length and KnownHead.may_be(head)
        if not is_whole or not head.keeps_alive or self._has_input_ended or door.closing or self._drained is not None:
            exchange = self._begin(head, data, size)
            if not exchange.is_done:
                self._follows = True
                exchange.answer(*shed.refusal(head, reason))
                self._follows = False
            return
        self._idle_since = door.loop.time()
        known = self._known
        self._refused = known if known is not None and known.head is head else None
        self.put(shed.answer(head, reason, door.date()))
        if not self._is_reading:
            self.read_on()

    def look_again(self) -> None:
        """Judge the request that waits at the door, if one does, anew: let it through or refuse it."""
        wait, self._wait = self._wait, None
        if wait is None:
            return
        wait.leave()
        if self.lost:
            return
        shed = self._door.shed
        assert shed is not None, "there is a door"
        assert self._waiting is not None, "a request waits at it"
        head, size = self._waiting
        data, self._ahead = self._ahead, b""
        reason = shed.judge(head)
        if reason:
            self._refuse_at_door(head, data, size, reason)
        else:
            self._refused = None
            self._start(head, data, size)

    def _wait_for_head(self, size: int) -> None:
        self._looked_at = size
        if self._head_timer is None:
            self._head_timer = self._door.loop.call_later(self._door.timeouts.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._exchange is None and not self._has_left and not self.lost:
            self.refuse(head_too_slow())

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
        self.write_out()
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
        return self._exchange is not None or self._wait is not None

    def refuse(self, error: InvalidHttp) -> None:
        """Answer what cannot be read, and end the connection."""
        body = error_body(InvalidRequest(error.message, code=error.code))
        status = HTTPStatus(error.status)
        self.put(
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
        self.write_out()
        if self.transport.can_write_eof() and not self._has_input_ended:
            self.transport.write_eof()
            self.read_on()
            self._door.loop.call_later(self._door.timeouts.closing_s, self.transport.abort)
        else:
            self.close()

    def close(self) -> None:
        """Close when what was written has been taken, or after a while."""
        self.write_out()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._door.loop.call_later(self._door.timeouts.closing_s, self.transport.abort)

    @property
    def is_new(self) -> bool:
        """Whether no request of it was read yet."""
        return self._is_new and not self._has_left

    def idle_since(self) -> float | None:
        """Returns since when it is idle; None: a request, or the head of another one, is under way."""
        if self._is_busy() or self._has_left or self._discards or self.lost or self.transport.is_closing():
            return None
        return self._idle_since if self._is_new or self._head_timer is None else None

    def give_way(self) -> bool:
        """Close it, which is idle, unless a request has come that was not read yet. Returns whether it is closed."""
        if has_unread(self.transport):
            return False
        self.close()
        return True

    def end_when_idle(self, kept_s: float) -> bool:
        """Close it if it has been idle for ``kept_s`` seconds. Returns whether it goes on: a request may come of it."""
        if self._has_left or self._discards or self.lost or self.transport.is_closing():
            return False
        self.look_again()
        if self._exchange is not None:
            return True
        since = self._idle_since if self._head_timer is None else max(self._idle_since, self._door.closing_since)
        # On a busy machine the loop may be late: what a client has sent in time is read in the next turn.
        if self._door.loop.time() - since < kept_s or (kept_s and has_unread(self.transport)):
            return True
        self.close()
        return False

    def _gone(self) -> None:
        self.lost = True
        self.look_again()
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.wake()

    def _look_whether_gone(self, after_s: float) -> None:
        """Notice the reset of a client that had closed its whole connection, not only its half."""
        if self.lost or self._exchange is None or self.transport.is_closing():
            return
        if is_reset(self.transport):
            self._gone()
            self.transport.abort()
            return
        after_s = min(2 * after_s, _LOOK_EVERY_S)
        self._door.loop.call_later(after_s, self._look_whether_gone, after_s)

    def _look_whether_idle(self) -> None:
        left_s = self._idle_since + self._door.timeouts.keep_alive_s - self._door.loop.time()
        # A head that has begun has its own, shorter time.
        if not self._is_busy() and self._head_timer is None and left_s <= 0 and not has_unread(self.transport):
            self.close()
            return
        self._idle_timer = self._door.loop.call_later(max(left_s, 1.0), self._look_whether_idle)

    def _stop_timers(self) -> None:
        for timer in (self._idle_timer, self._head_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._head_timer = None

    def write_at_once(self, data: bytes) -> bool:
        """Write within this turn of the event loop, if that need not wait for the client.

        Returns False, and writes nothing, where it must wait.
        """
        if self.lost or self._drained is not None:
            return False
        if self._unwritten or len(data) > LARGE_BYTES:
            self.put(data)
        else:
            self._unwritten = data
            self._door.outbox.add(self)
        return True

    def put(self, data: bytes) -> None:
        """Write now, behind what is still to be written."""
        if self._unwritten:
            self.write_out()
        self.transport.write(data)

    def write_out(self) -> None:
        data, self._unwritten = self._unwritten, b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client takes in less than it is given."""
        if not self.lost:
            self.put(data)
            await self.drain()

    def is_full(self) -> bool:
        """Whether ``drain`` waits for anything."""
        return self._drained is not None

    async def drain(self) -> None:
        """Wait while the client takes in less than it is given."""
        if self._drained is not None:
            timer = self._door.loop.call_later(self._door.timeouts.write_s, self.transport.abort)
            try:
                await self._drained
            finally:
                timer.cancel()
