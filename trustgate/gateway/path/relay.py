"""Giving an upstream's answer to the client, unchanged but for what the gateway owns, and metering it on the way.

Three ways: an answer that was read whole, a stream of server-sent events relayed frame by frame, and bytes without
frames (audio, files) relayed as they come. All close the account before the last byte leaves; and all collect, where
the request is to be paid for, once the answer, or the first piece of it, is in hand and before any of it leaves.
"""

from __future__ import annotations

import asyncio
import json

import msgspec

from trustgate.errors import UpstreamFailed
from trustgate.gateway.api.endpoints import Call
from trustgate.gateway.api.object_accounting import ObjectAccounting
from trustgate.gateway.path.accounting import Account
from trustgate.gateway.path.reply import Reply
from trustgate.http.sending import Headers
from trustgate.models.metering.answer import Failure
from trustgate.models.metering.chunks import FrameKind
from trustgate.models.metering.events import EventMeter
from trustgate.models.metering.lenient import dict_of, read_json
from trustgate.models.metering.sse import SseScanner, frame_data, frame_event
from trustgate.models.upstream.client import Answer, stream_error
from trustgate.models.upstream.targets import Target
from trustgate.payment.cashier import Sale
from trustgate.types import Finish, Usage

_STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def ending(reply: Reply, finish: Finish) -> Finish:
    """How the request ended, unless its client had left before."""
    return "client_gone" if reply.gone else finish


async def relay(answer: Answer, account: Account, reply: Reply, keeper: ObjectAccounting | None) -> None:
    """Give the answer to the client in the way that it came.

    Raises ``UpstreamFailed`` when the upstream breaks off, reports an error, or ends before its answer does; and what
    ``Sale.settle`` raises, before anything was sent.
    """
    if not answer.is_stream:
        await _relay_whole(answer, account, reply, keeper)
    elif answer.is_events:
        await _relay_events(answer, account, reply, keeper)
    else:
        await _relay_raw(answer, account, reply)


async def _relay_whole(answer: Answer, account: Account, reply: Reply, keeper: ObjectAccounting | None) -> None:
    """Meter the body, settle, close the account, send."""
    request, sale = account.request, account.sale
    body = answer.body
    reported = request.endpoint.meter(body)
    usage = with_units(reported.usage_or_estimate(account.prompt_tokens), request.call)
    if keeper is not None:
        body, usage = keeper.whole(body, usage, answer.target)
    account.upstream_model = reported.model
    content_type = answer.content_type.encode("latin-1", "replace")
    if sale is not None:
        try:
            reply.headers += await sale.settle()
        except asyncio.CancelledError:
            if sale.is_settled:
                # The client left while it paid for this answer: it is kept, and a retry with the same payment gets it.
                account.sent(body)
                account.close("client_gone", status=answer.status, usage=usage)
                reply.headers += sale.headers
                reply.record(answer.status, content_type, body)
            raise
    account.sent(body)
    account.close(ending(reply, "complete"), status=answer.status, usage=usage)
    await reply.whole(answer.status, content_type, body)


async def _relay_raw(answer: Answer, account: Account, reply: Reply) -> None:
    """Relay bytes that have no frames. Their length is not told beforehand: the end is seen by its own sign."""
    reply.is_raw = True
    account.usage_so_far = lambda: with_units(Usage(prompt_tokens=0), account.request.call)
    if account.sale is None:
        await _begin(answer, reply)
    async for chunk in answer.chunks():
        if chunk:
            if not reply.started:
                await _begin(answer, reply, account.sale)
            account.sent(chunk)
            await reply.write(chunk)
    if not reply.started:
        await _begin(answer, reply, account.sale)
    account.close(ending(reply, "complete"), status=answer.status, usage=account.usage_so_far())
    await reply.write(b"", last=True)


async def _relay_events(answer: Answer, account: Account, reply: Reply, keeper: ObjectAccounting | None) -> None:
    """Relay the frames as they arrive, without the usage chunk that only the gateway asked for."""
    stream = _EventRelay(answer, account, reply, keeper)
    scanner = SseScanner()
    async for chunk in answer.chunks():
        await stream.pass_on(scanner.feed(chunk))
        if stream.failed:
            break
    tail = scanner.tail()
    if tail and not stream.failed:
        await stream.pass_on([tail])
    if not stream.meter.done and not stream.meter.finished and not stream.failed:
        raise UpstreamFailed("The upstream's stream ended before its answer did.")
    stream.close()
    if not reply.started:
        await _begin(answer, reply)
    await reply.write(b"", last=True)


