"""Shares: each process of the gateway limited to a part of a core, so that load, upstream and database have room.

On a machine of few cores these, and not the gateway, bound how fast two processes are together. Limited to the same
part of a core each, one, two and three processes are compared by what a process more brings. Linux's control groups
limit them: version 1's ``cpu.cfs_quota_us``, or version 2's ``cpu.max``; both need root.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_ROOT = Path("/sys/fs/cgroup")
#: The least that a process may run at a time. With more it would be stopped for longer, while it holds rows locked: it
#: is to be slow rather than away.
_RUN_US = 1_000
#: How long an ended process may take to leave its group, seconds.
_LEAVE_S = 5.0


class SharesMissing(Exception):
    """Processes cannot be limited here; the message says why."""


class Shares:
    """Groups of one process each, limited to the same share of a core."""

    def __init__(self, folder: Path, percent: int, *, is_second: bool) -> None:
        """Use ``open``."""
        self._folder = folder
        self._percent = percent
        self._is_second = is_second
        self._groups: list[Path] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, percent: int) -> Iterator[Self]:
        """Make the groups, for the block, and take this process and what it starts into one without a limit.

        Args:
            percent: of one core, for each process.

        Raises:
            SharesMissing: there are no control groups here, or this user may make none.
        """
        is_second = (_ROOT / "cgroup.controllers").exists()
        folder = (_ROOT if is_second else _ROOT / "cpu") / f"bench-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            raise SharesMissing(f"{folder} cannot be made ({error.strerror}): control groups need root") from None
        shares = cls(folder, percent, is_second=is_second)
        home, rest = _own_group(is_second=is_second), folder / "rest"
        try:
            if is_second:
                _write(folder / "cgroup.subtree_control", "+cpu")
            # Whatever else runs on the machine: the shares can be had, and what is measured with them does not wait.
            _write(folder / ("cpu.weight" if is_second else "cpu.shares"), "10000" if is_second else "102400")
            rest.mkdir()
            _write(rest / "cgroup.procs", str(os.getpid()))
            yield shares
        finally:
            shares.release()
            if rest.exists():
                # What starts others for the tests ends after this process.
                for pid in (rest / "cgroup.procs").read_text().split():
                    _write(home / "cgroup.procs", pid)
                _remove(rest)
            folder.rmdir()

    def limit(self, pid: int) -> None:
        """Limit a process with all of its threads. Raises ``SharesMissing`` where the machine does not let it."""
        group = self._folder / str(len(self._groups))
        group.mkdir()
        self._groups.append(group)
        period_us = _RUN_US * 100 // self._percent
        if self._is_second:
            _write(group / "cpu.max", f"{_RUN_US} {period_us}")
        else:
            _write(group / "cpu.cfs_period_us", str(period_us))
            _write(group / "cpu.cfs_quota_us", str(_RUN_US))
        _write(group / "cgroup.procs", str(pid))

    def bounded(self) -> list[tuple[int, int]]:
        """Returns of each process in how many periods it ran, and in how many its share was used up."""
        return [_periods(group) for group in self._groups]

    def release(self) -> None:
        """Remove the groups: their processes have ended."""
        for group in self._groups:
            _remove(group)
        self._groups.clear()


def _own_group(*, is_second: bool) -> Path:
    """Returns the group that this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == ("" if is_second else "cpu"):
            return (_ROOT if is_second else _ROOT / "cpu") / path.lstrip("/")
    raise SharesMissing("this process is in no control group for processors")


def _remove(group: Path) -> None:
    until_s = time.monotonic() + _LEAVE_S
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return


def _periods(group: Path) -> tuple[int, int]:
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["nr_periods"]), int(fields["nr_throttled"])


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SharesMissing(f"{path} cannot be written: {error.strerror}") from None
