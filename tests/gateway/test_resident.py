"""What a server keeps in memory once it has started."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from trustgate.server.process import _unwritten, let_go_of_code

_DUCKDB = "_duckdb."


def _resident_kb() -> int:
    """Returns how much of DuckDB's code and constants is in this process's memory."""
    total, is_code = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_code = re.search(r" r(-x|--)p ", line) is not None and f"/{_DUCKDB}" in line
        elif is_code and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at as Linux shows it")
def test_code_that_only_the_start_has_run_leaves_memory_and_comes_back() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS n, hash(range) AS h FROM range(10_000)")
        before_kb = _resident_kb()

        assert let_go_of_code(_DUCKDB) > 10 * 2**20
        assert _resident_kb() < before_kb / 10

        assert connection.execute("SELECT count(*), sum(n) FROM t").fetchall() == [(10_000, 49_995_000)]
        with pytest.raises(duckdb.Error):
            connection.execute("SELECT unknown FROM t")
    assert let_go_of_code("no-such-library.") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at as Linux shows it")
def test_of_code_that_is_used_again_little_is_mapped_around_it() -> None:
    """In a process of its own, which has thousands of mappings then."""
    program = f"""
import ctypes, mmap, re, duckdb
from trustgate.server.process import let_go_of_code
piece = 4 * mmap.PAGESIZE
let_go_of_code({_DUCKDB!r})
at = None
for line in open("/proc/self/smaps"):
    mapping = re.match("([0-9a-f]+)-([0-9a-f]+) r-xp", line)
    if mapping and "/{_DUCKDB}" in line:
        start, end = int(mapping[1], 16), int(mapping[2], 16)
        assert end - start <= piece, line
    elif re.match("[0-9a-f]+-", line):
        start = None
    elif start is not None and line.startswith("Rss:") and line.split()[1] == "0":
        at = start
ctypes.string_at(at, 1)
print([line.split()[1] for line in open("/proc/self/smaps").read().partition(format(at, "x") + "-")[2].splitlines()
       if line.startswith("Rss:")][0], piece)
"""
    rss_kb, piece = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert 0 < int(rss_kb) * 1024 <= int(piece)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_threads_allocate_from_one_heap() -> None:
    """In a process of its own: what was allocated before stays where it is."""
    program = """
import ctypes, re, threading
from trustgate.server.process import share_one_heap
share_one_heap()
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
blocks, alive = [], threading.Barrier(9)
def allocate():
    blocks.append(malloc(5000))
    alive.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
alive.wait()
heap = re.search("([0-9a-f]+)-([0-9a-f]+) .*\\[heap\\]", open("/proc/self/maps").read())
print(sum(int(heap[1], 16) <= block < int(heap[2], 16) for block in blocks))
"""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    assert subprocess.check_output([sys.executable, "-c", program], text=True, env=environment) == "8\n"
    environment["MALLOC_ARENA_MAX"] = "64"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, env=environment) != "8\n"


def test_only_pages_that_were_never_written_to_are_released() -> None:
    def mapping(
        addresses: str, permissions: str, path: str, *, anonymous_kb: int = 0, swap_kb: int = 0, inode: int = 7
    ) -> list[str]:
        head = f"{addresses} {permissions} 00001000 08:01 {inode}          {path}".rstrip()
        own = [f"Anonymous:           {anonymous_kb} kB", f"Swap:                {swap_kb} kB", "SwapPss: 0 kB"]
        return [head, "Rss:                  64 kB", *own, "VmFlags: rd"]

    lines = [
        *mapping("1000-2000", "r-xp", "/lib/with spaces/_duckdb.so"),
        *mapping("2000-3000", "r--p", "/lib/_duckdb.so"),
        *mapping("3000-4000", "rw-p", "/lib/_duckdb.so"),
        *mapping("4000-5000", "r-xp", "/lib/_duckdb.so", anonymous_kb=4),
        *mapping("5000-6000", "r--p", "/lib/_duckdb.so", anonymous_kb=4),
        *mapping("6000-7000", "r--p", "/lib/_duckdb.so", swap_kb=4),
        *mapping("7000-8000", "rwxp", "/lib/_duckdb.so"),
        *mapping("8000-9000", "r--s", "/lib/_duckdb.so"),
        *mapping("9000-a000", "r-xp", "/lib/other_duckdb.so"),
        *mapping("a000-b000", "r-xp", "/lib/libcrypto.so.3"),
        *mapping("b000-c000", "r-xp", "", inode=0),
        *mapping("c000-d000", "r-xp", "/lib/_duckdb.so (deleted)"),
    ]

    duckdb_alone = [(0x1000, 0x2000, "r-xp"), (0x2000, 0x3000, "r--p"), (0xC000, 0xD000, "r-xp")]
    assert list(_unwritten(lines, ("_duckdb.",))) == duckdb_alone
    assert list(_unwritten(lines, ("_duckdb.", "libcrypto."))) == sorted([*duckdb_alone, (0xA000, 0xB000, "r-xp")])
    assert not list(_unwritten([line for line in lines if not line.startswith("Swap:")], ("_duckdb.",)))
