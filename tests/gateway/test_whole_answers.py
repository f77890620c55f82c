"""Whole answers leave at once where nothing wraps the sending, and through what wraps it where something does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from trustgate.gateway.api.dialects import OPENAI
from trustgate.gateway.path.reply import Reply
from trustgate.http.exchange import Exchange
from trustgate.http.parser import RequestHead
from trustgate.http.sending import EXCHANGE


class _Connection:
    """Keeps what is written, and how the exchange ended."""

    lost = False

    def __init__(self, room: str = "some") -> None:
        """``room``: how much the client takes in: "some", "none" before it is waited for, or "little" from then on."""
        self.written = b""
        self.keeps: list[bool] = []
        self.room = room
        self.has_no_room = room == "none"

    def write_at_once(self, data: bytes) -> bool:
        if self.has_no_room:
            return False
        self.written += data
        self.has_no_room = self.room == "little"
        return True

    def put(self, data: bytes) -> None:
        self.written += data

    async def write(self, data: bytes) -> None:
        self.written += data
        await self.drain()

    async def drain(self) -> None:
        await asyncio.sleep(0)
        self.has_no_room = False

    def read_on(self) -> None: ...

    def ended(self, *, keeps: bool) -> None:
        self.keeps.append(keeps)

    def linger(self) -> None:
        self.keeps.append(False)

    def is_full(self) -> bool:
        return self.has_no_room

    def refuse(self, error: Exception) -> None:
        raise error


class _Door:
    closing = False

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.tasks: set[Any] = set()

    def date(self) -> bytes:
        return b"date: now\r\n"

    def begun(self, head: RequestHead) -> None:
        pass


def _exchange(method: str = "POST", version: str = "1.1", *, closing: bool = False) -> tuple[Exchange, _Connection]:
    door, connection = _Door(asyncio.get_running_loop()), _Connection()
    door.closing = closing
    return Exchange(connection, door, RequestHead(method, b"/v1/x", version)), connection


async def _answer(exchange: Exchange, *, wraps: bool) -> None:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"access-control-allow-origin", b"*")]
        await exchange.send(message)

    reply = Reply(wrapped if wraps else exchange.send, b"req_1", OPENAI, {EXCHANGE: exchange})
    sending = reply.whole(200, b"application/json", b"{}")
    if sending is not None:
        await sending


async def test_what_wraps_the_sending_sees_every_answer() -> None:
    exchange, connection = _exchange()
    await _answer(exchange, wraps=True)
    assert b"\r\naccess-control-allow-origin: *\r\n" in connection.written


@pytest.mark.parametrize(
    ("method", "version", "closing"),
    [("POST", "1.1", False), ("POST", "1.0", False), ("HEAD", "1.1", False), ("POST", "1.1", True)],
)
async def test_at_once_or_in_messages_the_answer_is_the_same(method: str, version: str, closing: bool) -> None:
    exchange, at_once = _exchange(method, version, closing=closing)
    await _answer(exchange, wraps=False)
    exchange, in_messages = _exchange(method, version, closing=closing)
    await exchange.send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"x-request-id", b"req_1")],
        }
    )
    await exchange.send({"type": "http.response.body", "body": b"{}"})
    assert at_once.written == in_messages.written
    assert at_once.keeps == in_messages.keeps
    assert exchange.is_done


@pytest.mark.parametrize("room", ["none", "little"])
@pytest.mark.parametrize("size", [2, 300_000])
async def test_an_answer_ends_when_its_client_has_room_for_more(room: str, size: int) -> None:
    exchange, _ = _exchange()
    connection = _Connection(room)
    exchange = Exchange(connection, _Door(asyncio.get_running_loop()), exchange.head)
    sending = exchange.send_whole(200, [], b"x" * size)
    assert connection.keeps == []
    assert sending is not None
    await sending
    assert connection.keeps == [True]
    assert connection.written.endswith(b"content-length: %d\r\ndate: now\r\n\r\n" % size + b"x" * size)


async def test_no_header_can_hold_a_line_end() -> None:
    exchange, connection = _exchange()
    with pytest.raises(ValueError, match="line end"):
        exchange.send_whole(200, [(b"x", b"a\r\nb: c")], b"")
    assert connection.written == b""


@pytest.mark.parametrize("came", [100_000, 99_999])
async def test_a_connection_goes_on_behind_an_answer_to_a_body_that_was_not_read_if_all_of_it_has_come(
    came: int,
) -> None:
    exchange, connection = _exchange()
    head = exchange.head
    head.length = 100_000
    exchange = Exchange(connection, _Door(asyncio.get_running_loop()), head)
    exchange.feed(b"x" * came)
    exchange.answer(503, [], b"{}")
    assert connection.keeps == [came == 100_000]
    assert (b"connection: close" in connection.written) == (came < 100_000)
