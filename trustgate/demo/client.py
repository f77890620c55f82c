"""Requests as any client of the OpenAI API sends them, over a socket, and what came back.

Owns the client's side of what is seen: headers, bytes, pieces. Knows nothing of the gateway but its address.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from trustgate.errors import OperatorError

if TYPE_CHECKING:
    import httpx

PATH = "/v1/chat/completions"
MODEL = "trustgate/echo"

_TIMEOUT_S = 60.0
_EVENT = b"data: "
_END = b"data: [DONE]"


class ClientAnswer(NamedTuple):
    """A request, byte for byte, and what its client got."""

    request: bytes
    url: str
    status: int
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes
    #: Events of a stream before its end; None where the answer was no stream.
    events: int | None
    #: Until the first byte of the body, and until its last, milliseconds.
    first_ms: float
    total_ms: float

    @property
    def receipt_id(self) -> str | None:
        return self.headers.get("x-trustgate-receipt")

    @property
    def text(self) -> str:
        """What was said: of a chat completion, streamed or not; else the message of the error."""
        if self.events is not None:
            chunks = [msgspec.json.decode(line[len(_EVENT) :]) for line in self._lines() if line != _END]
            return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
        document = msgspec.json.decode(self.body)
        said = document["error"]["message"] if "error" in document else document["choices"][0]["message"]["content"]
        return str(said)

    @property
    def code(self) -> str:
        """The code of an error; "" where it is none."""
        return "" if self.status == 200 else str(msgspec.json.decode(self.body)["error"]["code"])

    def _lines(self) -> list[bytes]:
        return [line for line in self.body.split(b"\n\n") if line.startswith(_EVENT)]


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
