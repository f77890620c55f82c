"""How HTTP/1.1 is read: as h11 does, on valid requests that were damaged a little, in whatever pieces they come."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reached import reached, reaches
from trustgate.http.parser import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_REQUEST_LINE_BYTES,
    ChunkedBody,
    InvalidHttp,
    KnownHead,
    RequestHead,
    find_head_end,
    read_head,
)
from trustgate.http.peers import scope_of

_token_characters = "!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"
_names = st.sampled_from(
    ["Accept", "user-agent", "X-Stainless-OS", "Authorization", "te", "Trailer", "Expect", "Upgrade", "Connection"]
) | st.text(_token_characters, min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("host", "content-length", "transfer-encoding")
)
_values = st.sampled_from(["", "x", "a  b", "close", "keep-alive", "100-continue", "trailers", "h2c", "a, b", "é"])
_spaces = st.sampled_from(["", " ", "\t", "  \t"])
_bodies = st.binary(max_size=40) | st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])


@st.composite
def field_lines(draw: st.DrawFn) -> bytes:
    return f"{draw(_names)}:{draw(_spaces)}{draw(_values)}{draw(_spaces)}\r\n".encode("latin-1")


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """The body in chunks, some with extensions, perhaps with trailer fields."""
    wire = b""
    while body:
        size = draw(st.integers(1, len(body)))
        digits = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a", b"%x;a=b"])) % size
        wire += digits + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    return wire + b"0\r\n" + b"".join(draw(st.lists(st.just(b"x-end: 1\r\n"), max_size=2))) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A valid request and the beginning of another."""
    method = draw(st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"]))
    target = draw(st.sampled_from(["/", "/v1/chat/completions", "/a?b=%20&c", "//x/..;/y", "http://x/y?z", "/[]|`"]))
    lines = draw(st.lists(field_lines(), max_size=4))
    lines.insert(draw(st.integers(0, len(lines))), b"Host: x\r\n")
    body = draw(_bodies)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "length":
        lines.insert(draw(st.integers(0, len(lines))), b"Content-Length: %d\r\n" % len(body))
    elif framing == "chunked":
        lines.insert(draw(st.integers(0, len(lines))), b"Transfer-Encoding: chunked\r\n")
        body = draw(chunked(body))
    else:
        body = b""
    behind = draw(st.sampled_from([b"", b"G", b"GET /next HTTP/1.1\r\n", b"\r\n"]))
    return f"{method} {target} HTTP/1.1\r\n".encode() + b"".join(lines) + b"\r\n" + body + behind


#: What a damaged request has in a place where there was something else.
_damages = st.sampled_from(
    [
        *(b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\r\n ", b"\r\n\r\n", b"\0", b"\x0b", b"\x7f", b"\x85", b"\xff"),
        *(b":", b";", b",", b"0", b"1", b"-", b"+", b"0x", b"_", b"A", b"chunked", b"\r\nContent-Length: 3"),
        *(b"\r\nTransfer-Encoding: chunked", b"\r\nHost: y", b"\r\nConnection: close", b"\r\nbroken"),
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid request with up to two places changed, most of them where its framing is."""
    data = draw(requests())
    for _ in range(draw(st.integers(0, 2))):
        marks = [at for at, byte in enumerate(data) if byte in b" :\r\n;0123456789"]
        at = draw(st.sampled_from(marks) | st.integers(0, len(data) - 1)) if marks else 0
        data = data[:at] + draw(_damages) + data[at + draw(st.integers(0, 2)) :]
    return data


Read = tuple[RequestHead, bytes, bool, bytes]


def read(data: bytes) -> Read | None:
    """Head, body, whether the body is whole, and what is behind it; None while the head is not whole."""
    size = find_head_end(data, 0)
    if not size:
        return None
    head = read_head(data[:size])
    rest = data[size:]
    if head.is_chunked:
        chunks = ChunkedBody()
        body, rest = chunks.feed(rest)
        return head, body, chunks.is_whole, rest
    body, rest = rest[: head.length], rest[head.length :]
    return head, body, len(body) == head.length, rest


@reaches(0.4)
@settings(max_examples=1_000)
@given(damaged())
def test_what_is_accepted_is_read_as_h11_reads_it(data: bytes) -> None:
    try:
        ours = read(data)
    except InvalidHttp:
        return
    if ours is None:
        return
    head, body, is_whole, rest = ours
    reached()
    judge = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    judge.receive_data(data)
    request = judge.next_event()
    assert isinstance(request, h11.Request)
    assert (head.method.encode(), head.target) == (request.method, request.target)
    assert head.version.encode() == request.http_version
    assert [_as_h11(field) for field in head.headers] == [
        (bytes(name), bytes(value)) for name, value in request.headers
    ]
    read_body = b""
    while isinstance(event := judge.next_event(), h11.Data):
        read_body += bytes(event.data)
    assert body == read_body
    assert is_whole == isinstance(event, h11.EndOfMessage)
    if is_whole:
        assert rest == judge.trailing_data[0]


def _as_h11(field: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """h11 writes the one coding that it knows in lower case."""
    name, value = field
    return (name, value.lower()) if name == b"transfer-encoding" else field


@given(requests())
def test_a_valid_request_is_accepted(data: bytes) -> None:
    ours = read(data)
    assert ours is not None
    assert ours[2]


@given(st.data())
def test_a_chunked_body_is_the_same_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    body = data.draw(_bodies)
    wire = data.draw(chunked(body))
    behind = data.draw(st.sampled_from([b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=8)))
    chunks = ChunkedBody()
    got, rest = b"", b""
    for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        assert not rest
        piece = wire[begin:end] + (behind if end == len(wire) else b"")
        part, rest = chunks.feed(piece)
        got += part
    assert (got, chunks.is_whole, rest) == (body, True, behind)


@given(requests().map(lambda data: data[: data.index(b"\r\n\r\n") + 4]), st.data())
def test_the_end_of_a_head_is_found_in_whatever_pieces_it_comes(head: bytes, data: st.DataObject) -> None:
    looked_at = 0
    for end in sorted(data.draw(st.lists(st.integers(1, len(head) - 1), max_size=8))):
        assert find_head_end(head[:end], looked_at) == 0
        looked_at = end
    assert find_head_end(head, looked_at) == len(head)


def head_of(size: int) -> bytes:
    """A head of exactly this many bytes."""
    begin, end = b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"\r\n\r\n"
    return begin + b"y" * (size - len(begin) - len(end)) + end


def test_the_limit_of_a_head_is_exact() -> None:
    assert find_head_end(head_of(MAX_HEAD_BYTES), 0) == MAX_HEAD_BYTES
    with pytest.raises(InvalidHttp) as refused:
        find_head_end(head_of(MAX_HEAD_BYTES + 1), 0)
    assert refused.value.status == 431


def test_the_limit_of_a_head_is_the_same_when_more_comes_with_it() -> None:
    assert find_head_end(head_of(MAX_HEAD_BYTES) + b"z" * 100_000, 0) == MAX_HEAD_BYTES
    with pytest.raises(InvalidHttp):
        find_head_end(head_of(MAX_HEAD_BYTES + 1) + b"z" * 100_000, 0)


@pytest.mark.parametrize(("extra", "status"), [(0, None), (1, 414)])
def test_the_limit_of_a_request_line_is_exact(extra: int, status: int | None) -> None:
    begin, end = b"GET /", b" HTTP/1.1\r\n"
    line = begin + b"x" * (MAX_REQUEST_LINE_BYTES + extra - len(begin) - len(end)) + end
    for data in (line, line + b"host: x\r\n\r\n"):
        try:
            size = find_head_end(data, 0)
            if size:
                read_head(data[:size])
            found = None
        except InvalidHttp as refused:
            found = refused.status
        assert found == status


@pytest.mark.parametrize(("extra", "status"), [(0, None), (1, 431)])
def test_the_number_of_fields_is_bounded(extra: int, status: int | None) -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (MAX_FIELDS - 1 + extra) + b"\r\n"
    try:
        assert len(read_head(head).headers) == MAX_FIELDS
        found = None
    except InvalidHttp as refused:
        found = refused.status
    assert found == status


@pytest.mark.parametrize("filler", [b"0", b"1;" + b"a" * 1_000 + b"\r\nx\r\n"], ids=["zeros", "extensions"])
def test_framing_without_a_body_is_bounded(filler: bytes) -> None:
    """A size with leading zeros without end is refused; extensions are not, as long as a body comes with them."""
    chunks = ChunkedBody()
    refused = False
    try:
        for _ in range(20_000):
            chunks.feed(filler)
    except InvalidHttp as error:
        refused = error.status == 431
    assert refused == (filler == b"0")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b?c=d?e", b"/a/b", b"c=d?e"),
        (b"//x/y", b"//x/y", b""),
        (b"http://evil.example:80/v1/models?limit=1", b"/v1/models", b"limit=1"),
        (b"HTTPS://x", b"/", b""),
        (b"http://x?y", b"/", b"y"),
    ],
)
def test_the_target_of_a_request_is_its_path(target: bytes, path: bytes, query: bytes) -> None:
    head = read_head(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (head.target, head.path, head.query) == (target, path, query)


@pytest.mark.parametrize(
    "beginning",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET  /", b"GET /\x00", b"GET / HTTP/1.1\nhost", b"(", b"G" * 33, b" GET"],
)
def test_what_cannot_become_a_request_is_refused_before_its_end(beginning: bytes) -> None:
    with pytest.raises(InvalidHttp) as refused:
        find_head_end(beginning, 0)
    assert refused.value.status == 400


@st.composite
def repeated(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid head, and what may follow on its connection: the same, with another length perhaps, or a damaged one."""
    data = draw(requests())
    first = data[: data.index(b"\r\n\r\n") + 4]
    length = st.integers(0, 10**17).map(lambda number: b"%d" % number)
    digits = draw(length | st.sampled_from([b"", b"0", b"007", b"+7", b"7 ", b" 7", b"7,7", b"1e3", b"\xb2", b"7\r"]))
    second = re.sub(rb"(?i)(?<=\r\ncontent-length: )[0-9]+(?=\r\n)", lambda _: digits, first)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(second)))
        second = second[:at] + draw(_damages) + second[at + draw(st.integers(0, 1)) :]
    return first, second


@reaches(0.2)
@settings(max_examples=300)
@given(repeated(), _bodies)
def test_a_head_that_is_recognised_is_read_as_if_it_were_not(heads: tuple[bytes, bytes], behind: bytes) -> None:
    first, second = heads
    head = read_head(first)
    if not KnownHead.may_be(head):
        return
    known = KnownHead(first, head)
    scope_of(head, None, scheme="http", client=None, server=None)
    for data in (second, first, second):
        found = known.read(data + behind)
        if found is None:
            continue
        reached()
        size = find_head_end(data + behind, 0)
        plain = read_head((data + behind)[:size])
        assert found[1] == size
        scope, expected = (scope_of(each, None, scheme="http", client=None, server=None) for each in (found[0], plain))
        assert scope == expected and scope["headers"] is found[0].headers
        for name in RequestHead.__slots__:
            assert getattr(found[0], name) == getattr(plain, name), name
