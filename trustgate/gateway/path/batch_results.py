"""What the lines of a batch used, read from its results: each priced by itself.

Owns what counts of a line, what is charged where no result counts, and how much is read in one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from trustgate.errors import Unavailable
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.api.large_body import DIRECT_BYTES, in_reader
from trustgate.gateway.api.object_ids import ObjectId, Work
from trustgate.gateway.path.accounting import plausible_bounds
from trustgate.gateway.path.large_answer import take_apart
from trustgate.models.metering.lenient import UNREADABLE, dict_of, read_json
from trustgate.models.metering.whole import read_answer
from trustgate.models.pricing import BATCH_TIER, PriceTable
from trustgate.models.summing import CallSums, SummedCalls
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.targets import Target
from trustgate.types import Usage

#: The longest line of a batch's results that is read, bytes.
_MOST_LINE_BYTES = 64 * 1024 * 1024
#: So many lines, or bytes of them, are read in one turn of the event loop: some three milliseconds' work.
_LINES_A_TURN = 256
_BYTES_A_TURN = 64 * 1024
_FIRST_FAILURE = 400
#: What meters the answers of lines, by the name of their endpoint. Of endpoints with one name the first counts.
_METERS = {
    endpoint.name: endpoint.meter
    for endpoint in reversed(ENDPOINTS)
    if endpoint.has_model and endpoint.body == "json" and endpoint.is_sold and not endpoint.is_unmetered
}


class _Response(msgspec.Struct):
    status_code: Any = None
    body: msgspec.Raw = msgspec.Raw()


class _BatchedAnswer(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw()


class _Result(msgspec.Struct):
    custom_id: Any = None
    response: _Response | None = None
    #: Of a batch of messages.
    result: _BatchedAnswer | None = None


class BatchResults:
    """Reads results line by line. ``read`` never raises."""

    def __init__(self, handle: ObjectId, target: Target, price: PriceTable, at_us: int) -> None:
        """
        Args:
            handle: of the batch.
            target: has it.
            price: what it is charged by.
            at_us: the time for which that is looked at, microseconds UTC.
        """
        self._work = work = handle.work or Work()
        #: What counts for the prompt of an answer without usage.
        self._prompt_estimate = work.prompt_tokens // max(work.lines, 1)
        self._meter = _METERS.get(work.endpoints[0], read_answer) if len(work.endpoints) == 1 else read_answer
        prompt_bound, completion_bound = plausible_bounds(target, work.largest_prompt, 1)
        #: The most that one line can have used: how many completions it asked for is not known here.
        self._bounds = {"prompt_bound": prompt_bound, "completion_bound": max(completion_bound, work.completion_tokens)}
        conditions = Usage(service_tier=BATCH_TIER, image_size=work.image_size, image_quality=work.image_quality)
        #: Hashes of lines that name their request: one that is there again is the same answer.
        self._seen: set[int] = set()
        self._sums = CallSums(price, at_us, conditions)

    def is_plausible(self, reported: Usage) -> bool:
        """Returns whether all lines together can have used what the upstream reports of the batch."""
        lines = max(self._work.lines, 1)
        most = {name: bound * lines for name, bound in self._bounds.items()}
        return reported.prompt_tokens <= most["prompt_bound"] and reported.completion_tokens <= most["completion_bound"]

    async def read(self, line: bytes) -> None:
        """Add what one line used; of one that failed nothing.

        The answer in a large line is taken apart first, as that of a request is: to decode it takes seconds.
        """
        result = _result_of(line) if len(line) <= DIRECT_BYTES else await in_reader(_result_of, line)
        answer = self._answer_in(line, result)
        if answer is None:
            return
        apart = await take_apart(answer, drops_vectors=False)
        reported = self._meter(answer if apart is None else apart.skeleton)
        if reported.failure is not None or (reported.usage is None and not reported.completion_estimate):
            return
        self._sums.add(reported.usage_or_estimate(self._prompt_estimate, **self._bounds))

    def _answer_in(self, line: bytes, result: _Result | None) -> bytes | None:
        """Returns the answer in a line; None where none in it counts."""
        if result is None or (result.response is not None and _is_failure(result.response.status_code)):
            return None
        answered = result.result if result.response is None else result.response
        if answered is None:
            return None
        if self._work.lines and self._sums.calls >= self._work.lines:
            return None  # more answers than the batch has lines
        if isinstance(result.custom_id, str):
            name = hash(line)
            if name in self._seen:
                return None
            self._seen.add(name)
        return bytes(answered.body if isinstance(answered, _Response) else answered.message)

    def sums(self, reported: Usage | None, answered: int) -> Sequence[SummedCalls]:
        """Returns what is to be charged.

        Args:
            reported: what the upstream reports of all lines, which counts where no result does; None: nothing.
            answered: how many lines have an answer, as it reports; 0: it does not report that.
        """
        work, sums = self._work, self._sums
        if not sums.calls and reported is not None and reported.total_tokens:
            sums.add_sum(reported, min(answered or work.lines, work.lines) or max(answered, 1))
        elif not sums.calls and answered and work.lines:
            share = min(answered, work.lines)
            estimate = Usage(
                prompt_tokens=work.prompt_tokens * share // work.lines,
                completion_tokens=work.completion_tokens * share // work.lines,
                estimated=True,
            )
            sums.add_sum(estimate, share)
        return sums.sums()


def _result_of(line: bytes) -> _Result | None:
    """Returns what a line of results is; None where it is none. Never raises."""
    if not line.strip():
        return None
    try:
        return msgspec.json.decode(line, type=_Result)
    except UNREADABLE:
        pass
    # Its answer may be read all the same, as that of a request would be.
    value = dict_of(read_json(line))
    response, result = dict_of(value.get("response")), dict_of(value.get("result"))
    answer, message = (
        # A surrogate by itself is no character: with one, a large answer could not be taken apart.
        msgspec.Raw(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
        if isinstance(found, dict)
        else msgspec.Raw()
        for found in (response.get("body"), result.get("message"))
    )
    return _Result(
        response=_Response(response.get("status_code"), answer) if response else None,
        result=_BatchedAnswer(message) if result else None,
    )


def _is_failure(status: object) -> bool:
    return isinstance(status, int) and status >= _FIRST_FAILURE


async def lines_of(answer: Answer) -> AsyncIterator[bytes]:
    """The lines of a file, as they come; other requests run between them.

    Raises ``Unavailable`` for a line that is too long.
    """
    lines = size = 0
    async for line in _lines_in(answer):
        yield line
        lines += 1
        size += len(line)
        if lines >= _LINES_A_TURN or size >= _BYTES_A_TURN:
            lines = size = 0
            await asyncio.sleep(0)  # other requests run


async def _lines_in(answer: Answer) -> AsyncIterator[bytes]:
    if answer.chunks is None:
        for line in answer.body.split(b"\n"):
            yield line
        return
    rest: list[bytes] = []
    size = 0
    async for chunk in answer.chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        size += len(first)
        if size > _MOST_LINE_BYTES:
            raise Unavailable("a line of the results is too long")
        for line in others:
            yield b"".join(rest)
            rest, size = [line], len(line)
    yield b"".join(rest)
