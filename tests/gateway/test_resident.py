"""What a server keeps in memory once it has started."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import duckdb
import pytest

from trustgate.server.process import _code, let_go_of_code

_DUCKDB = "_duckdb."


def _resident_kb() -> int:
    """Returns how much of DuckDB's code is in this process's memory."""
    total, is_code = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_code = " r-xp " in line and f"/{_DUCKDB}" in line
        elif is_code and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at as Linux shows it")
def test_code_that_only_the_start_has_run_leaves_memory_and_comes_back() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS n, hash(range) AS h FROM range(10_000)")
        before_kb = _resident_kb()

        assert let_go_of_code(_DUCKDB) > 10 * 2**20
        assert _resident_kb() < before_kb / 2

        assert connection.execute("SELECT count(*), sum(n) FROM t").fetchall() == [(10_000, 49_995_000)]
        with pytest.raises(duckdb.Error):
            connection.execute("SELECT unknown FROM t")
    assert let_go_of_code("no-such-library.") == 0


def test_only_code_that_nobody_has_written_to_is_let_go() -> None:
    def mapping(addresses: str, permissions: str, path: str, anonymous_kb: int, inode: int = 7) -> list[str]:
        head = f"{addresses} {permissions} 00001000 08:01 {inode}          {path}"
        return [head.rstrip(), "Rss:                  64 kB", f"Anonymous:           {anonymous_kb} kB", "VmFlags: rd"]

    lines = [
        *mapping("1000-2000", "r-xp", "/lib/with spaces/_duckdb.so", 0),
        *mapping("2000-3000", "r--p", "/lib/_duckdb.so", 0),
        *mapping("3000-4000", "rw-p", "/lib/_duckdb.so", 0),
        *mapping("4000-5000", "r-xp", "/lib/_duckdb.so", 4),
        *mapping("5000-6000", "rwxp", "/lib/_duckdb.so", 0),
        *mapping("6000-7000", "r-xp", "/lib/other_duckdb.so", 0),
        *mapping("7000-8000", "r-xp", "", 0, inode=0),
        *mapping("8000-9000", "r-xp", "/lib/_duckdb.so (deleted)", 0),
    ]

    assert list(_code(lines, _DUCKDB)) == [(0x1000, 0x2000), (0x8000, 0x9000)]
