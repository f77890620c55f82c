"""The Responses API over a WebSocket: each ``response.create`` is a request of the path, each of its events a message.

The upstream is called over HTTP, as for any request. The client keeps its connection, and the gateway judges, holds,
meters and receipts each response by itself (its receipt commits to the event without ``type``, with ``stream``
set). Responses of one connection are made one after another. A response that is not
stored cannot be built on: what a server keeps of a connection alone is not there.

Owns the messages both ways, how many may wait, and the end of a connection: the client's, a revoked key, idleness, the
gateway's own. Sources: OpenAI API reference, "Responses", "WebSocket mode"; RFC 6455 sections 5.5 and 7.4.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import msgspec
from starlette.types import Message, Receive, Scope, Send

from trustgate.errors import AuthenticationFailed, InvalidRequest, TrustGateError, Unavailable
from trustgate.gateway.api.call import MOST_MEMBERS, too_many_members
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.delivery import cancellation_error
from trustgate.gateway.path.inflight import Reason
from trustgate.gateway.path.pipeline import Pipeline
from trustgate.http.sending import Headers
from trustgate.models.metering.sse import SseScanner, frame_data

#: Events that wait for the response before theirs: their number, and their characters in all.
_MOST_WAITING: Final = 8
_MOST_WAITING_CHARACTERS: Final = 4 * 1024 * 1024
#: After so long without an event of the client's its connection is closed, seconds.
IDLE_S: Final = 600.0
#: The longest event of an answer, bytes: one that is too long was refused when it came from the upstream.
_FRAME_BYTES: Final = 256 * 1024 * 1024
#: Close codes (RFC 6455 section 7.4.1).
_NORMAL, _GOING_AWAY, _POLICY = 1000, 1001, 1008
#: Headers of the handshake that are of the connection, or of one request alone: a payment pays for one.
_NOT_PASSED: Final = frozenset(
    (
        *(b"connection", b"upgrade", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"),
        *(b"expect", b"x-request-id", b"payment-signature", b"x-payment", b"idempotency-key"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol"),
    )
)
_ERROR_HEADERS: Final = frozenset((b"retry-after", b"x-request-id", b"x-trustgate-receipt", b"x-should-retry"))

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class ResponsesSockets:
    """The ASGI application of the WebSockets of one endpoint."""

    def __init__(self, pipeline: Pipeline, endpoint: Endpoint) -> None:
        self._pipeline = pipeline
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        running = self._pipeline.running
        try:
            caller = self._pipeline.caller_of(scope)
        except AuthenticationFailed:
            # As any request without a valid key: refused, counted, logged.
            await self._pipeline.serve(self._endpoint, _request(self._endpoint, scope, b""), _nothing, _denying(send))
            return
        socket = _Socket(caller.key.id, caller.tenant.id, self._pipeline, self._endpoint, scope, receive, send)
        try:
            running.open_socket(socket)
        except Unavailable as error:
            body = self._endpoint.dialect.body(error)
            headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
            await _deny(send, error.status, [(b"content-type", b"application/json"), *headers], body)
            return
        try:
            await send({"type": "websocket.accept"})
            await socket.run()
        finally:
            running.close_socket(socket)


#: The reasons of a cancellation that end a connection because of its key.
_OF_KEYS = frozenset({"key_revoked", "account_inactive"})


class _Socket:
    """One connection."""

    def __init__(
        self,
        key_id: str,
        tenant_id: str,
        pipeline: Pipeline,
        endpoint: Endpoint,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.key_id = key_id
        self.tenant_id = tenant_id
        self._pipeline = pipeline
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._send = send
        self._waiting: deque[str] = deque()
        self._woken = asyncio.Event()
        self._gone = asyncio.Event()
        #: What it is to be closed with: the code, and the error that is sent before.
        self._ending: tuple[int, TrustGateError | None] | None = None
        #: The last event was an error: the response under way was ended for the same reason.
        self._has_told_error = False

    async def run(self) -> None:
        """Answer the client's events, until either side ends the connection."""
        reading = asyncio.get_running_loop().create_task(self._read())
        try:
            while (text := await self._next()) is not None:
                await self._answer(text)
                self._check_key()
            if self._gone.is_set() or self._ending is None:
                return
            code, error = self._ending
            if error is not None and not self._has_told_error:
                await self._tell(error)
            await self._send({"type": "websocket.close", "code": code, "reason": ""})
        finally:
            reading.cancel()

    def end(self, reason: Reason) -> None:
        """Close it once the response that is under way, if one is, has ended."""
        if self._ending is None:
            self._ending = (_POLICY if reason in _OF_KEYS else _GOING_AWAY), cancellation_error(reason)
            self._woken.set()

    async def say(self, event: bytes) -> None:
        """Send an event."""
        self._has_told_error = event.startswith(_ERROR)
        await self._send({"type": "websocket.send", "text": event.decode("utf-8", "replace")})

    async def disconnected(self) -> Message:
        """Wait until the client has gone. Returns the message of that to an application of HTTP."""
        await self._gone.wait()
        return {"type": "http.disconnect"}

    # inside

    async def _read(self) -> None:
        """Take in what the client sends: so it is noticed at once when it has gone."""
        while (message := await self._receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                text = (message.get("bytes") or b"").decode("utf-8", "replace")
            self._waiting.append(text)
            if len(self._waiting) > _MOST_WAITING or sum(map(len, self._waiting)) > _MOST_WAITING_CHARACTERS:
                self._waiting.clear()
                self._ending = _POLICY, Unavailable("Too many events wait here: await each response.", retryable=False)
            self._woken.set()
        self._gone.set()
        self._woken.set()

    async def _next(self) -> str | None:
        """Returns the client's next event; None where there is none any more."""
        while not self._gone.is_set() and self._ending is None:
            if self._waiting:
                return self._waiting.popleft()
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), IDLE_S)
            except TimeoutError:
                self._ending = _NORMAL, None
        return None

    def _check_key(self) -> None:
        try:
            self._pipeline.caller_of(self._scope)
        except AuthenticationFailed as error:
            self._ending = self._ending or (_POLICY, error)

    async def _answer(self, text: str) -> None:
        try:
            body, lane = _body_of(text)
        except InvalidRequest as error:
            await self._tell(error)
            return
        answer = _Answer(self, lane)
        told = False

        async def receive() -> Message:
            nonlocal told
            if told:
                return await self.disconnected()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._pipeline.serve(self._endpoint, _request(self._endpoint, self._scope, body), receive, answer.send)

    async def _tell(self, error: TrustGateError) -> None:
        await self.say(_error_event(error.status, [], self._endpoint.dialect.body(error)))


