"""The lock files: ``python3 tests/lock.py`` renews them, ``--check`` says whether they fit what they lock.

Owns the lock files: requirements.lock (TrustGate), tests/requirements.lock (TrustGate with its extras and the tools of
the tests, the same versions), tests/binary/requirements.lock (TrustGate and what packs it),
tests/litellm/requirements.lock, tests/model/requirements.lock, tests/fuzz/requirements.lock,
tests/clients/requirements.lock and npm's package-lock.json beside it.
``--check`` needs no network; ``--upgrade`` takes the newest versions the ranges allow.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

# Run by its path, so that it needs nothing installed: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.environments import (
    BINARY_LOCK,
    CLIENTS_LOCK,
    FUZZ_LOCK,
    LITELLM_LOCK,
    MAIN_LOCK,
    MODEL_LOCK,
    NODE_LOCK,
    ROOT,
    TESTS_LOCK,
    EnvironmentFailed,
    say,
    tests_python,
)

PROJECT = ROOT / "pyproject.toml"
TESTS_IN = ROOT / "tests" / "requirements.in"
BINARY_IN = ROOT / "tests" / "binary" / "requirements.in"
FUZZ_IN = ROOT / "tests" / "fuzz" / "requirements.in"
MODEL_IN = ROOT / "tests" / "model" / "requirements.in"
LITELLM_IN = ROOT / "tests" / "litellm" / "requirements.in"
CLIENTS_IN = ROOT / "tests" / "clients" / "requirements.in"
NODE_IN = NODE_LOCK.with_name("package.json")
#: lock file → what it is made from; requirements.lock also binds the versions of the second.
SOURCES = {
    MAIN_LOCK: [PROJECT],
    TESTS_LOCK: [PROJECT, TESTS_IN],
    BINARY_LOCK: [PROJECT, BINARY_IN],
    LITELLM_LOCK: [LITELLM_IN],
    MODEL_LOCK: [MODEL_IN],
    FUZZ_LOCK: [FUZZ_IN],
    CLIENTS_LOCK: [CLIENTS_IN],
}
#: Locks that have TrustGate in them, at the versions of requirements.lock.
WITH_TRUSTGATE = (TESTS_LOCK, BINARY_LOCK)

_HASH = re.compile(r"^\s+--hash=sha256:([0-9a-f]{64})")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/lock.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="check only; exit code 1 when a lock does not fit")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    options = parser.parse_args()
    try:
        python = tests_python(Path(sys.executable))
    except EnvironmentFailed as error:
        say(str(error))
        return 1
    if Path(sys.prefix) != python.parent.parent:
        return subprocess.run([python, __file__, *sys.argv[1:]], check=False).returncode
    return check() if options.check else renew(upgrade=options.upgrade)


def renew(*, upgrade: bool) -> int:
    """Resolve again for every platform and every Python from 3.11 on. No address and no path goes into a lock."""
    for lock, sources in SOURCES.items():
        command = ["uv", "pip", "compile", "--universal", "--generate-hashes", "--quiet"]
        command += ["--python-version", "3.11", "--no-emit-index-url", "--no-emit-find-links"]
        command += ["--custom-compile-command", "python3 tests/lock.py"]
        command += ["--output-file", str(lock.relative_to(ROOT)), *(str(path.relative_to(ROOT)) for path in sources)]
        command += ["--constraint", str(MAIN_LOCK.relative_to(ROOT))] if lock in WITH_TRUSTGATE else []
        command += ["--all-extras"] if lock == TESTS_LOCK else []
        command += ["--no-deps"] if lock == MODEL_LOCK else []
        command += ["--upgrade"] if upgrade else []
        subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=ROOT, check=True)
    node = ["npm", "update" if upgrade else "install", "--package-lock-only", "--omit-lockfile-registry-resolved"]
    subprocess.run([*node, "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NODE_IN.parent, check=True)
    return check()


def check() -> int:
    """Whether every requirement is met by its lock, and the two locks of TrustGate agree. Prints what is not."""
    problems = [problem for lock, sources in SOURCES.items() for problem in _unmet(lock, sources)]
    main = _pins(MAIN_LOCK)
    for lock in WITH_TRUSTGATE:
        pins = _pins(lock)
        problems += [
            f"{lock.relative_to(ROOT)} has {name} {pins.get(name)}, requirements.lock has {version}"
            for name, version in main.items()
            if pins.get(name) != version
        ]
    problems += _unmet_by_node()
    for problem in problems:
        say(problem)
    if problems:
        say("renew the locks with: python3 tests/lock.py")
        return 1
    say("the lock files fit pyproject.toml and the requirements of the tests")
    return 0


def _unmet_by_node() -> list[str]:
    """npm checks the rest itself: it installs nothing from a lock that does not fit its package.json."""
    name = NODE_LOCK.relative_to(ROOT)
    if not NODE_LOCK.is_file():
        return [f"{name} is not there"]
    text = NODE_LOCK.read_text()
    locked = json.loads(text)["packages"][""].get("dependencies")
    problems = (
        [] if locked == json.loads(NODE_IN.read_text())["dependencies"] else [f"{name} does not fit package.json"]
    )
    return [*problems, *([f"{name} has addresses of a registry"] if '"resolved"' in text else [])]


def _unmet(lock: Path, sources: list[Path]) -> list[str]:
    from packaging.requirements import Requirement

    pins = _pins(lock)
    problems = []
    for line in (line for source in sources for line in _requirements(source, extras=lock == TESTS_LOCK)):
        requirement = Requirement(line)
        version = pins.get(normalised(requirement.name))
        if version is None or version not in requirement.specifier:
            problems.append(
                f"{lock.relative_to(ROOT)} has {requirement.name} {version or 'not at all'}, but {line} is required"
            )
    return problems


def _requirements(source: Path, *, extras: bool) -> list[str]:
    """``extras``: those of the optional abilities, too."""
    if source == PROJECT:
        project = tomllib.loads(source.read_text())["project"]
        optional = project["optional-dependencies"].values() if extras else ()
        return [*project["dependencies"], *(line for lines in optional for line in lines)]
    lines = (line.split("#")[0].strip() for line in source.read_text().splitlines())
    return [line for line in lines if line]


def locked(lock: Path) -> dict[str, tuple[str, list[str]]]:
    """Returns what a lock file names: normalised name → version and the SHA-256 hashes of its files."""
    found: dict[str, tuple[str, list[str]]] = {}
    hashes: list[str] = []
    for line in lock.read_text().splitlines():
        if pin := _PIN.match(line):
            hashes = []
            found[normalised(pin[1])] = (pin[2], hashes)
        elif digest := _HASH.match(line):
            hashes.append(digest[1])
    return found


def normalised(name: str) -> str:
    """Returns a package's name as indexes compare it (PEP 503); the standard library has no function for it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(lock: Path) -> dict[str, str]:
    return {name: version for name, (version, _) in locked(lock).items()}


if __name__ == "__main__":
    raise SystemExit(main())
