"""``python3 tests/fuzz``: search for bytes that break what parses bytes from outside.

    …                           every target, 20 seconds each
    … sse note --seconds 600    two of them, ten minutes each
    … --list

Guided by coverage (atheris, over libFuzzer), each target in a process of its own, from its seeds and
``corpus/TARGET``. What breaks a target is written to ``corpus/TARGET/crash-…`` and fails ``test_fuzz.py`` from then
on; the exit code is 1.
Atheris is in an environment of its own (``requirements.lock``): it has wheels for Linux on x86-64 alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests import environments

CORPUS = Path(__file__).parent / "corpus"
_RUN_ONE = "--run-one"
_RSS_LIMIT_MB = 2_048
_INPUT_TIMEOUT_S = 10


class Result(NamedTuple):
    target: str
    runs: int
    features: int
    #: Files with what broke it.
    crashes: tuple[Path, ...]


def main(arguments: Sequence[str]) -> int:
    """Fuzz the targets that ``arguments`` choose. Returns 1 where one of them broke."""
    if arguments[:1] == [_RUN_ONE]:
        return _run_one(arguments[1], list(arguments[2:]))
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(
        prog="python3 tests/fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", nargs="*", help="which targets (default: all)")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (default: 20)")
    parser.add_argument("--list", action="store_true", help="print the targets, run nothing")
    options = parser.parse_args(arguments)
    if options.list:
        for name, target in TARGETS.items():
            print(f"{name:20} {(target.run.__doc__ or '').strip()}")
        return 0
    if unknown := set(options.target) - TARGETS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the targets are {', '.join(TARGETS)}")
    python_path = os.pathsep.join([str(environments.fuzz_packages(Path(sys.executable))), str(environments.ROOT)])
    results = [_fuzz(name, options.seconds, python_path) for name in options.target or TARGETS]
    print(f"{'target':20} {'runs':>12} {'features':>9}  broke")
    for result in results:
        found = ", ".join(path.name for path in result.crashes) or "-"
        print(f"{result.target:20} {result.runs:>12,} {result.features:>9,}  {found}")
    return 1 if any(result.crashes for result in results) else 0


def _fuzz(name: str, seconds: int, python_path: str) -> Result:
    from tests.fuzz.targets import TARGETS

    kept = CORPUS / name
    with tempfile.TemporaryDirectory(prefix="trustgate-fuzz-") as temporary:
        found, crashes = Path(temporary, "found"), Path(temporary, "crashes")
        found.mkdir()
        crashes.mkdir()
        for number, seed in enumerate(TARGETS[name].seeds()):
            (found / f"seed-{number}").write_bytes(seed)
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            _RUN_ONE,
            name,
            str(found),
            *([str(kept)] if kept.is_dir() else []),
        ]
        command += [f"-max_total_time={seconds}", f"-timeout={_INPUT_TIMEOUT_S}", f"-rss_limit_mb={_RSS_LIMIT_MB}"]
        command += [f"-artifact_prefix={crashes}/", "-print_final_stats=1", "-max_len=8192"]
        environment = {**os.environ, "PYTHONPATH": python_path}
        ended = subprocess.run(
            command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace", check=False
        )
        broke = [_keep(path, kept) for path in sorted(crashes.iterdir())]
    if broke or ended.returncode:
        print(ended.stderr[-6_000:])
    if ended.returncode and not broke:
        raise SystemExit(f"{name}: the fuzzer ended with {ended.returncode} and no input")
    runs = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
    features = re.findall(r"\bft: (\d+)", ended.stderr)
    return Result(name, int(runs[1]) if runs else 0, int(features[-1]) if features else 0, tuple(broke))


def _keep(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(path, folder))


def _run_one(name: str, arguments: list[str]) -> int:
    """In the process of one target: instrument what it calls as it is imported, then hand over to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["trustgate"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
