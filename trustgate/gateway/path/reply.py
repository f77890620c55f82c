"""What goes to the client: the reply as it stands, OpenAI-shaped errors, JSON documents, rate-limit headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol

from starlette.types import Send

from trustgate.access.quota import Rate
from trustgate.errors import TrustGateError
from trustgate.gateway.api.dialects import Dialect
from trustgate.http.sending import EXCHANGE, Headers, send_body, send_error

_REFUSAL_TIMEOUT_S = 5.0


class DirectSender(Protocol):
    """What sends an answer without a message for each of its pieces: a request's exchange."""

    def send_whole(self, status: int, headers: Headers, body: bytes) -> Awaitable[None] | None: ...
    def send_at_once(self, body: bytes) -> bool: ...


class ResponseRecorder(Protocol):
    """Takes an answer down as it goes out, also where its client has gone."""

    def begin(self, status: int, headers: Headers) -> None: ...

    def write(self, body: bytes, *, last: bool) -> None: ...


class Reply:
    """One client's reply as it stands: its headers so far, whether it has begun, whether the client is still
    connected."""

    __slots__ = (
        *("_dialect", "_exchange", "_send", "gone", "headers", "is_raw", "recorder", "request_id", "sequence"),
        *("started", "waiting_since"),
    )

    def __init__(
        self, send: Send, request_id: bytes, dialect: Dialect, extensions: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """``extensions``: the request's."""
        self._send = send
        exchange = extensions.get(EXCHANGE)
        #: Sends a whole answer, or a piece of a stream where it need not wait, at once; None where others are to see
        #: first what is sent (CORS).
        self._exchange: DirectSender | None = exchange if exchange is not None and send == exchange.send else None
        self._dialect = dialect
        self.request_id = request_id
        self.headers: Headers = [(b"x-request-id", request_id)]
        id_header = dialect.id_header
        if id_header is not None:
            self.headers.append((id_header, request_id))
        self.started = False
        #: Since when a piece waits for the client to take it, in the loop's time.
        self.waiting_since: float | None = None
        #: The number of the stream's last event, where they are numbered.
        self.sequence = -1
        #: The answer has no frames (audio, a file): there is no way to say an error in the middle of it.
        self.is_raw = False
        #: The client hung up: nothing is sent any more.
        self.gone = False
        self.recorder: ResponseRecorder | None = None

    def record(self, status: int, content_type: bytes, body: bytes) -> None:
        """Take a whole answer down, whether or not it can be sent."""
        if self.recorder is not None:
            self.recorder.begin(status, [(b"content-type", content_type), *self.headers])
            self.recorder.write(body, last=True)

    def whole(self, status: int, content_type: bytes, body: bytes) -> Awaitable[None] | None:
        """Send a whole answer. Returns what is to be awaited; None: it has been sent."""
        if self.recorder is not None:
            self.record(status, content_type, body)
        if self.gone:
            return None
        self.started = True
        headers = [(b"content-type", content_type), *self.headers]
        exchange = self._exchange
        if exchange is None:
            return self._wait_for(send_body(self._send, status, headers, body))
        sending = exchange.send_whole(status, headers, body)
        return None if sending is None else self._wait_for(sending)

    async def _wait_for(self, sending: Awaitable[None]) -> None:
        self.waiting_since = monotonic()
        await sending
        self.waiting_since = None

    async def replay(self, status: int, headers: Headers, body: bytes) -> None:
        """Give an answer once more, as it went out the first time but for the request's id."""
        own = [header for header in headers if header[0] not in (b"x-request-id", self._dialect.id_header)]
        await send_body(self._send, status, [*own, *self.headers], body)

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of a stream."""
        if self.recorder is not None:
            self.recorder.begin(status, [*headers, *self.headers])
        if not self.gone:
            self.started = True
            await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.headers]})

    async def write(self, body: bytes, *, last: bool = False) -> None:
        if not last and self.write_at_once(body):
            return
        if self.recorder is not None:
            self.recorder.write(body, last=last)
        if not self.gone:
            self.waiting_since = monotonic()
            await self._send({"type": "http.response.body", "body": body, "more_body": not last})
            self.waiting_since = None

    @property
    def at_once(self) -> Callable[[bytes], bool] | None:
        """What does as ``write_at_once`` for the rest of the answer; None: there is nothing."""
        exchange = self._exchange
        return None if exchange is None or self.recorder is not None else exchange.send_at_once

    def write_at_once(self, body: bytes) -> bool:
        """Do as ``write`` if that need not wait for the client. Returns False, and has sent nothing, where it must."""
        exchange = self._exchange
        if exchange is None or not self.started or self.gone or self.recorder is not None:
            return False
        return exchange.send_at_once(body)

    def last_words(self, error: TrustGateError) -> bytes:
        """Returns the bytes with which ``refuse`` will end this reply: a JSON body, or an event of the stream."""
        request_id = self.request_id.decode()
        if not self.started:
            return self._dialect.body(error, request_id)
        return b"" if self.is_raw else self._dialect.event(error, request_id, self.sequence)

    async def refuse(self, error: TrustGateError) -> None:
        """End with an error: as a response of its own, or, in a stream that has begun, as its last event.

        An answer without frames is broken off: its client sees that the end is missing.
        """
        if self.gone or (self.started and self.is_raw):
            return
        # A client that reads nothing must not hold its request for ever.
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFUSAL_TIMEOUT_S):
                words = self.last_words(error)
                if self.started:
                    await self.write(words, last=True)
                else:
                    self.started = True
                    await send_error(self._send, error, self.headers, words)


def rate_headers(rates: tuple[Rate | None, Rate | None]) -> Headers:
    """``x-ratelimit-limit/-remaining/-reset`` for requests and tokens, of the tightest limit on each."""
    headers: Headers = []
    if rates == (None, None):
        return headers
    for unit, rate in zip((b"requests", b"tokens"), rates, strict=True):
        if rate is not None:
            headers += _rate_headers(unit, rate)
    return headers


def _rate_headers(unit: bytes, rate: Rate) -> Headers:
    return [
        (b"x-ratelimit-limit-" + unit, b"%d" % rate.limit),
        (b"x-ratelimit-remaining-" + unit, b"%d" % rate.remaining),
        (b"x-ratelimit-reset-" + unit, _duration(rate.reset_s)),
    ]


def _duration(seconds: float) -> bytes:
    """Returns a duration as OpenAI writes it: 250ms, 12s, 6m0s, 1h2m3s."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    minutes, whole_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, whole_s)
    return b"%dm%ds" % (minutes, whole_s) if minutes else b"%ds" % whole_s
