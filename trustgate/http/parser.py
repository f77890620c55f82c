"""Reading HTTP/1.1 requests (RFC 9112) with llhttp, strictly: the head of a request, and bodies in chunks.

llhttp refuses what makes two readers of a request disagree: line ends other than CRLF, folded lines, field lines
without a colon or with space before it, control characters, a length given twice or beside Transfer-Encoding, chunk
sizes that are no plain hexadecimal numbers. Added here is what it leaves to its caller: the request line's form, the
Host field, the one transfer coding that is served, and limits.
"""

from __future__ import annotations

import re
from typing import Any

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

#: Of a head, with its request line and the empty line at its end.
MAX_HEAD_BYTES = 64 * 1024
MAX_REQUEST_LINE_BYTES = 16 * 1024
MAX_FIELDS = 200
#: Of a chunked body: what may come without a byte of the body in it (sizes, extensions, trailers).
_MAX_FRAMING_BYTES = 16 * 1024
_HEAD_END = b"\r\n\r\n"
#: How a connection begins that speaks HTTP/2 without having asked (RFC 9113 section 3.4).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
#: How far a request line can have come.
_REQUEST_LINE_BEGUN = re.compile(_TOKEN + rb"{1,32}(?: (?:[!-~]+(?: [HTTP/0-9.]{0,8}\r?)?)?)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
#: Absolute form (RFC 9112 section 3.2.2): the authority that it names decides nothing here.
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
#: What a body's parser is told before the body: how heads are read is decided by then.
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"

#: The length of a body in a head that has one length.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_MOST_DIGITS = 16

Headers = list[tuple[bytes, bytes]]


class InvalidHttp(Exception):
    """A request that cannot be read. Its connection is of no further use: where the next request begins is unknown.

    Args:
        status: what to answer with.
        code: of the error in OpenAI's form.
        message: what is wrong, as a sentence.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def _invalid(reason: str, status: int = 400, code: str = "invalid_http") -> InvalidHttp:
    return InvalidHttp(status, code, f"The request is not valid HTTP/1.1: {reason}.")


def head_too_large() -> InvalidHttp:
    return InvalidHttp(431, "header_too_large", f"The request's head is larger than {MAX_HEAD_BYTES} bytes.")


def head_too_slow() -> InvalidHttp:
    return InvalidHttp(408, "request_timeout", "The head of the request did not come to its end in time.")


def too_many_fields() -> InvalidHttp:
    return InvalidHttp(431, "header_too_large", f"The request has more than {MAX_FIELDS} header fields.")


def _request_line_too_large() -> InvalidHttp:
    return InvalidHttp(
        414, "uri_too_long", f"The request line is larger than {MAX_REQUEST_LINE_BYTES} bytes: send data in the body."
    )


class RequestHead:
    """The head of a request."""

    __slots__ = (
        *("expects_continue", "fields", "forwarded", "headers", "is_chunked", "is_ordinary", "is_usual", "judged_as"),
        "keeps_alive",
        *("key_hash", "length", "method", "noted", "passed", "path", "query", "scope", "target", "upgrade", "version"),
    )

    def __init__(self, method: str, target: bytes, version: str) -> None:
        self.method = method
        #: As it was sent.
        self.target = target
        #: Of the target, still percent-encoded; without a scheme and authority.
        self.path, self.query = _split(method, target)
        #: "1.0" or "1.1".
        self.version = version
        #: Names in lower case, in the order in which they came.
        self.headers: Headers = []
        #: Of the body, bytes; 0 where it comes in chunks.
        self.length = 0
        self.is_chunked = False
        #: The client lets the connection go on after this request.
        self.keeps_alive = version == "1.1"
        self.expects_continue = False
        #: The protocol asked for by ``Connection: upgrade``, in lower case; empty: none.
        self.upgrade = b""
        #: Nothing but its length tells how its body is read, its answer may have a body, and the connection goes on.
        self.is_ordinary = version == "1.1" and method != "HEAD"
        #: For what judges heads: what was found out about this one, whatever the length of its body; and as whose it
        #: was let through, until its request is begun.
        self.noted: Any = None
        self.passed: str | None = None
        #: The tenant that it was judged as when there was no room.
        self.judged_as: str | None = None
        #: For the path, which reads a head once however often a connection repeats it: the fields by name, the last of
        #: each; the hash of the key in them; whether nothing in them is refused for requests with JSON but the length;
        #: what travels on of them, and for what that was worked out.
        self.fields: dict[bytes, bytes] | None = None
        self.key_hash: bytes | None = None
        self.is_usual: bool | None = None
        self.forwarded: tuple[object, Any] | None = None
        #: The scope of its connection's requests with this head, but for what each has of its own.
        self.scope: dict[str, Any] | None = None

    def with_length(self, digits: bytes) -> RequestHead:
        """Returns the same head of a request whose body has another length."""
        head = RequestHead(self.method, self.target, self.version)
        head.headers = [(name, digits if name == b"content-length" else value) for name, value in self.headers]
        head.length = int(digits)
        head.keeps_alive = self.keeps_alive
        head.is_ordinary = self.is_ordinary
        head.noted = self.noted
        head.judged_as = self.judged_as
        head.key_hash = self.key_hash
        head.is_usual = self.is_usual
        head.forwarded = self.forwarded
        if self.scope is not None:
            head.scope = {**self.scope, "headers": head.headers}
        return head

    def by_name(self) -> dict[bytes, bytes]:
        """Returns the fields by their names in lower case, the last of each; the same for all requests with this head.

        Nothing may be changed in it.
        """
        fields = self.fields
        if fields is None:
            fields = self.fields = dict(self.headers)
        return fields


def _split(method: str, target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target (RFC 9112 section 3.2)."""
    if target[:1] != b"/":
        absolute = _ABSOLUTE.match(target)
        if absolute is not None:
            target = target[absolute.end() :]
            if target[:1] != b"/":
                target = b"/" + target
        elif target != b"*" or method != "OPTIONS":
            raise _invalid("the request target is neither a path nor a URL")
    if b"#" in target:
        raise _invalid("the request target has a fragment")
    path, _, query = target.partition(b"?")
    return path, query


def find_head_end(data: bytes, looked_at: int) -> int:
    """Where a head ends that is still coming.

    Args:
        data: what has come, from the head's first byte.
        looked_at: how much of it an earlier call has seen.

    Returns:
        The length of the head with its empty line; 0 if it has not come to its end yet.

    Raises:
        InvalidHttp: it is too large, or can no longer become a head.
    """
    end = data.find(_HEAD_END, max(looked_at - 3, 0), MAX_HEAD_BYTES)
    if end >= 0:
        return end + 4
    if len(data) >= MAX_HEAD_BYTES:
        raise head_too_large() if data.find(b"\r\n", 0, MAX_REQUEST_LINE_BYTES) >= 0 else _request_line_too_large()
    line, line_end, _ = data.partition(b"\r\n")
    if len(line) > MAX_REQUEST_LINE_BYTES - 2:
        raise _request_line_too_large()
    if not line_end and not _REQUEST_LINE_BEGUN.fullmatch(line):
        raise _invalid("it does not begin with a request line")
    if _BARE_LF.search(data, max(looked_at - 1, 0)):
        raise _invalid("a line does not end in CRLF")
    return 0


class _Fields:
    """What llhttp finds in a head."""

    __slots__ = ("are_read", "found")

    def __init__(self) -> None:
        self.found: Headers = []
        self.are_read = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value))

    def on_headers_complete(self) -> None:
        self.are_read = True


