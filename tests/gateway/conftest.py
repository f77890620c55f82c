"""A gateway in front of a scripted upstream, shared by a file's tests; each test has a tenant of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream

HELLO = [{"role": "user", "content": "Hello, who are you?"}]

_numbers = itertools.count(1)


class Tenant:
    """A tenant of a running gateway, with one key and an HTTP client that sends it."""

    def __init__(self, gateway: Gateway, *plan: str) -> None:
        self.gateway = gateway
        self.name = f"tenant-{next(_numbers)}"
        added = gateway.cli_json("tenant", "add", self.name, *plan)
        self.id: str = added["tenant"]["id"]
        self.key_id: str = added["key"]["id"]
        self.secret: str = added["key"]["secret"]
        self.http = self.client(self.secret)

    def client(self, secret: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.gateway.base_url, headers={"authorization": f"Bearer {secret}"}, timeout=30.0, trust_env=False
        )

    def chat(self, **members: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO, **members})

    def stream(self, **members: Any) -> Any:
        body = {"model": "gpt-4o", "messages": HELLO, "stream": True, **members}
        return self.http.stream("POST", "/v1/chat/completions", json=body)

    def receipts(self) -> list[dict[str, Any]]:
        """This tenant's receipts, oldest first."""
        listed = self.gateway.cli_json("receipt", "list", "--tenant", self.name, "--limit", "10000")["receipts"]
        return [detail["receipt"] for detail in reversed(listed)]

    def used(self) -> dict[str, dict[str, int]]:
        """What the quota says was used in each running window."""
        used: dict[str, dict[str, int]] = self.http.get("/v1/usage").json()["current"]["tenant"]
        return used


SignUp = Callable[..., Tenant]


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    server = Upstream().start()
    yield server
    server.stop()


@pytest.fixture
def scripted(shared_upstream: Upstream) -> Iterator[Upstream]:
    """The shared upstream, with nothing recorded and nothing left over."""
    shared_upstream.requests.clear()
    yield shared_upstream
    assert shared_upstream.unused == 0, f"{shared_upstream.unused} scripted answers were not asked for"


@pytest.fixture(scope="module")
def shared_gateway(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    return make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "UPSTREAM_KEY": "sk-upstream-secret",
            "TRUSTGATE_UPSTREAM_KEY_ENV": "UPSTREAM_KEY",
            "TRUSTGATE_UPSTREAM_FORWARD_HEADERS": "x-allowed,accept,user-agent,x-request-id",
            "TRUSTGATE_UPSTREAM_FORWARD_RESPONSE_HEADERS": "x-upstream-note",
            "TRUSTGATE_SERVE_MAX_BODY_BYTES": "100000",
            "TRUSTGATE_SERVE_BODY_TIMEOUT_S": "0.5",
        },
    ).start()


@pytest.fixture(scope="module")
def quick_gateway(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    """A gateway with a short retry budget."""
    return make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "TRUSTGATE_SERVE_HEAD_TIMEOUT_S": "0.5",
            "TRUSTGATE_SERVE_STALL_TIMEOUT_S": "0.5",
            "TRUSTGATE_SERVE_REQUEST_TIMEOUT_S": "3",
            "TRUSTGATE_SERVE_MAX_CONCURRENT_REQUESTS": "2",
            "TRUSTGATE_SERVE_TRUST_REQUEST_ID": "false",
            "TRUSTGATE_SERVE_CORS_ORIGINS": "https://app.example.com",
        },
    ).start()


@pytest.fixture
def sign_up() -> Iterator[SignUp]:
    """Adds tenants: ``sign_up(gateway, "--plan", "free")``."""
    tenants: list[Tenant] = []

    def add(gateway: Gateway, *plan: str) -> Tenant:
        tenants.append(Tenant(gateway, *plan))
        return tenants[-1]

    yield add
    for tenant in tenants:
        tenant.http.close()


@pytest.fixture
def tenant(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(shared_gateway)
