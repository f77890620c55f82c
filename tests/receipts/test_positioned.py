"""The event loop's writes: as ``os.pwrite`` does them, while other threads stand still."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trustgate.formats import positioned
from trustgate.formats.positioned import PositionedWriter

BEYOND_32_BITS = 2**32 + 5


@pytest.fixture(params=["kept", "given away"])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PositionedWriter:
    """A writer as it is here, and one of a system whose libc has no such function."""
    if request.param == "given away":
        monkeypatch.setattr(positioned, "_of_libc", lambda: None)
    return PositionedWriter()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("offset", [0, 7, 2**31 - 2, BEYOND_32_BITS])
def test_bytes_go_where_they_belong(writer: PositionedWriter, file: int, offset: int) -> None:
    """Zeros are bytes like others, and a place beyond 32 bits is no place at the beginning."""
    data = b"one\0two\0"
    assert writer.pwrite(file, data, offset) == len(data)
    assert os.fstat(file).st_size == offset + len(data)
    assert os.pread(file, 20, offset) == data


def test_what_the_disk_does_not_take_is_an_error_or_a_shorter_length(writer: PositionedWriter, file: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.pwrite(-1, b"data", 0)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            writer.pwrite(full, b"data", 0)
    finally:
        os.close(full)
    # A limit ends the file amid the bytes, as a disk does that has room for the first ones only. No other file of this
    # process is as long.
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BEYOND_32_BITS, limit[1]))
    try:
        assert writer.pwrite(file, b"data", BEYOND_32_BITS - 3) == 3
        with pytest.raises(OSError, match="File too large"):
            writer.pwrite(file, b"data", BEYOND_32_BITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_other_threads_stand_still_while_it_writes(file: int) -> None:
    """None of them runs between two lines as long as the interpreter switches by itself never."""
    writer, turns, runs, may_end = PositionedWriter(), 0, threading.Event(), False

    def count() -> None:
        nonlocal turns
        while not may_end:
            turns += 1
            runs.set()
            os.sched_yield()  # gives the interpreter away

    other, interval = threading.Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        other.start()
        runs.wait()
        before = turns
        for _ in range(2000):
            writer.pwrite(file, b"data", 0)
        after = turns
    finally:
        may_end = True
        sys.setswitchinterval(interval)
        other.join()
    assert after == before
