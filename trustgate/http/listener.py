"""Listening on a socket of ours: accepting, TLS, and the end of all connections.

A connection begins as HTTP/1.1 (``http1``) and goes to Hypercorn's protocols (``hypercorn_adapter``) when it speaks
HTTP/2 or asks for another protocol. Most gateways never see one, so those are imported, in a thread, when the first
comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Collection, Iterable
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from trustgate.http.accepting import Acceptor
from trustgate.http.capacity import Capacity, Idle, most_connections
from trustgate.http.door import KEPT_S, Door
from trustgate.http.http1 import Connection
from trustgate.http.refusals import Shed
from trustgate.http.timeouts import ConnectionTimeouts

if TYPE_CHECKING:
    from trustgate.http.hypercorn_adapter import Protocols

_HANDSHAKE_S = 10.0
_MOST_FILES = 65_536


async def listen(
    app: ASGIApp,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    grace_s: float,
    timeouts: ConnectionTimeouts,
    tls: ssl.SSLContext | None = None,
    shed: Shed | None = None,
    websockets: Collection[bytes] = (),
    processes: int = 1,
) -> None:
    """Serve ``app`` on a bound socket until ``stop``; then close it; connections get ``grace_s`` seconds to end.

    Each ends with its next answer (``connection: close``), or once it has been idle for ``door.KEPT_S`` seconds.

    ``shed`` may answer a request in the place of ``app``, before anything is begun for it. ``websockets``: the paths on
    which one may be asked for; elsewhere that is an ordinary request. ``processes``: how many serve on the socket.
    """
    _allow_many_connections()
    others = _Others(app, timeouts)
    door = Door(app, others.take, timeouts, shed, websockets)
    others.door = door

    def count() -> int:
        return len(door.connections) + others.count() + acceptor.opening

    def idle() -> Iterable[Idle]:
        return chain(acceptor.handshakes(), door.idle(), others.idle())

    acceptor = Acceptor(
        *(listener, partial(Connection, door)),
        tls=tls,
        handshake_timeout_s=_HANDSHAKE_S,
        waiting=lambda: door.refusals.waiting,
        capacity=Capacity(most_connections(), count, idle),
        processes=processes,
    )
    try:
        await stop.wait()
    finally:
        door.begin_closing()
        acceptor.stop()
        # As long as any descriptor of it is open, clients get a connection that is never answered. Refused, they can
        # go to another server at once.
        listener.close()
        await acceptor.opened(KEPT_S)
        acceptor.close()
        grace_s += timeouts.closing_s
        await asyncio.gather(door.close(grace_s), others.close(grace_s))


class _Others:
    """Where connections go that speak something else than HTTP/1.1."""

    #: Where requests of HTTP/2 wait for room, too.
    door: Door

    def __init__(self, app: ASGIApp, timeouts: ConnectionTimeouts) -> None:
        self._app = app
        self._timeouts = timeouts
        self._protocols: Protocols | None = None
        self._making: asyncio.Task[Protocols] | None = None
        self._coming: set[asyncio.Task[None]] = set()

    def take(self, connection: Connection) -> None:
        if self._protocols is not None:
            self._protocols.adopt(connection)
            return
        connection.pause()
        coming = asyncio.get_running_loop().create_task(self._take_later(connection))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)

    async def _take_later(self, connection: Connection) -> None:
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._make())
        protocols = await asyncio.shield(self._making)
        if not connection.lost:
            protocols.adopt(connection)

    async def _make(self) -> Protocols:
        await asyncio.to_thread(_import_protocols)
        from trustgate.http.hypercorn_adapter import Protocols

        self._protocols = Protocols(self._app, self._timeouts, self.door.shed, self.door.refusals)
        return self._protocols

    def count(self) -> int:
        """Returns how many connections there are."""
        return len(self._coming) + (0 if self._protocols is None else self._protocols.count())

    def idle(self) -> Iterable[Idle]:
        """Returns those that are idle."""
        return () if self._protocols is None else self._protocols.idle()

    async def close(self, grace_s: float) -> None:
        # What has connected may turn out to speak something else with its first request.
        await self.door.settled.wait()
        await asyncio.gather(*self._coming, return_exceptions=True)
        if self._protocols is not None:
            await self._protocols.close(grace_s)


def _import_protocols() -> None:
    from trustgate.http import hypercorn_adapter  # noqa: F401 - imported here so that the event loop need not wait


def _allow_many_connections() -> None:
    """Lift the soft limit on open files, often 1,024, to the hard one: every request may need two sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
