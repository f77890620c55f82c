"""``trustgate migrate``: to Postgres and back, with everything; broken off anywhere, it goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.processes import PATIENCE_S, clean_environment


def _use(gateway: Gateway, make_client: ClientFactory, secret: str, requests: int) -> None:
    client = make_client(gateway.api_url, secret)
    for _ in range(requests):
        client.chat.completions.create(model="trustgate/echo", messages=[{"role": "user", "content": "hello"}])


def _everything(gateway: Gateway) -> dict[str, Any]:
    """What a home says of itself, wherever it is kept."""
    commands = (("tenant", "list"), ("key", "list"), ("plan", "list"), ("passport", "list"), ("usage",))
    return {" ".join(command): gateway.cli_json(*command) for command in commands} | {
        "receipts": gateway.cli("export", "receipts").stdout,
    }


def test_to_postgres_and_back(
    make_gateway: GatewayFactory, make_client: ClientFactory, postgres: Postgres | GivenPostgres
) -> None:
    url = postgres.schema()
    gateway = make_gateway(upstream="builtin:echo")
    secret = gateway.add_tenant()
    gateway.cli("key", "revoke", gateway.cli_json("key", "create", "acme")["key"]["id"])
    gateway.start()
    _use(gateway, make_client, secret, 3)
    gateway.kill()  # so that there is something in the journal that the database does not have
    before = _everything(gateway)

    moved = gateway.cli_json("migrate", "--to", url)
    assert (moved["receipts"], moved["place"]) == (3, url)

    refused = gateway.cli("usage", check=False)
    assert "was moved to Postgres" in refused.stderr
    assert "was moved to Postgres" in gateway.cli("doctor", check=False).stdout
    (gateway.home / "trustgate.toml").write_text(f'[store]\nurl = "{url}"\n')
    assert _everything(gateway) == before
    gateway.start()
    _use(gateway, make_client, secret, 2)
    assert gateway.stop() == 0
    gateway.cli("doctor", "--books")
    before = _everything(gateway)

    back = gateway.cli_json("migrate", "--from", url)
    assert back["receipts"] == 5
    assert "was moved into the file" in gateway.cli("usage", check=False).stderr
    (gateway.home / "trustgate.toml").unlink()
    assert _everything(gateway) == before
    gateway.start()
    _use(gateway, make_client, secret, 1)
    assert gateway.stop() == 0
    gateway.cli("doctor", "--books")

    again = gateway.cli_json("migrate", "--to", url)
    assert again["receipts"] == 6


@pytest.mark.slow
def test_killed_before_every_step_it_goes_on(tmp_path: Path, postgres: Postgres | GivenPostgres) -> None:
    command = [sys.executable, "-m", "tests.support.move_kills", str(tmp_path / "kills"), postgres.url]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    there, back = [int(line.split()[0]) for line in done.stdout.splitlines() if line.endswith(" steps")]
    assert there >= 8 and back >= 6, done.stdout
    for step in ("begin_arrival", "arrive", "end_arrival", "be", "depart", "rename"):
        assert f"killed before {step}" in done.stdout


def test_another_log_is_not_moved_over(make_gateway: GatewayFactory, postgres: Postgres | GivenPostgres) -> None:
    url = postgres.schema()
    first, second = make_gateway(), make_gateway()
    for gateway in (first, second):
        gateway.add_tenant()
    first.cli("migrate", "--to", url)

    refused = second.cli("migrate", "--to", url, check=False)

    assert refused.returncode == 5
    assert "holds another log" in refused.stderr
    assert "acme" in second.cli("tenant", "list").stdout
