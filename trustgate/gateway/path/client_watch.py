"""Noticing that the client of a request hung up, before its answer has been sent."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.types import Receive

from trustgate.gateway.api.uploads import Payload, Upload
from trustgate.gateway.path.inflight import Cancellation
from trustgate.gateway.path.reply import Reply


class ClientWatch(msgspec.Struct, eq=False):
    """Notices that the client hung up, once its request runs for longer than a moment (``inflight.SLOW_AFTER_S``).

    A client that hangs up sooner is noticed when the answer is sent: watching earlier would cost every quick request.
    The request is cancelled then. Where the plan has the upstream read to its end (``drain``), it goes on, and nothing
    more is sent.
    """

    receive: Receive
    reply: Reply
    cancellation: Cancellation
    #: The plan's: the upstream is read to its end for a client that has gone.
    drain: bool
    task: asyncio.Task[None] | None = None

    def begin_behind(self, body: Payload) -> None:
        """Watch from the end of the request's body on, which may still arrive."""
        if isinstance(body, Upload) and not body.is_whole:
            body.on_end = self._begin
            body.on_gone = self._gone
        elif self.cancellation.is_slow:
            self._start()
        else:
            self.cancellation.on_slow = self._start

    def _begin(self) -> None:
        """The request has arrived whole: the client's next message is its disconnect."""
        if self.cancellation.is_slow:
            self._start()
        else:
            self.cancellation.on_slow = self._start

    def _gone(self) -> None:
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
        """Stop watching."""
        self.cancellation.on_slow = None
        task = self.task
        if task is not None:
            self.task = None  # its frames hold this
            task.cancel()
