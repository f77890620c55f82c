"""What all connections of a listener share: the application, the turns in which requests start, and the end of all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from email.utils import formatdate
from typing import Any, Protocol

from starlette.types import ASGIApp, Scope

from trustgate.http.exchange import Exchange
from trustgate.http.parser import RequestHead
from trustgate.http.refusals import Refusals, Shed
from trustgate.http.starts import Starts
from trustgate.http.timeouts import ConnectionTimeouts
from trustgate.tasks import end_tasks

#: How long the end of a listener waits for the first request of a connection.
FIRST_REQUEST_S = 0.5


class Connected(Protocol):
    """A connection, as the end of all sees it."""

    transport: asyncio.Transport

    @property
    def is_new(self) -> bool: ...
    def end_when_idle(self) -> None: ...
    def close(self) -> None: ...


class Door:
    """See the module."""

    def __init__(
        self,
        app: ASGIApp,
        hand_over: Callable[[Any], None],
        timeouts: ConnectionTimeouts,
        shed: Shed | None = None,
        websockets: Collection[bytes] = (),
    ) -> None:
        """
        Args:
            app: what answers.
            hand_over: takes connections that speak something else than HTTP/1.1.
            shed: is asked of each request when it comes.
            websockets: the paths on which one may be asked for.
        """
        self.app = app
        self.timeouts = timeouts
        self.hand_over = hand_over
        self.shed = shed
        self.websockets = websockets
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self._starts = Starts(self.loop, self._run)
        self.refusals = Refusals(self.loop, shed)
        self.connections: set[Connected] = set()
        self.closing = False
        self._date = b""
        self._date_s = 0

    def date(self) -> bytes:
        """Returns the field ``date`` (RFC 9110 section 6.6.1), made once a second."""
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = b"date: %b\r\n" % formatdate(now_s, usegmt=True).encode()
        return self._date

    def begun(self, head: RequestHead) -> None:
        """The application begins with a request, or never will."""
        if self.shed is not None:
            self.shed.begun(head)

    def start(self, exchange: Exchange, scope: Scope, *, is_first: bool) -> None:
        """Run the application on a request, now or in one of the next turns. ``is_first``: of its connection."""
        self._starts.add((exchange, scope), is_first=is_first)

    def _run(self, request: tuple[Exchange, Scope]) -> bool:
        """Returns whether the application runs on it."""
        exchange, scope = request
        if exchange.is_abandoned:
            self.begun(exchange.head)
            return False
        # It takes itself out of the set: a callback of the task would be one more turn for each request.
        task = exchange.task = self.loop.create_task(exchange.run(self.app, scope))
        self.tasks.add(task)
        return True

    async def close(self, grace_s: float) -> None:
        """End idle connections at once, others with their request, and after ``grace_s`` seconds all.

        A connection without a request yet is given a moment: its client is about to send one, and where several
        processes share the port it would be refused by the one that ends.
        """
        self.closing = True
        new_until = self.loop.time() + min(grace_s, FIRST_REQUEST_S)
        while any(connection.is_new for connection in self.connections) and self.loop.time() < new_until:
            for connection in list(self.connections):
                if not connection.is_new:
                    connection.end_when_idle()
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.end_when_idle()
        until = self.loop.time() + grace_s
        while (self.tasks or self._starts.are_waiting or self.refusals.are_waiting) and self.loop.time() < until:
            self.tasks -= {task for task in self.tasks if task.done()}
            if self.tasks:
                await asyncio.wait(set(self.tasks), timeout=until - self.loop.time())
            else:
                await asyncio.sleep(0)
        self._starts.clear()
        self.refusals.clear()
        await end_tasks(self.tasks)
        for connection in list(self.connections):
            connection.close()
        # Closing flushes what is still to be sent: only a client that does not read is cut.
        for _ in range(int(self.timeouts.closing_s / 0.05)):
            if not self.connections:
                return
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()
