"""The built-in model's routes. A path is recognised by its end alone, so any prefix of a base URL works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from trustgate.models.echo.chat import chat, complete
from trustgate.models.echo.embeddings import embed
from trustgate.models.echo.forms import ECHO_MODEL, EchoRefusal, json_response
from trustgate.models.echo.messages import count_message, message
from trustgate.models.echo.responses import KeptResponses

_MADE_AT_S = 1735689600  # 2025-01-01


class EchoTransport(httpx.AsyncBaseTransport):
    """Answers requests for the paths of the OpenAI API and of Anthropic's Messages, under any host and prefix."""

    def __init__(self) -> None:
        self._kept = KeptResponses()
        self._routes: tuple[tuple[str, str, Callable[[bytes], httpx.Response]], ...] = (
            # "/chat/completions" ends in "/completions" too, so it stands first.
            ("/chat/completions", "POST", chat),
            ("/completions", "POST", complete),
            ("/embeddings", "POST", embed),
            ("/responses/input_tokens", "POST", self._kept.count),
            ("/responses", "POST", self._kept.respond),
            ("/messages/count_tokens", "POST", count_message),
            ("/messages", "POST", message),
            ("/models", "GET", _models),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        path = request.url.path
        try:
            return self._answer(request.method, path, body)
        except EchoRefusal as refused:
            return refused.response(is_messages=path.endswith(("/messages", "/messages/count_tokens")))

    def _answer(self, method: str, path: str, body: bytes) -> httpx.Response:
        for ending, expected, answer in self._routes:
            if path.endswith(ending):
                if method != expected:
                    raise EchoRefusal(405, f"{method} is not allowed here; use {expected}.", "method_not_allowed")
                return answer(body)
        if method == "GET" and path.endswith("/models/" + ECHO_MODEL):
            return json_response(_model_card())
        _, found, place = path.rpartition("/responses/")
        looked = self._kept.look(method, *place.split("/")) if found else None
        if looked is not None:
            return looked
        raise EchoRefusal(404, f"{ECHO_MODEL} has nothing at {method} {path}.", "not_found")


def _models(_body: bytes) -> httpx.Response:
    return json_response({"object": "list", "data": [_model_card()]})


def _model_card() -> dict[str, Any]:
    return {"id": ECHO_MODEL, "object": "model", "created": _MADE_AT_S, "owned_by": "trustgate"}
