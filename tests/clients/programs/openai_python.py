"""openai for Python, synchronous: each of its resources that the gateway serves."""

from __future__ import annotations

import json
from typing import Any

import openai
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.programs.report import CALLS, HELLO, PARTS, REPLY, TEXT, TOOLS, equal, folder, given, raises, report

client: Any = OpenAI(base_url=given.url, api_key=given.key)


class Place(BaseModel):
    city: str
    days: int


def models() -> None:
    names = {model.id for model in client.models.list()}
    assert {"scripted", "gpt-4o-mini"} <= names, names
    equal(client.models.retrieve("scripted").id, "scripted")


def chat() -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    equal(answer.choices[0].message.content, REPLY)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    assert raw.headers["x-trustgate-receipt"].startswith("rcpt_")
    assert raw.headers["x-request-id"]


def stream() -> None:
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    equal("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices), TEXT)
    with client.chat.completions.stream(model="scripted", messages=HELLO) as events:
        kinds = {event.type for event in events}
        equal(events.get_final_completion().choices[0].message.content, TEXT)
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds


def usage() -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, stream_options=options))
    assert chunks[-1].usage.total_tokens > 0
    assert not [chunk for chunk in chunks[:-1] if chunk.usage]


def tools() -> None:
    answer = client.chat.completions.create(model="scripted", messages=HELLO, tools=TOOLS)
    message = answer.choices[0].message
    equal([(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls], CALLS)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    then = client.chat.completions.create(model="scripted", messages=[*HELLO, message, *results], tools=TOOLS)
    equal(then.choices[0].message.content, TEXT)


def tools_stream() -> None:
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    with client.chat.completions.stream(model="scripted", messages=HELLO, tools=strict) as events:
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    equal([(event.name, event.parsed_arguments) for event in done], CALLS)


def schema() -> None:
    answer = client.chat.completions.parse(model="scripted", messages=HELLO, response_format=Place)
    equal(answer.choices[0].message.parsed, Place(city="Köln", days=3))
    with client.chat.completions.stream(model="scripted", messages=HELLO, response_format=Place) as events:
        equal(events.get_final_completion().choices[0].message.parsed, Place(city="Köln", days=3))


def parts() -> None:
    answer = client.chat.completions.create(model="scripted", messages=PARTS)
    equal(answer.choices[0].message.content, TEXT)


def choices() -> None:
    answer = client.chat.completions.create(model="scripted", messages=HELLO, n=3, logprobs=True, top_logprobs=1)
    equal([choice.index for choice in answer.choices], [0, 1, 2])
    equal(answer.choices[2].logprobs.content[0].top_logprobs[0].logprob, -0.25)


def completions() -> None:
    model = "gpt-3.5-turbo-instruct"
    equal(client.completions.create(model=model, prompt="Hello").choices[0].text, REPLY)
    chunks = client.completions.create(model=model, prompt="Hello", stream=True)
    equal("".join(choice.text or "" for chunk in chunks for choice in chunk.choices), REPLY)


def embeddings() -> None:
    plain = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"], encoding_format="float")
    equal(plain.data[0].embedding, [0.25, -0.5, 0.125])
    equal(client.embeddings.create(model="text-embedding-3-small", input="one").data[0].embedding, [0.25, -0.5, 0.125])


def responses() -> None:
    answer = client.responses.create(model="gpt-4o-mini", input="Hello")
    equal(answer.output_text, REPLY)
    assert answer.usage.total_tokens > 0
    parsed = client.responses.parse(model="scripted", input="Hello", text_format=Place)
    equal(parsed.output_parsed, Place(city="Köln", days=3))
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    called = client.responses.create(model="scripted", input="Hello", tools=flat)
    equal([(call.name, json.loads(call.arguments)) for call in called.output], CALLS)
    equal(client.responses.retrieve(called.id).output_text, TEXT)
    client.responses.delete(called.id)
    with raises(openai.NotFoundError, status=404):
        client.responses.retrieve(called.id)


def responses_stream() -> None:
    with client.responses.stream(model="scripted", input="Hello", text_format=Place) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    equal(final.output_parsed, Place(city="Köln", days=3))
    equal(kinds[-1], "response.completed")
    plain = client.responses.create(model="scripted", input="Hello", stream=True)
    equal("".join(event.delta for event in plain if event.type == "response.output_text.delta"), TEXT)


def moderations() -> None:
    answer = client.moderations.create(model="scripted", input=["one", "two"])
    equal([result.flagged for result in answer.results], [False, False])


def images() -> None:
    assert client.images.generate(model="scripted", prompt="A cat", response_format="b64_json").data[0].b64_json
    assert client.images.edit(model="scripted", prompt="A dog", image=b"\x89PNG\r\n\x1a\n").data[0].b64_json


def speech() -> None:
    with client.audio.speech.with_streaming_response.create(model="scripted", voice="alloy", input="Hello") as answer:
        sound = b"".join(answer.iter_bytes())
    equal((sound[:4], len(sound)), (b"RIFF", 4 + 256 * 64))


def transcriptions() -> None:
    equal(client.audio.transcriptions.create(model="scripted", file=("a.wav", b"RIFF" * 9)).text, TEXT)
    equal(client.audio.translations.create(model="scripted", file=("a.wav", b"RIFF" * 9)).text, TEXT)


def files() -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    path = folder / "batch.jsonl"
    path.write_text(json.dumps({**line, "body": {"model": "scripted", "messages": HELLO}}) + "\n")
    kept = client.files.create(file=path, purpose="batch")
    equal(client.files.retrieve(kept.id).status, "processed")
    batch = client.batches.create(input_file_id=kept.id, endpoint="/v1/chat/completions", completion_window="24h")
    equal(client.batches.retrieve(batch.id).status, "validating")
    assert client.files.delete(kept.id).deleted


def wrong_key() -> None:
    with raises(openai.AuthenticationError, status=401):
        OpenAI(base_url=given.url, api_key=given.wrong_key).models.list()


def quota() -> None:
    spent: Any = OpenAI(base_url=given.url, api_key=given.spent_key)
    with raises(openai.RateLimitError, status=429):
        spent.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


def broken_stream() -> None:
    with raises(openai.APIError):
        list(client.chat.completions.create(model="breaks-off", messages=HELLO, stream=True))
    with raises(openai.APIError):
        list(client.responses.create(model="breaks-off", input="Hello", stream=True))


def hang_up() -> None:
    with client.chat.completions.create(model="endless", messages=HELLO, stream=True) as chunks:
        equal(next(iter(chunks)).choices[0].delta.role, "assistant")


if __name__ == "__main__":
    report(
        {
            "models": models,
            "chat": chat,
            "stream": stream,
            "usage": usage,
            "tools": tools,
            "tools_stream": tools_stream,
            "schema": schema,
            "parts": parts,
            "choices": choices,
            "completions": completions,
            "embeddings": embeddings,
            "responses": responses,
            "responses_stream": responses_stream,
            "moderations": moderations,
            "images": images,
            "speech": speech,
            "transcriptions": transcriptions,
            "files": files,
            "wrong_key": wrong_key,
            "quota": quota,
            "broken_stream": broken_stream,
            "hang_up": hang_up,
        }
    )
