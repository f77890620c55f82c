"""HTTP/2 through Hypercorn: its settings, and clients whose frames are hostile or come in the wrong order."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from hypercorn.config import Config
from hyperframe import frame as frames
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from tests.conftest import GatewayFactory
from tests.http.serving import PATIENCE_S, App, LogRecords, Server, serving
from tests.support.upstream import Upstream
from trustgate.http.hypercorn_config import UNUSED, settings_of
from trustgate.http.timeouts import ConnectionTimeouts

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Client:
    """A connection whose every frame is the test's."""

    def __init__(self, server: Server) -> None:
        self.socket = server.connect()
        self.wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.wire.initiate_connection()
        self.flush()
        self.bodies: dict[int, bytes] = {}
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        self.goaway: int | None = None

    def flush(self) -> None:
        self.socket.sendall(self.wire.data_to_send())

    def request(self, path: str, body: bytes | None = b"", **pseudo: str) -> int:
        """Ask; without an end where ``body`` is None."""
        stream = self.write_request(path, body, **pseudo)
        self.flush()
        return stream

    def write_request(self, path: str, body: bytes | None = b"", **pseudo: str) -> int:
        """As ``request``, but it is sent with the next ``flush``."""
        stream: int = self.wire.get_next_available_stream_id()
        fields = {"method": "POST", "path": path, "scheme": "http", "authority": "x", **pseudo}
        self.wire.send_headers(stream, [(f":{name}", value) for name, value in fields.items()])
        if body is not None:
            self.wire.send_data(stream, body, end_stream=True)
        return stream

    def read(self) -> bool:
        """Take in what comes next. False: the connection has ended."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        for event in self.wire.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = {bytes(name): bytes(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + (event.data or b"")
                self.wire.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = int(event.error_code or 0)
        if data and self.goaway is None:
            self.flush()
        return bool(data)

    def read_until_ended(self, *streams: int) -> None:
        while not self.ended.issuperset(streams):
            assert self.read(), "the connection ended"


@pytest.fixture
def server(app: App) -> Iterator[Server]:
    with serving(app) as running:
        yield running
        app.open()


def test_every_setting_of_hypercorn_is_decided() -> None:
    """A field that is new, or has another name, in another version of Hypercorn is noticed here."""
    names = {*vars(Config), *Config.__annotations__}
    fields = {name for name in names if not name.startswith("_") and not _is_method(name)}
    decided = settings_of(ConnectionTimeouts(head_s=1, write_s=1)).keys()
    assert not decided & UNUSED
    assert decided | UNUSED == fields


def _is_method(name: str) -> bool:
    found = vars(Config).get(name)
    return isinstance(found, classmethod) or (callable(found) and not isinstance(found, type))


def test_a_stream_outlives_a_thousand_requests_on_its_connection(server: Server, app: App) -> None:
    client = Client(server)
    held = client.request("/stream")
    while held not in client.bodies:
        assert client.read()
    for _ in range(12):
        streams = [client.request("/a") for _ in range(90)]
        client.read_until_ended(*streams)
        assert {client.heads[stream][b":status"] for stream in streams} == {b"200"}
    assert held not in client.ended
    app.open()
    client.read_until_ended(held)
    assert client.bodies[held] == b"first last"
    client.socket.close()


def test_a_body_that_is_not_read_holds_up_no_other_request(server: Server, app: App) -> None:
    client = Client(server)
    while client.wire.outbound_flow_control_window < 1_000_000:
        assert client.read()
    held = client.request("/hold-body", None)
    for _ in range(60):
        client.wire.send_data(held, b"x" * 1_000)
    client.flush()
    for _ in range(3):
        other = client.request("/a", b"y" * 16_000)
        client.read_until_ended(other)
        assert json.loads(client.bodies[other])["body"] == 16_000
    app.open()
    client.wire.send_data(held, b"x", end_stream=True)
    client.flush()
    client.read_until_ended(held)
    assert json.loads(client.bodies[held])["body"] == 60_001
    client.socket.close()


def test_what_is_sent_for_answered_requests_is_given_back_to_the_connection(server: Server) -> None:
    """More than the connection's window, for requests that were refused at their heads: it stays open."""
    client = Client(server)
    sent = 0
    while sent < 6_000_000:
        refused = client.request("/refuse", None)
        client.read_until_ended(refused)
        for _ in range(3):
            if client.wire.local_flow_control_window(refused) >= 16_000:
                client.wire.send_data(refused, b"x" * 16_000)
                sent += 16_000
        client.wire.reset_stream(refused)
        client.flush()
    good = client.request("/a", b"y" * 1_000)
    client.read_until_ended(good)
    assert client.heads[good][b":status"] == b"200"
    client.socket.close()


