"""Checking anchors from a chain alone: what is in order passes, and everything that is not is named."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from tests.support.anchoring import Book
from tests.support.chain import (
    Answer,
    Call,
    FaultyNode,
    Wrong,
    behind,
    changed,
    drop_before,
    encoded,
    faulty_node,
    html_503,
    nothing,
    other_transaction,
    too_many,
)
from tests.support.flush_driver import log_key, payer_key, root_of, target_of
from tests.support.processes import PATIENCE_S, free_port
from trustgate.errors import AnchorRefused, RpcRejected, RpcUnavailable, VerificationFailed
from trustgate.formats.solana_transaction import Transaction, read_transaction
from trustgate.localnet import Localnet, running_localnet
from trustgate.receipts.checkpoint import Checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey
from trustgate.solana import history
from trustgate.solana.anchors import Anchorer, RetryTiming
from trustgate.solana.clusters import Cluster
from trustgate.solana.keypair import PayerKey
from trustgate.solana.log_status import AnchorTarget
from trustgate.solana.memo import Fee, sign_memo
from trustgate.solana.rpc import RpcClient
from trustgate.solana.verify import ChainAudit, verify_chain, verify_on_chain

TIMING = RetryTiming(timeout_s=10.0, poll_s=0.01, resend_s=0.03, backoff_s=0.01)
HASTY = TIMING._replace(timeout_s=0.2)
FINALITY_SLOTS = 4
LOG = log_key("log")
KEY = payer_key("log")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
TARGET = target_of("log", 300)


def note(size: int, *, root: bytes | None = None, key: LogKey = LOG) -> bytes:
    return sign_checkpoint(Checkpoint(key.name, size, root_of("log", size) if root is None else root), key)


class World:
    """A chain that moves by hand, and a node in front of it."""

    def __init__(self, net: Localnet, node: FaultyNode) -> None:
        self.net = net
        self.node = node
        self._lanes = 0

    def rpc(self, *wrongs: Wrong, cluster: str = "custom") -> RpcClient:
        self._lanes += 1
        return RpcClient(Cluster(cluster, self.node.lane(f"lane{self._lanes}", *wrongs).url))

    async def fund(self, key: PayerKey) -> None:
        await self.node.ask("requestAirdrop", key.address, 10**9)

    async def post(self, *memos: bytes, key: PayerKey = KEY, fee: Fee = Fee(400_000, 0, 5_000)) -> Transaction:  # noqa: B008 - a record, not a call that counts
        """Post one memo as the program does, several in one transaction by hand."""
        async with self.rpc() as rpc:
            blockhash = (await rpc.latest_blockhash()).blockhash
            raw = sign_memo(key, memos[0], blockhash, fee) if len(memos) == 1 else self._several(memos, blockhash)
            await rpc.send(raw, preflight=False)
        self.net.advance(FINALITY_SLOTS)
        return read_transaction(raw)

    def _several(self, memos: tuple[bytes, ...], blockhash: str) -> bytes:
        instructions = [Instruction(MEMO, memo, []) for memo in memos]
        message = MessageV0.try_compile(KEY.pubkey(), instructions, [], Hash.from_string(blockhash))
        return bytes(VersionedTransaction(message, [Keypair.from_json(KEY.secret_text())]))

    async def verify(self, *wrongs: Wrong, log: AnchorTarget = TARGET, timing: RetryTiming = TIMING) -> ChainAudit:
        async with self.rpc(*wrongs) as rpc:
            return await verify_chain(rpc, KEY.address, log, timing=timing)


@asynccontextmanager
async def a_world(**more: Any) -> AsyncIterator[World]:
    async with (
        running_localnet(**{"slot_ms": 0, "finality_slots": FINALITY_SLOTS, **more}) as net,
        faulty_node(net.url) as node,
    ):
        world = World(net, node)
        await world.fund(KEY)
        net.advance(FINALITY_SLOTS)
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


def problems(audit: ChainAudit) -> list[str]:
    return [finding.problem for finding in audit.findings]


# a whole log


async def test_anchors_in_order(world: World) -> None:
    sent = [await world.post(note(size)) for size in (1, 5, 300)]
    audit = await world.verify()
    assert [finding.signature for finding in audit.findings] == [transaction.signature for transaction in sent]
    assert [(finding.tree_size, finding.root) for finding in audit.findings] == [
        (size, root_of("log", size).hex()) for size in (1, 5, 300)
    ]
    assert [finding.slot for finding in audit.findings] == [entry.slot for entry in world.net.chain.entries[1:]]
    assert problems(audit) == [""] * 3
    assert (audit.genesis, audit.cluster) == (world.net.genesis, "local")
    assert (audit.other_memos, audit.failed) == (0, 0)


async def test_an_address_that_has_posted_nothing(world: World) -> None:
    assert (await world.verify()).findings == ()


async def test_what_flush_posts_passes() -> None:
    async with a_world(slot_ms=5) as world, world.rpc() as rpc:
        anchorer = Anchorer(Book(), timing=TIMING)
        for size in (3, 8):
            await anchorer.flush(rpc, KEY, target_of("log", size), max_fee_lamports=20_000)
        audit = await verify_chain(rpc, KEY.address, target_of("log", 8), timing=TIMING)
    assert problems(audit) == ["", ""]


async def test_only_what_is_final_counts(world: World) -> None:
    await world.post(note(1))
    async with world.rpc() as rpc:
        await rpc.send(
            sign_memo(KEY, note(2), (await rpc.latest_blockhash()).blockhash, Fee(400_000, 0, 5_000)), preflight=True
        )
    world.net.advance()
    assert len((await world.verify()).findings) == 1
    world.net.advance(FINALITY_SLOTS)
    assert len((await world.verify()).findings) == 2


async def test_a_log_that_was_rewritten(world: World) -> None:
    await world.post(note(5))
    await world.post(note(5, root=bytes(32)))
    await world.post(note(6))
    assert problems(await world.verify()) == [
        "",
        "An earlier anchor has another root for the same 5 receipts: the log was rewritten.",
        "",
    ]


async def test_a_log_that_became_shorter(world: World) -> None:
    for size in (5, 9, 7, 8, 10):
        await world.post(note(size))
    shorter = "An earlier anchor has 9 receipts already: the log has become shorter."
    assert problems(await world.verify()) == ["", "", shorter, shorter, ""]


async def test_a_state_that_was_posted_twice(world: World) -> None:
    for size in (5, 5, 6):
        await world.post(note(size))
    assert problems(await world.verify()) == ["", "An earlier anchor has the same 5 receipts already.", ""]


async def test_a_note_that_claims_to_be_of_the_log(world: World) -> None:
    forged = LogKey(LOG.name, bytes(32))
    for memo in (note(5, key=forged), note(5).replace(b"\n5\n", b"\n6\n"), note(5)[:60], LOG.name.encode()):
        await world.post(memo)
    audit = await world.verify()
    assert len(audit.findings) == 4
    for finding in audit.findings:
        assert finding.problem.startswith(f"Its memo names {LOG.name}, but is not of that log: ")
        assert (finding.tree_size, finding.root) == (0, "")


async def test_a_transaction_of_several_memos(world: World) -> None:
    await world.post(b"hello", note(5))
    assert problems(await world.verify()) == ["It carries 2 memos, and an anchor carries one."]


async def test_memos_that_are_no_anchors_are_counted(world: World) -> None:
    await world.post(b"hello")
    await world.post(note(5))
    await world.post(note(9, key=log_key("other")))
    await world.post(b"one", b"two")
    await world.post(LOG.name.encode() + b"x\n5\n")
    audit = await world.verify()
    assert (problems(audit), audit.other_memos) == ([""], 4)


async def test_what_failed_proves_nothing(world: World) -> None:
    await world.post(note(5), fee=Fee(500, 0, 5_000))
    await world.post(note(5))
    audit = await world.verify()
    assert (problems(audit), audit.failed, audit.other_memos) == ([""], 1, 0)


async def test_what_others_post_is_not_the_logs(world: World) -> None:
    """A stranger posts the log's notes, and names its address; and pays it something."""
    stranger = payer_key("stranger")
    await world.fund(stranger)
    await world.post(note(7), key=stranger)
    async with world.rpc() as rpc:
        naming = Instruction(MEMO, note(9), [AccountMeta(stranger.pubkey(), True, False)])
        other = Instruction(
            Pubkey.from_string("11111111111111111111111111111111"),
            b"\2\0\0\0" + (1).to_bytes(8, "little"),
            [
                AccountMeta(stranger.pubkey(), True, True),
                AccountMeta(KEY.pubkey(), False, True),
            ],
        )
        blockhash = Hash.from_string((await rpc.latest_blockhash()).blockhash)
        message = MessageV0.try_compile(stranger.pubkey(), [other, naming], [], blockhash)
        await rpc.send(
            bytes(VersionedTransaction(message, [Keypair.from_json(stranger.secret_text())])), preflight=True
        )
        world.net.advance(FINALITY_SLOTS)
        assert len(await rpc.mentions(KEY.address, "finalized")) == 2
    await world.post(note(5))
    audit = await world.verify()
    assert [finding.tree_size for finding in audit.findings] == [5]
    assert (problems(audit), audit.other_memos) == ([""], 0)


