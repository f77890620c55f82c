"""A request sent over a kept connection before it is awaited comes to what one that is sent in all steps comes to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.models.test_response import PATIENCE_S, Server
from tests.support.streams import counting_turns, serving
from trustgate.errors import TrustGateError
from trustgate.models.catalog import Catalog
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.whole import read_answer
from trustgate.models.upstream import bodies
from trustgate.models.upstream.answer import HELD_MOST_FRAMES, Frame
from trustgate.models.upstream.bodies import MAX_BLANKS_BYTES
from trustgate.models.upstream.client import Outgoing, UpstreamClient
from trustgate.models.upstream.protocol import MAX_INTERIM
from trustgate.models.upstream.response import AHEAD_BYTES
from trustgate.models.upstream.targets import Targets
from trustgate.types import Passport, Pool

_BODY = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


def _said(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n" % status
        + more
        + b"content-length: %d\r\n\r\n" % len(body)
        + body
    )


_OK = _said(_BODY)
_EVENTS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    b'33\r\ndata: {"choices":[{"delta":{"content":"hello"}}]}\n\n\r\n',
    b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
)
#: What a second request is answered with, and what is answered if it is asked once more; b"" hangs up.
_ANSWERS: dict[str, list[list[bytes]]] = {
    "usual": [[_OK]],
    "in two pieces": [[_OK[:-9], _OK[-9:]]],
    "an older HTTP": [[_OK.replace(b"HTTP/1.1", b"HTTP/1.0")]],
    "hangs up": [[b""], [_OK]],
    "hangs up in the head": [[_OK[:30], b""], [_OK]],
    "hangs up in the body": [[_OK[:-9], b""], [_OK]],
    "fails, then answers": [[_said(b'{"error":{"message":"no"}}', b"500 Internal Server Error")], [_OK]],
    "refuses": [[_said(b'{"error":{"message":"no"}}', b"400 Bad Request")]],
    "a failure with status 200": [[_said(b'{"error":{"message":"no"}}')], [_OK]],
    "no HTTP": [[b"nonsense\r\n\r\n"], [_OK]],
    "ends the connection": [[_said(_BODY, more=b"connection: close\r\n"), b""]],
    "events": [list(_EVENTS)],
}


class _World:
    """A client, and an upstream that answers a first request as usual, so that its connection is kept."""

    def __init__(self, answers: list[list[bytes]], *, read_s: float = PATIENCE_S, most: int | None = None) -> None:
        self.server = Server([[_OK], *answers])
        self.client = UpstreamClient(
            retries=1, connect_timeout_s=PATIENCE_S, read_timeout_s=read_s, max_connections=10, wait=self._wait
        )
        self._pool = Pool(requests_per_minute=most)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def open(self, port: int) -> None:
        passport = Passport(
            id="passport_1", slug="a", api_model_id="a", base_url=f"http://127.0.0.1:{port}/v1", pool=self._pool
        )
        catalog = Catalog([passport], [])
        targets = Targets(catalog, "http://default/v1", lambda _: "sk-1")
        self.targets = targets.route("a", catalog.resolve("a"), "chat.completions")

    def outgoing(self, **members: Any) -> Outgoing:
        usual: dict[str, Any] = {
            "path": "/chat/completions",
            "headers": (("content-type", "application/json"),),
            "body_for": lambda target: b'{"model":"a"}',
            "form": "chat",
            "meter": read_answer,
            "stream_meter": StreamMeter,
            "request_id": "req_1",
            "is_ordinary": True,
        }
        return Outgoing(**{**usual, **members})

    async def fetch(self, **members: Any) -> Any:
        """Returns what an answer is, or the error."""
        try:
            answer = await self.client.fetch(self.targets, self.outgoing(**members), deadline=None)
        except TrustGateError as error:
            return error.status, error.code, error.message
        try:
            if answer.events is None:
                return answer.status, answer.body, answer.content_type, answer.reported
            pieces = [frame async for frames in answer.events.batches(lambda _: False) for _, frame in frames]
            return answer.status, b"".join(pieces)
        finally:
            await answer.close()

    @property
    def loads(self) -> list[int]:
        return [target.load.in_flight for target in self.targets]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", _ANSWERS)
async def test_at_once_or_in_all_steps_the_answer_is_the_same(name: str, stream: bool) -> None:
    seen = []
    for is_ordinary in (True, False):
        world = _World([list(pieces) for pieces in _ANSWERS[name]])
        async with serving(world.server.answer) as port:
            world.open(port)
            await world.fetch()
            outcomes = [await world.fetch(is_ordinary=is_ordinary, stream=stream)]
            breaker = world.targets[0].breaker
            heads = [head.replace(b"%d" % port, b"") for head in world.server.heads]
            seen.append((outcomes, heads, world.server.connections, world.loads, breaker.is_tripped()))
            await world.client.close()
    assert seen[0] == seen[1]
    assert seen[0][3] == [0]


#: How many turns of the loop a request runs before it is ended: from before it is sent to behind its answer.
_TURNS = range(12)


@pytest.mark.parametrize("is_ordinary", [True, False], ids=["at once", "in all steps"])
async def test_a_request_that_is_ended_early_holds_nothing_and_its_connection_serves_no_other(
    is_ordinary: bool,
) -> None:
    for turns in _TURNS:
        world = _World([[_OK], [_OK]])
        async with serving(world.server.answer) as port:
            world.open(port)
            await world.fetch()
            asking = asyncio.ensure_future(world.fetch(is_ordinary=is_ordinary))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            assert world.loads == [0]
            # What comes of the request that was ended is not taken for the next one's answer.
            assert (await world.fetch(request_id="req_2"))[:2] == (200, _BODY)
            await world.client.close()


@pytest.mark.parametrize("is_ordinary", [True, False], ids=["at once", "in all steps"])
async def test_an_upstream_learns_that_its_answer_is_not_waited_for_any_more(is_ordinary: bool) -> None:
    world = _World([[]])
    asked, left = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_OK)
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # the second request's body, and the end
        left.set()

    async with serving(answer) as port:
        world.open(port)
        await world.fetch()
        asking = asyncio.ensure_future(world.fetch(is_ordinary=is_ordinary))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        asking.cancel()
        await asyncio.wait_for(left.wait(), PATIENCE_S)
        await asyncio.wait([asking])
        await world.client.close()


@pytest.mark.parametrize("is_ordinary", [True, False], ids=["at once", "in all steps"])
async def test_an_upstream_that_says_nothing_is_given_up(is_ordinary: bool) -> None:
    world = _World([[], []], read_s=0.1)
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        status, _, _ = await asyncio.wait_for(world.fetch(is_ordinary=is_ordinary), PATIENCE_S)
        assert (status, world.loads) == (504, [0])
        await world.client.close()


_ODD = _said(_BODY, more=b"transfer-encoding: identity\r\n")


@pytest.mark.parametrize("first", [_OK, _ODD], ids=["read by llhttp", "read by aiohttp"])
async def test_what_comes_between_two_answers_is_not_the_next_ones(first: bytes) -> None:
    """It may be another tenant's who gets the next answer. One that aiohttp reads was given what had come before."""
    world = _World([])
    answered, left = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answered.is_set():
            writer.write(_ODD)
            await reader.read()
            return
        writer.write(first)
        await answered.wait()
        writer.write(_said(_BODY.replace(b"hi", b"of nobody")))
        await reader.read()  # what is left of the first request, and the end
        left.set()

    async with serving(answer) as port:
        world.open(port)
        assert (await world.fetch())[:2] == (200, _BODY)
        answered.set()
        await asyncio.wait_for(left.wait(), PATIENCE_S)
        assert (await world.fetch())[:2] == (200, _BODY)
        await world.client.close()


