"""How the results of a batch are read: in pieces, between the turns of the event loop, and each line in full."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from fractions import Fraction
from math import ceil
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.loop_turns import turns_until
from trustgate.gateway.api.large_body import DIRECT_BYTES
from trustgate.gateway.api.object_ids import ObjectId, Work
from trustgate.gateway.path import batch_results
from trustgate.gateway.path.batch_results import BatchResults, lines_of, without_lone_surrogates
from trustgate.models.metering.whole import read_answer
from trustgate.models.pricing import PriceTable
from trustgate.types import ConditionalRates, Prices

TEXT = "word " * 60_000


def answer_of(data: bytes, piece_bytes: int) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), piece_bytes):
            yield data[at : at + piece_bytes]

    return SimpleNamespace(chunks=chunks(), body=b"")


def results(endpoint: str = "chat.completions") -> BatchResults:
    work = Work(lines=10, prompt_tokens=100, completion_tokens=9_999_999, largest_prompt=900_000, endpoints=(endpoint,))
    passport = SimpleNamespace(context_length=None, max_output_tokens=None)
    target: Any = SimpleNamespace(passport=passport)
    return BatchResults(ObjectId("batch", "b", "ten_1", "pas_1", "m", "m", work=work), target, PriceTable(Prices()), 0)


def line(**body: Any) -> bytes:
    return json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}}).encode()


async def read_all(found: BatchResults, data: bytes, piece_bytes: int = 1_000_000_000) -> None:
    async for each in lines_of(answer_of(data, piece_bytes)):
        await found.read(each)


@pytest.mark.parametrize(
    ("data", "least"),
    [(b"\n" * 20_000, 70), (b"{}\n" * 20_000, 70), ((b"x" * 8_000 + b"\n") * 800, 80)],
    ids=["blank", "nothing in them", "long"],
)
def test_lines_that_come_at_once_are_read_in_many_turns(data: bytes, least: int) -> None:
    assert asyncio.run(turns_until(read_all(results(), data)))[1] >= least


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
    assert asyncio.run(turns_until(found.read(data)))[1] >= len(data) // DIRECT_BYTES
    [summed] = found.sums(None, 0)
    whole = read_answer(json.dumps(body).encode()).usage_or_estimate(10)
    assert (summed.calls, summed.usage.prompt_tokens) == (1, whole.prompt_tokens)
    assert summed.usage.completion_tokens == whole.completion_tokens > 0


def test_a_large_line_with_half_a_character_counts() -> None:
    found = results()
    asyncio.run(found.read(line(choices=[{"message": {"content": TEXT + "\ud800" + TEXT}}])))
    [summed] = found.sums(None, 0)
    assert (summed.calls, summed.usage.completion_tokens > 100_000) == (1, True)


@given(
    st.lists(st.sampled_from(["\\", "\ud800", "\udc00", "\U0001f600", "a", "abcdefgh", '"', "\n", "é", "u", "d800"]))
)
def test_halves_of_characters_are_replaced_whatever_stands_around_them(parts: list[str]) -> None:
    """However the line is cut into the pieces that are read in one turn."""
    text, encoded = json.loads(json.dumps("".join(parts))), json.dumps("".join(parts)).encode()
    with patch.object(batch_results, "_STEP_BYTES", 2):
        read = json.loads(asyncio.run(without_lone_surrogates(encoded)))
    assert read == "".join("\ufffd" if 0xD800 <= ord(each) < 0xE000 else each for each in text)


@pytest.mark.parametrize("choices", [[{"a": "\ud800"}] * 120_000, [{"a": "b" * 4_000_000 + "\ud800"}]])
def test_a_line_of_megabytes_with_halves_of_characters_is_read_in_many_turns(choices: list[Any]) -> None:
    """No part of it is decoded in one go that holds the interpreter."""
    found, data = results(), line(choices=choices, usage={"prompt_tokens": 7, "completion_tokens": 5})
    with patch.object(batch_results, "read_json", side_effect=AssertionError("it is decoded as it is")):
        turns = asyncio.run(turns_until(found.read(data)))[1]
    assert turns >= len(data) // DIRECT_BYTES
    [summed] = found.sums(None, 0)
    assert (summed.calls, summed.usage.prompt_tokens, summed.usage.completion_tokens) == (1, 7, 5)


@pytest.mark.parametrize(
    ("long", "expected"),
    [
        (line(data=[{"b64_json": "x" * 300_000}] * 2, usage={"prompt_tokens": 7, "completion_tokens": 5}), (7, 5)),
        (line(data=[{"embedding": [0.25] * 80_000}], usage={"prompt_tokens": 7, "completion_tokens": 5}), (7, 5)),
        (line(choices=[{"message": {"content": TEXT + "\ud800"}}]), (10, 57_000)),
        (b'{"response": ' + b"x" * 300_000 + b"}", (10, 999_999)),
        (b'{"response": {"body": [' + b"{}," * 600_000 + b"{}]}}", (10, 999_999)),
    ],
    ids=["images", "vectors", "text without usage", "no JSON", "too much in it"],
)
def test_a_line_that_is_too_long_to_be_kept_is_taken_apart_or_counts_as_much_as_a_line_may_use(
    long: bytes, expected: tuple[int, int]
) -> None:
    """It ends no look at the batch: that would never be charged."""
    short = line(usage={"prompt_tokens": 1, "completion_tokens": 2})
    found, data = results(), b"\n".join([short, long, short.replace(b'"a"', b'"b"')])
    with patch.object(batch_results, "WHOLE_LINE_BYTES", 200_000):
        asyncio.run(read_all(found, data, piece_bytes=50_000))
    [summed] = found.sums(None, 0)
    prompt, completion = expected
    assert (summed.calls, summed.usage.prompt_tokens) == (3, 2 + prompt)
    assert completion - 10 <= summed.usage.completion_tokens - 4 <= completion * 1.05
    assert found.unread == (completion == 999_999)


def test_a_large_list_of_vectors_counts_by_its_usage() -> None:
    found = results("embeddings")
    vectors = [{"object": "embedding", "index": n, "embedding": [0.25] * 1536} for n in range(600)]
    asyncio.run(found.read(line(object="list", data=vectors, usage={"prompt_tokens": 70, "total_tokens": 70})))
    [summed] = found.sums(None, 0)
    assert (summed.calls, summed.usage.prompt_tokens, summed.usage.completion_tokens) == (1, 70, 0)


# of many lines


#: Of messages: 2 USD a million tokens of a prompt (0.2 where it is cached, 2.5 written to the cache), 10 of an answer,
#: three times that above 1,000 tokens of a prompt, and 0.001 USD a message.
STEPPED = Prices(
    input_pico_usd=2_000_000,
    cached_input_pico_usd=200_000,
    cache_write_pico_usd=2_500_001,
    output_pico_usd=10_000_000,
    call_nano_usd=1_000_000,
    conditional=(
        ConditionalRates(
            above_prompt_tokens=1_000,
            input_pico_usd=6_000_000,
            cached_input_pico_usd=600_000,
            cache_write_pico_usd=7_500_003,
            output_pico_usd=30_000_000,
        ),
    ),
)


def messages(count: int, seed: int) -> tuple[list[bytes], dict[int, tuple[int, Fraction]]]:
    """The results of a batch of messages, and by step how many have succeeded and what these cost, nano-USD."""
    chance = Random(seed)
    found: list[bytes] = []
    costs: dict[int, tuple[int, Fraction]] = {0: (0, Fraction(0)), 1_000: (0, Fraction(0))}
    for number in range(count):
        fresh, read, written, out = (chance.randrange(most) for most in (900, 400, 200, 300))
        ends = chance.choices(["succeeded", "errored", "expired", "canceled"], (90, 5, 3, 2))[0]
        result: dict[str, Any] = {"type": ends}
        if ends == "succeeded":
            usage = {
                "input_tokens": fresh,
                "cache_read_input_tokens": read,
                "cache_creation_input_tokens": written,
                "output_tokens": out,
            }
            result["message"] = {"type": "message", "role": "assistant", "content": [], "usage": usage}
            step, times = (1_000, 3) if fresh + read + written > 1_000 else (0, 1)
            calls, cost = costs[step]
            rates = fresh * 2_000_000 + read * 200_000 + written * 2_500_001 + out * 10_000_000
            costs[step] = calls + 1, cost + Fraction(times * rates, 1_000) + 1_000_000
        elif ends == "errored":
            result["error"] = {"type": "error", "error": {"type": "api_error", "message": "x"}}
        found.append(json.dumps({"custom_id": f"m{number}", "result": result}).encode())
    return found, costs


def message_results(lines: int) -> BatchResults:
    work = Work(lines=lines, prompt_tokens=1_500 * lines, completion_tokens=300 * lines, largest_prompt=1_500)
    work = msgspec.structs.replace(work, endpoints=("messages",), owes_calls=True)
    target: Any = SimpleNamespace(passport=SimpleNamespace(context_length=None, max_output_tokens=None))
    handle = ObjectId("message_batch", "b", "ten_1", "pas_1", "m", "m", work=work)
    return BatchResults(handle, target, PriceTable(STEPPED), 0)


def charged(found: BatchResults) -> dict[int, tuple[int, int]]:
    return {each.step: (each.calls, each.cost_nano_usd(0)) for each in found.sums(None, 0)}


def test_a_batch_of_100_000_messages_costs_to_the_nano_usd_what_they_do() -> None:
    lines, costs = messages(100_000, seed=3)
    found = message_results(len(lines))
    asyncio.run(read_all(found, b"\n".join(lines), piece_bytes=65_521))
    assert charged(found) == {step: (calls, ceil(cost)) for step, (calls, cost) in costs.items()}


def test_what_is_there_again_or_in_another_order_changes_nothing() -> None:
    lines, costs = messages(2_000, seed=4)
    found, again = message_results(len(lines)), [*lines, *lines[:700]]
    Random(5).shuffle(again)
    asyncio.run(read_all(found, b"\r\n\r\n".join(again), piece_bytes=997))
    assert charged(found) == {step: (calls, ceil(cost)) for step, (calls, cost) in costs.items()}
