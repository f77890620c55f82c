"""``receipt export`` and ``receipt verify``: from a served request to a stranger's check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway

REQUEST = b'{"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello, who are you?"}]}'


class Said(NamedTuple):
    gateway: Gateway
    receipt: str
    answer: bytes


@pytest.fixture(scope="module")
def said(make_module_gateway: GatewayFactory) -> Said:
    """A gateway with one receipt."""
    gateway = make_module_gateway(upstream="http://127.0.0.1:9/v1").start()
    headers = {"authorization": f"Bearer {gateway.add_tenant()}", "content-type": "application/json"}
    response = httpx.post(f"{gateway.api_url}/chat/completions", content=REQUEST, headers=headers, trust_env=False)
    assert response.status_code == 200
    return Said(gateway, response.headers["x-trustgate-receipt"], response.content)


def test_a_receipt_is_checked_by_whoever_has_its_bundle(said: Said, tmp_path: Path) -> None:
    bundle, request, response = tmp_path / "bundle.json", tmp_path / "request", tmp_path / "response"
    request.write_bytes(REQUEST)
    response.write_bytes(said.answer)
    vkey = said.gateway.cli_json("anchor", "status")["vkey"]
    said.gateway.cli("receipt", "export", said.receipt, "--output", str(bundle), "--disclose", "both")

    contents = ("--request", str(request), "--response", str(response))
    checked = said.gateway.cli("receipt", "verify", str(bundle), "--key", vkey, *contents)

    assert "✓ inclusion" in checked.stdout
    assert "✓ response" in checked.stdout
    document = said.gateway.cli_json("receipt", "verify", str(bundle), *contents)
    assert document["ok"] is True
    assert {check["state"] for check in document["checks"]} == {"passed", "not checked"}


def test_the_first_check_that_fails_is_named_and_ends_it(said: Said, tmp_path: Path) -> None:
    bundle, other = tmp_path / "bundle.json", tmp_path / "other"
    other.write_bytes(b"something else")
    exported = said.gateway.cli("receipt", "export", said.receipt, "--disclose", "request").stdout
    bundle.write_text(exported)

    wrong = said.gateway.cli("receipt", "verify", str(bundle), "--request", str(other), check=False)
    assert wrong.returncode == 7
    assert "✗ request" in wrong.stdout
    assert "The check 'request' failed" in wrong.stderr

    shut = said.gateway.cli("receipt", "verify", str(bundle), "--response", str(other), check=False)
    assert shut.returncode == 7
    assert "The check 'response' failed" in shut.stderr

    damaged = json.loads(exported)
    damaged["receipt"]["cost_nano_usd"] += 1
    document = json.loads(
        said.gateway.cli(
            "receipt", "verify", "-", "--json", check=False, stdin=json.dumps(damaged, ensure_ascii=False)
        ).stdout
    )
    assert document["ok"] is False
    assert document["checks"][-1]["state"] == "failed"


def test_a_bundle_without_an_anchor_is_on_no_chain(said: Said) -> None:
    exported = said.gateway.cli("receipt", "export", said.receipt).stdout
    refused = said.gateway.cli("receipt", "verify", "-", "--rpc", "devnet", check=False, stdin=exported)
    assert refused.returncode == 7
    assert "The bundle has no anchor" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said_so"),
    [
        (("export", "rcpt_none"), 4, "There is no receipt 'rcpt_none'"),
        (("verify", "no-such-file"), 1, "no-such-file cannot be read: No such file or directory"),
        (("verify", "-", "--key", "nonsense"), 7, "verifier key"),
        (("verify", "-"), 7, "not a receipt bundle"),
        (("export", "RECEIPT", "--output", "/no/such/folder/x"), 1, "/no/such/folder/x cannot be written"),
    ],
)
def test_mistakes_are_told(said: Said, arguments: tuple[str, ...], code: int, said_so: str) -> None:
    words = [said.receipt if word == "RECEIPT" else word for word in arguments]
    refused = said.gateway.cli("receipt", *words, check=False, stdin="{")
    assert refused.returncode == code
    assert said_so in refused.stderr


def test_a_bundle_is_the_same_with_and_without_a_server(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(upstream="http://127.0.0.1:9/v1").start()
    headers = {"authorization": f"Bearer {gateway.add_tenant()}"}
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hi"}]}
    receipt = httpx.post(f"{gateway.api_url}/chat/completions", json=body, headers=headers, trust_env=False).headers[
        "x-trustgate-receipt"
    ]
    gateway.kill()  # the receipt is in the journal alone
    offline = gateway.cli("receipt", "export", receipt).stdout
    gateway.start()
    assert gateway.cli("receipt", "export", receipt).stdout == offline
    assert json.loads(gateway.cli("receipt", "verify", "-", "--json", stdin=offline).stdout)["ok"] is True
