"""The file ``node`` of a home: it names the node of the process that serves, or served last, with the home.

A process that starts in the home holds the file's lock, so the process before has ended, and the node that the file
names is dead, whatever its lease. In a copy of the home that does not follow: the original's process may serve. So the
file also has a mark that differs in a copy.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_MOST_BYTES = 200


def read_node(file: int) -> str:
    """Returns the id of the node that the file names; "" where it names none, or is a copy."""
    text = os.pread(file, _MOST_BYTES, 0).decode("ascii", "replace")
    node_id, _, mark = text.partition(" ")
    return node_id if mark == _mark(file) else ""


def write_node(file: int, node_id: str) -> None:
    """Write the node's id and the file's mark."""
    os.ftruncate(file, 0)
    os.pwrite(file, f"{node_id} {_mark(file)}".encode(), 0)


def _mark(file: int) -> str:
    """Returns the file's inode number, and the machine's boot id (else its host name)."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        machine = socket.gethostname()
    return f"{os.fstat(file).st_ino} {machine}"
