"""A high-water mark: the last number that was acknowledged, in a file of its own beside what it counts.

A database or a journal that is missing, empty or older than it was cannot tell so itself; its mark can. It is written
after each acknowledged number by one ``pwrite`` (some 2 µs), which outlives the process but, unsynced, not a power
failure: then it may be older than what it counts, never newer than what was acknowledged.

Owns the format: two slots of 64 bytes that are written in turn, so that one of them is whole at any moment:

    magic 8 ‖ two numbers u64 ‖ microseconds UTC u64 ‖ boot, 8 bytes of the hash of its id ‖ CRC-32 of that ‖ zeros
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

_MAGIC = b"TGMARK01"
_SLOT = struct.Struct("<8sQQQ8s")
_CHECKSUM = struct.Struct("<I")
_SLOT_BYTES = 64


class Marked(NamedTuple):
    """A mark's content: the numbers, when they were written, and whether the machine has been started since."""

    numbers: tuple[int, int]
    at_us: int
    rebooted: bool


class Mark:
    """An open mark. One thread writes it. Raises OSError from every method."""

    def __init__(self, path: Path, pwrite: Callable[[int, bytes, int], int] = os.pwrite) -> None:
        """Open the mark, making it where there is none; ``found`` is what it held then, None for nothing.

        ``pwrite`` writes the bytes of a mark at their offset; the event loop's keeps the interpreter lock.
        """
        self.path = path
        self._pwrite = pwrite
        self.found = read_mark(path)
        self._boot = _boot()
        self._slot = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, first: int, second: int = 0) -> None:
        """Replace the numbers, each at least 0."""
        head = _SLOT.pack(_MAGIC, first, second, time.time_ns() // 1000, self._boot)
        self._pwrite(self._fd, head + _CHECKSUM.pack(crc32(head)), self._slot)
        self._slot ^= _SLOT_BYTES

    def close(self) -> None:
        """May be called twice."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1


def read_mark(path: Path) -> Marked | None:
    """Returns the newer of the mark's slots.

    None where the file is missing, or neither slot is whole. Raises OSError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    boot = _boot()
    slots: list[Marked] = []
    for start in (0, _SLOT_BYTES):
        head = data[start : start + _SLOT.size]
        checksum = data[start + _SLOT.size : start + _SLOT.size + 4]
        if len(checksum) == 4 and _CHECKSUM.unpack(checksum)[0] == crc32(head) and head.startswith(_MAGIC):
            _, first, second, at_us, written_in = _SLOT.unpack(head)
            slots.append(Marked((first, second), at_us, written_in != boot))
    return max(slots, key=lambda slot: slot.numbers, default=None)


def _boot() -> bytes:
    """Names the running boot of this machine; where that cannot be told, no boot but itself."""
    try:
        told = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        told = b""
    return hashlib.sha256(told).digest()[:8]
