"""Usage is read from every shape servers send, and nothing they send raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trustgate.models.estimate import estimate_tokens
from trustgate.models.metering.answer import failure_of
from trustgate.models.metering.chunks import FrameKind, StreamMeter
from trustgate.models.metering.counts import counts_in
from trustgate.models.metering.events import EventMeter, MessagesMeter, TranscriptTextMeter
from trustgate.models.metering.generated import GeneratedText
from trustgate.models.metering.lenient import MAX_COUNT
from trustgate.models.metering.usages import plausible
from trustgate.models.metering.whole import (
    read_answer,
    read_images,
    read_kept,
    read_nothing_used,
    read_response,
    read_scores,
    read_speech,
    read_transcript,
)
from trustgate.types import Usage


def body(usage: object, **more: Any) -> bytes:
    message = {"role": "assistant", "content": "Good morning to you."}
    return json.dumps({"model": "m-1", "choices": [{"message": message}], "usage": usage, **more}).encode()


def chunk(delta: object = None, *, finish: object = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return json.dumps({"id": "c", "model": "m-1", "choices": [choice], **more}).encode()


def metered(*payloads: bytes) -> tuple[StreamMeter, list[FrameKind]]:
    meter = StreamMeter()
    return meter, [meter.feed(payload) for payload in payloads]


def tokens(prompt: int, completion: int, cached: int = 0, reasoning: int = 0, **more: Any) -> Usage:
    return Usage(
        prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, reasoning_tokens=reasoning, **more
    )


BASIC: dict[str, object] = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
INPUT: dict[str, object] = {"input_tokens": 9, "output_tokens": 4}

#: What a server reports, and what it means. Each holds as a whole answer's and as a stream's.
SHAPES: list[tuple[dict[str, object], Usage]] = [
    (BASIC, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": None, "completion_tokens_details": None}, tokens(9, 4)),
    (
        {
            **BASIC,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 1, "rejected_prediction_tokens": 0},
        },
        tokens(9, 4, 8, 3, audio_prompt_tokens=2, audio_completion_tokens=1),
    ),
    # derived from the total
    ({"prompt_tokens": 9, "total_tokens": 13}, tokens(9, 4)),
    ({"completion_tokens": 4, "total_tokens": 13}, tokens(9, 4)),
    # Responses API
    (
        {
            **INPUT,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 3},
        },
        tokens(9, 4, 8, 3),
    ),
    # names of two families in one object
    ({"prompt_tokens": 1000, "output_tokens": 426}, tokens(1000, 426)),
    ({"input_tokens": 1000, "completion_tokens": 426, "total_tokens": 1426}, tokens(1000, 426)),
    ({"prompt_tokens": 0, "completion_tokens": 0, **INPUT}, tokens(9, 4)),
    ({**BASIC, **INPUT}, tokens(9, 4)),
    # two names for one count that differ: the total decides, else the first, marked
    ({"prompt_tokens": 7, "completion_tokens": 4, "input_tokens": 9, "total_tokens": 13}, tokens(9, 4)),
    ({"prompt_tokens": 7, "completion_tokens": 4, "input_tokens": 9}, tokens(7, 4, contradictory=True)),
    # Anthropic: input without what the cache read or wrote
    (
        {**INPUT, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 10},
        tokens(119, 4, 100, cache_write_tokens=10),
    ),
    (
        {
            **INPUT,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "server_tool_use": {"web_search_requests": 2},
            "service_tier": "priority",
        },
        tokens(39, 4, cache_write_tokens=30, cache_write_1h_tokens=20, searches=2, service_tier="priority"),
    ),
    ({**INPUT, "cache_creation": {"ephemeral_5m_input_tokens": 5}}, tokens(14, 4, cache_write_tokens=5)),
    # ... unless its total proves that the cache is inside
    ({**INPUT, "cache_read_input_tokens": 5, "total_tokens": 13}, tokens(9, 4, 5)),
    # LiteLLM adds Anthropic's members to OpenAI's, whose prompt_tokens include the cache
    (
        {**BASIC, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2},
        tokens(9, 4, 5, cache_write_tokens=2),
    ),
    # ... or both conventions side by side
    (
        {"prompt_tokens": 109, "completion_tokens": 4, **INPUT, "cache_read_input_tokens": 100},
        tokens(109, 4, 100),
    ),
    # Bedrock
    ({"inputTokens": 9, "outputTokens": 4, "totalTokens": 18, "cacheReadInputTokens": 5}, tokens(14, 4, 5)),
    # DeepSeek
    ({**BASIC, "prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, tokens(9, 4, 6)),
    ({"completion_tokens": 4, "prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, tokens(9, 4, 6)),
    # Moonshot
    ({**BASIC, "cached_tokens": 5}, tokens(9, 4, 5)),
    # a prompt without what the cache served: larger than it, or proven by the total
    (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 9010,
            "prompt_tokens_details": {"cached_tokens": 8000},
        },
        tokens(9000, 10, 8000),
    ),
    (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1510,
            "prompt_tokens_details": {"cached_tokens": 500},
        },
        tokens(1500, 10, 500),
    ),
    ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 50}}, tokens(59, 4, 50)),
    # No more is used than the total has, however much was cached by OpenAI's names; by Anthropic's it stands beside.
    ({**BASIC, "prompt_tokens_details": {"cached_tokens": 50}}, tokens(9, 4, 9, contradictory=True)),
    ({**BASIC, "cached_tokens": 50, "total_tokens": 30}, tokens(26, 4, 26, contradictory=True)),
    ({**BASIC, "cached_tokens": 10, "total_tokens": 20}, tokens(16, 4, 10, contradictory=True)),
    ({**BASIC, "cached_tokens": 50, "total_tokens": 63}, tokens(59, 4, 50)),
    ({**BASIC, "cached_tokens": 50, "total_tokens": 5}, tokens(9, 4, 9, contradictory=True)),
    ({"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 50}, tokens(59, 4, 50)),
    (
        {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "cache_read_input_tokens": 50},
        tokens(59, 4, 50, contradictory=True),
    ),
    (
        {"input_tokens": 9, "output_tokens": 4, "total_tokens": 30, "cache_read_input_tokens": 50},
        tokens(26, 4, 26, contradictory=True),
    ),
    # OpenRouter
    ({**BASIC, "cost": 0.1, "prompt_tokens_details": {"cache_write_tokens": 3}}, tokens(9, 4, cache_write_tokens=3)),
    # reasoning beside the completion: by the total (xAI), or because a part cannot be larger than its sum
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 20,
            "completion_tokens_details": {"reasoning_tokens": 7},
        },
        tokens(9, 11, 0, 7),
    ),
    ({"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 7}, tokens(9, 11, 0, 7)),
    # a total beyond its parts was generated (Gemini's thinking); one below them contradicts them
    ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 250}, tokens(100, 150)),
    ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 10}, tokens(9, 4, contradictory=True)),
    ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 0}, tokens(9, 4)),
    # Gemini's own, thinking beside what is said
    (
        {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 2}},
        tokens(9, 6, 0, 2),
    ),
    # Cohere
    (
        {"billed_units": {"input_tokens": 9.0, "output_tokens": 4.0}, "tokens": {"input_tokens": 70}},
        tokens(9, 4),
    ),
    ({**BASIC, "num_search_queries": 3, "citation_tokens": 0}, tokens(9, 4, searches=3)),
    ({**BASIC, "prompt_audio_seconds": 12}, tokens(9, 4, audio_ms=12_000)),
    # integral floats and texts are counts; parts are never larger than what they are part of
    ({"prompt_tokens": 9.0, "completion_tokens": "4"}, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": {"cached_tokens": -5}}, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": {"cached_tokens": "8"}}, tokens(9, 4, 8)),
    ({**BASIC, "prompt_tokens_details": [1]}, tokens(9, 4)),
    (
        {**BASIC, "completion_tokens_details": {"audio_tokens": 9}},
        tokens(9, 4, audio_completion_tokens=4, contradictory=True),
    ),
    # All that was generated was thinking.
    ({"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 4}, tokens(9, 4, 0, 4)),
    # More thinking than what was generated: it stands beside it.
    (
        {
            "input_tokens": 9,
            "output_tokens": 4,
            "cache_read_input_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 6},
        },
        tokens(12, 10, 3, 6),
    ),
    # The total proves that the thinking is in the completion, by whatever name; and that both parts stand beside.
    ({"prompt_tokens": 9, "completion_tokens": 4, "thoughtsTokenCount": 2, "total_tokens": 13}, tokens(9, 4, 0, 2)),
    (
        {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 5, "reasoning_tokens": 2, "total_tokens": 20},
        tokens(14, 6, 5, 2),
    ),
]

NO_COUNTS: list[object] = [-1, True, 4.5, "x", [], {"a": 1}, 2**64 - 1, 10**30, float("nan")]

#: Reports of which half can be believed: the other half is estimated. "prompt" and "completion" are what is reported.
HALVES: list[tuple[dict[str, object], int | None, int | None]] = [
    ({"completion_tokens": 4}, None, 4),
    ({"completion_tokens": 4, "total_tokens": 3}, None, 4),
    ({"prompt_tokens": 9}, 9, None),
    ({"prompt_tokens": 0, "completion_tokens": 4}, None, 4),
    ({"prompt_tokens": 9, "completion_tokens": 0}, 9, None),
    *(({"prompt_tokens": bad, "completion_tokens": 4}, None, 4) for bad in NO_COUNTS),
    ({"prompt_tokens": 9, "completion_tokens": float("inf")}, 9, None),
    ({"prompt_tokens": 9, "completion_tokens": 2**53 + 1}, 9, None),
]

NONSENSE: list[object] = [
    None,
    {},
    [],
    "13",
    7,
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": -1, "completion_tokens": "-4"},
]


@pytest.mark.parametrize(("usage", "expected"), SHAPES)
def test_usage_of_a_body_and_of_a_stream(usage: dict[str, object], expected: Usage) -> None:
    reported = read_answer(body(usage))
    assert (reported.usage_or_estimate(1), reported.model, reported.failure) == (expected, "m-1", None)
    meter, kinds = metered(json.dumps({"choices": [], "usage": usage}).encode())
    assert (meter.usage_or_estimate(1), kinds) == (expected, [FrameKind.USAGE_ONLY])


@pytest.mark.parametrize(("usage", "prompt", "completion"), HALVES)
def test_half_a_report_is_completed_by_an_estimate(
    usage: dict[str, object], prompt: int | None, completion: int | None
) -> None:
    text = "Good morning to you."
    estimate = estimate_tokens(text)
    meter, _ = metered(chunk({"content": text}), json.dumps({"choices": [], "usage": usage}).encode())
    for found in (read_answer(body(usage)).usage_or_estimate(7), meter.usage_or_estimate(7)):
        assert found.prompt_tokens == (7 if prompt is None else prompt)
        assert found.completion_tokens == (estimate if completion is None else completion)
        assert found.estimated


@pytest.mark.parametrize("usage", NONSENSE)
def test_nonsense_is_not_reported_and_is_estimated(usage: object) -> None:
    reported = read_answer(body(usage))
    assert (reported.usage, reported.model, reported.failure) == (None, "m-1", None)
    estimate = estimate_tokens("Good morning to you.")
    assert reported.usage_or_estimate(7) == Usage(prompt_tokens=7, completion_tokens=estimate, estimated=True)
    meter, _ = metered(chunk({"content": "Good morning to you."}), chunk(usage=usage))
    assert meter.usage is None
    assert meter.usage_or_estimate(7) == Usage(prompt_tokens=7, completion_tokens=estimate, estimated=True)


def test_a_total_alone_is_the_prompts_where_nothing_was_generated() -> None:
    answer = b'{"id":"r","results":[{"index":0,"relevance_score":0.5}],"usage":{"total_tokens":815}}'
    assert read_scores(answer).usage_or_estimate(4) == tokens(815, 0)
    assert read_scores(b'{"data":[],"usage":{"prompt_tokens":5,"total_tokens":9}}').usage_or_estimate(4) == tokens(9, 0)
    assert read_scores(b'{"data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}').usage_or_estimate(4) == tokens(5, 0)


def test_a_total_alone_is_split_by_what_was_generated() -> None:
    found = read_answer(body({"total_tokens": 815})).usage_or_estimate(4)
    assert found.total_tokens == 815
    assert (found.completion_tokens, found.estimated) == (estimate_tokens("Good morning to you."), True)


#: Answers that report what they used elsewhere than in "usage".
ELSEWHERE: list[tuple[dict[str, object], Usage]] = [
    ({"choices": [{"index": 0, "message": {"content": "x"}, "usage": BASIC}]}, tokens(9, 4)),
    ({"choices": [], "x_groq": {"id": "r", "usage": BASIC}}, tokens(9, 4)),
    ({"results": [{}], "meta": {"billed_units": {"search_units": 1}, "tokens": INPUT}}, tokens(9, 4, searches=1)),
    ({"candidates": [{}], "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 13}}, tokens(9, 4)),
    ({"message": {"role": "assistant", "content": "x"}, "prompt_eval_count": 9, "eval_count": 4}, tokens(9, 4)),
    ({"choices": [{"text": "x"}], "timings": {"prompt_n": 4, "cache_n": 5, "predicted_n": 4}}, tokens(9, 4, 5)),
    ({"content": "x", "tokens_evaluated": 9, "tokens_predicted": 4}, tokens(9, 4)),
    ({"choices": [{"text": "x"}], "usage": BASIC, "service_tier": "flex"}, tokens(9, 4, service_tier="flex")),
    ({"choices": [{"text": "x"}], "usage": BASIC, "timings": {"prompt_n": 1, "predicted_n": 1}}, tokens(9, 4)),
]


@pytest.mark.parametrize(("answer", "expected"), ELSEWHERE)
def test_usage_that_stands_elsewhere(answer: dict[str, object], expected: Usage) -> None:
    assert read_answer(json.dumps(answer).encode()).usage_or_estimate(1) == expected


@pytest.mark.parametrize(("answer", "expected"), [ELSEWHERE[0], ELSEWHERE[1], ELSEWHERE[5], ELSEWHERE[7]])
def test_usage_that_stands_elsewhere_in_a_stream(answer: dict[str, object], expected: Usage) -> None:
    meter, _ = metered(chunk({"content": "x"}), json.dumps(answer).encode(), b"[DONE]")
    assert meter.usage_or_estimate(1) == expected


def test_counts_beyond_what_is_plausible_are_estimated() -> None:
    usage = tokens(10**9, 70, 8, 3)
    assert plausible(usage, prompt_bound=10**9, completion_bound=70) == usage
    found = plausible(usage, prompt_bound=1000, completion_bound=50, prompt_estimate=12, completion_estimate=40)
    assert found == tokens(12, 40, 8, 3, estimated=True)
    assert plausible(usage, prompt_bound=1000).prompt_tokens == 1000
    # A part of what is not believed is not believed either.
    found = plausible(tokens(10**9, 70, 800), prompt_bound=1000, prompt_estimate=12)
    assert (found.prompt_tokens, found.cached_tokens) == (12, 12)
    reported = read_answer(body({"prompt_tokens": 10**9, "completion_tokens": 4}))
    assert reported.usage_or_estimate(12, prompt_bound=1000) == tokens(12, 4, estimated=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b'{"usage":',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b'{"choices":7}',
        b'{"choices":[7,null]}',
        b'{"choices":[{"delta":7,"message":[]}]}',
        b'{"error":' + b"[" * 900 + b"]" * 900 + b',"model":7}',
        b'{"model":' + b"9" * 5000 + b"}",
    ],
)
def test_rubbish_says_nothing(data: bytes) -> None:
    reported = read_answer(data)
    assert (reported.usage, reported.model, reported.completion_estimate) == (None, "", 0)
    meter, kinds = metered(data)
    assert meter.usage is None
    assert kinds[0] in (FrameKind.NOTHING, FrameKind.ERROR)


MEMBERS = (
    *("choices", "delta", "message", "content", "text", "tool_calls", "function", "arguments", "thinking", "model"),
    *("usage", "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens"),
    *("error", "finish_reason", "type", "status", "code", "detail", "errors", "loc", "msg", "object", "output"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation", "ephemeral_1h_input_tokens"),
    *("response", "x_groq", "timings", "prompt_n", "meta", "tokens", "duration", "segments", "end", "data", "item"),
    *("usageMetadata", "base_resp", "status_code", "seconds", "server_tool_use", "web_search_requests", "delta"),
)
EVENT_TYPES = [
    *("response.created", "response.completed", "response.failed", "response.output_item.added", "error", "ping"),
    *("response.output_text.delta", "message_start", "message_delta", "content_block_delta", "content_block_start"),
    *("image_generation.completed", "transcript.text.done"),
]
numbers = st.integers() | st.floats() | st.sampled_from([2**63, 2**64 - 1, 10**30, MAX_COUNT, MAX_COUNT + 1, "7", "x"])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5) | st.sampled_from(EVENT_TYPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=6),
    max_leaves=25,
)
#: A usage object whose members are all at their place, and of any value.
usages = st.dictionaries(st.sampled_from(MEMBERS), numbers | json_values, min_size=1, max_size=8)

READERS = [
    *(read_answer, read_scores, read_response, read_kept, read_images, read_transcript, read_speech),
    read_nothing_used,
]


def assert_in_range(usage: Usage) -> None:
    for name in Usage.__struct_fields__:
        value = getattr(usage, name)
        assert not isinstance(value, int) or 0 <= value <= MAX_COUNT, name
    assert usage.cached_tokens + usage.cache_write_tokens <= usage.prompt_tokens
    assert usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert max(usage.audio_prompt_tokens, usage.image_prompt_tokens) <= usage.prompt_tokens
    assert usage.reasoning_tokens <= usage.completion_tokens
    assert max(usage.audio_completion_tokens, usage.image_completion_tokens) <= usage.completion_tokens
    assert len(usage.service_tier) <= 32
    usage.service_tier.encode()


@given(json_values, usages)
def test_no_answer_raises_and_every_count_is_in_range(value: object, usage: dict[str, object]) -> None:
    answers = [json.dumps(one).encode() for one in (value, {"usage": usage}, {"choices": [value], "usage": usage})]
    for data in answers:
        failure_of(data)
        for read in READERS:
            reported = read(data)
            assert_in_range(reported.usage_or_estimate(1))
            reported.model.encode()


@given(
    st.sampled_from([StreamMeter, EventMeter, MessagesMeter]), st.lists(json_values | usages, min_size=1, max_size=4)
)
def test_no_stream_raises_and_every_count_is_in_range(meter_class: type[StreamMeter], values: list[object]) -> None:
    meter = meter_class()
    for value in values:
        for payload in (value, {"usage": value}, {"type": "response.completed", "response": value}):
            data = json.dumps(payload).encode()
            meter.feed(data)
            meter.without_usage(data)
            assert_in_range(meter.usage_or_estimate(1))
    assert (meter.feed(b"", "error"), meter.failure is None) == (FrameKind.ERROR, False)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    for read in READERS:
        assert_in_range(read(data).usage_or_estimate(1))
    failure_of(data)
    text = TranscriptTextMeter()
    text.feed(data)
    assert_in_range(text.usage())


@st.composite
def truths(draw: st.DrawFn) -> Usage:
    """What a request used: every part within its sum.

    What the cache holds is a multiple of four and reasoning is not: where both are the same number, a total proves that
    one of them stands beside its sum, but not which.
    """
    cached, written = (4 * draw(st.integers(0, 10_000)) for _ in range(2))
    hour, fresh = draw(st.integers(0, written)), draw(st.integers(0, 10_000))
    reasoning, told = draw(st.just(0) | st.integers(0, 10_000).map(lambda n: 4 * n + 1)), draw(st.integers(1, 10_000))
    return tokens(
        cached + written + fresh + 1,
        reasoning + told,
        cached,
        reasoning,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


def reports_of(truth: Usage) -> dict[str, dict[str, object]]:
    """The same use as different servers report it; each tells all of it but for what is noted."""
    prompt, completion, cached = truth.prompt_tokens, truth.completion_tokens, truth.cached_tokens
    written, reasoning = truth.cache_write_tokens, truth.reasoning_tokens
    created = {
        "ephemeral_5m_input_tokens": written - truth.cache_write_1h_tokens,
        "ephemeral_1h_input_tokens": truth.cache_write_1h_tokens,
    }
    anthropic = {
        "input_tokens": prompt - cached - written,
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "cache_creation": created,
    }
    openai = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "cache_creation": created,
    }
    return {
        "anthropic": anthropic,
        "anthropic beside a total": {**anthropic, "total_tokens": prompt + completion},
        "openai": openai,
        "openai without a total": {**openai, "total_tokens": None},
        "openai in texts": {**openai, "prompt_tokens": str(prompt), "completion_tokens": f"{completion}.0"},
        "a prompt without the cache": {**openai, "prompt_tokens": prompt - cached - written},
        "reasoning beside the completion": {**openai, "completion_tokens": completion - reasoning},
        "both names": {**openai, **{key: anthropic[key] for key in ("input_tokens", "output_tokens")}},
    }


@given(truths(), st.data())
def test_one_use_is_read_alike_from_every_server(truth: Usage, data: st.DataObject) -> None:
    reports = reports_of(truth)
    name = data.draw(st.sampled_from(sorted(reports)))
    assert read_answer(body(reports[name])).usage_or_estimate(1) == truth, name


@given(usages)
def test_a_report_is_read_alike_by_the_quick_and_the_thorough_way(usage: dict[str, object]) -> None:
    quick = read_answer(json.dumps({"choices": [{"text": ""}], "usage": usage}).encode()).counts
    thorough = counts_in(json.loads(json.dumps(usage)))
    assert (quick and quick.usage) == (thorough and thorough.usage)


small = st.sampled_from([None, 0, 1, 5, 7, 12])
#: Reports of ordinary members only, under one name or several at once, with details that may be empty.
ordinary = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"), small),
        **{
            f"{part}_tokens_details": st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(names, small))
            for part, names in (
                *(("prompt", ("cached_tokens", "audio_tokens")), ("input", ("cached_tokens", "audio_tokens"))),
                *(("completion", ("reasoning_tokens",)), ("output", ("reasoning_tokens",))),
            )
        },
        **dict.fromkeys(("cache_read_input_tokens", "cache_creation_input_tokens"), small),
    },
)


@given(ordinary)
@example({**INPUT, "input_tokens_details": {"cached_tokens": 5}, "prompt_tokens_details": {}})
@example(
    {**BASIC, "completion_tokens_details": {"reasoning_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 2}}
)
@example({**INPUT, "cache_read_input_tokens": 5, "prompt_tokens_details": {"audio_tokens": 3}})
def test_a_member_that_means_nothing_changes_no_count(usage: dict[str, object]) -> None:
    """The quick way refuses what it does not know: what it takes, the thorough way reads alike."""
    plain, noted = (read_answer(body({**usage, **more})).usage_or_estimate(3) for more in ({}, {"x_note": "none"}))
    assert plain == noted


DELTAS: list[tuple[object, str]] = [
    ({"content": "Hello there"}, "Hello there"),
    ({"role": "assistant", "content": "Hello"}, "Hello"),
    ({"reasoning_content": "think"}, "think"),
    ({"reasoning": "think", "reasoning_content": "think"}, "think"),
    ({"refusal": "I can't help"}, "I can't help"),
    ({"content": None, "tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"a"'}}]}, 'f{"a"'),
    ({"tool_calls": [{"function": {"name": None, "arguments": "1"}}, {"function": {"arguments": "2"}}]}, "12"),
    ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, 'f{"a": 1}'),
    ({"function_call": {"name": "f", "arguments": "{}"}}, "f{}"),
    ({"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}, "Hello"),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "hm"),
]


@pytest.mark.parametrize(("delta", "text"), DELTAS)
def test_generated_text(delta: object, text: str) -> None:
    meter, kinds = metered(chunk(delta))
    assert kinds == [FrameKind.CONTENT]
    assert meter.completion_estimate() == estimate_tokens(text)
    answer = json.dumps({"choices": [{"message": delta}]}).encode()
    assert read_answer(answer).completion_estimate == estimate_tokens(text)


def test_text_of_completions() -> None:
    meter, kinds = metered(b'{"choices":[{"text":"Hello there","index":0}]}')
    assert (kinds, meter.completion_estimate()) == ([FrameKind.CONTENT], estimate_tokens("Hello there"))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"delta":{"content":"Hello \\ud83d"}}]}',
        b'{"choices":[{"delta":{"content":"Hello there"}}],"x":NaN}',
        b'{"choices":[{"delta":{"content":"Hello \xff"}}]}',
    ],
)
def test_text_that_strict_readers_refuse_is_counted(payload: bytes) -> None:
    meter, kinds = metered(payload)
    assert kinds == [FrameKind.CONTENT]
    assert meter.completion_estimate() >= 2


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (chunk({"role": "assistant", "content": ""}), FrameKind.NOTHING),
        (chunk({}, finish="stop"), FrameKind.END),
        (b'{"choices":[],"prompt_filter_results":[]}', FrameKind.NOTHING),
        (b'{"choices":[],"usage":null}', FrameKind.NOTHING),
        (b"[DONE]", FrameKind.DONE),
        (json.dumps({"choices": [], "usage": BASIC}).encode(), FrameKind.USAGE_ONLY),
        (json.dumps({"usage": BASIC}).encode(), FrameKind.USAGE_ONLY),
        (json.dumps({"choices": [], "usage": {"prompt_tokens": "?"}}).encode(), FrameKind.USAGE_ONLY),
        # LiteLLM sends usage beside a choice that says nothing
        (chunk({}, usage=BASIC), FrameKind.USAGE_ONLY),
        (chunk({"content": None, "role": None}, usage=BASIC), FrameKind.USAGE_ONLY),
        # usage beside something said must not be withheld
        (chunk({"content": "x"}, usage=BASIC), FrameKind.CONTENT),
        (chunk({"content": ""}, usage=BASIC), FrameKind.NOTHING),
        (chunk({"role": "assistant"}, usage=BASIC), FrameKind.NOTHING),
        (chunk({}, finish="stop", usage=BASIC), FrameKind.END),
        (chunk({"audio": {"id": "a"}}, usage=BASIC), FrameKind.CONTENT),
        (b'{"choices":[7],"usage":{"prompt_tokens":1}}', FrameKind.NOTHING),
    ],
)
def test_kinds_of_frames(payload: bytes, kind: FrameKind) -> None:
    meter, kinds = metered(payload)
    assert kinds == [kind]
    assert meter.done == (kind is FrameKind.DONE)
    assert meter.finished == (b'"stop"' in payload)


def test_a_whole_stream() -> None:
    meter, kinds = metered(
        chunk({"role": "assistant", "content": ""}, usage=None),
        chunk({"content": "Good"}, usage=None),
        chunk({"content": " morning"}, usage=None),
        chunk(finish="stop", usage=None),
        json.dumps({"model": "m-2", "choices": [], "usage": BASIC}).encode(),
        b"[DONE]",
    )
    content = FrameKind.CONTENT
    assert kinds == [FrameKind.NOTHING, content, content, FrameKind.END, FrameKind.USAGE_ONLY, FrameKind.DONE]
    assert (meter.model, meter.finished, meter.done, meter.failure) == ("m-2", True, True, None)
    assert meter.usage_or_estimate(100) == tokens(9, 4)


def test_the_last_of_running_counts_is_the_usage() -> None:
    def running(completion: int) -> bytes:
        usage = {"prompt_tokens": 9, "completion_tokens": completion, "total_tokens": 9 + completion}
        return chunk({"content": " word"}, usage=usage)

    meter, kinds = metered(running(1), running(2), chunk(finish="stop", usage=None))
    assert FrameKind.USAGE_ONLY not in kinds
    assert meter.usage_or_estimate(100) == tokens(9, 2)


def test_a_running_count_does_not_fall() -> None:
    def report(prompt: int, completion: int) -> bytes:
        return json.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}).encode()

    meter, _ = metered(report(9, 7), report(9, 2))
    assert meter.usage_or_estimate(100) == tokens(9, 7)
    meter, _ = metered(report(9, 1), report(0, 7))
    assert meter.usage_or_estimate(100) == tokens(9, 7)


def test_a_stream_cut_after_an_early_report_is_estimated() -> None:
    early = chunk({"role": "assistant"}, usage={"prompt_tokens": 9, "completion_tokens": 1})
    meter, _ = metered(early, chunk({"content": "a good many words that nobody had counted yet"}))
    estimate = estimate_tokens("a good many words that nobody had counted yet")
    assert estimate > 1
    assert meter.usage_or_estimate(100) == Usage(prompt_tokens=9, completion_tokens=estimate, estimated=True)


@pytest.mark.parametrize("text", ["l", "lorem ipsum dolor ", "lorem ipsum dolor " * 100, "lorem ipsum dolor " * 1000])
def test_a_long_stream_is_estimated_like_a_short_one_in_bounded_memory(text: str) -> None:
    meter = StreamMeter()
    most = 0
    for _ in range(5000):
        meter.feed(chunk({"content": text}))
        texts = meter._made._texts
        most = max(most, sum(map(len, texts)) + 50 * len(texts))
    expected = estimate_tokens(text * 5000)
    assert abs(meter.completion_estimate() - expected) <= max(20, expected / 1000)
    assert most < 50_000


def test_a_text_that_is_empty_is_none() -> None:
    made = GeneratedText()
    made.add("")
    assert not made
    made.add("a")
    assert made
