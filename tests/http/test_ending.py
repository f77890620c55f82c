"""The end of a listener: no request is lost that a client sends on a connection which it has."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame

from tests.http.serving import PATIENCE_S, TIMEOUTS, App, Server, read_all, serving
from tests.http.test_http2 import Client
from tests.support.processes import wait_until
from trustgate.http import door, hypercorn_adapter
from trustgate.http.accepting import Acceptor
from trustgate.http.http1 import Connection

_HEAD = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n"
_NO_LAST_STREAM = 2**31 - 1
_REFUSED_STREAM = 7


@pytest.fixture
def server(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """It keeps idle connections, once it ends, for longer than a test takes."""
    monkeypatch.setattr(door, "KEPT_S", 10 * PATIENCE_S)
    with serving(app, grace_s=10 * PATIENCE_S) as running:
        yield running
        app.open()


def is_refused(server: Server) -> bool:
    try:
        server.connect().close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was in the queue of the listener that closed
        return True
    return False


def stop(server: Server) -> None:
    server.stop()
    wait_until(lambda: is_refused(server), "the listener to be closed")


def ask(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, str | None]:
    """Returns the status, and the answer's ``connection`` field."""
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


def client(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)


def test_a_kept_connection_has_one_more_request_answered_and_ends_with_it(server: Server) -> None:
    with contextlib.closing(client(server)) as kept, server.connect() as new:
        assert ask(kept) == (200, None)
        with contextlib.closing(client(server)) as later:
            assert ask(later) == (200, None)  # so the one before it was taken out of the kernel's queue
        stop(server)
        assert ask(kept) == (200, "close")
        assert kept.sock is None
        # One that had no request yet has its first.
        new.sendall(_HEAD % b"/")
        answer = read_all(new)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer


def test_an_answer_that_had_begun_when_the_end_came_keeps_its_connection_as_it_had_said(
    server: Server, app: App
) -> None:
    with contextlib.closing(client(server)) as kept:
        kept.request("GET", "/stream")
        answer = kept.getresponse()
        assert answer.getheader("connection") is None
        stop(server)
        app.open()
        assert answer.read() == b"first last"
        assert ask(kept) == (200, "close")


def test_a_connection_that_is_idle_for_long_is_closed_at_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "KEPT_S", 0.0)
    with serving(app, grace_s=10 * PATIENCE_S) as server, contextlib.closing(client(server)) as kept:
        assert ask(kept) == (200, None)
        stop(server)
        assert kept.sock is not None
        assert kept.sock.recv(1) == b""


