"""A shop on a local chain that poses as Solana devnet: a token, who has it, who sells for it, and who pays fees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import FaultyNode, Lane, Wrong, faulty_node
from tests.support.payments import payment_of
from tests.support.tokens import Token, Wallet
from trustgate.localnet import Localnet, running_localnet
from trustgate.payment.chains.lookup import Chains
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.embedded import EmbeddedFacilitator, SettleTiming
from trustgate.payment.interfaces import Settlement
from trustgate.settings import PaymentSettings, Settings
from trustgate.solana.keypair import PayerKey
from trustgate.types import Payment

#: A blockhash lives for 150 slots, and the machine may be slow.
SLOT_MS = 100
FINALITY_SLOTS = 4
PRICE = 1_500
TIMING = SettleTiming(verify_s=5.0, settle_s=5.0, poll_s=0.01, resend_s=0.1)


class Shop:
    """Made by the fixture ``shop``."""

    def __init__(
        self, home: Path, net: Localnet, node: FaultyNode, token: Token, stack: AsyncExitStack, wallets: list[Wallet]
    ) -> None:
        self.home = home
        self.net = net
        self.node = node
        self.token = token
        self.buyer, self.seller, payer = wallets
        self.fee_payer = PayerKey(payer.keypair)
        self._stack = stack
        self._lanes = 0
        payer.write(home / "facilitator.json")

    def nodes(self, *wrongs: Wrong) -> Nodes:
        """The way to the chain, on which these calls go wrong."""
        self._lanes += 1
        self.lane: Lane = self.node.lane(f"lane{self._lanes}", *wrongs)
        settings = Settings(home=self.home, payment=PaymentSettings(solana_devnet_rpc=self.lane.url))
        nodes = Nodes(settings)
        self._stack.push_async_callback(nodes.close)
        self.settings = settings
        return nodes

    def facilitator(self, *wrongs: Wrong, timing: SettleTiming = TIMING) -> EmbeddedFacilitator:
        nodes = self.nodes(*wrongs)
        facilitator = EmbeddedFacilitator(self.settings, nodes, timing=timing)
        self._stack.push_async_callback(facilitator.close)
        return facilitator

    def chains(self, *wrongs: Wrong, clocks_s: int = 0) -> Chains:
        return Chains(self.nodes(*wrongs), clocks_s=clocks_s, second_look_s=0.01)

    def requirements(self, units: int = PRICE, **members: Any) -> dict[str, Any]:
        return self.token.requirements(self.seller.address, units, self.fee_payer.address, **members)

    async def payment(self, units: int = PRICE, *, buyer: Wallet | None = None, **members: Any) -> Payment:
        """A payment by the SDK's client, as the ledger has it."""
        requirements = self.requirements(units)
        payload = await self.token.payment(buyer or self.buyer, requirements)
        return payment_of(payload, requirements, **members)

    async def earned(self) -> int:
        """What the seller has, atomic units, as of now."""
        self.net.advance(1)
        return await self.token.units(self.seller.address)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(running_localnet(slot_ms=SLOT_MS, finality_slots=FINALITY_SLOTS))
        token = await stack.enter_async_context(Token.made(net.url))
        wallets = [
            await token.wallet(units=100_000),
            await token.wallet(),
            await token.wallet(units=None, lamports=1_000_000_000),
        ]
        net.advance(FINALITY_SLOTS)
        node = await stack.enter_async_context(faulty_node(net.url))
        yield Shop(tmp_path, net, node, token, stack, wallets)


class Record:
    """The ledger's side of a settling: what was recorded, and what the node had been told by then."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.transactions: list[str] = []

    async def __call__(self, transaction: str) -> None:
        assert self._shop.lane.calls["sendTransaction"] == 0, "nothing is sent before it is recorded"
        self.transactions.append(transaction)


async def settle(shop: Shop, facilitator: EmbeddedFacilitator, payment: Payment) -> tuple[Settlement, list[str]]:
    record = Record(shop)
    return await facilitator.settle(payment, record), record.transactions
