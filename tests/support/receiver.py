"""A receiver of webhooks over real sockets: keeps what it is sent, answers with the statuses that a test gives it."""

from __future__ import annotations

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import Any, NamedTuple, Self

import msgspec
from standardwebhooks import Webhook

from tests.support.upstream import PATIENCE_S


class Message(NamedTuple):
    """One request, as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        return str(msgspec.json.decode(self.body)["type"])

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["data"]
        return found

    def verify(self, secret: str) -> None:
        """Check the signature with the reference implementation. Raises WebhookVerificationError."""
        Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Statuses that were scripted come first; then every message is taken with 204."""

    def __init__(self, port: int = 0) -> None:
        self.statuses: deque[int] = deque()
        self.headers: dict[str, str] = {}
        self.paths: list[str] = []
        self._messages: Queue[Message] = Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.paths.append(self.path)
                receiver._messages.put(Message({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.statuses.popleft() if receiver.statuses else 204)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                """A redirect that is followed, or the health probe of an upstream."""
                receiver.paths.append(self.path)
                body = b'{"object": "list", "data": []}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing is told."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def take(self, timeout_s: float = PATIENCE_S) -> Message:
        """Wait for the next message. Raises AssertionError when none comes in time."""
        try:
            return self._messages.get(timeout=timeout_s)
        except Empty:
            raise AssertionError(f"no message came within {timeout_s} s") from None

    def rest(self) -> list[Message]:
        """Returns what has come and was not taken."""
        found = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
