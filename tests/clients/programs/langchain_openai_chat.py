"""langchain-openai: ChatOpenAI and OpenAIEmbeddings."""

from __future__ import annotations

from typing import Any

import openai
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.clients.programs.report import CALLS, PARTS, REPLY, TEXT, TOOLS, equal, given, raises, report


class Place(BaseModel):
    city: str
    days: int


def model(name: str, key: str = given.key, **options: Any) -> Any:
    return ChatOpenAI(model=name, base_url=given.url, api_key=key, **options)


def chat() -> None:
    answer = model("gpt-4o-mini").invoke("Hello")
    equal(answer.content, REPLY)
    assert answer.usage_metadata["total_tokens"] > 0


def stream() -> None:
    equal("".join(chunk.content for chunk in model("gpt-4o").stream("Hello")), TEXT)


def usage() -> None:
    chunks = list(model("gpt-4o", stream_usage=True).stream("Hello"))
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def tools() -> None:
    answer = model("scripted").bind_tools(TOOLS).invoke("Hello")
    equal([(call["name"], call["args"]) for call in answer.tool_calls], CALLS)


def tools_stream() -> None:
    first, *rest = model("scripted").bind_tools(TOOLS).stream("Hello")
    for chunk in rest:
        first += chunk
    equal([(call["name"], call["args"]) for call in first.tool_calls], CALLS)


def schema() -> None:
    for method in ("json_schema", "function_calling"):
        equal(
            model("scripted").with_structured_output(Place, method=method).invoke("Hello"), Place(city="Köln", days=3)
        )


def parts() -> None:
    equal(model("scripted").invoke(PARTS).content, TEXT)


def choices() -> None:
    answer = model("scripted", n=2, logprobs=True).generate([[HumanMessage("Hello")]])
    equal([one.text for one in answer.generations[0]], [TEXT, TEXT])


def completions() -> None:
    legacy: Any = OpenAI(model="gpt-3.5-turbo-instruct", base_url=given.url, api_key=given.key)
    equal(legacy.invoke("Hello"), REPLY)


def embeddings() -> None:
    # Without its own tokenizer, which it would fetch from the network.
    embedder: Any = OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=given.url, api_key=given.key, check_embedding_ctx_length=False
    )
    equal(embedder.embed_documents(["one"])[0], [0.25, -0.5, 0.125])


def responses() -> None:
    equal(model("gpt-4o-mini", use_responses_api=True).invoke("Hello").text, REPLY)


def responses_stream() -> None:
    chunks = model("scripted", use_responses_api=True).stream("Hello")
    equal("".join(chunk.text for chunk in chunks), TEXT)


def wrong_key() -> None:
    with raises(openai.AuthenticationError, status=401):
        model("gpt-4o-mini", given.wrong_key).invoke("Hello")


def quota() -> None:
    with raises(openai.RateLimitError, status=429):
        model("gpt-4o-mini", given.spent_key).invoke("Hello")


def broken_stream() -> None:
    with raises(openai.APIError):
        list(model("breaks-off").stream("Hello"))


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
            "wrong_key": wrong_key,
            "quota": quota,
            "broken_stream": broken_stream,
        }
    )
