"""A wallet for EVM chains pays on the account page: its provider speaks EIP-1193, and the facilitator takes the money.

The wallet asks the test for each signature, so that it is made, and checked, by other code than the page's client.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.browser.test_account import go, press, put, sign_in, text_of, until, wait
from tests.support.chromium import Browser
from tests.support.eip712 import TRANSFER, Account
from tests.support.facilitator import FacilitatorDouble, fails, invalid
from tests.support.gateway import Gateway
from trustgate.payment.networks import known_asset

SELLER = "0x" + "b6" * 20
PAYER = Account(0x5EED)
_names = (f"evm-buyer-{number}" for number in itertools.count(1))

#: A provider as extensions show it. ``asked``: what waits for the test's signature; ``seen``: what was asked for.
_WALLET = """
(() => {
  const { address, chain, known, declines, old } = __GIVEN__;
  let on = chain;
  globalThis.seen = [];
  const refusal = (code, message) => Object.assign(new Error(message), { code });
  async function request({ method, params }) {
    globalThis.seen.push(method);
    if (declines === method) throw refusal(4001, "User rejected the request.");
    if (method === "eth_requestAccounts") return [address];
    if (method === "eth_chainId") return on;
    if (method === "wallet_switchEthereumChain") {
      if (!known.includes(params[0].chainId)) throw refusal(4902, "Unrecognized chain ID.");
      on = params[0].chainId;
      return null;
    }
    if (method !== "eth_signTypedData_v4") throw refusal(4200, "no such method");
    if (params[0] !== address || Number(JSON.parse(params[1]).domain.chainId) !== Number(on)) {
      throw refusal(-32603, "another account or chain");
    }
    globalThis.asked = params[1];
    return new Promise((done) => { globalThis.answer = (signature) => { globalThis.asked = null; done(signature); }; });
  }
  const provider = { request };
  if (old) { globalThis.ethereum = provider; return; }
  const uuid = "350670db-19fa-4704-a166-e52e178b59d2";
  const info = { uuid, name: "Test <wallet>", icon: "data:,", rdns: "example.test" };
  const announce = () => dispatchEvent(
    new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) }));
  addEventListener("eip6963:requestProvider", announce);
  announce();
})();
"""


class Buyer(NamedTuple):
    """A tenant that pays on Base Sepolia."""

    name: str
    key: str


@pytest.fixture(scope="module")
def facilitator() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as double:
        yield double


@pytest.fixture
def buyer(pages_gateway: Gateway, facilitator: FacilitatorDouble) -> Buyer:
    name = next(_names)
    key = pages_gateway.add_tenant(name)
    terms = ("--mode", "prepaid", "--top-up", "0.5", "--network", "base-sepolia", "--pay-to", SELLER)
    pages_gateway.cli("payment", "set", name, *terms, "--facilitator", facilitator.url)
    return Buyer(name, key)


def show_price(browser: Browser, gateway: Gateway, buyer: Buyer, usd: str = "1.25", **how: Any) -> None:
    """What a top-up costs, in a browser with a wallet."""
    given = {"address": PAYER.address, "chain": "0x14a34", "known": ["0x14a34"], "declines": "", "old": False, **how}
    sign_in(browser, gateway.base_url, buyer.key, first=_WALLET.replace("__GIVEN__", json.dumps(given)))
    go(browser, "balance", "#add")
    put(browser, "sum", usd)
    press(browser, "#add button")
    wait(browser, "#pay-command")


def sign(browser: Browser) -> dict[str, Any]:
    """Confirm in the wallet; gives what was signed."""
    until(browser, "globalThis.asked")
    typed: dict[str, Any] = json.loads(browser.evaluate("asked"))
    browser.call("function (signature) { answer(signature) }", PAYER.sign(typed))
    return typed


def balance_usd(gateway: Gateway, buyer: Buyer) -> int:
    return int(gateway.cli_json("tenant", "credit", buyer.name)["balance_nano_usd"])


def test_a_wallet_pays_and_the_facilitator_has_what_it_signed(
    browser: Browser, pages_gateway: Gateway, facilitator: FacilitatorDouble, buyer: Buyer
) -> None:
    show_price(browser, pages_gateway, buyer, chain="0x1")
    assert "Base Sepolia" in text_of(browser, "#offer") and SELLER in text_of(browser, "#offer").lower()
    assert text_of(browser, "#wallets") == "Pay with Test <wallet> on Base Sepolia"
    assert browser.evaluate("seen.length") == 0, "nothing is asked of the wallet by looking"
    press(browser, "#wallets button")
    sign(browser)
    wait(browser, "#paid .message.good")
    assert "The balance is $1.25 now" in text_of(browser, "#paid")
    assert balance_usd(pages_gateway, buyer) == 1_250_000_000
    paid = facilitator.settles[-1].payload["payload"]
    token = known_asset("eip155:84532", "usdc")
    assert token is not None
    domain = {"name": "USDC", "version": "2", "chainId": 84532, "verifyingContract": token.address}
    transfer = {
        "types": TRANSFER,
        "primaryType": "TransferWithAuthorization",
        "domain": domain,
        "message": paid["authorization"],
    }
    assert PAYER.has_signed(transfer, paid["signature"])
    said = {name: str(value).lower() for name, value in paid["authorization"].items()}
    assert (said["from"], said["to"], said["value"]) == (PAYER.address, SELLER, "1250000")
    assert "wallet_switchEthereumChain" in browser.evaluate("seen"), "it was on another chain"
    loaded = [url.rpartition("/")[2] for url in browser.requests]
    assert "pay_evm.js" in loaded and "pay_solana.js" not in loaded
    assert all(url.startswith((pages_gateway.base_url, "data:")) for url in browser.requests)
    assert len(browser.complaints) == 2 and all("402 (Payment Required)" in each for each in browser.complaints)


#: Wallets that are not as the standards have them, and one more that is.
_OTHERS = """
  const announce = (info, provider) => dispatchEvent(
    new CustomEvent("eip6963:announceProvider", { detail: { info, provider } }));
  announce({ name: { toString() { throw new Error("hostile"); } } }, { request() {} });
  announce({ name: "x".repeat(1e6) }, { request() {} });
  announce(undefined, { request() {} });
  dispatchEvent(new CustomEvent("wallet-standard:register-wallet", {
    detail: (api) => api.register(null, {}, { name: 1 }) }));
