"""This process as a node: it joins, renews its lease, takes in changes, buries the dead and holds roles.

Whether it may serve is decided without a look at the database (``may_serve``): its lease, counted by a clock of its own
from before the renewal was sent, less a margin. A process that was stopped and wakes up sees at once that its time is
over. A node renews only when it has taken in the changes that it had read of at the renewal before, so that one that
gets no changes, or cannot take them in, loses its lease; after a lapse it serves again only once it has taken in
everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from trustgate.cluster import changes, nodes, roles
from trustgate.cluster.changes import Announced, KnownChanges
from trustgate.cluster.database import DatabaseAway, DatabaseConnection, DatabaseSession
from trustgate.cluster.nodes import GiveBack, Identity, NodeBuried
from trustgate.cluster.roles import Role, Tenure
from trustgate.errors import Unavailable
from trustgate.tasks import end_tasks, wait_at_most

_logger = logging.getLogger("trustgate.cluster")

#: How long before its lease's end a node stops serving, as a part of the lease: far more than clocks run apart in it.
_MARGIN = 0.2
#: Renewals in the time of a lease.
RENEWALS = 4

#: What a role's holder does: it runs as long as the role is held, and is cancelled when it is lost.
Job = Callable[[Tenure], Awaitable[None]]


class Memory(Protocol):
    """A node's copy of the operators' changes."""

    async def load(self) -> None:
        """Load everything anew."""
        ...

    async def take_in(self, found: Sequence[Announced]) -> None:
        """Take in changes, in their order."""
        ...


def boot_time_s() -> float:
    """Returns the seconds since the machine started, those that it slept through included where the system has them."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


async def nothing_held(connection: DatabaseConnection, node_ids: Sequence[str]) -> None:
    """Give back nothing."""


