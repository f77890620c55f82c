"""Giving an upstream's answer to the client, unchanged but for what the gateway owns, and metering it on the way.

Two ways: an answer that was read whole, and a stream of server-sent events relayed frame by frame. Both close the
account before the last byte leaves.
"""

from __future__ import annotations

from trustgate.errors import UpstreamFailed
from trustgate.gateway.accounting import Account
from trustgate.gateway.responses import Headers, Reply
from trustgate.models.sse import SseScanner, frame_data
from trustgate.models.upstream import Answer, stream_error
from trustgate.models.usage import FrameKind, StreamMeter, read_json_usage
from trustgate.types import Finish

_STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def ending(reply: Reply, finish: Finish) -> Finish:
    """How the request ended, unless its client had left before."""
    return "client_gone" if reply.gone else finish


async def relay_whole(answer: Answer, account: Account, reply: Reply) -> None:
    """Meter the body, close the account, send."""
    reported = read_json_usage(answer.body)
    account.upstream_model = reported.model
    account.sent(answer.body)
    usage = reported.usage_or_estimate(account.prompt_tokens)
    account.close(ending(reply, "complete"), status=answer.status, usage=usage)
    await reply.whole(answer.status, answer.content_type.encode("latin-1", "replace"), answer.body)


async def relay_stream(answer: Answer, account: Account, reply: Reply, *, drop_usage: bool) -> None:
    """Relay the frames as they arrive; ``drop_usage`` keeps back the usage chunk that only the gateway asked for.

    Raises ``UpstreamFailed`` when the upstream breaks off, reports an error, or ends before its answer does.
    """
    relay = _StreamRelay(answer, account, reply, drop_usage)
    scanner = SseScanner()
    async for chunk in answer.chunks():
        await relay.pass_on(scanner.feed(chunk))
    tail = scanner.tail()
    if tail:
        await relay.pass_on([tail])
    if not relay.meter.done and not relay.meter.finished:
        raise UpstreamFailed("The upstream's stream ended before its answer did.")
    relay.close()
    if not reply.started:
        await relay.begin()
    await reply.write(b"", last=True)


class _StreamRelay:
    def __init__(self, answer: Answer, account: Account, reply: Reply, drop_usage: bool) -> None:
        self._answer = answer
        self._account = account
        self._reply = reply
        self._drop_usage = drop_usage
        self.meter = StreamMeter()
        account.usage_so_far = lambda: self.meter.usage_or_estimate(account.prompt_tokens)

    async def pass_on(self, frames: list[bytes]) -> None:
        """Send the frames in one piece, without those that are the gateway's own."""
        kept = []
        failure: UpstreamFailed | None = None
        done = False
        for frame in frames:
            data = frame_data(frame)
            kind = FrameKind.OTHER if data is None else self.meter.feed(data)
            if kind is FrameKind.USAGE_ONLY and self._drop_usage:
                continue
            if kind is FrameKind.ERROR:
                # Not passed on as it is: it may name the upstream's address or credential.
                failure = stream_error(self.meter.error or b"", self._answer.target)
                break
            done = done or kind is FrameKind.DONE
            kept.append(frame)
        if self.meter.model:
            self._account.upstream_model = self.meter.model
        if kept:
            body = kept[0] if len(kept) == 1 else b"".join(kept)
            self._account.sent(body)
            if done:
                # [DONE] is the end for every SDK: the receipt must be there before it is seen.
                self.close()
            if not self._reply.started:
                await self.begin()
            await self._reply.write(body)
        if failure is not None:
            raise failure

    async def begin(self) -> None:
        content_type = (b"content-type", self._answer.content_type.encode("latin-1", "replace"))
        await self._reply.begin(self._answer.status, [content_type, *_STREAM_HEADERS])

    def close(self) -> None:
        self._account.close(
            ending(self._reply, "complete"), status=self._answer.status, usage=self._account.usage_so_far()
        )
