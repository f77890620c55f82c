"""The built-in model, as the real OpenAI SDK sees it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from trustgate.models.echo import ECHO_MODEL, EMBEDDING_DIMENSIONS, EchoTransport
from trustgate.models.estimate import estimate_chat, estimate_tokens
from trustgate.models.metering.chunks import FrameKind, StreamMeter
from trustgate.models.metering.sse import DONE, SseScanner, frame_data

HELLO: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello,  brave\nnew world"},
]
TEXT = "Hello,  brave\nnew world"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=EchoTransport(), base_url="http://echo.invalid/v1") as client:
        yield client


@pytest.fixture
def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    # The SDK takes HTTPX clients, though its annotation names a fork.
    http_client: Any = http
    return openai.AsyncOpenAI(api_key="none", base_url="http://echo.invalid/v1", http_client=http_client, max_retries=0)


async def test_a_chat_repeats_the_last_message_of_the_user(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=ECHO_MODEL, messages=HELLO)
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", ECHO_MODEL, "chatcmpl-")
    assert answer.created > 1_700_000_000
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert answer.usage
    assert answer.usage.prompt_tokens == estimate_chat(["Be kind.", TEXT], messages=2)
    assert answer.usage.completion_tokens == estimate_tokens(TEXT)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("limit", [{"max_tokens": 2}, {"max_completion_tokens": 2, "max_tokens": 3}])
async def test_choices_and_limits(client: openai.AsyncOpenAI, limit: dict[str, Any]) -> None:
    answer = await client.chat.completions.create(model=ECHO_MODEL, messages=HELLO, n=3, **limit)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {(c.message.content, c.finish_reason) for c in answer.choices} == {("Hello,  brave", "length")}
    assert answer.usage
    assert answer.usage.completion_tokens == 3 * estimate_tokens("Hello,  brave")
    whole = await client.chat.completions.create(model=ECHO_MODEL, messages=HELLO, max_tokens=4)
    assert whole.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("content", "repeated"),
    [
        ([{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "data:"}}], "one"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ("", "(There was no text to repeat.)"),
        (" trailing \n", " trailing \n"),
        ("Größe 你好 😀", "Größe 你好 😀"),
    ],
)
async def test_contents(client: openai.AsyncOpenAI, content: Any, repeated: str) -> None:
    answer = await client.chat.completions.create(model=ECHO_MODEL, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == repeated


async def test_a_streamed_chat(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=ECHO_MODEL, messages=HELLO, n=2, stream=True)
    chunks = [chunk async for chunk in stream]
    assert {(chunk.object, chunk.model, chunk.id, chunk.usage) for chunk in chunks} == {
        ("chat.completion.chunk", ECHO_MODEL, chunks[0].id, None)
    }
    for index in (0, 1):
        deltas = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert deltas[0].delta.role == "assistant"
        assert [choice.delta.content for choice in deltas[1:-1]] == ["Hello,", "  brave", "\nnew", " world"]
        assert [choice.finish_reason for choice in deltas] == [None] * 5 + ["stop"]


async def test_a_stream_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=ECHO_MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage
    assert last.usage.completion_tokens == estimate_tokens(TEXT)


async def test_the_frames_of_a_stream_are_what_the_relay_reads(http: httpx.AsyncClient) -> None:
    body = {"model": ECHO_MODEL, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    scanner, meter, kinds, payloads = SseScanner(), StreamMeter(), [], []
    async with http.stream("POST", "/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for part in response.aiter_raw():
            for frame in scanner.feed(part):
                payload = frame_data(frame)
                assert payload is not None
                payloads.append(payload)
                kinds.append(meter.feed(payload))
    assert scanner.tail() == b""
    assert payloads[-1] == DONE
    assert kinds == [
        *(FrameKind.NOTHING, FrameKind.CONTENT, FrameKind.CONTENT, FrameKind.CONTENT, FrameKind.CONTENT),
        *(FrameKind.END, FrameKind.USAGE_ONLY, FrameKind.DONE),
    ]
    assert meter.usage
    assert meter.usage.completion_tokens == meter.completion_estimate() == estimate_tokens(TEXT)
    assert '"usage":null' in payloads[0].decode()


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("one two", ["one two"]), (["one", "two"], ["one", "two"]), ([5, 6], ["5 6"]), ([[5], [6, 7]], ["5", "6 7"])],
)
async def test_completions(client: openai.AsyncOpenAI, prompt: Any, texts: list[str]) -> None:
    answer = await client.completions.create(model=ECHO_MODEL, prompt=prompt, n=2)
    assert (answer.object, answer.id[:5]) == ("text_completion", "cmpl-")
    assert [choice.text for choice in answer.choices] == [text for text in texts for _ in range(2)]
    stream = await client.completions.create(model=ECHO_MODEL, prompt=prompt, stream=True)
    streamed = [chunk.choices[0] async for chunk in stream]
    for index, text in enumerate(texts):
        assert "".join(choice.text for choice in streamed if choice.index == index) == text
    assert streamed[-1].finish_reason == "stop"


async def test_embeddings(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    answer = await client.embeddings.create(model=ECHO_MODEL, input=["one", "two", "one"])
    one, two, again = [item.embedding for item in answer.data]
    assert one == again != two
    assert len(one) == EMBEDDING_DIMENSIONS
    assert sum(x * x for x in one) == pytest.approx(1, abs=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3
    short = await client.embeddings.create(model=ECHO_MODEL, input="one", dimensions=3, encoding_format="float")
    assert len(short.data[0].embedding) == 3
    body = {"model": ECHO_MODEL, "input": "one", "dimensions": 3, "encoding_format": "base64"}
    encoded = (await http.post("/embeddings", json=body)).json()["data"][0]["embedding"]
    assert list(struct.unpack("<3f", base64.b64decode(encoded))) == short.data[0].embedding


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [ECHO_MODEL]
    assert (await client.models.retrieve(ECHO_MODEL)).owned_by == "trustgate"


CHAT: dict[str, Any] = {"model": ECHO_MODEL, "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/chat/completions", CHAT | {"model": "gpt-4o"}, 404, "model_not_found", "model"),
        ("/chat/completions", CHAT | {"messages": []}, 400, "empty_array", "messages"),
        ("/chat/completions", CHAT | {"messages": 7}, 400, "invalid_value", "messages"),
        (
            "/chat/completions",
            CHAT | {"messages": [{"role": "user", "content": 7}]},
            400,
            "invalid_value",
            "messages[0].content",
        ),
        ("/chat/completions", CHAT | {"n": 0}, 400, "invalid_value", "n"),
        ("/chat/completions", CHAT | {"n": 129}, 400, "invalid_value", "n"),
        ("/chat/completions", CHAT | {"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ("/chat/completions", {"messages": []}, 400, "invalid_value", None),
        ("/completions", {"model": ECHO_MODEL, "prompt": []}, 400, "empty_array", "prompt"),
        ("/embeddings", {"model": ECHO_MODEL, "input": "x", "dimensions": 0}, 400, "invalid_value", "dimensions"),
        (
            "/embeddings",
            {"model": ECHO_MODEL, "input": "x", "encoding_format": "hex"},
            400,
            "invalid_value",
            "encoding_format",
        ),
        ("/images/generations", {}, 404, "not_found", None),
        ("/models", {}, 405, "method_not_allowed", None),
    ],
)
async def test_refusals(
    http: httpx.AsyncClient, path: str, body: object, status: int, code: str, param: str | None
) -> None:
    response = await http.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"model": NaN}'])
async def test_bodies_that_are_no_json(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post("/chat/completions", content=body)
    assert response.status_code == 400
    assert json.loads(response.content)["error"]["code"] in ("invalid_json", "invalid_value")


async def test_the_sdk_raises_its_own_exceptions(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model=ECHO_MODEL, messages=[])


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/responses", {"input": [{"type": {}, "role": "user", "content": "Hello"}]}),
        (
            "/responses",
            {"input": [{"role": "user", "content": [{"type": []}, {"type": "input_text", "text": "Hello"}]}]},
        ),
        ("/responses", {"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": "AA"}]}]}),
        (
            "/messages",
            {"messages": [{"role": "user", "content": "Hello"}], "tool_choice": {"type": []}, "max_tokens": 9},
        ),
    ],
    ids=range(4),
)
async def test_values_of_another_type_are_no_failures(
    http: httpx.AsyncClient, path: str, members: dict[str, Any]
) -> None:
    assert (await http.post(path, json={"model": ECHO_MODEL, **members})).status_code == 200
