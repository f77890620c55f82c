"""What the built-in model answers: the rule that its APIs share, and values valid by JSON schemas."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.models.echo.answering import EchoPrompt, EchoTool, answer, audio_tokens
from trustgate.models.echo.forms import EchoRefusal
from trustgate.models.echo.schema_values import SchemaUnmet, value_for
from trustgate.models.estimate import estimate_chat, estimate_tokens

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [EchoTool("get_weather", {**WEATHER, "required": ["city"]}), EchoTool("get", {}), EchoTool("patch", None)]


def calls(text: str, **members: Any) -> list[tuple[str, str]]:
    answered = answer(EchoPrompt(user_text=text, tools=TOOLS, **members))
    assert bool(answered.calls) == (answered.ending == "tools") == (not answered.words)
    return [(call.name, call.arguments) for call in answered.calls]


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("call get_weather", [("get_weather", '{"city":"text"}')]),
        ("Use `get_weather` please", [("get_weather", '{"city":"text"}')]),
        ('call get_weather {"city": "Köln",\n "days": 2} now', [("get_weather", '{"city":"Köln","days":2}')]),
        ("call get_weather {broken", [("get_weather", '{"city":"text"}')]),
        ("First\ncall get\nuse patch *** Begin\nmore", [("get", "{}"), ("patch", "*** Begin")]),
        ("call patch", [("patch", "text")]),
        ("<system-reminder>\ncall get\n</system-reminder>\nHello", []),
        ("I call get_weather", []),
        ("call get_weathers", []),
        ("call nothing", []),
        ("Hello", []),
    ],
)
def test_a_tool_is_called_that_a_line_asks_for(text: str, called: list[tuple[str, str]]) -> None:
    assert calls(text) == called


def test_the_tool_choice_decides_first() -> None:
    assert calls("call get", choice="none") == []
    assert calls("Hello", choice="required") == [("get_weather", '{"city":"text"}')]
    assert calls("call get", choice="required") == [("get", "{}")]
    assert calls("call get", choice="=patch") == [("patch", "text")]
    assert calls('call get\ncall get_weather {"city":"Oslo"}', choice="=get_weather") == [
        ("get_weather", '{"city":"Oslo"}')
    ]
    assert calls("call get\ncall patch", parallel=False) == [("get", "{}")]
    with pytest.raises(EchoRefusal, match="not among the tools"):
        calls("Hello", choice="=delete")


def test_results_end_a_loop_unless_a_call_is_required() -> None:
    assert answer(EchoPrompt(user_text="call get", tools=TOOLS, results=["12 °C", "rain"])).text == "12 °C\nrain"
    assert calls("call get", results=["12 °C"], choice="required") == [("get", "{}")]


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("<environment_context>\n/home\n</environment_context>\nHello", "Hello"),
        ("<system-reminder>a</system-reminder>", "<system-reminder>a</system-reminder>"),
        ("<b>bold</b> text", "<b>bold</b> text"),
        ("<a-b>1</a-b>one <a-b>2</a-b><c_d>3 <a-b></c_d>two</a-b>", "one two</a-b>"),
        ("<a-b>one</c-d> two", "<a-b>one</c-d> two"),
        ("", "(There was no text to repeat.)"),
    ],
)
def test_what_a_program_put_into_the_message_is_left_out(text: str, repeated: str) -> None:
    assert answer(EchoPrompt(user_text=text)).text == repeated


def test_an_answer_ends_at_the_first_stop_sequence() -> None:
    stopped = answer(EchoPrompt(user_text="one two three four", stops=["four", "three", ""]))
    assert (stopped.text, stopped.ending, stopped.stopped_by) == ("one two ", "stop_sequence", "three")
    assert answer(EchoPrompt(user_text="one two", stops=["six"])).ending == "stop"
    cut = answer(EchoPrompt(user_text="one two three", stops=["three"], limit=1))
    assert (cut.text, cut.ending) == ("one", "length")


def test_the_usage_is_that_of_the_estimate() -> None:
    asked = EchoPrompt(texts=["Be kind.", "Hello"], messages=2, images=1, tools_bytes=400, audio_tokens=7)
    assert asked.prompt_tokens() == estimate_chat(["Be kind.Hello"], messages=2, images=1, tools_bytes=400) + 7
    called = answer(EchoPrompt(user_text="call get", tools=TOOLS))
    assert called.tokens() == estimate_tokens("get") + estimate_tokens("{}")


def test_a_recording_counts_ten_tokens_a_second() -> None:
    samples = bytes(2 * 8_000 * 3)  # three seconds, 16 bits, 8 kHz
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    head = (
        b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(samples))
    )
    assert audio_tokens(base64.b64encode(head + samples).decode()) == 30
    assert audio_tokens("no base64 é") == audio_tokens(None) == 0


# Values of schemas

_LENGTHS = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted)
_PATTERNS = ["^[A-Z]{3}-\\d{2,4}$", "^(yes|no)$", "\\w+@\\w+\\.com", "^[^a-c]+$", "^(x)\\1y?$", "a.c"]


def _numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-50, 50), st.integers(1, 40))
    plain = bounds.map(lambda pair: {"type": kind, "minimum": pair[0], "maximum": pair[0] + pair[1]})
    open_ended = st.integers(-50, 50).map(lambda low: {"type": kind, "exclusiveMinimum": low})
    steps = st.tuples(st.integers(-50, 50), st.integers(1, 9)).map(
        lambda pair: {"type": kind, "minimum": pair[0], "multipleOf": pair[1]}
    )
    below = st.integers(-50, 50).map(lambda high: {"type": kind, "exclusiveMaximum": high})
    return plain | open_ended | steps | below | st.just({"type": kind})


_LEAVES = st.one_of(
    _numbers("integer"),
    _numbers("number"),
    st.just({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    st.just({"type": "boolean"}),
    st.just({"type": ["string", "null"]}),
    st.just({"type": "null"}),
    st.just({"const": {"a": 1}}),
    st.just({"enum": ["red", "green"]}),
    st.just({"$ref": "#/$defs/tree"}),
    _LENGTHS.map(lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[1]}),
    st.sampled_from(_PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(["date-time", "date", "email", "uuid"]).map(lambda each: {"type": "string", "format": each}),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3)
    return st.one_of(
        properties.map(lambda each: {"type": "object", "properties": each, "required": sorted(each)}),
        properties.map(lambda each: {"properties": each, "minProperties": 5}),
        st.tuples(inner, st.integers(0, 3)).map(
            lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1], "maxItems": 3}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"type": "array", "prefixItems": each, "minItems": 4}),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
        inner.map(lambda each: {"allOf": [each, {"description": "the same"}]}),
    )


_TREE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
        "right": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
        "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
    },
    "required": ["name", "left", "right", "more"],
    "additionalProperties": False,
}


@given(schema=st.recursive(_LEAVES, _nested, max_leaves=6), text=st.sampled_from(["", "text", "Hello, who are you?"]))
def test_a_value_is_valid_by_its_schema(schema: Mapping[str, Any], text: str) -> None:
    whole = {**schema, "$defs": {"tree": _TREE}}
    value = value_for(whole, text)
    jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker()).validate(value)
    assert json.dumps(value_for(whole, text)) == json.dumps(value)


def nested(depth: int) -> dict[str, Any]:
    """A schema of few words that asks for a value of 10 to the power of ``depth`` texts."""
    return {"type": "array", "minItems": 10, "items": nested(depth - 1) if depth > 1 else {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "pattern": "^(a+)+(?=c)"}, "a" * 60),
        ({"type": "string", "pattern": "(a{1000}){1000}"}, ""),
        ({"type": "string", "pattern": "^(a+)+b$", "minLength": 9_000, "maxLength": 9_000}, "a" * 60),
        ({"type": "object", "minProperties": 10**12}, ""),
        ({"type": "array", "minItems": 10**12}, ""),
        ({"type": "array", "minItems": 1_000, "items": {"type": "string"}}, "x" * 10_000),
        (nested(6), ""),
    ],
    ids=range(7),
)
def test_no_request_keeps_the_gateway_busy(schema: Any, text: str) -> None:
    """Each of these would otherwise take hours or gigabytes."""
    with pytest.raises(SchemaUnmet):
        value_for(schema, text)


def work_of(run: Callable[[], object]) -> int:
    """How many functions it calls."""
    count = 0

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        with contextlib.suppress(SchemaUnmet, EchoRefusal):
            run()
    finally:
        sys.setprofile(None)
    return count


NUMBERS = {"type": "array", "minItems": 4_000, "items": {"type": "integer", "minimum": 3}}
LOOP = {"$ref": "#/$defs/" + "%25" * 1_000}


@pytest.mark.parametrize(
    "schema",
    [
        NUMBERS,
        {"type": "array", "minItems": 200, "items": {"pattern": "[^a-z]" * 300}},
        {"allOf": [{"anyOf": [{"pattern": f"[^a-z{number}]" * 200 + r"\b"} for number in range(30)]}]},
        {"$defs": {"%" * 1_000: {"type": "integer", "maximum": 0}}, "minItems": 2_000, "type": "array", "items": LOOP},
        {"type": "integer", "minimum": 5, "maximum": 1, "anyOf": [{}] * 20_000},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 2}}, "$ref": "#/$defs/a"},
    ],
    ids=range(6),
)
def test_a_value_takes_a_bounded_amount_of_work(schema: Any) -> None:
    assert work_of(lambda: value_for(schema, "text")) < 120_000


def test_all_calls_of_an_answer_share_one_bound() -> None:
    numbers = {**NUMBERS, "minItems": 400}
    tools = [EchoTool(f"t{number}", {"required": ["a"], "properties": {"a": numbers}}) for number in range(50)]
    asked = EchoPrompt(user_text="".join(f"call {tool.name}\n" for tool in tools), tools=tools)
    assert work_of(lambda: answer(asked)) < 120_000
    with pytest.raises(EchoRefusal, match="too large"):
        answer(asked)


@pytest.mark.parametrize(
    "schema",
    [{"$ref": 5}, {"properties": [1], "required": ["a"]}, {"enum": {"a": 1}}],
    ids=range(3),
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaUnmet, match="not valid"):
        value_for(schema, "text")


def test_texts_with_many_tags_and_calls_are_read_in_one_pass() -> None:
    tags = "".join(f"<a-{chr(97 + number % 26)}{'b' * (number % 40)}>" for number in range(100_000))
    assert answer(EchoPrompt(user_text=tags)).text == tags
    tools = [EchoTool(f"t{number}", {}) for number in range(2_000)]
    called = answer(EchoPrompt(user_text="call t1\n" * 100_000, tools=tools)).calls
    assert len(called) == 128


def test_items_of_one_list_differ_where_they_must() -> None:
    for items in ({"type": "integer", "maximum": 1}, {"type": "string"}, {"enum": [1, 2, 3]}, True):
        made = value_for({"type": "array", "items": items, "minItems": 3, "uniqueItems": True}, "text")
        assert len({json.dumps(each) for each in made}) == 3


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#"},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.com/schema"},
        {"enum": []},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "array", "items": True, "minItems": 1_000_000},
        {"type": "string", "pattern": "(?<=a)b("},
        {"type": "object", "required": 7},
        {"allOf": [False]},
    ],
    ids=range(10),
)
def test_what_cannot_be_met_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaUnmet):
        value_for({"type": "object", "properties": {"x": schema}, "required": ["x"], **schema}, "text")


@pytest.mark.parametrize(
    "pattern", ["^(?=.*x).{8}$", "\\bword", "(^a)", "a$b", "(?<!x)y", "[", "(a)(?(1)b|c)"], ids=range(7)
)
def test_a_pattern_for_which_nothing_is_made_is_refused(pattern: str) -> None:
    with pytest.raises(SchemaUnmet, match="pattern"):
        value_for({"type": "string", "pattern": pattern}, "text")


def test_patterns_are_read_as_ecmascript_writes_them() -> None:
    assert value_for({"type": "string", "pattern": r"^(?<word>x)\u{41}$"}, "text") == "xA"
