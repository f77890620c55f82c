"""Writes at a place of a file that do not give the interpreter away.

``os.pwrite`` lets other threads have the interpreter while it writes. For the microsecond that the kernel takes to copy
a record into its cache this is a loss: another thread is woken, and the caller may have to wait until it gets the
interpreter back. ``PositionedWriter`` keeps it. That is for the event loop's thread, which waits for its write in
either case; a thread that may be held up by a disk takes ``os.pwrite``.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

__all__ = ["PositionedWriter"]


def _of_libc() -> Any:
    """Returns pwrite(2) as a call that keeps the interpreter; None where its types are not these, or it is missing."""
    if ctypes.sizeof(ctypes.c_long) != 8:  # an ``off_t`` that may be of 32 bits
        return None
    try:
        function = ctypes.PyDLL(None)["pwrite"]
    except (OSError, AttributeError, TypeError):
        return None
    function.restype = ctypes.c_ssize_t
    return function


class PositionedWriter:
    """Writes into files for one thread."""

    __slots__ = ("_offset", "_pwrite", "_size")

    def __init__(self) -> None:
        self._pwrite = _of_libc()
        # Made once: ctypes would make such an object of each argument, which costs as much as the call itself.
        self._size = ctypes.c_size_t()
        self._offset = ctypes.c_long()

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write bytes into a file at an offset, as ``os.pwrite`` does; other threads do not run in the meantime.

        Returns: how many bytes were written; fewer than there are where the disk or a limit ends amid them.

        Raises:
            OSError: nothing could be written.
        """
        if self._pwrite is not None:
            self._size.value = len(data)
            self._offset.value = offset
            written: int = self._pwrite(fd, data, self._size, self._offset)
            if written >= 0:
                return written
        # What failed is tried again by the function that knows what an error means, and that a signal is none.
        return os.pwrite(fd, data, offset)
