"""A thread that has a database to itself, and the work that is handed to it. What the database is, subclasses know."""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

from trustgate.errors import Unavailable
from trustgate.store.sql import SqlConnection, in_transaction

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=SqlConnection)


class Worker(ABC, Generic[C]):
    """``run`` does work on the thread; nothing else touches the connection."""

    #: After so long without work ``_idle`` is called, once; None: never.
    idle_s: ClassVar[float | None] = None

    def __init__(self, name: str) -> None:
        """``name``: of the thread."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        #: What waits for the next shared transaction. The thread takes it as a whole.
        self._together: list[tuple[Callable[[C], Any], Future[Any]]] = []
        self._taking = threading.Lock()
        self._closing = False
        #: Called within each shared transaction, after its work; what it gives is called once that is committed.
        self.count_together: Callable[[C], Callable[[], None]] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def _attempt(self, work: Callable[Concatenate[C, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``work(connection, …)``, the connection being open. Raises the database's errors as ours."""

    @abstractmethod
    def _end(self) -> None:
        """Close the connection, at the end of the thread."""

    def _idle(self) -> None:
        """What is done when there has been nothing to do for a while."""

    async def run(self, work: Callable[Concatenate[C, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``work(connection, …)`` on the writer thread. Raises what it raises, DuckDB's errors as ours."""
        return await self._submit(lambda: self._attempt(work, *args, **kwargs))

    async def _submit(self, work: Callable[[], R]) -> R:
        if self._closing:
            raise Unavailable("The database has been closed.", code="store_closed")
        future: Future[R] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return await asyncio.wrap_future(future)

    async def run_together(self, work: Callable[[C], R]) -> R:
        """``work(connection)`` within a transaction; the result is given once that is committed.

        Whatever else is to be done so at the same moment shares the transaction, in the order of the calls: a commit
        waits for the disk, and ten payments need not wait for it ten times. Where one of them fails each is done again
        by itself, so that ``work`` may be called twice. It is done whether or not its caller is cancelled meanwhile.
        """
        if self._closing:
            raise Unavailable("The database has been closed.", code="store_closed")
        future: Future[R] = Future()
        with self._taking:
            self._together.append((work, future))
            is_first = len(self._together) == 1
        if is_first:
            self._jobs.put(self._do_together)
        return await asyncio.shield(asyncio.wrap_future(future))

    async def close(self) -> None:
        """Finish what is queued, close the database, give up the lock. May be called twice."""
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    # On the thread from here on.

    def _work(self) -> None:
        timeout: float | None = None
        while True:
            try:
                job = self._jobs.get(timeout=timeout)
            except queue.Empty:
                timeout = None
                self._idle()
                continue
            if job is None:
                break
            job()
            del job  # it holds the caller's arguments
            timeout = self.idle_s
        self._end()

    def _do_together(self) -> None:
        with self._taking:
            taken, self._together = self._together, []
        try:
            results = self._attempt(self._transact, [work for work, _ in taken])
        except BaseException as error:  # noqa: BLE001 - it is a caller's
            if len(taken) > 1:
                for work, future in taken:
                    self._do_alone(work, future)
            else:
                taken[0][1].set_exception(error)
        else:
            for (_, future), result in zip(taken, results, strict=True):
                future.set_result(result)

    def _do_alone(self, work: Callable[[C], R], future: Future[R]) -> None:
        try:
            (result,) = self._attempt(self._transact, [work])
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        else:
            future.set_result(result)

    def _transact(self, connection: C, works: Sequence[Callable[[C], R]]) -> list[R]:
        committed: list[Callable[[], None]] = []

        def work_and_count(connection: C) -> list[R]:
            results = [work(connection) for work in works]
            if self.count_together is not None:
                committed.append(self.count_together(connection))
            return results

        results = in_transaction(connection, work_and_count)
        for tell in committed:
            tell()
        return results
