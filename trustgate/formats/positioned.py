"""Writes at an offset of a file that keep the global interpreter lock (GIL).

``os.pwrite`` releases the lock while it writes. The kernel takes a microsecond to copy a record into its cache; for as
long another thread is woken, and the caller may have to wait until it gets the lock back. ``PositionedWriter`` keeps
it. That is for the event loop's thread, which waits for its write in either case; a thread that a disk may hold up
uses ``os.pwrite``.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

__all__ = ["PositionedWriter"]


def _of_libc() -> Any:
    """Returns pwrite(2) as a call that keeps the lock; None where its types are others, or libc has none."""
    if ctypes.sizeof(ctypes.c_long) != 8:  # ``off_t`` may have 32 bits
        return None
    try:
        function = ctypes.PyDLL(None)["pwrite"]
    except (OSError, AttributeError, TypeError):
        return None
    function.restype = ctypes.c_ssize_t
    return function


class PositionedWriter:
    """Writes into files. For one thread."""

    __slots__ = ("_offset", "_pwrite", "_size")

    def __init__(self) -> None:
        self._pwrite = _of_libc()
        # Made once: ctypes would make such an object of each argument, which costs as much as the call itself.
        self._size = ctypes.c_size_t()
        self._offset = ctypes.c_long()

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write bytes into a file at an offset, as ``os.pwrite`` does; no other thread runs in the meantime.

        Args:
            fd: of the file.
            data: what to write.
            offset: where, in bytes from the file's beginning.

        Returns:
            How many bytes were written; fewer than there are where the disk or a limit ends amid them.

        Raises:
            OSError: nothing could be written.
        """
        if self._pwrite is not None:
            self._size.value = len(data)
            self._offset.value = offset
            written: int = self._pwrite(fd, data, self._size, self._offset)
            if written >= 0:
                return written
        # os.pwrite tries again after a signal (PEP 475), and raises OSError for what fails again.
        return os.pwrite(fd, data, offset)
