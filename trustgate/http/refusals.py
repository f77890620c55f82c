"""The requests that have no room: they wait at the door for a moment, and are refused where none comes.

Under overload most requests are refused, and the time that this takes is missing for those that are served. So refusals
get a measured share of the event loop's time, and a request without room waits as bytes in its connection: no exchange,
no task. What is promised:

- Room is given at once. A request of a tenant that has room, and none of whose requests wait, does not wait. Room that
  comes while requests wait goes to those of a tenant that may have it, in the order of their deadlines, in the next
  turn of the loop; tenants take turns. No request waits behind those of another tenant.
- A request that has found no room is refused after ``HOLD_S`` while refusals have taken less than their share of the
  time, ``TIME_SHARE``, and after ``MOST_S`` whatever they have taken; both in one of the next turns of the loop,
  each of which refuses at most ``MAX_REFUSED_PER_TURN``.
- A client in a loop waits for longer. A request that comes at once (``AT_ONCE_S``) after the answer or the refusal of
  the same request is refused after ``HOLD_AT_ONCE_S``, and after ``MOST_AT_ONCE_S`` at most, which is a refusal's
  ``retry-after``. So a connection gets one or two refusals a second, and none while room comes for all connections in
  that time. No other client waits with it, even where a proxy sends requests of several clients through one connection:
  a request with other fields is another request.
- Requests that came together in one piece are refused one after another, without a wait for each, while refusals have
  time left.
- Requests that wait hold at most ``MAX_HELD_BYTES`` in all, besides the piece that was read last; a request beyond that
  is refused in the next turn.

A request of HTTP/2 waits as one of HTTP/1.1 does, and no other stream of its connection waits with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

from trustgate.http.parser import RequestHead
from trustgate.http.sending import Headers

#: A refusal takes some hundredths of a millisecond.
MAX_REFUSED_PER_TURN: Final = 256
#: What refusals may take of the loop's time, before they have to wait for ``MOST_S``.
TIME_SHARE: Final = 0.05
#: How long a request without room waits before it is refused: where there is time for that, and at most; seconds.
HOLD_S: Final = 0.025
MOST_S: Final = 0.04
#: How soon after the end of the last one a request comes again "at once", and how long it waits then, seconds.
AT_ONCE_S: Final = 0.025
HOLD_AT_ONCE_S: Final = 0.5
MOST_AT_ONCE_S: Final = 1.0
#: The bytes that all requests which wait may hold together.
MAX_HELD_BYTES: Final = 16 * 1024 * 1024
#: For how many tenants a turn looks whether they have room.
_MAX_LOOKS_PER_TURN: Final = 64
_TICK_S: Final = 0.005
#: How much of their share refusals may save up, and owe, seconds.
_MOST_SAVED_S: Final = 0.002
_MOST_OWED_S: Final = 0.02

#: The status, header fields and body of an answer to a request that is not begun.
Refusal = tuple[int, Headers, bytes]


class Shed(Protocol):
    """Judges requests by their head, before anything is begun for them."""

    def judge(self, head: RequestHead, queue: Collection[str] = ()) -> Any:
        """Returns why a request is refused; something empty: it is let through, and ``begun`` is called then.

        ``queue``: the tenants that have requests waiting. One more of theirs has no room before those.
        """

    def waits_for(self, head: RequestHead, reason: Any) -> str | None:
        """Returns the tenant for whose room a request waits that was judged; None: no room will come."""

    def has_room(self, tenant_id: str) -> bool:
        """Returns whether one more request of the tenant is let through."""

    def on_room(self, call: Callable[[], None]) -> None:
        """Have ``call`` called whenever there may be more room than before, until ``off_room`` takes it back."""

    def off_room(self, call: Callable[[], None]) -> None:
        """Have it called no more."""

    def refusal(self, head: RequestHead, reason: Any) -> Refusal:
        """Returns the answer to a request that is refused now; it is counted and logged."""

    def answer(self, head: RequestHead, reason: Any, date: bytes) -> bytes:
        """As ``refusal``: the bytes of the answer, on a connection of HTTP/1.1 that goes on.

        ``date``: the line of that field.
        """

    def begun(self, head: RequestHead) -> None:
        """The application begins with a request that was let through, or its client has gone before."""


class Waiting(Protocol):
    """A connection, or a stream of one, with a request that waits."""

    def look_again(self) -> None:
        """Judge the request anew: let it through or refuse it. Calls ``Wait.leave`` first."""


class Wait:
    """One request's wait at the door."""

    __slots__ = ("_line", "_queue", "is_over", "since", "size", "waiting")

    def __init__(self, waiting: Waiting, queue: _Queue | None, line: _Line | None, since: float, size: int) -> None:
        """``queue`` and ``line``: those of its tenant; None: no room will come, it is refused in the next turn."""
        self.waiting = waiting
        self.since = since
        #: Bytes.
        self.size = size
        self.is_over = False
        self._queue = queue
        self._line = line

    @property
    def is_held(self) -> bool:
        """Whether its bytes count as held; they do not where it is refused in the next turn."""
        return self._queue is not None and not self.is_over

    def leave(self) -> None:
        """End the wait: the request is let through, refused or gone."""
        if not self.is_over:
            self.is_over = True
            if self._queue is not None and self._line is not None:
                self._line.first()  # what is over does not pile up
                self._queue.left(self.size)


