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

    def __init__(
        self,
        check: HealthCheck,
        notes: Callable[[], Sequence[str]] = tuple,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """``notes``: what is worth knowing and keeps it from nothing. ``is_stopping``: requests should go elsewhere."""
        self._check = check
        self._is_stopping = is_stopping
        self._notes = notes

    async def alive(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_stopping():
            await send_json(send, {"status": "stopping"}, status=503)
            return
        await send_json(send, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._check()
        is_ready = all(state == "ok" for state in parts.values())
        state: dict[str, object] = {"status": "ready" if is_ready else "not_ready", "checks": parts}
        notes = self._notes()
        if notes:
            state["notes"] = list(notes)
        await send_json(send, state, status=200 if is_ready else 503)