@pytest.mark.parametrize(("interim", "status"), [(MAX_INTERIM, 200), (MAX_INTERIM + 1, 502)])
async def test_interim_responses_are_bounded(interim: int, status: int) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    world = _World([[hint * interim + _OK], [_OK]])
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        assert (await world.fetch())[0] == status
        assert (await world.fetch())[0] == 200
        await world.client.close()


@pytest.mark.parametrize("before", [0, 1], ids=["with the head", "behind an answer's first event"])
async def test_thousands_of_frames_in_one_piece_are_read_in_turns_with_others(before: int) -> None:
    head, event, end = _EVENTS
    flood = b": keep\n\n" * 5_000 + event[4:-2]
    piece = b"%x\r\n%b\r\n" % (len(flood), flood)
    world = _World([[head + event * before + (piece if not before else b""), *([piece] if before else []), end]])
    world.server.gate = asyncio.Semaphore(0)
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        fetching = asyncio.ensure_future(world.client.fetch(world.targets, world.outgoing(stream=True), deadline=None))
        answer = await asyncio.wait_for(fetching, PATIENCE_S)
        received: list[list[bytes]] = []

        def take(frames: list[Frame]) -> bool:
            received.append([frame for _, frame in frames])
            return True

        assert answer.events is not None
        async with counting_turns() as turns:
            world.server.gate.release()
            world.server.gate.release()
            async for frames in answer.events.batches(take):
                take(frames)
        await answer.close()
        await world.client.close()
    assert b"".join(b"".join(frames) for frames in received) == event[4:-2] * before + flood + b"data: [DONE]\n\n"
    # Before the first event some are held, and passed on together.
    assert max(map(len, received)) <= (64 if before else HELD_MOST_FRAMES + 64)
    if before:
        assert turns.number >= 5_000 // 64