def read_head(data: bytes) -> RequestHead:
    """Read the head of a request.

    Args:
        data: the head, from its request line to its empty line (``find_head_end``), and nothing else.

    Raises:
        InvalidHttp: it is not valid, or asks for what is not served.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise _invalid("it does not begin with a request line")
    if line.end() > MAX_REQUEST_LINE_BYTES:
        raise _request_line_too_large()
    version = b"%b.%b" % (line[3], line[4])
    if version not in (b"1.1", b"1.0"):
        raise _invalid("its version is neither 1.1 nor 1.0", 505, "unsupported_http_version")
    fields = _Fields()
    parser = HttpRequestParser(fields)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # said by fields that are looked at below
    except HttpParserInvalidMethodError:
        raise _unknown_method() from None
    except HttpParserError as error:
        if fields.are_read:
            raise _unsupported_coding() from None  # the one fault that llhttp sees that late
        raise _invalid(str(error)) from None
    if not fields.are_read:
        raise _invalid("its head has no end")
    if len(fields.found) > MAX_FIELDS:
        raise too_many_fields()
    if line[1] == b"CONNECT":
        raise _unknown_method()
    head = RequestHead(line[1].decode(), line[2], version.decode())
    _take_fields(head, fields.found)
    return head


def _unknown_method() -> InvalidHttp:
    return _invalid("its method is not one that is served", 501, "unsupported_method")


def _unsupported_coding() -> InvalidHttp:
    return InvalidHttp(501, "unsupported_transfer_encoding", "The request has a transfer encoding other than chunked.")


#: The fields that say how a connection is read on.
_DECISIVE = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding", b"expect", b"upgrade"))


def _take_fields(head: RequestHead, found: Headers) -> None:
    """Take the fields into the head, and what those say that decide how the connection is read on."""
    hosts = 0
    upgrade = b""
    options: list[bytes] = []
    head.headers = [(name.lower(), value.rstrip(b" \t")) for name, value in found]
    for name, value in [field for field in head.headers if field[0] in _DECISIVE]:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            head.length = int(value)
        elif name == b"connection":
            options += [option.strip(b" \t") for option in value.lower().split(b",")]
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise _unsupported_coding()
            head.is_chunked = True
        elif name == b"expect":
            # A client of HTTP/1.0 cannot mean it (RFC 9110 section 10.1.1).
            head.expects_continue = value.lower() == b"100-continue" and head.version == "1.1"
        elif name == b"upgrade":
            upgrade = value.lower()
    if hosts != 1 and (hosts or head.version == "1.1"):
        raise _invalid("it has no Host field" if not hosts else "it has more than one Host field")
    if head.is_chunked and head.version == "1.0":
        # A proxy in between may have read it otherwise (RFC 9112 section 6.1).
        raise _invalid("HTTP/1.0 has no Transfer-Encoding")
    if options:
        head.keeps_alive = b"close" not in options and (head.keeps_alive or b"keep-alive" in options)
        if b"upgrade" in options:
            head.upgrade = upgrade
    if head.is_chunked or head.expects_continue or not head.keeps_alive:
        head.is_ordinary = False


class KnownHead:
    """A head that was read, to be recognised when the same comes again but for the length of its body.

    Clients send one request after another with the same fields: to compare them costs a tenth of reading them.
    """

    __slots__ = ("_after", "_before", "_digits", "_request_size", "_whole", "head", "size")

    def __init__(self, data: bytes, head: RequestHead) -> None:
        """``data``: all of the head's bytes, which ``read_head`` has read as ``head``."""
        self._digits = b""
        self._before, self._after = data, b""
        self._take(data, head)
        length = _LENGTH.search(data)
        if length is not None:
            self._digits = length[1]
            self._before, self._after = data[: length.start(1)], data[length.end(1) :]

    def _take(self, data: bytes, head: RequestHead) -> None:
        #: As it came last, and its size in bytes.
        self.head = head
        self._whole = data
        self.size = len(data)
        self._request_size = len(data) + head.length

    def is_request(self, data: bytes) -> bool:
        """Returns whether ``data`` is a whole request and nothing else, with the head as it came last."""
        return len(data) == self._request_size and data.startswith(self._whole)

    @staticmethod
    def may_be(head: RequestHead) -> bool:
        """Returns whether a head is one of those that are recognised: nothing in it is said but once."""
        return head.version == "1.1" and not (head.is_chunked or head.expects_continue or head.upgrade)

    def read(self, data: bytes) -> tuple[RequestHead, int] | None:
        """Returns the head that ``data`` begins with, and its size in bytes; None where it is another one."""
        if not data.startswith(self._before):
            return None
        begin = len(self._before)
        if not self._after:
            return self.head, begin
        end = data.find(b"\r", begin, begin + _MOST_DIGITS)
        digits = data[begin:end]
        if not data.startswith(self._after, end):
            return None
        if digits != self._digits:
            if not digits.isdigit():
                return None  # read_head says what it is
            self._digits = digits
            self._take(data[: end + len(self._after)], self.head.with_length(digits))
        return self.head, self.size


