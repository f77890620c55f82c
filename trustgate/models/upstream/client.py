"""The upstream client: sends one request to the first target that answers it.

Owns retries and fallbacks, and what an answer is: everything that is no content is a failure, judged in ``failures``,
before anything is charged or sent. Over the network requests go through ``transport``, beneath httpx's client, whose
redirects, cookies, decoding and pool cost more than the whole path; what is served in the process, or by a test, is a
transport in httpx's sense.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from trustgate.errors import TrustGateError, UpstreamFailed
from trustgate.models.metering.answer import Failure, failure_of
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.events import read_object
from trustgate.models.metering.lenient import read_json
from trustgate.models.metering.whole import Reported
from trustgate.models.upstream.answer import FAILED, Answer, Apart, EventStream, translated
from trustgate.models.upstream.bodies import (
    bare_document,
    continued,
    event_frames,
    first_byte,
    first_bytes,
    is_event_stream,
    is_json,
    looks_like_events,
    read_whole,
    single,
)
from trustgate.models.upstream.encoding import decoded
from trustgate.models.upstream.failures import FailedAttempt, broken, not_answered, refused, told, translate
from trustgate.models.upstream.from_events import as_document
from trustgate.models.upstream.response import AiohttpResponse, Response
from trustgate.models.upstream.targets import Target, all_full, all_open
from trustgate.models.upstream.to_events import Form, as_events
from trustgate.models.upstream.transport import Network, UnderWay

if TYPE_CHECKING:
    import httpx

    AnyResponse = httpx.Response | Response | AiohttpResponse

#: So much of an answer without frames is looked at for a failure told in JSON.
_JSON_FAILURE_BYTES = 64 * 1024
_PROBE_S = 10.0
#: What a member that is not known is refused with.
_OF_A_MEMBER = frozenset({400, 422})


#: The body of a request: whole, whole in pieces, or still arriving.
Body = bytes | tuple[bytes, ...] | AsyncIterator[bytes]
_WHOLE = bytes, tuple


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way to the first target that answers it."""

    method: str = "POST"
    #: Below the target's base URL, with its query; ``at_root``: beside the ``/v1`` that this ends with.
    path: str
    at_root: bool = False
    headers: Sequence[tuple[str, str]]
    #: The value of ``x-request-id``, which needs no check of its characters; "": it is in ``headers``, or is not sent.
    request_id: str = ""
    #: Whether every target gets the same headers and a body that is whole, in one piece, beneath its base URL.
    is_ordinary: bool = False
    #: The headers, where not every target gets all of them.
    headers_for: Callable[[Target], Sequence[tuple[str, str]]] | None = None
    #: The body as a target wants it. One that is not whole yet can be sent once only.
    body_for: Callable[[Target], Body]
    #: Whose request it is, for the breakers, and what it calls the model.
    caller: str = ""
    model: str = ""
    #: The estimate of its prompt.
    prompt_tokens: int = 0
    #: Whether a try that failed may be made again.
    retries: bool = True
    #: Whether the answer is to be a stream of events.
    stream: bool = False
    #: Whether ``body_for`` asks for a stream's usage, by a member that the client did not send.
    asks_usage: bool = False
    #: The API whose documents and streams the answer is in; one is made of the other where the upstream mistook which.
    form: Form = ""
    #: Whether an answer may be anything, and not only a JSON object or a stream of events; and whether nothing at all.
    takes_any: bool = False
    may_be_empty: bool = False
    #: It asks about what was made before: an answer about a failure of that is not a failure of this.
    is_look: bool = False
    #: What an answer read whole, and a stream, say of themselves.
    meter: Callable[[bytes], Reported]
    stream_meter: Callable[[], StreamMeter]
    #: Makes something of a whole answer that can be read in a turn of the event loop; None where it can be as it is.
    take_apart: Callable[[bytes], Awaitable[Apart | None]] | None = None
    #: The largest answer that it is not asked for, bytes.
    plain_bytes: int = 0
    #: Whether the key is told in Anthropic's way too.
    anthropic: bool = False
    #: What is wrong with a body that still arrives, once something is: the client's fault, not the upstream's.
    fault: Callable[[], TrustGateError | None] | None = None
    #: The length of a body that still arrives, bytes, where it is known.
    length_for: Callable[[Target], int] | None = None
    #: Gets the meter of a stream that breaks off, or is left, before anything of it was passed on: what it has begun
    #: may go on upstream.
    on_left: Callable[[StreamMeter, Target], None] | None = None


