"""The programs that tests run besides Python: which there are, what each is for, and how it is installed.

Standard library only: ``python3 tests`` installs what is missing before anything else, where it may (Debian's packages,
as root). Where it may not, the tests that need a missing program are left out, and each of these programs is named at
the end of the run with the command that installs it (``left_out``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from typing import NamedTuple

from tests.environments import say


class Program(NamedTuple):
    """A program: the names it goes by, Debian's package that has it, and what tests use it for."""

    commands: tuple[str, ...]
    package: str
    needed_for: str
    #: The first major version that will do.
    least: int = 0

    @property
    def path(self) -> str | None:
        """Where it is; None where it is missing, or too old."""
        found = next(filter(None, map(shutil.which, self.commands)), None)
        return found if found is None or not self.least or _major_version(found) >= self.least else None

    def problem(self, name: str) -> str:
        """What is wrong where ``path`` is None, and what to do."""
        is_old = self.least and any(map(shutil.which, self.commands))
        what = f"{name} is older than version {self.least}" if is_old else f"{name} is missing"
        return f"{what} ({'https://nodejs.org' if is_old else f'apt-get install {self.package}'})"


PROGRAMS: dict[str, Program] = {
    "bash": Program(("bash",), "bash", "completions, the README's commands, examples"),
    "caddy": Program(("caddy",), "caddy", "the deployment example"),
    "chromium": Program(
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"), "chromium", "the pages"
    ),
    "curl": Program(("curl",), "curl", "HTTP/2 and TLS seen by another client"),
    "fish": Program(("fish",), "fish", "completions"),
    "git": Program(("git",), "git", "the newcomer's walk, which clones the checkout"),
    "nginx": Program(("nginx",), "nginx-light", "the deployment example"),
    "node": Program(("node",), "nodejs", "the receipt checker and clients in JavaScript", least=20),
    "npm": Program(("npm",), "npm", "the packages of clients in JavaScript"),
    "openssl": Program(("openssl",), "openssl", "certificates"),
    "pg_ctlcluster": Program(("pg_ctlcluster", "initdb"), "postgresql", "the store on Postgres"),
    "pgbouncer": Program(("pgbouncer",), "pgbouncer", "a pooler in front of Postgres"),
    "systemd-analyze": Program(("systemd-analyze",), "systemd", "the unit files of the deployment example"),
    "zsh": Program(("zsh",), "zsh", "completions"),
}


@cache
def _major_version(command: str) -> int:
    """The major version that ``command --version`` prints (``v20.1.0``); 0 where it prints none."""
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"[0-9]+", done.stdout)
    return int(found[0]) if found else 0


def missing() -> list[str]:
    """The names of the programs that are not on this machine."""
    return [name for name, program in PROGRAMS.items() if program.path is None]


def install() -> None:
    """Install the missing programs where that is possible: as root, by apt-get. A failure is told, not raised."""
    names = missing()
    if not names or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    packages = sorted({PROGRAMS[name].package for name in names})
    say(f"installing {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["--quiet=2", "--yes", "--no-install-recommends"]
    for command in (["apt-get", "update", "--quiet=2"], ["apt-get", "install", *options, *packages]):
        try:
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            say(f"{' '.join(command)}: {error}")
            return
        if done.returncode != 0:
            say(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace').strip()}")


def left_out() -> list[str]:
    """A line for each missing program: what is not tested without it, and the command that installs it."""
    return [f"LEFT OUT: tests of {PROGRAMS[name].needed_for}: {PROGRAMS[name].problem(name)}" for name in missing()]
