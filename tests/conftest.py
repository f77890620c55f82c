"""Fixtures that every test may use: gateways, upstreams, clients."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import settings

from tests import programs
from tests.support.gateway import Gateway
from tests.support.litellm import LiteLLM
from tests.support.llamacpp import LlamaCpp
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.programs import require
from tests.support.upstream import Upstream

# How long an example takes is the machine's affair.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# Under nohup, or in a shell's background, these are ignored, and servers and commands would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

#: About how many other tests take as long as one that is marked slow.
_SLOW_TEST = 50

GatewayFactory = Callable[..., Gateway]
ClientFactory = Callable[..., openai.OpenAI]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A scripted upstream. The test fails if it scripts answers that are not asked for."""
    server = Upstream().start()
    yield server
    server.stop()
    assert server.unused == 0, f"{server.unused} scripted answers were not asked for"


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[GatewayFactory]:
    """Makes gateways, not yet started; takes what ``Gateway`` takes besides its home. Checks them at the end."""
    with _gateways(tmp_path) as factory:
        yield factory


@pytest.fixture(scope="module")
def make_module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayFactory]:
    """``make_gateway`` for gateways that all tests of a file share."""
    with _gateways(tmp_path_factory.mktemp("gateways")) as factory:
        yield factory


@pytest.fixture
def gateway(make_gateway: GatewayFactory, upstream: Upstream) -> Gateway:
    """A running gateway in front of the scripted ``upstream``."""
    return make_gateway(upstream=upstream.api_url).start()


@pytest.fixture(scope="session")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteLLM]:
    """A running LiteLLM proxy. Tests that use it carry the mark ``litellm``."""
    proxy = LiteLLM(tmp_path_factory.mktemp("litellm"))
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    """A running llama.cpp server with a small model. Tests that use it carry the mark ``model``."""
    server = LlamaCpp(tmp_path_factory.mktemp("llama"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres | GivenPostgres]:
    """A running Postgres. ``postgres.schema()`` gives the URL of a schema of its own."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if not given:
        require("pg_ctlcluster")
    server = GivenPostgres(given) if given else Postgres().start()
    yield server
    server.close()


@pytest.fixture
def make_client() -> Iterator[ClientFactory]:
    """Makes official OpenAI clients: ``make_client(base_url, key)``, plus what ``openai.OpenAI`` takes."""
    with contextlib.ExitStack() as clients:

        def make(base_url: str, key: str, **options: Any) -> openai.OpenAI:
            return clients.enter_context(openai.OpenAI(base_url=base_url, api_key=key, **{"timeout": 30.0, **options}))

        yield make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs LiteLLM and the clients by what it uses: the mark cannot be forgotten. Order the files."""
    for item in items:
        if "litellm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.litellm)
        if "llama" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.model)
        if item.path.parent.name == "clients":
            item.add_marker(pytest.mark.clients)
    # Whole files, those that take long first: one that is begun last has the other processes wait for its end.
    weights = Counter[Path]()
    for item in items:
        weights[item.path] += _SLOW_TEST if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -weights[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each missing program with what is not tested without it; the line after this counts the tests as skipped."""
    for line in programs.left_out():
        terminalreporter.write_line(line, yellow=True, bold=True)


@contextlib.contextmanager
def _gateways(folder: Path) -> Iterator[GatewayFactory]:
    with contextlib.ExitStack() as gateways:
        count = 0

        def make(**options: Any) -> Gateway:
            nonlocal count
            count += 1
            made = Gateway(folder / f"home{count}", **options)
            gateways.callback(made.close)
            return made

        yield make