class UpstreamClient:
    def __init__(
        self,
        *,
        retries: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_connections: int,
        hold_s: float = 10.0,
        max_event_bytes: int = 64 * 1024 * 1024,
        transports: Mapping[str, httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport]] | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            hold_s: how long a stream is held back until its first content.
            max_event_bytes: the largest event of a stream.
            transports: maps a base URL's prefix to the transport that serves it, or to what makes that when it is first
                wanted; the rest go over the network.
        """
        self._hold_s = hold_s
        self._max_event_bytes = max_event_bytes
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

    async def fetch(self, targets: Sequence[Target], outgoing: Outgoing, *, deadline: float | None) -> Answer:
        """Send to the targets in order until one answers with content.

        Args:
            targets: one at least. Those whose breaker is open are left out, unless there is no other.
            outgoing: the request.
            deadline: when no further try may begin, in the event loop's time.

        Raises ``UpstreamRefused`` (its own 4xx, and 501 and the like), ``UpstreamFailed`` (502), ``UpstreamTimeout``
        (504), ``Unavailable`` (503, the upstream has been out of reach for a while).
        """
        target = targets[0]
        under_way = self._ask_at_once(target, outgoing)
        if under_way is None:
            return await self._ask_in_order(targets, outgoing, deadline)
        # The usual request waits in this one frame. Whatever else its response is, the others judge it.
        try:
            response = await under_way.begun
            answer = None if response is None else _plain_answer(target, outgoing, response)
            if answer is not None:
                target.breaker.succeeded()
                return answer
        except Exception:  # noqa: BLE001, S110 - it is raised again where the response is looked at
            pass
        except BaseException:
            self._network.give_up(under_way)
            target.load.end()
            raise
        return await self._ask_in_order(targets, outgoing, deadline, under_way)

    def _ask_at_once(self, target: Target, outgoing: Outgoing) -> UnderWay | None:
        """Send an ordinary request over a connection that is kept.

        Returns None, and has done nothing, where there is anything to be decided or waited for first.
        """
        base_url = target.upstream.base_url
        if (
            not outgoing.is_ordinary
            or target.only_too_long
            or not target.load.has_room(target.passport.pool)
            or target.breaker.is_tripped()
        ):
            return None
        body_for = outgoing.body_for
        body = body_for(target)
        if not isinstance(body, bytes):
            return None
        headers = outgoing.headers
        if target.upstream.credential:
            headers = (*headers, *_credentials(target, anthropic=outgoing.anthropic))
        under_way = self._network.send_at_once(
            outgoing.method, base_url, outgoing.path, headers, body, outgoing.request_id
        )
        if under_way is not None:
            target.load.begin()
            target.load.sent(target.passport.pool, outgoing.prompt_tokens)
        return under_way

    async def _ask_in_order(
        self, targets: Sequence[Target], outgoing: Outgoing, deadline: float | None, under_way: UnderWay | None = None
    ) -> Answer:
        """See ``fetch``. ``under_way``: what was sent to the first target."""
        verdict: FailedAttempt | None = None
        #: The largest context that was too small for the prompt, and whether one was. (A conversation with a larger
        #: model goes on there.)
        too_small = 0
        is_too_long = targets[0].only_too_long and all(target.only_too_long for target in targets)
        waiting = list(targets)
        while waiting:
            target = waiting.pop(0)
            if (target.passport.context_length or math.inf) <= too_small or (target.only_too_long and not is_too_long):
                continue
            if under_way is None and not (target.has_room and target.breaker.admit(outgoing.caller)):
                continue
            sent, under_way = under_way, None
            outcome = await self._ask_target(target, outgoing, deadline, retries=self._retries, under_way=sent)
            if isinstance(outcome, Answer):
                return outcome
            verdict = outcome
            if not verdict.elsewhere:
                break
            if verdict.is_too_long:
                is_too_long, too_small = True, max(too_small, target.passport.context_length or 0)
                waiting.sort(key=lambda each: not each.only_too_long)
        if verdict is not None:
            raise verdict.error
        # All rest. To ask the first costs a request that would be refused otherwise; it is asked once.
        target = next((target for target in targets if target.has_room and not target.only_too_long), targets[0])
        if not target.has_room:
            wait_s = min(target.load.wait_s(target.passport.pool) for target in targets)
            raise all_full(outgoing.model or target.passport.slug, wait_s)
        outcome = await self._ask_target(target, outgoing, deadline, retries=0)
        if isinstance(outcome, Answer):
            return outcome
        if outcome.is_sent:
            raise outcome.error
        raise all_open(outgoing.model or target.passport.slug, target.breaker.retry_after_s)

    async def _ask_target(
        self,
        target: Target,
        outgoing: Outgoing,
        deadline: float | None,
        *,
        retries: int,
        under_way: UnderWay | None = None,
    ) -> Answer | FailedAttempt:
        """Ask one target until it answers, or asking again is of no use. Its breaker learns of the request once.

        Its load has the request in flight until the answer is closed. ``under_way``: the first try, where it was sent.
        """
        breaker, caller = target.breaker, outgoing.caller
        if under_way is None:
            target.load.begin()
        try:
            for attempt in count():
                outcome = await self._attempt(target, outgoing, under_way)
                under_way = None
                if isinstance(outcome, Answer):
                    break
                if outcome.status in _OF_A_MEMBER and outgoing.asks_usage and not outcome.is_too_long:
                    outcome = await self._without_asking_usage(target, outgoing, outcome)
                    if isinstance(outcome, Answer):
                        break
                pause_s = outcome.pause_s(attempt)
                if not outcome.again or attempt >= retries or not _in_time(pause_s, deadline):
                    break
                if not target.load.has_room(target.passport.pool, is_again=True):
                    break
                await self._wait(pause_s)
        except BaseException:
            target.load.end()
            breaker.abandoned(caller)
            raise
        if isinstance(outcome, Answer):
            if outgoing.asks_usage and target.quirks.takes_stream_options is None:
                target.quirks.takes_stream_options = True
            breaker.succeeded()
            return outcome
        target.load.end()
        if outcome.blame == "caller":
            breaker.abandoned(caller)
        elif outcome.blame == "nobody":
            breaker.succeeded()
        else:
            is_witnessed = outcome.blame == "network" or target.upstream.healthy is False
            breaker.failed(caller, is_witnessed=is_witnessed)
        return outcome

    async def _without_asking_usage(
        self, target: Target, outgoing: Outgoing, refusal: FailedAttempt
    ) -> Answer | FailedAttempt:
        """Send a refused stream once more, without the ``stream_options`` that its client never sent.

        Some servers refuse a member that they do not know. That one does is remembered where it reports so, or where
        the stream is answered without the member.
        """
        quirks = target.quirks
        is_named = refusal.speaks_of_usage
        if not target.takes_stream_options or not (is_named or quirks.takes_stream_options is None):
            return refusal
        known, quirks.takes_stream_options = quirks.takes_stream_options, False
        outcome: Answer | FailedAttempt = refusal
        try:
            outcome = await self._attempt(target, outgoing)
        finally:
            if not is_named and not isinstance(outcome, Answer):
                quirks.takes_stream_options = known
        return outcome

    async def _attempt(
        self, target: Target, outgoing: Outgoing, under_way: UnderWay | None = None
    ) -> Answer | FailedAttempt:
        """One try. What its body could not be sent twice for is not tried again, here or elsewhere.

        ``under_way``: it was sent already.
        """
        sent: _Sent | None = None
        if under_way is None:
            body = outgoing.body_for(target)
            target.load.sent(target.passport.pool, outgoing.prompt_tokens)
            if not isinstance(body, _WHOLE):
                sent = _Sent(body)
                body = aiter(sent)
        try:
            if under_way is None:
                response = await self._ask(target, outgoing, body)
            else:
                response = await self._network.answer(under_way)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets an error of ours
            verdict = not_answered(error)
        else:
            plain = _plain_answer(target, outgoing, response)
            if plain is not None:
                return plain
            try:
                outcome = await self._read(target, outgoing, response)
            except Exception as error:  # noqa: BLE001 - as above
                verdict = broken(error)
            else:
                if isinstance(outcome, Answer):
                    return outcome
                verdict = outcome
        fault = None if outgoing.fault is None else outgoing.fault()
        if fault is not None:
            return FailedAttempt(error=fault, elsewhere=False, blame="caller")
        is_spent = sent is not None and sent.has_begun
        if is_spent or (verdict.is_sent and not outgoing.retries):
            return msgspec.structs.replace(verdict, again=False, elsewhere=False)
        return verdict

    def _ask(self, target: Target, outgoing: Outgoing, body: Body) -> Awaitable[AnyResponse]:
        """One request on its way, and the head of its answer."""
        base_url = target.upstream.base_url
        if outgoing.at_root:
            base_url = base_url.removesuffix("/v1")
        sent = outgoing.headers if outgoing.headers_for is None else outgoing.headers_for(target)
        headers = (*sent, *_credentials(target, anthropic=outgoing.anthropic))
        transport = self._transport(base_url)
        if transport is None:
            if isinstance(body, _WHOLE):
                return self._network.send(outgoing.method, base_url, outgoing.path, headers, body, outgoing.request_id)
            transport = self._network.transport(base_url)
        import httpx

        if outgoing.request_id:
            headers = (*headers, ("x-request-id", outgoing.request_id))
        if outgoing.length_for is not None:
            headers = (*headers, ("content-length", str(outgoing.length_for(target))))
        request = httpx.Request(
            outgoing.method,
            base_url + outgoing.path,
            headers=headers,
            content=b"".join(body) if isinstance(body, tuple) else body,
            extensions={"timeout": self._timeout},
        )
        return transport.handle_async_request(request)

    async def _read(self, target: Target, outgoing: Outgoing, response: AnyResponse) -> Answer | FailedAttempt:
        """Returns what a response is: an answer with content, or a failure by its status or by its content."""
        is_kept = False
        try:
            headers = response.headers
            chunks: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]
            coding = headers.get("content-encoding")
            if coding is not None:
                chunks = decoded(chunks, coding)
            if response.status_code >= 300:
                whole = await read_whole(chunks)
                return refused(response.status_code, headers, whole, target, outgoing.model)
            outcome = await self._classify(target, outgoing, response, chunks)
            is_kept = isinstance(outcome, Answer)
            return outcome
        finally:
            if not is_kept:
                with suppress(Exception):
                    await response.stream.aclose()  # type: ignore[union-attr]

    async def _classify(
        self, target: Target, outgoing: Outgoing, response: AnyResponse, chunks: AsyncIterator[bytes]
    ) -> Answer | FailedAttempt:
        """Returns what a response with a success's status is.

        Where its form is known, its bytes tell it; else its header.
        """
        content_type = response.headers.get("content-type", "")
        says_events = is_event_stream(content_type)
        # What an upstream keeps may be a document about failures, and is none of them.
        is_kept = outgoing.is_look and outgoing.method == "GET"
        if outgoing.takes_any and not says_events and (is_kept or not is_json(content_type)):
            return await self._bytes(target, outgoing, response, chunks)
        if outgoing.stream or (says_events and not outgoing.form):
            first = await first_bytes(chunks)
            if looks_like_events(first) or (says_events and first.lstrip()[:1] != b"{"):
                return await self._hold(target, outgoing, response, chunks, first)
            chunks = continued(first, chunks)
        # As it nearly always is: all of it came with its head.
        if isinstance(chunks, Response) and chunks.is_whole:
            whole = chunks.take()
        else:
            whole = await read_whole(chunks)
        content_type = "application/json" if says_events or not content_type else content_type
        is_object = whole[:1] == b"{" and whole[-1:] == b"}"
        if is_object:
            pass  # as it nearly always is: there is nothing to look for before it or behind it
        elif outgoing.form and (says_events or looks_like_events(whole)) and first_byte(whole) != b"{":
            put_together = await self._put_together(target, outgoing, whole)
            if isinstance(put_together, FailedAttempt):
                return put_together
            whole, content_type = put_together, "application/json"
        whole = whole if is_object else bare_document(whole)
        if not is_object and first_byte(whole) not in (b"{", b"[") and not outgoing.takes_any:
            raise UpstreamFailed("The upstream answered with something that is not a JSON object.", retryable=False)
        take_apart = outgoing.take_apart if len(whole) > outgoing.plain_bytes else None
        apart = None if take_apart is None else await take_apart(whole)
        read = whole if apart is None else apart.skeleton
        reported = outgoing.meter(read)
        if reported.failure is not None and not (outgoing.is_look and read_object(read)[0]):
            if read.strip() and read_json(read) is None and not outgoing.takes_any:
                # An answer may stand in it, which was made and paid for: not asked again, and not quoted as an error.
                raise UpstreamFailed("The upstream answered with something that is not valid JSON.", retryable=False)
            return told(reported.failure, target, outgoing.model)
        if outgoing.stream and (events := as_events(outgoing.form, whole)) is not None:
            return await self._hold(target, outgoing, response, single(events))
        return Answer(target, response, response.status_code, content_type, whole, apart, reported)

    async def _put_together(self, target: Target, outgoing: Outgoing, body: bytes) -> bytes | FailedAttempt:
        """Returns the document that an unwanted stream adds up to. Raises ``UpstreamFailed`` where it does not end."""
        meter = outgoing.stream_meter()
        payloads = []
        async with aclosing(event_frames(body, self._max_event_bytes)) as events:
            async for data, event in events:
                if meter.feed(data, event) in FAILED:
                    return told(meter.failure or Failure(), target, outgoing.model)
                payloads.append(data)
        document = as_document(outgoing.form, payloads)
        if document is None or not (meter.done or meter.finished):
            raise UpstreamFailed("The upstream's stream ended before its answer did.", retryable=False)
        return document

    async def _hold(
        self,
        target: Target,
        outgoing: Outgoing,
        response: AnyResponse,
        chunks: AsyncIterator[bytes],
        first: bytes = b"",
    ) -> Answer | FailedAttempt:
        """Returns a stream of events, as soon as it is known what it is."""
        events = EventStream(chunks, outgoing.stream_meter(), self._max_event_bytes, first)
        failure: Failure | None = None
        is_held = False
        try:
            failure = await events.hold(self._hold_s)
            is_held = failure is None
        finally:
            if not is_held:
                if outgoing.on_left is not None:
                    outgoing.on_left(events.meter, target)
                await events.close()
        if failure is not None:
            return told(failure, target, outgoing.model)
        content_type = response.headers.get("content-type", "")
        if not is_event_stream(content_type):
            content_type = "text/event-stream"
        return Answer(target, response, response.status_code, content_type, events=events)

    async def _bytes(
        self, target: Target, outgoing: Outgoing, response: AnyResponse, chunks: AsyncIterator[bytes]
    ) -> Answer | FailedAttempt:
        """Returns an answer without frames: audio, a transcript in text, a file."""
        first = await anext(chunks, b"")
        if not first and not outgoing.may_be_empty:
            raise UpstreamFailed("The upstream's answer is empty.", retryable=False)
        if first.lstrip()[:1] == b"<" and "html" in response.headers.get("content-type", "") and not outgoing.is_look:
            raise UpstreamFailed("The upstream answered with a web page.", retryable=False)
        if first.lstrip()[:1] == b"{" and not outgoing.is_look:
            # Perhaps a failure in JSON that is called something else.
            while len(first) <= _JSON_FAILURE_BYTES and (more := await anext(chunks, None)) is not None:
                first += more
            failure = failure_of(first) if len(first) <= _JSON_FAILURE_BYTES else None
            if failure is not None:
                return told(failure, target, outgoing.model)
        content_type = response.headers.get("content-type", _JSON)
        passed_on = translated(continued(first, chunks))
        return Answer(target, response, response.status_code, content_type, chunks=passed_on)

    async def probe(self, base_url: str, credential: str | None) -> tuple[int, bytes]:
        """GET the upstream's model list: (status, body). Raises ``UpstreamFailed`` when there is no answer."""
        headers = [("accept", "application/json"), ("accept-encoding", "identity")]
        if credential:
            headers.append(("authorization", f"Bearer {credential}"))
        try:
            async with asyncio.timeout(_PROBE_S):
                response = await self._ask_get(base_url, headers)
                try:
                    encoding = response.headers.get("content-encoding")
                    chunks = decoded(response.stream.__aiter__(), encoding)  # type: ignore[union-attr]
                    return response.status_code, await read_whole(chunks)
                finally:
                    await response.stream.aclose()  # type: ignore[union-attr]
        except Exception as error:
            raise translate(error) from error

    async def _ask_get(self, base_url: str, headers: list[tuple[str, str]]) -> AnyResponse:
        transport = self._transport(base_url)
        if transport is None:
            return await self._network.send("GET", base_url, "/models", headers, b"")
        import httpx

        request = httpx.Request("GET", base_url + "/models", headers=headers, extensions={"timeout": self._timeout})
        return await transport.handle_async_request(request)

    def _transport(self, base_url: str) -> httpx.AsyncBaseTransport | None:
        """Returns what serves the base URL instead of the network."""
        for prefix, transport in self._transports.items():
            if base_url.startswith(prefix):
                if not callable(transport):
                    return transport
                made = self._transports[prefix] = transport()
                return made
        return None

    async def close(self) -> None:
        await self._network.close()


