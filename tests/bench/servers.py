"""The servers the gateway is measured beside: a fast upstream, a bare passthrough, and the limit of its parts.

``python -m tests.bench.servers upstream|bare|httpx|raw --port PORT [--upstream URL]``. Each is one process with one
uvloop, as the gateway is, and does nothing it could leave out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, cast

import uvloop

#: Between two chunks of a slow stream, seconds; and in how many phases that time is cut, each of which has its share of
#: the streams.
SLOW_S = 0.02
_PHASES = 20
#: Frames of a stream that carry text; the role, the finish, the usage and [DONE] come on top.
STREAM_CHUNKS = 100
MAX_CONNECTIONS = 1000

_USAGE = {"prompt_tokens": 9, "completion_tokens": STREAM_CHUNKS, "total_tokens": 9 + STREAM_CHUNKS}

# ------------------------------------------------------------------------------------------------ the upstream


def _answer() -> bytes:
    message = {"role": "assistant", "content": "Hello! How can I help you today? " * 4}
    body = json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _USAGE,
        }
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _frames(with_usage: bool) -> list[bytes]:
    """The HTTP chunks of a stream, its head first."""

    def chunk(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        data = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000}
        frame = b"data: " + json.dumps({**data, "model": "gpt-4o-mini", "choices": choices, "usage": usage}).encode()
        return b"%x\r\n%s\n\n\r\n" % (len(frame) + 2, frame)

    def choice(delta: dict[str, str], finish_reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    texts = [chunk(choice({"content": f" word{number}"})) for number in range(STREAM_CHUNKS)]
    usage = [chunk([], _USAGE)] if with_usage else []
    done = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    return [head, chunk(choice({"role": "assistant"})), *texts, chunk(choice({}, "stop")), *usage, done]


class _Beat:
    """When slow streams send: each at its phase of every ``SLOW_S``, whatever became of its chunk before.

    With a timer for each, streams that were once late together would stay together for good: what is measured then is
    how they happened to fall into step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._phases: list[set[Upstream]] = [set() for _ in range(_PHASES)]
        self._next = 0
        self._next_at = 0.0
        self._is_running = False

    def join(self, stream: Upstream) -> None:
        """Have a stream send at the phase that has the fewest, until its ``go_on`` returns False."""
        min(self._phases, key=len).add(stream)
        if not self._is_running:
            self._is_running = True
            self._next_at = self._loop.time()
            self._beat()

    def _beat(self) -> None:
        now = self._loop.time()
        # One that could not keep up for a whole round goes on from now.
        self._next_at = max(self._next_at, now - SLOW_S)
        while self._next_at <= now:
            streams = self._phases[self._next]
            streams -= {stream for stream in streams if not stream.go_on()}
            self._next = (self._next + 1) % _PHASES
            self._next_at += SLOW_S / _PHASES
        self._is_running = any(self._phases)
        if self._is_running:
            # libuv counts in milliseconds: sooner would be at once, again and again.
            self._loop.call_later(max(self._next_at - self._loop.time(), 0.001), self._beat)


