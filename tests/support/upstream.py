"""A scripted OpenAI-compatible server over real sockets. Owns every byte it sends and the moment it is sent.

It runs on a thread with an event loop of its own, so that it works the same for synchronous and asynchronous tests. A
test scripts replies for the next POST requests, in order; when none is left, and for every GET, it answers like
OpenAI. A reply is a sequence of steps: bytes to send, gates to wait at, ways to break off.

    upstream.script(Reply.error(500), Reply.chat("at last"))       # fail once, then succeed
    gate = Gate()
    upstream.script(Reply.sse([delta("a"), gate, delta("b"), DONE]))   # hold the stream until gate.open()
    ...
    assert upstream.requests[-1].json()["model"] == "gpt-4o"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

#: How long a test waits for something that should happen at once, seconds.
PATIENCE_S = 15.0

DONE = b"data: [DONE]\n\n"

JsonObject = Mapping[str, Any]
Usage = JsonObject | None


class Gate:
    """A place where a reply waits until the test opens it. ``reached`` is set when the upstream stands there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def open(self) -> None:
        """Let everyone pass, from now on."""
        with self._lock:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            loop.call_soon_threadsafe(_resolve, future)

    def wait_reached(self, timeout_s: float = PATIENCE_S) -> None:
        """Block until a reply stands at the gate. Raises AssertionError when none comes in time."""
        assert self.reached.wait(timeout_s), f"no reply reached the gate within {timeout_s} s"

    async def passed(self) -> None:
        """Wait here; for the upstream."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._open:
                self.reached.set()
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, future))
        self.reached.set()
        await future


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Break:
    """A way to end an answer other than properly."""


#: Send a TCP reset: the peer's next read or write fails.
RESET = Break()
#: Close the connection, wherever the answer stands.
CLOSE = Break()
#: Never go on; ends when the client leaves.
HANG = Break()

Step = bytes | Gate | Break


@dataclass(frozen=True)
class Reply:
    """What one request gets: steps, taken one after the other. ``model`` names appear as the request had them."""

    steps: tuple[Step, ...]

    # whole answers

    @classmethod
    def raw(cls, *steps: Step) -> Reply:
        """Exactly these steps, status line and headers included."""
        return cls(tuple(steps))

    @classmethod
    def body(
        cls,
        body: bytes,
        *,
        status: int = 200,
        content_type: str | None = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """A whole answer. A content-length among ``headers`` is sent as it is, however wrong."""
        return cls((_head(status, content_type, {"content-length": str(len(body)), **(headers or {})}), body))

    @classmethod
    def json(cls, data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        return cls.body(encode(data), status=status, headers=headers)

    @classmethod
    def chat(cls, text: str = "Hello!", *, usage: Usage = None, without_usage: bool = False, **members: Any) -> Reply:
        """A chat completion. ``usage`` of any shape, else 7 prompt and 5 completion tokens, else none at all."""
        return cls.json(_without_none({**completion(text), "usage": _usage(usage, without_usage), **members}))

    @classmethod
    def error(
        cls,
        status: int,
        message: str = "scripted failure",
        *,
        type: str = "server_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """An error in OpenAI's form."""
        error = {"message": message, "type": type, "param": param, "code": code}
        return cls.json({"error": error}, status=status, headers=headers)

    @classmethod
    def rate_limited(cls, retry_after: str | None = "1") -> Reply:
        headers = {} if retry_after is None else {"retry-after": retry_after}
        return cls.error(429, "slow down", type="requests", code="rate_limit_exceeded", headers=headers)

    @classmethod
    def html(cls, status: int = 502) -> Reply:
        """What a reverse proxy says when the server behind it is down."""
        page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
        return cls.body(page, status=status, content_type="text/html")

    # streams

    @classmethod
    def sse(
        cls, frames: Iterable[Step | JsonObject], *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """A stream, one HTTP chunk a frame: objects become ``data:`` frames, bytes are sent as they are.

        It ends properly unless a Break ends it; ``DONE`` is yours to send, or not.
        """
        head = _head(status, "text/event-stream", {"transfer-encoding": "chunked", **(headers or {})})
        steps = (frame if isinstance(frame, Gate | Break) else _chunk(_frame(frame)) for frame in frames)
        return cls((head, *steps, b"0\r\n\r\n"))

    @classmethod
    def chat_stream(
        cls, texts: Sequence[str | Gate | Break] = ("Hel", "lo!"), *, usage: Usage = None, without_usage: bool = False
    ) -> Reply:
        """A chat stream: the role, a frame for each text, the finish, the usage if there is any, the end."""
        frames = [delta(text) if isinstance(text, str) else text for text in texts]
        last = [] if without_usage else [usage_chunk(_usage(usage, False))]
        return cls.sse([delta("", role="assistant"), *frames, delta(None, finish_reason="stop"), *last, DONE])

    # breaking off

    @classmethod
    def reset(cls) -> Reply:
        """Reset the connection before the first byte."""
        return cls((RESET,))

    @classmethod
    def close(cls) -> Reply:
        """Close the connection before the first byte."""
        return cls((CLOSE,))

    @classmethod
    def hang(cls) -> Reply:
        """Never answer."""
        return cls((HANG,))

    def held(self, gate: Gate) -> Reply:
        """This reply, once the gate is open."""
        return replace(self, steps=(gate, *self.steps))

    def cut(self, at_step: int, how: Break = CLOSE) -> Reply:
        """This reply up to ``at_step`` (the head is step 0), then broken off."""
        return replace(self, steps=(*self.steps[:at_step], how))

    def slow_headers(self, gate: Gate) -> Reply:
        """This reply, with the gate in the middle of its head."""
        head = self.steps[0]
        assert isinstance(head, bytes), "a reply that begins with its head"
        return replace(self, steps=(head[:20], gate, head[20:], *self.steps[1:]))


Answer = Reply | Callable[["Recorded"], Reply]


@dataclass(eq=False)
class Recorded:
    """One request as it arrived, and what became of its answer."""

    method: str
    #: Path and query, as sent.
    target: str
    #: In order, spelled as sent.
    headers: list[tuple[str, str]]
    body: bytes
    #: Counts connections from 1: equal numbers are requests on one kept-alive connection.
    connection: int
    #: Set when the whole answer was written, or broken off as scripted.
    finished: threading.Event = field(default_factory=threading.Event, repr=False)
    #: Set when the client left before that.
    aborted: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The header's value, None if absent. Raises AssertionError if it was sent twice."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    def wait_aborted(self, timeout_s: float = PATIENCE_S) -> None:
        """Block until the client has left. Raises AssertionError when it stays, or when it got its whole answer."""
        assert self.aborted.wait(timeout_s), f"the client did not leave within {timeout_s} s"

    def wait_finished(self, timeout_s: float = PATIENCE_S) -> None:
        assert self.finished.wait(timeout_s), f"the answer was not sent to its end within {timeout_s} s"


class Upstream:
    """The server. ``url`` is its address without a path, ``api_url`` what OpenAI clients call the base URL."""

    def __init__(self, models: Sequence[str] = ("gpt-4o", "gpt-4o-mini")) -> None:
        self.models = tuple(models)
        #: What GET requests get instead of the list of models, when set: for health probes.
        self.probe: Answer | None = None
        #: What a POST gets when nothing is scripted for it.
        self.default: Answer = answer_like_openai
        self.requests: list[Recorded] = []
        self.probes: list[Recorded] = []
        #: Requests that could not be understood, and failures of the upstream's own.
        self.faults: list[str] = []
        self.open_connections = 0
        #: Requests with a form whose heads have arrived, whether or not the rest did.
        self.uploads = 0
        self._scripted: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._connections: set[_Connection] = set()
        self._connection_count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="upstream", daemon=True)
        self._ready = threading.Event()
        self.port = 0

    # for tests

    def start(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S), "the scripted upstream did not start"
        return self

    def stop(self) -> None:
        """End every connection and the thread. Raises AssertionError if the upstream itself went wrong."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the scripted upstream did not stop"
        assert not self.faults, "\n".join(self.faults)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.url}/v1"

    def script(self, *answers: Answer) -> None:
        """Answer the next POST requests with these, in order. A function makes the reply from the request."""
        with self._changed:
            self._scripted.extend(answers)

    @property
    def unused(self) -> int:
        """How many scripted answers were not asked for."""
        return len(self._scripted)

    def wait_for_requests(self, count: int = 1, timeout_s: float = PATIENCE_S) -> Recorded:
        """Block until that many POST requests have arrived; gives the last of them."""
        self._wait_until(lambda: len(self.requests) >= count, timeout_s, lambda: f"{len(self.requests)} of {count}")
        return self.requests[count - 1]

    def wait_for_connections(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Block until exactly that many connections are open."""
        self._wait_until(lambda: self.open_connections == count, timeout_s, lambda: f"{self.open_connections} open")

    def wait_for_uploads(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Block until that many requests with a form have begun to arrive, all in all."""
        self._wait_until(lambda: self.uploads >= count, timeout_s, lambda: f"{self.uploads} uploads")

    def upload_begun(self) -> None:
        with self._changed:
            self.uploads += 1
            self._changed.notify_all()

    # for connections, on the upstream's own thread

    def opened(self, connection: _Connection) -> int:
        self._connections.add(connection)
        with self._changed:
            self._connection_count += 1
            self.open_connections += 1
            self._changed.notify_all()
        return self._connection_count

    def closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        with self._changed:
            self.open_connections -= 1
            self._changed.notify_all()

    def reply_to(self, request: Recorded) -> Reply:
        """Record the request and choose its reply."""
        with self._changed:
            if request.method == "GET" and not _KEPT.search(request.path):
                self.probes.append(request)
                answer = self.probe or self._list_models
            else:
                self.requests.append(request)
                answer = self._scripted.popleft() if self._scripted else self.default
            self._changed.notify_all()
        return answer if isinstance(answer, Reply) else answer(request)

    # inside

    def _list_models(self, request: Recorded) -> Reply:
        if not request.path.endswith("/models"):
            return Reply.json({"status": "ok"})
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.models]
        return Reply.json({"object": "list", "data": models})

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float, seen: Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                assert left > 0, f"did not happen within {timeout_s} s: {seen()}"
                self._changed.wait(left)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listener.getsockname()[1]
        server = self._loop.run_until_complete(self._loop.create_server(lambda: _Connection(self), sock=listener))
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        server.close()
        for _ in range(3):  # turns in which a connection that was accepted last gets its protocol, to be ended by it
            self._loop.run_until_complete(asyncio.sleep(0))
        for connection in list(self._connections):
            connection.abort()
        remaining = asyncio.all_tasks(self._loop)
        for task in remaining:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*remaining, return_exceptions=True))
        self._loop.close()


class _Connection(asyncio.Protocol):
    """One connection: parses requests one at a time and takes the steps of their replies."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._number = self._upstream.opened(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.closed(self)
        _resolve(self._lost)

    def abort(self) -> None:
        """Send a reset."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    async def _serve(self) -> None:
        try:
            while (request := await self._request()) is not None and await self._answer(request):
                pass
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a broken upstream must fail its test, not vanish with its task
            last = self._upstream.requests[-1:]
            rest = bytes(self._received[:200])
            self._upstream.faults.append(f"scripted upstream: {error!r} after {rest!r}, last request {last}")
        finally:
            self.transport.close()

    async def _answer(self, request: Recorded) -> bool:
        """Take the reply's steps until its end or the client's. Whether the connection lives on."""
        steps = asyncio.create_task(self._take(self._upstream.reply_to(request)))
        await asyncio.wait([steps, self._lost], return_when=asyncio.FIRST_COMPLETED)
        if not steps.done():
            steps.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await steps
            request.aborted.set()
            return False
        goes_on = steps.result()
        request.finished.set()
        return goes_on and not self._lost.done()

    async def _take(self, reply: Reply) -> bool:
        for step in reply.steps:
            if isinstance(step, bytes):
                self.transport.write(step)
                await self._writable.wait()
            elif isinstance(step, Gate):
                await step.passed()
            elif step is HANG:
                await asyncio.get_running_loop().create_future()  # until the client leaves, which cancels this
            else:
                self.abort() if step is RESET else self.transport.close()
                return False
        return True

    async def _request(self) -> Recorded | None:
        """The next request, None when the client has closed the connection."""
        head = await self._read_until(b"\r\n\r\n")
        if head is None:
            return None
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        lower = {name.lower(): value for name, value in headers}
        if lower.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if lower.get("content-type", "").startswith("multipart/"):
            self._upstream.upload_begun()
        body = await self._body(lower)
        return None if body is None else Recorded(method, target, headers, body, self._number)

    async def _body(self, headers: dict[str, str]) -> bytes | None:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._read(int(headers.get("content-length", "0")))
        body = bytearray()
        while True:
            size = await self._read_until(b"\r\n")
            chunk = None if size is None else await self._read(int(size.split(b";")[0], 16))
            if chunk is None or await self._read(2) is None:
                return None
            if not chunk:
                return bytes(body)
            body += chunk

    async def _read_until(self, separator: bytes) -> bytes | None:
        while (end := self._received.find(separator)) < 0:
            if not await self._more():
                return None
        return self._taken(end, len(separator))

    async def _read(self, count: int) -> bytes | None:
        while len(self._received) < count:
            if not await self._more():
                return None
        return self._taken(count, 0)

    def _taken(self, count: int, skip: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[: count + skip]
        return taken

    async def _more(self) -> bool:
        """Wait for bytes. False when the client has gone."""
        self._arrived.clear()
        arrival = asyncio.create_task(self._arrived.wait())
        await asyncio.wait([arrival, self._lost], return_when=asyncio.FIRST_COMPLETED)
        arrival.cancel()
        return self._arrived.is_set()


#: GETs of what an upstream keeps are scripted as POSTs are; all others ask for its health.
_KEPT = re.compile(
    r"/(responses|files|batches|conversations|vector_stores|containers|videos|assistants|threads|evals|fine_tuning"
    r"|skills|voice_consents|completions)\b"
)


# The wire forms of OpenAI's API


def answer_like_openai(request: Recorded) -> Reply:
    """What OpenAI would answer to a chat, completion or embedding request, streamed if asked."""
    if not request.path.endswith(("/completions", "/embeddings")):
        return Reply.error(404, f"no such path: {request.path}", type="invalid_request_error")
    asked = request.json()
    model = asked.get("model", "")
    if request.path.endswith("/embeddings"):
        return _embeddings(asked)
    is_chat = request.path.endswith("/chat/completions")
    if not asked.get("stream"):
        return Reply.json({**(completion("Hello!") if is_chat else text_completion("Hello!")), "model": model})
    with_usage = (asked.get("stream_options") or {}).get("include_usage", False)
    pieces: list[dict[str, Any]] = (
        [delta("", role="assistant"), delta("Hel"), delta("lo!"), delta(None, finish_reason="stop")]
        if is_chat
        else [text_completion("Hel", done=False), text_completion("lo!", done=False)]
    )
    # OpenAI says "usage": null in every other chunk when usage was asked for.
    frames = [{**piece, "model": model, **({"usage": None} if with_usage else {})} for piece in pieces]
    last = [{**usage_chunk(USAGE), "model": model}] if with_usage else []
    return Reply.sse([*frames, *last, DONE])


USAGE: JsonObject = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def completion(text: str) -> dict[str, Any]:
    """A chat.completion object."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def text_completion(text: str, *, done: bool = True) -> dict[str, Any]:
    """A text_completion object; a piece of a stream when it is not ``done``."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "gpt-4o",
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop" if done else None}],
        **({"usage": USAGE} if done else {}),
    }


def delta(
    content: str | None, *, role: str | None = None, finish_reason: str | None = None, index: int = 0
) -> dict[str, Any]:
    """A chat.completion.chunk object."""
    change = _without_none({"role": role, "content": content})
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o",
        "choices": [{"index": index, "delta": change, "logprobs": None, "finish_reason": finish_reason}],
    }


def usage_chunk(usage: Usage) -> dict[str, Any]:
    """The last chunk of a stream whose client asked for usage: no choices."""
    return {**delta(None), "choices": [], "usage": usage}


def encode(data: Any) -> bytes:
    """JSON as OpenAI's servers write it: compact, UTF-8."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _embeddings(asked: JsonObject) -> Reply:
    inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    data = [{"object": "embedding", "index": index, "embedding": [0.25, -0.5]} for index in range(len(inputs))]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return Reply.json({"object": "list", "data": data, "model": asked.get("model"), "usage": usage})


def _usage(usage: Usage, without_usage: bool) -> Usage:
    return None if without_usage else USAGE if usage is None else usage


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _frame(frame: bytes | JsonObject) -> bytes:
    return frame if isinstance(frame, bytes) else b"data: " + encode(frame) + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _head(status: int, content_type: str | None, headers: Mapping[str, str]) -> bytes:
    kind = {} if content_type is None else {"content-type": content_type}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**kind, **headers}.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode("latin-1")
