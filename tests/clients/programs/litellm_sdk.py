"""LiteLLM's SDK as a client: its provider for OpenAI-compatible servers, and the others that speak such APIs."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches its price table when it is imported

import litellm

from tests.clients.programs.report import CALLS, HELLO, PARTS, REPLY, TEXT, TOOLS, equal, given, raises, report

_SERVER: dict[str, Any] = {"api_base": given.url, "api_key": given.key}
litellm.num_retries = 0


def complete(model: str, **options: Any) -> Any:
    return litellm.completion(**{"model": f"openai/{model}", "messages": HELLO, **_SERVER, **options})


def chat() -> None:
    answer = complete("gpt-4o-mini")
    equal(answer.choices[0].message.content, REPLY)
    assert answer.usage.total_tokens > 0


def stream() -> None:
    chunks = complete("gpt-4o", stream=True)
    equal("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices), TEXT)


def usage() -> None:
    chunks = list(complete("gpt-4o", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.total_tokens > 0


def tools() -> None:
    calls = complete("scripted", tools=TOOLS).choices[0].message.tool_calls
    equal([(call.function.name, json.loads(call.function.arguments)) for call in calls], CALLS)


def tools_stream() -> None:
    chunks = list(complete("scripted", tools=TOOLS, stream=True))
    calls = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    equal([(call.function.name, json.loads(call.function.arguments)) for call in calls], CALLS)


def schema() -> None:
    form = {"name": "Place", "strict": True, "schema": TOOLS[0]["function"]["parameters"]}
    answer = complete("scripted", response_format={"type": "json_schema", "json_schema": form})
    equal(json.loads(answer.choices[0].message.content), {"city": "Köln", "days": 3})


def parts() -> None:
    equal(complete("scripted", messages=PARTS).choices[0].message.content, TEXT)


def choices() -> None:
    answer = complete("scripted", n=2, logprobs=True)
    equal([choice.message.content for choice in answer.choices], [TEXT, TEXT])


def completions() -> None:
    answer = litellm.text_completion(model="text-completion-openai/gpt-3.5-turbo-instruct", prompt="Hello", **_SERVER)
    equal(answer.choices[0].text, REPLY)


def embeddings() -> None:
    answer = litellm.embedding(model="openai/text-embedding-3-small", input=["one"], **_SERVER)
    equal(answer.data[0]["embedding"], [0.25, -0.5, 0.125])


def responses() -> None:
    answer = litellm.responses(model="openai/gpt-4o-mini", input="Hello", **_SERVER)
    equal(answer.output[0].content[0].text, REPLY)


def responses_stream() -> None:
    events = litellm.responses(model="openai/scripted", input="Hello", stream=True, **_SERVER)
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"), TEXT)


async def messages() -> None:
    answer = await litellm.anthropic_messages(
        model="anthropic/scripted", messages=HELLO, max_tokens=64, api_base=given.origin, api_key=given.key
    )
    equal(answer["content"][0]["text"], TEXT)


def moderations() -> None:
    assert not litellm.moderation(model="scripted", input="one", **_SERVER).results[0].flagged


def images() -> None:
    assert litellm.image_generation(model="openai/scripted", prompt="A cat", **_SERVER).data[0].b64_json


def speech() -> None:
    sound = litellm.speech(model="openai/scripted", voice="alloy", input="Hello", **_SERVER)
    equal(len(sound.content), 4 + 256 * 64)


def transcriptions() -> None:
    equal(litellm.transcription(model="openai/scripted", file=("a.wav", b"RIFF" * 9), **_SERVER).text, TEXT)


def rerank() -> None:
    answer = litellm.rerank(model="hosted_vllm/scripted", query="one", documents=["one", "two"], **_SERVER)
    equal([result["index"] for result in answer.results], [0, 1])


def wrong_key() -> None:
    with raises(litellm.AuthenticationError, status=401):
        complete("gpt-4o-mini", api_key=given.wrong_key)


def quota() -> None:
    with raises(litellm.RateLimitError, status=429):
        complete("gpt-4o-mini", api_key=given.spent_key)


def broken_stream() -> None:
    with raises(litellm.APIError, litellm.exceptions.MidStreamFallbackError, status=500):
        list(complete("breaks-off", stream=True))


if __name__ == "__main__":
    report(
        {
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
            "messages": messages,
            "moderations": moderations,
            "images": images,
            "speech": speech,
            "transcriptions": transcriptions,
            "rerank": rerank,
            "wrong_key": wrong_key,
            "quota": quota,
            "broken_stream": broken_stream,
        }
    )
