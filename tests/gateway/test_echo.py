"""The built-in model behind a gateway, as OpenAI's SDK sees it: chat and Responses, streams, tools and schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args

import httpx
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionToolParam
from openai.types.responses import Response, ResponseStreamEvent

from tests.conftest import GatewayFactory
from trustgate.models.echo import ECHO_MODEL

TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
RESPONSES_TOOL: Any = {"type": "function", **TOOL["function"], "strict": True}
CALL = 'call get_weather {"city": "Köln", "days": 2}'

#: The SDK's own type of each event.
EVENT_TYPES: dict[str, type[pydantic.BaseModel]] = {
    get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseStreamEvent)[0])
}


class Step(pydantic.BaseModel):
    explanation: str
    kind: Literal["sum", "product"]


class Solution(pydantic.BaseModel):
    steps: list[Step]
    count: int = pydantic.Field(ge=3)
    next: Solution | None


@pytest.fixture(scope="module")
def place(make_module_gateway: GatewayFactory) -> tuple[str, str]:
    """The address of a gateway and a key for it. Its LLM server is the built-in model alone."""
    gateway = make_module_gateway(upstream="builtin:echo").start()
    return gateway.base_url, gateway.add_tenant("echo", plan="internal")


@pytest.fixture(scope="module")
def client(place: tuple[str, str]) -> Iterator[openai.OpenAI]:
    address, key = place
    with openai.OpenAI(api_key=key, base_url=f"{address}/v1", max_retries=0) as made:
        yield made


@pytest.fixture
def http(place: tuple[str, str]) -> Iterator[httpx.Client]:
    address, key = place
    with httpx.Client(base_url=f"{address}/v1", headers={"authorization": f"Bearer {key}"}, trust_env=False) as made:
        yield made


def events_of(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream; each has the name of its type, if it has any."""
    events = []
    with http.stream("POST", path, json={"model": ECHO_MODEL, "stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        for frame in response.read().decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in frame.splitlines())
            if fields and fields["data"] != "[DONE]":
                events.append(json.loads(fields["data"]))
                assert fields.get("event") == events[-1].get("type")
    return events


# Chat


def test_a_chat_calls_a_tool_and_ends_with_its_result(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": CALL}]
    asked = client.chat.completions.create(model=ECHO_MODEL, messages=messages, tools=[TOOL])
    [choice] = asked.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Köln", "days": 2}
    messages += [choice.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "12 °C"}]
    ended = client.chat.completions.create(model=ECHO_MODEL, messages=messages, tools=[TOOL])
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("12 °C", "stop")
    assert asked.usage
    assert ended.usage
    assert ended.usage.prompt_tokens > asked.usage.prompt_tokens


def test_a_streamed_chat_with_a_call_adds_up_to_the_whole_one(client: openai.OpenAI, http: httpx.Client) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "tools": [TOOL], "n": 2}
    for event in events_of(http, "/chat/completions", tool_choice="required", **body):
        ChatCompletionChunk.model_validate(event, strict=True)
    with client.chat.completions.stream(model=ECHO_MODEL, tool_choice="required", **body) as stream:
        final = stream.get_final_completion()
    assert [choice.index for choice in final.choices] == [0, 1]
    for choice in final.choices:
        [call] = choice.message.tool_calls or []
        assert choice.finish_reason == "tool_calls"
        assert json.loads(call.function.arguments) == {"city": "text", "days": 1}


def test_structured_outputs_are_valid_by_their_schema(client: openai.OpenAI) -> None:
    said: list[Any] = [{"role": "user", "content": "What is 1 + 2?"}]
    parsed = client.chat.completions.parse(model=ECHO_MODEL, messages=said, response_format=Solution)
    solution = parsed.choices[0].message.parsed
    assert solution
    assert (solution.steps[0].explanation, solution.count) == ("What is 1 + 2?", 3)
    answer = client.responses.parse(model=ECHO_MODEL, input="What is 1 + 2?", text_format=Solution)
    assert answer.output_parsed == solution
    plain = client.chat.completions.create(model=ECHO_MODEL, messages=said, response_format={"type": "json_object"})
    assert json.loads(plain.choices[0].message.content or "") == {"text": "What is 1 + 2?"}


def test_images_and_recordings_count(client: openai.OpenAI) -> None:
    def counted(*parts: Any) -> int:
        said: Any = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, *parts]}]
        usage = client.chat.completions.create(model=ECHO_MODEL, messages=said).usage
        assert usage
        return usage.prompt_tokens

    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 16_000, "format": "mp3"}}
    assert counted(image) - counted() == 765
    assert counted(sound) - counted() == 15  # 12,000 bytes of no known length, taken for 64 kbit/s


