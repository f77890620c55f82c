"""The upstream client: sends one request to the first target that answers it.

Owns retries, fallbacks and the translation of everything an upstream can do wrong into the error tree. Retries
happen before the first byte of an answer and never after. Over the network requests go through ``transport``, beneath
httpx's client, whose redirects, cookies, decoding and pool cost more than the whole path; what is served in the
process, or by a test, is a transport in httpx's sense.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from trustgate.errors import TrustGateError, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from trustgate.models.upstream.targets import Target, all_open
from trustgate.models.upstream.transport import Network, Response

if TYPE_CHECKING:
    import httpx

_BACKOFF_FIRST_S = 0.2
_BACKOFF_LAST_S = 4.0
#: A Retry-After beyond this is passed to the client instead of waited for here.
_RETRY_AFTER_MOST_S = 5.0
#: The largest answer that is read whole (a stream has no such bound).
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_PROBE_S = 10.0
_MESSAGE_MOST = 2_000


#: The body of a request: whole, whole in pieces, or still arriving.
Body = bytes | tuple[bytes, ...] | AsyncIterator[bytes]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way to the first target that answers it."""

    method: str = "POST"
    #: Below the target's base URL, with its query.
    path: str
    headers: Sequence[tuple[str, str]]
    #: The body as a target wants it. One that is not whole yet can be sent once only.
    body_for: Callable[[Target], Body]
    #: Whether a try that failed may be made again.
    retries: bool = True
    #: Whether an answer may be anything, and not only a JSON object or a stream of events.
    takes_any: bool = False
    #: Whether the key is told in Anthropic's way too.
    anthropic: bool = False
    #: What is wrong with a body that still arrives, once something is: the client's fault, not the upstream's.
    fault: Callable[[], TrustGateError | None] | None = None
    #: The length of a body that still arrives, bytes, where it is known.
    length_for: Callable[[Target], int] | None = None


class Answer:
    """What an upstream answered with a status below 400: read whole, or a stream whose first bytes are in hand."""

    __slots__ = ("_chunks", "_response", "body", "content_type", "first", "headers", "is_events", "status", "target")

    def __init__(
        self,
        target: Target,
        response: httpx.Response | Response,
        *,
        body: bytes = b"",
        first: bytes = b"",
        chunks: AsyncIterator[bytes] | None = None,
        is_events: bool = True,
    ) -> None:
        self.target = target
        self.status = response.status_code
        self.headers = response.headers
        self.content_type = response.headers.get("content-type", "application/json")
        self.body = body
        self.first = first
        #: Of a stream: server-sent events, or bytes without frames.
        self.is_events = is_events
        self._chunks = chunks
        self._response = response

    @property
    def is_stream(self) -> bool:
        return self._chunks is not None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream, first bytes included. Raises ``UpstreamFailed`` when it breaks off or falls silent."""
        assert self._chunks is not None, "only a stream has chunks"
        yield self.first
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            raise translate(error) from error

    async def close(self) -> None:
        """Let go of the upstream's connection; a stream that is not at its end is aborted."""
        with suppress(Exception):
            await self._response.stream.aclose()  # type: ignore[union-attr]


