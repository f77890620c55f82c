"""A clock of the wall that a test shifts under a running gateway: ahead of the real one, behind it, and right again."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tests.environments import ROOT


class ShiftedClock:
    """``environment`` is the gateway's, which must be a process of its own (``forked=False``)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(8))
        shim = os.pathsep.join([str(ROOT / "tests" / "chaos" / "clock"), str(ROOT)])
        self.environment = {"TRUSTGATE_TEST_CLOCK": str(file), "PYTHONPATH": shim}

    def shift(self, seconds: float) -> None:
        """Set the clock ahead of the real one, or behind it."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("<q", int(seconds * 1e9)))
