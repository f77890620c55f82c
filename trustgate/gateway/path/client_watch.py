"""Noticing that the client of a request hung up, before its answer has been sent."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.types import Receive

from trustgate.deadlines import Deadlines
from trustgate.gateway.path.inflight import Cancellation
from trustgate.gateway.path.reply import Reply

#: A client that hangs up sooner is noticed when the answer is sent; watching earlier would cost every quick request.
WATCH_AFTER_S = 0.05


class ClientWatch(msgspec.Struct, eq=False):
    """Notices that the client hung up, once its request runs for longer than a moment.

    Pulls the cancellation, unless the plan wants the upstream read to its end: then the reply just falls silent.
    """

    receive: Receive
    reply: Reply
    cancellation: Cancellation
    #: Of ``WATCH_AFTER_S``, shared by all requests.
    deadlines: Deadlines
    drain: bool
    task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The request has arrived whole: the client's next message is its disconnect."""
        self.deadlines.set(self._start)

    def gone(self) -> None:
        """The client hung up before its request had arrived whole."""
        self.reply.gone = True
        self.cancellation.cancel("client_gone")

    def _start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.reply.gone = True
        if not self.drain:
            self.cancellation.cancel("client_gone")

    def stop(self) -> None:
        self.deadlines.discard(self._start)
        if self.task is not None:
            self.task.cancel()
