"""Results that tasks wait for (``Deferred``), and the end of tasks that run for ever.

A task can lose the one ``CancelledError`` that it gets: an error of a connection, raised while a transaction is rolled
back for it, takes its place and is handled as any other; and ``asyncio.wait_for`` of Python 3.11 returns normally where
what it waits for has just come (bpo-37658). Who then waits for its end waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

R = TypeVar("R")

#: How long a task gets to end before it is cancelled again, seconds.
AGAIN_S = 1.0


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks until they have ended. What they end with is theirs: nothing is raised."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)


async def wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, or for ``timeout_s`` seconds. Unlike ``asyncio.wait_for`` it loses no cancellation."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


class Deferred(Generic[R]):
    """The result of something that is under way: ``await`` gives it, or raises its error.

    Any number of tasks may wait, and one that is cancelled ends its own waiting alone. A future would be cancelled with
    the task that waits for it, and a second one that shields it costs three turns of the event loop.
    """

    __slots__ = ("_calls", "_error", "_is_done", "_loop", "_result", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """``loop``: the running one. To ask for it costs a system call in Python 3.11."""
        self._loop = loop
        self._is_done = False
        self._result: R | None = None
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._calls: list[Callable[[Deferred[R]], object]] | None = None

    def __await__(self) -> Generator[Any, None, R]:
        if not self._is_done:
            yield from self._waiter()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # it is None only where R is

    async def ended(self) -> None:
        """Wait until it is known, whether it is a result or an error."""
        if not self._is_done:
            await self._waiter()

    def done(self) -> bool:
        """Returns whether it is known."""
        return self._is_done

    @property
    def result(self) -> R | None:
        """The result; None where it failed, or is not known yet."""
        return self._result

    @property
    def error(self) -> BaseException | None:
        """What it failed with, if it did."""
        return self._error

    def on_end(self, call: Callable[[Deferred[R]], object]) -> None:
        """Call ``call`` with this once it is known; at once where it is known already."""
        if self._is_done:
            call(self)
        elif self._calls is None:
            self._calls = [call]
        else:
            self._calls.append(call)

    def succeed(self, result: R) -> None:
        """Give the result. Does nothing where it has ended already."""
        if not self._is_done:
            self._result = result
            self._end()

    def fail(self, error: BaseException) -> None:
        """Give the error. Does nothing where it has ended already."""
        if not self._is_done:
            self._error = error
            self._end()

    def _end(self) -> None:
        self._is_done = True
        waiters, calls = self._waiters, self._calls
        self._waiters = self._calls = None
        if waiters is not None:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if calls is not None:
            for call in calls:
                call(self)

    def _waiter(self) -> asyncio.Future[None]:
        waiter = self._loop.create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        return waiter
