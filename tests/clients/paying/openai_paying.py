"""x402-openai: openai's clients that pay.

Version 0.3 calls the x402 SDK without the URL that was asked for, which the SDK has wanted since 2.20: ``_Fitted`` and
``_FittedAsync`` fill it in. It can be told no RPC node and no token of its own, so that the SDK's client is made here.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
from solders.keypair import Keypair
from x402 import x402Client, x402ClientSync
from x402.http import x402HTTPClient, x402HTTPClientSync
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact.register import register_exact_svm_client
from x402_openai import AsyncX402OpenAI, X402OpenAI
from x402_openai._transport import X402Transport

from tests.clients.paying.purchases import MESSAGES, Purchase, as_version_1, given, report


class _Fitted(x402HTTPClientSync):
    def handle_402_response(self, headers: Any, body: Any, request_url: str = "") -> Any:
        return super().handle_402_response(headers, body, request_url)


class _FittedAsync(x402HTTPClient):
    async def handle_402_response(self, headers: Any, body: Any, request_url: str = "") -> Any:
        return await super().handle_402_response(headers, body, request_url)


class Older(httpx.HTTPTransport):
    """The transport of a client that knows version 1 alone."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if response.status_code != 402:
            return response
        return httpx.Response(402, json=as_version_1(json.loads(response.read())))


def wallet(payer: Any, purchase: Purchase) -> Any:
    payer.set_spend_controls(given.spend_controls)
    signer = KeypairSigner(Keypair.from_base58_string(purchase.secret))
    return register_exact_svm_client(payer, signer, rpc_url=given.rpc_url)


async def buy(purchase: Purchase) -> dict[str, Any]:
    return await buy_async(purchase) if "async" in purchase.name else buy_sync(purchase)


def buy_sync(purchase: Purchase) -> dict[str, Any]:
    payer = _Fitted(wallet(x402ClientSync(), purchase))
    client: Any
    if purchase.version == 1:
        http: Any = httpx.Client(transport=X402Transport(payer, inner=Older()), timeout=60)
        client = openai.OpenAI(base_url=f"{given.origin}/v1", api_key=purchase.key, http_client=http)
    else:
        client = X402OpenAI(x402_client=payer, base_url=f"{given.origin}/v1", api_key=purchase.key)
    with client:
        raw: Any = client.chat.completions.with_raw_response.create(
            model=given.model, messages=MESSAGES, max_tokens=16, stream=purchase.stream
        )
        parsed = raw.parse()
        chunks = [chunk for chunk in parsed if chunk.choices] if purchase.stream else []
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return got(payer, raw, text if purchase.stream else parsed.choices[0].message.content)


async def buy_async(purchase: Purchase) -> dict[str, Any]:
    payer = _FittedAsync(wallet(x402Client(), purchase))
    client: Any = AsyncX402OpenAI(x402_client=payer, base_url=f"{given.origin}/v1", api_key=purchase.key)
    async with client:
        raw: Any = await client.chat.completions.with_raw_response.create(
            model=given.model, messages=MESSAGES, max_tokens=16, stream=purchase.stream
        )
        parsed = raw.parse()
        chunks = [chunk async for chunk in parsed if chunk.choices] if purchase.stream else []
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return got(payer, raw, text if purchase.stream else parsed.choices[0].message.content)


def got(payer: Any, raw: Any, text: str) -> dict[str, Any]:
    settled = payer.get_payment_settle_response(raw.headers.get)
    return {
        "text": text,
        "status": raw.status_code,
        "settled": settled.model_dump(by_alias=True, exclude_none=True),
        "headers": dict(raw.headers),
    }


report(buy)
