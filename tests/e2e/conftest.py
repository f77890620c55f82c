"""One gateway in front of a real LiteLLM proxy, and tenants with real OpenAI clients."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import openai
import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.support.gateway import Gateway
from tests.support.litellm import LiteLLM

#: Names are unique: the tests of a file share a gateway.
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def served(make_module_gateway: GatewayFactory, litellm: LiteLLM) -> Gateway:
    """A running gateway whose upstream is LiteLLM, with LiteLLM's master key as its credential."""
    return make_module_gateway(
        upstream=litellm.api_url,
        arguments=("--upstream-key-env", "UPSTREAM_KEY"),
        environment={"UPSTREAM_KEY": litellm.master_key},
    ).start()


@pytest.fixture
def tenant() -> str:
    """A name no other test uses."""
    return f"tenant-{next(_numbers)}"


@pytest.fixture
def sign_up(served: Gateway, tenant: str, make_client: ClientFactory) -> Callable[..., openai.OpenAI]:
    """Adds this test's tenant and gives a client with its key: ``sign_up(plan="free")``."""

    def add(plan: str | None = None, **options: object) -> openai.OpenAI:
        return make_client(served.api_url, served.add_tenant(tenant, plan=plan), **options)

    return add


@pytest.fixture
def client(sign_up: Callable[..., openai.OpenAI]) -> openai.OpenAI:
    """A client of a tenant on the default plan."""
    return sign_up()
