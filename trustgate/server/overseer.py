"""Reports of a server's state to what supervises it: systemd, or the supervisor of several workers.

systemd (sd_notify(3)): each report is a datagram of lines to the socket that ``NOTIFY_SOCKET`` names. A unit of
``Type=notify`` counts as started once the server has reported that it is ready; systemd shows the status that was
reported last, and with ``WatchdogSec`` kills and restarts a server that gives no sign of life: its event loop is
blocked, or the process was stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

from trustgate.settings.environment import ServiceManagerAddress

#: How often a worker gives its supervisor a sign of life, seconds.
BEAT_S = 1.0
#: How long a change of state waits for a service manager that does not read, seconds; a sign of life does not wait.
_SEND_S = 0.5


class Overseer:
    """What supervises the server, and takes its reports. This base class drops them: nothing supervises it."""

    #: How often it wants a sign of life, seconds; 0: never.
    every_s = 0.0

    def beat(self) -> None:
        """Give a sign of life."""

    def ready(self, status: str) -> None:
        """Report that the server serves, or waits for its turn. ``status``: which, in a sentence for people."""

    def reloading(self) -> None:
        """Report that the settings are read anew."""

    def reloaded(self) -> None:
        """Report that the settings have been read, or refused."""

    def stopping(self, within_s: float) -> None:
        """Report that the stop has begun, and takes at most ``within_s`` seconds."""


#: Nothing supervises the server.
NO_OVERSEER = Overseer()


class ServiceManager(Overseer):
    """systemd, or another service manager with its protocol."""

    def __init__(self, address: ServiceManagerAddress) -> None:
        """``address``: where it takes reports, and how often it wants a sign of life."""
        self._address = f"\0{address.socket[1:]}" if address.socket[:1] == "@" else address.socket
        # Twice in the time that it waits for one, as sd_watchdog_enabled(3) recommends.
        self.every_s = address.watchdog_s / 2 if address.watchdog_pid in (0, os.getpid()) else 0.0
        self._status = ""

    def beat(self) -> None:
        self._send("WATCHDOG=1", within_s=0.0)

    def ready(self, status: str) -> None:
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """``MONOTONIC_USEC`` is what ``Type=notify-reload`` needs."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reading the settings")

    def reloaded(self) -> None:
        self.ready(self._status)

    def stopping(self, within_s: float) -> None:
        """``EXTEND_TIMEOUT_USEC`` counts beside the unit's ``TimeoutStopSec``: the longer one holds."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within_s * 1_000_000)}", "STATUS=Requests end")

    def _send(self, *lines: str, within_s: float = _SEND_S) -> None:
        # A report that cannot be sent is dropped: the server does not depend on it.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.settimeout(within_s)
            sending.sendto("\n".join(lines).encode(), self._address)


def overseer_of(address: ServiceManagerAddress | None) -> Overseer:
    """Returns what supervises this process. ``address``: of the service manager; None: there is none."""
    return NO_OVERSEER if address is None else ServiceManager(address)


async def beat_for_ever(overseer: Overseer) -> None:
    """Give signs of life as often as the overseer wants them; returns at once if it wants none."""
    while overseer.every_s:
        overseer.beat()
        await asyncio.sleep(overseer.every_s)
