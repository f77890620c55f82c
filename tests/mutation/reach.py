"""What each test reaches of the program, by which a mutant is tried on the tests that can notice it and on no other.

The tests are run once with the modules that ``tests.lines`` compiles; before each of them its bytes are cleared, after
it they are read. A fixture that several tests share counts for the first of them. Owns the records' form: a line of
JSON for each test.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import lines


class Reach(NamedTuple):
    """One test: how long it took, seconds, and the numbers of the points that were reached meanwhile."""

    test: str
    seconds: float
    points: frozenset[int]

    @property
    def file(self) -> str:
        """The test's file."""
        return self.test.partition("::")[0]


class Recorder:
    """A plugin of pytest that writes a record of each test. This process runs ``start.py`` of the folder already."""

    def __init__(self, folder: Path, records: Path) -> None:
        self._reached = folder / lines.REACHED
        self._records = records

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Around a test with its fixtures."""
        with self._reached.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
        started = time.monotonic()
        result = yield
        seconds = time.monotonic() - started
        points = [number for number, is_reached in enumerate(self._reached.read_bytes()) if is_reached]
        with self._records.open("a") as file:
            file.write(json.dumps({"test": item.nodeid, "seconds": round(seconds, 3), "points": points}) + "\n")
        return result


def program_of(package: Path) -> str:
    """What the numbers of the points depend on: a digest of the program's sources."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(b"%s %d " % (str(path.relative_to(package)).encode(), path.stat().st_size) + path.read_bytes())
    return digest.hexdigest()


def keep(records: Path, new: Path, program: str) -> None:
    """Add a recorder's records to those that are kept. ``program``: whose points they have."""
    with records.open("a") as file:
        for line in new.read_text().splitlines():
            file.write(json.dumps({"program": program, **json.loads(line)}) + "\n")


def read(records: Path, program: str) -> list[Reach]:
    """The records of a program; none where the file does not exist."""
    if not records.exists():
        return []
    found = map(json.loads, records.read_text().splitlines())
    return [Reach(one["test"], one["seconds"], frozenset(one["points"])) for one in found if one["program"] == program]


def points_of_lines(package: Path, files: Iterable[str]) -> Mapping[str, Mapping[int, frozenset[int]]]:
    """Of each of these files: by line of a function, the points that its statement has, of which one is reached."""
    wanted = {package / file: file for file in files}
    found = {}
    first = 0
    for path, source, module in lines.modules(package):
        if path in wanted:
            by_line: dict[int, set[int]] = {}
            for number, point in enumerate(module.points, first):
                for line in point.lines if not point.is_skip else ():
                    by_line.setdefault(line, set()).add(number)
            found[wanted[path]] = _by_every_line(ast.parse(source), by_line)
        first += len(module.points)
    return found


def _by_every_line(tree: ast.Module, by_line: Mapping[int, set[int]]) -> Mapping[int, frozenset[int]]:
    """A line inside of a statement has what the innermost one around it has."""
    every: dict[int, frozenset[int]] = {}
    for node in ast.walk(tree):  # the outer before the inner
        if isinstance(node, ast.stmt) and node.lineno in by_line:
            points = frozenset(by_line[node.lineno])
            every.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), points))
    return every


def choose(reaches: Iterable[Reach], points: frozenset[int], most_s: float) -> list[Reach]:
    """The tests that reach one of the points, the quickest first: at least one, and no more than take ``most_s``."""
    chosen: list[Reach] = []
    for reach in sorted((reach for reach in reaches if reach.points & points), key=lambda reach: reach.seconds):
        if chosen and sum(one.seconds for one in chosen) + reach.seconds > most_s:
            break
        chosen.append(reach)
    return chosen