def test_of_what_its_application_has_not_read_only_the_padding_is_given_back(server: Server, app: App) -> None:
    client = Client(server)
    stream = client.request("/hold-body", None)
    assert app.begun.wait(PATIENCE_S)
    window = client.wire.local_flow_control_window(stream)
    for _ in range(10):
        client.wire.send_data(stream, b"y" * 3_000, pad_length=255)
    client.flush()
    client.read_until_ended(client.request("/a"))  # all before it has been taken in
    assert window - 10 * (3_000 + 256) <= client.wire.local_flow_control_window(stream) <= window - 10 * 3_000
    app.open()
    client.wire.end_stream(stream)
    client.flush()
    client.read_until_ended(stream)
    assert json.loads(client.bodies[stream])["body"] == 30_000
    client.socket.close()


def test_requests_that_are_only_made_to_be_reset_end_the_connection(server: Server) -> None:
    client = Client(server)
    for _ in range(50):
        for _ in range(50):
            stream = client.wire.get_next_available_stream_id()
            fields = [(":method", "GET"), (":path", "/a"), (":scheme", "http"), (":authority", "x")]
            client.wire.send_headers(stream, fields, end_stream=True)
            client.wire.reset_stream(stream)
        try:
            client.flush()
        except OSError:
            break
    while client.read():
        pass
    assert client.goaway == 11  # ENHANCE_YOUR_CALM
    client.socket.close()


def test_a_connection_that_is_only_for_other_protocols_is_refused_as_a_stream(server: Server) -> None:
    client = Client(server)
    refused, good = client.request("/a", method="CONNECT", protocol="websocket"), client.request("/a")
    client.read_until_ended(refused, good)
    assert refused not in client.heads
    assert client.heads[good][b":status"] == b"200"
    client.socket.close()


def test_a_header_field_of_an_answer_cannot_hold_a_line_end(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        field = (b"x", b"a\r\nset-cookie: b")
        await send({"type": "http.response.start", "status": 200, "headers": [field]})
        await send({"type": "http.response.body", "body": b"never"})

    with serving(app) as server:
        client = Client(server)
        stream = client.request("/")
        client.read_until_ended(stream)
        client.socket.close()
    assert client.heads[stream][b":status"] == b"500"
    assert "a response header holds a line end" in caplog.text


def test_a_request_that_goes_on_for_ever_does_not_hold_up_the_end(app: App) -> None:
    with serving(app, ConnectionTimeouts(head_s=10, write_s=10, closing_s=0.2)) as server:
        client = Client(server)
        client.request("/wait")
        assert app.begun.wait(PATIENCE_S)
    # The block has ended: so has the listener.
    client.socket.close()


# frames in any order

_streams = st.sampled_from([0, 1, 1, 3, 5, 7])
_paths = st.sampled_from(["/a", "/wait", "/refuse", "/stream", "/\xff", "*", ""])


@st.composite
def _frame(draw: st.DrawFn, kind: str) -> frames.Frame:
    stream = draw(_streams)
    flags = draw(st.sampled_from([[], ["END_STREAM"]]))
    if kind == "data":
        return frames.DataFrame(max(stream, 1), b"x" * draw(st.sampled_from([0, 1, 3_000])), flags=flags)
    if kind == "reset":
        return frames.RstStreamFrame(max(stream, 1), error_code=draw(st.integers(0, 20)))
    if kind == "window":
        return frames.WindowUpdateFrame(stream, window_increment=draw(st.sampled_from([1, 100, 2**31 - 1])))
    if kind == "priority":
        return frames.PriorityFrame(max(stream, 1), depends_on=draw(_streams), stream_weight=1, exclusive=True)
    if kind == "settings":
        value = draw(st.sampled_from([0, 1, 16_384, 2**31 - 1]))
        return frames.SettingsFrame(0, settings={draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8])): value})
    if kind == "goaway":
        return frames.GoAwayFrame(0, last_stream_id=stream, error_code=0)
    return frames.PingFrame(0, opaque_data=b"12345678")