async def test_against_the_log_here(world: World) -> None:
    await world.post(note(5))
    await world.post(note(9))
    assert problems(await world.verify(log=target_of("log", 9))) == ["", ""]
    assert problems(await world.verify(log=target_of("log", 7))) == ["", "It has 9 receipts, but the log here only 7."]

    async def rewritten(size: int) -> bytes:
        return bytes(32) if size == 5 else root_of("log", size)

    log = target_of("log", 9)._replace(root_at=rewritten)
    assert problems(await world.verify(log=log)) == ["The first 5 receipts of the log here have another root.", ""]


async def test_a_long_history_is_read_to_its_end(world: World) -> None:
    async def by_threes(call: Call) -> Answer:
        call.request["params"][1]["limit"] = 3
        return await changed(call, lambda result: result)

    for size in range(1, 12):
        await world.post(note(size))
    audit = await world.verify(Wrong("getSignaturesForAddress", by_threes, 100))
    assert [finding.tree_size for finding in audit.findings] == list(range(1, 12))


# nodes that are not to be relied on


async def test_a_node_that_fails_now_and_then_is_asked_again(world: World) -> None:
    for size in range(1, 7):
        await world.post(note(size))
    audit = await world.verify(
        Wrong("getGenesisHash", html_503),
        Wrong("getSignaturesForAddress", drop_before, 2),
        Wrong("getTransaction", too_many, 5),
        Wrong("getTransaction", nothing, 3, first=8),
        Wrong("getTransaction", behind, 2, first=13),
    )
    assert problems(audit) == [""] * 6


