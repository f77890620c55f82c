"""Writes to standard error whose failures change nothing else of the program.

It may be a file on a full disk, a terminal that is gone, a pipe that is not read, or closed. Imports the standard
library alone: the program calls this before all else.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

_STDERR = 2
#: What a pipe that is ready takes without blocking (pipe(7)).
_MOST_BYTES = select.PIPE_BUF


def write_stderr(data: bytes, wait_s: float = 0.0) -> int:
    """Write to stderr what it takes. Never raises.

    Args:
        data: what to write.
        wait_s: how long to wait for its reader where that does not keep up, seconds.

    Returns:
        How many bytes were written.
    """
    written = 0
    waiting = select.poll()
    waiting.register(_STDERR, select.POLLOUT)
    try:
        while written < len(data) and waiting.poll(wait_s * 1000):
            written += os.write(_STDERR, data[written : written + _MOST_BYTES])
    except OSError:
        pass  # the caller sees it by the count
    return written


class _Lenient(io.FileIO):
    """A file that takes everything: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        size = rest.nbytes
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError:
            pass  # the caller could do nothing but stop
        return size


def keep_standard_files() -> None:
    """Keep the descriptors 0 to 2 from becoming other files, and failures of stderr from raising. Call it first.

    Where one of them is closed (``>&-``, some supervisors), the next file that is opened gets its number: messages
    would be written into the database. In its place one is opened that cannot be written, so that output that is lost
    is an error.
    """
    try:
        while (number := os.open(os.devnull, os.O_RDONLY)) <= _STDERR:
            os.set_inheritable(number, True)
        os.close(number)
    except OSError:
        return  # no /dev/null, or no file left to be opened: the command meets that itself
    if sys.stdout is None:
        sys.stdout = _text(io.FileIO(1, "wb", closefd=False))
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    sys.stderr = _text(_Lenient(_STDERR, "wb", closefd=False), encoding)


def _text(file: io.RawIOBase | io.BufferedIOBase, encoding: str = "utf-8") -> TextIO:
    return io.TextIOWrapper(file, encoding, errors="replace", line_buffering=True, write_through=True)  # type: ignore[type-var]
