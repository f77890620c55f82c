"""One headless Chromium and one gateway for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chromium import Browser
from tests.support.gateway import Gateway
from tests.support.programs import require_node_modules
from tests.support.upstream import Upstream


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser. Tests take ``browser``, which finds it as if just started."""
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser without cookies, in the light, 1,200 pixels wide."""
    chromium.clear_cookies()
    chromium.look()
    yield chromium
    chromium.open("about:blank")


@pytest.fixture(scope="session")
def pages_upstream() -> Iterator[Upstream]:
    server = Upstream().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pages_gateway(tmp_path_factory: pytest.TempPathFactory, pages_upstream: Upstream) -> Iterator[Gateway]:
    """A running gateway for tests of pages. They share it: each names its own tenants."""
    gateway = Gateway(tmp_path_factory.mktemp("pages") / "home", upstream=pages_upstream.api_url)
    gateway.start()
    yield gateway
    gateway.close()


@pytest.fixture(scope="session")
def axe_source() -> str:
    """axe-core, which finds what makes a page hard to use: ``browser.axe(axe_source)`` gives its findings."""
    return (require_node_modules() / "node_modules" / "axe-core" / "axe.min.js").read_text()
