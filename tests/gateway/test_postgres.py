"""The gateway on Postgres, as one process: it serves, survives kills and a database that was away."""

from __future__ import annotations

import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.support.gateway import Gateway
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.upstream import Upstream


@pytest.fixture
def on_postgres(make_gateway: GatewayFactory, upstream: Upstream, postgres: Postgres | GivenPostgres) -> Gateway:
    return make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_STORE_URL": postgres.clean()})


def test_it_serves_and_a_kill_loses_nothing(on_postgres: Gateway, make_client: ClientFactory) -> None:
    gateway = on_postgres
    secret = gateway.add_tenant()
    gateway.start()
    client = make_client(gateway.api_url, secret)
    for _ in range(20):
        client.chat.completions.create(model="trustgate/echo", messages=[{"role": "user", "content": "hello"}])
    gateway.kill()
    gateway.start()
    for _ in range(5):
        client.chat.completions.create(model="trustgate/echo", messages=[{"role": "user", "content": "hello"}])

    assert gateway.cli_json("usage")["total"]["requests"] == 25
    assert gateway.stop() == 0
    assert gateway.cli("doctor", "--books").returncode == 0
    assert not (gateway.home / "trustgate.duckdb").exists()