class UpstreamClient:
    def __init__(
        self,
        *,
        retries: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_connections: int,
        transports: Mapping[str, httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport]] | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``transports`` maps a base URL's prefix to the transport that serves it, or to what makes that when it is
        first wanted; the rest go over the network."""
        self._retries = retries
        self._timeout = {
            "connect": connect_timeout_s,
            "read": read_timeout_s,
            "write": read_timeout_s,
            "pool": connect_timeout_s,
        }
        self._transports = dict(transports or {})
        self._network = Network(
            connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s, max_connections=max_connections
        )
        self._wait = wait

    async def fetch(
        self,
        targets: Sequence[Target],
        outgoing: Outgoing,
        *,
        deadline: float | None,
    ) -> Answer:
        """Send to the targets in order until one answers. ``deadline`` is in the event loop's time.

        Raises ``UpstreamRefused`` (its own 4xx), ``UpstreamFailed`` (502), ``UpstreamTimeout`` (504) or
        ``Unavailable`` (503, every target resting).
        """
        failure: _Failure | None = None
        rest_s = 60.0
        for target in targets:
            if not target.breaker.admit():
                rest_s = min(rest_s, target.breaker.retry_after_s)
                continue
            body = outgoing.body_for(target)
            once = not outgoing.retries or not isinstance(body, bytes | tuple)
            retries = 0 if once else self._retries
            for attempt in range(retries + 1):
                outcome = await self._attempt(target, outgoing, body)
                if isinstance(outcome, Answer):
                    return outcome
                failure = outcome
                pause_s = outcome.pause_s(attempt)
                if not outcome.again or attempt == retries or not _in_time(pause_s, deadline):
                    break
                if target.breaker.is_open:
                    break
                await self._wait(pause_s)
            if failure is not None and (once or not failure.elsewhere):
                break
        raise failure.error if failure is not None else all_open(targets[0].passport.slug, rest_s)

    async def _attempt(self, target: Target, outgoing: Outgoing, body: Body) -> Answer | _Failure:
        try:
            answer = await self._send(target, outgoing, body)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets an error of ours
            fault = None if outgoing.fault is None else outgoing.fault()
            if fault is not None:
                target.breaker.abandoned()
                return _Failure(fault, again=False, elsewhere=False)
            target.breaker.failed()
            return _Failure(translate(error), again=True, elsewhere=True)
        except BaseException:
            target.breaker.abandoned()
            raise
        if isinstance(answer, Answer):
            target.breaker.succeeded()
            return answer
        # A refusal is a sign of life; a server error is not.
        if answer.healthy:
            target.breaker.succeeded()
        else:
            target.breaker.failed()
        return answer

    async def _send(self, target: Target, outgoing: Outgoing, body: Body) -> Answer | _Failure:
        response = await self._ask(target, outgoing, body)
        answered = False
        try:
            content_type = response.headers.get("content-type", "")
            is_events = _is_event_stream(content_type)
            if response.status_code < 300 and (is_events or (outgoing.takes_any and not _is_json(content_type))):
                chunks = response.stream.__aiter__()  # type: ignore[union-attr]
                if not is_events:
                    first = await anext(chunks, b"")
                    answered = True
                    return Answer(target, response, first=first, chunks=chunks, is_events=False)
                first = await anext(chunks, b"")
                while not first.strip():
                    # Blank lines are no answer yet; the end before any byte is none at all.
                    more = await anext(chunks, None)
                    if more is None:
                        raise UpstreamFailed("The upstream ended its stream before it began.")
                    first += more
                answered = True
                return Answer(target, response, first=first, chunks=chunks)
            whole = await _read_whole(response)
            if response.status_code < 300:
                if whole.lstrip()[:1] != b"{" and not outgoing.takes_any:
                    raise UpstreamFailed("The upstream answered with something that is not a JSON object.")
                return Answer(target, response, body=whole)
            return _failure(response, whole, target)
        finally:
            if not answered:
                with suppress(Exception):
                    await response.stream.aclose()  # type: ignore[union-attr]

    async def _ask(self, target: Target, outgoing: Outgoing, body: Body) -> httpx.Response | Response:
        """One request on its way, and the head of its answer."""
        base_url = target.upstream.base_url
        headers = [*outgoing.headers, *_credentials(target, anthropic=outgoing.anthropic)]
        transport = self._transport(base_url)
        if transport is None:
            if isinstance(body, bytes | tuple):
                return await self._network.send(outgoing.method, base_url, outgoing.path, headers, body)
            transport = self._network.transport(base_url)
        import httpx

        if outgoing.length_for is not None:
            headers.append(("content-length", str(outgoing.length_for(target))))
        request = httpx.Request(
            outgoing.method,
            base_url + outgoing.path,
            headers=headers,
            content=b"".join(body) if isinstance(body, tuple) else body,
            extensions={"timeout": self._timeout},
        )
        return await transport.handle_async_request(request)

    async def probe(self, base_url: str, credential: str | None) -> tuple[int, bytes]:
        """GET the upstream's model list: (status, body). Raises ``UpstreamFailed`` when there is no answer."""
        headers = [("accept", "application/json"), ("accept-encoding", "identity")]
        if credential:
            headers.append(("authorization", f"Bearer {credential}"))
        try:
            async with asyncio.timeout(_PROBE_S):
                response = await self._ask_get(base_url, headers)
                try:
                    return response.status_code, await _read_whole(response)
                finally:
                    await response.stream.aclose()  # type: ignore[union-attr]
        except Exception as error:
            raise translate(error) from error

    async def _ask_get(self, base_url: str, headers: list[tuple[str, str]]) -> httpx.Response | Response:
        transport = self._transport(base_url)
        if transport is None:
            return await self._network.send("GET", base_url, "/models", headers, b"")
        import httpx

        request = httpx.Request("GET", base_url + "/models", headers=headers, extensions={"timeout": self._timeout})
        return await transport.handle_async_request(request)

    def _transport(self, base_url: str) -> httpx.AsyncBaseTransport | None:
        """What serves the base URL instead of the network."""
        for prefix, transport in self._transports.items():
            if base_url.startswith(prefix):
                if not callable(transport):
                    return transport
                made = self._transports[prefix] = transport()
                return made
        return None

    async def close(self) -> None:
        await self._network.close()


