"""Giving an upstream's answer to the client, unchanged but for what the gateway owns, and metering it on the way.

Three ways: an answer that was read whole, a stream of server-sent events relayed frame by frame, and bytes without
frames (audio, files) relayed as they come. All close the account before the last byte leaves; and all collect, where
the request is to be paid for, once the answer, or the first piece of it, is in hand and before any of it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from trustgate.errors import UpstreamFailed
from trustgate.gateway.api import units
from trustgate.gateway.api.object_accounting import ObjectAccounting
from trustgate.gateway.api.uploads import Upload
from trustgate.gateway.path.accounting import Account
from trustgate.gateway.path.delivery import Delivery
from trustgate.gateway.path.reply import Reply
from trustgate.models.metering.chunks import FrameKind
from trustgate.models.metering.events import EventMeter, TranscriptTextMeter
from trustgate.models.metering.sse import frame_data, frame_parts
from trustgate.models.prices import NOT_PRICED, is_by_tokens
from trustgate.models.upstream.answer import Answer, EventStream, Frame
from trustgate.models.upstream.failures import failed_event, stream_error
from trustgate.types import Prices, Usage

#: A recording that is reported to be so many times as long as its size allows was not sent; one that is shorter than a
#: minute counts as one of a minute.
_TIMES_AS_LONG: Final = 4
_SHORT_MS: Final = 60_000


def relay(answer: Answer, delivery: Delivery, objects: ObjectAccounting | None) -> Awaitable[None] | None:
    """Give the answer to the client in the way that it came.

    Returns:
        What is to be awaited; None: it has been given.

    Raises:
        UpstreamFailed: the upstream breaks off, reports an error, or ends before its answer does.
        TrustGateError: what ``Delivery.pay`` raises, before anything was sent.
    """
    if answer.events is not None:
        return _relay_events(answer, answer.events, delivery, objects)
    if answer.chunks is not None:
        return _relay_raw(answer, answer.chunks, delivery)
    return _relay_whole(answer, delivery, objects)


def _relay_whole(answer: Answer, delivery: Delivery, objects: ObjectAccounting | None) -> Awaitable[None] | None:
    """Have it paid for, account for it, send it."""
    account, reported = delivery.account, answer.reported
    assert account is not None, "what is delivered was admitted"
    assert reported is not None, "an answer that was read whole was metered"
    body, apart = answer.body, answer.apart
    usage = with_units(account.usage_of(reported), account)
    if objects is not None:
        objects.at_us, objects.receipt_id = account.request.arrival.at_us, account.request.arrival.receipt_id
        if apart is not None:
            _, usage = objects.whole(apart.skeleton, usage, answer.target)
        else:
            body, usage = objects.whole(body, usage, answer.target)
        account.work, account.summed, account.is_begun = objects.ended, objects.summed, objects.is_begun
    account.upstream_model = reported.model
    if account.sale is None:
        return _send_whole(answer, delivery, account, body, usage)
    return _sell_whole(answer, delivery, account, body, usage)


async def _sell_whole(answer: Answer, delivery: Delivery, account: Account, body: bytes, usage: Usage) -> None:
    """Have it paid for before it is accounted for and sent."""
    reply, sale = delivery.reply, account.sale
    try:
        await delivery.pay()
    except asyncio.CancelledError:
        if sale is not None and sale.is_settled:
            # The client left while it paid for this answer: it is kept, and a retry with the same payment gets it.
            account.sent_whole(body, None if answer.apart is None else answer.apart.hash)
            delivery.close("client_gone", status=answer.status, usage=usage)
            reply.headers += sale.headers
            reply.record(answer.status, answer.content_type.encode("latin-1", "replace"), body)
        raise
    sending = _send_whole(answer, delivery, account, body, usage)
    if sending is not None:
        await sending


def _send_whole(
    answer: Answer, delivery: Delivery, account: Account, body: bytes, usage: Usage
) -> Awaitable[None] | None:
    """Account for it, and send it. Returns what is to be awaited; None: nothing."""
    account.sent_whole(body, None if answer.apart is None else answer.apart.hash)
    delivery.close("complete", status=answer.status, usage=usage)
    content_type = answer.content_type.encode("latin-1", "replace")
    if account.pending is not None:
        return _send_when_kept(account, delivery.reply, answer.status, content_type, body)
    return delivery.reply.whole(answer.status, content_type, body)


async def _send_when_kept(account: Account, reply: Reply, status: int, content_type: bytes, body: bytes) -> None:
    await account.kept()
    sending = reply.whole(status, content_type, body)
    if sending is not None:
        await sending


async def _relay_raw(answer: Answer, chunks: AsyncIterator[bytes], delivery: Delivery) -> None:
    """Relay bytes that have no frames. Their length is not told beforehand: the end is seen by its own sign."""
    account, reply = delivery.admitted, delivery.reply
    reply.is_raw = True
    text = TranscriptTextMeter() if account.request.endpoint.hears else None
    account.metered = lambda: with_units(Usage() if text is None else text.usage(), account)
    if account.sale is None:
        await delivery.begin(answer)
    async for chunk in chunks:
        if chunk:
            if not reply.started:
                await delivery.pay()
                await delivery.begin(answer)
            if text is not None:
                text.feed(chunk)
            account.sent(chunk)
            await reply.write(chunk)
    if not reply.started:
        await delivery.pay()
        await delivery.begin(answer)
    delivery.close("complete", status=answer.status)
    await account.kept()
    await reply.write(b"", last=True)


async def _relay_events(
    answer: Answer, events: EventStream, delivery: Delivery, objects: ObjectAccounting | None
) -> None:
    """Relay the frames as they arrive, without the usage chunk that only the gateway asked for.

    The answer ends with its last event, whether or not its server ends the response then.
    """
    stream = _EventRelay(answer, events, delivery, objects)
    batches = events.batches(stream.pass_at_once)
    async for frames in batches:
        await stream.pass_on(frames)
        if stream.failed or stream.meter.done:
            break
    await batches.aclose()
    if not stream.meter.done and not stream.meter.finished and not stream.failed:
        raise UpstreamFailed("The upstream's stream ended before its answer did.", retryable=False)
    await stream.close()
    if not delivery.reply.started:
        await delivery.begin(answer)
    await delivery.reply.write(b"", last=True)


#: What is passed on as it is.
_PLAIN_KINDS = frozenset({FrameKind.CONTENT, FrameKind.NOTHING, FrameKind.END})
#: To look a member up in its enumeration costs as much as all that is done with it.
_CONTENT = FrameKind.CONTENT


class _EventRelay:
    """A stream of events on its way to the client."""

    __slots__ = (
        *("_account", "_answer", "_checks_id", "_commit", "_delivery", "_drop_usage", "_is_over", "_model", "_objects"),
        *("_reply", "_send_at_once", "_upstream_model", "failed", "meter"),
    )

    def __init__(
        self, answer: Answer, events: EventStream, delivery: Delivery, objects: ObjectAccounting | None
    ) -> None:
        account = delivery.admitted
        endpoint, call = account.request.endpoint, account.request.call
        self._answer = answer
        self._delivery = delivery
        self._account = account
        self._reply = delivery.reply
        self._objects = objects
        self._model = call.model
        #: Whether it is yet to be seen that the id of work, which goes on when its client has left, can be kept.
        self._checks_id = objects is not None and "background" in call.features
        self._drop_usage = endpoint.asks_usage and not call.include_usage
        self.meter = events.meter
        #: The upstream has told a failure of its own as the stream's last event.
        self.failed = False
        #: ``[DONE]`` was passed on.
        self._is_over = False
        #: Where a piece that follows the first is sent without waiting, and what commits to it; the model's name as the
        #: account has it. To go through the reply and the account for each piece takes the processor's cache from
        #: others, where there are a thousand streams.
        self._send_at_once: Callable[[bytes], bool] | None = None
        self._commit: Callable[[bytes], object] | None = None
        self._upstream_model = ""
        account.metered = lambda: self._charged(with_units(account.usage_of(self.meter), account))

    def pass_at_once(self, frames: list[Frame]) -> bool:
        """Send frames as they come, without a turn of the task that relays them.

        Returns:
            Whether they were sent; False: nothing was, and ``pass_on`` is to send them.
        """
        send, commit, meter = self._send_at_once, self._commit, self.meter
        if send is None or commit is None or meter.done:
            return False  # the last event, or behind it: the receipt is kept before the last event is sent
        for kind, _ in frames:
            # The usual one first: hashing a member of an enumeration costs as much as all the rest.
            if kind is not _CONTENT and kind not in _PLAIN_KINDS:
                return False
        if self._objects is not None:
            for _, frame in frames:
                self._learn(self._objects, frame)
            self._note_id(self._objects)
        body = frames[0][1] if len(frames) == 1 else b"".join([frame for _, frame in frames])
        if not send(body):
            return False
        commit(body)
        if meter.model is not self._upstream_model:
            self._note_model()
        return True

    async def pass_on(self, frames: list[Frame]) -> None:
        """Send the frames in one piece, without what is the gateway's own."""
        kept, failure = self._kept(frames)
        meter = self.meter
        self._note_model()
        if self._objects is not None:
            self._note_id(self._objects)
        reply = self._reply
        if kept:
            body = kept[0] if len(kept) == 1 else b"".join(kept)
            if not reply.started and not self.failed:
                # The stream has begun to be an answer.
                await self._pay()
            self._commit = self._account.sent(body)
            if meter.done or self.failed:
                # This is the end for every SDK: the receipt must be there before it is seen.
                await self.close()
            if not reply.started:
                await self._delivery.begin(self._answer)
            await reply.write(body)
        if failure is not None:
            raise failure
        goes_on = reply.started and not (self._is_over or self.failed or self._checks_id)
        self._send_at_once = reply.at_once if goes_on else None

    def _note_model(self) -> None:
        model = self._upstream_model = self.meter.model
        if model:
            self._account.upstream_model = model

    async def _pay(self) -> None:
        """Have it paid for. Work in the background that is not is ended upstream: nothing tells its client of it."""
        is_paid = False
        try:
            await self._delivery.pay()
            is_paid = True
        finally:
            if not is_paid and self._objects is not None and self._objects.worst is not None:
                self._objects.leave(self.meter, self._answer.target)

    def _kept(self, frames: list[Frame]) -> tuple[list[bytes], UpstreamFailed | None]:
        """Returns what of the frames goes to the client, and the error that ends them."""
        kept: list[bytes] = []
        for kind, frame in frames:
            if self._is_over:
                # Nothing stands behind the end: some servers say it twice.
                break
            self._is_over = kind is FrameKind.DONE
            if kind is FrameKind.USAGE_ONLY and self._drop_usage:
                rest = self.meter.without_usage(frame_data(frame) or b"")
                if rest is not None:
                    kept.append(b"data: " + rest + b"\n\n")
            elif kind is FrameKind.ERROR:
                # Not passed on as it is: it may name the upstream's address or credential.
                return kept, stream_error(self.meter.failure, self._answer.target, self._model)
            elif kind is FrameKind.FAILED:
                kept.append(failed_event(frame, self.meter.failure, self._answer.target, self._model))
                self.failed = True
                break
            else:
                if self._objects is not None:
                    self._learn(self._objects, frame)
                kept.append(frame)
        return kept, None

    def _learn(self, objects: ObjectAccounting, frame: bytes) -> None:
        """Remember the ids in a frame; to do so twice changes nothing."""
        data, _ = frame_parts(frame)
        if data:
            objects.learn(data, self._answer.target)

    def _note_id(self, objects: ObjectAccounting) -> None:
        """An id is remembered before the client sees it."""
        if isinstance(self.meter, EventMeter):
            self._reply.sequence = self.meter.sequence
            if self._checks_id and self.meter.status:
                objects.check_made(self.meter.object_id, self.meter.status, self._answer.target)
                self._checks_id = False
            objects.seen(self.meter.object_id, self._answer.target)

    def _charged(self, usage: Usage) -> Usage:
        """Returns what of the usage is to be charged now."""
        if self._objects is None or not isinstance(self.meter, EventMeter):
            return usage
        objects = self._objects
        arrival = self._account.request.arrival
        objects.at_us, objects.receipt_id = arrival.at_us, arrival.receipt_id
        usage = objects.settle(self.meter.object_id, self.meter.status, usage, self._answer.target)
        account = self._account
        account.work, account.summed, account.is_begun = objects.ended, objects.summed, objects.is_begun
        return usage

    async def close(self) -> None:
        """Account for the answer, before its last byte leaves."""
        self._delivery.close("upstream_cut" if self.failed else "complete", status=self._answer.status)
        await self._account.kept()


