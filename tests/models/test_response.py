"""What comes off a connection to an upstream: which parser reads it, and whether the connection serves again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from tests.support.streams import serving
from trustgate.errors import UpstreamFailed
from trustgate.models.upstream.response import AHEAD_BYTES, AiohttpResponse, Response
from trustgate.models.upstream.transport import Network, Unanswered

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
PATIENCE_S = 10.0


class Server:
    """Answers each request with the next of its answers, each in the pieces that it is given in; b"" hangs up."""

    def __init__(self, answers: list[list[bytes]]) -> None:
        self._answers = answers
        self.connections = 0
        self.port = 0
        #: The heads of the requests that came.
        self.heads: list[bytes] = []
        #: One is taken before each piece but the first, where it is set.
        self.gate: asyncio.Semaphore | None = None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                for number, piece in enumerate(self._answers.pop(0)):
                    if number and self.gate is not None:
                        await self.gate.acquire()
                    if not piece:
                        return
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError, IndexError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(
    *answers: list[bytes], most: int = 10, silence_s: float = PATIENCE_S
) -> AsyncIterator[tuple[Server, Network]]:
    server = Server(list(answers))
    network = Network(connect_timeout_s=PATIENCE_S, read_timeout_s=silence_s, max_connections=most)
    async with serving(server.answer) as server.port:
        try:
            yield server, network
        finally:
            await network.close()


async def ask(server: Server, network: Network) -> Response | AiohttpResponse:
    return await asyncio.wait_for(network.send("GET", f"http://127.0.0.1:{server.port}/v1", "/x", [], b""), PATIENCE_S)


async def read(response: Response | AiohttpResponse) -> bytes:
    try:
        return b"".join([chunk async for chunk in response])
    finally:
        await response.aclose()


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED], ids=["length", "chunked"])
async def test_what_is_ordinary_is_read_by_llhttp_and_its_connection_serves_again(answer: bytes) -> None:
    async with served([answer], [answer], [answer]) as (server, network):
        for _ in range(3):
            response = await ask(server, network)
            assert isinstance(response, Response)
            assert (response.status_code, response.headers.get("content-type")) == (200, "application/json")
            assert await read(response) == b"hello"
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"\r\nhello",
        HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        HEAD + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
        WHOLE.replace(b"\r\n", b"\n"),
    ],
    ids=["to the end", "twice", "both", "identity", "1.0", "interim", "bare LF"],
)
async def test_what_is_not_is_read_by_aiohttp_and_means_the_same(answer: bytes) -> None:
    async with served([answer, b""]) as (server, network):
        response = await ask(server, network)
        assert isinstance(response, AiohttpResponse)
        assert await read(response) == b"hello"


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED], ids=["length", "chunked"])
async def test_every_cut_reads_the_same(answer: bytes) -> None:
    cuts = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    async with served(*cuts) as (server, network):
        server.gate = asyncio.Semaphore(0)
        for _ in cuts:
            sent = asyncio.ensure_future(ask(server, network))
            await asyncio.sleep(0.001)
            server.gate.release()
            assert await read(await sent) == b"hello"
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [WHOLE + b"HTTP/1.1 200 OK\r\n", WHOLE + b"junk", HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"],
    ids=["another head", "junk", "close"],
)
async def test_a_connection_is_not_used_again_that_must_not(answer: bytes) -> None:
    async with served([answer], [WHOLE]) as (server, network):
        assert await read(await ask(server, network)) == b"hello"
        assert await read(await ask(server, network)) == b"hello"
        assert server.connections == 2


def with_length(body: bytes, *, behind: bytes = b"") -> bytes:
    return HEAD + b"Content-Length: %d\r\n%b\r\n%b" % (len(body), behind, body)


async def test_a_head_that_comes_again_is_recognised_whatever_the_length_of_its_body() -> None:
    bodies = [b"hello", b"hello", b"again", b"a longer one", b"x" * 12, b"short"]
    async with served(*([with_length(body)] for body in bodies)) as (server, network):
        responses = []
        for body in bodies:
            response = cast("Response", await ask(server, network))
            assert response.headers.get("content-length") == str(len(body))
            assert response.headers.get("content-type") == "application/json"
            assert await read(response) == body
            responses.append(response)
        assert responses[2].fields is responses[1].fields, "its fields were not read again"
        assert responses[4].fields is responses[3].fields
        assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "body", "serves_again"),
    [
        (with_length(b"hello", behind=b"Connection: close\r\n"), b"hello", False),
        (with_length(b"hello", behind=b"X-Name: other\r\n"), b"hello", True),
        (with_length(b"hello").replace(b"200 OK", b"201 Created"), b"hello", True),
        (with_length(b"hello").replace(b": 5", b": +5"), None, False),
        (with_length(b"hello").replace(b": 5", b": 5a"), None, False),
        (with_length(b"hello").replace(b": 5", b": "), None, False),
        (with_length(b"hello").replace(b": 5", b": 05"), b"hello", True),
        (with_length(b""), b"", True),
        (with_length(b"hello") + b"junk", b"hello", False),
        (with_length(b"hello") + with_length(b"more"), b"hello", False),
        (HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
        (CHUNKED, b"hello", True),
    ],
    ids=[
        "closing field",
        "field",
        "status",
        "plus",
        "letter",
        "none",
        "zero",
        "empty",
        "junk",
        "another",
        "close",
        "chunked",
    ],
)
async def test_what_differs_from_a_known_head_is_read_as_if_none_were_known(
    answer: bytes, body: bytes | None, serves_again: bool
) -> None:
    # As long as the field that closes the connection.
    known = [[with_length(body, behind=b"Connection: alive\r\n")] for body in (b"first", b"second", b"third")]
    async with served(*known, [answer, b""] if body is None else [answer], [WHOLE]) as (server, network):
        for _ in known:
            await read(await ask(server, network))
        if body is None:
            with pytest.raises(HttpProcessingError, match="Content-Length"):
                await read(await ask(server, network))
        else:
            assert await read(await ask(server, network)) == body
        assert await read(await ask(server, network)) == b"hello"
        assert server.connections == (1 if serves_again else 2)


@pytest.mark.parametrize("line_end", [b"\n\n", b"\n\r\n"], ids=["LF LF", "LF CRLF"])
async def test_a_blank_line_of_a_body_does_not_end_a_head_that_ended_with_lf(line_end: bytes) -> None:
    head = HEAD + b"Content-Length: %d\r\nX-Name: value" + line_end
    begin = b"the same\r\n\r\n"
    bodies = [begin + rest for rest in (b"one", b"two", b"nineteen")]
    # As long as its own beginning, with as much behind it: a head that reached into the body has the rest as a body.
    cut = head % len(begin) + begin + b"x" * len(begin)
    async with served(*([head % len(body) + body] for body in bodies), [cut]) as (server, network):
        for body in bodies:
            assert await read(await ask(server, network)) == body
        assert await read(await ask(server, network)) == begin
        assert server.connections == 1


async def test_a_known_head_that_comes_without_all_of_its_body_is_read_to_its_end() -> None:
    answer = with_length(b"hello")
    cuts = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    async with served([answer], [answer], *cuts) as (server, network):
        for _ in range(2):
            assert await read(await ask(server, network)) == b"hello"
        server.gate = asyncio.Semaphore(0)
        for _ in cuts:
            sent = asyncio.ensure_future(ask(server, network))
            await asyncio.sleep(0.001)
            server.gate.release()
            assert await read(await sent) == b"hello"
        assert server.connections == 1


async def test_a_body_that_is_cut_short_is_broken_off() -> None:
    async with served([HEAD + b"Content-Length: 5\r\n\r\nhel", b""]) as (server, network):
        response = await ask(server, network)
        with pytest.raises(ConnectionError):
            await read(response)


async def test_a_body_that_is_no_chunks_is_not_valid() -> None:
    answer = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"
    async with served([answer, b"zz\r\n"], [WHOLE]) as (server, network):
        server.gate = asyncio.Semaphore(0)
        response = await ask(server, network)
        assert await anext(cast("Response", response)) == b"hel"
        server.gate.release()
        with pytest.raises(UpstreamFailed, match="not valid"):
            await read(response)
        assert await read(await ask(server, network)) == b"hello"
        assert server.connections == 2


async def test_a_connection_that_ends_without_a_byte_is_unanswered() -> None:
    async with served([b""]) as (server, network):
        with pytest.raises(Unanswered):
            await ask(server, network)


async def test_silence_ends_the_wait_for_the_head_and_for_the_body() -> None:
    never = asyncio.Semaphore(0)
    async with served([HEAD + b"Content-Length: 5\r\n\r\nhel", b"lo"], silence_s=0.05) as (server, network):
        server.gate = never
        with pytest.raises(TimeoutError):
            await read(await ask(server, network))
    async with served([HEAD, b"x"], silence_s=0.05) as (server, network):
        server.gate = never
        with pytest.raises(TimeoutError):
            await ask(server, network)


async def test_a_kept_connection_that_was_asked_long_ago_has_all_its_time_for_the_next_head() -> None:
    async with served([WHOLE], [WHOLE[:-1], WHOLE[-1:]]) as (server, network):
        await read(await ask(server, network))
        for pool in network._pools.values():
            for lease in pool.leases:
                lease.protocol.waits_since -= 10 * PATIENCE_S
        network._look_for_silence()
        assert await read(await ask(server, network)) == b"hello"
        assert server.connections == 1


async def test_an_upstream_waits_for_what_is_not_read() -> None:
    size = 64 * AHEAD_BYTES
    written = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * AHEAD_BYTES)
            written += AHEAD_BYTES
            await writer.drain()
        writer.close()

    network = Network(connect_timeout_s=PATIENCE_S, read_timeout_s=PATIENCE_S, max_connections=1)
    async with serving(answer) as port:
        response = await network.send("GET", f"http://127.0.0.1:{port}", "/x", [], b"")
        assert isinstance(response, Response)
        before = -1
        while before != written:  # until the upstream is held back
            before = written
            await asyncio.sleep(0.05)
        assert written < size
        assert len(await read(response)) == size
        await network.close()


async def test_where_no_more_connections_may_be_made_the_next_request_gets_the_one_that_is_free() -> None:
    async with served([WHOLE[:-2], WHOLE[-2:]], [WHOLE], most=1) as (server, network):
        server.gate = asyncio.Semaphore(0)
        first = await ask(server, network)
        second = asyncio.ensure_future(ask(server, network))
        await asyncio.sleep(0.01)
        assert not second.done()
        server.gate.release()
        assert await read(first) == b"hello"
        assert await read(await second) == b"hello"
        assert server.connections == 1


async def test_a_kept_connection_makes_room_for_another_host() -> None:
    async with served([WHOLE], most=2) as (first, network), served([WHOLE[:-2], WHOLE[-2:]]) as (second, _):
        assert await read(await ask(first, network)) == b"hello"  # its connection is kept
        second.gate = asyncio.Semaphore(0)
        busy = await ask(second, network)
        async with served([WHOLE]) as (third, _):
            assert await read(await ask(third, network)) == b"hello"
        second.gate.release()
        assert await read(busy) == b"hello"


async def test_a_request_that_is_cancelled_leaves_nothing_behind() -> None:
    async with served([WHOLE[:-2], WHOLE[-2:]], [WHOLE], most=1) as (server, network):
        server.gate = asyncio.Semaphore(0)
        response = await ask(server, network)
        await response.aclose()
        server.gate.release()
        assert await read(await ask(server, network)) == b"hello"
        assert server.connections == 2


async def test_a_head_that_was_made_before_is_sent_to_those_alone_whose_it_is() -> None:
    """The same headers, others, another path and another method, each twice, with an id of each request's own."""
    asked = [
        ("GET", "/x", (("accept", "a"), ("authorization", "Bearer 1"))),
        ("GET", "/x", (("accept", "b"), ("authorization", "Bearer 1"))),
        ("GET", "/x", (("accept", "a"), ("authorization", "Bearer 2"))),
        ("GET", "/y", (("accept", "a"), ("authorization", "Bearer 1"))),
        ("PUT", "/x", (("accept", "a"), ("authorization", "Bearer 1"))),
        ("GET", "/x", (("accept", "a" * 4_000), ("authorization", "Bearer 1"))),
    ]
    answers = [[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"] for _ in range(2 * len(asked))]
    async with served(*answers) as (server, network):
        for number, (method, path, headers) in enumerate((*asked, *asked)):
            url = f"http://127.0.0.1:{server.port}/v1"
            response = await network.send(method, url, path, headers, b"", f"req_{number}")
            assert await read(response) == b"{}"
            lines = [f"{method} /v1{path} HTTP/1.1", f"host: 127.0.0.1:{server.port}", *map(": ".join, headers)]
            assert server.heads[-1].decode() == "\r\n".join([*lines, f"x-request-id: req_{number}", "", ""])
        with pytest.raises(ValueError, match="holds what it must not"):
            await network.send("GET", url, "/x", (("accept", "a\r\nx: y"),), b"")
