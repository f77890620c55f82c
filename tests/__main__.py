"""``python3 tests``: make what the tests need, then run them. Standard library only.

    python3 tests                        everything, with coverage and its threshold
    python3 tests -k quota -x            anything pytest takes; coverage is left out
    python3 tests --python python3.13    on another interpreter
    python3 tests --no-litellm           without LiteLLM, the real model and the clients, and their large environments
    python3 tests --quick                without the tests marked slow: kills by the dozen, long streams
    python3 tests --jobs 1               in one process, not in one more than there are cores
    python3 tests --run mypy             any tool of the environment, from the top of the checkout

The first run installs locked versions into virtual environments of its own (environments.py) and, as root on Debian,
the programs that tests run besides Python (programs.py). Without these rights the tests that need a missing program are
left out: the summary names each such program with the command that installs it, and the last line counts the tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# Run by its path, so that it needs nothing installed: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import again, environments, lines, programs

MINIMUM = (3, 11)


def main() -> int:
    """Run what was asked for. Exit code: pytest's, the tool's, 2 for a failed coverage, 1 when set-up failed."""
    if sys.version_info < MINIMUM:
        environments.say(f"TrustGate needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; this is {sys.version.split()[0]}")
        return 1
    options, pytest_arguments = _parse(sys.argv[1:])
    try:
        tools_only = options.no_litellm or options.run is not None
        if options.run is None:
            programs.install()
        python = _environments(_interpreter(options.python), tools_only=tools_only)
    except environments.EnvironmentFailed as error:
        environments.say(str(error))
        return 1
    if options.install_only:
        return 0
    if options.run is not None:
        return _tool(python, options.run)
    whole = not pytest_arguments
    left_out = [
        f"not {mark}"
        for mark, is_left_out in (
            ("litellm", options.no_litellm),
            ("clients", options.no_litellm),
            ("model", options.no_litellm),
            ("slow", options.quick),
        )
        if is_left_out
    ]
    if left_out:
        pytest_arguments = ["-m", " and ".join(left_out), *pytest_arguments]
    # One more than there are cores: tests wait for servers that start and stop.
    jobs = options.jobs or ((os.cpu_count() or 1) + 1 if whole else 1)
    if jobs > 1:
        # A file stays in one process: its tests share servers. (loadgroup would do more, and groups nothing here:
        # pytest-xdist 3.8 writes the group where pytest 9.2 no longer reads it.)
        # tests/conftest.py orders the files by how long they take; xdist would order them by their number of tests.
        shared = [f"--numprocesses={jobs}", "--dist=loadfile", "--no-loadscope-reorder"]
        pytest_arguments = [*shared, *pytest_arguments]
    again.forget(environments.ROOT)
    if options.coverage or (whole and not options.no_coverage and not left_out):
        return _covered(python, pytest_arguments, whole=whole and not left_out, retry=options.retry)
    return _tests(python, [str(python), "-m", "pytest"], pytest_arguments, retry=options.retry)


def _environments(base: Path, *, tools_only: bool) -> Path:
    """Make what is needed, several at a time, and tell the tests where it is; gives the Python that runs them."""
    # LiteLLM and the clients run as programs of their own, so one environment serves every Python the tests run on.
    own = Path(sys.executable)
    others: dict[str, Callable[[], Path]] = {
        environments.LITELLM_VARIABLE: partial(environments.litellm_python, own),
        environments.MODEL_VARIABLE: partial(environments.model_python, own),
        environments.CLIENTS_VARIABLE: partial(environments.clients_python, own),
    }
    if not {"node", "npm"} & set(programs.missing()):
        others[environments.NODE_VARIABLE] = environments.node_folder
    with ThreadPoolExecutor() as pool:
        python = pool.submit(environments.tests_python, base)
        made = {name: pool.submit(make) for name, make in others.items() if not tools_only and not os.environ.get(name)}
        os.environ.update({name: str(folder.result()) for name, folder in made.items()})
        return python.result()


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python3 tests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter to test on (default: this one)")
    parser.add_argument("--no-litellm", action="store_true", help="leave out LiteLLM, the real model and the clients")
    parser.add_argument("--quick", action="store_true", help="leave out the tests that are marked slow")
    parser.add_argument("--jobs", type=int, default=0, help="how many processes share the tests")
    parser.add_argument("--coverage", action="store_true", help="measure coverage although tests are selected")
    parser.add_argument("--no-coverage", action="store_true", help="run everything without measuring coverage")
    parser.add_argument("--retry", action="store_true", help="run a few failed tests again, alone (again.py)")
    parser.add_argument("--install-only", action="store_true", help="make the environments and stop")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="TOOL", help="run a tool of the environment")
    options, rest = parser.parse_known_args(arguments)
    if options.run == []:
        parser.error("--run needs the name of a tool, like ruff or mypy")
    return options, rest


def _interpreter(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise environments.EnvironmentFailed(f"there is no Python at {name}")
    return Path(found)


def _tests(python: Path, pytest: list[str], arguments: list[str], *, retry: bool) -> int:
    """Run pytest; with ``retry`` the few tests that failed get their chance alone, and are named."""
    result = _call([*pytest, *arguments])
    alone = (
        again.passed_alone(environments.ROOT, result, lambda tests: _call([str(python), "-m", "pytest", *tests]))
        if retry
        else None
    )
    if alone is None:
        return result
    for test in alone:
        print(f"UNSTEADY, to be mended: {test} failed once and passed {again.TIMES} times alone", flush=True)
    return 0


def _covered(python: Path, pytest_arguments: list[str], *, whole: bool, retry: bool) -> int:
    """Run pytest, note which lines it reaches (lines.py), and report. The threshold holds for the whole suite."""
    folder = environments.venvs_folder() / "coverage"
    shutil.rmtree(folder, ignore_errors=True)
    if _call([str(python), "-m", "tests.lines", "prepare", str(folder)]):
        return 1
    os.environ[lines.VARIABLE] = str(folder)
    result = _tests(python, [str(python), "-m", "pytest"], pytest_arguments, retry=retry)
    del os.environ[lines.VARIABLE]
    if _call([str(python), "-m", "tests.lines", "gather", str(folder)]):
        return 1
    report = [str(python), "-m", "coverage", "report", f"--data-file={folder / 'data'}"]
    reported = _call([*report, *([] if whole else ["--fail-under=0"])])
    return result or reported


def _tool(python: Path, command: list[str]) -> int:
    """Run a program of the environment, which comes first on the PATH."""
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return _call(command)


def _call(command: list[str]) -> int:
    try:
        return subprocess.run(command, cwd=environments.ROOT, check=False).returncode
    except FileNotFoundError:
        environments.say(f"{command[0]} is not in the environment of the tests")
        return 127
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
