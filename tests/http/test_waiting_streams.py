"""Requests of HTTP/2 that have no room: they wait as those of HTTP/1.1 do, and no other stream with them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator

import h2.events
import pytest

from tests.http.serving import PATIENCE_S, App, Server, read_all, serving
from tests.http.test_http2 import Client
from tests.http.test_refusals import BODY, Full, judged, never
from tests.support.processes import wait_until
from trustgate.http import refusals, waiting_streams
from trustgate.http.http2 import Http2
from trustgate.http.parser import RequestHead
from trustgate.http.waiting_streams import WaitingStream, WaitingStreams

_REFUSED = b'{"no": "room"}'


@pytest.fixture
def full() -> Full:
    return Full()


@pytest.fixture
def server(app: App, full: Full) -> Iterator[Server]:
    with serving(app, shed=full, grace_s=PATIENCE_S) as server:
        yield server
        app.open()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = Client(server)
    with client.socket:
        yield client


def status(client: Client, stream: int) -> int:
    return int(client.heads[stream][b":status"])


def test_they_are_refused_at_the_door_and_their_connection_goes_on(client: Client, app: App, full: Full) -> None:
    streams = [client.request("/v1/x", BODY) for _ in range(2)]
    client.read_until_ended(*streams)
    assert [status(client, stream) for stream in streams] == [503, 503]
    assert [client.bodies[stream] for stream in streams] == [_REFUSED] * 2
    full.room = 1
    stream = client.request("/v1/x", BODY)
    client.read_until_ended(stream)
    assert status(client, stream) == 200
    assert (full.refused, full.let_through, full.began, len(app.seen)) == (2, 1, 1, 1)


def test_those_of_one_packet_count_as_on_their_way_until_they_are_begun(client: Client, full: Full) -> None:
    full.room, began = 2, []
    full.on_judge = lambda: began.append(full.began)
    streams = [client.write_request("/v1/x", BODY) for _ in range(2)]
    client.flush()
    client.read_until_ended(*streams)
    assert [status(client, stream) for stream in streams] == [200, 200]
    assert (began, full.began) == ([0, 0], 2)


def test_one_is_begun_though_its_client_takes_in_nothing(
    client: Client, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its place then, and must not count as on its way besides."""
    never(monkeypatch)
    stream = client.request("/v1/x", BODY)
    judged(full, 1)
    takes, flush = threading.Event(), Http2._flush

    async def when_it_takes(connection: Http2) -> None:
        await asyncio.to_thread(takes.wait, PATIENCE_S)
        await flush(connection)

    monkeypatch.setattr(Http2, "_flush", when_it_takes)
    full.room = 1
    try:
        wait_until(lambda: full.began == 1, "it is begun")
    finally:
        takes.set()
    client.read_until_ended(stream)
    assert status(client, stream) == 200