class _Sent:
    """A body that still arrives, and whether any of it was taken."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self.has_begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.has_begun = True
        async for chunk in self._body:
            yield chunk


def _plain_answer(target: Target, outgoing: Outgoing, response: AnyResponse) -> Answer | None:
    """Returns the answer of a usual response: status 200 and one JSON object that came whole with its head.

    None for every other one, which ``UpstreamClient._read`` reads; nothing of it is taken here.
    """
    if not isinstance(response, Response) or not response.is_whole or len(response.parts) != 1:
        return None
    if response.status_code != 200 or outgoing.stream or outgoing.takes_any:
        return None
    fields, body = response.fields, response.parts[0]
    content_type = _PLAIN_TYPES.get(fields.get(b"content-type"))
    if content_type is None or b"content-encoding" in fields:
        return None
    if body[:1] != b"{" or body[-1:] != b"}" or len(body) > outgoing.plain_bytes:
        return None
    meter = outgoing.meter
    reported = meter(body)
    if reported.failure is not None:
        return None
    response.parts.clear()
    return Answer(target, response, 200, content_type, body, None, reported)


_JSON = "application/json"
#: The usual values of ``content-type`` for JSON.
_PLAIN_TYPES: Mapping[bytes | None, str] = {
    text.encode(): text
    for text in ("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8")
}


def _in_time(pause_s: float, deadline: float | None) -> bool:
    return deadline is None or asyncio.get_running_loop().time() + pause_s < deadline


def _credentials(target: Target, *, anthropic: bool) -> list[tuple[str, str]]:
    """Returns the upstream's key, in the headers that it may look for.

    Anthropic itself takes but the one of its own.
    """
    credential = target.upstream.credential
    if not credential:
        return []
    bearer = ("authorization", f"Bearer {credential}")
    if not anthropic:
        return [bearer]
    own = ("x-api-key", credential)
    return [own] if ".anthropic.com" in target.upstream.base_url else [own, bearer]
