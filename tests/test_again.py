"""A test that failed once is taken for unsteady only where it passes alone, each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import again

_TESTS = """
from pathlib import Path
import pytest
count = Path(__file__).with_name("count")

@pytest.mark.parametrize("name", ["a b::[c]"])
def test_falls(name):
    runs = len(count.read_text()) if count.exists() else 0
    count.write_text("x" * (runs + 1))
    assert runs not in {falls}

@pytest.mark.parametrize("n", range({many}))
def test_more(n):
    assert False
"""


@pytest.mark.parametrize(
    ("falls", "many", "runs", "unsteady"),
    [((0,), 0, 4, True), ((0, 2), 0, 3, False), ((0,), 3, 1, False), ((9,), 0, 1, False)],
    ids=["once", "again in the second run alone", "too many others", "never"],
)
def test_what_passes_alone(tmp_path: Path, falls: tuple[int, ...], many: int, runs: int, unsteady: bool) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS.format(falls=falls, many=many))
    (tmp_path / "pytest.ini").write_text("[pytest]")

    def run(arguments: list[str]) -> int:
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    again.forget(tmp_path)
    found = again.passed_alone(tmp_path, run([]), run)

    assert (found == ["test_it.py::test_falls[a b::[c]]"]) is unsteady
    assert (found is None) is not unsteady
    assert len((tmp_path / "count").read_text()) == runs
