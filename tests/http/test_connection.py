"""HTTP/1.1 connections over real sockets: what keeps them, what ends them, and how much is read ahead."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import time
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from tests.http.serving import PATIENCE_S, App, Server, read_all, serving
from trustgate.http.exchange import render_fields
from trustgate.http.http1 import AHEAD_BYTES
from trustgate.http.parser import MAX_HEAD_BYTES
from trustgate.http.timeouts import ConnectionTimeouts

HOST = b"host: x\r\n"
CLOSE = b"connection: close\r\n"


@pytest.fixture(params=["uvloop", "asyncio"])
def server(app: App, request: pytest.FixtureRequest) -> Iterator[Server]:
    loop_factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with serving(app, loop_factory=loop_factory) as running:
        yield running


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += receive(connection)
    return data


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the connection ended"
    return data


def split(answer: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Status line, fields and what is behind the head of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return line, dict(field.split(b": ", 1) for field in fields), body


def dechunk(body: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            assert body == b"\r\n"
            return b"".join(parts)
        parts.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]


# what is served on the one way


def test_a_head_answer_has_no_body_and_the_connection_goes_on(server: Server) -> None:
    answer = server.ask(b"HEAD /a HTTP/1.1\r\n" + HOST + b"\r\nGET /b HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    line, fields, rest = split(answer)
    assert line == b"HTTP/1.1 200 OK"
    assert int(fields[b"content-length"]) > 0
    assert json.loads(split(rest)[2])["path"] == "/b"


def test_http_1_0_gets_a_body_without_a_length_up_to_the_end_of_the_connection(server: Server, app: App) -> None:
    app.open()
    line, fields, body = split(server.ask(b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"))
    assert (line, body) == (b"HTTP/1.1 200 OK", b"first last")
    assert b"transfer-encoding" not in fields
    assert fields[b"connection"] == b"close"


def test_http_1_0_is_told_that_its_connection_goes_on(server: Server) -> None:
    first, second = b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", b"GET /b HTTP/1.0\r\n\r\n"
    _, fields, _ = split(server.ask(first + second))
    assert fields[b"connection"] == b"keep-alive"


def test_a_body_is_asked_for_once_it_is_read(server: Server, app: App) -> None:
    with server.connect() as connection:
        head = b"POST /hold-body HTTP/1.1\r\n" + HOST + CLOSE + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n"
        connection.sendall(head)
        assert app.begun.wait(PATIENCE_S)
        assert not select.select([connection], [], [], 0)[0], "the application has not read yet"
        app.open()
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert json.loads(split(read_all(connection))[2])["body"] == 5


def test_a_body_that_is_not_read_is_not_asked_for(server: Server) -> None:
    head = b"POST /refuse HTTP/1.1\r\n" + HOST + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    line, fields, body = split(server.ask(head))
    assert (line, body, fields[b"connection"]) == (b"HTTP/1.1 401 Unauthorized", b"no", b"close")


def test_a_body_that_comes_anyway_is_not_asked_for(server: Server) -> None:
    head = b"POST /a HTTP/1.1\r\n" + HOST + CLOSE + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    assert split(server.ask(head + b"hello"))[0] == b"HTTP/1.1 200 OK"


def test_a_broken_chunk_is_an_error_and_for_the_application_a_client_that_is_gone(server: Server, app: App) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert app.called.wait(PATIENCE_S)
        connection.sendall(b"nothing\r\n")
        line, fields, body = split(read_all(connection))
    assert line == b"HTTP/1.1 400 Bad Request"
    assert fields[b"connection"] == b"close"
    assert json.loads(body)["error"]["code"] == "invalid_http"
    assert app.gone.wait(PATIENCE_S)


@pytest.mark.parametrize(("size", "status"), [(MAX_HEAD_BYTES, 200), (MAX_HEAD_BYTES + 1, 431)])
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_limit_of_a_head_is_exact(server: Server, size: int, status: int, pieces: int) -> None:
    begin, end = b"GET /a HTTP/1.1\r\n" + HOST + CLOSE + b"x: ", b"\r\n\r\n"
    data = begin + b"y" * (size - len(begin) - len(end)) + end
    with server.connect() as connection:
        step = -(-len(data) // pieces)
        for at in range(0, len(data), step):
            connection.sendall(data[at : at + step])
        assert split(read_all(connection))[0].split()[1] == b"%d" % status


# the end of a connection


def test_an_idle_connection_is_closed(app: App) -> None:
    timeouts = ConnectionTimeouts(head_s=10, write_s=10, keep_alive_s=0.2)
    with serving(app, timeouts) as server, server.connect() as fresh, server.connect() as used:
        used.sendall(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
        assert split(used.recv(65536))[0] == b"HTTP/1.1 200 OK"
        assert fresh.recv(1) == used.recv(1) == b""


def test_a_connection_with_a_request_is_not_idle(app: App) -> None:
    timeouts = ConnectionTimeouts(head_s=10, write_s=10, keep_alive_s=0.01)
    with serving(app, timeouts) as server, server.connect() as held, server.connect() as idle:
        held.sendall(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n")
        assert app.begun.wait(PATIENCE_S)
        assert idle.recv(1) == b"", "its time was up"
        app.open()
        assert split(held.recv(65536))[0] == b"HTTP/1.1 200 OK"


def test_a_head_that_does_not_end_is_not_waited_for(app: App) -> None:
    timeouts = ConnectionTimeouts(head_s=0.2, write_s=10)
    with serving(app, timeouts) as server:
        answer = server.ask(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\nGET /b HTTP/1.1\r\n" + HOST)
    line, _, body = split(answer[answer.index(b"}HTTP/1.1") + 1 :])
    assert line == b"HTTP/1.1 408 Request Timeout"
    assert json.loads(body)["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("path", ["/hold", "/stream"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_has_closed_its_half_gets_its_answer(server: Server, app: App, path: str, version: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET {path} HTTP/{version}\r\nhost: x\r\n\r\n".encode())
        assert app.begun.wait(PATIENCE_S)
        connection.shutdown(socket.SHUT_WR)
        app.open()
        line, fields, body = split(read_all(connection))
    assert line == b"HTTP/1.1 200 OK"
    if path == "/hold":
        assert json.loads(body)["path"] == "/hold"
    else:
        assert (dechunk(body) if b"transfer-encoding" in fields else body) == b"first last"


def test_all_requests_are_answered_that_came_before_the_half_was_closed(server: Server, app: App) -> None:
    with server.connect() as connection:
        connection.sendall((b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n") * 3 + b"GET /begun HTT")
        assert app.begun.wait(PATIENCE_S)
        connection.shutdown(socket.SHUT_WR)
        app.open()
        assert len(re.findall(rb"HTTP/1.1 200 OK\r\n", read_all(connection))) == 3


@pytest.mark.parametrize("path", ["/wait", "/wait-stream"])
def test_a_client_that_has_gone_is_noticed_though_nothing_is_sent_to_it(server: Server, app: App, path: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert app.begun.wait(PATIENCE_S)
        if path == "/wait-stream":
            read_until(connection, b"first\r\n")
        assert not app.gone.is_set()
    assert app.gone.wait(PATIENCE_S)


def test_a_client_that_has_gone_is_noticed_while_its_body_is_read(server: Server, app: App) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n")
        connection.sendall(b"1\r\nx\r\n" * 100_000)
    assert app.gone.wait(PATIENCE_S)
    assert not app.seen[0].is_whole


def test_a_client_that_closes_its_half_in_its_body_has_gone(server: Server, app: App) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\n" + HOST + b"content-length: 10\r\n\r\nhello")
        assert app.called.wait(PATIENCE_S)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""
    assert app.gone.wait(PATIENCE_S)


# reading ahead


def test_a_body_that_came_in_pieces_before_it_was_read_is_whole(server: Server, app: App) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /hold-body HTTP/1.1\r\n" + HOST + CLOSE + b"content-length: 10\r\n\r\nhello")
        assert app.begun.wait(PATIENCE_S)
        connection.sendall(b"again")
        for _ in range(3):
            server.ask(b"GET /a HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")  # by then the second piece has come, too
        app.open()
        assert json.loads(split(read_all(connection))[2])["body"] == 10


@pytest.mark.parametrize("framing", ["length", "chunked", "pipelined"])
def test_reading_ahead_is_bounded(app: App, framing: str) -> None:
    """An application that does not read makes the client wait: bytes wait in the kernel's buffers, not in memory."""
    size = 30_000_000
    if framing == "pipelined":
        data = b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n" + (b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n") * (size // 28)
    else:
        fields = b"content-length: %d\r\n\r\n" % size if framing == "length" else b"transfer-encoding: chunked\r\n\r\n"
        data = b"POST /hold-body HTTP/1.1\r\n" + HOST + CLOSE + fields
        data += b"x" * size if framing == "length" else (b"1000\r\n" + b"x" * 0x1000 + b"\r\n") * (size // 0x1000)
    with serving(app, receive_buffer_bytes=AHEAD_BYTES) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, AHEAD_BYTES)
        connection.connect(server.address)
        connection.setblocking(False)
        sent = 0
        while sent < len(data) and select.select([], [connection], [], 1.0)[1]:
            sent += connection.send(data[sent : sent + 65536])
        assert sent < 20 * AHEAD_BYTES, "the client was not made to wait"
        app.open()
        if framing == "pipelined":
            return
        connection.setblocking(True)
        connection.sendall(data[sent:] + (b"0\r\n\r\n" if framing == "chunked" else b""))
        read = json.loads(split(read_all(connection))[2])["body"]
        assert read == (size if framing == "length" else size // 0x1000 * 0x1000)


def test_a_body_in_small_chunks_costs_what_its_bytes_cost(app: App) -> None:
    """Four times the chunks take about four times the time, not sixteen times."""

    def seconds(server: Server, chunks: int) -> float:
        data = b"POST /a HTTP/1.1\r\n" + HOST + CLOSE + b"transfer-encoding: chunked\r\n\r\n"
        data += b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"
        began = time.process_time()
        answer = server.ask(data)
        assert json.loads(split(answer)[2])["body"] == chunks
        return time.process_time() - began

    with serving(app) as server:
        seconds(server, 1_000)
        assert seconds(server, 4_000_000) < 8 * seconds(server, 1_000_000)


def test_a_connection_that_waits_to_be_read_goes_on_in_http2(app: App) -> None:
    """Behind a held request, more than is read ahead has come when the connection changes its protocol."""
    wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    wire.initiate_connection()
    wire.send_headers(1, [(":method", "POST"), (":path", "/a"), (":scheme", "http"), (":authority", "x")])
    for _ in range(4):
        wire.send_data(1, b"x" * 16_000)
    # Fewer pings than a client may send in a second.
    behind = wire.data_to_send() + b"".join(ping(wire) for _ in range(900))
    assert len(behind) > AHEAD_BYTES
    with serving(app) as server, server.connect() as connection:
        connection.sendall(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n")
        assert app.begun.wait(PATIENCE_S)
        connection.sendall(behind)
        app.open()
        data = b""
        while not (found := re.match(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n{.*?}", data, re.DOTALL)):
            data += receive(connection)
        data = data[found.end() :]
        wire.send_data(1, b"x", end_stream=True)
        connection.sendall(wire.data_to_send())
        body = b""
        while True:
            events = wire.receive_data(data)
            mine = [event for event in events if getattr(event, "stream_id", None) == 1]
            body += b"".join(event.data or b"" for event in mine if isinstance(event, h2.events.DataReceived))
            if any(isinstance(event, h2.events.StreamEnded) for event in mine):
                break
            data = receive(connection)
    assert json.loads(body)["body"] == 64_001


def ping(wire: h2.connection.H2Connection) -> bytes:
    wire.ping(b"12345678")
    return wire.data_to_send()


# answers


@pytest.mark.parametrize("character", ["\r", "\n", "\r\n", "\0"])
@pytest.mark.parametrize("place", ["name", "value"])
def test_a_header_field_of_an_answer_cannot_hold_a_line_end(
    character: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    evil = f"x{character}set-cookie: a=b".encode()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        field = (evil, b"y") if place == "name" else (b"x", evil)
        await send({"type": "http.response.start", "status": 200, "headers": [field]})
        await send({"type": "http.response.body", "body": b"never"})

    with serving(app) as server:
        line, fields, body = split(server.ask(b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"))
    assert line == b"HTTP/1.1 500 Internal Server Error"
    assert b"set-cookie" not in fields
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert "a response header holds a line end" in caplog.text
    with pytest.raises(ValueError, match="line end"):
        render_fields([(b"a", b"b"), (evil, b"y")])


@pytest.mark.parametrize("body", [b"short", b"much too long"])
def test_an_answer_of_another_length_than_it_said_ends_the_connection(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": body})

    with serving(app) as server:
        answer = server.ask((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 2)
    assert split(answer)[2] == body[:8]
    assert "than it said" in caplog.text


def test_an_application_that_fails_ends_in_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no")

    with serving(app) as server:
        line, _, body = split(server.ask(b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"))
    assert line == b"HTTP/1.1 500 Internal Server Error"
    assert json.loads(body)["error"]["type"] == "server_error"
