"""The few tests that failed in a whole run, alone and again. Standard library only.

Three processes of tests share two cores in CI, so that a test which waits too short for something can fail there that
passes by itself. Such a test is a fault of the tests and is named at the end of the run, to be mended; it does not
stand for a fault of the program. A fault of the program that appears now and then does not pass three times in a row
either, or not for long: a property that was falsified tries the input first that falsified it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

#: How many tests may have failed: more is no matter of one test.
AT_MOST = 3
#: How often each of them has to pass, in a row and alone.
TIMES = 3
_RECORD = Path(".pytest_cache/v/cache/lastfailed")
#: pytest's exit code for "tests were run, and some failed".
_SOME_FAILED = 1


def forget(root: Path) -> None:
    """Remove pytest's record of what failed in an earlier run in this checkout."""
    (root / _RECORD).unlink(missing_ok=True)


def passed_alone(root: Path, exit_code: int, run: Callable[[list[str]], int]) -> list[str] | None:
    """Run the failed tests again.

    Args:
        root: The checkout, where pytest keeps its record.
        exit_code: pytest's exit code of the whole run.
        run: Runs pytest with arguments, gives its exit code.

    Returns:
        The names of the tests that failed once and have passed ``TIMES`` times since; None where the failure stands.
    """
    if exit_code != _SOME_FAILED or not (root / _RECORD).exists():
        return None
    failed = list(json.loads((root / _RECORD).read_bytes()))
    if not 0 < len(failed) <= AT_MOST:
        return None
    # Read once: a run that passes empties the record.
    return failed if all(run(failed) == 0 for _ in range(TIMES)) else None