def with_units(usage: Usage, account: Account) -> Usage:
    """Returns the usage with the request's own figures: the characters to speak, the length of a recording.

    Images are the answer's to tell, up to those that were asked for: none made is none charged, and what is beyond them
    marks the usage. What an answer does not report in the unit that its model is priced by is estimated in that unit.
    """
    call, endpoint = account.request.call, account.request.endpoint
    if call.images and usage.images > call.images:
        usage = msgspec.structs.replace(usage, images=call.images, contradictory=True)
    if endpoint.hears:
        return _heard(usage, account)
    if call.characters:
        usage = msgspec.structs.replace(usage, characters=call.characters)
    elif not usage.images:
        return usage
    return usage if usage.total_tokens else _made(usage, account)


def _made(usage: Usage, account: Account) -> Usage:
    """Returns the usage of speech or images whose server reports no tokens.

    A model without a price of the characters or images themselves is charged by the tokens, or the seconds, that they
    come to: what OpenAI's speech models answer has no usage, and their prices are of tokens.
    """
    call, prices = account.request.call, _prices_of(account)
    if prices.image_nano_usd if usage.images else prices.character_pico_usd:
        return usage
    if is_by_tokens(prices):
        if usage.images:
            tokens = units.made_image_tokens(usage.images, call.image_quality)
            part = {"image_completion_tokens": tokens}
        else:
            tokens = units.spoken_tokens(usage.characters)
            part = {"audio_completion_tokens": tokens}
        return msgspec.structs.replace(
            usage, prompt_tokens=call.prompt_tokens, completion_tokens=tokens, estimated=True, **part
        )
    if usage.characters and prices.audio_second_nano_usd:
        return msgspec.structs.replace(usage, audio_ms=units.spoken_ms(usage.characters), estimated=True)
    return usage


