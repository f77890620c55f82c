"""``python -m tests.mutation.forked``: runs tests in a fork of itself, which has the libraries imported already.

A line of JSON on the standard input names the tests and how long they may take (``tests``, ``timeout_s``), and where
what they reach is recorded (``lines``, a folder of ``tests.lines``, and ``records``; null: it is not). One on the
standard output has what came of them: ``code``, pytest's exit code (null: they did not end in time), and the end of
their ``output``. More than half a mutant's time would be imports: the libraries are imported once, the checkout's own
modules anew in every fork, from the current folder.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import Phase, settings

#: Arguments of every run. A failing property need not be made small, and nothing of a mutant is kept for later runs.
_ARGUMENTS = (
    *("-q", "-x", "-p", "no:cacheprovider", "--no-header", "--hypothesis-profile", "mutation"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
_OWN = ("trustgate", "tests")


def main() -> None:
    """Answer each line until the input ends."""
    _import_libraries()
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutation", deadline=None, database=None, phases=phases, derandomize=True)
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile() as output:
            code = _run(order, output)
            output.seek(0)
            text = output.read().decode(errors="replace")
        print(json.dumps({"code": code, "output": text[-4000:]}), flush=True)


def _import_libraries() -> None:
    for name in ("tests.conftest", "trustgate.cluster.database", "trustgate.server.run"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in _OWN and name != __name__]:
        del sys.modules[name]


def _run(order: Mapping[str, Any], output: IO[bytes]) -> int | None:
    """Returns pytest's exit code; None: it had not ended in time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = 1
        try:
            code = int(pytest.main([*_ARGUMENTS, *order["tests"]], plugins=_plugins(order)))
        except:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(child, signal.SIGKILL)

    timer = threading.Timer(order["timeout_s"], end)
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    with contextlib.suppress(ProcessLookupError):
        # What its tests started and left running.
        os.killpg(child, signal.SIGKILL)
    return None if late.is_set() else os.waitstatus_to_exitcode(status)


def _plugins(order: Mapping[str, Any]) -> list[object]:
    if order["lines"] is None:
        return []
    from tests import lines
    from tests.mutation.reach import Recorder

    folder = Path(order["lines"])
    os.environ[lines.VARIABLE] = str(folder)
    exec((folder / "start.py").read_text(), {})
    return [Recorder(folder, Path(order["records"]))]


if __name__ == "__main__":
    main()
