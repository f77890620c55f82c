"""Refusing at the door: what is refused is never begun, however many come at once and whatever their connections do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Collection, Iterator

import pytest

from tests.http.serving import PATIENCE_S, App, Server, read_all, serving
from tests.support.processes import wait_until
from trustgate.http import http1, refusals
from trustgate.http.exchange import whole_answer
from trustgate.http.parser import RequestHead
from trustgate.http.refusals import Refusal

BODY = b'{"x": 1}'
_REQUEST = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b"


def request(path: bytes = b"/v1/x", body: bytes = BODY, more: bytes = b"") -> bytes:
    return _REQUEST % (path, len(body), more, body)


class Full:
    """Has no room, but for ``/hold`` and for as many as the test says; counts what it was asked."""

    def __init__(self) -> None:
        self._room = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_room: Callable[[], object] = int
        self.judged = self.refused = self.let_through = self.began = 0
        #: Is called at each judgement, on the server's loop.
        self.on_judge: Callable[[], object] = int

    @property
    def room(self) -> int:
        return self._room

    @room.setter
    def room(self, room: int) -> None:
        self._room = room
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_room)

    def judge(self, head: RequestHead, queue: Collection[str] = ()) -> str:
        self.judged += 1
        self.on_judge()
        if head.path == b"/hold" or (self._room > 0 and "" not in queue):
            self._room -= head.path != b"/hold"
            self.let_through += 1
            return ""
        return "full"

    def waits_for(self, head: RequestHead, reason: str) -> str:
        return ""

    def has_room(self, tenant_id: str) -> bool:
        return self._room > 0

    def on_room(self, call: Callable[[], None]) -> None:
        self._loop, self._on_room = asyncio.get_running_loop(), call

    def off_room(self, call: Callable[[], None]) -> None:
        self._on_room = int

    def refusal(self, head: RequestHead, reason: str) -> Refusal:
        assert reason == "full"
        self.refused += 1
        return 503, [(b"content-type", b"application/json"), (b"x-number", b"%d" % self.refused)], b'{"no": "room"}'

    def answer(self, head: RequestHead, reason: str, date: bytes) -> bytes:
        return whole_answer(*self.refusal(head, reason), date)

    def begun(self, head: RequestHead) -> None:
        self.began += 1


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def full() -> Full:
    return Full()


@pytest.fixture
def server(app: App, full: Full) -> Iterator[Server]:
    with serving(app, shed=full, grace_s=PATIENCE_S) as server:
        yield server


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return int(head[9:12]), body


def standstill(server: Server) -> threading.Event:
    """Stop the server's loop, so that all that is sent meanwhile comes at once; it goes on when this is set."""
    started, go = threading.Event(), threading.Event()

    def stand() -> None:
        started.set()
        go.wait(PATIENCE_S)

    server.loop.call_soon_threadsafe(stand)
    assert started.wait(PATIENCE_S)
    return go


def test_a_connection_goes_on_after_refusals(server: Server, app: App, full: Full) -> None:
    with server.connect() as connection:
        for size in (8, 8, 9, 12_345, 8):  # the same fields, bodies of several lengths
            connection.sendall(request(body=b"y" * size))
            assert read_answer(connection) == (503, b'{"no": "room"}')
        full.room = 2
        for size in (8, 700):
            connection.sendall(request(body=b"z" * size))
            status, body = read_answer(connection)
            assert (status, json.loads(body)["body"]) == (200, size)
    assert [len(seen.body) for seen in app.seen] == [8, 700]
    assert (full.refused, full.let_through, full.began) == (5, 2, 2)


def test_each_of_many_that_come_at_once_is_refused_once(server: Server, app: App, full: Full) -> None:
    many = 300
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(many)]
        go = standstill(server)
        for connection in connections:
            connection.sendall(request())
        go.set()
        assert [read_answer(connection)[0] for connection in connections] == [503] * many
    assert not app.seen
    assert full.refused == many
    assert full.judged == 2 * many, "when it came and when it was refused"


