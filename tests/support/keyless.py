"""A tenant that sells to callers without a key, and such a caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from tests.conftest import GatewayFactory
from tests.support.paying import HELLO, Customer, Market, market_environment, market_surroundings


@contextlib.contextmanager
def open_market(make_gateway: GatewayFactory, **environment: str) -> Iterator[Market]:
    """A gateway, its upstream, a facilitator and a chain."""
    with market_surroundings() as (upstream, facilitator, node), contextlib.ExitStack() as stack:
        variables = market_environment(node) | environment
        gateway = make_gateway(upstream=upstream.api_url, environment=variables).start()
        market = Market(gateway, upstream, facilitator, node)
        stack.callback(market.close)
        yield market


class Shop:
    """A tenant that sells to anybody, and a client without a key."""

    def __init__(self, market: Market, **terms: Any) -> None:
        self.market = market
        self.owner: Customer = market.customer(**terms)
        self.opened = market.gateway.cli_json("payment", "open", self.owner.name)
        self.http = httpx.Client(base_url=market.gateway.base_url, timeout=30.0, trust_env=False)

    def chat(self, paying: dict[str, str] | None = None, **members: Any) -> httpx.Response:
        body = {"model": "gpt-4o", "messages": HELLO, **members}
        return self.http.post("/v1/chat/completions", json=body, headers=paying)

    def buy(self, **members: Any) -> httpx.Response:
        return self.chat(self.owner.pay(self.chat(**members)), **members)

    def close(self) -> None:
        self.http.close()
        self.market.gateway.cli("payment", "close", self.owner.name)
