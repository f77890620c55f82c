"""What anchoring needs, in one place: a chain, a node in front of it, a book, a made-up log and a key that pays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.chain import (
    FaultyNode,
    Wrong,
    faulty_node,
)
from tests.support.flush_driver import payer_key, target_of
from trustgate.formats.solana_transaction import Transaction, read_transaction
from trustgate.localnet import Localnet, running_localnet
from trustgate.solana.anchors import AnchorBook, Anchorer, AnchorTarget, FlushProgress, FlushResult, RetryTiming
from trustgate.solana.clusters import Cluster, find_cluster
from trustgate.solana.keypair import PayerKey
from trustgate.solana.memo import Fee, sign_memo
from trustgate.solana.rpc import RpcClient
from trustgate.types import Anchor, AnchorAttempt

TIMING = RetryTiming(timeout_s=10.0, poll_s=0.01, resend_s=0.03, backoff_s=0.01)
SLOT_MS = 5
FINALITY_SLOTS = 4
MOST = 20_000


class Book:
    """A book of anchors in memory, which remembers every state they were in."""

    def __init__(self, *anchors: Anchor) -> None:
        self.kept = {anchor.id: anchor for anchor in anchors}
        self.saves: list[Anchor] = []

    async def anchors(self) -> list[Anchor]:
        return list(self.kept.values())

    async def put(self, anchor: Anchor, /) -> None:
        self.saves.append(anchor)
        self.kept[anchor.id] = anchor

    @property
    def steps(self) -> list[tuple[str, tuple[str, ...]]]:
        """What was recorded: the anchor's state and its attempts' outcomes."""
        return [(anchor.state, tuple(attempt.outcome for attempt in anchor.attempts)) for anchor in self.saves]


class World:
    """A chain, a node in front of it, a book, a log and a key that pays."""

    def __init__(self, net: Localnet, node: FaultyNode) -> None:
        self.net = net
        self.node = node
        self.book = Book()
        self.name = "log"
        self.key = payer_key("log")
        self.heard: list[FlushProgress] = []
        self._lanes = 0

    async def fund(self, key: PayerKey | None = None, lamports: int = 10**9) -> None:
        await self.node.ask("requestAirdrop", (key or self.key).address, lamports)
        self.net.advance()

    def target(self, size: int) -> AnchorTarget:
        return target_of(self.name, size)

    async def flush(
        self,
        size: int,
        *wrongs: Wrong,
        book: AnchorBook | None = None,
        key: PayerKey | None = None,
        timing: RetryTiming = TIMING,
        cluster: str = "custom",
        target: AnchorTarget | None = None,
        **more: Any,
    ) -> FlushResult:
        """Flush the log at this size, through a node where ``wrongs`` happen."""
        self._lanes += 1
        lane = self.node.lane(f"lane{self._lanes}", *wrongs)
        terms = {"max_fee_lamports": MOST, "progress": self.heard.append, **more}
        async with RpcClient(Cluster(cluster, lane.url), timeout_s=5.0) as rpc:
            anchorer = Anchorer(book or self.book, timing=timing)
            return await anchorer.flush(rpc, key or self.key, target or self.target(size), **terms)

    async def post(self, note: bytes, *, key: PayerKey | None = None, settle: bool = True) -> str:
        """Post a memo without the book's knowing."""
        key = key or self.key
        async with RpcClient(find_cluster(self.net.url)) as rpc:
            blockhash = (await rpc.latest_blockhash()).blockhash
            signature = await rpc.send(sign_memo(key, note, blockhash, Fee(400_000, 0, 5_000)), preflight=True)
        if settle:
            self.net.advance(FINALITY_SLOTS)
        return signature

    def posted(self, key: PayerKey | None = None) -> list[Transaction]:
        """The memo transactions that the key has paid for and that succeeded, oldest first."""
        key = key or self.key
        entries = self.net.chain.entries_of(key.pubkey())
        sent = [read_transaction(bytes(entry.transaction)) for entry in entries if entry.outcome.err is None]
        return [transaction for transaction in sent if transaction.fee_payer == key.address]

    @property
    def notes(self) -> list[tuple[bytes, ...]]:
        return [transaction.memos for transaction in self.posted()]


@asynccontextmanager
async def a_world(**more: Any) -> AsyncIterator[World]:
    options = {"slot_ms": SLOT_MS, "finality_slots": FINALITY_SLOTS, **more}
    async with running_localnet(**options) as net, faulty_node(net.url) as node:
        yield World(net, node)


def planned(world: World, target: AnchorTarget, *attempts: AnchorAttempt) -> Anchor:
    return Anchor(
        id="anchor_plan",
        genesis=world.net.genesis,
        fee_payer=world.key.address,
        tree_size=target.tree_size,
        root=target.root.hex(),
        note=target.note.decode(),
        created_us=1,
        attempts=attempts,
    )
