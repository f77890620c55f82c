"""``receipt export`` and ``receipt verify``: from a served request to a stranger's check."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.entries import make_credit, make_receipt
from tests.support.gateway import Gateway
from trustgate.ids import now_us
from trustgate.settings import load_settings
from trustgate.store import open_store
from trustgate.types import RECEIPT_PAYMENT_MEMBERS, Entry, Receipt

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
    # It is of a tenant that owes nothing, and says nothing of money that moved.
    assert document["receipt"] == said.gateway.cli_json("receipt", "show", said.receipt)["receipt"]
    assert document["receipt"].keys().isdisjoint(RECEIPT_PAYMENT_MEMBERS)
    assert "Charged" not in checked.stdout and "Charged" not in said.gateway.cli("receipt", "show", said.receipt).stdout


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
    assert document["receipt"] is None, "nothing of a refused receipt is shown as if it held"


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


UNPAID = dict.fromkeys(RECEIPT_PAYMENT_MEMBERS[2:], "")


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gateway, dict[str, Receipt]]:
    """A home without a server, and receipts of a tenant that pays: with a payment, on its balance, two credits."""
    home = tmp_path_factory.mktemp("paid") / "home"
    at_us = now_us()
    receipts = {
        "payment": make_receipt(1, created_us=at_us, v=2),
        "balance": make_receipt(2, created_us=at_us, v=2, credited_nano_usd=0, **UNPAID),
        "credit": make_credit(3, created_us=at_us),
        "gift": make_credit(4, created_us=at_us, key="", **UNPAID),
    }
    entries = [Entry(seq=seq, receipt=receipt, secret=bytes(32)) for seq, receipt in enumerate(receipts.values(), 1)]

    async def write() -> None:
        home.mkdir(mode=0o700)
        store = await open_store(load_settings(home).database)
        await store.append_entries(entries)
        await store.close()

    asyncio.run(write())
    return Gateway(home), receipts


MONEY = {
    "payment": [
        ("Charged", "$0.000012345"),
        ("Credited", "$1.50"),
        ("Payment", "pay_1"),
        ("Paid", "1500000 atomic units of 4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"),
        ("Paid by", "payer_1"),
        ("Paid on", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"),
        ("Paid in", "transaction transaction_1"),
    ],
    "balance": [("Charged", "$0.000012345"), ("Credited", "$0.00")],
    "credit": [("Charged", "$0.00"), ("Credited", "$1.50"), ("Payment", "pay_3")],
    "gift": [("Charged", "$0.00"), ("Credited", "$1.50")],
}


@pytest.mark.parametrize("kind", MONEY)
def test_what_was_charged_and_credited_is_shown(paid: tuple[Gateway, dict[str, Receipt]], kind: str) -> None:
    """As the receipt says, in ``show`` and, once every check has passed, in ``verify``."""
    gateway, receipts = paid
    receipt = receipts[kind]
    shown = gateway.cli("receipt", "show", receipt.id).stdout
    exported = gateway.cli("receipt", "export", receipt.id).stdout
    verified = gateway.cli("receipt", "verify", "-", stdin=exported).stdout

    assert "✓ inclusion" in verified
    for told in (_fields(shown), _fields(verified)):
        assert [(name, told[name]) for name, _ in MONEY[kind]] == MONEY[kind]
        assert ("Payment" in told) == bool(receipt.payment)
        assert ("Model" in told, "Took" in told) == ((receipt.finish != "credited",) * 2)
        assert told["Key"] == (receipt.key or "none")
    document = json.loads(gateway.cli("receipt", "verify", "-", "--json", stdin=exported).stdout)
    assert document["receipt"]["credited_nano_usd"] == receipt.credited_nano_usd
    assert document["receipt"] == gateway.cli_json("receipt", "show", receipt.id)["receipt"]


def _fields(output: str) -> dict[str, str]:
    """The card in it: names and values."""
    rows = (line.split("  ", 1) for line in output.splitlines() if "  " in line)
    return {name: value.strip() for name, value in rows}


def test_a_credit_is_listed_and_is_no_use(paid: tuple[Gateway, dict[str, Receipt]]) -> None:
    gateway, receipts = paid

    assert gateway.cli("receipt", "list").stdout.count(" credited ") == 2
    assert {detail["receipt"]["id"] for detail in gateway.cli_json("receipt", "list")["receipts"]} == {
        receipt.id for receipt in receipts.values()
    }
    for by in ("day", "model", "key", "tenant"):
        document = gateway.cli_json("usage", "--by", by)
        assert [row["requests"] for row in document["usage"]] == [2]
        assert (document["total"]["refused"], document["total"]["failed"]) == (0, 0)
