"""One request's dealings with ids that an upstream gives out: what is learned from its answer, and what is due for it.

Owns the account of work that goes on upstream after its request has ended: batches, and responses in the background.
To begin it is charged nothing: its worst case stays held, with the price at which it was accepted. At that price it is
charged by what first sees its end: a request, or the gateway itself (``path.background``). An answer that merely shows
what was made before is charged nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from trustgate.access.directory import Caller
from trustgate.errors import UpstreamFailed
from trustgate.gateway.api.batch_files import BatchFile
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.object_ids import BATCHES, AcceptedPrice, Kind, ObjectId, ObjectIds, StepReceipt, Work, is_id
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.events import EventMeter, read_object
from trustgate.models.metering.usages import consistent
from trustgate.models.pricing import BATCH_TIER, PriceTable, bounded
from trustgate.models.summing import SummedCalls
from trustgate.models.upstream.targets import Target
from trustgate.types import Usage

_NOTHING = Usage()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: A status that may still change into another, in small letters: OpenAI's, Anthropic's, and those of servers that have
#: words of their own. What has no status at all (a file) is at its end.
_GOES_ON = frozenset(
    {
        *("queued", "in_progress", "validating", "finalizing", "cancelling", "canceling"),
        *("created", "submitted", "pending", "preparing", "running", "paused", "cancellation_requested"),
    }
)


class _Results(msgspec.Struct):
    output_file_id: Any = None
    error_file_id: Any = None


class _Output(msgspec.Struct):
    output: Any = None


class _ItemDone(msgspec.Struct):
    item: Any = None


#: The event that ends an item of a response (OpenAI API reference, "Streaming events").
_ITEM_DONE = b"response.output_item.done"
T = TypeVar("T")


def goes_on(status: str) -> bool:
    """Returns whether work of this status is not at its end."""
    return status.lower() in _GOES_ON


def _decoded(body: bytes, kind: type[T]) -> T:
    """Returns what of the body ``kind`` reads; nothing of one that cannot be read."""
    try:
        return msgspec.json.decode(body, type=kind)
    except _UNREADABLE:
        return kind()


def unkept(kind: Kind) -> UpstreamFailed:
    """Returns the fault of an upstream whose id of a new object is none that can be kept."""
    return UpstreamFailed(
        f"The upstream has made a {kind.replace('_', ' ')} whose id cannot be kept: it has none, more than 256 "
        "characters, unprintable ones, or another account's. The request is not charged."
    )


class Lasting(Protocol):
    """Who holds what work may still use that goes on after its request has ended."""

    def begin(self, handle: ObjectId) -> None:
        """Hold it, from now on."""
        ...

    def abandon(self, handle: ObjectId, target: Target) -> None:
        """Have an upstream end work that cannot be looked after."""
        ...

    def end(self, handle: ObjectId, receipts: Sequence[StepReceipt]) -> None:
        """Give back what is held, and owe nothing more: the request that sees this end charges what was used.

        ``receipts``: as ``Charging.receipts``, those that are written next.
        """
        ...

    def look_soon(self) -> None:
        """Ask the upstreams before it is time: something ended whose usage is not known yet."""
        ...


class ObjectAccounting:
    def __init__(
        self,
        handles: ObjectIds,
        lasting: Lasting,
        endpoint: Endpoint,
        caller: Caller,
        call: Call,
        handle: ObjectId | None,
        batch: BatchFile | None = None,
        child: tuple[Kind, str] | None = None,
    ) -> None:
        """``handle``: of the id that the path names; ``batch``: of the file that is uploaded; ``child``: the last id
        below the handle's in the path.
        """
        self._handles = handles
        self._endpoint = endpoint
        self._lasting = lasting
        self._caller = caller
        self._tenant_id = caller.tenant.id
        self._key_id = caller.key.id
        self._call = call
        self._handle = handle
        self._batch = batch
        self._child = child
        #: Of the batch that the answer is: how many lines have an answer.
        self._answered = 0
        #: When the request came, microseconds UTC: the price of that time holds.
        self.at_us = 0
        #: The request's own.
        self.receipt_id = ""
        #: Of a response that is asked for in the background: what it may use at most.
        self.worst: Work | None = None
        #: Whether what this request has begun goes on, and is charged at its end.
        self.is_begun = False
        #: The work whose end this request has seen, and what it charges for it.
        self.ended: ObjectId | None = None
        self.summed: SummedCalls | None = None

    def whole(self, body: bytes, usage: Usage, target: Target) -> tuple[bytes, Usage]:
        """Returns the answer as its tenant may see it, and what is to be charged for it."""
        if self._endpoint.lists is not None:
            return body, _NOTHING
        object_id, status = read_object(body)
        if self._endpoint.deletes and self._handle is not None:
            self._handles.forget(self._handle)
            return body, _NOTHING
        self.check_made(object_id, status, target)
        self.seen(object_id, target)
        if "message_batch" in (self._endpoint.makes, self._endpoint.names):
            body = with_own_address(body)
        elif self._endpoint.name == "batches":
            self._own_results(body)
        elif self._endpoint.makes == "response":
            output = _decoded(body, _Output).output
            self._keep_items(output if isinstance(output, list) else (), target)
        self._answered = answered_lines(body) if self._endpoint.names in BATCHES else 0
        return body, self.settle(object_id, status, usage, target)

    def check_made(self, object_id: str, status: str, target: Target) -> None:
        """Raise ``UpstreamFailed`` for an object that its tenant could not name again, or that goes on and would never
        be charged, since its id cannot be kept. A response that is at its end is an answer all the same.
        """
        kind = self._endpoint.makes
        if kind is None or self._handle is not None:
            return
        is_lasting = kind in BATCHES or (kind == "response" and goes_on(status))
        made = self._made(kind, object_id, target)
        if self._handles.can_keep(made) or not (is_lasting or (object_id and kind != "response")):
            return
        if is_lasting and object_id and not is_id(object_id):  # a stranger's is left alone
            self._lasting.abandon(made, target)
        raise unkept(kind)

    def leave(self, meter: StreamMeter, target: Target) -> None:
        """Have an upstream end a response in the background of which nothing was passed on: its client does not know of
        it.
        """
        if isinstance(meter, EventMeter) and goes_on(meter.status):
            made = self._made("response", meter.object_id, target)
            if is_id(meter.object_id) and self._handles.can_keep(made):
                self._lasting.abandon(made, target)

    def seen(self, object_id: str, target: Target) -> None:
        """Remember the id that the answer gives out."""
        kind = self._endpoint.makes
        if kind is None or not object_id or self._handle is not None:
            return
        self._handle = self._made(kind, object_id, target)
        if kind in BATCHES:
            work = self._call.work
            if work is not None:
                work = msgspec.structs.replace(work, owes_calls=True)
            self._handle = msgspec.structs.replace(
                self._handle, owed=0, work=work, accepted=accepted_for(self._caller, target.price)
            )
            self._lasting.begin(self._handle)
        elif self._batch is not None:
            self._handle = msgspec.structs.replace(self._handle, work=self._batch.work)
        self._handles.keep(self._handle)

    def _made(self, kind: Kind, object_id: str, target: Target) -> ObjectId:
        return ObjectId(
            kind,
            object_id,
            self._tenant_id,
            target.passport.id,
            self._call.model,
            target.model,
            upstream=target.upstream.base_url,
            key=self._key_id,
            end_user=self._call.end_user,
        )

    def learn(self, event: bytes, target: Target) -> None:
        """Remember the id of an item of a response that an event of its stream ends with."""
        if self._endpoint.makes == "response" and _ITEM_DONE in event:
            self._keep_items((_decoded(event, _ItemDone).item,), target)

    def _keep_items(self, items: Iterable[Any], target: Target) -> None:
        for item in items:
            if isinstance(item, dict):
                # A container is made for the first call of a program that needs one.
                made: dict[Kind, Any] = {"item": item.get("id"), "container": item.get("container_id")}
                for kind, name in made.items():
                    if isinstance(name, str):
                        self._handles.keep(self._made(kind, name, target))

    def settle(self, object_id: str, status: str, usage: Usage, target: Target) -> Usage:
        """Returns what is to be charged now, of the total usage in the answer."""
        handle = self._handle
        if self._endpoint.name == "files":
            return _NOTHING
        if handle is None or handle.id != object_id:
            return usage if self._endpoint.makes is not None else _NOTHING
        if self._endpoint.makes in BATCHES:
            return _NOTHING
        if self._endpoint.makes is not None:
            return self._go_on(handle, usage, target.price) if goes_on(status) else usage
        # As it is now: another request may have seen the end while this one waited.
        handle = self._handles.current(handle)
        if handle is None or handle.owed < 0 or goes_on(status) or not status:
            return _NOTHING
        if handle.charging is not None:
            # Which of its receipts were written before a crash is known where the gateway looks by itself.
            self._lasting.look_soon()
            return _NOTHING
        price = accepted_price(handle, target.price)
        if handle.kind in BATCHES:
            summed = reported_sum(handle, usage, self._answered, price)
            if summed is None:
                self._lasting.look_soon()
                return _NOTHING
        else:
            summed = response_sum(handle, usage, price, self.at_us)
        self.ended, self.summed = handle, summed
        self._lasting.end(handle, (StepReceipt(summed.step, self.receipt_id),))
        return summed.usage

    def _go_on(self, handle: ObjectId, usage: Usage, price: PriceTable) -> Usage:
        """Keep what is to be charged at the end of a response; returns what is charged now.

        In the background that is nothing. One that its upstream goes on with all the same, since its stream broke off,
        is charged what was seen of it, and the rest at the end.
        """
        accepted, worst = accepted_for(self._caller, price), self.worst
        if worst is None:
            tokens, completion_tokens = usage.total_tokens, usage.completion_tokens
            self._handle = msgspec.structs.replace(
                handle, owed=tokens, owed_completion=completion_tokens, accepted=accepted
            )
            self._handles.keep(self._handle)
            return usage
        work = msgspec.structs.replace(
            worst, largest_prompt=usage.prompt_tokens, made_tokens=usage.completion_tokens, owes_calls=True
        )
        self._handle, self.is_begun = msgspec.structs.replace(handle, owed=0, work=work, accepted=accepted), True
        self._handles.keep(self._handle)
        self._lasting.begin(self._handle)
        return _NOTHING

    def _own_results(self, body: bytes) -> None:
        """The files in which an upstream put a batch's results belong to whom the batch belongs."""
        made = self._handle
        if made is None:
            return
        for file_id in result_files(body):
            file = msgspec.structs.replace(made, kind="file", id=file_id, model="", owed=-1, work=None, accepted=None)
            self._handles.keep(file)


