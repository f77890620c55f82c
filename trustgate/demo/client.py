"""Requests as any client of the OpenAI API sends them, over a socket, and what came back.

Owns the client's side of what is seen: headers, bytes, pieces. Knows nothing of the gateway but its address.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from trustgate.admin.walk import ClientAnswer
from trustgate.errors import OperatorError

if TYPE_CHECKING:
    import httpx

PATH = "/v1/chat/completions"
MODEL = "trustgate/echo"

_TIMEOUT_S = 60.0
_EVENT = b"data: "


class Client:
    """Made by ``open_client``."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def chat(
        self, key: str, content: str, *, stream: bool = False, headers: Mapping[str, str] | None = None
    ) -> ClientAnswer:
        """Say something to the built-in model. Raises ``OperatorError`` where no answer comes."""
        import httpx

        asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
        request = msgspec.json.encode(asked | {"stream": True} if stream else asked)
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **(headers or {})}
        began = time.perf_counter()
        first = None
        body = bytearray()
        try:
            async with self._http.stream("POST", PATH, content=request, headers=sent) as response:
                async for piece in response.aiter_raw():
                    first = first or time.perf_counter()
                    body += piece
        except httpx.HTTPError as error:
            raise OperatorError(
                f"The demo's gateway closed the connection: {str(error) or type(error).__name__}.",
                hint="trustgate demo",
            ) from None
        ended = time.perf_counter()
        is_stream = response.headers["content-type"].startswith("text/event-stream")
        return ClientAnswer(
            request=request,
            url=str(response.url),
            status=response.status_code,
            headers=dict(response.headers),
            body=bytes(body),
            events=bytes(body).count(_EVENT) - 1 if is_stream else None,
            first_ms=((first or ended) - began) * 1000,
            total_ms=(ended - began) * 1000,
        )


@asynccontextmanager
async def open_client(address: str) -> AsyncIterator[Client]:
    import httpx

    # Whatever proxy the environment names: this goes to this machine itself.
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=_TIMEOUT_S) as http:
        yield Client(http)
