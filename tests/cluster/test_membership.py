"""A server that has Postgres to itself: what it does when it is killed, cut off from its database, or replaced."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import Process, clean_environment, wait_until
from trustgate.receipts.logkey import create_log_key

CHAT = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
#: Ends the sessions of every gateway, as a cut network does once the server notices.
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'trustgate %'"


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.clean()


@pytest.fixture
def make(make_gateway: GatewayFactory, url: str) -> Any:
    def gateway(lease_s: float) -> Gateway:
        environment = {"TRUSTGATE_STORE_URL": url, "TRUSTGATE_STORE_LEASE_S": str(lease_s)}
        return make_gateway(upstream="builtin:echo", environment=environment, arguments=["--wait"])

    return gateway


def share_log_key(first: Gateway, second: Gateway) -> None:
    """Give the second home the key that signs the log, as an operator copies it."""
    second.home.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(first.home / "log.key", second.home)


def ask(gateway: Gateway, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{gateway.api_url}/chat/completions", json=CHAT, headers=headers, timeout=30)


def test_after_a_kill_the_same_home_serves_at_once(make: Any, url: str) -> None:
    gateway = make(300)
    key = gateway.add_tenant()
    gateway.start()
    (node,) = run_sql(url, "SELECT node_id, address FROM nodes")
    assert node[1] == gateway.base_url
    listed = gateway.cli_json("node", "list")
    assert [(found["id"], found["address"], found["behind"]) for found in listed["nodes"]] == [(*node, 0)]
    assert listed["findings"] == []
    assert node[1] in gateway.cli("node", "list").stdout
    assert "trustgate_lease_left_seconds " in httpx.get(f"{gateway.base_url}/metrics").text
    checks = gateway.cli_json("doctor")["checks"]
    assert [check["status"] for check in checks if check["name"] == "nodes"] == ["ok"]
    gateway.kill()
    # Its lease has minutes yet; that this home's node is dead is known.
    gateway.start()
    assert ask(gateway, key).status_code == 200
    ((after,),) = run_sql(url, "SELECT node_id FROM nodes")
    assert after != node[0]
    assert gateway.stop() == 0
    assert run_sql(url, "SELECT node_id FROM nodes") == []


def test_a_spare_waits_for_its_turn_and_goes_on_with_the_same_log(make: Any, url: str, tmp_path: Path) -> None:
    first, spare = make(300), make(300)
    key = first.add_tenant()
    first.start()
    assert ask(first, key).status_code == 200
    stranger = spare.cli("serve", "--port", "0", check=False)
    assert stranger.returncode == 6  # the database is in use
    command = [sys.executable, "-m", "trustgate", "--home", str(spare.home), "serve", "--port", "0", "--wait"]
    environment = clean_environment({"TRUSTGATE_STORE_URL": url, "PYTHONPATH": str(ROOT)})
    share_log_key(first, spare)
    waiting = Process("the spare", [*command, "--upstream", "builtin:echo"], tmp_path, environment, tmp_path / "spare")
    waiting.wait_until(lambda: "waiting: " in waiting.stderr)
    checkpoint = httpx.get(f"{first.base_url}/log/checkpoint").text
    assert first.stop() == 0
    waiting.wait_until(lambda: "ready at " in waiting.stdout)
    ready = re.search(r"ready at (http://\S+)", waiting.stdout)
    assert ready is not None
    assert httpx.get(f"{ready[1]}/log/checkpoint").text.split("\n")[0] == checkpoint.split("\n")[0]
    # The first one's home is now without a log of its own: another machine would be stopped from renaming the log.
    (first.home / "log.key").unlink()
    waiting.signal(signal.SIGTERM)
    assert waiting.wait() == 0
    renamed = first.cli("serve", "--port", "0", "--wait", check=False)
    assert renamed.returncode == 1
    assert "Copy log.key from the home" in renamed.stderr
    new = make(300)
    new.home.mkdir(mode=0o700)
    looked = new.cli("doctor", check=False)
    assert "Copy log.key from the home" in looked.stdout
    assert run_sql(url, "SELECT count(*) FROM log_names") == [(1,)]
    assert not (new.home / "log.key").exists()
    create_log_key(new.home / "log.key", "another")
    refused = new.cli("serve", "--port", "0", "--wait", check=False)
    assert refused.returncode == 1
    assert "is another one, of another" in refused.stderr
    assert run_sql(url, "SELECT count(*) FROM log_names") == [(1,)]


def test_no_command_elsewhere_changes_what_a_gateway_that_lost_its_sessions_serves(make: Any, url: str) -> None:
    """It holds no lock until it writes again, and does not hear of changes that are not its own."""
    first, other = make(300), make(300)
    key = first.add_tenant()
    first.start()
    run_sql(url, CUT)
    refused = other.cli("tenant", "suspend", "acme", check=False)
    assert refused.returncode == 6, refused.stdout
    assert first.base_url in refused.stderr
    assert ask(first, key).status_code == 200
    first.kill()
    # The own one is known to be dead.
    first.cli("tenant", "suspend", "acme")


def test_a_file_has_no_nodes(tmp_path: Path) -> None:
    assert "one process serves" in Gateway(tmp_path / "home").make_home().cli("node", "list").stdout


def test_what_was_acknowledged_is_there_for_another_machine(make: Any) -> None:
    first, second = make(1), make(1)
    key = first.add_tenant()
    first.start()
    with httpx.Client(base_url=first.api_url, headers={"authorization": f"Bearer {key}"}) as client:
        statuses = [client.post("/chat/completions", json=CHAT).status_code for _ in range(20)]
    first.kill()
    assert statuses == [200] * 20
    share_log_key(first, second)
    second.start()
    assert second.cli_json("usage")["total"]["requests"] == 20
    assert second.stop() == 0
    assert second.cli("doctor", "--books").returncode == 0


@pytest.mark.slow
def test_a_command_keeps_what_a_diverged_journal_alone_has(make_gateway: GatewayFactory) -> None:
    own = Postgres().start()
    try:
        environment = {"TRUSTGATE_STORE_URL": own.schema(), "TRUSTGATE_STORE_LEASE_S": "8"}
        first, second = (
            make_gateway(upstream="builtin:echo", environment=environment, arguments=["--wait"]) for _ in range(2)
        )
        key = first.add_tenant()
        first.start()
        assert ask(first, key).status_code == 200
        own.stop()
        assert ask(first, key).status_code == 200  # its receipt is in the first one's journal alone
        first.kill()
        own.start()
        share_log_key(first, second)
        second.start()
        assert [ask(second, key).status_code for _ in range(3)] == [200] * 3
        assert second.stop() == 0
        first.cli("accept-loss")
        assert first.cli_json("usage")["total"]["requests"] == 5
        assert first.cli("doctor", "--books").returncode == 0
    finally:
        own.close()


@pytest.mark.slow
def test_one_that_was_asleep_serves_no_more_once_another_has_taken_its_place(make: Any, url: str) -> None:
    first, second = make(2), make(2)
    key = first.add_tenant()
    first.start()
    assert ask(first, key).status_code == 200
    process = first.process
    share_log_key(first, second)
    process.signal(signal.SIGSTOP)
    run_sql(url, CUT)
    second.start()
    assert "waiting: " in second.logs()
    assert ask(second, key).status_code == 200
    # The first has not noticed anything yet, and refuses nevertheless.
    process.signal(signal.SIGCONT)
    with contextlib.suppress(httpx.TransportError):  # it may have ended by now
        assert ask(first, key).status_code == 503
    wait_until(lambda: process.exit_code is not None, "the first to end")
    assert first.stop() == 6
    assert "Another gateway has taken over the database" in first.logs()
    assert ask(second, key).status_code == 200
    assert second.stop() == 0
    assert second.cli("doctor", "--books").returncode == 0


@pytest.mark.slow
def test_a_spare_goes_on_for_one_that_hangs_with_its_connections_open(make: Any, url: str, tmp_path: Path) -> None:
    first, spare = make(1), make(1)
    key = first.add_tenant()
    first.start()
    assert ask(first, key).status_code == 200
    share_log_key(first, spare)
    process = first.process
    process.signal(signal.SIGSTOP)
    command = [sys.executable, "-m", "trustgate", "--home", str(spare.home), "serve", "--port", "0", "--wait"]
    environment = clean_environment(
        {"TRUSTGATE_STORE_URL": url, "TRUSTGATE_STORE_LEASE_S": "1", "PYTHONPATH": str(ROOT)}
    )
    waiting = Process("the spare", [*command, "--upstream", "builtin:echo"], tmp_path, environment, tmp_path / "spare")
    waiting.wait_until(lambda: "ready at " in waiting.stdout)
    process.signal(signal.SIGCONT)
    wait_until(lambda: process.exit_code is not None, "the one that hung to end")
    assert first.stop() == 6
    waiting.signal(signal.SIGTERM)
    assert waiting.wait() == 0


@pytest.mark.slow
def test_without_its_database_it_refuses_requests_after_a_lease_and_goes_on_when_it_is_back(
    make: Any, tmp_path: Path
) -> None:
    own = Postgres().start()
    try:
        environment = {"TRUSTGATE_STORE_URL": own.schema(), "TRUSTGATE_STORE_LEASE_S": "2"}
        gateway = Gateway(tmp_path / "home", upstream="builtin:echo", environment=environment, arguments=["--wait"])
        key = gateway.add_tenant()
        gateway.start()
        assert ask(gateway, key).status_code == 200
        own.stop()
        wait_until(lambda: ask(gateway, key).status_code == 503, "the lease to run out")
        refused = ask(gateway, key)
        assert refused.json()["error"]["code"] == "store_unreachable"
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{gateway.base_url}/ready").json()["checks"]["store"] == "the database is away"
        own.start()
        wait_until(lambda: ask(gateway, key).status_code == 200, "the database to be back")
        assert gateway.stop() == 0
        assert gateway.cli("doctor", "--books").returncode == 0
    finally:
        own.close()
