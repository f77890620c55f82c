"""Ending a request before its time: its client hung up, its key was revoked, its deadline passed, we shut down.

``Cancellation`` is a context manager, built like ``asyncio.timeout``: ``cancel`` cancels the request's task where it
waits, and the block then raises ``RequestCancelled`` with the reason. ``InFlight`` is the list of all requests in
flight, by key, with the bound on how many there may be, in all and of one tenant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import Literal, Protocol

from trustgate.deadlines import Deadlines, overdue
from trustgate.errors import Unavailable
from trustgate.gateway.path.shares import Shares
from trustgate.tasks import wait_at_most

_logger = logging.getLogger("trustgate.server")

#: The connections that stay: in all, and of one tenant.
_MOST_SOCKETS = 1_024
_MOST_SOCKETS_OF_A_TENANT = 64

#: How often it is looked whether requests may go on that began while the database was there.
_LOOK_EVERY_S = 0.5
#: When a request's deadline is set and its client watched from, seconds. Nearly all requests end before, and cost one
#: timer instead of two.
SLOW_AFTER_S = 0.05
#: How long requests that were cut at the end get to be accounted for, seconds.
CUT_S = 5.0

#: Why a request is not admitted; "": it is.
NoRoom = Literal["", "draining", "full", "share"]
Reason = Literal[
    "client_gone",
    "client_stalled",
    "key_revoked",
    "account_inactive",
    "deadline",
    "unpaid",
    "database_away",
    "shutdown",
]


class RequestCancelled(Exception):
    """The request was ended early. Never leaves the gateway room."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def no_room(reason: NoRoom) -> Unavailable:
    """Returns the refusal (503) of a request that is not admitted."""
    if reason == "draining":
        return Unavailable(
            "The gateway is shutting down.", code="shutting_down", headers={"retry-after": "5"}, retryable=True
        )
    return Unavailable(
        "The gateway is at its limit of concurrent requests."
        if reason == "full"
        else "This account has its share of the gateway's concurrent requests: the rest is for others.",
        code="overloaded",
        headers={"retry-after": "1"},
        retryable=True,
    )


class Sending(Protocol):
    """An answer on its way to a client."""

    #: Since when the client has taken in nothing of what it is being given, in the loop's time; None: nothing waits.
    waiting_since: float | None
    gone: bool


class Releasable(Protocol):
    """What a request has of something that others need too."""

    def release(self) -> None:
        """Give it back, where it has not been."""
        ...


class OpenSocket(Protocol):
    """A connection that stays between requests, each of which is one in flight of its own."""

    key_id: str
    tenant_id: str

    def end(self, reason: Reason) -> None: ...


