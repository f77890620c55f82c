"""One connection to an upstream, above the two parsers of responses: what is read by which.

A response that is ordinary is llhttp's (``response.Reader``); what of another's head can be put right is put right
first, and aiohttp's parser reads it.

Owns leniency towards servers whose responses can be framed safely although they are not strictly HTTP/1.1, and the
knowledge of how a connection stands: whether it is still open, and whether the response to its last request has begun.
Source: RFC 9112, section 6.3 "Message Body Length".
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import select
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from trustgate.errors import UpstreamFailed
from trustgate.models.upstream.response import MAX_HEAD_BYTES, MAX_HEADERS, Reader, Response
from trustgate.outbox import LARGE_BYTES, Outbox

_READ_BYTES = 64 * 1024

#: How many interim responses (1xx) may come before an answer: servers send one, or a few hints.
MAX_INTERIM = 32

_FRAMING = re.compile(rb"\r?\n(content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


#: poll(2), of a time that is over at once. ``select.poll`` gives the interpreter away for it, as for one that waits:
#: another thread takes it, and the event loop has to wait until it gets it back.
_poll = ctypes.PyDLL(None).poll


class _PollFd(ctypes.Structure):
    """``struct pollfd`` of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def _nothing() -> None:
    pass


def _take_no_notice(_: bool) -> None:
    pass


