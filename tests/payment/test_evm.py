"""What an EVM chain says of a payment whose end was not seen, by a scripted node over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.evmnode import EvmNode
from tests.support.payments import PAYER, evm_payload, evm_requirements, payment_of
from tests.support.upstream import CLOSE, Reply, Upstream
from trustgate.errors import ChainError, RpcUnavailable
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.payment.chains.evm import AUTHORIZATION_CANCELED
from trustgate.payment.chains.lookup import Chains
from trustgate.payment.chains.nodes import Nodes
from trustgate.settings import PaymentSettings, Settings
from trustgate.types import Payment

UNITS = 10_000


@pytest.fixture
def node() -> Iterator[EvmNode]:
    upstream = Upstream().start()
    yield EvmNode(upstream)
    upstream.stop()


@pytest.fixture
async def chains(node: EvmNode, tmp_path: Path) -> AsyncIterator[Chains]:
    nodes = Nodes(Settings(home=tmp_path, payment=PaymentSettings(base_rpc=node.url, base_sepolia_rpc=node.url)))
    yield Chains(nodes)
    await nodes.close()


def payment(node: EvmNode, nonce: int = 1, *, life_s: int = 60, **members: Any) -> Payment:
    """That arrived now, by the node's clock."""
    requirements = evm_requirements(UNITS)
    payload = evm_payload(requirements, nonce=nonce, valid_before_s=node.now_s + life_s)
    now_us = node.now_s * MICROSECONDS_PER_SECOND
    return payment_of(payload, requirements, created_us=now_us, updated_us=now_us, **members)


async def outcome(chains: Chains, paid: Payment) -> tuple[str, str]:
    found = await chains.outcome(paid)
    return found.outcome, found.transaction


async def test_a_transaction_that_moved_the_money(node: EvmNode, chains: Chains) -> None:
    transaction = node.pay(1, UNITS)
    found = await chains.outcome(payment(node, transaction=transaction))
    assert (found.outcome, found.transaction, found.payer) == ("settled", transaction, PAYER.lower())


async def test_a_transaction_that_is_not_known_is_found_in_the_log(node: EvmNode, chains: Chains) -> None:
    paid = payment(node)
    node.now_s += 20
    transaction = node.pay(1, UNITS)
    node.now_s += 3_600 * 3
    assert await outcome(chains, paid) == ("settled", transaction)


async def test_a_transaction_that_names_another_payment_does_not_count(node: EvmNode, chains: Chains) -> None:
    paid = payment(node, transaction=node.pay(2, UNITS))
    assert (await outcome(chains, paid))[0] == "unknown"
    node.now_s += 200
    assert (await outcome(chains, paid))[0] == "failed"


async def test_a_transaction_that_failed_does_not_count(node: EvmNode, chains: Chains) -> None:
    paid = payment(node, transaction=node.pay(1, UNITS, succeeded=False))
    assert (await outcome(chains, paid))[0] == "unknown", "the authorization can still be used by another"
    assert await outcome(chains, payment(node, transaction=node.pay(1, UNITS))) == ("settled", f"0x{2:064x}")


async def test_an_authorization_is_unknown_until_it_expires(node: EvmNode, chains: Chains) -> None:
    paid = payment(node, life_s=60)
    for after_s, wanted in ((0, "unknown"), (59, "unknown"), (80, "unknown"), (100, "failed")):
        node.now_s = paid.created_us // MICROSECONDS_PER_SECOND + after_s
        assert (await outcome(chains, paid))[0] == wanted, after_s


async def test_a_cancelled_authorization_is_no_payment(node: EvmNode, chains: Chains) -> None:
    """The token says of it that it is used."""
    paid = payment(node)
    node.pay(1, UNITS, event=AUTHORIZATION_CANCELED)
    assert (await outcome(chains, paid))[0] == "failed"


@pytest.mark.parametrize("what", [{"units": UNITS - 1}, {"to": PAYER}])
async def test_a_nonce_used_for_another_transfer_is_no_payment(
    node: EvmNode, chains: Chains, what: dict[str, Any]
) -> None:
    node.pay(1, **{"units": UNITS, **what})
    assert (await outcome(chains, payment(node)))[0] == "failed"


async def test_another_token_is_no_payment(node: EvmNode, chains: Chains) -> None:
    node.pay(1, UNITS, token="0x" + "11" * 20)
    node.used.clear()
    assert (await outcome(chains, payment(node)))[0] == "unknown"


async def test_what_was_used_before_anybody_looked_for_it_is_not_decided(node: EvmNode, chains: Chains) -> None:
    """Its transaction is older than the payment, which cannot be: one of the clocks is wrong."""
    node.pay(1, UNITS)
    node.now_s += 10_000
    assert (await outcome(chains, payment(node)))[0] == "unknown"


@pytest.mark.parametrize(
    "payload",
    [{}, {"authorization": {"from": PAYER}}, {"permit2Authorization": {"from": PAYER, "nonce": "1", "deadline": "1"}}],
)
async def test_what_cannot_be_looked_for_is_not_decided(node: EvmNode, chains: Chains, payload: dict[str, Any]) -> None:
    odd = payment_of({"payload": payload}, evm_requirements(UNITS))
    assert (await outcome(chains, odd))[0] == "unknown"


FAULTS = {
    "html": Reply.html(502),
    "not json": Reply.body(b"hello"),
    "another call's answer": Reply.json({"jsonrpc": "2.0", "id": 99, "result": "0x2105"}),
    "no quantity": Reply.json({"jsonrpc": "2.0", "id": 1, "result": "many"}),
    "closed": Reply.raw(CLOSE),
    "too many": Reply.json({"error": {"code": 429, "message": "slow down"}}, status=429),
    "refused": Reply.json({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no such method"}}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_node_that_fails_decides_nothing(node: EvmNode, chains: Chains, fault: str) -> None:
    transaction = node.pay(1, UNITS)
    node.upstream.script(FAULTS[fault])
    with pytest.raises(ChainError) as raised:
        await chains.outcome(payment(node))
    assert "payment.base_rpc" in f"{raised.value.hint}" or fault == "refused"
    assert await outcome(chains, payment(node)) == ("settled", transaction)


async def test_a_node_that_loses_a_receipt_decides_nothing(node: EvmNode, chains: Chains) -> None:
    transaction = node.pay(1, UNITS)
    node.receipts_lost = True
    with pytest.raises(RpcUnavailable):
        await chains.outcome(payment(node))
    node.receipts_lost = False
    assert await outcome(chains, payment(node)) == ("settled", transaction)


async def test_a_node_of_another_chain_is_refused(node: EvmNode, chains: Chains) -> None:
    node.chain_id = 1
    with pytest.raises(ChainError, match="eip155:1, not of eip155:8453"):
        await chains.outcome(payment(node))


async def test_a_network_without_a_node(chains: Chains) -> None:
    requirements = evm_requirements(UNITS, network="eip155:137")
    with pytest.raises(ChainError, match="No RPC node is known"):
        await chains.outcome(payment_of(evm_payload(requirements), requirements))
