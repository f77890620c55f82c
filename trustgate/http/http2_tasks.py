"""The applications that run on the requests of a connection of HTTP/2, and what each has not read of its request."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.config import Config
from starlette.types import Message

_logger = logging.getLogger("trustgate.server")


class Tasks(TaskGroup):
    """Runs the applications of a connection. A request that one leaves unread holds up no other stream."""

    def spawn_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._task_group.create_task(coroutine)

    #: Called with how many bytes of its body were read, for the request that is begun next.
    on_read: Callable[[int], Awaitable[None]] | None = None

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        events = _Events(self.on_read)

        async def run() -> None:
            # It is cancelled only together with its whole connection: then there is nothing to end.
            try:
                await app(scope, events.get, send, None, None)
            except Exception:
                _logger.exception("internal error in a request")
            await events.close()
            await send(None)

        self.spawn(run)
        return events.put


class _Events:
    """The ASGI events of a request. Their bound is the stream's window: what is unread is not acknowledged."""

    def __init__(self, on_read: Callable[[int], Awaitable[None]] | None) -> None:
        self._on_read = on_read
        self._body = bytearray()
        self._is_whole = False
        self._is_told = False
        self._is_gone = False
        self._is_closed = False
        self._others: deque[Message] = deque()
        self._woken = asyncio.Event()

    async def put(self, message: Message) -> None:
        if message["type"] == "http.request":
            if self._is_closed:
                await self._read(len(message["body"]))
                return
            self._body += message["body"]
            self._is_whole = not message["more_body"]
        elif message["type"] == "http.disconnect":
            self._is_gone = True
        else:
            self._others.append(message)
        self._woken.set()

    async def get(self) -> Message:
        while True:
            if self._others:
                return self._others.popleft()
            if self._is_gone:
                return {"type": "http.disconnect"}
            if self._body or (self._is_whole and not self._is_told):
                body, self._body = bytes(self._body), bytearray()
                self._is_told = self._is_whole
                await self._read(len(body))
                return {"type": "http.request", "body": body, "more_body": not self._is_told}
            self._woken.clear()
            await self._woken.wait()

    async def close(self) -> None:
        """Drop what is unread: the application has ended."""
        self._is_closed = True
        size = len(self._body)
        self._body.clear()
        await self._read(size)

    async def _read(self, size: int) -> None:
        if size and self._on_read is not None:
            await self._on_read(size)