class UpstreamProtocol(ResponseHandler):
    """aiohttp's connection, with llhttp reading what is ordinary.

    Of the rest, heads have up to ``MAX_HEAD_BYTES``, and their lengths are put right before they are read.
    """

    # With these in its dictionary too each connection would have a table of keys of its own, of 1.5 kB.
    __slots__ = (
        *("_begun", "_head", "_interim", "_poll_fd", "_reader", "_response", "_silence_s", "_unwritten"),
        *("heard", "on_lost", "on_whole", "waits_since"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: Whether any byte of the response to the last request has arrived.
        self.heard = False
        #: What has arrived of a head that is not whole; None: the head is read.
        self._head: bytes | None = None
        #: How many interim responses came before it.
        self._interim = 0
        #: The argument of ``_poll``, made at its first call.
        self._poll_fd: Any = None
        self._reader: Reader | None = None
        #: The response that llhttp reads (``_reader`` has read its head), until it is whole.
        self._response: Response | None = None
        self._begun: asyncio.Future[Response | None] | None = None
        self._silence_s = 0.0
        #: What is to be written in this turn of the event loop.
        self._unwritten = b""
        #: When the response was first waited for, in the loop's time.
        self.waits_since = 0.0
        #: Is called when a response that llhttp read is whole, with whether another request may be sent.
        self.on_whole: Callable[[bool], None] = _take_no_notice
        #: Is called when the connection has ended.
        self.on_lost: Callable[[], None] = _nothing

    def expect_response(self, silence_s: float) -> asyncio.Future[Response | None]:
        """Prepare for the response to one request, of which ``silence_s`` bounds the pauses.

        Returns: what becomes the response once its head is here; None where aiohttp reads it (``read``).
        """
        self.heard = False
        self._head = b""
        self._interim = 0
        self._silence_s = silence_s
        self.waits_since = self._loop.time()
        begun = self._begun = self._loop.create_future()
        return begun

    def write_soon(self, data: bytes, outbox: Outbox) -> None:
        """Write within this turn of the event loop. Where that fails, the wait for the response ends with the error."""
        if self._unwritten or len(data) > LARGE_BYTES:
            self.put(data)
        else:
            self._unwritten = data
            outbox.add(self)

    def write_out(self) -> None:
        data, self._unwritten = self._unwritten, b""
        if data:
            self.put(data)

    def put(self, data: bytes) -> None:
        """Write now, behind what is still to be written. Where that fails, the wait ends, as in ``write_soon``."""
        if self._unwritten:
            self.write_out()
        transport: Any = self.transport
        if transport is None or transport.is_closing():
            self._end_wait(ConnectionResetError("the connection to the upstream has ended"))
            return
        try:
            transport.write(data)
        except Exception as error:  # noqa: BLE001 - it is raised where the response is waited for
            self._end_wait(error)

    @property
    def is_waiting(self) -> bool:
        """Whether a response is waited for whose head has not begun."""
        return self._begun is not None and not self._begun.done()

    def head_is_late(self) -> None:
        """The time for the response to begin is over."""
        self._end_wait(TimeoutError("the upstream did not answer in time"))

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the response to one request that aiohttp sends."""
        self.heard = False
        self._head = b""
        self._interim = 0
        self._begun = None
        limits = {"max_line_size": MAX_HEAD_BYTES, "max_field_size": MAX_HEAD_BYTES, "max_headers": MAX_HEADERS}
        super().set_response_params(**{**params, **limits})

    def is_connected(self) -> bool:
        """Returns whether a request can be sent; asked of a kept connection before it is used again.

        The system is asked too: a server may have closed it a moment ago, and the event loop not have looked yet. What
        can be read from an idle connection is its end, or something that belongs to no request.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        poll_fd = self._poll_fd
        if poll_fd is None:
            file_descriptor = transport.get_extra_info("socket").fileno()
            poll_fd = self._poll_fd = ctypes.byref(_PollFd(file_descriptor, select.POLLIN))
        readable: int = _poll(poll_fd, 1, 0)
        return readable == 0

    def data_received(self, data: bytes) -> None:
        response = self._response
        reader = self._reader
        if response is not None and reader is not None:
            reader.feed(data)
            if response.is_whole:
                self._response = None
                self.on_whole(reader.may_go_on())
            return
        if data and self._is_unused():
            # What belongs to no request would be taken for the answer to the next one, which may be another tenant's.
            self.close()
            return
        if not data or self._head is None or (self._begun is None and self.upgraded):
            super().data_received(data)
            return
        self.heard = True
        if self._begun is not None and not self._begin(data):
            return
        data = self._head + data if self._head else data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                end = data.find(b"\n\n") + 2
            if (len(data) if end < 2 else end) > MAX_HEAD_BYTES:
                self._fail(f"The head of the upstream's response is longer than {MAX_HEAD_BYTES} bytes.")
                return
            if end < 2:
                self._head = data
                return
            if data[:5] != b"HTTP/" or data[9:10] != b"1":
                break
            # An interim response (RFC 9110, section 15.2): another head follows.
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._fail(f"The upstream sent more than {MAX_INTERIM} interim responses before its answer.")
                return
            super().data_received(data[:end])
            data = data[end:]
        self._head = None
        try:
            data = with_one_length(data, end)
        except UpstreamFailed as error:
            self._fail(error.message)
            return
        super().data_received(data)

    def _is_unused(self) -> bool:
        """Returns whether no response is read or waited for."""
        if self._head is not None or self._begun is not None:
            return False
        payload = self._payload
        return payload is None or payload.is_eof()

    def _begin(self, data: bytes) -> bool:
        """Read the first bytes of a response. Returns whether aiohttp is to read it."""
        begun, self._begun = self._begun, None
        assert begun is not None, "a response is waited for"
        reader = self._reader
        if reader is None:
            reader = self._reader = Reader(self, self._silence_s)
        response = reader.begin(data)
        if response is None:
            super().set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=self._silence_s,
                read_bufsize=_READ_BYTES,
                max_line_size=MAX_HEAD_BYTES,
                max_field_size=MAX_HEAD_BYTES,
                max_headers=MAX_HEADERS,
            )
            self.start_timeout()
        else:
            self._head = None
            if response.is_whole:
                on_whole = self.on_whole
                on_whole(reader.may_go_on())
            else:
                self._response = response
        if not begun.done():
            begun.set_result(response)
        return response is None

    def hold_back(self) -> None:
        """Read no more of a response for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        response, self._response = self._response, None
        lost = ConnectionResetError("the upstream ended the connection")
        if response is not None:
            response.fail(lost)
        self._end_wait(lost)
        super().connection_lost(exc)
        self.on_lost()

    def _end_wait(self, error: BaseException) -> None:
        begun, self._begun = self._begun, None
        if begun is not None and not begun.done():
            begun.set_exception(error)

    def _fail(self, message: str) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(UpstreamFailed(message, retryable=False))


def with_one_length(data: bytes, end: int) -> bytes:
    """Returns a response whose head (up to ``end``) has the body's length in one way.

    Transfer-Encoding goes before Content-Length; a value that is repeated counts once. Raises ``UpstreamFailed`` for
    lengths that contradict each other.
    """
    head = data[:end].lower()
    at = head.find(b"\ncontent-length")
    if at >= 0:
        line = head[at + 1 : head.find(b"\n", at + 1)]
        is_repeated = b"," in line or b"\ncontent-length" in head[at + 1 :]
        is_single = not is_repeated and b"\ntransfer-encoding" not in head
    else:
        is_single = head.count(b"\ntransfer-encoding") < 2 and b"identity" not in head
    if is_single:
        return data
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in _FRAMING.findall(data[:end]):
        values = lengths if name.lower() == b"content-length" else codings
        values += [part.strip().lower() for part in value.split(b",")]
    codings = [coding for coding in dict.fromkeys(codings) if coding not in (b"", b"identity")]
    rest = _FRAMING.sub(b"", data[:end])
    if codings:
        return _with_header(rest, b"transfer-encoding: " + b", ".join(codings)) + data[end:]
    distinct = {length.lstrip(b"0") or b"0" for length in lengths if length}
    if len(distinct) > 1:
        raise UpstreamFailed("The upstream's response has two different Content-Length values.", retryable=False)
    if not distinct:
        return rest + data[end:]
    return _with_header(rest, b"content-length: " + distinct.pop()) + data[end:]


def _with_header(head: bytes, line: bytes) -> bytes:
    blank = b"\r\n\r\n" if head.endswith(b"\r\n\r\n") else b"\n\n"
    return head[: -len(blank)] + b"\r\n" + line + b"\r\n\r\n"


class Connector(aiohttp.TCPConnector):
    """A pool of such connections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        factory: Any = partial(UpstreamProtocol, loop=asyncio.get_running_loop())
        self._factory = factory