class _EventRelay:
    def __init__(self, answer: Answer, account: Account, reply: Reply, keeper: ObjectAccounting | None) -> None:
        endpoint, call = account.request.endpoint, account.request.call
        self._answer = answer
        self._account = account
        self._reply = reply
        self._keeper = keeper
        self._sale = account.sale
        self._drop_usage = endpoint.asks_usage and not call.include_usage
        self.meter = endpoint.dialect.meter()
        #: The upstream has told a failure of its own as the stream's last event.
        self.failed = False
        account.usage_so_far = lambda: self._charged(
            with_units(self.meter.usage_or_estimate(account.prompt_tokens), call)
        )

    async def pass_on(self, frames: list[bytes]) -> None:
        """Send the frames in one piece, without those that are the gateway's own."""
        kept = []
        failure: UpstreamFailed | None = None
        done = False
        for frame in frames:
            data = frame_data(frame)
            event = frame_event(frame)
            is_said = data is not None or event == "error"
            kind = self.meter.feed(data or b"", event) if is_said else FrameKind.NOTHING
            if kind is FrameKind.USAGE_ONLY and self._drop_usage:
                rest = self.meter.without_usage(data or b"")
                if rest is not None:
                    kept.append(b"data: " + rest + b"\n\n")
                continue
            if kind is FrameKind.ERROR:
                # Not passed on as it is: it may name the upstream's address or credential.
                failure = _stream_error(self.meter.failure, self._answer.target)
                break
            if kind is FrameKind.FAILED:
                assert data is not None, "a failure is told in a payload"
                kept.append(_failed_event(data, self.meter.failure, self._answer.target))
                self.failed = True
                break
            done = done or self.meter.done
            if self._keeper is not None and data is not None:
                self._keeper.learn(data, self._answer.target)
            kept.append(frame)
        if self.meter.model:
            self._account.upstream_model = self.meter.model
        if self._keeper is not None:
            self._note_id(self._keeper)
        if kept:
            body = kept[0] if len(kept) == 1 else b"".join(kept)
            if self._sale is not None and not self._reply.started and not self.failed:
                # The stream has begun to be an answer: now it is paid for, before any of it leaves.
                self._reply.headers += await self._sale.settle()
            self._account.sent(body)
            if done or self.failed:
                # This is the end for every SDK: the receipt must be there before it is seen.
                self.close()
            if not self._reply.started:
                await _begin(self._answer, self._reply)
            await self._reply.write(body)
        if failure is not None:
            raise failure

    def _note_id(self, keeper: ObjectAccounting) -> None:
        """An id is remembered before the client sees it."""
        if isinstance(self.meter, EventMeter):
            self._reply.sequence = self.meter.sequence
            keeper.seen(self.meter.object_id, self._answer.target)

    def _charged(self, usage: Usage) -> Usage:
        """What of the usage is to be charged now."""
        if self._keeper is None or not isinstance(self.meter, EventMeter):
            return usage
        return self._keeper.settle(self.meter.object_id, self.meter.status, usage, self._answer.target)

    def close(self) -> None:
        if not self._account.closed:
            finish: Finish = "upstream_cut" if self.failed else "complete"
            self._account.close(
                ending(self._reply, finish), status=self._answer.status, usage=self._account.usage_so_far()
            )


async def _begin(answer: Answer, reply: Reply, unpaid: Sale | None = None) -> None:
    """Send the head; before it, collect what is ``unpaid``."""
    if unpaid is not None:
        reply.headers += await unpaid.settle()
    content_type = answer.content_type.encode("latin-1", "replace")
    if answer.is_events and b"charset" not in content_type.lower():
        # Events are UTF-8 by definition; clients that do not know that take text without a charset for Latin-1.
        content_type += b"; charset=utf-8"
    says_cache = any(name == b"cache-control" for name, _ in reply.headers)
    headers = _STREAM_HEADERS[1:] if says_cache else _STREAM_HEADERS
    await reply.begin(answer.status, [(b"content-type", content_type), *headers])


def _stream_error(failure: Failure | None, target: Target) -> UpstreamFailed:
    return stream_error(b"" if failure is None else msgspec.json.encode(failure), target)


def _failed_event(data: bytes, failure: Failure | None, target: Target) -> bytes:
    """The frame of a ``response.failed`` event without what its error tells of the upstream."""
    event = dict_of(read_json(data))
    response = event.get("response")
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        said = _stream_error(failure, target)
        response["error"] = {**response["error"], "message": said.message, "code": said.code}
    return b"event: response.failed\ndata: " + json.dumps(event).encode() + b"\n\n"


def with_units(usage: Usage, call: Call) -> Usage:
    """The usage with what the request itself tells: characters to speak; images to make, if the answer did not say."""
    if not call.characters and not call.images:
        return usage
    return msgspec.structs.replace(usage, characters=call.characters, images=usage.images or call.images)
