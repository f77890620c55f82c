"""Homes for the command line to work on: with a server running on them, and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway


@pytest.fixture
def home(tmp_path: Path) -> Gateway:
    """A home folder that does not exist yet, with no server."""
    return Gateway(tmp_path / "home")


@pytest.fixture(scope="module", params=["no server", "server"])
def either_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One home for the tests of a file, once without a server and once with one: commands work the same."""
    gateway = Gateway(tmp_path_factory.mktemp("cli") / "home", upstream="builtin:echo")
    if request.param == "server":
        gateway.start()
    else:
        gateway.make_home()
    yield gateway
    gateway.close()
