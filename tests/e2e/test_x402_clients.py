"""Stock x402 clients pay a tenant's requests, and token balances really move on a local Solana.

Each client is a program that makes all its purchases in one run; each purchase has a wallet, a tenant and a seller of
its own, so that the chain tells exactly what it moved.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests import environments
from tests.support.market import MODEL, Buyer, TokenMarket, token_market
from tests.support.processes import clean_environment
from tests.support.purchases import PROGRAMS, WANTED, Bought, Wanted, buy
from tests.support.upstream import Upstream
from trustgate.payment.networks import SOLANA_DEVNET

pytestmark = pytest.mark.clients

UNITS = 1_000_000
#: One atomic unit of a token with six decimals that is worth a dollar.
NANO_USD = 1_000
_BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello, who are you?"}], "max_tokens": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenMarket]:
    upstream = Upstream().start()
    try:
        with token_market(tmp_path_factory.mktemp("market"), upstream.api_url) as opened:
            yield opened
    finally:
        upstream.stop()


class Purchases:
    """Runs a client's program when the first of its purchases is asked for."""

    def __init__(self, place: TokenMarket, make_folder: Callable[[str], Path]) -> None:
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
def purchases(place: TokenMarket, tmp_path_factory: pytest.TempPathFactory) -> Purchases:
    return Purchases(place, tmp_path_factory.mktemp)


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: f"{wanted.client}: {wanted.name}")
def test_a_stock_client_pays_and_the_tokens_move(place: TokenMarket, purchases: Purchases, wanted: Wanted) -> None:
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


def test_a_balance_that_the_sdk_topped_up_pays_for_requests_until_it_is_used_up(
    place: TokenMarket, tmp_path: Path
) -> None:
    wanted = Wanted("x402 SDK, httpx", "prepaid", "top-up")
    topped_up = buy(place, wanted.client, [wanted], tmp_path, units=UNITS, mode="prepaid", top_up_nano_usd=30_000_000)
    buyer, got = topped_up[wanted.name]
    assert "error" not in got, got["error"]
    assert place.units(buyer.seller) == 30_000

    answers: list[httpx.Response] = []
    with httpx.Client(base_url=place.gateway.base_url, headers={"authorization": f"Bearer {buyer.key}"}) as http:
        while not answers or answers[-1].status_code == 200:
            assert len(answers) < 10, "two cents do not last for ever"
            answers.append(http.post("/v1/chat/completions", json=_BODY, timeout=30))
        balance = http.get("/v1/credits").json()["balance_nano_usd"]

    *paid, refused = answers
    assert refused.status_code == 402
    assert "payment-required" in refused.headers
    costs = [place.receipt(answer.headers["x-trustgate-receipt"])["charged_nano_usd"] for answer in paid]
    assert paid and all(cost > 0 for cost in costs)
    assert balance == 30_000_000 - sum(costs)
    assert place.units(buyer.seller) == 30_000
    assert place.units(buyer.wallet.address) == UNITS - 30_000


def test_what_the_clients_paid_is_in_the_books(place: TokenMarket, purchases: Purchases) -> None:
    for client in PROGRAMS:
        purchases.of(next(one for one in WANTED if one.client == client))

    checked = place.gateway.cli("doctor", "--books", check=False)

    assert "The books balance." in checked.stdout, checked.stdout
    assert place.gateway.cli_json("payment", "list", "--state", "unknown")["payments"] == []


def test_a_conformance_checker_finds_nothing_in_the_402(place: TokenMarket) -> None:
    """x402conf asks by GET and without a key, so that something has to ask in its place as callers of the API do."""
    [buyer] = place.buyers(1)
    python = environments.find_clients()
    assert python is not None, "the clients are not installed: run `python3 tests --install-only`"

    with _asking_for(place, buyer) as url:
        command = [str(python), "-m", "x402conf", "resource", url, "--fail-on-error"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean_environment())

    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout)["results"][0]["checks"]
    assert sorted(check["check"].split()[0] for check in checks) == [f"P{number}" for number in range(1, 8)]
    assert [check for check in checks if not check["pass"]] == []


@contextmanager
def _asking_for(place: TokenMarket, buyer: Buyer) -> Iterator[str]:
    """A URL whose GET gives the gateway's answer to an unpaid chat completion of the buyer's, as it came."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {"authorization": f"Bearer {buyer.key}"}
            answer = httpx.post(f"{place.gateway.api_url}/chat/completions", json=_BODY, headers=headers, timeout=30)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
