"""Usage is read from every shape servers send, and nothing they send raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.models.estimate import estimate_tokens
from trustgate.models.metering.usage import MAX_TOKENS, FrameKind, Reported, StreamMeter, read_json_usage
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


def tokens(prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, reasoning_tokens=reasoning)


BASIC = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}

SHAPES = [
    (BASIC, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": None, "completion_tokens_details": None}, tokens(9, 4)),
    (
        {
            **BASIC,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        tokens(9, 4, 8, 3),
    ),
    # embeddings
    ({"prompt_tokens": 9, "total_tokens": 9}, tokens(9, 0)),
    ({"prompt_tokens": 9}, tokens(9, 0)),
    # derived from the total
    ({"prompt_tokens": 9, "total_tokens": 13}, tokens(9, 4)),
    ({"completion_tokens": 4, "total_tokens": 13}, tokens(9, 4)),
    # Responses API
    (
        {
            "input_tokens": 9,
            "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 3},
        },
        tokens(9, 4, 8, 3),
    ),
    # Anthropic: input without what the cache read or wrote
    (
        {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 10},
        tokens(119, 4, 100),
    ),
    # LiteLLM adds Anthropic's members to OpenAI's, whose prompt_tokens include the cache
    ({**BASIC, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2}, tokens(9, 4, 5)),
    # DeepSeek
    ({**BASIC, "prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, tokens(9, 4, 6)),
    # xAI: reasoning beside the completion, inside the total
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 20,
            "completion_tokens_details": {"reasoning_tokens": 7},
        },
        tokens(9, 11, 0, 7),
    ),
    # integral floats are counts; parts are never larger than what they are part of
    ({"prompt_tokens": 9.0, "completion_tokens": 4}, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": {"cached_tokens": 50}}, tokens(9, 4, 9)),
    ({**BASIC, "prompt_tokens_details": {"cached_tokens": -5}}, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": {"cached_tokens": "8"}}, tokens(9, 4)),
    ({**BASIC, "prompt_tokens_details": [1]}, tokens(9, 4)),
    ({"prompt_tokens": 10**30, "completion_tokens": 1}, tokens(MAX_TOKENS, 1)),
]

NONSENSE: list[object] = [
    None,
    {},
    [],
    "13",
    7,
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": -1, "completion_tokens": 4},
    {"prompt_tokens": 9, "completion_tokens": -4},
    {"prompt_tokens": 9, "completion_tokens": 4.5},
    {"prompt_tokens": "9", "completion_tokens": 4},
    {"prompt_tokens": True, "completion_tokens": 4},
    {"prompt_tokens": {"a": 1}, "completion_tokens": 4},
    {"completion_tokens": 4},
    {"total_tokens": 13},
    {"prompt_tokens": float("nan"), "completion_tokens": 4},
    {"prompt_tokens": float("inf"), "completion_tokens": 4},
]


@pytest.mark.parametrize(("usage", "expected"), SHAPES)
def test_usage_of_a_body_and_of_a_stream(usage: object, expected: Usage) -> None:
    assert read_json_usage(body(usage)) == Reported(usage=expected, model="m-1")
    meter, kinds = metered(json.dumps({"choices": [], "usage": usage}).encode())
    assert (meter.usage, kinds) == (expected, [FrameKind.USAGE_ONLY])


@pytest.mark.parametrize("usage", NONSENSE)
def test_nonsense_is_not_reported_and_is_estimated(usage: object) -> None:
    reported = read_json_usage(body(usage))
    assert (reported.usage, reported.model, reported.error) == (None, "m-1", None)
    estimate = estimate_tokens("Good morning to you.")
    assert reported.usage_or_estimate(7) == Usage(prompt_tokens=7, completion_tokens=estimate, estimated=True)
    meter, _ = metered(chunk({"content": "Good morning to you."}), chunk(usage=usage))
    assert meter.usage is None
    assert meter.usage_or_estimate(7) == Usage(prompt_tokens=7, completion_tokens=estimate, estimated=True)


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
    reported = read_json_usage(data)
    assert (reported.usage, reported.model, reported.completion_estimate) == (None, "", 0)
    meter, kinds = metered(data)
    assert meter.usage is None
    assert kinds[0] in (FrameKind.OTHER, FrameKind.ERROR)


MEMBERS = [
    *("choices", "delta", "message", "content", "text", "tool_calls", "function", "arguments", "thinking", "model"),
    *("usage", "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens"),
    *("error", "finish_reason"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5),
    max_leaves=20,
)


@given(json_values)
def test_nothing_raises(value: object) -> None:
    data = json.dumps(value).encode()
    read_json_usage(data).usage_or_estimate(1)
    meter, kinds = metered(data, data)
    meter.usage_or_estimate(1)
    assert kinds[0] is kinds[1]


@pytest.mark.parametrize(
    ("error", "raw"),
    [
        ({"message": "no", "code": 1}, b'{"message": "no", "code": 1}'),
        ("overloaded", b'"overloaded"'),
        (None, None),
        ({}, None),
        ("", None),
    ],
)
def test_errors(error: object, raw: bytes | None) -> None:
    assert read_json_usage(body(BASIC, error=error)).error == raw
    assert read_json_usage(json.dumps({"error": error}).encode()).error == raw
    meter, kinds = metered(json.dumps({"error": error}).encode(), chunk({"content": "x"}, error=error))
    assert meter.error == raw
    assert kinds == ([FrameKind.ERROR] * 2 if raw else [FrameKind.OTHER, FrameKind.CONTENT])


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
    assert read_json_usage(answer).completion_estimate == estimate_tokens(text)


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
        (chunk({"role": "assistant", "content": ""}), FrameKind.OTHER),
        (chunk({}, finish="stop"), FrameKind.OTHER),
        (b'{"choices":[],"prompt_filter_results":[]}', FrameKind.OTHER),
        (b'{"choices":[],"usage":null}', FrameKind.OTHER),
        (b"[DONE]", FrameKind.DONE),
        (json.dumps({"choices": [], "usage": BASIC}).encode(), FrameKind.USAGE_ONLY),
        (json.dumps({"usage": BASIC}).encode(), FrameKind.USAGE_ONLY),
        (json.dumps({"choices": [], "usage": {"prompt_tokens": "?"}}).encode(), FrameKind.USAGE_ONLY),
        # LiteLLM sends usage beside a choice that says nothing
        (chunk({}, usage=BASIC), FrameKind.USAGE_ONLY),
        (chunk({"content": None, "role": None}, usage=BASIC), FrameKind.USAGE_ONLY),
        # usage beside something said must not be withheld
        (chunk({"content": "x"}, usage=BASIC), FrameKind.CONTENT),
        (chunk({"content": ""}, usage=BASIC), FrameKind.OTHER),
        (chunk({"role": "assistant"}, usage=BASIC), FrameKind.OTHER),
        (chunk({}, finish="stop", usage=BASIC), FrameKind.OTHER),
        (chunk({"audio": {"id": "a"}}, usage=BASIC), FrameKind.OTHER),
        (b'{"choices":[7],"usage":{"prompt_tokens":1}}', FrameKind.OTHER),
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
    content, other = FrameKind.CONTENT, FrameKind.OTHER
    assert kinds == [other, content, content, other, FrameKind.USAGE_ONLY, FrameKind.DONE]
    assert (meter.model, meter.finished, meter.done, meter.error) == ("m-2", True, True, None)
    assert meter.usage_or_estimate(100) == tokens(9, 4)


def test_the_last_of_running_counts_is_the_usage() -> None:
    def running(completion: int) -> bytes:
        usage = {"prompt_tokens": 9, "completion_tokens": completion, "total_tokens": 9 + completion}
        return chunk({"content": " word"}, usage=usage)

    meter, kinds = metered(running(1), running(2), chunk(finish="stop", usage=None))
    assert FrameKind.USAGE_ONLY not in kinds
    assert meter.usage_or_estimate(100) == tokens(9, 2)


def test_a_stream_cut_after_an_early_report_is_estimated() -> None:
    early = chunk({"role": "assistant"}, usage={"prompt_tokens": 9, "completion_tokens": 1})
    meter, _ = metered(early, chunk({"content": "a good many words that nobody had counted yet"}))
    estimate = estimate_tokens("a good many words that nobody had counted yet")
    assert estimate > 1
    assert meter.usage_or_estimate(100) == Usage(prompt_tokens=9, completion_tokens=estimate, estimated=True)


def test_a_long_stream_is_estimated_like_a_short_one_in_bounded_memory() -> None:
    meter, _ = metered(*[chunk({"content": "lorem ipsum dolor "})] * 5000)
    assert abs(meter.completion_estimate() - estimate_tokens("lorem ipsum dolor " * 5000)) <= 20
    assert meter._texts_chars < 10_000
