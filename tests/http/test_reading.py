"""What a connection of HTTP/1.1 does when its transport tells it of something, in the order that the test gives it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from tests.http.serving import PATIENCE_S
from tests.http.test_outbox import Wire
from trustgate.http.door import Door
from trustgate.http.http1 import AHEAD_BYTES, Connection
from trustgate.http.parser import HTTP2_PREFACE
from trustgate.http.timeouts import ConnectionTimeouts

HEAD = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


class Reader:
    """An application that reads on once the test lets it, and answers a body that is whole."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        #: One that was told to read has read.
        self.has_read = asyncio.Event()
        self._goes_on = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            await self._goes_on.acquire()
            message = await receive()
            self.messages.append(message["type"])
            self.has_read.set()
            if not message.get("more_body"):
                break
        if message["type"] == "http.request":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    async def read(self) -> None:
        self._goes_on.release()
        self.has_read.clear()
        async with asyncio.timeout(PATIENCE_S):
            await self.has_read.wait()


class PausingProtocol(asyncio.Protocol):
    """Wants nothing more after what it is given."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.pause_reading()


def connected(app: Reader, head_s: float = 60.0) -> tuple[Connection, Wire]:
    def hand_over(connection: Connection) -> None:
        connection.hand_to(PausingProtocol())

    connection, wire = Connection(Door(app, hand_over, ConnectionTimeouts(head_s=head_s, write_s=60.0))), Wire()
    made: Any = wire
    connection.connection_made(made)
    return connection, wire


async def until_written(wire: Wire, text: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not any(isinstance(event, bytes) and text in event for event in wire.events):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_the_time_for_a_head_begins_anew_with_each_that_does_not_come_whole() -> None:
    app = Reader()
    connection, wire = connected(app, head_s=0.0)
    for half in (HEAD[:20], HEAD[20:]):
        connection.data_received(half)
    await app.read()
    await until_written(wire, b"200 OK")
    connection.data_received(HEAD[:20])
    await until_written(wire, b"408 Request Timeout")


async def test_a_head_is_read_from_its_first_byte_whatever_came_of_the_one_before_in_pieces() -> None:
    app = Reader()
    connection, wire = connected(app)
    long = HEAD[:-2] + b"x: " + b"y" * 100 + b"\r\n\r\n"
    for piece in (long[:-1], long[-1:]):
        connection.data_received(piece)
    await app.read()
    await until_written(wire, b"200 OK")
    wire.events.clear()
    connection.data_received(HEAD)
    await app.read()
    await until_written(wire, b"200 OK")


async def test_a_client_waits_again_once_more_was_read_ahead_again() -> None:
    app = Reader()
    connection, wire = connected(app)
    connection.data_received(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (10 * AHEAD_BYTES))
    for number in range(1, 4):
        connection.data_received(b"x" * (AHEAD_BYTES + 1))
        assert wire.events == ["paused", "resumed"] * (number - 1) + ["paused"]
        await app.read()
        assert wire.events == ["paused", "resumed"] * number
    connection.connection_lost(None)
    await app.read()


async def test_an_application_learns_of_a_connection_that_is_reset() -> None:
    app = Reader()
    connection, _ = connected(app)
    connection.data_received(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1")
    await app.read()
    connection.connection_lost(ConnectionResetError())
    await app.read()
    assert app.messages == ["http.request", "http.disconnect"]


async def test_what_another_protocol_has_paused_stays_paused() -> None:
    app = Reader()
    connection, wire = connected(app)
    connection.data_received(HEAD)
    connection.data_received(HTTP2_PREFACE + b"x" * AHEAD_BYTES)
    assert wire.events == ["paused"]
    await app.read()
    await until_written(wire, b"200 OK")
    await asyncio.sleep(0)
    assert wire.events[-3:] == ["another protocol", "resumed", "paused"]