def _heard(usage: Usage, account: Account) -> Usage:
    """Returns the usage of a transcript in the unit that its model is priced by, seconds or tokens.

    What its server does not report in that unit follows from what it reports in the other, or from the recording's own
    length: the same whatever form the transcript is in. A model with a price a second is not charged by estimated
    tokens.
    """
    if usage.audio_ms > _TIMES_AS_LONG * max(account.request.call.audio_ms, _SHORT_MS):
        # No such recording was sent.
        is_estimate = usage.estimated or not usage.total_tokens
        usage = msgspec.structs.replace(usage, audio_ms=0, estimated=is_estimate, contradictory=True)
    prices = _prices_of(account)
    by_second, by_tokens = bool(prices.audio_second_nano_usd), is_by_tokens(prices)
    if not usage.estimated:
        if usage.total_tokens and not usage.audio_ms and by_second and not by_tokens:
            return msgspec.structs.replace(usage, audio_ms=_length_ms(usage, account), estimated=True)
        if usage.total_tokens or not usage.audio_ms or by_second or not by_tokens:
            return usage
        audio_ms = usage.audio_ms
    else:
        audio_ms = _length_ms(usage, account)
        if by_second:
            return Usage(audio_ms=audio_ms, estimated=True, contradictory=usage.contradictory)
    prompt, completion = units.transcription_tokens(audio_ms)
    return msgspec.structs.replace(
        usage,
        prompt_tokens=max(usage.prompt_tokens, prompt),
        completion_tokens=usage.completion_tokens or completion,
        audio_ms=audio_ms,
        estimated=True,
    )


def _length_ms(usage: Usage, account: Account) -> int:
    """Returns the length of the recording by its own headers, else as its server estimates it, else at most."""
    body = account.request.body
    length_ms, is_told = body.recording_ms() if isinstance(body, Upload) else (0, False)
    return length_ms if is_told else usage.audio_ms or length_ms or account.request.call.audio_ms


def _prices_of(account: Account) -> Prices:
    return NOT_PRICED if account.target is None else account.target.price.prices
