"""The memo transaction: what it holds, what it costs, and how large a note may be."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chain import Answer, Call, Wrong, changed, encoded, faulty_node
from trustgate.errors import AnchorRefused, RpcRejected, RpcUnavailable
from trustgate.formats.solana_transaction import MAX_TRANSACTION_BYTES, b58encode, read_transaction
from trustgate.localnet import running_localnet
from trustgate.solana.clusters import find_cluster
from trustgate.solana.keypair import PayerKey
from trustgate.solana.memo import BASE_FEE_LAMPORTS, MAX_NOTE_BYTES, Fee, check_note_size, estimate, price, sign_memo
from trustgate.solana.rpc import RpcClient

KEY = PayerKey.from_seed(bytes(32))
BLOCKHASH = b58encode(bytes([9]) * 32)
NOTE = "example.com/log\n5\n—\n".encode()
MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
COMPUTE_BUDGET = "ComputeBudget111111111111111111111111111111"


def test_three_instructions_and_one_signer() -> None:
    transaction = read_transaction(sign_memo(KEY, NOTE, BLOCKHASH, Fee(80_000, 123, 5_010)))
    transaction.verify_signatures()
    assert transaction.version == 0
    assert transaction.fee_payer == KEY.address
    assert len(transaction.signatures) == 1
    assert b58encode(transaction.blockhash) == BLOCKHASH
    assert transaction.memos == (NOTE,)
    programs = [(instruction.program, instruction.accounts) for instruction in transaction.instructions]
    assert programs == [(COMPUTE_BUDGET, ()), (COMPUTE_BUDGET, ()), (MEMO, ())]
    assert [instruction.data for instruction in transaction.instructions[:2]] == [
        struct.pack("<BI", 2, 80_000),
        struct.pack("<BQ", 3, 123),
    ]


def test_the_longest_note_fills_the_transaction() -> None:
    note = b"x" * MAX_NOTE_BYTES
    assert MAX_NOTE_BYTES == 1008
    raw = sign_memo(KEY, note, BLOCKHASH, Fee(1_400_000, 2**63, 1))
    assert len(raw) == MAX_TRANSACTION_BYTES
    assert read_transaction(raw).memos == (note,)


@pytest.mark.parametrize("size", [0, MAX_NOTE_BYTES + 1, 10_000])
def test_a_note_that_does_not_fit_is_refused_before_anything_is_signed(size: int) -> None:
    with pytest.raises(AnchorRefused, match=f"has {size} bytes, and a transaction carries at most 1008") as caught:
        check_note_size(b"x" * size)
    assert caught.value.hint is not None and "shorter" in caught.value.hint
    with pytest.raises(AnchorRefused):
        sign_memo(KEY, b"x" * size, BLOCKHASH, Fee(1, 1, 1))


@pytest.mark.parametrize(
    ("units", "recent", "most", "fee"),
    [
        (1_000, [], 100_000, Fee(1_600, 0, 5_000)),
        (1_001, [0, 0, 0, 0], 100_000, Fee(1_602, 0, 5_000)),
        (100_000, [1_000], 100_000, Fee(110_500, 1_000, 5_111)),  # 110.5 lamports, rounded up
        (100_000, [5, 1, 3, 2], 100_000, Fee(110_500, 3, 5_001)),  # the third of four
        (100_000, [1, 1, 1, 10**9], 100_000, Fee(110_500, 1, 5_001)),
        (100_000, [10**12], 10_000, Fee(110_500, 45_248, 10_000)),  # as much as the limit allows
        (100_000, [10**12], 5_000, Fee(110_500, 0, 5_000)),
        (1_399_999, [7], 100_000, Fee(1_400_000, 7, 5_010)),
    ],
)
def test_what_it_costs(units: int, recent: list[int], most: int, fee: Fee) -> None:
    assert price(units, recent, most) == fee


@given(
    units=st.integers(1, 1_400_000),
    recent=st.lists(st.integers(0, 2**63), max_size=150),
    most=st.integers(BASE_FEE_LAMPORTS, 10**12),
)
def test_the_fee_never_passes_the_limit_and_never_offers_more_than_blocks_took(
    units: int, recent: list[int], most: int
) -> None:
    fee = price(units, recent, most)
    assert BASE_FEE_LAMPORTS <= fee.lamports <= most
    assert fee.compute_unit_price_micro_lamports <= max(recent, default=0)
    assert units <= fee.compute_unit_limit <= 1_400_000
    micro = fee.compute_unit_limit * fee.compute_unit_price_micro_lamports
    assert (fee.lamports - BASE_FEE_LAMPORTS) * 10**6 - micro in range(10**6)


async def test_the_estimate_is_what_the_chain_then_takes() -> None:
    async with running_localnet(slot_ms=5) as net, RpcClient(find_cluster(net.url)) as rpc:
        await rpc.request_airdrop(KEY.address, 10**9)
        net.advance()  # from then on it is confirmed
        for size in (150, 500, MAX_NOTE_BYTES):
            note = (b"n" * (size - 3)) + "—".encode()
            fee = await estimate(rpc, KEY.address, note, max_fee_lamports=100_000)
            before = net.chain.bank.lamports(KEY.pubkey())
            signature = await rpc.send(
                sign_memo(KEY, note, (await rpc.latest_blockhash()).blockhash, fee), preflight=True
            )
            net.advance()
            landed = await rpc.transaction(signature, "confirmed")
            assert landed is not None and landed.err is None
            assert landed.fee_lamports == fee.lamports == before - net.chain.bank.lamports(KEY.pubkey())
            assert read_transaction(landed.raw).memos == (note,)


async def test_nothing_that_is_simulated_could_be_sent() -> None:
    """What is shown to a node before it is recorded has no signature, and no blockhash."""
    shown: list[bytes] = []

    async def listen(call: Call) -> Answer:
        from base64 import b64decode

        shown.append(b64decode(call.request["params"][0]))
        return encoded(await call.forward())

    async with running_localnet(slot_ms=5) as net, faulty_node(net.url) as node:
        lane = node.lane("probe", Wrong("simulateTransaction", listen))
        async with RpcClient(find_cluster(lane.url)) as rpc:
            await rpc.request_airdrop(KEY.address, 10**9)
            await estimate(rpc, KEY.address, NOTE, max_fee_lamports=100_000)
    (raw,) = shown
    probe = read_transaction(raw)
    assert probe.signatures == (bytes(64),)
    assert probe.blockhash == bytes(32)
    assert probe.memos == (NOTE,)


async def test_an_estimate_that_cannot_be_made() -> None:
    async def no_units(call: Call) -> Answer:
        return await changed(call, lambda result: {**result, "value": {**result["value"], "unitsConsumed": None}})

    async with running_localnet(slot_ms=5) as net, faulty_node(net.url) as node:
        async with RpcClient(find_cluster(net.url)) as rpc:
            with pytest.raises(RpcRejected, match="AccountNotFound") as caught:
                await estimate(rpc, KEY.address, NOTE, max_fee_lamports=100_000)
            assert caught.value.data == "AccountNotFound"
            with pytest.raises(AnchorRefused, match=r"costs 5,000 lamports at least, and 4,999 are allowed"):
                await estimate(rpc, KEY.address, NOTE, max_fee_lamports=4_999)
            await rpc.request_airdrop(KEY.address, 10**9)
        lane = node.lane("mute", Wrong("simulateTransaction", no_units))
        async with RpcClient(find_cluster(lane.url)) as rpc:
            with pytest.raises(RpcUnavailable, match="does not report how many compute units"):
                await estimate(rpc, KEY.address, NOTE, max_fee_lamports=100_000)