def result_files(body: bytes) -> list[str]:
    """Returns the files in which an upstream put the results of a batch, the output first."""
    results = _decoded(body, _Results)
    return [name for name in (results.output_file_id, results.error_file_id) if isinstance(name, str)]


def with_own_address(body: bytes) -> bytes:
    """Returns a batch of messages with the address of its results here, in place of the upstream's.

    It is a path: clients take it for one below the base URL that they have.
    """
    members = _decoded(body, dict[str, msgspec.Raw])
    address, object_id = bytes(members.get("results_url", b"null")), read_object(body)[0]
    if address == b"null" or not object_id:
        return body
    own = f"/v1/messages/batches/{quote(object_id, safe='')}/results"
    return msgspec.json.encode({**members, "results_url": own})


def accepted_for(caller: Caller, price: PriceTable) -> AcceptedPrice:
    """Returns what a caller's work is charged by that is accepted now. ``price``: of the model."""
    terms = caller.terms
    return AcceptedPrice(price.prices, caller.price_factor_ppm, terms is not None and terms.price_nano_usd is None)


def accepted_price(handle: ObjectId, now: PriceTable) -> PriceTable:
    """Returns the price that work is charged by: that at which it was accepted, without what was charged then.

    ``now``: the price of its model, which counts for work of a version that did not keep it.
    """
    price = now if handle.accepted is None else PriceTable(handle.accepted.prices)
    return price if handle.work is not None and handle.work.owes_calls else price.without_call


