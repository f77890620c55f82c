"""The peers that are not Python packages of this checkout, and the receipts that take minutes to write.

Owns where they are kept: among the tests' environments. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.environments import say, venvs_folder

PORTKEY_VERSION = "1.15.2"
#: How many receipts the large home folder has.
RECEIPTS = 10_000_000


def portkey_folder() -> Path:
    return venvs_folder() / f"portkey-{PORTKEY_VERSION}"


def portkey_program() -> Path | None:
    program = portkey_folder() / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return program if program.is_file() else None


def install_portkey() -> None:
    """Install it with npm, if there is one. Whether it worked shows by its being there."""
    npm = shutil.which("npm")
    if npm is None or portkey_program() is not None:
        return
    say(f"installing Portkey's gateway {PORTKEY_VERSION} with npm (once)")
    folder = portkey_folder()
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(folder), "--no-fund", "--no-audit", "--ignore-scripts", "--silent"]
    subprocess.run([*command, f"@portkey-ai/gateway@{PORTKEY_VERSION}"], stdin=subprocess.DEVNULL, check=False)


def big_home(receipts: int = RECEIPTS) -> Path:
    """The home folder with so many receipts, made once (``python3 tests/bench receipts``)."""
    return venvs_folder() / f"bench-home-{receipts}"
