"""What every paying client's program is given, and how it reports. Used in several environments.

A program reads one JSON object from stdin: what ``Given`` has. It makes each purchase with the wallet and the key that
come with it, and prints one JSON object: the purchase's name → what it got, or ``{"error": …}``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MESSAGES = [{"role": "user", "content": "Hello, who are you?"}]


@dataclass(frozen=True)
class Purchase:
    name: str
    #: ``chat`` or ``top-up``.
    what: str
    #: Of x402. A client that knows version 1 alone does not see the header that version 2 brought.
    version: int
    stream: bool
    #: The tenant's key, and the wallet's secret in base58.
    key: str
    secret: str

    @property
    def body(self) -> dict[str, Any]:
        return {"model": given.model, "messages": MESSAGES, "max_tokens": 16, "stream": self.stream}


@dataclass(frozen=True)
class Given:
    #: The gateway's address, without a path.
    origin: str
    rpc_url: str
    mint: str
    model: str
    purchases: list[dict[str, Any]]

    @property
    def spend_controls(self) -> dict[str, Any]:
        """What lets the SDK's clients spend a token that is not USDC: it is a local one."""
        networks = ("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana-devnet")
        return {"allowed_assets": [{"network": network, "asset": self.mint} for network in networks]}


given = Given(**json.load(sys.stdin))


def report(buy: Callable[[Purchase], Any]) -> None:
    """Make the purchases, one after the other, and tell what came of them."""
    print(json.dumps(asyncio.run(_all(buy))))


async def _all(buy: Callable[[Purchase], Any]) -> dict[str, Any]:
    found = {}
    for purchase in (Purchase(**members) for members in given.purchases):
        try:
            got = buy(purchase)
            found[purchase.name] = await got if inspect.isawaitable(got) else got
        except Exception:  # noqa: BLE001 - the test tells it
            found[purchase.name] = {"error": traceback.format_exc()[-4000:]}
    return found


def as_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """A challenge's body as the Python SDK's model of version 1 takes it.

    The SDK pays by version 2 wherever its header is, so that version 1 is spoken only by who hides the header. Its
    model then wants text for ``error``, where OpenAI's clients want an object; the gateway sends OpenAI's.
    """
    return {**body, "error": body["error"]["code"]}


def text_of(chunks: list[dict[str, Any]]) -> str:
    """What the chunks of a streamed chat completion say."""
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
