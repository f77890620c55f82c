"""Tiny disks, to be filled up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(folder: Path, size_bytes: int, options: str = "") -> Iterator[tuple[Path | None, str]]:
    """A disk of so many bytes at ``folder``; None and the reason where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}{options}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        yield None, "there is no mount command"
        return
    if mounted.returncode:
        yield None, f"the tests may not mount one: {mounted.stderr.strip()}"
        return
    try:
        yield folder, ""
    finally:
        # Lazily, because a test that fails may leave a file open there.
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def tiny_disk(folder: Path, size_bytes: int, options: str = "") -> Iterator[Path]:
    """``mounted_disk``, or the test is skipped."""
    with mounted_disk(folder, size_bytes, options) as (disk, why):
        if disk is None:
            pytest.skip(f"a disk cannot be filled up here: {why}")
        yield disk


def fill(folder: Path) -> Path:
    """Use up what is left of the disk; deleting the file that is given back frees it again."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
    return path
