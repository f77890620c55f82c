"""The file ``node`` of a home: it names the node of the process that serves, or served last, with the home.

A process that begins in the home knows by it which node is dead, whatever its lease: it has the file locked, so the
other one has ended. That is not so of a copy of the home, whose original may serve. So the file also has what a copy
of it has otherwise.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_MOST_BYTES = 200


def read_node(file: int) -> str:
    """Returns the node that the file names; "" where it names none, or is a copy."""
    text = os.pread(file, _MOST_BYTES, 0).decode("ascii", "replace")
    node_id, _, mark = text.partition(" ")
    return node_id if mark == _mark(file) else ""


def write_node(file: int, node_id: str) -> None:
    """Name the node."""
    os.ftruncate(file, 0)
    os.pwrite(file, f"{node_id} {_mark(file)}".encode(), 0)


def _mark(file: int) -> str:
    """Returns the file's number in its file system, and since when the machine runs (or its name)."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        machine = socket.gethostname()
    return f"{os.fstat(file).st_ino} {machine}"
