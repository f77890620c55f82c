"""Accepting connections: the whole queue of the kernel at each turn of the event loop.

uvloop's own servers accept one connection a turn. With hundreds of busy connections a turn takes milliseconds, and a
new client, a health check too, would wait in the queue for seconds.

While requests wait for room (``refusals``), connections are accepted as fewer wait: most of them would bring another
request to refuse, and a client that connects for each request can as well wait in the kernel's queue. A connection in
that queue is accepted within ``MOST_LATE_S`` whatever waits, one that comes meanwhile within as long again: that bounds
how long a tenant with room, or a health check, waits behind connections of others.

Where several processes accept on one socket, each takes a part of the queue at a turn: connections live long, and the
first process to wake would take all that come at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from functools import partial

from trustgate.http.capacity import Capacity, Idle

_logger = logging.getLogger("trustgate.server")

#: At one turn, so that a flood of new connections does not hold up those that are there.
MAX_PER_TURN = 256
#: How many requests may wait before connections do; how often it is looked whether fewer wait, seconds.
MAX_WAITING = 128
_LOOK_S = 0.005
#: How long what is in the kernel's queue may wait, seconds.
MOST_LATE_S = 0.1
#: The length of the kernel's queue, where the system does not report it.
_QUEUE = 1024
#: More than a queue holds (``net.core.somaxconn``).
_LAST = 65_536
#: Where Linux has the length of a listener's queue in ``struct tcp_info`` (``tcpi_unacked``; tcp(7)).
_UNACKED = slice(24, 28)
#: Beside other processes a process takes so many times as many turns for the queue, so that they have theirs between.
_TURNS = 4
#: What the system runs out of, and how long it gets to have some again.
_OUT_OF = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_WAIT_S = 0.5


class Acceptor:
    """Accepts on a listening socket and makes each connection a transport of the running loop, until closed."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_s: float = 10.0,
        waiting: Callable[[], int] = int,
        capacity: Capacity | None = None,
        processes: int = 1,
    ) -> None:
        """
        Args:
            listener: bound and listening; it stays its owner's to close, after ``close``.
            make_protocol: makes the protocol of one connection.
            tls: where given, connections begin with a handshake, for at most ``handshake_timeout_s``.
            waiting: returns how many requests wait for room.
            capacity: how many connections may be open; None: any number.
            processes: how many processes accept on the socket, this one among them.
        """
        self._listener = listener
        self._make_protocol = make_protocol
        self._tls = tls
        self._handshake_timeout_s = handshake_timeout_s if tls is not None else None
        self._loop = asyncio.get_running_loop()
        #: What opens each connection, and since when, in the loop's time.
        self._opening: dict[asyncio.Task[None], float] = {}
        self._count_waiting = waiting
        self._capacity = capacity
        self._processes = processes
        #: Of the connections that were in the kernel's queue when its length was read, those that are left.
        self._owed = 0
        self._owed_since = 0.0
        self._paused: asyncio.TimerHandle | None = None
        self._is_open = True
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def stop(self) -> None:
        """Accept what has connected by now, and no more.

        Who connects later is refused once the listener is closed; what waits in its queue then is reset.
        """
        if self._is_open:
            self._leave_listener()
            self._accept_some(_LAST)

    @property
    def opening(self) -> int:
        """How many connections have not begun: in their handshakes, or accepted just now."""
        return len(self._opening)

    def handshakes(self) -> Iterator[Idle]:
        """Yields the connections whose handshakes are under way: as long as they last nothing was asked for."""
        if self._tls is not None:
            for task, since in self._opening.items():
                yield Idle(has_had_request=False, since=since, end=task.cancel)

    async def opened(self, within_s: float) -> None:
        """Wait for handshakes under way, at most ``within_s`` seconds."""
        if self._opening:
            await asyncio.wait(set(self._opening), timeout=within_s)

    def _leave_listener(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._paused is not None:
            self._paused.cancel()
        else:
            self._loop.remove_reader(self._listener)

    def close(self) -> None:
        """Accept no more. Handshakes under way are broken off."""
        self._leave_listener()
        for task in list(self._opening):
            task.cancel()

    def _accept(self) -> None:
        """Accept as many connections as this turn may."""
        waiting = self._count_waiting()
        if not waiting:
            self._owed = 0
            self._accept_some(MAX_PER_TURN if self._processes == 1 else self._part_of_queue())
            return
        if self._owed <= 0:
            self._owed, self._owed_since = _queue_length(self._listener), self._loop.time()
        is_late = self._loop.time() - self._owed_since > MOST_LATE_S
        self._accept_some(min(self._owed, MAX_PER_TURN) if is_late else MAX_WAITING - waiting)
        if self._paused is None:
            self._pause(_LOOK_S)

    def _part_of_queue(self) -> int:
        """Returns how many to accept at this turn, beside other processes."""
        return max(1, min(MAX_PER_TURN, _queue_length(self._listener) // (_TURNS * self._processes)))

    def _accept_some(self, most: int) -> None:
        for _ in range(most):
            if self._is_open and not self._has_place():
                return
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                self._owed = 0
                return
            except ConnectionError:
                continue  # it has gone before it was accepted
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                self._wait_for_files(error.strerror)
                return
            self._owed -= 1
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._open(connection))
            self._opening[task] = self._loop.time()
            task.add_done_callback(partial(self._has_opened, connection))

    def _has_place(self) -> bool:
        """Returns whether one more connection may be open now. Waits where there is nothing that could end for it."""
        capacity = self._capacity
        # Those that were accepted at this turn are not idle before the next one: others would end in their place.
        has_all = self._tls is not None or not self._opening
        if capacity is None or capacity.has_place(may_end=has_all):
            return True
        if has_all and not capacity.is_clearing:
            self._wait_for_files("as many connections as may be open are in use")
        return False

    def _wait_for_files(self, reason: str | None) -> None:
        """Accept nothing for a while: clients wait in the queue, and the loop does not spin."""
        _logger.warning("cannot accept connections: %s. Trying again in %g s", reason, _WAIT_S)
        if self._is_open:
            self._pause(_WAIT_S)

    def _has_opened(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        del self._opening[task]
        if task.cancelled():
            connection.close()  # it had not begun

    async def _open(self, connection: socket.socket) -> None:
        protocol = self._make_protocol()
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout_s
            )
        except OSError:
            connection.close()  # no TLS, or not in time, or gone already: no client to answer
        except asyncio.CancelledError:
            connection.close()
            # The transport has gone without a word to its protocol, which may have begun with a request.
            protocol.connection_lost(None)

    def _pause(self, for_s: float) -> None:
        self._loop.remove_reader(self._listener)
        self._paused = self._loop.call_later(for_s, self._go_on)

    def _go_on(self) -> None:
        self._paused = None
        if self._is_open:
            self._loop.add_reader(self._listener, self._accept)


def _queue_length(listener: socket.socket) -> int:
    """Returns how many connections wait to be accepted on a socket that has some.

    None is not believed: there is one, and some sandboxes' kernels have the field and leave it empty.
    """
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:
        return _QUEUE
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)
    except OSError:
        return _QUEUE
    return int.from_bytes(info[_UNACKED], sys.byteorder) or _QUEUE