class _Line(deque[Wait]):
    """Waits in the order in which they began; those that are over stay in it until they are first."""

    __slots__ = ()

    def first(self) -> Wait | None:
        while self:
            wait = self[0]
            if not wait.is_over:
                return wait
            self.popleft()
        return None


class _Queue:
    """The requests of one tenant that wait: those that came again at once in a line of their own."""

    __slots__ = ("_refusals", "_tenant_id", "lines", "waits")

    def __init__(self, refusals: Refusals, tenant_id: str) -> None:
        self._refusals = refusals
        self._tenant_id = tenant_id
        self.lines = (_Line(), _Line())
        #: How many of its waits are not over.
        self.waits = 0

    def next(self) -> Wait:
        """Returns the wait with the earliest deadline; there is one."""
        line, at_once = self.lines
        first, other = line.first(), at_once.first()
        if first is None or (other is not None and other.since + MOST_AT_ONCE_S < first.since + MOST_S):
            assert other is not None, "one of the tenant's requests waits"
            return other
        return first

    def left(self, size: int) -> None:
        self.waits -= 1
        self._refusals.left(None if self.waits else self._tenant_id, size)


class Refusals:
    """The requests that wait at the door of a listener; see the module."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, shed: Shed | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``shed``: judges them; None: nothing ever waits. ``clock``: seconds, by which refusals' time is measured."""
        self._loop = loop
        self._shed = shed
        self._clock = clock
        #: By tenant, of those with requests that wait.
        self.queues: dict[str, _Queue] = {}
        #: Of all tenants, as in each queue.
        self._lines = (_Line(), _Line())
        self._held_bytes = 0
        #: How many requests wait.
        self.waiting = 0
        #: The time that refusals have left of their share, seconds, and when that was.
        self._left_s = _MOST_SAVED_S
        self._left_at = clock()
        self._timer: asyncio.Handle | None = None
        #: How many tenants have not been looked at since room came, and whether a turn will do that.
        self._to_look = 0
        self._is_looking = False

    @property
    def are_waiting(self) -> bool:
        return bool(self.queues)

    def wait(
        self, waiting: Waiting, tenant_id: str | None, size: int, *, at_once: bool = False, follows: bool = False
    ) -> Wait:
        """Have a request wait for room of its tenant, or to be refused.

        Args:
            waiting: has the request.
            tenant_id: whose it is; None: no room will come.
            size: how many bytes of it are held.
            at_once: its client had the answer or the refusal of the same request just now.
            follows: it came, whole, together with one that was refused just now, and has waited as long.
        """
        if tenant_id is None or (follows and self._time_left() > 0) or self._held_bytes + size > MAX_HELD_BYTES:
            wait = Wait(waiting, None, None, 0.0, 0)
            self._loop.call_soon(self._end, wait)
            return wait
        self._held_bytes += size
        self.waiting += 1
        queue = self.queues.get(tenant_id)
        if queue is None:
            if not self.queues and self._shed is not None:
                self._shed.on_room(self._room_came)
            queue = self.queues[tenant_id] = _Queue(self, tenant_id)
        line = queue.lines[at_once]
        wait = Wait(waiting, queue, line, self._loop.time(), size)
        queue.waits += 1
        line.append(wait)
        self._lines[at_once].append(wait)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_S, self._tick)
        return wait

    def left(self, last_of: str | None, size: int) -> None:
        """Note that a wait is over. ``last_of``: its tenant where none of its requests waits any more; else None."""
        self._held_bytes -= size
        self.waiting -= 1
        if last_of is not None:
            del self.queues[last_of]
            if not self.queues and self._shed is not None:
                self._shed.off_room(self._room_came)

    def grow(self, wait: Wait, size: int) -> None:
        """Note that a request holds so many bytes more; beyond ``MAX_HELD_BYTES`` it is refused in the next turn."""
        if wait.is_held and self._held_bytes + size <= MAX_HELD_BYTES:
            wait.size += size
            self._held_bytes += size
        else:
            self._loop.call_soon(self._end, wait)

    def _end(self, wait: Wait) -> None:
        if not wait.is_over:
            began = self._clock()
            wait.waiting.look_again()
            self._left_s -= self._clock() - began

    def clear(self) -> None:
        """Forget what waits."""
        for line in self._lines:
            for wait in line:
                wait.leave()
            line.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # room

    def _room_came(self) -> None:
        if self.queues:
            self._to_look = len(self.queues)
            if not self._is_looking:
                self._is_looking = True
                self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Let through what has room by now, one request of each tenant after another."""
        self._is_looking = False
        shed, queues = self._shed, self.queues
        assert shed is not None, "something waits"
        for _ in range(_MAX_LOOKS_PER_TURN):
            if not self._to_look or not queues:
                return
            tenant_id = next(iter(queues))
            queue = queues[tenant_id]
            if len(queues) > 1:
                del queues[tenant_id]
                queues[tenant_id] = queue  # the last one now
            if shed.has_room(tenant_id):
                queue.next().waiting.look_again()
                self._to_look = len(queues)
            else:
                self._to_look -= 1
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_soon(self._look)

    # refusals

    def _time_left(self) -> float:
        """Returns what refusals have left of their share of the time, seconds."""
        now = self._clock()
        self._left_s = min(_MOST_SAVED_S, max(-_MOST_OWED_S, self._left_s) + TIME_SHARE * (now - self._left_at))
        self._left_at = now
        return self._left_s

    def _tick(self) -> None:
        """Refuse what has waited for long enough, within the share of the time or because it must be."""
        left_s = self._time_left()
        began, now = self._left_at, self._loop.time()
        spent_s = 0.0
        are_more = False
        for line, hold_s, most_s in zip(self._lines, (HOLD_S, HOLD_AT_ONCE_S), (MOST_S, MOST_AT_ONCE_S), strict=True):
            for _ in range(MAX_REFUSED_PER_TURN // 2):
                wait = line.first()
                if wait is None:
                    break
                waited_s = now - wait.since
                if waited_s < hold_s or (waited_s < most_s and spent_s >= left_s):
                    break
                line.popleft()
                wait.waiting.look_again()
                spent_s = self._clock() - began
            else:
                are_more = True
        self._left_s -= spent_s
        self._timer = None
        if self.queues:
            self._timer = self._loop.call_soon(self._tick) if are_more else self._loop.call_later(_TICK_S, self._tick)
