"""A plugin for pytest in OpenAI's own suite: notes the requests of its tests, and calls with a key of ours.

Loaded by ``python -m tests.peers`` into the suite's own interpreter, so it imports nothing of this project.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import openai

_RECORD = os.environ.get("PEERS_RECORD")
_KEY = os.environ.get("PEERS_KEY")


def _recording(send: Any) -> Any:
    def recorded(self: Any, request: Any, **options: Any) -> Any:
        try:
            body = request.read().decode("utf-8", "replace")
        except Exception:  # noqa: BLE001 - a body that is made while it is sent is not noted
            body = ""
        with Path(f"{_RECORD}.{os.getpid()}").open("a") as file:
            file.write(json.dumps([request.method, request.url.path, body]) + "\n")
        return send(self, request, **options)

    return recorded


def _with_key(init: Any) -> Any:
    def with_key(self: Any, **options: Any) -> None:
        # What is refused is refused the second time as well: waiting for that makes the suite ten times as long.
        init(self, **{**options, "api_key": _KEY, "max_retries": 0})

    return with_key


if _RECORD:
    httpx2.Client.send = _recording(httpx2.Client.send)  # type: ignore[method-assign]
if _KEY:
    for client in (openai.OpenAI, openai.AsyncOpenAI):
        client.__init__ = _with_key(client.__init__)  # type: ignore[method-assign]
