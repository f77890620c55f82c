"""What all connections of a listener share: the application, the turns in which requests start, and the end of all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from email.utils import formatdate
from typing import Any, Protocol

from starlette.types import ASGIApp, Scope

from trustgate.http.capacity import Idle
from trustgate.http.exchange import Exchange
from trustgate.http.parser import RequestHead
from trustgate.http.refusals import Refusals, Shed
from trustgate.http.starts import Starts
from trustgate.http.timeouts import ConnectionTimeouts
from trustgate.outbox import Outbox
from trustgate.tasks import end_tasks

#: How long a connection is kept for its next request, or its first, once the listener ends; from its last answer on.
KEPT_S = 0.5
#: How often it is looked which connections have ended.
_LOOK_S = 0.02


class Connected(Protocol):
    """A connection, as the end of all sees it."""

    transport: asyncio.Transport

    @property
    def is_new(self) -> bool: ...
    def idle_since(self) -> float | None: ...
    def give_way(self) -> bool: ...
    def end_when_idle(self, kept_s: float) -> bool: ...
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
        self.outbox = Outbox(self.loop)
        self._starts = Starts(self.loop, self._run)
        self.refusals = Refusals(self.loop, shed)
        self.connections: set[Connected] = set()
        #: Whether the listener ends: each answer is the last one of its connection. Since when, in the loop's time.
        self.closing = False
        self.closing_since = 0.0
        #: Set when no connection is kept for its first request any more.
        self.settled = asyncio.Event()
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
        if exchange.is_abandoned():
            self.begun(exchange.head)
            return False
        # It takes itself out of the set: a callback of the task would be one more turn for each request. Made without
        # the loop's help, and with a name, since making one up costs a tenth of the task.
        task = exchange.task = asyncio.Task(exchange.run(self.app, scope), loop=self.loop, name="request")
        self.tasks.add(task)
        return True

    def idle(self) -> Iterator[Idle]:
        """Yields the connections that are idle."""
        for connection in self.connections:
            since = connection.idle_since()
            if since is not None:
                yield Idle(not connection.is_new, since, connection.give_way)

    def begin_closing(self) -> None:
        """Have each answer from now on be the last one of its connection, with ``connection: close``."""
        if not self.closing:
            self.closing = True
            self.closing_since = self.loop.time()

    async def close(self, grace_s: float) -> None:
        """End each connection with its next answer, or once it has been idle for ``KEPT_S``; after ``grace_s`` all.

        A client, or the pool of a proxy, may be about to send a request on a connection that is kept: closed at once,
        it would be lost. One that has been idle for longer when this begins is closed at once.
        """
        self.begin_closing()
        until = self.loop.time() + grace_s
        while self.loop.time() < until:
            self.tasks -= {task for task in self.tasks if task.done()}
            kept = [connection for connection in list(self.connections) if connection.end_when_idle(KEPT_S)]
            if not any(connection.is_new for connection in kept):
                self.settled.set()
            if not (kept or self.tasks or self._starts.are_waiting or self.refusals.are_waiting):
                break
            await asyncio.sleep(_LOOK_S)
        self.settled.set()
        for connection in list(self.connections):
            connection.end_when_idle(0.0)
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
