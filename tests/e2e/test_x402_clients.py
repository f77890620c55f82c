"""Stock x402 clients pay a tenant's requests, and token balances really move on a local Solana.

Each client is a program that makes all its purchases in one run; each purchase has a wallet, a tenant and a seller of
its own, so that the chain tells exactly what it moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.market import Market, market
from tests.support.paying import PROGRAMS, WANTED, Bought, Wanted, buy
from tests.support.upstream import Upstream
from trustgate.payment.networks import SOLANA_DEVNET

pytestmark = pytest.mark.clients

UNITS = 1_000_000
#: One atomic unit of a token with six decimals that is worth a dollar.
NANO_USD = 1_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    upstream = Upstream().start()
    try:
        with market(tmp_path_factory.mktemp("market"), upstream.api_url) as opened:
            yield opened
    finally:
        upstream.stop()


class Purchases:
    """Runs a client's program when the first of its purchases is asked for."""

    def __init__(self, place: Market, make_folder: Callable[[str], Path]) -> None:
        self._place = place
        self._make_folder = make_folder
        self._bought: dict[str, dict[str, Bought]] = {}

    def of(self, wanted: Wanted) -> Bought:
        if wanted.client not in self._bought:
            all_of_it = [one for one in WANTED if one.client == wanted.client]
            folder = self._make_folder("client")
            self._bought[wanted.client] = buy(self._place, wanted.client, all_of_it, folder, units=UNITS)
        return self._bought[wanted.client][wanted.name]


@pytest.fixture(scope="module")
def purchases(place: Market, tmp_path_factory: pytest.TempPathFactory) -> Purchases:
    return Purchases(place, tmp_path_factory.mktemp)


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: f"{wanted.client}: {wanted.name}")
def test_a_stock_client_pays_and_the_tokens_move(place: Market, purchases: Purchases, wanted: Wanted) -> None:
    buyer, got = purchases.of(wanted)

    assert "error" not in got, got["error"]
    assert got["status"] == 200
    payments = place.payments(buyer)
    assert len(payments) == 1
    paid = payments[0]
    units = int(paid.amount)
    assert paid.state == ("credited" if wanted.what == "top-up" else "delivered")
    assert paid.x402_version == wanted.version
    assert paid.payer == buyer.wallet.address
    # The chain: what the buyer lacks the seller has, and it is the price.
    assert place.units(buyer.wallet.address) == UNITS - units
    assert place.units(buyer.seller) == units
    # What the client was told, as its own decoder reads it.
    settled = got["settled"]
    assert settled["success"] is True
    assert settled["transaction"] == paid.transaction
    assert settled["payer"] == buyer.wallet.address
    assert settled["network"] == (SOLANA_DEVNET if wanted.version == 2 else "solana-devnet")
    assert got["headers"]["cache-control"] == "private, no-store"
    # The receipt names the transaction, and what was not used is the tenant's credit.
    receipt = place.receipt(got["headers"]["x-trustgate-receipt"])
    assert receipt["payment_transaction"] == paid.transaction
    assert receipt["payment_payer"] == buyer.wallet.address
    assert receipt["credited_nano_usd"] == units * NANO_USD
    left = receipt["credited_nano_usd"] - receipt["charged_nano_usd"]
    assert place.balance(buyer) == left
    if wanted.what == "top-up":
        assert receipt["charged_nano_usd"] == 0
        assert got["credits"]["balance_nano_usd"] == units * NANO_USD
    else:
        assert got["text"] == "Hello!"
        assert receipt["charged_nano_usd"] == receipt["cost_nano_usd"] > 0
        assert left > 0
        assert receipt["stream"] is wanted.stream
