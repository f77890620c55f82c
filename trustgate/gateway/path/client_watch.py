"""Noticing that the client of a request hung up, before its answer has been sent."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from trustgate.deadlines import Deadlines
from trustgate.gateway.path.inflight import Cancellation
from trustgate.gateway.path.reply import Reply

#: A client that hangs up sooner is noticed when the answer is sent; watching earlier would cost every quick request.
WATCH_AFTER_S = 0.05


class ClientWatch:
    """Notices that the client hung up, once its request runs for longer than a moment.

    Pulls the cancellation, unless the plan wants the upstream read to its end: then the reply just falls silent.
    """

    __slots__ = ("_cancellation", "_deadlines", "_drain", "_receive", "_reply", "_task")

    def __init__(
        self, receive: Receive, reply: Reply, cancellation: Cancellation, deadlines: Deadlines, *, drain: bool
    ) -> None:
        """``deadlines``: of ``WATCH_AFTER_S``, shared by all requests."""
        self._receive = receive
        self._reply = reply
        self._cancellation = cancellation
        self._drain = drain
        self._task: asyncio.Task[None] | None = None
        self._deadlines = deadlines

    def begin(self) -> None:
        """The request has arrived whole: the client's next message is its disconnect."""
        self._deadlines.set(self._start)

    def gone(self) -> None:
        """The client hung up before its request had arrived whole."""
        self._reply.gone = True
        self._cancellation.cancel("client_gone")

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._reply.gone = True
        if not self._drain:
            self._cancellation.cancel("client_gone")

    def stop(self) -> None:
        self._deadlines.discard(self._start)
        if self._task is not None:
            self._task.cancel()
