"""One request's dealings with ids that an upstream gives out: what is learned from its answer, and what is due for it.

Owns the account of work that goes on upstream after its request has ended. The making of a response in the background
is charged by the estimate, that of a batch not at all: its worst case stays held. The rest is charged by the request
that first sees the end: a request, or the gateway itself (``path.background``). An answer that merely shows what was
made before is charged nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from trustgate.errors import UpstreamFailed
from trustgate.gateway.api.batch_files import BatchFile
from trustgate.gateway.api.endpoints import Call, Endpoint
from trustgate.gateway.api.object_ids import BATCHES, Kind, ObjectId, ObjectIds, StepReceipt, is_id
from trustgate.models.metering.counts import bounded
from trustgate.models.metering.events import read_object
from trustgate.models.pricing import BATCH_TIER, PriceTable
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
        tenant_id: str,
        key_id: str,
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
        self._tenant_id = tenant_id
        self._key_id = key_id
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
        #: The work whose end this request has seen, and which it charges.
        self.ended: ObjectId | None = None
        #: What it charges for it, where that is not priced as a call by itself.
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
            self._handle = msgspec.structs.replace(self._handle, owed=0, work=work)
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
            if goes_on(status):
                self._keep_owed(handle, usage)
            return usage
        # As it is now: another request may have seen the end while this one waited.
        handle = self._handles.current(handle)
        if handle is None or handle.owed < 0 or goes_on(status) or not status:
            return _NOTHING
        if handle.charging is not None:
            # Which of its receipts were written before a crash is known where the gateway looks by itself.
            self._lasting.look_soon()
            return _NOTHING
        if handle.kind in BATCHES:
            self.summed = reported_sum(handle, usage, self._answered, target.price)
            if self.summed is None:
                self._lasting.look_soon()
                return _NOTHING
        else:
            self.summed = rest_of(handle, usage, target.price, self.at_us)
        self.ended = handle
        step = 0 if self.summed is None else self.summed.step
        self._lasting.end(handle, (StepReceipt(step, self.receipt_id),))
        return rest(handle, usage) if self.summed is None else self.summed.usage

    def _keep_owed(self, handle: ObjectId, charged: Usage) -> None:
        self._handle = msgspec.structs.replace(
            handle, owed=charged.total_tokens, owed_completion=charged.completion_tokens
        )
        self._handles.keep(self._handle)

    def _own_results(self, body: bytes) -> None:
        """The files in which an upstream put a batch's results belong to whom the batch belongs."""
        made = self._handle
        if made is None:
            return
        for file_id in result_files(body):
            self._handles.keep(msgspec.structs.replace(made, kind="file", id=file_id, model="", owed=-1, work=None))


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
        price: of the model.
    """
    work = handle.work
    owes_calls = work is not None and work.owes_calls
    is_by_call = owes_calls and price.without_call is not price
    if handle.kind == "message_batch" or not is_reported(usage) or not price.is_by_plain_sums:
        return None
    if is_by_call and not answered and usage.total_tokens:
        return None
    lines = work.lines if work is not None else max(answered, 1)
    calls = min(answered or lines, lines) if usage.total_tokens or answered else 0
    return SummedCalls(
        usage=msgspec.structs.replace(usage, service_tier=BATCH_TIER), calls=calls, is_by_call=owes_calls
    )


def rest_of(handle: ObjectId, usage: Usage, price: PriceTable, at_us: int) -> SummedCalls | None:
    """Returns what is still to be charged of a response that was made in the background, where its price depends on
    the length of its prompt; None where it does not.

    ``usage``: all that it used.
    """
    if not price.is_by_prompt:
        return None
    step = price.step(usage, at_us)
    return SummedCalls(usage=rest(handle, usage), calls=0, step=step, is_by_call=False)


def rest(handle: ObjectId, usage: Usage) -> Usage:
    """Returns what is still to be charged of all that a response made in the background used."""
    return less(usage, handle.owed, handle.owed_completion)


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
    return msgspec.structs.replace(bounded(left), contradictory=usage.contradictory)
