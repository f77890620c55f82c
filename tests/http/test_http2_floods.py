"""HTTP/2 clients that send much which costs little, or take in nothing: what they cost the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import h2.settings
import hpack
import pytest
from hypercorn.protocol.h2 import StreamBuffer
from hyperframe import frame as frames
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from tests.http.serving import PATIENCE_S, App, Server, read_all, serving
from tests.http.test_http2 import Client
from trustgate.http.frames import PIECE_WORK, TURN_WORK, Cutter, Turns
from trustgate.http.http2 import _MAX_IDLE_FRAMES_PER_S
from trustgate.http.timeouts import ConnectionTimeouts

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_QUICK = ConnectionTimeouts(head_s=PATIENCE_S, write_s=0.2)


@pytest.fixture
def server(app: App) -> Iterator[Server]:
    with serving(app) as running:
        yield running
        app.open()


def request(path: str, stream: int = 1) -> bytes:
    fields = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "x")]
    return frames.HeadersFrame(stream, hpack.Encoder().encode(fields), flags=["END_HEADERS", "END_STREAM"]).serialize()


# what is read in a turn

_FIELDS = (frames.HeadersFrame, frames.ContinuationFrame)
_frames = st.one_of(
    st.builds(lambda size: frames.DataFrame(1, b"x" * size), st.sampled_from([0, 1, 300])),
    st.builds(lambda size: frames.HeadersFrame(1, b"x" * size), st.sampled_from([0, 15, 16, 300, 9_000])),
    st.builds(lambda size: frames.ContinuationFrame(1, b"x" * size), st.sampled_from([0, 300])),
    st.just(frames.PingFrame(0, b"12345678")),
    st.just(frames.SettingsFrame(0)),
    st.just(frames.WindowUpdateFrame(0, window_increment=1)),
)


@given(sent=st.lists(_frames, max_size=60), data=st.data())
def test_frames_are_cut_into_pieces_of_bounded_work_in_whatever_packets_they_come(
    sent: list[frames.Frame], data: st.DataObject
) -> None:
    raw = [frame.serialize() for frame in sent]
    stream = _PREFACE + b"".join(raw)
    begins = [len(_PREFACE) + sum(map(len, raw[:number])) for number in range(len(raw))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    cutter = Cutter()
    read, total = b"", 0
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        for piece, work in cutter.cut(stream[begin:end]):
            assert piece
            heads = [at for at in begins if len(read) < at + 9 <= len(read) + len(piece)]
            assert work >= len(heads)
            assert work <= PIECE_WORK or len(heads) == 1
            read += piece
            total += work
    assert read == stream
    assert total == sum(1 + frame.body_len // 16 * isinstance(frame, _FIELDS) for frame in sent)
    nothing = (frames.PingFrame, frames.SettingsFrame)
    idle = [
        frame
        for frame in sent
        if isinstance(frame, nothing) or (isinstance(frame, frames.DataFrame) and not frame.data)
    ]
    assert cutter.idle_frames == len(idle)


async def test_a_turn_of_the_loop_reads_no_more_than_its_share_for_all_connections_in_their_order() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    turn = 0
    read: list[tuple[int, str]] = []
    is_over = False

    def count() -> None:
        nonlocal turn
        turn += 1
        if not is_over:
            loop.call_soon(count)

    async def connection(name: str) -> None:
        for _ in range(40):
            await turns.take(PIECE_WORK)
            read.append((turn, name))

    loop.call_soon(count)
    await asyncio.gather(*(connection(name) for name in "abcde"))
    is_over = True
    per_turn = [sum(1 for at, _ in read if at == each) for each in range(turn + 1)]
    # What a piece lets be read may be read one turn later: two shares can meet there.
    assert max(per_turn) <= 2 * TURN_WORK // PIECE_WORK
    last = {name: max(at for at, each in read if each == name) for name in "abcde"}
    assert max(last.values()) - min(last.values()) <= 10, "none waits for all of another"


def test_other_requests_are_answered_between_the_frames_of_a_flood(server: Server, app: App) -> None:
    flood = _PREFACE + frames.SettingsFrame(0).serialize()
    flood += frames.WindowUpdateFrame(0, window_increment=1).serialize() * 4_000 + request("/behind")
    with server.connect() as flooding, server.connect() as other:
        other.sendall(b"GET /warm HTTP/1.1\r\nhost: x\r\n\r\n")
        assert other.recv(65536)
        warm = Client(server)  # what speaks HTTP/2 is imported now
        warm.read_until_ended(warm.request("/warm"))
        warm.socket.close()
        # Both have come by the time the loop goes on. Each of the other's requests takes a turn of the loop or more.
        blocked = threading.Event()
        server.loop.call_soon_threadsafe(blocked.wait, PATIENCE_S)
        flooding.sendall(flood)
        other.sendall(b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        blocked.set()
        while len(app.seen) < 23:
            assert flooding.recv(65536)
    assert [seen.path for seen in app.seen[2:]] == ["/other"] * 20 + ["/behind"]


@pytest.mark.parametrize(
    "frame",
    [
        frames.PingFrame(0, b"12345678"),
        frames.SettingsFrame(0, settings={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 9}),
        frames.PriorityFrame(1, depends_on=0, stream_weight=1),
        frames.DataFrame(1, b""),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_frames_that_ask_for_nothing_end_the_connection_when_they_are_a_flood(
    server: Server, frame: frames.Frame
) -> None:
    with server.connect() as flooding:
        open_request = request("/wait")[:4] + b"\x04" + request("/wait")[5:]  # END_HEADERS alone
        flood = open_request + frame.serialize() * (_MAX_IDLE_FRAMES_PER_S * 2)
        flooding.sendall(_PREFACE + frames.SettingsFrame(0).serialize() + flood)
        answer = read_all(flooding)
    goaway = answer.rfind(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
    assert answer[goaway + 9 + 4 :] == (11).to_bytes(4, "big")  # ENHANCE_YOUR_CALM


def test_a_request_has_as_many_fields_as_over_http_1_and_no_more(server: Server) -> None:
    client = Client(server)
    with client.socket:
        streams = []
        for more in (0, 1):
            stream = client.wire.get_next_available_stream_id()
            fields = [(":method", "GET"), (":path", "/a"), (":scheme", "http"), (":authority", "x")]
            client.wire.send_headers(stream, [*fields, *[("a", "b")] * (196 + more)], end_stream=True)
            streams.append(stream)
        client.flush()
        client.read_until_ended(*streams)
    assert [client.heads[stream][b":status"] for stream in streams] == [b"200", b"431"]
    assert b'"code":"header_too_large"' in client.bodies[streams[1]]


# answers that are not taken in


def without_window(server: Server) -> Client:
    client = Client(server)
    client.wire.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    return client


def test_a_stream_without_a_window_is_reset_after_a_while_and_no_other_with_it(app: App) -> None:
    with serving(app, _QUICK) as server:
        client = without_window(server)
        with client.socket:
            stalled, whole = client.request("/wait-stream"), client.request("/a")
            client.wire.increment_flow_control_window(1_000, whole)
            client.flush()
            client.read_until_ended(stalled, whole)
            assert app.gone.wait(PATIENCE_S), "for its application the client has gone"
            client.wire.increment_flow_control_window(1_000)
            after = client.request("/a")
            client.wire.increment_flow_control_window(1_000, after)
            client.flush()
            client.read_until_ended(after)
        assert stalled not in client.bodies
        assert client.bodies[whole] == client.bodies[after] != b""


def test_one_that_takes_in_a_little_now_and_then_is_not_reset(app: App) -> None:
    with serving(app, ConnectionTimeouts(head_s=PATIENCE_S, write_s=1.0)) as server:
        client = without_window(server)
        with client.socket:
            stream = client.request("/a")
            received = 0
            while stream not in client.ended:
                client.wire.increment_flow_control_window(5, stream)
                client.flush()
                while len(client.bodies.get(stream, b"")) == received and stream not in client.ended:
                    assert client.read()
                received = len(client.bodies[stream])
        assert client.bodies[stream].endswith(b"}")


class Large:
    """Answers with so many bytes, in one piece or several; sets ``has_ended`` when all have been taken from it."""

    def __init__(self, size: int, pieces: int) -> None:
        self.body = bytes(index % 251 for index in range(size))
        self.pieces = pieces
        self.sent = 0
        self.has_ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        step = -(-len(self.body) // self.pieces)
        for at in range(0, len(self.body), step):
            part = self.body[at : at + step]
            await send({"type": "http.response.body", "body": part, "more_body": at + step < len(self.body)})
            self.sent += len(part)
        self.has_ended.set()


@pytest.mark.parametrize(
    ("size", "pieces"), [(1, 1), (16_384, 1), (16_385, 1), (32_768, 1), (300_000, 1), (300_000, 7), (50_000, 50)]
)
def test_of_an_answer_little_is_kept_for_a_client_that_waits(
    size: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    push = StreamBuffer.push

    async def recording(buffer: StreamBuffer, data: bytes) -> None:
        kept.append(len(buffer.buffer) + len(data))
        await push(buffer, data)

    monkeypatch.setattr(StreamBuffer, "push", recording)
    large = Large(size, pieces)
    with serving(large) as server:
        client = without_window(server)
        with client.socket:
            stream = client.request("/a")
            while stream not in client.ended:
                client.wire.increment_flow_control_window(10_007, stream)
                client.flush()
                received = len(client.bodies.get(stream, b""))
                while len(client.bodies.get(stream, b"")) == received and stream not in client.ended:
                    assert client.read()
    assert client.bodies[stream] == large.body
    assert max(kept) < 2 * 16_384


def test_without_a_window_an_answer_waits_in_its_application(app: App) -> None:
    large = Large(1_000_000, 100)
    with serving(large) as server:
        client = without_window(server)
        with client.socket:
            stream = client.request("/a")
            for _ in range(100):  # each has the server look for a window
                client.wire.ping(b"12345678")
                client.wire.increment_flow_control_window(1)
                client.flush()
                client.read()
            assert large.sent < 2 * 16_384
            client.wire.reset_stream(stream)
            client.flush()
            assert large.has_ended.wait(PATIENCE_S), "for its application the client has gone"
