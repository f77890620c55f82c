"""The free space of a disk, and how much of a worry it is: for ``doctor`` and for notices."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Literal, NamedTuple

#: Free space below which receipts are in danger, and below which it is worth telling, bytes.
_LEAST_BYTES: Final = 100 * 1024 * 1024
_GOOD_BYTES: Final = 1024 * 1024 * 1024


class DiskSpace(NamedTuple):
    free_bytes: int
    state: Literal["ok", "low", "critical"]


def disk_space(folder: Path) -> DiskSpace:
    """Returns the free space of the disk that a folder is on. Raises ``OSError`` where it cannot be read."""
    free = shutil.disk_usage(folder).free
    return DiskSpace(free, "critical" if free < _LEAST_BYTES else "low" if free < _GOOD_BYTES else "ok")