"""


def test_while_a_payment_is_with_the_wallet_no_second_one_is_begun(
    browser: Browser, pages_gateway: Gateway, facilitator: FacilitatorDouble, buyer: Buyer
) -> None:
    settles = len(facilitator.settles)
    show_price(browser, pages_gateway, buyer)
    press(browser, "#wallets button")
    until(browser, "globalThis.asked")
    # Others show themselves late; the form is sent once more.
    browser.evaluate(f"(() => {{ {_OTHERS} document.querySelector('#add').requestSubmit(); }})()")
    assert len(text_of(browser, "#wallets")) < 500
    buttons = "[...document.querySelectorAll('#wallets button, #add button')].map((each) => each.disabled)"
    assert browser.evaluate(buttons) == [True] * 5
    sign(browser)
    wait(browser, "#paid .message.good")
    assert (len(facilitator.settles), balance_usd(pages_gateway, buyer)) == (settles + 1, 1_250_000_000)
    until(browser, f"!{buttons}.includes(true)")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"declines": "eth_requestAccounts"}, "You have declined in the wallet"),
        ({"declines": "eth_signTypedData_v4"}, "You have declined in the wallet"),
        ({"chain": "0x1", "known": []}, "does not know Base Sepolia (chain 84532). Add this network"),
        ({"chain": "0x1", "declines": "wallet_switchEthereumChain"}, "declined to change the wallet's network to Base"),
    ],
    ids=["account", "signature", "chain unknown", "chain declined"],
)
def test_who_declines_pays_nothing_and_reads_why(
    browser: Browser,
    pages_gateway: Gateway,
    facilitator: FacilitatorDouble,
    buyer: Buyer,
    how: dict[str, Any],
    told: str,
) -> None:
    settles = len(facilitator.settles)
    show_price(browser, pages_gateway, buyer, **how)
    press(browser, "#wallets button")
    wait(browser, "#paid .message.bad")
    assert "The payment was not made" in text_of(browser, "#paid") and told in text_of(browser, "#paid")
    assert (len(facilitator.settles), balance_usd(pages_gateway, buyer)) == (settles, 0)
    assert browser.evaluate("!document.querySelector('#wallets button').disabled"), "it can be tried again"


def test_an_older_wallet_is_found_and_a_refused_payment_has_its_reason(
    browser: Browser, pages_gateway: Gateway, facilitator: FacilitatorDouble, buyer: Buyer
) -> None:
    show_price(browser, pages_gateway, buyer, old=True)
    assert text_of(browser, "#wallets") == "Pay with the browser's wallet on Base Sepolia"
    for script, answer in ((facilitator.on_verify, invalid()), (facilitator.on_settle, fails())):
        script(answer)
        press(browser, "#wallets button")
        sign(browser)
        wait(browser, "#paid .message.bad")
        assert "insufficient_funds" in text_of(browser, "#paid")
        assert balance_usd(pages_gateway, buyer) == 0


def test_without_a_wallet_the_page_says_what_to_do(browser: Browser, pages_gateway: Gateway, buyer: Buyer) -> None:
    sign_in(browser, pages_gateway.base_url, buyer.key)
    go(browser, "balance", "#add")
    press(browser, "#add button")
    wait(browser, "#pay-command")
    told = text_of(browser, "#wallets")
    assert "No wallet in this browser can pay this" in told and "let a program pay" in told