async def damaged(call: Call) -> Answer:
    """Has the transaction with one bit of the note changed."""

    def change(result: Any) -> Any:
        raw = bytearray(b64decode(result["transaction"][0]))
        raw[-40] ^= 1
        return {**result, "transaction": [b64encode(raw).decode(), "base64"]}

    return await changed(call, change)


async def signed_by_another(call: Call) -> Answer:
    """Has, under the signature, another's transaction."""
    forged = bytearray(sign_memo(payer_key("stranger"), note(5), "1" * 32, Fee(1, 1, 1)))
    return await changed(call, lambda result: {**result, "transaction": [b64encode(forged).decode(), "base64"]})


async def reported_failed(call: Call) -> Answer:
    return await changed(call, lambda result: {**result, "meta": {**result["meta"], "err": "AccountNotFound"}})


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (damaged, "an invalid signature"),
        (signed_by_another, "returns another transaction"),
        (reported_failed, "contradicts itself"),
        (nothing, "does not return it"),
        (other_transaction, "returns another transaction"),
    ],
)
async def test_an_anchor_that_a_node_makes_up_is_the_nodes_fault(
    world: World, lie: Callable[[Call], Awaitable[Answer]], why: str
) -> None:
    await world.post(note(5))
    with pytest.raises(RpcUnavailable, match=why):
        await world.verify(Wrong("getTransaction", lie, 10_000), timing=HASTY)


async def test_what_cannot_be_read_was_not_posted_by_this_program(world: World) -> None:
    """Otherwise a transaction of a new kind that names the address could stop everything."""

    async def of_a_new_version(call: Call) -> Answer:
        message = "Transaction version (1) is not supported by the requesting client"
        return encoded({"jsonrpc": "2.0", "id": call.request["id"], "error": {"code": -32015, "message": message}})

    async def of_an_unknown_kind(call: Call) -> Answer:
        def change(result: Any) -> Any:
            raw = bytearray(b64decode(result["transaction"][0]))
            raw[65] = 0x85  # the version, after the one signature
            return {**result, "transaction": [b64encode(raw).decode(), "base64"]}

        return await changed(call, change)

    for size in (5, 6, 7):
        await world.post(note(size))
    # Besides these, the history has the airdrop; it is read first.
    audit = await world.verify(
        Wrong("getTransaction", of_a_new_version, 1, first=2), Wrong("getTransaction", of_an_unknown_kind, 1, first=3)
    )
    assert len(audit.findings) == 1
    assert problems(audit) == [""]


