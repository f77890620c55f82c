"""Signals that come before the program can act on them.

A program that has no handler for SIGHUP dies of it. The server takes it as a request to reload its settings, but has a
handler only once it serves; what comes earlier, while modules are imported and the database is opened, is held here.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_held: list[int] = []


def hold_hangup() -> None:
    """Hold SIGHUP for ``trustgate serve`` from now on, unless it is ignored (nohup). For the main thread."""
    if "serve" in sys.argv[1:] and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hold)


def take_held_hangup() -> bool:
    """Returns whether one came meanwhile; the next call knows nothing of it."""
    came = bool(_held)
    _held.clear()
    return came


def _hold(number: int, frame: FrameType | None) -> None:
    _held.append(number)
