"""A clock that the chaos runs can shift: loaded before anything else where this folder is on PYTHONPATH.

The file that TRUSTGATE_TEST_CLOCK names holds nanoseconds, eight bytes, little-endian, signed: what the clock of the
wall is ahead. The monotonic clock goes on as it is, as on a machine whose clock is set.
"""

import mmap
import os
import struct
import time

_path = os.environ.get("TRUSTGATE_TEST_CLOCK")
if _path:
    with open(_path, "rb") as _file:  # noqa: PTH123 - every process loads this, and pathlib takes its time
        _ahead = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _unpack = struct.Struct("<q").unpack_from
    _time_ns = time.time_ns

    def time_ns() -> int:
        return _time_ns() + int(_unpack(_ahead)[0])

    def time_s() -> float:
        return time_ns() / 1e9

    time.time_ns = time_ns
    time.time = time_s
