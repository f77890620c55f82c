"""The response of an upstream as it comes off a connection: its head, and its body piece by piece.

llhttp reads what is ordinary: a head that is whole in the first bytes, with one length, of a response that has a body.
Everything else is left to aiohttp's parser, which is lenient (``protocol``). Both say the same of the same bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from trustgate.errors import UpstreamFailed

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader

#: The largest head of a response, bytes, and the most header lines in one.
MAX_HEAD_BYTES = 256 * 1024
MAX_HEADERS = 2_000
#: What is read ahead of what is taken, bytes; the upstream waits beyond it.
AHEAD_BYTES = 128 * 1024

_NO_CONTENT = f"The upstream sent more than {AHEAD_BYTES} bytes between chunks, or behind them, without any content."

_BODILESS = frozenset({204, 304})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Closable(Protocol):
    """A connection that a response ends when it is left unread."""

    def close(self) -> None: ...


class Held(Closable, Protocol):
    """A connection as a response sees it that llhttp reads."""

    def hold_back(self) -> None: ...
    def go_on(self) -> None: ...


class Taker(Protocol):
    """What takes the pieces of a body in the moment in which they come."""

    def take_piece(self, piece: bytes) -> bool:
        """Take a piece that came while a reader waits. Returns False where the reader is to go on."""
        ...


class Fields(Mapping[str, str]):
    """Header fields by their lower-case names; of a name that is repeated, the first."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[bytes, bytes]) -> None:
        """``values``: by name in lower case."""
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower().encode("latin-1", "replace")].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        value = self._values.get(name.lower().encode("latin-1", "replace"))
        return default if value is None else value.decode("utf-8", "surrogateescape")


