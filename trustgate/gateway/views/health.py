"""Whether the gateway is alive (``/health``) and ready to serve (``/ready``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import Receive, Scope, Send

from trustgate.http.sending import send_json


class HealthCheck(Protocol):
    def __call__(self) -> dict[str, str]:
        """Of each part the gateway needs: ``ok``, or what is wrong with it."""


class Health:
    """``GET /health`` (the process answers) and ``GET /ready`` (it could serve a request): no key needed."""

    def __init__(self, check: HealthCheck, notes: Callable[[], Sequence[str]] = tuple) -> None:
        """``notes``: what is worth knowing and keeps it from nothing."""
        self._check = check
        self._notes = notes

    async def alive(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._check()
        is_ready = all(state == "ok" for state in parts.values())
        state: dict[str, object] = {"status": "ready" if is_ready else "not_ready", "checks": parts}
        notes = self._notes()
        if notes:
            state["notes"] = list(notes)
        await send_json(send, state, status=200 if is_ready else 503)
