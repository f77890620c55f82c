"""A place where stock x402 clients buy: a local Solana, a token at USDC's terms, and a gateway that settles itself.

The chain runs in this process, on a thread with an event loop of its own, and poses as Solana devnet; the gateway is a
process, its facilitator the embedded one. Every buyer has a wallet, a tenant and a seller of its own, so that what one
purchase moved can be told from what others moved at the same time.

    with token_market(folder, upstream.api_url) as place:
        [buyer] = place.buyers(1, units=1_000_000)
        ... buyer.key, buyer.secret, place.rpc_url ...
        assert place.units(buyer.seller) == 1_500
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S
from tests.support.tokens import SOL, Token, Wallet
from trustgate.admin.commands import Command, TenantAdd
from trustgate.admin.log_commands import ReceiptShow
from trustgate.admin.money import OfferWanted, PaymentList, PaymentSet, TenantCredit
from trustgate.admin.remote import RemoteAdmin
from trustgate.localnet import running_localnet
from trustgate.settings import Settings
from trustgate.types import Payment

R = TypeVar("R")

#: A blockhash lives for 150 slots, and the SDK takes one that is final: half a minute for a slow machine.
_SLOT_MS = 200
_FINALITY_SLOTS = 4

#: A model whose requests cost a cent or two at most, and a part of that when the answer is short.
MODEL = "paid"
_PRICES = ("--input-price", "100", "--output-price", "1000")


class Buyer(NamedTuple):
    """A wallet with tokens, and the tenant for whose requests it pays."""

    tenant: str
    #: The tenant's key.
    key: str
    wallet: Wallet
    #: Address of who is paid.
    seller: str

    @property
    def secret(self) -> str:
        """The wallet's secret key as wallets export it: base58 of 64 bytes."""
        return str(self.wallet.keypair)


class TokenMarket:
    """Made by ``token_market``."""

    def __init__(self, gateway: Gateway, rpc_url: str, token: Token, run: _Run) -> None:
        self.gateway = gateway
        self.rpc_url = rpc_url
        self._token = token
        self._run = run
        self._admin = RemoteAdmin.over_socket(Settings(home=gateway.home).socket)
        self._buyers = 0

    @property
    def mint(self) -> str:
        return self._token.mint

    def buyers(
        self,
        count: int,
        *,
        units: int = 1_000_000,
        mode: Literal["per-request", "prepaid"] = "per-request",
        top_up_nano_usd: int | None = None,
    ) -> list[Buyer]:
        """New wallets that hold ``units`` atomic units each, and as many tenants, each of which pays a new seller."""
        buyers = []
        for wallet, seller in self._run(self._wallets(count, units)):
            self._buyers += 1
            added = self.execute(TenantAdd(name=f"buyer-{self._buyers}"))
            offer = OfferWanted(network="solana-devnet", pay_to=seller.address, asset=self.mint, facilitator="embedded")
            terms = PaymentSet(tenant=added.tenant.id, mode=mode, top_up_nano_usd=top_up_nano_usd, offers=(offer,))
            self.execute(terms)
            buyers.append(Buyer(added.tenant.name, added.secret, wallet, seller.address))
        return buyers

    def sign(self, buyer: Buyer, requirements: Mapping[str, Any]) -> dict[str, Any]:
        """The PaymentPayload (version 2) with which the SDK's client would pay."""
        return self._run(self._token.payment(buyer.wallet, requirements))

    def units(self, address: str) -> int:
        """What an address holds of the token, atomic units."""
        return self._run(self._token.units(address))

    def payments(self, buyer: Buyer) -> tuple[Payment, ...]:
        """The ledger's rows, newest first."""
        return self.execute(PaymentList(tenant=buyer.tenant))

    def receipt(self, receipt_id: str) -> dict[str, Any]:
        found = self.execute(ReceiptShow(receipt=receipt_id))
        receipt: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))["receipt"]
        return receipt

    def balance(self, buyer: Buyer) -> int:
        """What the buyer's tenant has left, nano-USD."""
        return self.execute(TenantCredit(tenant=buyer.tenant)).balance_nano_usd

    def execute(self, command: Command[R]) -> R:
        """A command of the operator's, over the admin socket."""
        return asyncio.run(self._admin.execute(command))

    async def _wallets(self, count: int, units: int) -> list[tuple[Wallet, Wallet]]:
        made = [(await self._token.wallet(units=units), await self._token.wallet()) for _ in range(count)]
        # What is not final neither the gateway's checks nor the SDKs' clients see.
        await self._token.wait_final()
        return made


class _Run:
    """Runs coroutines on the market's own event loop, from the test's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


@contextmanager
def token_market(folder: Path, upstream: str) -> Iterator[TokenMarket]:
    """An open market in front of the LLM server at ``upstream``; its gateway must not have logged a traceback."""
    with _loop() as run:
        stack = AsyncExitStack()
        try:
            net = run(stack.enter_async_context(running_localnet(slot_ms=_SLOT_MS, finality_slots=_FINALITY_SLOTS)))
            token = run(stack.enter_async_context(Token.made(net.url)))
            gateway = Gateway(
                folder / "home", upstream=upstream, environment={"TRUSTGATE_PAYMENT_SOLANA_DEVNET_RPC": net.url}
            )
            fee_payer = gateway.cli_json("payment", "keygen")["pubkey"]
            run(token.rpc.request_airdrop(fee_payer, SOL))
            gateway.start()
            try:
                gateway.cli("passport", "add", MODEL, "--base-url", upstream, *_PRICES)
                yield TokenMarket(gateway, net.url, token, run)
            finally:
                gateway.close()
        finally:
            run(stack.aclose())


@contextmanager
def _loop() -> Iterator[_Run]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="market", daemon=True)
    thread.start()
    try:
        yield _Run(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