class Upstream(asyncio.Protocol):
    """Answers at once: a small completion, or a stream written frame by frame. GET lists one model."""

    transport: asyncio.Transport
    answer = _answer()
    streams: ClassVar = {False: _frames(False), True: _frames(True)}
    models = b'{"object":"list","data":[{"id":"gpt-4o-mini","object":"model","created":0,"owned_by":"bench"}]}'

    #: A chunk that says when it was sent.
    slow = (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
        b'"choices":[{"index":0,"delta":{"content":"<<%d>>"},"logprobs":null,"finish_reason":null}]}\n\n'
    )

    #: Made with the first slow stream.
    beat: ClassVar[_Beat | None] = None

    def __init__(self) -> None:
        self._received = b""
        #: Of a slow stream: how many chunks it has yet to send, and whether its usage follows them.
        self._left = 0
        self._with_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < self._length(head):
            return
        self._received = b""
        if head.startswith(b"GET"):
            length = len(self.models)
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (length, self.models))
            return
        asked = json.loads(body)
        if not asked.get("stream"):
            self.transport.write(self.answer)
        elif asked.get("user") == "slow":
            self._begin_slowly(asked["seed"], b"include_usage" in body)
        else:
            for frame in self.streams[b"include_usage" in body]:
                self.transport.write(frame)

    def _begin_slowly(self, chunks: int, with_usage: bool) -> None:
        head, role, *_ = self.streams[False]
        self.transport.write(head + role)
        self._left, self._with_usage = chunks, with_usage
        if Upstream.beat is None:
            Upstream.beat = _Beat(asyncio.get_running_loop())
        Upstream.beat.join(self)

    def go_on(self) -> bool:
        """Send the next chunk of a slow stream. Returns whether more follow."""
        if self.transport.is_closing():
            return False
        if not self._left:
            # The finish, the usage where it is wanted, and [DONE].
            self.transport.write(b"".join(self.streams[self._with_usage][2 + STREAM_CHUNKS :]))
            return False
        self._left -= 1
        frame = self.slow % time.monotonic_ns()
        self.transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        return True

    @staticmethod
    def _length(head: bytes) -> int:
        lower = head.lower()
        start = lower.find(b"content-length:")
        return 0 if start < 0 else int(lower[start + 15 :].split(b"\r\n", 1)[0])


async def serve_upstream(port: int, _: str) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


# ------------------------------------------------------------------------------------------------ passthroughs


async def serve_bare(port: int, upstream: str, *, default_transport: bool = False) -> None:
    """What one would write by hand: a Starlette route and an httpx client, the client on the quicker transport."""
    import httpx
    from httpx_aiohttp import AiohttpTransport
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    transport: httpx.AsyncBaseTransport = (
        httpx.AsyncHTTPTransport(limits=limits) if default_transport else AiohttpTransport(limits=limits)
    )
    client = httpx.AsyncClient(transport=transport, base_url=upstream, timeout=60)

    async def relay(request: Request) -> Response:
        body = await request.body()
        outgoing = client.build_request(
            "POST", request.url.path, content=body, headers={"content-type": "application/json"}
        )
        answer = await client.send(outgoing, stream=True)
        kind = answer.headers["content-type"]
        if kind.startswith("text/event-stream"):

            async def frames() -> AsyncIterator[bytes]:
                async for frame in answer.aiter_raw():
                    yield frame
                await answer.aclose()

            return StreamingResponse(frames(), answer.status_code, media_type=kind)
        return Response(await answer.aread(), answer.status_code, media_type=kind)

    await _hypercorn(Starlette(routes=[Route("/v1/chat/completions", relay, methods=["POST"])]), port)


async def serve_raw(port: int, upstream: str) -> None:
    """The limit of the parts: a plain ASGI function that calls the transport directly."""
    import httpx
    from httpx_aiohttp import AiohttpTransport

    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    transport = AiohttpTransport(limits=limits)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        outgoing = httpx.Request(
            "POST", upstream + scope["path"], content=body, headers={"content-type": "application/json"}
        )
        answer = await transport.handle_async_request(outgoing)
        kind = answer.headers["content-type"].encode()
        if kind.startswith(b"text/event-stream"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            assert isinstance(answer.stream, httpx.AsyncByteStream)
            async for frame in answer.stream:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            data = await answer.aread()
            headers = [(b"content-type", kind), (b"content-length", b"%d" % len(data))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": data, "more_body": False})
        await answer.aclose()

    await _hypercorn(app, port)


async def _lifespan(receive: Any, send: Any) -> None:
    for stage in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{stage}.complete"})


async def _hypercorn(app: Any, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = 1024
    await serve(app, config)


SERVERS: dict[str, Callable[[int, str], Coroutine[Any, Any, None]]] = {
    "upstream": serve_upstream,
    "bare": serve_bare,
    "httpx": partial(serve_bare, default_transport=True),
    "raw": serve_raw,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", default="")
    options = parser.parse_args()
    uvloop.run(SERVERS[options.server](options.port, options.upstream))


if __name__ == "__main__":
    main()
