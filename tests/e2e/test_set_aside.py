"""A home whose journal holds a receipt that the database cannot: it serves, says so, and is mended by a command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.entries import make_receipt
from tests.support.gateway import Gateway
from trustgate.receipts.journal import Journal
from trustgate.receipts.receipt import leaf_hash
from trustgate.store import open_store
from trustgate.types import Entry

_ECHO = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}


async def _wedge(home: Path) -> str:
    """Journal what an earlier version would have: a cost that fits the journal alone. Gives the receipt's id."""
    store = await open_store(home / "trustgate.duckdb")
    try:
        last = await store.last_seq()
        (head,) = await store.load_heads()
        journal = Journal.open(home / "journal", store_id=store.store_id, last_seq=last)
        receipt = make_receipt(
            tenant=head.tenant_id,
            tseq=head.entry.receipt.tseq + 1,
            tprev=leaf_hash(head.entry.receipt).hex(),
            prompt_tokens=2**64 - 1,
            cost_nano_usd=2**63 + 5,
        )
        journal.append(Entry(seq=last + 1, receipt=receipt, secret=bytes(32)))
        journal.close()
        return receipt.id
    finally:
        await store.close()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(
        headers={"authorization": f"Bearer {gateway.add_tenant()}"}, trust_env=False, timeout=30
    ) as client:
        yield client


def test_a_receipt_that_cannot_be_stored_stops_nothing(gateway: Gateway, client: httpx.Client) -> None:
    assert client.post(f"{gateway.api_url}/chat/completions", json=_ECHO).status_code == 200
    assert gateway.stop() == 0
    receipt_id = asyncio.run(_wedge(gateway.home))

    gateway.start()

    ready = client.get(f"{gateway.base_url}/ready").json()
    assert (ready["checks"]["store"], ready["notes"]) == ("ok", ["receipts set aside: 1 (trustgate receipt mend)"])
    assert "trustgate_receipts_set_aside 1" in client.get(f"{gateway.base_url}/metrics").text
    answer = client.post(f"{gateway.api_url}/chat/completions", json=_ECHO)
    assert answer.status_code == 200
    shown = gateway.cli_json("receipt", "show", receipt_id)
    assert shown["receipt"]["cost_nano_usd"] == 2**63 + 5
    assert str(2**64 - 1) in gateway.cli("receipt", "export", receipt_id).stdout
    usage = gateway.cli_json("usage", "--by", "tenant")
    assert usage["usage"][0]["requests"] == 3
    assert gateway.cli_json("doctor", "--books")["ok"], "it keeps its place in the tree and in its tenant's chain"
    checks = {check["name"]: check for check in gateway.cli_json("doctor")["checks"]}
    assert (checks["receipts"]["status"], checks["receipts"]["hint"]) == ("warn", "trustgate receipt mend")
    assert gateway.stop() == 0

    gateway.start()
    (left,) = gateway.cli_json("receipt", "mend")["set_aside"]
    assert (left["id"], left["reason"]) == (receipt_id, "out of range: prompt_tokens, cost_nano_usd")
    assert gateway.cli_json("receipt", "mend", "--accept")["set_aside"][0]["accepted"]
    assert "notes" not in json.loads(client.get(f"{gateway.base_url}/ready").text)
