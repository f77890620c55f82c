"""A wallet in the browser pays on the account page, and the money moves on a local Solana."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.browser.test_account import go, press, put, sign_in, text_of, until, wait
from tests.support.chromium import Browser
from tests.support.market import Buyer, TokenMarket, token_market
from tests.support.programs import require_node_modules
from tests.support.upstream import Upstream
from tests.wallet.__main__ import NAMES, build, bundle, licences
from trustgate.payment.networks import SOLANA_DEVNET

UNITS = 3_000_000

#: A wallet as extensions show themselves (Wallet Standard). It signs with an Ed25519 key of its own without a question:
#: the fee payer's signature stands first in a transaction, and the wallet's second.
_WALLET = """
(() => {
  const { seed, address, publicKey, refuses, chains } = __GIVEN__;
  const bytes = (encoded) => Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const head = bytes("MC4CAQAwBQYDK2VwBCIEIA==");
  const account = { address, publicKey: bytes(publicKey), chains, features: ["solana:signTransaction"] };
  globalThis.signed = 0;
  async function signTransaction({ transaction }) {
    if (refuses) throw new Error("You have declined.");
    const pkcs8 = Uint8Array.from([...head, ...bytes(seed)]);
    const key = await crypto.subtle.importKey("pkcs8", pkcs8, { name: "Ed25519" }, false, ["sign"]);
    const count = transaction[0];
    const signature = await crypto.subtle.sign({ name: "Ed25519" }, key, transaction.slice(1 + 64 * count));
    const signedTransaction = transaction.slice();
    signedTransaction.set(new Uint8Array(signature), 1 + 64);
    globalThis.signed += 1;
    return [{ signedTransaction }];
  }
  const wallet = {
    version: "1.0.0", name: "Test <wallet>", icon: "data:image/png;base64,", chains, accounts: [],
    features: {
      "standard:connect": { version: "1.0.0", connect: async () => ({ accounts: [account] }) },
      "solana:signTransaction": { version: "1.0.0", supportedTransactionVersions: ["legacy", 0], signTransaction },
    },
  };
  const register = (api) => api.register(wallet);
  dispatchEvent(new CustomEvent("wallet-standard:register-wallet", { detail: register }));
  addEventListener("wallet-standard:app-ready", (event) => register(event.detail));
})();
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, pages_upstream: Upstream) -> Iterator[TokenMarket]:
    with token_market(tmp_path_factory.mktemp("wallet-market"), pages_upstream.api_url) as opened:
        yield opened


@pytest.fixture
def buyer(place: TokenMarket) -> Buyer:
    [buyer] = place.buyers(1, units=UNITS, mode="prepaid", top_up_nano_usd=500_000_000)
    return buyer


def open_balance(browser: Browser, place: TokenMarket, buyer: Buyer, **how: Any) -> None:
    """The balance's view, signed in, in a browser with the buyer's wallet."""
    secret = bytes(buyer.wallet.keypair)
    given = {
        "seed": base64.b64encode(secret[:32]).decode(),
        "publicKey": base64.b64encode(secret[32:]).decode(),
        "address": buyer.wallet.address,
        "chains": ["solana:devnet"],
        "refuses": False,
        **how,
    }
    wallet = _WALLET.replace("__GIVEN__", json.dumps(given))
    sign_in(browser, place.gateway.base_url, buyer.key, first=wallet)
    go(browser, "balance", "#add")


def show_price(browser: Browser, usd: str) -> None:
    put(browser, "sum", usd)
    press(browser, "#add button")
    wait(browser, "#pay-command")


def test_a_wallet_pays_and_the_tokens_move(browser: Browser, place: TokenMarket, buyer: Buyer) -> None:
    open_balance(browser, place, buyer)
    assert "$0.00" in text_of(browser, ".figures")
    show_price(browser, "1.25")
    shown = text_of(browser, "#offer")
    assert "Solana devnet" in shown and "1250000 atomic units" in shown and buyer.seller in shown
    assert text_of(browser, "#wallets") == "Pay with Test <wallet> on Solana devnet"
    assert place.units(buyer.wallet.address) == UNITS, "nothing is paid by looking"
    press(browser, "#wallets button")
    wait(browser, "#paid .message.good")
    assert "The balance is $1.25 now" in text_of(browser, "#paid")
    until(browser, "document.querySelector('.figures').innerText.includes('$1.25')")
    assert (place.units(buyer.wallet.address), place.units(buyer.seller)) == (UNITS - 1_250_000, 1_250_000)
    [paid] = place.payments(buyer)
    assert (paid.payer, paid.state, place.balance(buyer)) == (buyer.wallet.address, "credited", 1_250_000_000)
    until(browser, f"document.querySelector('#view').innerText.includes({json.dumps(paid.transaction)})")
    own = (place.gateway.base_url, "data:")
    assert all(url.startswith(own) for url in browser.requests)
    assert browser.evaluate("signed") == 1