def test_a_request_that_has_come_unread_as_its_connection_is_about_to_be_closed_is_answered(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop of a busy machine is late: it comes to close a connection before it has read what came in time."""
    ends = Connection.end_when_idle
    sent = threading.Event()

    def send_and_end(connection: Connection, kept_s: float) -> bool:
        if not sent.is_set():
            sent.set()
            kept.request("GET", "/")
        return ends(connection, kept_s)

    monkeypatch.setattr(door, "KEPT_S", 1e-9)
    with serving(app, grace_s=10 * PATIENCE_S) as server, contextlib.closing(client(server)) as kept:
        assert ask(kept) == (200, None)
        monkeypatch.setattr(Connection, "end_when_idle", send_and_end)
        server.stop()
        assert sent.wait(PATIENCE_S)
        answer = kept.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")


def test_what_waits_in_the_queue_is_answered_before_the_listener_is_closed() -> None:
    class Made(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    async def run(listener: socket.socket) -> None:
        acceptor = Acceptor(listener, Made)
        # The loop has not looked at it yet.
        acceptor.stop()
        listener.close()
        await acceptor.opened(PATIENCE_S)
        for transport in made:
            transport.close()

    made = list[asyncio.BaseTransport]()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        asyncio.run(run(listener))
    assert len(made) == 300


class Http2Client:
    """A client of HTTP/2 that sees GOAWAY frames as they come and goes on."""

    def __init__(self, server: Server) -> None:
        self.socket = server.connect()
        self._wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._wire.initiate_connection()
        self._data = b""
        #: The last streams of the GOAWAY frames so far; the streams that have been answered, or refused with a code.
        self.last_streams: list[int] = []
        self.answered: set[int] = set()
        self.refused: dict[int, int] = {}
        #: Answers to PING frames behind a GOAWAY are kept back.
        self.holds_pings = False
        self._pings: list[bytes] = []

    def ask(self, path: str) -> int:
        stream: int = self._wire.get_next_available_stream_id()
        fields = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "x")]
        self._wire.send_headers(stream, fields, end_stream=True)
        self.socket.sendall(self._wire.data_to_send())
        return stream

    def read(self) -> bool:
        """Take in the next frame. Returns whether there was one."""
        head = self._take(9)
        if not head:
            return False
        frame, length = Frame.parse_frame_header(memoryview(head))
        frame.parse_body(memoryview(self._take(length)))
        if isinstance(frame, GoAwayFrame):
            self.last_streams.append(frame.last_stream_id)
        elif isinstance(frame, HeadersFrame):
            self.answered.add(frame.stream_id)
        elif isinstance(frame, RstStreamFrame):
            self.refused[frame.stream_id] = frame.error_code
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self._pings.append(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
            if not (self.holds_pings and self.last_streams):
                self.answer_pings()
        return True

    def answer_pings(self) -> None:
        self.holds_pings = False
        self.socket.sendall(b"".join(self._pings))
        self._pings.clear()

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            more = self.socket.recv(65536)
            if not more:
                return b""
            self._data += more
        taken, self._data = self._data[:size], self._data[size:]
        return taken


@pytest.fixture
def http2(server: Server) -> Iterator[Http2Client]:
    client = Http2Client(server)
    with client.socket:
        first = client.ask("/")
        while first not in client.answered:
            assert client.read()
        yield client


def test_http2_is_told_twice_and_what_was_on_its_way_is_answered(
    http2: Http2Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypercorn_adapter, "_ANNOUNCED_S", 10 * PATIENCE_S)
    http2.holds_pings = True
    stop(server)
    while not http2.last_streams:
        assert http2.read()
    assert http2.last_streams == [_NO_LAST_STREAM]
    # Sent before it knew, as far as the server can tell.
    late = http2.ask("/")
    http2.answer_pings()
    while http2.read():
        pass
    assert late in http2.answered
    assert {*http2.last_streams[1:]} == {late}
    assert http2.refused == {}


def test_an_answer_of_http2_is_not_lost_by_a_client_that_reads_it_with_all_that_follows(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypercorn_adapter, "_ANNOUNCED_S", 0.05)
    with serving(app) as server:
        client = Client(server)
        held = client.request("/hold")
        assert app.begun.wait(PATIENCE_S)
        app.open()
    # The listener has ended: h2 reads the answer and the end of the connection at once.
    with client.socket:
        client.read_until_ended(held)
        assert client.goaway == 0


def test_http2_is_told_when_no_request_runs(app: App) -> None:
    with serving(app, grace_s=10 * PATIENCE_S) as server:
        client = Http2Client(server)
        with client.socket:
            held = client.ask("/hold")
            assert app.begun.wait(PATIENCE_S)
            stop(server)
            # It is not idle, so its requests go on as before.
            second = client.ask("/")
            while second not in client.answered:
                assert client.read()
            assert client.last_streams == []
            app.open()
            while client.read():
                pass
            assert held in client.answered
            assert client.last_streams[0] == _NO_LAST_STREAM
            assert {*client.last_streams[1:]} == {second}


def test_http2_is_told_while_requests_run_when_half_of_the_time_is_over_and_the_next_may_be_sent_again(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_over(_: asyncio.Event, after_s: float) -> None:
        halves.append(after_s)

    halves = list[float]()
    monkeypatch.setattr(hypercorn_adapter, "wait_at_most", is_over)
    with serving(app, grace_s=10 * PATIENCE_S) as server:
        client = Http2Client(server)
        with client.socket:
            held = client.ask("/hold")
            assert app.begun.wait(PATIENCE_S)
            server.stop()
            while len(client.last_streams) < 2:
                assert client.read()
            assert client.last_streams == [_NO_LAST_STREAM, held]
            late = client.ask("/")
            while not client.refused:
                assert client.read()
            assert client.refused == {late: _REFUSED_STREAM}
            app.open()
            while client.read():
                pass
            assert held in client.answered
            assert halves == [(10 * PATIENCE_S + TIMEOUTS.closing_s) / 2]
