"""httpx over HTTP/2: one connection for all requests, several of them at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from tests.clients.programs.report import HELLO, REPLY, TEXT, equal, given
from tests.clients.programs.wire import report_all

_OPTIONS: dict[str, Any] = {"http1": False, "http2": True, "base_url": given.origin, "timeout": 30, "trust_env": False}
http = httpx.Client(**_OPTIONS)


@dataclass(frozen=True)
class Said:
    status: int
    body: bytes


def ask(method: str, path: str, body: Any, headers: dict[str, str], key: str) -> Said:
    headers = {**headers, "authorization": f"Bearer {key}"}
    answer = (
        http.request(method, path, json=body, headers=headers) if body is not None else http.get(path, headers=headers)
    )
    equal(answer.http_version, "HTTP/2")
    return Said(answer.status_code, answer.content)


def transcriptions() -> None:
    form: dict[str, Any] = {"data": {"model": "scripted"}, "files": {"file": ("a.wav", b"RIFF" * 50_000)}}
    answer = http.post("/v1/audio/transcriptions", headers={"authorization": f"Bearer {given.key}"}, **form)
    equal(answer.json()["text"], TEXT)


async def _many() -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO}
    headers = {"authorization": f"Bearer {given.key}"}
    async with httpx.AsyncClient(**_OPTIONS, headers=headers) as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(16)))
    equal({answer.json()["choices"][0]["message"]["content"] for answer in answers}, {REPLY})


def chat() -> None:
    asyncio.run(_many())


def hang_up() -> None:
    body = {"model": "endless", "messages": HELLO, "stream": True}
    headers = {"authorization": f"Bearer {given.key}"}
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    equal(http.get("/health").status_code, 200)  # the stream has ended, the connection lives


if __name__ == "__main__":
    report_all(ask, chat=chat, transcriptions=transcriptions, hang_up=hang_up)
