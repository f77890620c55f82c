"""The lines and branches that count as run are those that coverage.py's tracer sees, and a killed process's count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import coverage

from tests import lines

_PROGRAM = '''\
"""What it is."""

from __future__ import annotations

import contextlib
import functools


@functools.cache
def decorated(
    number: int,
) -> int:
    """Says it."""
    return number + 1


class Kept:
    """A class."""

    value: int = 3

    def never(self) -> int:
        return self.value


def chosen(number: int) -> str:
    if number > 2:
        return "large"
    elif number < 0:
        return "negative"
    if number == 1:
        number += 1
    return "small"


def looped(count: int) -> int:
    total = 0
    for number in range(count):
        if number == 2:
            break
        total += number
    while total > 0:
        total -= 1
    with contextlib.suppress(ValueError):
        total = int("x")
        total = 5
    return total


def caught(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
    finally:
        caught.__doc__ = "done"


def matched(value: object) -> str:
    match value:
        case int():
            return "number"
        case str():
            return "text"
    return "other"
'''
_RUN = """
from small.parts import caught, chosen, decorated, looped, matched
import small.nothing
decorated(1)
chosen(3), chosen(2)
looped(2)
caught("x"), matched("x")
"""


def test_lines_and_branches_are_those_of_the_tracer(tmp_path: Path) -> None:
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(_PROGRAM)
    (package / "nothing.py").write_text('"""Nothing."""\n\nfrom __future__ import annotations\n')
    (package / "never.py").write_text("number = 1\n")
    compiled = tmp_path / "compiled"
    lines.prepare(compiled, package)
    killed = f"exec(open({str(compiled / 'start.py')!r}).read(), {{}})\n{_RUN}\nimport os; os.kill(os.getpid(), 9)"
    environment = {name: value for name, value in os.environ.items() if name != lines.VARIABLE}
    done = subprocess.run([sys.executable, "-c", killed], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    lines.gather(compiled, package)

    (tmp_path / "run.py").write_text(_RUN)
    traced = tmp_path / "traced"
    tracer = [sys.executable, "-m", "coverage", "run", "--branch", f"--data-file={traced}", "--rcfile=", "run.py"]
    subprocess.run(tracer, cwd=tmp_path, env=environment, check=True)
    for name in ("parts", "nothing"):
        assert _missing(compiled / "data", package / f"{name}.py") == _missing(traced, package / f"{name}.py")
    assert _missing(compiled / "data", package / "never.py") == ([1], {})


def _missing(data: Path, path: Path) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """The lines of the file that were not run; how many exits those with several have, and how many were taken."""
    measured = coverage.Coverage(data_file=str(data), config_file=False, branch=True)
    measured.load()
    return measured.analysis2(str(path))[3], measured.branch_stats(str(path))
