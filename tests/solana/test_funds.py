"""What anchoring costs, who pays, and with what money."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.anchoring import World, a_world
from tests.support.chain import (
    Answer,
    Call,
    Wrong,
    changed,
    encoded,
)
from trustgate.errors import (
    AnchorRefused,
    FundsMissing,
)

MAINNET_GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
DEVNET_GENESIS = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world in which the key has money."""
    async with a_world() as world:
        await world.fund()
        yield world


# money


async def test_the_funds_are_checked_first_and_the_shortage_is_said_exactly() -> None:
    async with a_world(genesis=DEVNET_GENESIS) as world:
        with pytest.raises(FundsMissing) as caught:
            await world.flush(5, cluster="devnet")
        assert caught.value.message == (
            f"{world.key.address} lacks 895,880 lamports (0.000895880 SOL): it holds 0, an anchor costs 5,000, and "
            "890,880 must stay on every account."
        )
        assert (
            caught.value.hint is not None and f"solana airdrop 1 {world.key.address} --url devnet" in caught.value.hint
        )
        await world.fund(lamports=895_879)
        with pytest.raises(FundsMissing, match=r"lacks 1 lamports"):
            await world.flush(5, cluster="devnet")
        assert (world.book.saves, world.posted()) == ([], [])
        await world.fund(lamports=1)
        assert (await world.flush(5, cluster="devnet")).cluster == "devnet"
        assert world.net.chain.bank.lamports(world.key.pubkey()) == 890_880


async def test_a_chain_of_ones_own_gives_the_coins_itself() -> None:
    async with a_world() as world:
        with pytest.raises(FundsMissing):
            await world.flush(5, dry_run=True)
        assert (await world.flush(5)).anchored
        assert [at.stage for at in world.heard].count("funding") == 1
        assert world.net.chain.bank.lamports(world.key.pubkey()) == 10**9 - 5_000


async def test_coins_that_take_their_time() -> None:
    async def none_yet(call: Call) -> Answer:
        return await changed(call, lambda result: {**result, "value": 0})

    async with a_world() as world:
        assert (await world.flush(5, Wrong("getBalance", none_yet, 3))).anchored
        assert "The coins have not arrived yet" in [at.text for at in world.heard]


async def test_a_chain_of_ones_own_that_gives_none() -> None:
    async def not_found(call: Call) -> Answer:
        return encoded({"jsonrpc": "2.0", "id": call.request["id"], "error": {"code": -32601, "message": "no faucet"}})

    async with a_world() as world:
        with pytest.raises(FundsMissing) as caught:
            await world.flush(5, Wrong("requestAirdrop", not_found, 1000))
        assert caught.value.hint is not None and f"solana airdrop 1 {world.key.address}" in caught.value.hint
        assert "no faucet" in " ".join(at.text for at in world.heard)


async def test_mainnet_needs_to_be_meant() -> None:
    async with a_world(genesis=MAINNET_GENESIS) as world:
        await world.fund()
        with pytest.raises(AnchorRefused, match="real money"):
            await world.flush(5)
        assert (world.book.saves, world.posted()) == ([], [])
        result = await world.flush(5, allow_mainnet=True)
        assert result.explorer == f"https://explorer.solana.com/tx/{result.signature}"
        assert (await world.flush(7, cluster="mainnet-beta")).cluster == "mainnet-beta"
        for name in ("devnet", "testnet", "local"):
            with pytest.raises(AnchorRefused, match=f"is not {name}"):
                await world.flush(9, cluster=name, allow_mainnet=True)
        assert len(world.posted()) == 2


async def test_the_fee_stays_below_its_limit_whatever_the_market(world: World) -> None:
    async def dear(call: Call) -> Answer:
        return await changed(call, lambda result: [{**fee, "prioritizationFee": 10**9} for fee in result])

    result = await world.flush(5, Wrong("getRecentPrioritizationFees", dear), max_fee_lamports=7_000)
    assert 6_990 <= result.fee_lamports <= 7_000
    assert 10**9 - world.net.chain.bank.lamports(world.key.pubkey()) == result.fee_lamports

    async def usual(call: Call) -> Answer:
        return await changed(call, lambda result: [{**fee, "prioritizationFee": 10_000} for fee in result])

    result = await world.flush(7, Wrong("getRecentPrioritizationFees", usual), max_fee_lamports=100_000)
    assert 5_500 < result.fee_lamports < 7_000
    with pytest.raises(AnchorRefused, match="costs 5,000 lamports at least"):
        await world.flush(9, max_fee_lamports=4_999)
