"""Servers that are stopped at a point of the charging of a batch (``charging/sitecustomize.py``)."""

from __future__ import annotations

from pathlib import Path

from tests.environments import ROOT
from tests.support.processes import wait_until

#: The end of a batch is seen; it is noted which receipts charge it; the first of them is written, and the second.
POINTS = ("seen", "noted", "first", "second")


class Order:
    """Which point a server that has this ``environment`` is to stop itself at."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "order"
        self.environment = {
            "PYTHONPATH": f"{Path(__file__).parent / 'charging'}:{ROOT}",
            "TRUSTGATE_TEST_CHARGING": str(self._file),
        }

    def give(self, point: str, number: int) -> None:
        """``number``: of the signal."""
        self._file.with_suffix(".reached").unlink(missing_ok=True)
        writing = self._file.with_suffix(".order")
        writing.write_text(f"{point} {number}")
        writing.rename(self._file)

    def wait(self) -> int:
        """Wait until a server has come to the point. Returns its process's id."""
        reached = self._file.with_suffix(".reached")
        wait_until(reached.exists, "a server to come to the point")
        return int(reached.read_text())
