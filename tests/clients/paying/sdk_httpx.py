"""x402's own Python SDK: its transport for httpx."""

from __future__ import annotations

import json
from typing import Any

import httpx
from solders.keypair import Keypair
from x402 import x402Client
from x402.http import x402HTTPClient
from x402.http.clients.httpx import x402AsyncTransport
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact.register import register_exact_svm_client

from tests.clients.paying.purchases import Purchase, as_version_1, given, report, text_of


class Older(httpx.AsyncHTTPTransport):
    """The transport of a client that knows version 1 alone."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if response.status_code != 402:
            return response
        return httpx.Response(402, json=as_version_1(json.loads(await response.aread())))


async def buy(purchase: Purchase) -> dict[str, Any]:
    payer: Any = x402Client()
    payer.set_spend_controls(given.spend_controls)
    register_exact_svm_client(payer, KeypairSigner(Keypair.from_base58_string(purchase.secret)), rpc_url=given.rpc_url)
    transport = x402AsyncTransport(payer, Older() if purchase.version == 1 else None)
    headers = {"authorization": f"Bearer {purchase.key}"}
    async with httpx.AsyncClient(transport=transport, base_url=given.origin, headers=headers, timeout=60) as http:
        if purchase.what == "top-up":
            response = await http.post("/v1/credits")
            got: dict[str, Any] = {"credits": response.json()}
        elif purchase.stream:
            async with http.stream("POST", "/v1/chat/completions", json=purchase.body) as response:
                lines = [line async for line in response.aiter_lines() if line]
            assert lines[-1] == "data: [DONE]", lines
            got = {"text": text_of([json.loads(line.removeprefix("data: ")) for line in lines[:-1]])}
        else:
            response = await http.post("/v1/chat/completions", json=purchase.body)
            got = {"text": response.json()["choices"][0]["message"]["content"]}
    settled = x402HTTPClient(payer).get_payment_settle_response(response.headers.get)
    return {
        **got,
        "status": response.status_code,
        "settled": settled.model_dump(by_alias=True, exclude_none=True),
        "headers": dict(response.headers),
    }


report(buy)