def is_reported(usage: Usage) -> bool:
    """Returns whether the usage of a batch is what its upstream has reported, in its parts."""
    return not usage.estimated and (usage.completion_tokens > 0 or usage.total_tokens == 0)


class _Counts(msgspec.Struct):
    completed: int = 0
    #: Anthropic's word for it.
    succeeded: int = 0


class _Batch(msgspec.Struct):
    request_counts: _Counts | None = None


def answered_lines(body: bytes) -> int:
    """Returns how many of a batch's lines have an answer, as its upstream counts them; 0 where it does not."""
    counts = _decoded(body, _Batch).request_counts
    return max(0, counts.completed, counts.succeeded) if counts is not None else 0


def reported_sum(handle: ObjectId, usage: Usage, answered: int, price: PriceTable) -> SummedCalls | None:
    """Returns what an upstream reports of a whole batch, where its price follows from that; None where it does not.

    Args:
        handle: of the batch.
        usage: as it was metered.
        answered: how many lines have an answer; 0: that is not reported.
        price: as ``accepted_price`` returns it.
    """
    work, is_by_call = handle.work, price.without_call is not price
    if handle.kind == "message_batch" or not is_reported(usage) or not price.is_by_plain_sums:
        return None
    if is_by_call and not answered and usage.total_tokens:
        return None
    lines = work.lines if work is not None else max(answered, 1)
    calls = min(answered or lines, lines) if usage.total_tokens or answered else 0
    return SummedCalls(usage=msgspec.structs.replace(usage, service_tier=BATCH_TIER), calls=calls, price=price)