def test_one_that_waits_has_its_whole_body_when_there_is_room_and_holds_up_no_other(
    client: Client, app: App, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    waits = client.request("/v1/x", None)
    client.wire.send_data(waits, b"y" * 16_000)
    client.flush()
    judged(full, 1)
    app.open()
    other = client.request("/hold", BODY)  # it has room
    client.read_until_ended(other)
    assert status(client, other) == 200 and waits not in client.heads
    for size in (15_000, 14_000):
        client.wire.send_data(waits, b"y" * size, end_stream=size == 14_000)
    client.flush()
    full.room = 1
    client.read_until_ended(waits)
    assert status(client, waits) == 200 and json.loads(client.bodies[waits])["body"] == 45_000
    assert (full.refused, full.let_through, full.began) == (0, 2, 2)


def test_one_whose_client_resets_it_is_never_begun_and_leaves_nothing_behind(
    client: Client, app: App, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    for _ in range(80):  # more than a connection may have sent without its being read
        stream = client.request("/v1/x", None)
        for _ in range(4):
            client.wire.send_data(stream, b"y" * 15_000)
        client.wire.reset_stream(stream)
        client.flush()
        while client.wire.outbound_flow_control_window < 65_536:
            assert client.read(), "the connection ended"
    judged(full, 80)
    stream = client.request("/v1/x", BODY)
    judged(full, 81)
    full.room = 1
    client.read_until_ended(stream)
    assert status(client, stream) == 200
    assert (full.refused, full.let_through, len(app.seen)) == (0, 1, 1)


def test_the_end_of_the_server_refuses_one_that_waits(
    server: Server, client: Client, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    stream = client.request("/v1/x", BODY)
    judged(full, 1)
    server.stop()
    client.read_until_ended(stream)
    assert (status(client, stream), client.bodies[stream], full.refused) == (503, _REFUSED, 1)


def test_one_that_comes_again_at_once_waits_for_longer_and_no_other_client_with_it(
    client: Client, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_streams, "AT_ONCE_S", 3600.0)
    for name in ("HOLD_AT_ONCE_S", "MOST_AT_ONCE_S"):
        monkeypatch.setattr(refusals, name, 3600.0)
    client.read_until_ended(client.request("/v1/x", BODY))
    again, other = client.request("/v1/x", BODY), client.request("/v1/y", BODY)
    client.read_until_ended(other)
    assert (status(client, other), full.refused) == (503, 2) and again not in client.heads
    full.room = 1
    client.read_until_ended(again)
    assert status(client, again) == 200


def test_one_whose_connection_has_gone_takes_no_room(
    server: Server, client: Client, app: App, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    gone = Client(server)
    with gone.socket:
        gone.request("/v1/x", BODY)
        judged(full, 1)
        stream = client.request("/v1/x", BODY)
        judged(full, 2)
        gone.wire.close_connection()
        gone.flush()
        read_all(gone.socket)  # the server has closed it
    full.room = 1
    client.read_until_ended(stream)
    assert status(client, stream) == 200
    assert (full.refused, full.let_through, len(app.seen)) == (0, 1, 1)


class Waits:
    """The waiting streams of a connection without one, in the test's own loop."""

    def __init__(self) -> None:
        self.full = Full()
        self.refusals = refusals.Refusals(asyncio.get_running_loop(), self.full)
        #: What was decided, by stream.
        self.decided: dict[int, object] = {}
        self.streams = WaitingStreams(self.full, self.refusals, self._decided)

    def _decided(self, stream: WaitingStream, reason: object) -> None:
        self.decided[stream.stream_id] = reason
        self.streams.over(stream)

    def begin(self, stream: int, *headers: tuple[bytes, bytes]) -> None:
        """A request that has to wait."""
        head = RequestHead("POST", b"/v1/x", "2")
        head.headers = list(headers)
        assert not self.streams.judge(h2.events.RequestReceived(stream_id=stream, headers=[]), head)

    def data(self, stream: int, size: int) -> bool:
        event = h2.events.DataReceived(stream_id=stream, data=b"y" * size, flow_controlled_length=size)
        return self.streams.take(event)

    async def turn(self) -> None:
        """What the loop has to do by now is done."""
        await asyncio.sleep(0)

    def how_many_come_at_once(self) -> int:
        return len(self.refusals.queues[""].lines[True])


def in_a_loop(check: Callable[[Waits], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    never(monkeypatch)

    async def run() -> None:
        waits = Waits()
        await check(waits)
        waits.refusals.clear()

    asyncio.run(run())


@pytest.mark.parametrize(("space", "fits"), [(0, True), (-1, False)])
def test_its_head_and_its_data_count_towards_what_may_wait(
    monkeypatch: pytest.MonkeyPatch, space: int, fits: bool
) -> None:
    async def check(waits: Waits) -> None:
        size = waiting_streams._HEAD_BYTES + len(b"x-aa" + b"bbb") + len(b"y" + b"z")
        monkeypatch.setattr(refusals, "MAX_HELD_BYTES", size + space)
        waits.begin(1, (b"x-aa", b"bbb"), (b"y", b"z"))
        assert waits.refusals.waiting == fits
        if not fits:
            await waits.turn()
            assert waits.decided == {1: "full"}
            return
        monkeypatch.setattr(refusals, "MAX_HELD_BYTES", size + 100)
        assert waits.data(1, 100) and waits.refusals.waiting == 1
        waits.begin(3)
        await waits.turn()
        assert waits.decided == {3: "full"}, "the data have taken the space"
        assert waits.data(1, 1)
        await waits.turn()
        assert waits.decided == {3: "full", 1: "full"}

    in_a_loop(check, monkeypatch)


def test_it_keeps_the_events_of_its_own_stream_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(waits: Waits) -> None:
        waits.begin(1)
        waits.begin(3)
        assert waits.data(1, 10) and waits.data(3, 10) and not waits.data(5, 10)
        assert not waits.streams.take(h2.events.WindowUpdated(stream_id=0, delta=1)), "the connection's"
        assert not waits.streams.take(h2.events.PingReceived(ping_data=b"12345678"))
        waits.streams.refuse()
        assert waits.decided == {1: "full", 3: "full"}
        assert not waits.data(1, 10)
        waits.begin(5)
        waits.streams.clear()
        assert (waits.refusals.waiting, waits.data(5, 10)) == (0, False), "its connection has gone"

    in_a_loop(check, monkeypatch)


def test_it_is_recognised_whatever_its_bodys_length_is_among_the_last_that_were_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_streams, "AT_ONCE_S", 3600.0)
    kept = waiting_streams._MOST_REFUSED

    async def check(waits: Waits) -> None:
        for number in range(kept + 1):
            waits.begin(2 * number + 1, (b"x-number", b"%d" % number), (b"content-length", b"1"))
        waits.streams.refuse()
        for number in range(kept + 1):
            waits.begin(1001 + 2 * number, (b"x-number", b"%d" % number), (b"content-length", b"2"))
        assert waits.how_many_come_at_once() == kept, "the first one is forgotten"
        waits.begin(5001, (b"x-number", b"1"), (b"x-other", b"1"))
        assert waits.how_many_come_at_once() == kept

    in_a_loop(check, monkeypatch)
