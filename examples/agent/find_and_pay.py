"""An agent that is given an address and a wallet, and finds out the rest: what is sold, at what price, how to pay.

    pip install openai "x402[httpx,svm]"
    python find_and_pay.py http://127.0.0.1:4010 "What is a payment channel?"

No API key, no model, no price: it reads /.well-known/x402, takes the cheapest offer of an endpoint that chats which its
wallet can pay, asks, pays what the 402 says (if that is within its limit), prints the answer and looks at the receipt.
Set AGENT_WALLET (a Solana keypair file with a little USDC in its account). SOLANA_RPC_URL and AGENT_TOKEN are optional,
as in agent.py.
"""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from typing import Any, NamedTuple

import httpx
from agent import MOST_UNITS, make_wallet
from x402.http import x402HTTPClient
from x402.http.clients.httpx import x402AsyncTransport

#: What an endpoint is called whose requests are conversations, at every provider.
CHATS = "/chat/completions"


class Choice(NamedTuple):
    """What the agent has decided to ask: where, with which body, for how much at most."""

    url: str
    body: dict[str, Any]
    units: int
    network: str


async def find(http: httpx.AsyncClient, origin: str) -> tuple[Choice, str]:
    """Returns the cheapest offer, and where the models are listed. Ends the program where nothing suits."""
    answer = await http.get(f"{origin}/.well-known/x402")
    if answer.status_code != 200:
        sys.exit(f"{origin} sells nothing to strangers ({answer.status_code}).")
    manifest = answer.json()
    choices = [
        Choice(
            item["resource"], item["extensions"]["bazaar"]["info"]["input"]["body"], int(way["amount"]), way["network"]
        )
        for item in manifest["items"]
        if item["resource"].endswith(CHATS)
        for way in item["accepts"]
        # The wallet is a Solana wallet.
        if way["scheme"] == "exact" and way["network"].startswith("solana:") and int(way["amount"]) <= int(MOST_UNITS)
    ]
    if not choices:
        sys.exit(f"Nothing that {origin} sells suits this wallet and its limit.")
    return min(choices, key=lambda choice: choice.units), manifest["models"]


async def main(origin: str, question: str) -> None:
    wallet = make_wallet()
    async with httpx.AsyncClient(transport=x402AsyncTransport(wallet), timeout=120) as http:
        choice, models = await find(http, origin)
        price = Decimal(choice.units) / 1_000_000
        listed = len((await http.get(models)).json()["data"])
        model = choice.body["model"]
        print(f"found {model} (of {listed}) at {choice.url} for about {price} USD on {choice.network}", file=sys.stderr)
        body = {**choice.body, "messages": [{"role": "user", "content": question}]}
        answer = await http.post(choice.url, json=body)
        answer.raise_for_status()
        print(answer.json()["choices"][0]["message"]["content"])
        paid = x402HTTPClient(wallet).get_payment_settle_response(answer.headers.get)
        print(f"paid {Decimal(paid.amount or 0) / 1_000_000} USD in transaction {paid.transaction}", file=sys.stderr)
        # The receipt says the same, and the gateway's public log has it.
        shown = await http.get(f"{origin}/v1/receipts/{answer.headers['x-trustgate-receipt']}")
        receipt = shown.raise_for_status().json()["receipt"]
        assert receipt["payment_transaction"] == paid.transaction
        charged = Decimal(receipt["charged_nano_usd"]) / 10**9
        print(f"receipt {receipt['id']} says {charged.normalize():f} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].rstrip("/"), " ".join(sys.argv[2:]) or "Hello!"))
