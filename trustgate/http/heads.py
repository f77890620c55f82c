"""Recognising the head of an ordinary HTTP/1.1 request (RFC 9112), quickly and strictly.

A head is recognised only where no two readers could differ on it: every line ends in CRLF, every name is a token, no
value holds control characters, there is one ``Host``, at most one length and nothing that changes how the connection is
read on. Tests hold it against h11: what is recognised here, h11 reads in the same way.
"""

from __future__ import annotations

import re

_HEAD_MOST_BYTES = 64 * 1024
_METHODS = {b"GET": "GET", b"POST": "POST", b"DELETE": "DELETE"}
_TARGET = re.compile(rb"/[!-~]*")
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
#: What no field value may hold; CR and LF are counted.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,15}")
#: Fields that change how the connection is read on.
_HOP = frozenset(
    (b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"http2-settings", b"proxy-connection")
)
#: Names of fields as clients write them, in lower case: seen before, and so known to be tokens. Bounded.
_names: dict[bytes, bytes] = {}
_NAMES_MOST = 1_000

Headers = list[tuple[bytes, bytes]]


class Head:
    """The head of an ordinary request, and where its body begins."""

    __slots__ = ("begins", "closes", "headers", "length", "method", "target")

    def __init__(self, method: str, target: bytes, headers: Headers, length: int, begins: int, *, closes: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        #: Of the body, bytes.
        self.length = length
        self.begins = begins
        #: The client wants the connection closed afterwards.
        self.closes = closes


def read_head(data: bytes) -> Head | None:
    """The head that ``data`` begins with, if it is whole and ordinary."""
    end = data.find(b"\r\n\r\n", 0, _HEAD_MOST_BYTES)
    if end < 0:
        return None
    head = data[:end]
    lines = head.split(b"\r\n")
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or _CONTROLS.search(head):
        return None
    words = lines[0].split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1":
        return None
    method = _METHODS.get(words[0])
    if method is None or not _TARGET.fullmatch(words[1]):
        return None
    headers: Headers = []
    hosts = 0
    length: int | None = None
    closes = False
    for line in lines[1:]:
        raw_name, _, value = line.partition(b":")
        name = _names.get(raw_name) or _lower(raw_name)
        value = value.strip(b" \t")
        if not name or name in _HOP:
            return None
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif name == b"connection":
            option = value.lower()
            if option == b"close":
                closes = True
            elif option != b"keep-alive":
                return None
        headers.append((name, value))
    if hosts != 1:
        return None
    return Head(method, words[1], headers, length or 0, end + 4, closes=closes)


def _lower(raw_name: bytes) -> bytes:
    """The name of a field in lower case; empty if it is none."""
    if not _TOKEN.fullmatch(raw_name):
        return b""
    name = raw_name.lower()
    if len(_names) < _NAMES_MOST and len(raw_name) < 100:
        _names[raw_name] = name
    return name
