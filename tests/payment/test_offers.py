"""What an operator types, made an offer or refused: against a local chain, an EVM node and facilitators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.payment.conftest import FINALITY_SLOTS, Shop
from tests.support.evmnode import EvmNode
from tests.support.facilitator import FacilitatorDouble
from tests.support.payments import BASE_USDC, SHOP
from tests.support.upstream import Upstream
from trustgate.errors import ChainError, FacilitatorUnavailable, InvalidRequest, SettingsError
from trustgate.formats.solana_transaction import b58encode
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.registry import Facilitators
from trustgate.payment.networks import BASE, SOLANA_DEVNET
from trustgate.payment.offers import OfferSpec, make_offer
from trustgate.settings import PaymentSettings, Settings
from trustgate.types import Offer

TOKEN = "0x" + "ab" * 20
SELLER = SHOP


class Desk:
    """An operator who sets how a tenant pays."""

    def __init__(self, shop: Shop, evm: EvmNode, double: FacilitatorDouble) -> None:
        self.shop, self.evm, self.double = shop, evm, double
        payment = PaymentSettings(solana_devnet_rpc=shop.net.url, base_rpc=evm.url)
        self.settings = Settings(home=shop.home, payment=payment)
        self.nodes = Nodes(self.settings)
        self.facilitators = Facilitators(self.settings, self.nodes)

    async def solana(self, **members: Any) -> Offer:
        spec = {
            "network": "solana-devnet",
            "asset": self.shop.token.mint,
            "pay_to": self.shop.seller.address,
            "facilitator": "embedded",
        }
        return await self._make(spec | members)

    async def base(self, **members: Any) -> Offer:
        spec = {"network": "base", "asset": "usdc", "pay_to": SELLER, "facilitator": self.double.url}
        return await self._make(spec | members)

    async def _make(self, members: dict[str, Any]) -> Offer:
        return await make_offer(OfferSpec(**members), self.facilitators, self.nodes)


@pytest.fixture
def double() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as facilitator:
        yield facilitator


@pytest.fixture
async def desk(shop: Shop, double: FacilitatorDouble) -> AsyncIterator[Desk]:
    upstream = Upstream().start()
    made = Desk(shop, EvmNode(upstream), double)
    yield made
    await made.facilitators.close()
    await made.nodes.close()
    upstream.stop()


async def refused(call: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        await call
    return raised.value


# Solana


async def test_offers_on_solana(desk: Desk) -> None:
    shop = desk.shop
    wanted = Offer(
        network=SOLANA_DEVNET,
        asset=shop.token.mint,
        decimals=6,
        pay_to=shop.seller.address,
        facilitator="embedded",
        extra={"feePayer": shop.fee_payer.address},
    )
    assert await desk.solana() == wanted
    assert await desk.solana(network=SOLANA_DEVNET, decimals=6) == wanted
    remote = await desk.solana(facilitator=desk.double.url + "/")
    assert remote == msgspec.structs.replace(
        wanted, facilitator=desk.double.url, extra={"feePayer": desk.double.fee_payer}
    )


async def test_what_is_wrong_on_solana_is_refused_with_what_to_do(desk: Desk) -> None:
    shop = desk.shop
    nowhere = b58encode(bytes(range(32)))
    bare = await shop.token.wallet(units=None, lamports=1_000_000)
    shop.net.advance(FINALITY_SLOTS)
    for members, param, code in (
        ({"network": "moon"}, "network", "unknown_network"),
        ({"asset": "usdc"}, "asset", "no_mint"),  # that of the real devnet, which this chain is not
        ({"asset": "dollars"}, "asset", "unknown_asset"),
        ({"asset": nowhere}, "asset", "no_mint"),
        ({"asset": shop.seller.account}, "asset", "no_mint"),
        ({"asset": shop.seller.address}, "pay_to", "bad_address"),
        ({"asset": BASE_USDC}, "asset", "bad_address"),
        ({"decimals": 9}, "decimals", "bad_decimals"),
        ({"pay_to": shop.seller.account}, "pay_to", "bad_address"),
        ({"pay_to": SELLER}, "pay_to", "bad_address"),
        ({"pay_to": bare.address}, "pay_to", "no_token_account"),
        ({"facilitator": "http://example.com"}, "facilitator", "bad_facilitator"),
        ({"facilitator": "whoever"}, "facilitator", "bad_facilitator"),
    ):
        error = await refused(desk.solana(**members))
        assert (error.param, error.code) == (param, code), members
        assert error.hint, members
    error = await refused(desk.solana(pay_to=bare.address))
    assert error.hint is not None
    assert f"spl-token create-account {shop.token.mint} --owner {bare.address}" in error.hint
    # Doing so mends it.
    await shop.token.open_account(bare.address)
    shop.net.advance(FINALITY_SLOTS)
    assert (await desk.solana(pay_to=bare.address)).pay_to == bare.address


async def test_without_a_key_the_embedded_facilitator_is_not_offered(desk: Desk) -> None:
    (desk.shop.home / "facilitator.json").unlink()
    with pytest.raises(SettingsError) as raised:
        await desk.solana()
    assert raised.value.hint is not None and "keygen" in raised.value.hint


async def test_a_node_that_speaks_for_another_chain_is_refused(desk: Desk) -> None:
    settings = Settings(home=desk.shop.home, payment=PaymentSettings(solana_rpc=desk.shop.net.url))
    nodes = Nodes(settings)
    with pytest.raises(ChainError, match="is of another chain"):
        await nodes.solana("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")
    await nodes.close()


# EVM


async def test_offers_on_base(desk: Desk) -> None:
    wanted = Offer(
        network=BASE,
        asset=BASE_USDC,
        decimals=6,
        pay_to=SELLER,
        facilitator=desk.double.url,
        extra={"name": "USD Coin", "version": "2"},
    )
    assert await desk.base() == wanted
    assert await desk.base(asset=BASE_USDC.lower(), pay_to=SELLER.lower()) == wanted


async def test_another_token_is_asked_what_it_is(desk: Desk) -> None:
    desk.evm.contracts.add(TOKEN)
    offer = await desk.base(asset=TOKEN)
    assert (offer.decimals, offer.extra) == (6, {"name": "USD Coin", "version": "2"})
    desk.evm.token = {key: value for key, value in desk.evm.token.items() if value != "2"}
    error = await refused(desk.base(asset=TOKEN))
    assert error.hint is not None and "--asset-version" in error.hint
    assert (await desk.base(asset=TOKEN, version="1")).extra == {"name": "USD Coin", "version": "1"}


async def test_what_is_wrong_on_base_is_refused_with_what_to_do(desk: Desk) -> None:
    for members, param, code in (
        ({"decimals": 0}, "decimals", "bad_decimals"),  # a dollar would be a millionth of one
        ({"asset": TOKEN}, "asset", "no_contract"),
        ({"asset": desk.shop.token.mint}, "asset", "bad_address"),
        ({"pay_to": desk.shop.seller.address}, "pay_to", "bad_address"),
        ({"pay_to": SELLER.replace("B", "b", 1)}, "pay_to", "bad_address"),
        ({"pay_to": "0x" + "0" * 40}, "pay_to", "bad_address"),
        ({"pay_to": BASE_USDC}, "pay_to", "bad_address"),
        ({"facilitator": "embedded"}, "facilitator", "bad_facilitator"),
        ({"network": "eip155:10", "asset": TOKEN}, "network", "no_node"),
        ({"network": "polygon"}, "network", "no_node"),
    ):
        error = await refused(desk.base(**members))
        assert (error.param, error.code) == (param, code), members
        assert error.hint, members


async def test_a_network_can_be_offered_once_a_node_of_it_is_named(desk: Desk) -> None:
    """Before, what became of a payment there could never be looked up."""
    with pytest.raises(InvalidRequest, match="cannot be looked up") as refused:
        await desk.base(network="polygon")
    assert "nodes" in (refused.value.hint or "")
    desk.evm.chain_id = 137
    desk.double.kinds = [{"x402Version": 2, "scheme": "exact", "network": "eip155:137"}]
    payment = PaymentSettings(nodes=(f"polygon={desk.evm.url}",))
    nodes = Nodes(Settings(home=desk.shop.home, payment=payment))
    spec = OfferSpec(network="polygon", asset="usdc", pay_to=SELLER, facilitator=desk.double.url)
    assert (await make_offer(spec, desk.facilitators, nodes)).network == "eip155:137"
    assert (await (await nodes.evm("eip155:137")).block()).number == desk.evm.height
    await nodes.close()


@pytest.mark.parametrize("entry", ["polygon", "polygon=", "nowhere=https://a.example", "polygon=ftp://a.example"])
def test_a_node_is_named_by_network_and_url(tmp_path: Path, entry: str) -> None:
    with pytest.raises(SettingsError, match=r"payment\.nodes"):
        Nodes(Settings(home=tmp_path, payment=PaymentSettings(nodes=(entry,))))


async def test_a_facilitator_that_does_not_answer(desk: Desk) -> None:
    away = f"{desk.evm.url}/none"
    with pytest.raises(FacilitatorUnavailable):
        await desk.base(facilitator=away)
    unasked = await desk.base(facilitator=away, checks_facilitator=False)
    assert unasked == msgspec.structs.replace(await desk.base(), facilitator=away)
    error = await refused(desk.solana(facilitator=away, checks_facilitator=False))
    assert "keygen" in (error.hint or ""), "only the facilitator knows who pays the fees"


async def test_one_facilitator_for_a_name_and_one_override_for_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await desk.facilitators.get("embedded") is await desk.facilitators.get("embedded")
    assert await desk.facilitators.get("https://a.example") is not await desk.facilitators.get("https://b.example")
    monkeypatch.setenv("X402_FACILITATOR_URL", desk.double.url)
    overridden = Facilitators(desk.settings, desk.nodes)
    assert await overridden.get("https://a.example") is await overridden.get("https://b.example")
    assert await overridden.get("embedded") is not await overridden.get("https://a.example")
    assert (await (await overridden.get("https://a.example")).supported())[0].network == SOLANA_DEVNET
    await overridden.close()
    monkeypatch.setenv("X402_FACILITATOR_URL", "http://far.example")
    with pytest.raises(SettingsError, match="X402_FACILITATOR_URL"):
        Facilitators(desk.settings, desk.nodes)
