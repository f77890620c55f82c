"""An agent that pays for what it asks: openai's client, with x402 beneath it.

    pip install openai "x402[httpx,svm]"
    python agent.py "What is a payment channel?" "And in one word?"

Set OPENAI_BASE_URL (the gateway's address with /v1), OPENAI_API_KEY (a key of it) and AGENT_WALLET (a Solana keypair
file with a little USDC in its account; SOL it needs none). MODEL, SOLANA_RPC_URL and AGENT_TOKEN are optional.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from decimal import Decimal
from pathlib import Path

import httpx
from openai import AsyncOpenAI
from solders.keypair import Keypair
from x402 import x402Client
from x402.http import x402HTTPClient
from x402.http.clients.httpx import x402AsyncTransport
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact.register import register_exact_svm_client

#: The most that one request may cost. The gateway asks for its worst case; what is not used stays as credit there.
MOST_USD = "$0.05"
#: The same in units of a token with six decimals, as USDC has them.
MOST_UNITS = "50000"
DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"


def make_wallet() -> x402Client:
    """What signs payments. It never sends anything itself: the seller's facilitator does, and pays the fee."""
    keypair = Keypair.from_bytes(bytes(json.loads(Path(os.environ["AGENT_WALLET"]).read_text())))
    wallet = x402Client()
    register_exact_svm_client(wallet, KeypairSigner(keypair), rpc_url=os.environ.get("SOLANA_RPC_URL"))
    # USDC may be spent anyway. Another token has to be named: on a local chain there is no USDC.
    token = os.environ.get("AGENT_TOKEN")
    also = [{"network": DEVNET, "asset": token, "max_amount_per_payment": MOST_UNITS}] if token else []
    wallet.set_spend_controls({"max_amount_per_payment": MOST_USD, "allowed_assets": also})
    return wallet


async def main(questions: list[str]) -> None:
    wallet = make_wallet()
    # The transport does it all: it meets the 402, has the wallet sign what is asked for, and asks again.
    transport = x402AsyncTransport(wallet)
    # A retry of openai's would pay anew. What failed without being answered was not charged, or is credit.
    client = AsyncOpenAI(http_client=httpx.AsyncClient(transport=transport, timeout=120), max_retries=0)
    receipts = x402HTTPClient(wallet)
    async with client:
        conversation: list[dict[str, str]] = []
        for question in questions:
            conversation.append({"role": "user", "content": question})
            stream = await client.chat.completions.create(
                model=os.environ.get("MODEL", "trustgate/echo"), messages=conversation, max_tokens=500, stream=True
            )
            answer = ""
            async for chunk in stream:
                piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
                answer += piece
                print(piece, end="", flush=True)
            print()
            conversation.append({"role": "assistant", "content": answer})
            headers = stream.response.headers
            if "payment-response" in headers:
                paid = receipts.get_payment_settle_response(headers.get)
                usd = Decimal(paid.amount or 0) / 1_000_000
                print(f"paid {usd} USD in transaction {paid.transaction}", file=sys.stderr)
            else:
                print("paid from the credit of earlier payments", file=sys.stderr)
            print(f"receipt {headers['x-trustgate-receipt']}", file=sys.stderr)
        credit = await client.get("/credits", cast_to=object)
        print(f"credit left: {credit['balance_usd']} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["Hello!"]))