class Response:
    """A response that llhttp reads: its head, and its body as an iterator of the pieces that come."""

    __slots__ = (
        *("_connection", "_error", "_is_paused", "_loop", "_silence_s", "_timer", "_waits_since", "fields", "is_whole"),
        *("parts", "size", "status_code", "taker", "waiter"),
    )

    def __init__(
        self,
        status_code: int,
        fields: dict[bytes, bytes],
        connection: Held,
        silence_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``silence_s``: how long the upstream may send nothing while it is waited for."""
        self.status_code = status_code
        #: The header fields as they came, by their names in lower case; of a name that is repeated, the first.
        self.fields = fields
        self._connection = connection
        self._silence_s = silence_s
        self._loop = loop
        #: The pieces of the body that have come and were not taken yet.
        self.parts: list[bytes] = []
        #: How much came since something was taken, bytes.
        self.size = 0
        self._is_paused = False
        #: The body has come to its end, all of it may not have been taken yet.
        self.is_whole = False
        self._error: BaseException | None = None
        #: Takes what comes while a reader waits.
        self.taker: Taker | None = None
        #: What waits for a piece.
        self.waiter: asyncio.Future[None] | None = None
        #: One timer for the whole answer: to set one for every piece costs as much as to relay it.
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None

    # what the connection calls

    def wait_for_taking(self) -> None:
        """Stop reading from the connection until what has come is taken: it is more than is read ahead."""
        if not self._is_paused:
            self._is_paused = True
            self._connection.hold_back()

    def pass_piece(self, waiter: asyncio.Future[None]) -> bool:
        """Give what has come to the taker. Returns whether the reader, which waits in ``waiter``, is to wait on."""
        taker, parts = self.taker, self.parts
        # Where the reader was cancelled, nothing is passed on.
        if taker is None or self.is_whole or waiter.done():
            return False
        self._waits_since = self._loop.time()
        try:
            if taker.take_piece(parts.pop() if len(parts) == 1 else self.take()):
                return True
        except Exception as error:  # noqa: BLE001 - it is raised where the piece is waited for
            self.fail(error)
            return False
        parts.append(b"")
        return False

    def end(self) -> None:
        """The body has come to its end."""
        self.is_whole = True
        if self._is_paused:
            self._resume()

    def fail(self, error: BaseException) -> None:
        """Nothing more will come, and the end is missing."""
        if not self.is_whole and self._error is None:
            self._error = error
            self.wake()

    def wake(self) -> None:
        """Have what waits for a piece look again."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # what the client calls

    @property
    def headers(self) -> Fields:
        """The header fields as text."""
        return Fields(self.fields)

    @property
    def stream(self) -> Response:
        return self

    def take(self) -> bytes:
        """Returns what has come of the body and was not taken yet."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.size = 0
        if self._is_paused:
            self._resume()
        return data

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._connection.go_on()

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        while not self.parts:
            if self.is_whole:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.take()

    async def _wait(self) -> None:
        self._waits_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._silence_s, self._look_whether_silent)
        waiter = self.waiter = self._loop.create_future()
        await waiter
        self._waits_since = None

    async def wait_until(self, until: float) -> bool:
        """Wait for a piece, or the end, until a time of the event loop. Returns whether there is one."""
        is_over = False

        def end() -> None:
            # Not compared with the loop's clock, which may be a fraction of a millisecond behind its timers (uvloop).
            nonlocal is_over
            is_over = True
            self.wake()

        timer = self._loop.call_at(until, end)
        try:
            while not (self.parts or self.is_whole or self._error is not None):
                if is_over:
                    return False
                await self._wait()
        finally:
            timer.cancel()
        return True

    def _look_whether_silent(self) -> None:
        now = self._loop.time()
        since = now if self._waits_since is None else self._waits_since
        left_s = since + self._silence_s - now
        if left_s <= 0:
            self.fail(TimeoutError("the upstream fell silent"))
        elif not self.is_whole:
            self._timer = self._loop.call_later(left_s, self._look_whether_silent)

    async def aclose(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Let go of the connection; it is closed unless the body has come to its end."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.is_whole:
            self._connection.close()


class AiohttpResponse:
    """A response that aiohttp's parser reads: its head, and its body, which is this too, still to be read."""

    __slots__ = ("_connection", "_loop", "_payload", "_silence_s", "_timer", "_waits_since", "headers", "status_code")

    def __init__(
        self, status: int, headers: Mapping[str, str], payload: StreamReader, connection: Closable, silence_s: float
    ) -> None:
        """``silence_s``: how long the upstream may send nothing while it is waited for."""
        self.status_code = status
        self.headers = headers
        self._payload = payload
        self._connection = connection
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None

    @property
    def stream(self) -> AiohttpResponse:
        return self

    async def __aiter__(self) -> Any:
        payload = self._payload
        if not payload.is_eof():
            self._timer = self._loop.call_later(self._silence_s, self._look_whether_silent)
        while True:
            self._waits_since = self._loop.time()
            chunk = await payload.readany()
            self._waits_since = None
            if not chunk:
                break
            yield chunk

    def _look_whether_silent(self) -> None:
        now = self._loop.time()
        since = now if self._waits_since is None else self._waits_since
        left_s = since + self._silence_s - now
        if left_s <= 0:
            self._payload.set_exception(TimeoutError("the upstream fell silent"))
        else:
            self._timer = self._loop.call_later(left_s, self._look_whether_silent)

    async def aclose(self) -> None:
        """Let go of the connection; it is closed unless the body was read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._payload.is_eof():
            self._connection.close()


class _NotOrdinary(Exception):
    """The head holds something that aiohttp's parser is to judge."""


_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]+)\r\n", re.IGNORECASE)
#: The largest head that is recognised, bytes: each connection has one.
_KNOWN_HEAD_MOST_BYTES = 2048
#: A body whose length has more digits does not come with its head.
_LENGTH_MOST_DIGITS = 9