def judged(full: Full, times: int) -> None:
    wait_until(lambda: full.judged == times, f"request {times} was judged")


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that waits is refused before its client or the server ends."""
    monkeypatch.setattr(refusals, "_TICK_S", 3600.0)


def test_what_waits_is_let_through_in_its_order_as_room_comes(
    server: Server, app: App, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(7)]
        for number, connection in enumerate(connections, 1):
            connection.sendall(request(b"/v1/%d" % number))
            judged(full, number)
        full.room = 4
        assert [read_answer(connection)[0] for connection in connections[:4]] == [200] * 4
        full.room = 1
        assert read_answer(connections[4])[0] == 200
        connections[5].close()
        wait_until(lambda: full.refused == 1, "the server to notice that the client has gone")
        full.room = 1
        assert read_answer(connections[6])[0] == 200
    assert [seen.path for seen in app.seen] == [f"/v1/{number}" for number in (1, 2, 3, 4, 5, 7)]
    assert (full.refused, full.let_through, full.began) == (1, 6, 6)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(request(more=b"connection: close\r\n"), id="that is its last"),
        pytest.param(request()[:-3], id="whose body is not here"),
        pytest.param(b"POST /v1/x HTTP/1.0\r\nhost: x\r\ncontent-length: 8\r\n\r\n" + BODY, id="of HTTP/1.0"),
        pytest.param(
            b"POST /v1/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n", id="with chunks to come"
        ),
    ],
)
def test_a_connection_whose_next_request_cannot_be_found_ends_with_the_refusal(
    server: Server, full: Full, data: bytes
) -> None:
    answer = server.ask(data)
    assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b'{"no": "room"}')
    assert b"connection: close\r\n" in answer
    assert full.refused == 1


def test_a_body_that_comes_right_behind_its_head_is_waited_for(server: Server, app: App, full: Full) -> None:
    judged, go = threading.Event(), threading.Event()

    def hold() -> None:
        judged.set()
        assert go.wait(PATIENCE_S)

    head, body = request()[: -len(BODY)], BODY
    with server.connect() as connection:
        full.on_judge = hold
        connection.sendall(head)
        assert judged.wait(PATIENCE_S)
        connection.sendall(body)  # while the loop stands at the head
        go.set()
        assert read_answer(connection)[0] == 503
        full.on_judge = int
        full.room = 1
        connection.sendall(request())
        assert read_answer(connection)[0] == 200, "the connection goes on"
    assert (full.refused, len(app.seen)) == (1, 1)


def test_pipelined_requests_are_refused_in_their_order(server: Server, full: Full) -> None:
    many = 300
    with server.connect() as connection:
        connection.sendall(request() * many)
        connection.shutdown(socket.SHUT_WR)
        data = read_all(connection)
    numbers = [int(part.partition(b"\r\n")[0]) for part in data.split(b"x-number: ")[1:]]
    assert numbers == list(range(1, many + 1))


def test_a_client_that_says_no_more_gets_its_refusal(server: Server, full: Full) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(200)]
        go = standstill(server)
        for connection in connections:
            connection.sendall(request())
            connection.shutdown(socket.SHUT_WR)
        go.set()
        assert all(read_all(connection).startswith(b"HTTP/1.1 503 ") for connection in connections)


def test_the_end_of_the_server_refuses_those_that_wait(app: App, full: Full) -> None:
    with serving(app, shed=full, grace_s=PATIENCE_S) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(400)]
        for connection in connections:
            connection.sendall(request())
        for connection in connections:  # each is known by now
            assert read_answer(connection)[0] == 503
        held = stack.enter_context(server.connect())  # keeps the server until all is read
        held.sendall(request(b"/hold"))
        assert app.begun.wait(PATIENCE_S)
        go = standstill(server)
        for connection in connections:
            connection.sendall(request())
        server.stop()
        go.set()
        answers = [read_all(connection) for connection in connections]
        app.open()
    # The server may have begun to end before it read a request; what it read it answered.
    assert all(answer.startswith(b"HTTP/1.1 503 ") or not answer for answer in answers)
    assert sum(bool(answer) for answer in answers) == full.refused - len(connections)


def refuse_until_known(connection: socket.socket) -> None:
    """From its second time on a request is recognised when it comes again."""
    for _ in range(2):
        connection.sendall(request())
        assert read_answer(connection)[0] == 503


@pytest.fixture
def everything_is_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, a request that is sent right after a refusal comes at once."""
    monkeypatch.setattr(http1, "AT_ONCE_S", 3600.0)


@pytest.mark.usefixtures("everything_is_at_once")
def test_one_that_comes_again_at_once_waits_for_longer_and_no_other_client_with_it(
    server: Server, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "HOLD_AT_ONCE_S", 3600.0)
    monkeypatch.setattr(refusals, "MOST_AT_ONCE_S", 3600.0)
    with server.connect() as connection, server.connect() as other:
        refuse_until_known(connection)
        connection.sendall(request(b"/v1/y"))
        assert read_answer(connection)[0] == 503, "another request, of another client perhaps, did not wait"
        connection.sendall(request())
        assert read_answer(connection)[0] == 503, "it comes after another one"
        connection.sendall(request())
        judged(full, 9)
        other.sendall(request())
        assert read_answer(other)[0] == 503
        assert (full.refused, full.judged) == (5, 11), "the other one has gone behind it"
        full.room = 1
        assert read_answer(connection)[0] == 200, "it is let through as soon as there is room"
        connection.sendall(request())
        judged(full, 13)
        full.room = 1
        assert read_answer(connection)[0] == 200, "so does one that comes at once after its answer"
    assert (full.refused, full.let_through) == (5, 2)


def test_one_that_waits_is_refused_when_its_client_has_ended_its_side(
    server: Server, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    with server.connect() as connection:
        connection.sendall(request())
        judged(full, 1)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 503 ")
    assert full.refused == 1


def test_the_end_of_the_server_refuses_one_that_waits(app: App, full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    never(monkeypatch)
    with serving(app, shed=full, grace_s=PATIENCE_S) as server, server.connect() as connection:
        connection.sendall(request())
        judged(full, 1)
        server.stop()
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503 ") and b"connection: close\r\n" in answer


def test_what_is_pipelined_behind_one_that_waits_is_answered_in_order(
    server: Server, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    with server.connect() as connection:
        connection.sendall(request())
        judged(full, 1)
        connection.sendall(request() * 2)
        connection.shutdown(socket.SHUT_WR)
        data = read_all(connection)
    numbers = [int(part.partition(b"\r\n")[0]) for part in data.split(b"x-number: ")[1:]]
    assert numbers == [1, 2, 3]


def test_what_waits_holds_a_bounded_number_of_bytes(
    server: Server, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    monkeypatch.setattr(refusals, "MAX_HELD_BYTES", 10_000)
    with server.connect() as connection, server.connect() as other:
        connection.sendall(request(body=b"y" * 6_000))
        judged(full, 1)
        other.sendall(request(body=b"y" * 6_000))
        assert read_answer(other)[0] == 503, "there was no space for it to wait"
        next_one = request(body=b"y" * 6_000)
        connection.sendall(next_one[:5_000])
        assert read_answer(connection)[0] == 503, "what came behind it was too much"
        judged(full, 5)
        full.room = 1
        connection.sendall(next_one[5_000:])
        assert read_answer(connection)[0] == 200
    assert (full.refused, full.let_through) == (2, 1)