def response_sum(handle: ObjectId, usage: Usage, price: PriceTable, at_us: int) -> SummedCalls:
    """Returns what is to be charged at the end of a response.

    Args:
        handle: of the response.
        usage: all that it used, as it was metered; its prompt is not estimated.
        price: as ``accepted_price`` returns it.
        at_us: when the end was seen, microseconds UTC.
    """
    step, work, calls = price.step(usage, at_us), handle.work, 0
    if work is None:
        usage = less(usage, handle.owed, handle.owed_completion)
    elif usage.total_tokens or not usage.estimated:
        calls = 1
        if usage.estimated and not usage.prompt_tokens:
            usage = msgspec.structs.replace(usage, prompt_tokens=work.largest_prompt)
            step = price.step(usage, at_us)
    return SummedCalls(usage=bounded(usage), calls=calls, price=price, step=step)


def lost_sum(handle: ObjectId, price: PriceTable, at_us: int) -> SummedCalls:
    """Returns what is to be charged for work that its upstream does not know any more: of a response what was made
    while its request lasted.
    """
    work = handle.work
    if work is None or not work.made_tokens:
        return SummedCalls(usage=_NOTHING, calls=0, price=price)
    made = Usage(prompt_tokens=work.largest_prompt, completion_tokens=work.made_tokens, estimated=True)
    return response_sum(handle, made, price, at_us)


def less(usage: Usage, tokens: int, completion_tokens: int = 0) -> Usage:
    """Returns the usage without what was charged before: each kind of tokens off its own, and off the other what is
    more than that.

    Args:
        usage: All that was used.
        tokens: How many were charged before, in all.
        completion_tokens: How many of them as completion.
    """
    off_completion = min(completion_tokens, usage.completion_tokens)
    off_prompt = min(tokens - off_completion, usage.prompt_tokens)
    off_completion = min(tokens - off_prompt, usage.completion_tokens)
    left = msgspec.structs.replace(
        usage,
        prompt_tokens=usage.prompt_tokens - off_prompt,
        completion_tokens=usage.completion_tokens - off_completion,
    )
    # No part is larger than what is left of its sum: what was charged before is not charged again as audio.
    return msgspec.structs.replace(consistent(left), contradictory=usage.contradictory)