def test_who_declines_pays_nothing_and_learns_it(browser: Browser, place: TokenMarket, buyer: Buyer) -> None:
    open_balance(browser, place, buyer, refuses=True)
    show_price(browser, "0.5")
    press(browser, "#wallets button")
    wait(browser, "#paid .message.bad")
    assert "The payment was not made" in text_of(browser, "#paid") and "declined" in text_of(browser, "#paid")
    assert place.units(buyer.wallet.address) == UNITS and place.payments(buyer) == ()


def test_a_wallet_of_another_chain_is_not_offered(browser: Browser, place: TokenMarket, buyer: Buyer) -> None:
    open_balance(browser, place, buyer, chains=["solana:mainnet"])
    show_price(browser, "0.5")
    assert "No wallet in this browser can pay this" in text_of(browser, "#wallets")


def test_only_the_price_that_was_shown_is_paid(browser: Browser, place: TokenMarket, buyer: Buyer) -> None:
    """A gateway that asks for more once the wallet is ready gets nothing."""
    open_balance(browser, place, buyer)
    show_price(browser, "0.5")
    browser.evaluate(
        "const real = fetch; globalThis.fetch = (request, options) => request instanceof Request && "
        "request.url.endsWith('/v1/credits') ? real(new Request(request, {body: '{\"amount_usd\": 2}'}), options) : "
        "real(request, options), 0"
    )
    press(browser, "#wallets button")
    wait(browser, "#paid .message.bad")
    assert "another payment than it has shown" in text_of(browser, "#paid")
    assert browser.evaluate("signed") == 0 and place.units(buyer.wallet.address) == UNITS


def test_a_payment_whose_answer_is_lost_is_not_called_unpaid(
    browser: Browser, place: TokenMarket, buyer: Buyer
) -> None:
    """A payer who reads that it was not made pays again."""
    open_balance(browser, place, buyer)
    show_price(browser, "0.5")
    browser.evaluate(
        "const real = fetch; globalThis.fetch = async (request, options) => { const answer = await real(request, "
        "options); if (signed && request instanceof Request) throw new TypeError('lost'); return answer }, 0"
    )
    press(browser, "#wallets button")
    wait(browser, "#paid .message.bad")
    told = text_of(browser, "#paid")
    assert "not made" not in told and "may have been made" in told and "before you pay again" in told
    assert place.units(buyer.seller) == 500_000
    until(browser, "document.querySelector('.figures').innerText.includes('$0.50')")


def test_the_node_answers_what_a_payment_needs_and_nothing_else(place: TokenMarket, buyer: Buyer) -> None:
    def asked(network: str, method: str, *params: Any) -> httpx.Response:
        url = f"{place.gateway.base_url}/account/node/{network}"
        return httpx.post(url, json={"jsonrpc": "2.0", "id": "7", "method": method, "params": params}, trust_env=False)

    found = asked(SOLANA_DEVNET, "getLatestBlockhash").json()
    assert found["id"] == "7" and len(found["result"]["value"]["blockhash"]) > 30
    mint = asked(SOLANA_DEVNET, "getAccountInfo", place.mint, {"encoding": "base64"}).json()["result"]["value"]
    assert len(base64.b64decode(mint["data"][0])) == 82
    for refused in (
        asked(SOLANA_DEVNET, "getAccountInfo", buyer.wallet.address),
        asked(SOLANA_DEVNET, "getAccountInfo"),
        asked(SOLANA_DEVNET, "getBalance", buyer.wallet.address),
        asked("solana:mainnet", "getLatestBlockhash"),
        asked("eip155:8453", "getLatestBlockhash"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_offered")
    assert (
        httpx.post(f"{place.gateway.base_url}/account/node/{SOLANA_DEVNET}", content=b"{", trust_env=False).status_code
        == 400
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_is_made_of_what_npm_has(name: str) -> None:
    made, text = build(name, require_node_modules() / "node_modules")
    assert bundle(name).read_bytes() == made, "run: python -m tests.wallet"
    assert licences(name).read_bytes() == text, "run: python -m tests.wallet"
    # No code from text, which the page's policy would refuse.
    assert b"eval(" not in made and b"new Function" not in made
