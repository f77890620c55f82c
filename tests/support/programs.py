"""Programs in tests: found, or the test is left out and named in the summary of the run (tests.programs)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import environments
from tests.programs import PROGRAMS


def require(name: str) -> str:
    """The path of a program. Where it is missing the test is left out, with the command that installs it."""
    program = PROGRAMS[name]
    if program.path is None:
        pytest.skip(f"LEFT OUT: {program.problem(name)}")
    return program.path


def require_node_modules() -> Path:
    """The folder whose ``node_modules`` holds the clients written in JavaScript.

    Raises AssertionError where Node and npm are there and the folder is not: then ``python3 tests`` has not made it.
    """
    require("node")
    require("npm")
    folder = environments.find_node()
    assert folder is not None, "there is no environment of Node's: python3 tests --install-only"
    return folder
