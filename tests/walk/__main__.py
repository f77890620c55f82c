"""A newcomer's first five minutes, walked: ``python3 tests/walk``. Standard library only.

A fresh clone, an empty home, an environment with python3 and the system's own programs: the README's section "Start"
is typed there block by block, as it stands. Prints what was typed, what came of it and when; fails where the section
does not do what it says. Needs port 4010, as the section does. What comes later in the README is run by the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SECTION = re.compile(r"^## Start\n(.*?)^## ", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PATIENCE_S = 300
#: Where pip finds packages is the machine's business.
_KEPT = re.compile(r"^(PIP_|SSL_|REQUESTS_)|_PROXY$|_proxy$")
_ANSWER = "Hello!"


class Walk:
    def __init__(self, folder: Path) -> None:
        self._began = time.monotonic()
        self._folder = folder
        self._checkout = folder / "trustgate"
        self._server: subprocess.Popen[str] | None = None
        #: What was exported, from one block to the next.
        self._variables = folder / "variables"
        self._variables.touch()
        programs, home = folder / "bin", folder / "home"
        programs.mkdir()
        home.mkdir()
        python = programs / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if _KEPT.search(name)}
        settings = Path.home() / ".config" / "pip" / "pip.conf"
        if settings.exists():
            kept.setdefault("PIP_CONFIG_FILE", str(settings))
        self._environment = {**kept, "HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin", "LANG": "C.UTF-8"}

    def go(self) -> None:
        """Raises AssertionError where something is not as the README says."""
        if (ROOT / ".git").exists():
            # Whatever user owns the checkout: it is this one.
            self._type(f'git -c safe.directory="*" clone --quiet "{ROOT}" "{self._checkout}"', self._folder)
        else:
            shutil.copytree(ROOT, self._checkout, ignore=shutil.ignore_patterns(".venv*", ".*_cache", "__pycache__"))
        section = _SECTION.search((self._checkout / "README.md").read_text())
        assert section is not None, "the README has no section Start"
        blocks = [block.strip() for block in _BLOCK.findall(section[1])]
        said = ""
        for block in blocks:
            if block.endswith("trustgate serve"):
                self._serve(block)
            elif block.endswith("trustgate demo"):
                said += self._type(f"{block} --exit", self._checkout)
            else:
                said += self._type(block, self._checkout)
            if self._server is not None and _ANSWER in said:
                print(f"walk: the first request was answered after {self._passed_s():.0f} s", flush=True)
                return
        raise AssertionError(f"no request was answered with {_ANSWER}:\n{said}")

    def _type(self, command: str, folder: Path) -> str:
        """Run the lines as one shell would that stays open; gives what they printed."""
        self._show(command)
        script = f'set -eu\n. "{self._variables}"\ncd "{folder}"\n{command}\nexport -p > "{self._variables}"\n'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        assert done.returncode == 0, f"exit code {done.returncode}: {command}"
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def _serve(self, command: str) -> None:
        """Run it in a terminal of its own, and wait for the address that the README names."""
        self._show(command)
        self._server = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._checkout,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not _is_ready("http://127.0.0.1:4010/health"):
            assert self._server.poll() is None, f"exit code {self._server.returncode}: {command}"
            assert time.monotonic() < deadline, "it never was ready at port 4010"
            time.sleep(0.1)

    def end(self) -> None:
        """Ctrl-C in the server's terminal."""
        if self._server is not None and self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGINT)
            code = self._server.wait(_PATIENCE_S)
            assert code in (0, 130), f"the server ended with exit code {code}"

    def _passed_s(self) -> float:
        return time.monotonic() - self._began

    def _show(self, command: str) -> None:
        print(f"\n[{self._passed_s():5.1f} s] $ {command}", flush=True)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def main() -> int:
    if shutil.which("git") is None:
        print("walk: git is missing: apt-get install git")
        return 1
    if _is_ready("http://127.0.0.1:4010/health"):
        print("walk: something serves at port 4010 already: stop it first")
        return 1
    with tempfile.TemporaryDirectory(prefix="trustgate-walk-") as folder:
        walk = Walk(Path(folder))
        try:
            walk.go()
        except AssertionError as error:
            print(f"walk: {error}")
            return 1
        finally:
            walk.end()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