class _Answer:
    """An answer of HTTP, as it goes out: its events become messages, a refusal becomes an event."""

    def __init__(self, socket: _Socket, lane: bytes) -> None:
        """``lane``: the JSON of the client's name for what the events are of; b"" without one."""
        self._socket = socket
        self._lane = lane
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._scanner: SseScanner | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message["headers"]
            content_type = next((value for name, value in self._headers if name == b"content-type"), b"")
            self._scanner = SseScanner(_FRAME_BYTES) if content_type.startswith(b"text/event-stream") else None
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self._scanner is None:
            self._parts.append(body)
            if is_last:
                await self._say_whole(b"".join(self._parts))
            return
        for frame in (*self._scanner.feed(body), *((self._scanner.tail(),) if is_last else ())):
            data = frame_data(frame)
            if data and data != b"[DONE]":
                await self._say(data)

    async def _say_whole(self, body: bytes) -> None:
        if self._status < 300:
            await self._say(b'{"type":"response.completed","response":%b}' % body)
        else:
            await self._say(_error_event(self._status, self._headers, body))

    async def _say(self, event: bytes) -> None:
        if self._lane and event.endswith(b"}") and len(event) > len(b"{}"):
            event = b'%b,"stream_id":%b}' % (event[:-1], self._lane)
        await self._socket.say(event)


def _body_of(text: str) -> tuple[bytes, bytes]:
    """Returns the body of the request that an event stands for, and the JSON of its ``stream_id``, b"" without one.

    Raises ``InvalidRequest`` for what is no ``response.create``, or cannot be served so.
    """
    try:
        members = _members(text)
        kind = msgspec.json.decode(bytes(members.pop("type", b'""')), type=str)
        lane = bytes(members.pop("stream_id", b""))
        if lane:
            msgspec.json.decode(lane, type=str)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidRequest(
            'An event is a JSON object with a type: {"type": "response.create", "model": …, "input": …}.',
            code="invalid_json",
        ) from None
    if len(members) > MOST_MEMBERS:
        # As the path would; but it would decode them once more, and hundreds of thousands take a while.
        raise too_many_members()
    if kind != "response.create":
        raise InvalidRequest(
            f"Events of the type {kind[:80]!r} are not taken here: only response.create.",
            param="type",
            code="unsupported_event",
        )
    for name, usual in (("generate", b"true"), ("background", b"false")):
        if bytes(members.pop(name, b"null")) not in (usual, b"null"):
            raise InvalidRequest(
                f"{name} cannot be other than {usual.decode()} over this WebSocket.",
                param=name,
                code="unsupported_parameter",
            )
    return _encode({**members, "stream": True}), lane


def _error_event(status: int, headers: Headers, body: bytes) -> bytes:
    """Returns the event of a refusal. ``body``: its JSON, as over HTTP."""
    document: dict[str, Any] = msgspec.json.decode(body)
    told = {name.decode(): value.decode("latin-1") for name, value in headers if name in _ERROR_HEADERS}
    error = {**document["error"], "headers": told} if told else document["error"]
    return _encode({"type": "error", "status": status, "error": error})


#: What an error of the gateway's own begins with, over HTTP's stream and here.
_ERROR: Final = b'{"type":"error"'


def _request(endpoint: Endpoint, scope: Scope, body: bytes) -> Scope:
    """Returns the head of a request of HTTP in the place of an event."""
    headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_PASSED]
    return {
        **{name: scope[name] for name in ("asgi", "client", "server", "http_version")},
        "type": "http",
        "scheme": "https" if scope["scheme"] == "wss" else "http",
        "method": endpoint.method,
        "path": endpoint.path,
        "raw_path": endpoint.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "state": {},
        "extensions": {},
    }


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _denying(send: Send) -> Send:
    """Returns what sends an answer of HTTP in place of the handshake's."""

    async def deny(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return deny


async def _deny(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