class ChunkedBody:
    """A body with ``Transfer-Encoding: chunked`` (RFC 9112 section 7.1). Its trailer fields are read and dropped."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._framing_bytes = 0
        #: The last bytes that were given to the parser, as far as they may begin an empty line.
        self._tail = b""
        #: The body has come to its end.
        self.is_whole = False
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        self.is_whole = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Read on.

        llhttp does not tell where in its input a body ends, and would read what follows as a request. A chunked body
        ends in an empty line; given in pieces that each end behind one, the input never goes on past the body's end.

        Returns:
            The bytes of the body that came, and what came behind it.

        Raises:
            InvalidHttp: it is not a chunked body, or has more framing than a body needs.
        """
        view = memoryview(data)
        fed = 0
        try:
            while fed < len(data) and not self.is_whole:
                end = self._piece_end(data, fed)
                self._parser.feed_data(view[fed:end])
                fed = end
        except HttpParserError as error:
            raise _invalid(str(error)) from None
        self._tail = (self._tail + data[-3:])[-3:]
        body, self._parts = b"".join(self._parts), []
        self._framing_bytes = 0 if body else self._framing_bytes + fed
        if self._framing_bytes > _MAX_FRAMING_BYTES:
            raise InvalidHttp(431, "header_too_large", "The request's body has too much framing around it.")
        return body, data[fed:]

    def _piece_end(self, data: bytes, begin: int) -> int:
        """Returns where the next piece ends that is given to the parser."""
        if not begin and self._tail:
            # An empty line may have begun in what came before.
            joined = self._tail + data[:3]
            end = joined.find(_HEAD_END)
            if end >= 0:
                return end + 4 - len(self._tail)
        end = data.find(_HEAD_END, begin)
        return len(data) if end < 0 else end + 4