# Responses


@pytest.mark.parametrize("said", ["Hello, who are you?", CALL])
def test_the_events_of_a_response_are_those_of_the_api(client: openai.OpenAI, http: httpx.Client, said: str) -> None:
    events = events_of(http, "/responses", input=said, tools=[RESPONSES_TOOL], store=False)
    for number, event in enumerate(events):
        EVENT_TYPES[event["type"]].model_validate(event)
        assert event["sequence_number"] == number
    kinds = [event["type"].removeprefix("response.") for event in events if not event["type"].endswith("delta")]
    text = ["content_part.added", "output_text.done", "content_part.done"]
    inner = ["function_call_arguments.done"] if said == CALL else text
    assert kinds == ["created", "in_progress", "output_item.added", *inner, "output_item.done", "completed"]
    with client.responses.stream(model=ECHO_MODEL, input=said, tools=[RESPONSES_TOOL]) as stream:
        final = stream.get_final_response()
    Response.model_validate(final.to_dict(), strict=False)
    assert final.usage
    assert final.usage.output_tokens == events[-1]["response"]["usage"]["output_tokens"]
    if said == CALL:
        [item] = final.output
        assert item.type == "function_call"
        assert json.loads(item.arguments) == {"city": "Köln", "days": 2}
    else:
        assert final.output_text == said
        assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == said


def test_a_response_is_gone_on_with_and_looked_at(client: openai.OpenAI) -> None:
    first = client.responses.create(model=ECHO_MODEL, input="call get_weather", tools=[RESPONSES_TOOL])
    [call] = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 °C"}
    second = client.responses.create(model=ECHO_MODEL, input=[result], previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("12 °C", first.id)
    assert client.responses.retrieve(second.id).output_text == "12 °C"
    listed = client.responses.input_items.list(second.id).data
    assert [item.type for item in listed] == ["function_call_output", "function_call", "message"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=ECHO_MODEL, input="Hello", previous_response_id=first.id)
    unkept = client.responses.create(model=ECHO_MODEL, input="Hello", store=False)
    with pytest.raises(openai.APIStatusError):
        client.responses.create(model=ECHO_MODEL, input="Hello", previous_response_id=unkept.id)


def test_a_response_is_cut_and_counted_as_it_is_asked(client: openai.OpenAI) -> None:
    cut = client.responses.create(model=ECHO_MODEL, input="one two three", max_output_tokens=2)
    assert (cut.status, cut.output_text) == ("incomplete", "one two")
    assert cut.incomplete_details
    assert cut.incomplete_details.reason == "max_output_tokens"
    counted = client.responses.input_tokens.count(model=ECHO_MODEL, input="one two three")
    assert cut.usage
    assert counted.input_tokens == cut.usage.input_tokens
    with pytest.raises(openai.BadRequestError, match="answers at once"):
        client.responses.create(model=ECHO_MODEL, input="Hello", background=True)


def test_a_tool_that_takes_a_text_gets_one(client: openai.OpenAI) -> None:
    patch: Any = {"type": "custom", "name": "apply_patch"}
    with client.responses.stream(
        model=ECHO_MODEL, input="call apply_patch *** Begin", tools=[patch, {"type": "web_search"}]
    ) as stream:
        [item] = stream.get_final_response().output
    assert item.type == "custom_tool_call"
    assert item.input == "*** Begin"
