"""openai for Python, asynchronous."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.programs.report import CALLS, HELLO, REPLY, TEXT, TOOLS, equal, given, raises, report

client: Any = AsyncOpenAI(base_url=given.url, api_key=given.key)


class Place(BaseModel):
    city: str
    days: int


async def models() -> None:
    assert "scripted" in {model.id async for model in client.models.list()}


async def chat() -> None:
    answers = await asyncio.gather(
        *(client.chat.completions.create(model="gpt-4o-mini", messages=HELLO) for _ in range(8))
    )
    equal({answer.choices[0].message.content for answer in answers}, {REPLY})


async def stream() -> None:
    chunks = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    equal("".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices]), TEXT)


async def usage() -> None:
    options = {"include_usage": True}
    stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.total_tokens > 0


async def tools() -> None:
    answer = await client.chat.completions.create(model="scripted", messages=HELLO, tools=TOOLS)
    calls = answer.choices[0].message.tool_calls
    equal([(call.function.name, json.loads(call.function.arguments)) for call in calls], CALLS)


async def tools_stream() -> None:
    async with client.chat.completions.stream(model="scripted", messages=HELLO, tools=TOOLS) as events:
        async for _ in events:
            pass
        calls = (await events.get_final_completion()).choices[0].message.tool_calls
    equal([(call.function.name, json.loads(call.function.arguments)) for call in calls], CALLS)


async def schema() -> None:
    answer = await client.chat.completions.parse(model="scripted", messages=HELLO, response_format=Place)
    equal(answer.choices[0].message.parsed, Place(city="Köln", days=3))


async def completions() -> None:
    chunks = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello", stream=True)
    equal("".join([choice.text or "" async for chunk in chunks for choice in chunk.choices]), REPLY)


async def embeddings() -> None:
    answer = await client.embeddings.create(model="text-embedding-3-small", input="one")
    equal(answer.data[0].embedding, [0.25, -0.5, 0.125])


async def responses() -> None:
    equal((await client.responses.create(model="gpt-4o-mini", input="Hello")).output_text, REPLY)


async def responses_stream() -> None:
    async with client.responses.stream(model="scripted", input="Hello") as events:
        kinds = [event.type async for event in events]
        equal((await events.get_final_response()).output_text, TEXT)
    equal(kinds[-1], "response.completed")


async def speech() -> None:
    create = client.audio.speech.with_streaming_response.create
    async with create(model="scripted", voice="alloy", input="Hello") as answer:
        equal(len(b"".join([piece async for piece in answer.iter_bytes()])), 4 + 256 * 64)


async def transcriptions() -> None:
    equal((await client.audio.transcriptions.create(model="scripted", file=("a.wav", b"RIFF" * 9))).text, TEXT)


async def wrong_key() -> None:
    with raises(openai.AuthenticationError, status=401):
        await AsyncOpenAI(base_url=given.url, api_key=given.wrong_key).models.list()


async def quota() -> None:
    spent: Any = AsyncOpenAI(base_url=given.url, api_key=given.spent_key)
    with raises(openai.RateLimitError, status=429):
        await spent.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


async def broken_stream() -> None:
    with raises(openai.APIError):
        async for _ in await client.chat.completions.create(model="breaks-off", messages=HELLO, stream=True):
            pass


async def hang_up() -> None:
    async with await client.chat.completions.create(model="endless", messages=HELLO, stream=True) as chunks:
        async for _ in chunks:
            break


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
            "completions": completions,
            "embeddings": embeddings,
            "responses": responses,
            "responses_stream": responses_stream,
            "speech": speech,
            "transcriptions": transcriptions,
            "wrong_key": wrong_key,
            "quota": quota,
            "broken_stream": broken_stream,
            "hang_up": hang_up,
        }
    )
