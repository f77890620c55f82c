"""Tiny disks, to be filled up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tiny_disk(folder: Path, size_bytes: int, options: str = "") -> Iterator[Path]:
    """A disk of so many bytes at ``folder``. Skips the test where this user may not mount one, saying why."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}{options}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a disk can only be filled up where there is a mount command")
    if mounted.returncode:
        pytest.skip(f"a disk can only be filled up where the tests may mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily, because a test that fails may leave a file open there.
        subprocess.run(["umount", "-l", str(folder)], check=True)


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