class _Failure:
    """One attempt that gave no answer: what to tell the client, and whether to try again, here or elsewhere."""

    __slots__ = ("again", "elsewhere", "error", "healthy", "retry_after_s")

    def __init__(
        self,
        error: TrustGateError,
        *,
        again: bool,
        elsewhere: bool,
        healthy: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.error = error
        self.again = again
        self.elsewhere = elsewhere
        self.healthy = healthy
        self.retry_after_s = retry_after_s

    def pause_s(self, attempt: int) -> float:
        """How long to wait before the next attempt: what the upstream says, else a jittered exponential."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        backoff_s: float = min(_BACKOFF_FIRST_S * 2**attempt, _BACKOFF_LAST_S)
        return backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _in_time(pause_s: float, deadline: float | None) -> bool:
    return deadline is None or asyncio.get_running_loop().time() + pause_s < deadline


def _credentials(target: Target, *, anthropic: bool) -> list[tuple[str, str]]:
    """The upstream's key, in the headers that it may look for. Anthropic itself takes but the one of its own."""
    credential = target.upstream.credential
    if not credential:
        return []
    bearer = ("authorization", f"Bearer {credential}")
    if not anthropic:
        return [bearer]
    own = ("x-api-key", credential)
    return [own] if ".anthropic.com" in target.upstream.base_url else [own, bearer]


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _is_event_stream(content_type: str) -> bool:
    return content_type[:17].lower() == "text/event-stream"


async def _read_whole(response: httpx.Response | Response) -> bytes:
    parts = []
    size = 0
    async for chunk in response.stream:  # type: ignore[union-attr]
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise UpstreamFailed("The upstream's answer is too large.")
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def translate(error: BaseException) -> TrustGateError:
    """What a client may know of a failure on the way to or from an upstream: no address, no detail of ours."""
    if isinstance(error, TrustGateError):
        return error
    # httpx-aiohttp reports every lost or refused connection as a connect timeout; the cause tells them apart.
    is_wrapped = error.__cause__ is not None and type(error).__module__.startswith("httpx")
    cause = error.__cause__ if is_wrapped else error
    kind = type(cause).__name__
    if isinstance(cause, TimeoutError) or kind in {"ReadTimeout", "ConnectTimeout", "PoolTimeout"}:
        return UpstreamTimeout("The upstream did not answer in time.")
    if kind == "ConnectError" or kind.startswith("ClientConnector"):
        return UpstreamFailed("The upstream could not be reached.")
    return UpstreamFailed("The upstream broke off the connection.")


def _failure(response: httpx.Response | Response, body: bytes, target: Target) -> _Failure:
    status = response.status_code
    if is_credential_refusal(status, body):
        # The gateway's credential was refused, not the caller's: it is the operator's to mend.
        error = UpstreamFailed(
            "The upstream refused the gateway's credentials.", code="upstream_authentication_error", retryable=False
        )
        return _Failure(error, again=False, elsewhere=True, healthy=True)
    if status >= 500 or status < 400:
        return _Failure(UpstreamFailed(f"The upstream failed (status {status})."), again=True, elsewhere=True)
    refused = _refused(status, response.headers.get("retry-after"), body, target)
    if status in (408, 429):
        retry_after_s = _seconds(response.headers.get("retry-after"))
        again = retry_after_s is None or retry_after_s <= _RETRY_AFTER_MOST_S
        return _Failure(refused, again=again, elsewhere=True, healthy=True, retry_after_s=retry_after_s)
    return _Failure(refused, again=False, elsewhere=status == 404, healthy=True)


def is_credential_refusal(status: int, body: bytes) -> bool:
    """Whether an answer means that the gateway's own key is missing or wrong.

    A LiteLLM proxy without a database says 400 ``no_db_connection`` for every key but its master key.
    """
    return status in (401, 403) or (status == 400 and b'"no_db_connection"' in body)


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:
        return None


class _ErrorBody(msgspec.Struct):
    error: Any = None
    message: Any = None
    detail: Any = None


class _Said(msgspec.Struct, frozen=True):
    """An upstream's error in OpenAI's words, cleaned of its address and credential."""

    message: str
    type: str | None
    code: str | None
    param: str | None


def _refused(status: int, retry_after: str | None, body: bytes, target: Target) -> UpstreamRefused:
    said = _said(body, f"The upstream refused the request (status {status}).", target)
    return UpstreamRefused(
        said.message,
        status=status,
        type=said.type or "invalid_request_error",
        code=said.code,
        param=said.param,
        headers={"retry-after": retry_after} if retry_after and _seconds(retry_after) is not None else {},
    )


def stream_error(error: bytes, target: Target) -> UpstreamFailed:
    """What an ``error`` member inside a stream (its JSON) says to the client."""
    said = _said(b'{"error":%b}' % error, "The upstream failed in the middle of its answer.", target)
    return UpstreamFailed(said.message, type=said.type, code=said.code, param=said.param)


def _said(body: bytes, otherwise: str, target: Target) -> _Said:
    try:
        decoded = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = _ErrorBody()
    inner: dict[str, Any] = decoded.error if isinstance(decoded.error, dict) else {}
    candidates = (inner.get("message"), decoded.error, decoded.message, decoded.detail, otherwise)
    message = next(text for text in candidates if isinstance(text, str))
    code, kind, param = inner.get("code"), inner.get("type"), inner.get("param")
    return _Said(
        _clean(message, target),
        _clean(kind, target) if isinstance(kind, str) else None,
        _clean(str(code), target) if isinstance(code, (str, int)) else None,
        _clean(param, target) if isinstance(param, str) else None,
    )


_URL = re.compile(r"https?://[^\s'\"<>)]+")
_KEY = re.compile(r"\b(?:sk|pk|key|tgk)[-_][A-Za-z0-9_\-*.]{8,}")


def _clean(message: str, target: Target) -> str:
    if target.upstream.credential:
        message = message.replace(target.upstream.credential, "…")
    host = target.upstream.base_url.partition("://")[2].partition("/")[0]
    message = _KEY.sub("…", _URL.sub("…", message))
    name = host.partition(":")[0]
    if "." in name or name != host or name == "localhost":
        message = message.replace(host, "…").replace(name, "…")
    return message[:_MESSAGE_MOST]
