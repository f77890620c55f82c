"""From real requests to a stranger's check: served, anchored on a local Solana, exported, verified in every way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.programs import require

ROOT = Path(__file__).resolve().parents[2]
VERIFY_SCRIPT = ROOT / "examples" / "verify" / "verify.mjs"
REQUEST = b'{"model":"trustgate/echo","messages":[{"role":"user","content":"Prove that I said this."}]}'


def ask(gateway: Gateway, secret: str, count: int = 1) -> tuple[str, bytes]:
    """Ask so often; the last one's receipt and answer."""
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    for _ in range(count):
        response = httpx.post(f"{gateway.api_url}/chat/completions", content=REQUEST, headers=headers, trust_env=False)
        assert response.status_code == 200
    return response.headers["x-trustgate-receipt"], response.content


@pytest.fixture
def gateway(make_gateway: GatewayFactory) -> Gateway:
    gateway = make_gateway(upstream="http://127.0.0.1:9/v1").start()
    gateway.cli("anchor", "keygen")
    return gateway


def flush(gateway: Gateway, *arguments: str) -> dict[str, Any]:
    outcome: dict[str, Any] = gateway.cli_json("anchor", "flush", "--rpc", "local", *arguments)
    return outcome


def test_a_receipt_is_verified_by_everybody(gateway: Gateway, tmp_path: Path) -> None:
    secret = gateway.add_tenant()
    receipt, answer = ask(gateway, secret, 3)
    outcome = flush(gateway)
    assert (outcome["anchored"], outcome["tree_size"]) == (True, 3)
    assert outcome["fee_lamports"] >= 5_000
    ask(gateway, secret, 2)  # the log has grown since

    status = gateway.cli_json("anchor", "status")
    assert (status["tree_size"], status["anchored_size"]) == (5, 3)
    bundle, request, response = tmp_path / "bundle.json", tmp_path / "request", tmp_path / "response"
    request.write_bytes(REQUEST)
    response.write_bytes(answer)
    gateway.cli("receipt", "export", receipt, "--output", str(bundle), "--disclose", "both")
    contents = ("--request", str(request), "--response", str(response))

    checked = gateway.cli_json(
        *("receipt", "verify", str(bundle), "--rpc", "local", "--key", status["vkey"], "--payer", status["pubkey"]),
        *contents,
    )
    assert {check["state"] for check in checked["checks"]} == {"passed"}
    assert checked["checks"][-1]["name"] == "chain"

    script = [require("node"), str(VERIFY_SCRIPT), str(bundle), "--key", status["vkey"], *contents]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    damaged = json.loads(bundle.read_text())
    damaged["receipt"]["completion_tokens"] += 1
    bundle.write_text(json.dumps(damaged))
    assert gateway.cli("receipt", "verify", str(bundle), check=False).returncode == 7
    assert subprocess.run(script, capture_output=True, check=False).returncode == 1


def test_flushes_follow_each_other(gateway: Gateway) -> None:
    secret = gateway.add_tenant()
    assert flush(gateway)["anchored"] is False  # there is nothing yet
    ask(gateway, secret)
    first = flush(gateway)
    assert flush(gateway)["anchored"] is False
    ask(gateway, secret, 2)
    planned = flush(gateway, "--dry-run")
    assert (planned["anchored"], planned["dry_run"], planned["tree_size"]) == (False, True, 3)
    assert len(gateway.cli_json("anchor", "list")["anchors"]) == 1
    gateway.stop()
    second = flush(gateway)  # without a server: the same chain, the same log
    gateway.start()

    anchors = gateway.cli_json("anchor", "list")["anchors"]
    assert [(anchor["tree_size"], anchor["signature"]) for anchor in anchors] == [
        (1, first["signature"]),
        (3, second["signature"]),
    ]
    audit = gateway.cli_json("anchor", "verify", "--rpc", "local")
    assert audit["ok"] is True
    assert [finding["tree_size"] for finding in audit["findings"]] == [1, 3]
    shown = gateway.cli("anchor", "verify", "--rpc", "local").stdout
    assert first["signature"] in shown
    assert "yes" in shown


def test_what_people_see(gateway: Gateway) -> None:
    ask(gateway, gateway.add_tenant())
    assert "Nothing has been anchored yet" in gateway.cli("anchor", "list").stderr
    anchored = gateway.cli("anchor", "flush", "--rpc", "local")
    assert "Anchored 1 receipt on local" in anchored.stdout
    assert anchored.stderr.startswith("Reading the log\n")
    assert (
        "Nothing to anchor: local has 1 receipt already: all" in gateway.cli("anchor", "flush", "--rpc", "local").stdout
    )
    status = gateway.cli("anchor", "status").stdout
    assert "1 receipt, 0 wait" in status
    assert gateway.cli("doctor", check=False).stdout.count("0 not anchored") == 1


def test_the_server_anchors_on_its_schedule(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(
        upstream="http://127.0.0.1:9/v1",
        environment={"TRUSTGATE_ANCHOR_RPC": "local", "TRUSTGATE_ANCHOR_AFTER_RECEIPTS": "3"},
    )
    gateway.home.mkdir()
    gateway.cli("anchor", "keygen")
    gateway.start()
    secret = gateway.add_tenant()
    ask(gateway, secret, 3)
    wait_until(lambda: gateway.cli_json("anchor", "status")["anchored_size"] >= 3, "the anchor")
    assert "trustgate_log_anchored_size 3" in httpx.get(f"{gateway.base_url}/metrics", trust_env=False).text


def test_a_chain_that_fails_is_a_warning(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(
        upstream="http://127.0.0.1:9/v1",
        environment={"TRUSTGATE_ANCHOR_RPC": "http://127.0.0.1:9", "TRUSTGATE_ANCHOR_EVERY": "10s"},
    )
    gateway.home.mkdir()
    gateway.start()  # and there is no key that could pay
    ask(gateway, gateway.add_tenant())
    wait_until(lambda: gateway.cli_json("anchor", "status")["problem"] != "", "the problem")
    assert "There is no keypair file" in gateway.cli_json("anchor", "status")["problem"]
    findings = json.loads(gateway.cli("doctor", "--json", check=False).stdout)["checks"]
    [log] = [finding for finding in findings if finding["name"] == "log"]
    assert log["status"] == "warn"
    assert "trustgate_anchor_failures 1" in httpx.get(f"{gateway.base_url}/metrics", trust_env=False).text
    ask(gateway, gateway.add_tenant("other"))  # and requests are answered all the same


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("flush", "--rpc", "nowhere"), 2, "There is no cluster 'nowhere'"),
        (("flush", "--rpc", "local", "--keypair", "no-such-file"), 2, "There is no keypair file"),
        (("keygen",), 5, "already exists"),
    ],
)
def test_mistakes_are_told(gateway: Gateway, arguments: tuple[str, ...], code: int, said: str) -> None:
    refused = gateway.cli("anchor", *arguments, check=False)
    assert refused.returncode == code
    assert said in refused.stderr
