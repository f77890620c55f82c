"""The floor: all that the path does to a request, in Python, with nothing around it.

``python -m tests.bench.floor --port PORT --upstream URL``: two protocols over llhttp, without tasks, ASGI, checks or
errors. A plain request's key is hashed, its body decoded, counted, and forwarded on a kept connection; the answer's
usage is read, both are committed to, and the receipt is encoded, hashed and written to a journal before the last byte
leaves. What the gateway costs beyond this is what its promises, and its shape, cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from hashlib import sha256
from typing import cast
from urllib.parse import urlsplit
from zlib import crc32

import msgspec
import uvloop
from httptools import HttpRequestParser, HttpResponseParser

_EVENTS = b"text/event-stream"


class _Chat(msgspec.Struct):
    model: str
    messages: list[msgspec.Raw]
    stream: bool = False
    max_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    model: str
    usage: _Usage


_read_chat = msgspec.json.Decoder(_Chat).decode
_read_completion = msgspec.json.Decoder(_Completion).decode
_read_any = msgspec.json.Decoder().decode
_canonical = msgspec.json.Encoder(order="sorted").encode
_pack = msgspec.msgpack.Encoder().encode


class Floor:
    """What all connections share."""

    def __init__(self, upstream: str) -> None:
        place = urlsplit(upstream)
        self.host, self.port = place.hostname or "127.0.0.1", place.port or 80
        self.loop = asyncio.get_running_loop()
        self.idle: list[_Upstream] = []
        self.used: dict[bytes, list[int]] = {}
        self.previous = bytes(32)
        self._journal = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._fd = self._journal.fileno()
        self._position = 0
        self.opening: set[asyncio.Task[None]] = set()

    def forward(self, client: _Client, request: bytes) -> None:
        if self.idle:
            upstream = self.idle.pop()
            upstream.client = client
            upstream.transport.write(request)
            return
        task = self.loop.create_task(self._open(client, request))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def _open(self, client: _Client, request: bytes) -> None:
        _, upstream = await self.loop.create_connection(lambda: _Upstream(self), self.host, self.port)
        upstream.client = client
        upstream.transport.write(request)

    def record(self, receipt: dict[str, object]) -> None:
        """Give a receipt its leaf hash, and write it down."""
        leaf = sha256(b"\0" + _canonical(receipt)).digest()
        record = _pack(receipt)
        head = len(record).to_bytes(4, "little") + crc32(record).to_bytes(4, "little")
        self._position += os.pwrite(self._fd, head + record, self._position)
        self.previous = leaf


class _Upstream(asyncio.Protocol):
    transport: asyncio.Transport
    client: _Client

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._parser = HttpResponseParser(self)
        self._is_stream = False
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._floor.idle:
            self._floor.idle.remove(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._is_stream = False
        self._parts = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type" and value.startswith(_EVENTS):
            self._is_stream = True

    def on_headers_complete(self) -> None:
        if self._is_stream:
            self.client.begin()

    def on_body(self, data: bytes) -> None:
        if self._is_stream:
            self.client.relay(data)
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        client = self.client
        self._floor.idle.append(self)
        client.finish(None if self._is_stream else b"".join(self._parts))


class _Client(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._parser = HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers, self._parts = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._parser.get_method() != b"POST":
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        self._began = time.time_ns()
        body = b"".join(self._parts)
        self._key = sha256(self._headers.get(b"authorization", b"")[7:]).hexdigest()
        self._chat = _read_chat(body)
        used = self._floor.used.setdefault(self._key.encode(), [0] * 6)
        for window in range(6):
            used[window] += 1
        self._request, self._answer, self._usage = sha256(body).digest(), sha256(), _Usage()
        self._floor.forward(
            self,
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: upstream\r\naccept: application/json\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
        )

    def begin(self) -> None:
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"x-request-id: req_0\r\nx-trustgate-receipt: rcpt_0\r\n\r\n"
        )

    def relay(self, data: bytes) -> None:
        for frame in data.split(b"\n\n"):
            if frame.startswith(b"data: {"):
                _read_any(frame[6:])
        self._answer.update(data)
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self, body: bytes | None) -> None:
        if body is not None:
            self._answer.update(body)
            self._usage = _read_completion(body).usage
        self._record()
        if body is None:
            self._write(b"0\r\n\r\n")
        else:
            self._write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: req_0\r\n"
                b"x-trustgate-receipt: rcpt_0\r\n\r\n%b" % (len(body), body)
            )

    def _record(self) -> None:
        secret = os.urandom(32)
        self._floor.record(
            {
                "v": 3,
                "id": f"rcpt_{self._began // 1_000_000:012x}{secret[:10].hex()}",
                "created_us": self._began // 1000,
                "key": self._key,
                "tprev": self._floor.previous.hex(),
                "endpoint": "chat.completions",
                "model": self._chat.model,
                "request_commitment": sha256(secret + b"request" + self._request).hexdigest(),
                "response_commitment": sha256(secret + b"response" + self._answer.digest()).hexdigest(),
                "prompt_tokens": self._usage.prompt_tokens,
                "completion_tokens": self._usage.completion_tokens,
                "cost_nano_usd": 0,
                "latency_total_ms": (time.time_ns() - self._began) // 1_000_000,
                "status": 200,
                "finish": "complete",
                "stream": self._chat.stream,
            }
        )

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


async def _serve(port: int, upstream: str) -> None:
    floor = Floor(upstream)
    server = await floor.loop.create_server(lambda: _Client(floor), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.upstream))


if __name__ == "__main__":
    main()
