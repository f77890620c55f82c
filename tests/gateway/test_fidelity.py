"""What must pass untouched: everything a model can say that the gateway does not know, whole and streamed."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import only_receipt, receipt_of
from tests.support.upstream import DONE, Gate, Reply, Upstream, completion, delta, encode

USAGE = {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}
PLANES = "aé한👋\U000e0041\U0010fffd\u2028\ufeff\x7f"


def chunk(choices: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "choices": choices,
        **members,
    }


def call(index: int, **function: str) -> dict[str, Any]:
    return {"index": 0, "delta": {"tool_calls": [{"index": index, "id": f"call_{index}", "function": function}]}}


SAYINGS: dict[str, list[Any]] = {
    "parallel tool calls": [
        chunk([call(0, name="f", arguments="")]),
        chunk([call(1, name="g", arguments='{"a')]),
        chunk([call(0, arguments='{"x":1}')]),
        chunk([call(1, arguments='":2}')]),
        chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]),
    ],
    "several choices": [
        *(chunk([{"index": number, "delta": {"content": f"choice {number}"}}]) for number in (2, 0, 1)),
        chunk([{"index": number, "delta": {}, "finish_reason": "stop"} for number in (0, 1, 2)]),
    ],
    "logprobs and refusals": [
        chunk([{"index": 0, "delta": {"refusal": "no"}, "logprobs": {"content": None, "refusal": [{"token": "no"}]}}]),
        chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    ],
    "audio": [
        chunk([{"index": 0, "delta": {"audio": {"id": "audio_1", "data": "UklGRg==" * 20_000}}}]),
        chunk([{"index": 0, "delta": {"audio": {"transcript": "hi"}}, "finish_reason": "stop"}]),
    ],
    "reasoning and unknown members": [
        chunk(
            [{"index": 0, "delta": {"reasoning_content": "hm", "thinking_blocks": [{"a": 1.5}]}}],
            new_thing={"b": [None]},
        ),
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"n":1.0e0,"big":12345678901234567890}\n\n',
    ],
    "every plane": [chunk([{"index": 0, "delta": {"content": PLANES}, "finish_reason": "stop"}])],
    "half a surrogate pair": [
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\udc4b"},"finish_reason":"stop"}]}\n\n',
    ],
    "what is not JSON": [
        b"data: not json\n\n",
        b"event: odd\nid: 7\ndata: {\ndata: }\n\n",
        chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    ],
    "line ends and comments": [
        b": ping\r\n\r\n",
        b'data:{"choices":[{"index":0,"delta":{"content":"x"}}]}\r\n\r\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\r',
    ],
    "a very long line": [
        chunk([{"index": 0, "delta": {"content": "word " * 400_000}, "finish_reason": "stop"}]),
    ],
}


@pytest.mark.parametrize("end", [[DONE], []], ids=["done", "no done"])
@pytest.mark.parametrize("what", SAYINGS)
@pytest.mark.parametrize("size", [13, 100_000])
def test_a_stream_says_what_the_upstream_said(
    tenant: Tenant, scripted: Upstream, what: str, end: list[bytes], size: int
) -> None:
    frames = [frame if isinstance(frame, bytes) else b"data: " + encode(frame) + b"\n\n" for frame in SAYINGS[what]]
    whole = b"".join([*frames, *end])
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)] if len(whole) < 10_000 else [whole]
    scripted.script(Reply.sse(pieces))
    response = tenant.chat(stream=True)
    assert response.content == whole
    receipt = receipt_of(tenant, response)["receipt"]
    assert receipt["finish"] == "complete"


@pytest.mark.parametrize(
    "message",
    [
        {
            "content": None,
            "tool_calls": [
                {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(3)
            ],
        },
        {"content": None, "refusal": "I cannot."},
        {"content": PLANES, "audio": {"id": "a", "data": "AAAA"}, "annotations": [], "reasoning_content": "hm"},
    ],
)
def test_an_answer_says_what_the_upstream_said(tenant: Tenant, scripted: Upstream, message: dict[str, Any]) -> None:
    answer = completion("x")
    answer["choices"] = [
        {"index": n, "message": {"role": "assistant", **message}, "logprobs": {"content": []}} for n in (1, 0)
    ]
    body = json.dumps({**answer, "service_tier": "x", "usage": {**USAGE, "future": {"a": 1}}}, indent=2).encode()
    scripted.script(Reply.body(body))
    assert tenant.chat(n=2, logprobs=True).content == body


def test_the_sdk_puts_parallel_calls_together(tenant: Tenant, scripted: Upstream, make_client: ClientFactory) -> None:
    scripted.script(Reply.sse([*SAYINGS["parallel tool calls"], DONE]))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    with client.chat.completions.stream(model="gpt-4o", messages=[{"role": "user", "content": "go"}]) as stream:
        for _ in stream:
            pass
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [(one.function.name, one.function.arguments) for one in calls or ()] == [("f", '{"x":1}'), ("g", '{"a":2}')]


def test_an_error_in_a_stream_raises_in_the_sdk(tenant: Tenant, scripted: Upstream, make_client: ClientFactory) -> None:
    scripted.script(Reply.sse([delta("a"), {"error": {"message": "overloaded", "type": "server_error", "code": None}}]))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    create: Any = client.chat.completions.create
    stream = create(model="gpt-4o", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError, match="overloaded"):
        next(stream)
    assert only_receipt(tenant)["finish"] == "upstream_cut"


def test_a_large_event_passes_whole(tenant: Tenant, scripted: Upstream) -> None:
    large = delta("x" * (9 * 1024 * 1024), finish_reason="stop")
    scripted.script(Reply.sse([delta("a"), large, DONE]))
    response = tenant.chat(stream=True)
    assert response.content == b"".join(b"data: " + encode(each) + b"\n\n" for each in (delta("a"), large)) + DONE


def test_an_event_larger_than_the_setting_allows_ends_the_stream(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    environment = {"TRUSTGATE_UPSTREAM_MAX_EVENT_BYTES": "65536"}
    tenant = sign_up(make_gateway(upstream=upstream.api_url, environment=environment).start())
    upstream.script(Reply.sse([delta("a"), b"data: " + b"x" * 70_000]))
    response = tenant.chat(stream=True)
    error = json.loads(response.content.rpartition(b"data: ")[2])["error"]
    assert error["code"] == "upstream_event_too_large"


def test_a_frame_is_not_kept_for_the_next_one(tenant: Tenant, scripted: Upstream) -> None:
    """Each frame leaves before the upstream sends another: fifty times there and back."""
    gates = [Gate() for _ in range(50)]
    steps = [step for number, gate in enumerate(gates) for step in (delta(str(number)), gate)]
    scripted.script(Reply.sse([*steps, delta(None, finish_reason="stop"), DONE]))
    began = time.monotonic()
    with tenant.stream() as response:
        lines = response.iter_lines()
        for gate in gates:
            while "content" not in next(lines):
                pass
            gate.open()
        assert any("[DONE]" in line for line in lines)
    assert time.monotonic() - began < 10