@pytest.mark.parametrize(
    "flood", [b"5;" + b"a" * 2 * AHEAD_BYTES, b"0\r\n" + b"a: b\r\n" * AHEAD_BYTES], ids=["extension", "trailers"]
)
async def test_framing_that_never_comes_to_content_ends_the_answer(flood: bytes) -> None:
    """Reading was held back until something was taken, of which there was nothing: for as long as silence may last."""
    head = _EVENTS[0].replace(b"text/event-stream", b"application/json")
    world = _World([[head + flood], [_OK]])
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        status, _, message = await world.fetch()
        assert (status, "without any content" in message) == (502, True)
        assert (await world.fetch())[0] == 200
        await world.client.close()


@pytest.mark.parametrize(("blanks", "status"), [(MAX_BLANKS_BYTES, 200), (MAX_BLANKS_BYTES + 1, 502)])
async def test_blanks_before_a_stream_are_bounded(blanks: int, status: int) -> None:
    """They were all kept, and all looked through with each piece."""
    head, event, end = _EVENTS
    world = _World([[head + b"%x\r\n" % blanks + b"\n" * blanks + b"\r\n", event, end]])
    world.server.gate = asyncio.Semaphore(0)
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        fetching = asyncio.ensure_future(world.fetch(stream=True))
        if status == 200:
            world.server.gate.release()
            world.server.gate.release()
        assert (await fetching)[0] == status
        await world.client.close()


async def test_an_unwanted_stream_is_put_together_in_turns_with_others() -> None:
    frames = b": keep\n\n" * 20_000 + b"data: [DONE]\n\n"
    body = _EVENTS[1][4:-2].replace(b'"delta":{"content":"hello"}', b'"index":0,"delta":{"content":"hello"}') + frames
    world = _World([[_said(body).replace(b"application/json", b"text/event-stream")]])
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        async with counting_turns() as turns:
            status, answer = (await world.fetch())[:2]
        await world.client.close()
    assert (status, b"hello" in answer) == (200, True)
    assert turns.number >= 20_000 // 64


async def test_an_unwanted_stream_of_too_many_events_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut all at once, 6 MB of blank lines held up the event loop for two seconds."""
    monkeypatch.setattr(bodies, "MAX_EVENTS", 1_000)
    world = _World([[_said(b":\n\n" * 1_001).replace(b"application/json", b"text/event-stream")]])
    async with serving(world.server.answer) as port:
        world.open(port)
        await world.fetch()
        status, _, message = await world.fetch()
        await world.client.close()
    assert (status, "more than 1000 events" in message) == (502, True)


async def test_a_target_without_room_is_asked_nothing() -> None:
    world = _World([[_OK], [_OK]], most=2)
    async with serving(world.server.answer) as port:
        world.open(port)
        assert (await world.fetch())[0] == (await world.fetch())[0] == 200
        assert (await world.fetch())[:2] == (503, "model_unavailable")
        assert (len(world.server.heads), world.loads) == (2, [0])
        await world.client.close()