async def test_a_transaction_that_a_node_will_not_show(world: World) -> None:
    async def refused(call: Call) -> Answer:
        return encoded({"jsonrpc": "2.0", "id": call.request["id"], "error": {"code": -32602, "message": "pay first"}})

    await world.post(note(5))
    with pytest.raises(RpcRejected, match="pay first"):
        await world.verify(Wrong("getTransaction", refused))


async def test_an_address_that_is_flooded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_MENTIONS", 3)
    for size in (5, 6, 7):
        await world.post(note(size))
    with pytest.raises(RpcUnavailable, match="has more than 3 transactions"):
        await world.verify()


async def test_a_history_that_goes_round_in_circles(world: World) -> None:
    async def from_the_start(call: Call) -> Answer:
        call.request["params"][1].pop("before", None)
        return await changed(call, lambda result: result)

    await world.post(note(5))
    with pytest.raises(RpcUnavailable, match="out of order"):
        await world.verify(Wrong("getSignaturesForAddress", from_the_start, 10_000), timing=HASTY)


async def test_a_node_that_cannot_be_reached_is_not_waited_for_as_long_as_a_history_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trustgate.solana.verify._FIND_TIMEOUT_S", 0.0)
    async with asyncio.timeout(PATIENCE_S), RpcClient(Cluster("custom", f"http://127.0.0.1:{free_port()}")) as rpc:
        with pytest.raises(RpcUnavailable, match="cannot be reached"):
            await verify_chain(rpc, KEY.address, TARGET)


# one transaction


async def find(world: World, transaction: Transaction) -> str:
    async with world.rpc() as rpc:
        return await verify_on_chain(rpc, transaction)


async def test_a_transaction_that_is_there(world: World) -> None:
    sent = await world.post(note(5))
    async with world.rpc() as rpc:
        told = await verify_on_chain(rpc, sent, timing=TIMING)
    slot = world.net.chain.entries[-1].slot
    assert told == f"Finalized on a private chain, at {rpc.cluster.host} in slot {slot}, to the byte."


async def test_a_transaction_that_is_not_there(world: World) -> None:
    never = read_transaction(sign_memo(KEY, note(5), "1" * 32, Fee(1, 1, 1)))
    with pytest.raises(VerificationFailed, match=f"{never.signature} is not on a private chain"):
        await find(world, never)


async def test_a_transaction_that_is_not_final(world: World) -> None:
    async with world.rpc() as rpc:
        raw = sign_memo(KEY, note(2), (await rpc.latest_blockhash()).blockhash, Fee(400_000, 0, 5_000))
        await rpc.send(raw, preflight=True)
        world.net.advance()
        with pytest.raises(VerificationFailed, match="not finalized there"):
            await verify_on_chain(rpc, read_transaction(raw))


async def test_a_transaction_that_failed(world: World) -> None:
    failed = await world.post(note(5), fee=Fee(500, 0, 5_000))
    with pytest.raises(VerificationFailed, match=r"landed on .* and failed"):
        await find(world, failed)


async def test_other_bytes_under_the_same_signature(world: World) -> None:
    sent = await world.post(note(5))
    altered = sent._replace(message=sent.message[:-40] + bytes([sent.message[-40] ^ 1]) + sent.message[-39:])
    with pytest.raises(VerificationFailed, match="is not the one of the bundle: it is another"):
        await find(world, altered)
    async with world.rpc(Wrong("getTransaction", other_transaction)) as rpc:
        with pytest.raises(VerificationFailed, match="is not the one of the bundle"):
            await verify_on_chain(rpc, sent)


async def test_a_cluster_that_cannot_be_asked(world: World) -> None:
    sent = await world.post(note(5))
    async with world.rpc(cluster="devnet") as rpc:
        with pytest.raises(AnchorRefused, match="is not devnet"):
            await verify_on_chain(rpc, sent)
        with pytest.raises(AnchorRefused, match="is not devnet"):
            await verify_chain(rpc, KEY.address, TARGET)
    async with world.rpc(Wrong("getTransaction", drop_before, 10_000)) as rpc:
        with pytest.raises(RpcUnavailable):
            await verify_on_chain(rpc, sent, timing=HASTY)
    async with world.rpc(Wrong("getTransaction", drop_before, 3)) as rpc:
        assert await verify_on_chain(rpc, sent, timing=TIMING)


async def test_checks_of_one_client_may_overlap(world: World) -> None:
    sent = [await world.post(note(size)) for size in (1, 2, 3)]
    async with world.rpc() as rpc:
        told = await asyncio.gather(*(verify_on_chain(rpc, transaction) for transaction in sent))
    assert len(set(told)) == 3
