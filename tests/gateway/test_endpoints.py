"""Reading a body: what the path decides by, and what is told about a body that is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import ENDPOINTS

CHAT, COMPLETIONS, EMBEDDINGS = ENDPOINTS[:3]
MESSAGES = [{"role": "user", "content": "Hello"}]


def peek(endpoint: Any = CHAT, **members: Any) -> Call:
    call = endpoint.peek(json.dumps(members).encode())
    assert isinstance(call, Call)
    return call


def chat(**members: Any) -> Call:
    return peek(model="m", messages=MESSAGES, **members)


def test_the_facts_of_a_chat_request() -> None:
    call = chat(stream=True, n=3, max_completion_tokens=7, max_tokens=9, stream_options={"include_usage": True})
    assert (call.model, call.stream, call.choices, call.max_tokens, call.include_usage) == ("m", True, 3, 9, True)
    assert call.invalid is None
    assert set(call.features) == {"streaming", "multiple_choices"}


@pytest.mark.parametrize(
    ("members", "feature"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "structured_outputs"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "audio"),
    ],
)
def test_features_are_found_by_their_members(members: dict[str, Any], feature: str) -> None:
    assert chat(**members).features == (feature,)


@pytest.mark.parametrize(
    ("part", "feature"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "vision"),
        ({"type": "input_audio", "input_audio": {}}, "audio"),
        ({"type": "file", "file": {}}, "files"),
    ],
)
def test_features_are_found_in_message_parts(part: dict[str, Any], feature: str) -> None:
    call = peek(model="m", messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, part]}])
    assert call.features == (feature,)


@pytest.mark.parametrize(
    "members", [{"response_format": {"type": "text"}}, {"logprobs": False}, {"tools": []}, {"n": 1}]
)
def test_what_asks_for_nothing_special_needs_no_feature(members: dict[str, Any]) -> None:
    assert chat(**members).features == ()


@pytest.mark.parametrize("name", ["stream", "n", "max_tokens", "temperature", "tools", "user", "stream_options"])
def test_null_is_not_given(name: str) -> None:
    assert chat(**{name: None}) == chat()


@given(st.text(max_size=500))
def test_more_text_is_never_estimated_as_fewer_tokens(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    one = peek(model="m", messages=[{"role": "user", "content": text}])
    two = peek(model="m", messages=[{"role": "user", "content": text}] * 2)
    assert two.prompt_tokens >= one.prompt_tokens > 0


def test_each_prompt_of_a_completion_is_a_choice_but_token_ids_are_one_prompt() -> None:
    assert peek(COMPLETIONS, model="m", prompt=["a", "b"], n=2).choices == 4
    assert peek(COMPLETIONS, model="m", prompt=[1, 2, 3]).choices == 1
    assert peek(COMPLETIONS, model="m", prompt=[1, 2, 3]).prompt_tokens == 3
    assert peek(COMPLETIONS, model="m", prompt=[[1, 2], [3]]).prompt_tokens == 3
    assert peek(COMPLETIONS, model="m", prompt="a", best_of=5).choices == 5


def test_an_embedding_generates_nothing() -> None:
    call = peek(EMBEDDINGS, model="m", input=["a", "b"])
    assert call.choices == 0
    assert call.prompt_tokens >= 2


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"messages": MESSAGES}, "model", "missing_required_parameter"),
        ({"model": "m"}, "messages", "missing_required_parameter"),
        ({"model": "", "messages": MESSAGES}, "model", "invalid_value"),
        ({"model": 5, "messages": MESSAGES}, "model", "invalid_value"),
        ({"model": "m", "messages": []}, "messages", "invalid_value"),
        ({"model": "m", "messages": "hi"}, "messages", "invalid_value"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": "9"}, "max_tokens", "invalid_value"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": -2}, "max_tokens", "invalid_value"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"model": "m", "messages": MESSAGES, "n": 0}, "n", "invalid_value"),
        ({"model": "m", "messages": MESSAGES, "n": 10**30}, "n", "invalid_value"),
        ({"model": "m", "messages": MESSAGES, "stream": "yes"}, "stream", "invalid_value"),
        ({"model": "m", "messages": MESSAGES, "temperature": "hot"}, "temperature", "invalid_value"),
    ],
)
def test_a_wrong_member_is_named_and_told_at_the_sixth_step(members: dict[str, Any], param: str, code: str) -> None:
    call = peek(**members)
    assert call.invalid is not None
    assert (call.invalid.status, call.invalid.param, call.invalid.code) == (400, param, code)
    assert param.split("[", maxsplit=1)[0] in call.invalid.message
    assert call.model == (members.get("model") if isinstance(members.get("model"), str) else "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"  ", "empty"),
        (b"hello", "malformed|invalid character"),
        (b'{"model":"m"', "truncated"),
        (b'{"model":"m",}', "trailing comma"),
        (b'{"a":NaN}', "invalid character"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "UTF-8"),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', "surrogate"),
        (b"\xef\xbb\xbf{}", "character"),
        (b'{"model":"m","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"model":"m","messages":[{"role":"user"}]} trailing', "trailing characters"),
    ],
)
def test_what_is_no_json_is_refused_at_the_first_step(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        CHAT.peek(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"7"])
def test_json_that_is_no_object_is_an_invalid_request(body: bytes) -> None:
    call = CHAT.peek(body)
    assert call.invalid is not None and "JSON object" in call.invalid.message


#: Members that endpoints read, with values of every type that JSON has.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner),
    max_leaves=6,
)
known = ("model", "messages", "prompt", "input", "max_tokens", "n", "stream", "stream_options", "tools", "documents")


@given(st.dictionaries(st.sampled_from(known), values))
def test_any_json_gives_a_call_or_names_what_is_wrong(members: dict[str, Any]) -> None:
    body = json.dumps(members).encode()
    for endpoint in (endpoint for endpoint in ENDPOINTS if endpoint.body == "json"):
        call = endpoint.peek(body)
        assert call.invalid is None or call.invalid.param or "JSON object" in call.invalid.message


# Bytes by chance may be an object that an endpoint without required members takes; none ends so.
@given(st.binary(max_size=300).map(lambda drawn: drawn + b"!"))
def test_bytes_that_are_no_json_are_refused(body: bytes) -> None:
    for endpoint in (endpoint for endpoint in ENDPOINTS if endpoint.body == "json"):
        with suppress(InvalidRequest):
            assert endpoint.peek(body).invalid is not None
