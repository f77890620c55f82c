"""How the results of a batch are read: in pieces, between the turns of the event loop, and each line in full."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from trustgate.gateway.api.large_body import DIRECT_BYTES
from trustgate.gateway.api.object_ids import ObjectId, Work
from trustgate.gateway.path.batch_results import BatchResults, lines_of
from trustgate.models.metering.whole import read_answer
from trustgate.models.pricing import PriceTable
from trustgate.types import Prices

TEXT = "word " * 60_000


def answer_of(chunk: bytes) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        yield chunk

    return SimpleNamespace(chunks=chunks(), body=b"")


def results(endpoint: str = "chat.completions") -> BatchResults:
    work = Work(lines=10, prompt_tokens=100, completion_tokens=9_999_999, largest_prompt=900_000, endpoints=(endpoint,))
    passport = SimpleNamespace(context_length=None, max_output_tokens=None)
    target: Any = SimpleNamespace(passport=passport)
    return BatchResults(ObjectId("batch", "b", "ten_1", "pas_1", "m", "m", work=work), target, PriceTable(Prices()), 0)


def line(**body: Any) -> bytes:
    return json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}}).encode()


async def turns_between(reading: Any) -> int:
    """Returns how many turns of the loop others have had until it was read."""
    task, turns = asyncio.ensure_future(reading), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns


async def read_all(found: BatchResults, data: bytes) -> None:
    async for each in lines_of(answer_of(data)):
        await found.read(each)


@pytest.mark.parametrize(
    ("data", "least"),
    [(b"\n" * 20_000, 70), (b"{}\n" * 20_000, 70), ((b"x" * 8_000 + b"\n") * 800, 80)],
    ids=["blank", "nothing in them", "long"],
)
def test_lines_that_come_at_once_are_read_in_many_turns(data: bytes, least: int) -> None:
    assert asyncio.run(turns_between(read_all(results(), data))) >= least


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"a": 1}] * 60_000, "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
        {"choices": [{"message": {"content": TEXT}}], "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
        {"choices": [{"message": {"content": TEXT}}]},
    ],
    ids=["many values", "text", "text without usage"],
)
def test_the_answer_in_a_large_line_is_read_in_pieces_and_charged_in_full(body: dict[str, Any]) -> None:
    found, data = results(), line(**body)
    assert asyncio.run(turns_between(found.read(data))) >= len(data) // DIRECT_BYTES
    [summed] = found.sums(None, 0)
    whole = read_answer(json.dumps(body).encode()).usage_or_estimate(10)
    assert (summed.calls, summed.usage.prompt_tokens) == (1, whole.prompt_tokens)
    assert summed.usage.completion_tokens == whole.completion_tokens > 0


def test_a_large_line_with_half_a_character_counts() -> None:
    found = results()
    asyncio.run(found.read(line(choices=[{"message": {"content": TEXT + "\ud800" + TEXT}}])))
    [summed] = found.sums(None, 0)
    assert (summed.calls, summed.usage.completion_tokens > 100_000) == (1, True)


def test_a_large_list_of_vectors_counts_by_its_usage() -> None:
    found = results("embeddings")
    vectors = [{"object": "embedding", "index": n, "embedding": [0.25] * 1536} for n in range(600)]
    asyncio.run(found.read(line(object="list", data=vectors, usage={"prompt_tokens": 70, "total_tokens": 70})))
    [summed] = found.sums(None, 0)
    assert (summed.calls, summed.usage.prompt_tokens, summed.usage.completion_tokens) == (1, 70, 0)
