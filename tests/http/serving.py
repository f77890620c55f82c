"""The listener in a thread of this process, with an application of the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvloop
from starlette.types import Receive, Scope, Send

from trustgate.http.listener import listen
from trustgate.http.refusals import Shed
from trustgate.http.timeouts import ConnectionTimeouts

PATIENCE_S = 20.0
TIMEOUTS = ConnectionTimeouts(head_s=10.0, write_s=10.0)


@dataclass(frozen=True)
class Seen:
    """A request as the application saw it."""

    method: str
    path: str
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    #: The body came to its end.
    is_whole: bool


class App:
    """Answers with what it was asked. Keeps what it saw.

    ``/hold`` waits until the test opens it; ``/hold-body`` does so before it reads the body; ``/refuse`` answers
    without reading; ``/stream`` sends pieces without a length, the last when the test opens it; ``/wait`` waits for the
    client to go; ``/wait-stream`` does so after a first piece.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        #: A request has come to it; it has begun to wait; it knows that its client has gone.
        self.called = threading.Event()
        self.begun = threading.Event()
        self.gone = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    async def _wait_opened(self) -> None:
        self.begun.set()
        await asyncio.get_running_loop().run_in_executor(None, self._opened.wait, PATIENCE_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.called.set()
        path = scope["path"]
        if path == "/refuse":
            await _answer(send, 401, b"no")
            return
        if path == "/hold-body":
            await self._wait_opened()
        body, is_whole = await _read(receive)
        self.seen.append(
            Seen(scope["method"], path, scope["query_string"], scope["http_version"], scope["headers"], body, is_whole)
        )
        if not is_whole:
            self.gone.set()
        elif path.startswith("/wait"):
            if path == "/wait-stream":
                await _begin(send, 200)
                await send({"type": "http.response.body", "body": b"first", "more_body": True})
            self.begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.set()
        elif path == "/stream":
            await _begin(send, 200)
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await self._wait_opened()
            await send({"type": "http.response.body", "body": b" last", "more_body": False})
        else:
            if path == "/hold":
                await self._wait_opened()
            told = {"method": scope["method"], "path": path, "query": scope["query_string"].decode(), "body": len(body)}
            await _answer(send, 200, json.dumps(told).encode())


async def _read(receive: Receive) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts), False
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts), True


async def _begin(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class LogRecords(logging.Handler):
    """Keeps what is logged as an error, by anyone, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> LogRecords:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


@dataclass(frozen=True)
class Server:
    address: tuple[str, int]
    loop: asyncio.AbstractEventLoop
    _stop: asyncio.Event

    def stop(self) -> None:
        """Begin to end."""
        self.loop.call_soon_threadsafe(self._stop.set)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def ask(self, data: bytes) -> bytes:
        """All that comes back until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


@contextlib.contextmanager
def serving(
    app: Any,
    timeouts: ConnectionTimeouts = TIMEOUTS,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    receive_buffer_bytes: int | None = None,
    grace_s: float = 0.0,
    shed: Shed | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """Serve ``app`` until the block ends; then everything that runs is ended at once."""
    with socket.socket() as listener:
        if receive_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        started = threading.Event()
        loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def run() -> None:
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            started.set()
            await listen(app, listener, stop, grace_s=grace_s, timeouts=timeouts, shed=shed, tls=tls)

        def serve() -> None:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(run())

        address = listener.getsockname()
        thread = threading.Thread(target=serve)
        thread.start()
        assert started.wait(PATIENCE_S)
        server = Server(address, *loops[0])
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # a test may have ended it already
                server.stop()
            thread.join()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes the connection, or resets it."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            received += more
    return received