class Cancellation:
    """One request in flight, as it may be ended from outside. It has its place from ``InFlight.admit`` to the end of
    its block, so the block must be entered.
    """

    __slots__ = (
        *("_cancelling", "_deadlines", "_task", "is_slow", "key_id", "on_slow", "reason", "reply", "room", "running"),
        *("slot", "tenant_id"),
    )

    def __init__(self, running: InFlight, key_id: str, tenant_id: str) -> None:
        self.running = running
        self.key_id = key_id
        self.tenant_id = tenant_id
        self.reason: Reason | None = None
        #: What its client is given, once there is something.
        self.reply: Sending | None = None
        #: What it holds besides its place, given back with it: one of its caller's parallel requests, memory.
        self.slot: Releasable | None = None
        self.room: Releasable | None = None
        #: Whether it has run for longer than ``SLOW_AFTER_S``, as ``InFlight`` finds out; what is called when it has.
        self.is_slow = False
        self.on_slow: Callable[[], None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._deadlines: Deadlines | None = None
        self._cancelling = 0

    def cancel(self, reason: Reason) -> None:
        """End the request. Only the first call counts; after the block has ended, none does."""
        if self.reason is None and self._task is not None:
            self.reason = reason
            self._task.cancel()

    def turn_slow(self) -> None:
        """Set its deadline, and have its client watched. Called once it has run for longer than ``SLOW_AFTER_S``."""
        self.is_slow = True
        deadlines = self.running.deadlines
        if deadlines is not None:
            self._deadlines = deadlines
            deadlines.set(self._is_late)
        if self.on_slow is not None:
            self.on_slow()

    def _is_late(self) -> None:
        self.cancel("deadline")

    def __enter__(self) -> Cancellation:
        running = self.running
        task = asyncio.current_task(running.loop())
        assert task is not None, "a cancellation is held inside a task"
        self._task = task
        self._cancelling = task.cancelling()
        running.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.room is not None:
            self.room.release()
        if self.slot is not None:
            self.slot.release()
        self.running.discard(self)
        if self._deadlines is not None:
            self._deadlines.discard(self._is_late)
        task, self._task = self._task, None
        # Cancelled by ``cancel`` alone, not by another caller as well (compare asyncio.Timeout).
        if (
            self.reason is not None
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise RequestCancelled(self.reason) from error


class InFlight:
    """The requests in flight: at most ``most`` at once, each for at most ``timeout_s`` seconds (0: for ever).

    One tenant has at most its share of them (``shares``), so that there is room for the others.
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self.shares = Shares(most)
        #: The requests in flight in the order in which they came, with when each counts as slow, in the loop's time.
        #: Those that do stand in ``_slow`` instead.
        self._quick: dict[Cancellation, float] = {}
        self._slow: set[Cancellation] = set()
        #: Set while there are quick ones: nearly all end before it, so that one timer does for all of them.
        self._timer: asyncio.TimerHandle | None = None
        self._sockets: set[OpenSocket] = set()
        #: Whether a key whose requests are cut is revoked itself; else its tenant is suspended.
        self.is_revoked: Callable[[str], bool] = lambda _: True
        #: Called whenever there may be more room than before.
        self.on_room: list[Callable[[], None]] = []
        #: Set when the last request has ended; None: nothing waits for that.
        self._emptied: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._set_timeout(timeout_s)
        #: Whether the end has begun: connections that stay are closed, requests that still come are admitted.
        self.stopping = False
        #: Whether requests should be sent elsewhere: no other process takes the place of this one.
        self.leaving = False
        #: Whether no request is admitted any more.
        self.draining = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """Returns the running loop, kept from the first call: to ask for it is a system call in Python 3.11."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    @timeout_s.setter
    def timeout_s(self, timeout_s: float) -> None:
        """Of requests from now on."""
        if timeout_s != self._timeout_s:
            self._set_timeout(timeout_s)

    def _set_timeout(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._slow_s = slow_s = min(SLOW_AFTER_S, timeout_s) if timeout_s else SLOW_AFTER_S
        #: When a request is late, from when it counts as slow on; None: never.
        self.deadlines = Deadlines(timeout_s - slow_s) if timeout_s else None

    @property
    def most(self) -> int:
        return self.shares.most

    @most.setter
    def most(self, most: int) -> None:
        self.shares.most = most
        self.room_came()

    def has_room(self, tenant_id: str, coming: int = 0, coming_of: int = 0) -> bool:
        """Returns whether a request of the tenant is admitted; ``coming`` and ``coming_of`` as in ``why_not``."""
        return not self.draining and self.shares.has_room(tenant_id, 1, coming, coming_of)

    def room_came(self) -> None:
        """Call what waits for room: there may be more than before."""
        for call in self.on_room:
            call()

    def admit(self, key_id: str, tenant_id: str) -> Cancellation:
        """Admit one more request.

        Raises ``Unavailable`` (503) when the gateway is full or shutting down, or when the tenant has its share of it.
        """
        if self.draining or not self.shares.take_if_room(tenant_id, 1):
            raise no_room(self.why_not(tenant_id))
        return Cancellation(self, key_id, tenant_id)

    def why_not(self, tenant_id: str, coming: int = 0, coming_of: int = 0) -> NoRoom:
        """Returns why a request of the tenant is not admitted; "": it is.

        ``coming`` and ``coming_of``: how many are admitted before it, in all and of this tenant.
        """
        if self.draining:
            return "draining"
        if self.shares.has_room(tenant_id, 1, coming, coming_of):
            return ""
        return "full" if self.shares.is_full else "share"

    def add(self, cancellation: Cancellation) -> None:
        loop = self._loop or self.loop()
        self._quick[cancellation] = at = loop.time() + self._slow_s
        if self._timer is None:
            self._timer = loop.call_at(at, self._look)

    def discard(self, cancellation: Cancellation) -> None:
        self.shares.give_back(cancellation.tenant_id, 1)
        if self._quick.pop(cancellation, None) is None:
            self._slow.discard(cancellation)
        if self._emptied is not None and not len(self):
            self._emptied.set()
        if self.on_room:
            self.room_came()

    def _look(self) -> None:
        """Find the requests that count as slow by now."""
        self._timer = None
        for cancellation in overdue(self._quick, self.loop().time()):
            del self._quick[cancellation]
            self._slow.add(cancellation)
            cancellation.turn_slow()
        if self._quick:
            self._timer = self.loop().call_at(next(iter(self._quick.values())), self._look)

    def __iter__(self) -> Iterator[Cancellation]:
        """The requests in flight; they may end meanwhile."""
        return iter([*self._quick, *self._slow])

    def __len__(self) -> int:
        return len(self._quick) + len(self._slow)

    def open_socket(self, socket: OpenSocket) -> None:
        """Keep a connection that stays. Raises ``Unavailable`` (503) where there are too many, or the end has come."""
        of_tenant = sum(each.tenant_id == socket.tenant_id for each in self._sockets)
        if self.stopping or len(self._sockets) >= _MOST_SOCKETS or of_tenant >= _MOST_SOCKETS_OF_A_TENANT:
            raise no_room("draining" if self.stopping else "share" if len(self._sockets) < _MOST_SOCKETS else "full")
        self._sockets.add(socket)

    def close_socket(self, socket: OpenSocket) -> None:
        self._sockets.discard(socket)

    def cut_keys(self, key_ids: Collection[str]) -> None:
        for socket in [socket for socket in self._sockets if socket.key_id in key_ids]:
            socket.end(self._why_dead(socket.key_id))
        for cancellation in self:
            if cancellation.key_id in key_ids:
                cancellation.cancel(self._why_dead(cancellation.key_id))

    def _why_dead(self, key_id: str) -> Reason:
        return "key_revoked" if self.is_revoked(key_id) else "account_inactive"

    async def cut_stalled(self, after_s: Callable[[], float]) -> None:
        """For ever: cut what waits for a client that has taken in nothing for so long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, after_s() / 4))
            before = loop.time() - after_s()
            for cancellation in self:
                reply = cancellation.reply
                if reply is not None and reply.waiting_since is not None and reply.waiting_since < before:
                    reply.gone = True
                    cancellation.cancel("client_stalled")

    async def cut_unchecked(self, lapsed_s: Callable[[], float], after_s: Callable[[], float]) -> None:
        """For ever: cut all requests some time after the right to serve was lost; their keys may have been revoked.

        Args:
            lapsed_s: Returns how long ago the right to serve was lost, seconds; 0: it was not.
            after_s: Returns for how long requests that run then may go on, seconds.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if len(self) and (lapsed := lapsed_s()) and lapsed >= after_s():
                for cancellation in self:
                    cancellation.cancel("database_away")

    def begin_stop(self) -> None:
        """Close connections that stay: each request that still comes is the last one of its connection."""
        self.stopping = True
        for socket in list(self._sockets):
            socket.end("shutdown")

    async def drain(self, grace_s: float) -> None:
        """Admit no request, wait for those that run, and cut what is left after ``grace_s`` seconds.

        What was cut has ``CUT_S`` seconds to be accounted for; what takes longer is in the journal, or as if this
        process were killed now.
        """
        self.begin_stop()
        self.draining = True
        emptied = self._emptied = asyncio.Event()
        if not len(self):
            return
        try:
            await asyncio.wait_for(emptied.wait(), grace_s)
        except TimeoutError:
            for cancellation in self:
                cancellation.cancel("shutdown")
            await wait_at_most(emptied, CUT_S)
            if len(self):
                _logger.warning("stopping: %d requests that were cut are not waited for any more", len(self))
