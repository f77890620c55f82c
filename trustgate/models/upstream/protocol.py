"""One connection to an upstream, beneath aiohttp's response parser: what of a response's head is put right first.

Owns leniency towards servers whose responses can be framed safely although they are not strictly HTTP/1.1, and the
knowledge of how a connection stands: whether it is still open, and whether the response to its last request has begun.
Source: RFC 9112, section 6.3 "Message Body Length".
"""

from __future__ import annotations

import asyncio
import re
import select
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from trustgate.errors import UpstreamFailed

#: The largest head of a response, bytes, and the most header lines in one.
MAX_HEAD_BYTES = 256 * 1024
_MAX_HEADERS = 2_000

_FRAMING = re.compile(rb"\r?\n(content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


class UpstreamProtocol(ResponseHandler):
    """aiohttp's connection, with heads of up to ``MAX_HEAD_BYTES`` whose lengths are put right before they are read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: Whether any byte of the response to the last request has arrived.
        self.heard = False
        #: What has arrived of a head that is not whole; None: the head is read.
        self._head: bytes | None = None
        self._poll: select.poll | None = None

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the response to one request."""
        self.heard = False
        self._head = b""
        limits = {"max_line_size": MAX_HEAD_BYTES, "max_field_size": MAX_HEAD_BYTES, "max_headers": _MAX_HEADERS}
        super().set_response_params(**{**params, **limits})

    def is_connected(self) -> bool:
        """Whether a request can be sent; asked of a kept connection before it is used again.

        The system is asked too: a server may have closed it a moment ago, and the event loop not have looked yet. What
        can be read from an idle connection is its end, or something that belongs to no request.
        """
        if not super().is_connected() or self.transport is None:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def data_received(self, data: bytes) -> None:
        if not data or self._head is None or self.upgraded:
            super().data_received(data)
            return
        self.heard = True
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
            super().data_received(data[:end])
            data = data[end:]
        self._head = None
        try:
            data = with_one_length(data, end)
        except UpstreamFailed as error:
            self._fail(error.message)
            return
        super().data_received(data)

    def _fail(self, message: str) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(UpstreamFailed(message, retryable=False))


def with_one_length(data: bytes, end: int) -> bytes:
    """A response whose head (up to ``end``) says how long its body is in one way.

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