class _KnownHead:
    """The head of a response, to be recognised when the same comes again but for the length of its body.

    A server answers one request after another with the same fields, for as long as its clock shows the same second: to
    compare them costs a tenth of reading them.
    """

    __slots__ = ("_after", "_before", "_digits", "_fields", "status")

    def __init__(self, head: bytes, length: re.Match[bytes], status: int, fields: dict[bytes, bytes]) -> None:
        """``head``: all of its bytes, which llhttp has read; ``length``: where it has the body's."""
        self._before, self._digits, self._after = head[: length.start(1)], length[1], head[length.end(1) :]
        self._fields = fields
        self.status = status

    def read(self, data: bytes) -> tuple[dict[bytes, bytes], bytes] | None:
        """Returns the fields and the body of a response, where ``data`` is all of one with this head; else None."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        begin = len(before)
        end = data.find(b"\r", begin, begin + _LENGTH_MOST_DIGITS + 1)
        digits = data[begin:end]
        if not data.startswith(after, end) or not digits.isdigit():
            return None
        body = data[end + len(after) :]
        if not body or len(body) != int(digits):
            return None
        if digits != self._digits:
            self._digits = digits
            self._fields = {**self._fields, b"content-length": digits}
        return self._fields, body


#: How the responses begin that are read; an interim one (1xx) is not.
_STATUS_LINES = tuple(b"HTTP/1.1 %d" % kind for kind in (2, 3, 4, 5))


class Reader:
    """Reads the responses of one connection, one after another, with one parser."""

    __slots__ = (
        "_connection",
        "_fields_read",
        "_found",
        "_has_more",
        "_is_framed_twice",
        "_keeps_alive",
        "_known",
        "_last",
        "_loop",
        "_parser",
        "_parts",
        "_response",
        "_silence_s",
    )

    def __init__(self, connection: Held, silence_s: float) -> None:
        self._connection = connection
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._parser = self._new_parser()
        #: The fields of a head by their names in lower case (the first of a repeated name), how many were read, and
        #: whether one that has the length of the body was repeated.
        self._found: dict[bytes, bytes] = {}
        self._fields_read = 0
        self._is_framed_twice = False
        self._response: Response | None = None
        #: Of its body.
        self._parts: list[bytes] = []
        #: Something came behind the end of the response.
        self._has_more = False
        self._keeps_alive = False
        #: The fields of the last response that came whole with its head, and how its head is recognised, once the
        #: same has come twice.
        self._last: dict[bytes, bytes] = {}
        self._known: _KnownHead | None = None

    def begin(self, data: bytes) -> Response | None:
        """Read the first bytes of a response. Returns None where they are not ordinary: nothing is taken then."""
        response: Response | None
        known = self._known
        if known is not None:
            found = known.read(data)
            if found is not None:
                fields, body = found
                response = self._response = Response(
                    known.status, fields, self._connection, self._silence_s, self._loop
                )
                response.parts.append(body)
                response.is_whole = self._keeps_alive = True
                self._has_more = False
                return response
        head_end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES + 3)
        if not data.startswith(_STATUS_LINES) or head_end < 0:
            return None
        self._response = None
        self._has_more = False
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._parser = self._new_parser()
            self._has_more = True
            response = self._begun()
            return response if response is not None and response.is_whole else None
        response = self._begun()
        if response is not None and response.is_whole:
            self._note(data[: head_end + 4], response)
        return response

    def _begun(self) -> Response | None:
        return self._response

    def _note(self, head: bytes, response: Response) -> None:
        """Have the head of a whole response recognised from now on, where the last one had the same fields."""
        last, fields = self._last, response.fields
        self._last = fields
        length = fields.get(b"content-length")
        if length is None or len(head) > _KNOWN_HEAD_MOST_BYTES or not self.may_go_on():
            return
        if {**last, b"content-length": length} != fields:
            return
        if head.count(b"\n") != head.count(b"\r\n"):
            # llhttp reads a line that ends with LF alone: its head may have ended before this one, which is then part
            # of the body too.
            return
        found = _LENGTH.search(head)
        if found is not None:
            self._known = _KnownHead(head, found, response.status_code, fields)

    def feed(self, data: bytes) -> None:
        """Read on."""
        response = self._response
        assert response is not None, "a response has begun"
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._has_more = True
            response.fail(UpstreamFailed("The upstream's response is not valid HTTP/1.1."))
        waiter, parts = response.waiter, self._parts
        if waiter is not None and parts and response.pass_piece(waiter):
            if response.size:
                response.size = 0
            return
        if not response.is_whole:
            response.size += len(data)
            if response.size > AHEAD_BYTES:
                if parts:
                    response.wait_for_taking()
                else:
                    # Nothing that can be taken, so that reading would never go on.
                    response.fail(UpstreamFailed(_NO_CONTENT, retryable=False))
        if waiter is not None and (parts or response.is_whole):
            response.wake()

    def _new_parser(self) -> HttpResponseParser:
        parser = HttpResponseParser(self)
        # As lenient as aiohttp's parser is with what comes behind the head.
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        return parser

    def may_go_on(self) -> bool:
        """Returns whether the connection may be used for another request, once a response is whole."""
        return self._keeps_alive and not self._has_more

    # what llhttp calls

    def on_message_begin(self) -> None:
        if self._response is not None:
            self._has_more = True
        self._found = {}
        self._fields_read = 0
        self._is_framed_twice = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_read += 1
        name = name.lower()
        if name not in self._found:
            self._found[name] = value
        elif name in _FRAMING:
            self._is_framed_twice = True

    def on_headers_complete(self) -> None:
        found, status = self._found, self._parser.get_status_code()
        if self._response is not None or status in _BODILESS or self._fields_read > MAX_HEADERS:
            raise _NotOrdinary
        length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
        if (length is None) == (coding is None):
            raise _NotOrdinary
        if coding is not None and coding.lower() != b"chunked":
            raise _NotOrdinary
        if length is not None and not length.isdigit():
            raise _NotOrdinary
        if self._is_framed_twice:
            raise _NotOrdinary
        response = self._response = Response(status, found, self._connection, self._silence_s, self._loop)
        self._parts = response.parts

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        assert self._response is not None
        self._keeps_alive = self._parser.should_keep_alive()
        self._response.end()
