"""What the lines of a batch used, read from its results: each priced by itself.

Owns what counts of a line, what is charged where no result counts or one cannot be read, and how much is read in one
turn of the event loop, and kept in memory.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.api.large_body import DIRECT_BYTES, in_reader
from trustgate.gateway.api.object_ids import ObjectId, Work
from trustgate.gateway.path.accounting import plausible_bounds
from trustgate.gateway.path.large_answer import AnswerReader, take_apart, without_vectors
from trustgate.models.estimate import estimate_milli
from trustgate.models.metering.lenient import UNREADABLE, dict_of, read_json
from trustgate.models.metering.whole import read_answer
from trustgate.models.pricing import BATCH_TIER, PriceTable
from trustgate.models.summing import CallSums, SummedCalls
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.targets import Target
from trustgate.types import Usage

#: The longest line of a batch's results that is kept whole, bytes; a longer one is taken apart as it comes.
WHOLE_LINE_BYTES = 64 * 1024 * 1024
#: The longest line that is decoded leniently in one go, bytes: that holds the interpreter.
_LENIENT_BYTES = 1024 * 1024
#: How much of a line is taken apart at a turn of the event loop, bytes.
_STEP_BYTES = 32 * 1024
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


class LongLine(NamedTuple):
    """A line that was too long to be kept: what is left of it without its long strings and vectors."""

    skeleton: bytes


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
        #: How many lines could not be read, and count by estimate.
        self.unread = 0
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

    async def read(self, line: bytes | LongLine) -> None:
        """Add what one line used; of one that failed nothing.

        The answer in a large line is taken apart first, as that of a request is: to decode it takes seconds. One that
        cannot be read counts as an answer of which nothing is known but what its line may use.
        """
        if isinstance(line, bytes) and len(line) <= DIRECT_BYTES:
            result = _result_of(line)
        else:
            result = await _result_of_large(line)
            if result is None:
                self._add_unread()
                return
            line = line if isinstance(line, bytes) else line.skeleton
        answer = self._answer_in(line, result)
        if answer is None:
            return
        apart = await take_apart(answer, drops_vectors=False)
        reported = self._meter(answer if apart is None else apart.skeleton)
        if reported.failure is not None or (reported.usage is None and not reported.completion_estimate):
            return
        self._sums.add(reported.usage_or_estimate(self._prompt_estimate, **self._bounds))

    def _add_unread(self) -> None:
        work = self._work
        lines = max(work.lines, 1)
        if self._sums.calls < lines:
            self.unread += 1
            prompt, completion = work.prompt_tokens // lines, work.completion_tokens // lines
            self._sums.add(Usage(prompt_tokens=prompt, completion_tokens=completion, estimated=True))

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
    result = _decoded(line)
    if result is not None:
        return result
    # Its answer may be read all the same, as that of a request would be.
    value = read_json(line)
    if not isinstance(value, dict):
        return None
    response, batched = dict_of(value.get("response")), dict_of(value.get("result"))
    answer, message = (
        # A surrogate by itself is no character: with one, a large answer could not be taken apart.
        msgspec.Raw(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
        if isinstance(found, dict)
        else msgspec.Raw()
        for found in (response.get("body"), batched.get("message"))
    )
    return _Result(
        response=_Response(response.get("status_code"), answer) if response else None,
        result=_BatchedAnswer(message) if batched else None,
    )


def _decoded(line: bytes) -> _Result | None:
    try:
        return msgspec.json.decode(line, type=_Result)
    except UNREADABLE:
        return None


async def _result_of_large(line: bytes | LongLine) -> _Result | None:
    """As ``_result_of``, of a large line, which holds no turn of the event loop for long."""
    if isinstance(line, LongLine):
        return await in_reader(_result_of, line.skeleton)
    result = await in_reader(_decoded, line)
    if result is None:
        line = await without_lone_surrogates(line)
        result = await in_reader(_decoded, line)
    if result is not None or not line.strip():
        return result or _Result()
    if len(line) > _LENIENT_BYTES:
        reader = LineReader()
        await reader.take_in(line)
        line = reader.skeleton()
    return await in_reader(_result_of, line)


class LineReader(AnswerReader):
    """Takes a line apart: of its long strings it keeps what they weigh alone, and an invalid one is no fault."""

    def __init__(self) -> None:
        super().__init__()
        self._is_broken = False

    async def take_in(self, data: bytes) -> None:
        """As ``feed``, in the turns of the event loop; never raises for what it is given."""
        for at in range(0, len(data), _STEP_BYTES):
            if self._is_broken:
                return
            try:
                self.feed(without_vectors(data[at : at + _STEP_BYTES]))
            except InvalidRequest:
                self._is_broken = True
            await asyncio.sleep(0)  # other requests run

    def skeleton(self) -> bytes:
        """Returns what is left of the line, which is at its end; b"" of one that is no JSON, or where the answer was
        too much to be left.
        """
        return b"" if self._is_broken or self.is_outlining else self.finish().skeleton

    def _weigh(self, size: int) -> None:
        piece = bytes(self._pending[:size])
        del self._pending[:size]
        text = _ESCAPES.sub(b"?", piece).decode(errors="replace")
        self._milli += estimate_milli(text)
        self._characters += len(text)


async def without_lone_surrogates(line: bytes) -> bytes:
    """Returns JSON with U+FFFD for each half of a character that stands by itself: decoders do not take it."""
    parts: list[bytes] = []
    at = 0
    while at < len(line):
        apart = _BETWEEN.search(line, at + _STEP_BYTES)
        end = len(line) if apart is None else apart.end()
        parts.append(_LONE.sub(_mended, line[at:end]))
        at = end
        await asyncio.sleep(0)  # other requests run
    return b"".join(parts)


def _mended(found: re.Match[bytes]) -> bytes:
    return found[1] + b"\\ufffd" if found[2] else found[1]


_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
#: Ends behind a whole escape, or where none is: in no escape, nor between the two of a pair.
_BETWEEN = re.compile(rb"[^\\](?:[^\\]{5}|\\[\"/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|%b)" % _PAIR)
#: What stands before a lone surrogate, and itself, or before the end. The empty alternative: as in api/large_body.py.
_LONE = re.compile(
    rb"((?:[^\\]++|%b|\\(?!u[dD][89a-fA-F][0-9a-fA-F]{2})[\s\S]?+|)*+)(\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\Z)" % _PAIR
)
#: Escapes in a string; the last of a piece may be cut.
_ESCAPES = re.compile(rb"\\(?:u[0-9a-fA-F]{0,4}|[\s\S])")


def _is_failure(status: object) -> bool:
    return isinstance(status, int) and status >= _FIRST_FAILURE


async def lines_of(answer: Answer) -> AsyncIterator[bytes | LongLine]:
    """The lines of a file, as they come; other requests run between them."""
    lines = size = 0
    async for line in _lines_in(answer):
        yield line
        lines += 1
        size += len(line) if isinstance(line, bytes) else _BYTES_A_TURN
        if lines >= _LINES_A_TURN or size >= _BYTES_A_TURN:
            lines = size = 0
            await asyncio.sleep(0)  # other requests run


async def _lines_in(answer: Answer) -> AsyncIterator[bytes | LongLine]:
    if answer.chunks is None:
        for line in answer.body.split(b"\n"):
            yield line
        return
    rest: list[bytes] = []
    size = 0
    reader: LineReader | None = None
    async for chunk in answer.chunks:
        first, *others = chunk.split(b"\n")
        if reader is None:
            rest.append(first)
            size += len(first)
            if size > WHOLE_LINE_BYTES:
                reader = LineReader()
                for part in rest:
                    await reader.take_in(part)
                rest.clear()
        else:
            await reader.take_in(first)
        for line in others:
            yield b"".join(rest) if reader is None else LongLine(reader.skeleton())
            rest, size, reader = [line], len(line), None
    yield b"".join(rest) if reader is None else LongLine(reader.skeleton())
