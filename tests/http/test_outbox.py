"""Writes of one turn of the event loop are made together, in their order, and none is lost at a connection's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from trustgate.http.door import Door
from trustgate.http.http1 import Connection
from trustgate.http.timeouts import ConnectionTimeouts
from trustgate.models.upstream.protocol import UpstreamProtocol
from trustgate.outbox import AT_ONCE, ENOUGH, LARGE_BYTES, TOGETHER, Outbox


class Writer:
    """Notes its name when it writes."""

    def __init__(self, name: int, written: list[int]) -> None:
        self._name, self._written = name, written

    def write_out(self) -> None:
        self._written.append(self._name)


class Wire:
    """A transport that notes what happens to it."""

    def __init__(self) -> None:
        self.events: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        assert not self.is_closing(), "nothing is written to what is closed"
        self.events.append(data)

    def write_eof(self) -> None:
        self.events.append("end")

    def close(self) -> None:
        self.events.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.events

    def set_protocol(self, _: object) -> None:
        self.events.append("another protocol")

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name.endswith("name") else None

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...

    def pause_reading(self) -> None:
        self.events.append("paused")

    def resume_reading(self) -> None:
        self.events.append("resumed")


async def _no_answer(*_: object) -> None:
    raise AssertionError("no request came")


def new_door() -> Door:
    return Door(_no_answer, lambda _: None, ConnectionTimeouts(head_s=60.0, write_s=60.0))


def connected(door: Door) -> tuple[Connection, Wire]:
    connection, wire = Connection(door), Wire()
    made: Any = wire
    connection.connection_made(made)
    return connection, wire


async def turn_ends() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_comes_in_a_turn_is_written_at_its_end_or_when_it_is_enough() -> None:
    outbox, written = Outbox(asyncio.get_running_loop()), list[int]()
    for number in range(TOGETHER - 1):
        outbox.add(Writer(number, written))
    assert written == []
    await turn_ends()
    assert written == list(range(TOGETHER - 1))
    for number in range(TOGETHER + 1):
        outbox.add(Writer(100 + number, written))
    assert written[TOGETHER - 1 :] == list(range(100, 100 + TOGETHER))
    await turn_ends()
    assert written[-1] == 100 + TOGETHER


@pytest.mark.parametrize("few", range(1, ENOUGH))
async def test_where_few_write_in_two_turns_running_they_wait_for_no_other_for_a_while(few: int) -> None:
    outbox, written = Outbox(asyncio.get_running_loop()), list[int]()

    def add(count: int) -> int:
        """Returns how many of them have written at once."""
        before = len(written)
        for _ in range(count):
            outbox.add(Writer(0, written))
        return len(written) - before

    for count in (few, ENOUGH, few, TOGETHER + few, few, few):  # one such turn is no reason
        assert add(count) == TOGETHER * (count > TOGETHER)
        await turn_ends()
    assert add(AT_ONCE + 2) == AT_ONCE
    await turn_ends()
    assert len(written) == 5 * few + ENOUGH + TOGETHER + AT_ONCE + 2


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (Connection.eof_received, ["closed"]),
        (Connection.close, ["closed"]),
        (Connection.linger, ["end"]),
        (lambda connection: connection.put(b"refused"), [b"refused"]),
        (lambda connection: connection.write_at_once(b"more"), [b"more"]),
        (lambda connection: connection.write_at_once(b"x" * LARGE_BYTES), [b"x" * LARGE_BYTES]),
        (lambda connection: connection.hand_to(asyncio.Protocol()), ["another protocol"]),
    ],
    ids=["client's end", "close", "linger", "put", "more", "large", "handed over"],
)
async def test_an_answer_goes_before_what_follows_it_in_its_turn(
    end: Callable[[Connection], object], left: list[bytes | str]
) -> None:
    door = new_door()
    connection, wire = connected(door)
    assert connection.write_at_once(b"answer")
    assert wire.events == []
    if end(connection) is False:
        wire.close()  # as a transport does whose protocol wants no half of a connection
    await turn_ends()
    assert wire.events == [b"answer", *left]


async def test_nothing_is_written_to_a_client_that_has_gone_meanwhile() -> None:
    door = new_door()
    connection, wire = connected(door)
    other, wire_of_other = connected(door)
    assert connection.write_at_once(b"answer")
    assert other.write_at_once(b"answer")
    wire.close()
    connection.connection_lost(None)
    await turn_ends()
    assert wire.events == ["closed"]
    assert wire_of_other.events == [b"answer"]


@pytest.mark.parametrize("gone", ["closing", "lost", "failing"])
async def test_a_request_whose_connection_ends_before_it_is_written_is_not_waited_for(gone: str) -> None:
    loop = asyncio.get_running_loop()
    protocol, wire, outbox = UpstreamProtocol(loop), Wire(), Outbox(loop)
    made: Any = wire
    protocol.connection_made(made)
    response = protocol.expect_response(60.0)
    protocol.write_soon(b"GET / HTTP/1.1\r\n\r\n", outbox)
    if gone == "closing":
        wire.close()
    elif gone == "lost":
        protocol.connection_lost(None)
    else:
        wire.write = None  # type: ignore[assignment, method-assign]
    await turn_ends()
    assert response.done()
    with pytest.raises(TypeError if gone == "failing" else ConnectionResetError):
        response.result()


async def test_requests_of_a_turn_are_written_in_it_and_in_their_order() -> None:
    loop = asyncio.get_running_loop()
    protocol, wire, outbox = UpstreamProtocol(loop), Wire(), Outbox(loop)
    made: Any = wire
    protocol.connection_made(made)
    for data in (b"one", b"two"):
        protocol.write_soon(data, outbox)
    assert wire.events == [b"one", b"two"]
    protocol.write_soon(b"three", outbox)
    protocol.put(b"four")
    await turn_ends()
    assert wire.events == [b"one", b"two", b"three", b"four"]
