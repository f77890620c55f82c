"""Three gateways that serve one Postgres, and what they ask and sell: an upstream, a facilitator, a chain."""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.side_by_side import SideBySide
from tests.support.paying import Market, market_environment, market_surroundings

#: The secret of a bank's script (Standard Webhooks), which reports payments to any gateway.
BANK = "whsec_" + base64.b64encode(b"the bank script's own secret").decode()

_ECHO = (
    *("passport", "add", "echo", "--base-url", "builtin:echo", "--api-model-id", "trustgate/echo"),
    *("--input-price", "1", "--output-price", "2"),
)


class Town(SideBySide):
    """Three gateways with their upstream, facilitator and chain."""

    market: Market

    def request(self, gateway: int, method: str, path: str, key: str, **more: Any) -> httpx.Response:
        """Ask one of the gateways; ``path`` begins behind ``/v1``."""
        url = f"http://127.0.0.1:{self.neighbours[gateway].port}/v1{path}"
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        return httpx.request(method, url, headers=headers, timeout=30.0, trust_env=False, **more)

    def receipts(self, key: str) -> list[dict[str, Any]]:
        """A tenant's receipts, oldest first."""
        listed = self.request(1, "GET", "/receipts", key, params={"order": "asc", "limit": 100}).json()["data"]
        return [card["receipt"] for card in listed]


@contextlib.contextmanager
def town(folder: Path, url: str) -> Iterator[Town]:
    """Build them, for the block."""
    with market_surroundings() as (upstream, facilitator, node), contextlib.ExitStack() as stack:
        environment = {
            **market_environment(node),
            "TRUSTGATE_UPSTREAM_BACKGROUND_INTERVAL_S": "0.1",
            "TRUSTGATE_CREDIT_WEBHOOK_SECRET_ENV": "BANK",
            "BANK": BANK,
        }
        built = Town(folder, url, 3, upstream.api_url, environment)
        stack.callback(built.close)
        built.gateway.cli(*_ECHO)
        built.market = Market(built.gateway, upstream, facilitator, node)
        stack.callback(built.market.close)
        yield built


def name() -> str:
    """A name for a tenant."""
    return f"t-{uuid.uuid4().hex[:8]}"