@st.composite
def _conversations(draw: st.DrawFn) -> bytes:
    """Frames for a few streams: each allowed, their order not always."""
    encoder = hpack.Encoder()
    data = _PREFACE + frames.SettingsFrame(0).serialize()
    next_stream = 1
    kinds = ["headers", "headers", "data", "data", "reset", "reset", "window", "priority", "settings", "goaway", "ping"]
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=20)):
        if kind == "headers":
            fields = [(":method", "POST"), (":path", draw(_paths)), (":scheme", "http"), (":authority", "x")]
            flags = ["END_HEADERS", *draw(st.sampled_from([[], ["END_STREAM"]]))]
            data += frames.HeadersFrame(next_stream, encoder.encode(fields), flags=flags).serialize()
            next_stream += 2
        else:
            data += draw(_frame(kind)).serialize()
    garbage = draw(st.none() | st.tuples(st.integers(len(_PREFACE), len(data) - 1), st.binary(min_size=1, max_size=9)))
    if garbage is not None:
        at, bytes_ = garbage
        data = data[:at] + bytes_ + data[at + len(bytes_) :]
    return data


@pytest.fixture(scope="module")
def errors_and_server() -> Iterator[tuple[LogRecords, Server]]:
    app = App()
    app.open()
    with LogRecords() as errors, serving(app) as running:
        yield errors, running


@settings(max_examples=300)
@given(data=_conversations(), cut=st.integers(0, 600), resets=st.booleans())
def test_no_order_of_frames_is_an_error_of_ours(
    errors_and_server: tuple[LogRecords, Server], data: bytes, cut: int, resets: bool
) -> None:
    errors, running = errors_and_server
    with running.connect() as connection:
        try:
            connection.sendall(data[:cut])
            connection.sendall(data[cut:])
            if resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
        except TimeoutError:
            raise
        except OSError:
            pass  # it had hung up
    assert not [record.getMessage() for record in errors.records]


def test_hostile_connections_leave_nothing_in_the_log_but_json(
    make_gateway: GatewayFactory, upstream: Upstream
) -> None:
    gateway = make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_LOG_FORMAT": "json"}).start()
    host, port = gateway.base_url.partition("://")[2].split(":")
    encoder = hpack.Encoder()
    fields = [(":method", "POST"), (":path", "/v1/\xff"), (":scheme", "http"), (":authority", "x")]
    hostile = [
        _PREFACE + b"\xff" * 100,
        _PREFACE
        + frames.SettingsFrame(0).serialize()
        + frames.HeadersFrame(1, encoder.encode(fields), flags=["END_HEADERS"]).serialize()
        + frames.RstStreamFrame(1).serialize(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nhost: x\r\n\r\n",
    ]
    for data in hostile:
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    gateway.stop()
    lines: list[dict[str, Any]] = [json.loads(line) for line in gateway.logs().splitlines()]
    assert lines
    assert not [line for line in lines if line["level"] in ("error", "critical") or "traceback" in line]
