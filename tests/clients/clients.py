"""Which clients there are, what each can do, and the table of both in examples/reference.

A feature that a client has is expected to work; the table shows what did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Environment = Literal["tests", "clients", "litellm", "node"]


@dataclass(frozen=True)
class Client:
    #: The program under programs/, without its ending.
    program: str
    environment: Environment


CLIENTS = {
    "openai (Python)": Client("openai_python", "tests"),
    "openai (Python), async": Client("openai_python_async", "tests"),
    "openai (npm)": Client("openai_npm", "node"),
    "@ai-sdk/openai-compatible": Client("ai_sdk", "node"),
    "anthropic": Client("anthropic_python", "clients"),
    "langchain-openai": Client("langchain_openai_chat", "clients"),
    "instructor": Client("instructor_openai", "clients"),
    "llm": Client("llm_command", "clients"),
    "LiteLLM SDK": Client("litellm_sdk", "litellm"),
    "httpx, HTTP/2": Client("httpx_http2", "tests"),
    "curl": Client("curl_http1", "tests"),
    "curl, HTTP/2": Client("curl_http2", "tests"),
}

#: feature → what it is in the table, and who stood behind the gateway.
FEATURES = {
    "models": ("list of models", "gateway"),
    "chat": ("chat", "LiteLLM"),
    "stream": ("chat, streamed", "LiteLLM"),
    "usage": ("usage at the end of a stream", "LiteLLM"),
    "tools": ("tool calls in parallel", "scripted"),
    "tools_stream": ("tool calls, streamed", "scripted"),
    "schema": ("structured output", "scripted"),
    "parts": ("images in messages", "scripted"),
    "choices": ("`n` and `logprobs`", "scripted"),
    "completions": ("completions", "LiteLLM"),
    "embeddings": ("embeddings", "LiteLLM"),
    "responses": ("Responses", "LiteLLM"),
    "responses_stream": ("Responses, streamed", "scripted"),
    "messages": ("Messages", "LiteLLM"),
    "messages_stream": ("Messages, streamed", "scripted"),
    "moderations": ("moderations", "scripted"),
    "images": ("images", "scripted"),
    "speech": ("speech", "scripted"),
    "transcriptions": ("transcription of an upload", "scripted"),
    "rerank": ("rerank", "scripted"),
    "files": ("files and batches", "scripted"),
    "wrong_key": ("a wrong key raises its own error", "gateway"),
    "quota": ("a used-up quota raises its own error", "gateway"),
    "broken_stream": ("a stream that breaks off raises", "scripted"),
    "hang_up": ("a stream that is left is accounted for", "scripted"),
}


def table(findings: Mapping[str, Mapping[str, str | None]]) -> str:
    """What was found, as a Markdown table: a row a feature, a column a client."""
    names = list(findings)
    rows = [f"| | {' | '.join(names)} | upstream |", "|---|" + ":-:|" * len(names) + "---|"]
    for feature, (what, upstream) in FEATURES.items():
        marks = (_mark(findings[name], feature) for name in names)
        rows.append(f"| {what} | {' | '.join(marks)} | {upstream} |")
    return "\n".join(rows) + "\n"


def _mark(found: Mapping[str, str | None], feature: str) -> str:
    if feature not in found:
        return "–"
    return "✓" if found[feature] is None else "✗"