class Member:
    """This process among the nodes of its database."""

    def __init__(
        self,
        identity: Identity,
        session: DatabaseSession,
        memory: Memory,
        *,
        give_back: GiveBack = nothing_held,
        predecessor: str = "",
        joins_anew: bool = True,
        lease_s: float,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """
        Args:
            identity: what other processes see of this one.
            session: a connection for this alone.
            memory: takes in what operators change.
            give_back: gives back what a dead node held.
            predecessor: the id of a node that is known to be dead; it is buried at once, whatever its lease.
            joins_anew: whether it joins as another node after it was buried; else ``run`` ends then.
            lease_s: how long a lease is. All nodes of a database have the same.
            clock: seconds; never set, and running while the machine sleeps.
        """
        self.identity = identity
        #: Its id now; another after a lease was lost. None: it is no node at the moment.
        self.node_id: str | None = None
        self._session = session
        self._memory = memory
        self._give_back = give_back
        self._predecessor = predecessor
        self._joins_anew = joins_anew
        #: It was buried, and does not join anew.
        self.is_ended = False
        self._lease_s = lease_s
        self._clock = clock
        #: Until when it may serve, by ``clock``.
        self._until_s = float("-inf")
        #: Until when it might serve, by ``clock``; kept when it loses that right.
        self._served_until_s = float("inf")
        self._taken_in = 0
        #: The newest change it has seen the number of.
        self._seen = 0
        #: Changes are read and taken in by one at a time: in their order.
        self._taking_in = asyncio.Lock()
        #: Called with the new id whenever it has joined.
        self.on_join: Callable[[str], None] | None = None
        self._noted = asyncio.Event()
        self._jobs: dict[Role, Job] = {}
        self._unfit: dict[str, str] = {}
        self._held: dict[Role, tuple[Tenure, asyncio.Task[None]]] = {}
        session.on_note(changes.CHANNEL, self._noted.set)

    # what the request path asks

    def may_serve(self) -> bool:
        """Returns whether requests may be admitted now. Cheap: one look at the clock."""
        return self._clock() < self._until_s

    def check_serving(self) -> None:
        """Check that requests may be admitted now.

        Raises:
            Unavailable: the database has not been reached for too long; with when to try again.
        """
        if self._clock() < self._until_s:
            return
        raise Unavailable(
            "The gateway has lost its database, and accepts no request before it is back.",
            code="store_unreachable",
            headers={"retry-after": str(max(1, round(self._lease_s / RENEWALS)))},
        )

    def known_changes(self) -> KnownChanges | None:
        """Returns what this process may decide by; None: it is no node at the moment, and its memory may be behind."""
        return None if self.node_id is None else KnownChanges(self.node_id, self._taken_in)

    @property
    def taken_in(self) -> int:
        """The number of the last change that its memory has."""
        return self._taken_in

    def left_s(self) -> float:
        """Returns how long it may serve without a renewal, seconds."""
        return max(0.0, self._until_s - self._clock())

    def lapsed_s(self) -> float:
        """Returns for how long it has not had the right to serve, seconds; 0.0: it has it, or never had it."""
        return max(0.0, self._clock() - self._served_until_s)

    # roles

    def while_holding(self, role: Role, job: Job) -> None:
        """Run ``job`` whenever this node holds the role; it competes for the role from now on."""
        self._jobs[role] = job
        self._noted.set()  # at once, where it runs already

    def cannot_hold(self, role: Role, why: str) -> None:
        """Never take the role: ``why`` is shown by ``status`` and ``doctor``."""
        self._jobs.pop(role, None)
        self._unfit[str(role)] = why
        _logger.warning("this process cannot be the %s: %s", role, why)

    def tenure(self, role: Role) -> Tenure | None:
        """Returns this node's tenure of a role; None: it does not hold it."""
        held = self._held.get(role)
        return None if held is None else held[0]

    # its life

    async def join(self) -> None:
        """Become a node and load what operators decided.

        Raises:
            DatabaseAway: the database cannot be reached.
        """
        sent_s = self._clock()
        async with self._session.use() as connection:
            if self._predecessor:
                await nodes.leave(connection, self._predecessor, self._give_back)
                self._predecessor = ""
            joined = await nodes.join(connection, self.identity, self._lease_s)
        await self._memory.load()
        self.node_id = joined.node_id
        self._taken_in = self._seen = max(self._taken_in, joined.last_change)
        if self.on_join is not None:
            self.on_join(joined.node_id)
        self._may_serve_from(sent_s)
        _logger.info("joined as %s", joined.node_id)

    async def run(self) -> None:
        """Stay a node: renew, take in, bury, hold roles.

        The loss of the database does not end it, and that of the lease only where it does not join anew.
        """
        while True:
            await self.renew()
            if self.is_ended:
                return
            await wait_at_most(self._noted, self._lease_s / RENEWALS)
            self._noted.clear()

    async def renew(self) -> None:
        """Do one turn of ``run``: join or renew the lease, take in changes, bury the dead, take roles.

        A failure is logged, and serving goes on until the lease is over.
        """
        try:
            await self._turn()
        except Unavailable as error:  # the memory's connection may be the one that was lost
            why = error.why if isinstance(error, DatabaseAway) else error.message
            _logger.warning("%s Serving goes on for %.1f s", why, self.left_s())
        except NodeBuried as error:
            _logger.warning("%s", error.message)
            await self._lose()
        except Exception:
            _logger.exception("the lease was not renewed")
        if not self.may_serve():
            await self._end_jobs()

    async def leave(self) -> None:
        """Stop being a node: its roles and what it held are free at once, where the database can be reached."""
        self._until_s = float("-inf")
        await self._end_jobs()
        node_id, self.node_id = self.node_id, None
        if node_id is not None:
            with contextlib.suppress(DatabaseAway):
                async with self._session.use() as connection:
                    await nodes.leave(connection, node_id, self._give_back)
        await self._session.close()

    async def take_in_now(self) -> None:
        """Take in every change that is committed, without waiting for the next turn.

        Raises:
            DatabaseAway: the database cannot be reached.
        """
        async with self._taking_in:
            async with self._session.use() as connection:
                found = await changes.read_after(connection, self._taken_in)
            await self._take_in(found)

    async def settle(self) -> None:
        """Take in every change that is committed, and wait until all other nodes have, or are buried.

        Raises:
            DatabaseAway: the database cannot be reached. The changes are made, and may not be in effect everywhere yet.
        """
        try:
            await self.take_in_now()
            await changes.wait_until_taken_in(self._session, self._taken_in, self._bury, _tell_waiting)
        except Unavailable as error:
            raise DatabaseAway(
                "The change is made, but the database went away before every process had taken it in.",
                hint="Each takes it in, or serves no more, within the time of a lease. See: trustgate node list",
            ) from error

    async def _turn(self) -> None:
        if self.node_id is None:
            await self.join()
        else:
            await self._renew_lease(self.node_id)
        async with self._session.use() as connection:
            await self._bury(connection)
        await self._take_roles()

    async def _bury(self, connection: DatabaseConnection) -> None:
        for node_id in await nodes.bury(connection, self._give_back):
            _logger.warning("buried %s: it did not renew its lease", node_id)

    async def _renew_lease(self, node_id: str) -> None:
        """Take in what is known to be there, then renew the lease, then take in what the renewal found."""
        if self._seen > self._taken_in:
            await self.take_in_now()
        sent_s = self._clock()
        async with self._session.use() as connection:
            renewal = await nodes.renew(connection, node_id, self._lease_s, self._taken_in, self._unfit)
        self._seen = max(self._seen, renewal.last_change)
        has_lapsed = not self.may_serve()
        if not has_lapsed:
            self._may_serve_from(sent_s)
        if renewal.last_change > self._taken_in:
            await self.take_in_now()
        if has_lapsed:
            self._may_serve_from(sent_s)

    async def _take_in(self, found: Sequence[Announced]) -> None:
        found = [change for change in found if change.number > self._taken_in]
        if not found:
            return
        await self._memory.take_in(found)
        self._taken_in = max(self._taken_in, found[-1].number)
        self._seen = max(self._seen, self._taken_in)
        if self.node_id is not None:
            async with self._session.use() as connection:
                await changes.report(connection, self.node_id, self._taken_in)

    async def _take_roles(self) -> None:
        for role, (tenure, task) in list(self._held.items()):
            if task.done():
                del self._held[role]
                _log_end(role, task)
                async with self._session.use() as connection:
                    await roles.release(connection, tenure)
        wanted = [role for role in self._jobs if role not in self._held]
        if not wanted or self.node_id is None or not self.may_serve():
            return
        async with self._session.use() as connection:
            taken = await roles.take(connection, self.node_id, wanted)
        for tenure in taken:
            _logger.info("this process is the %s now (epoch %d)", tenure.role, tenure.epoch)
            task = asyncio.ensure_future(self._jobs[tenure.role](tenure))
            self._held[tenure.role] = (tenure, task)

    async def _lose(self) -> None:
        self.node_id = None
        self._served_until_s = min(self._until_s, self._clock())
        self._until_s = float("-inf")
        await self._end_jobs()
        self.is_ended = not self._joins_anew
        self._noted.set()  # to join anew at once

    async def _end_jobs(self) -> None:
        held, self._held = self._held, {}
        await end_tasks(task for _, task in held.values())
        for role, (_, task) in held.items():
            _log_end(role, task)

    def _may_serve_from(self, sent_s: float) -> None:
        self._until_s = self._served_until_s = sent_s + self._lease_s * (1 - _MARGIN)


def _log_end(role: Role, task: asyncio.Task[None]) -> None:
    """Log what a job has ended with, where that is an error; asyncio would log it later, as of no known task."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Unavailable):  # the database went away; the role is taken anew when it is back
        _logger.warning("the job of the %s ended: %s", role, error.message)
    elif error is not None:
        _logger.error("the job of the %s ended", role, exc_info=error)


def _tell_waiting(addresses: list[str]) -> None:
    if addresses:
        _logger.info("a change waits for %s", ", ".join(addresses))
