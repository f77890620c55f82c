"""A gateway whose tenants pay, over real sockets: a scripted facilitator settles, a scripted EVM node remembers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx

from tests.support.evmnode import EvmNode
from tests.support.facilitator import FacilitatorDouble
from tests.support.gateway import Gateway
from tests.support.payments import SHOP, evm_payload
from tests.support.processes import PATIENCE_S, POLL_S
from tests.support.upstream import Upstream
from trustgate.admin.commands import Command, TenantAdd
from trustgate.admin.money import BooksAudit, OfferWanted, PaymentList, PaymentReconcile, PaymentSet
from trustgate.admin.remote import RemoteAdmin
from trustgate.types import Payment

R = TypeVar("R")

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
#: What a request costs, and that in atomic units of USDC.
PRICE_NANO_USD = 10_000_000
PRICE_UNITS = 10_000

_numbers = itertools.count(1)


class Market:
    """The gateway, with its upstream, its facilitator and the chain. Its admin is asked over the socket."""

    def __init__(self, gateway: Gateway, upstream: Upstream, facilitator: FacilitatorDouble, node: EvmNode) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.facilitator = facilitator
        self.node = node
        facilitator.mover = self._move
        self._customers: list[Customer] = []

    def _move(self, payload: dict[str, Any]) -> str:
        authorization = payload["payload"]["authorization"]
        return self.node.pay(int(authorization["nonce"], 16), int(authorization["value"]), to=authorization["to"])

    def admin(self, command: Command[R]) -> R:
        async def ask() -> R:
            return await RemoteAdmin.over_socket(self.gateway.home / "admin.sock").execute(command)

        return asyncio.run(ask())

    def customer(self, **terms: Any) -> Customer:
        self._customers.append(Customer(self, **terms))
        return self._customers[-1]

    def close(self) -> None:
        for customer in self._customers:
            customer.http.close()

    def payments(self, customer: Customer) -> list[Payment]:
        payments: tuple[Payment, ...] = self.admin(PaymentList(tenant=customer.name))
        return list(payments)

    def reconcile(self) -> None:
        """Have the gateway look at everything that is open, to the end."""
        name = f"reconcile-{next(_numbers)}"
        deadline = time.monotonic() + PATIENCE_S
        while self.admin(PaymentReconcile(reconcile=name)).payments is None:
            assert time.monotonic() < deadline
            time.sleep(POLL_S)

    def audit(self) -> Any:
        """What ``doctor --books`` finds."""
        name = f"audit-{next(_numbers)}"
        deadline = time.monotonic() + PATIENCE_S
        while (report := self.admin(BooksAudit(audit=name)).report) is None:
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        return report


class Customer:
    """A paying tenant with a key, a wallet on the EVM chain, and an HTTP client."""

    def __init__(
        self,
        market: Market,
        *,
        mode: Any = "per-request",
        price_nano_usd: int | None = PRICE_NANO_USD,
        top_up_nano_usd: int | None = None,
    ) -> None:
        self.market = market
        self.name = f"customer-{next(_numbers)}"
        added = market.admin(TenantAdd(name=self.name))
        wanted = OfferWanted(network="base", pay_to=SHOP, asset="usdc", facilitator=market.facilitator.url)
        market.admin(
            PaymentSet(
                tenant=self.name,
                mode=mode,
                price_nano_usd=price_nano_usd,
                by_passport=price_nano_usd is None,
                top_up_nano_usd=top_up_nano_usd,
                offers=(wanted,),
            )
        )
        self.http = httpx.Client(
            base_url=market.gateway.base_url,
            headers={"authorization": f"Bearer {added.secret}"},
            timeout=30.0,
            trust_env=False,
        )

    def chat(self, paying: dict[str, str] | None = None, **members: Any) -> httpx.Response:
        body = {"model": "gpt-4o", "messages": HELLO, **members}
        return self.http.post("/v1/chat/completions", json=body, headers=paying)

    def stream(self, paying: dict[str, str] | None = None, **members: Any) -> Any:
        body = {"model": "gpt-4o", "messages": HELLO, "stream": True, **members}
        return self.http.stream("POST", "/v1/chat/completions", json=body, headers=paying)

    def pay(self, challenge: httpx.Response, *, version: int = 2, **changes: Any) -> dict[str, str]:
        """Sign a payment for a 402, as a client does; gives the header to send it with.

        ``changes``: ``nonce``, ``valid_before_s``, ``identifier``, ``accepted`` (members to alter).
        """
        required = json.loads(base64.b64decode(challenge.headers["payment-required"]))
        [accepted] = required["accepts"]
        accepted = {**accepted, **changes.get("accepted", {})}
        valid_before_s = changes.get("valid_before_s") or self.market.node.now_s + 1_000
        payload = evm_payload(accepted, nonce=changes.get("nonce") or next(_nonces), valid_before_s=valid_before_s)
        if version == 1:
            inner = {"x402Version": 1, "scheme": "exact", "network": "base", "payload": payload["payload"]}
            return {"x-payment": _base64(inner)}
        if "identifier" in changes:
            payload["extensions"] = {"payment-identifier": {"info": {"required": False, "id": changes["identifier"]}}}
        return {"payment-signature": _base64(payload)}

    def balance(self) -> int:
        balance: int = self.http.get("/v1/credits").json()["balance_nano_usd"]
        return balance

    def receipts(self) -> list[dict[str, Any]]:
        """This tenant's receipts, oldest first."""
        listed = self.http.get("/v1/receipts", params={"order": "asc", "limit": 100}).json()["data"]
        return [card["receipt"] for card in listed]


_nonces = itertools.count(1_000)


def _base64(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@contextlib.contextmanager
def market_surroundings() -> Iterator[tuple[Upstream, FacilitatorDouble, EvmNode]]:
    """What a gateway that sells needs around it: an upstream, a facilitator, a chain."""
    with contextlib.ExitStack() as stack:
        upstream, chain = Upstream().start(), Upstream().start()
        stack.callback(upstream.stop)
        stack.callback(chain.stop)
        yield upstream, stack.enter_context(FacilitatorDouble()), EvmNode(chain)


def market_environment(node: EvmNode) -> dict[str, str]:
    return {
        "TRUSTGATE_UPSTREAM_RETRIES": "0",
        "TRUSTGATE_PAYMENT_BASE_RPC": node.url,
        "TRUSTGATE_PAYMENT_SETTLE_TIMEOUT_S": "2",
        "TRUSTGATE_PAYMENT_VERIFY_TIMEOUT_S": "2",
        # Looked up when a test says so.
        "TRUSTGATE_PAYMENT_RECONCILE_EVERY_S": "3600",
    }
