"""``/.well-known/x402`` and ``/llms.txt``: how a program that has nothing but the address finds out the rest.

Owns the two forms. Neither shows a tenant, a plan or an upstream, and of models and prices only what is sold
without a key.
Sources: x402scan, "Discovery" (version 1: ``resources`` is a list of URLs); x402 specification v2, section 8 and the
proposal of a manifest at the origin (``items`` are those of a facilitator's list); llmstxt.org.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from trustgate.errors import NotFound
from trustgate.gateway.views.storefront import Item, OpenSale, Storefront
from trustgate.http.sending import send_body, send_error
from trustgate.ids import iso_us, now_us
from trustgate.payment.networks import v1_name_of
from trustgate.payment.x402_wire import usd

_HEAD = [(b"cache-control", b"public, max-age=60"), (b"access-control-allow-origin", b"*")]
#: So many models are named in ``/llms.txt``; the list of all is ``/v1/models``.
_NAMED = 50

_HOW_TO_PAY = (
    "Send the request without an API key. The answer is 402 with the price in the header PAYMENT-REQUIRED (x402 "
    "version 2; version 1 in the body). Sign a payment for one of the ways it lists and send the same request again "
    "with the header PAYMENT-SIGNATURE. Any x402 client does this by itself. The price covers the longest answer that "
    "the request allows, and no change is given: a smaller max_tokens makes it cheaper. A client that must be given a "
    "key can be given the word x402."
)
_AFTERWARDS = (
    "The answer names its receipt in the header x-trustgate-receipt: GET /v1/receipts/ID shows what was charged, and "
    "GET /v1/receipts/ID/proof proves that the public log has it. Send the same payment again if an answer was lost: "
    "it is charged once."
)
_ABOUT = (
    "> An OpenAI-compatible gateway to language models. Every answered request has a receipt that third parties can "
    "verify."
)


class Discovery:
    def __init__(self, storefront: Storefront) -> None:
        self._storefront = storefront

    async def well_known(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /.well-known/x402``, also with ``.json``: 404 while nothing is sold to callers without a key."""
        sale = self._storefront.sale()
        if sale is None:
            await send_error(send, NotFound("Nothing is sold here without an API key.", code="unknown_url"), _HEAD)
            return
        await send_body(send, 200, [(b"content-type", b"application/json"), *_HEAD], _encode(manifest(sale)))

    async def llms(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /llms.txt``: the same for readers of text."""
        text = llms_text(self._storefront.public_url, self._storefront.sale())
        await send_body(send, 200, [(b"content-type", b"text/plain; charset=utf-8"), *_HEAD], text.encode())


_encode = msgspec.json.Encoder().encode


def manifest(sale: OpenSale) -> dict[str, Any]:
    """Returns the document at ``/.well-known/x402``."""
    at = iso_us(now_us())
    return {
        "version": 1,
        "x402Version": 2,
        "resources": [item.url for item in sale.items],
        "items": [_item(item, at) for item in sale.items],
        "models": f"{sale.url}/v1/models",
        "openapi": f"{sale.url}/openapi.json",
        "llms": f"{sale.url}/llms.txt",
        "instructions": f"{_HOW_TO_PAY} {_AFTERWARDS}",
    }


def _item(item: Item, at: str) -> dict[str, Any]:
    """Returns one resource. ``accepts`` has the price of the example in ``extensions.bazaar``."""
    return {
        "resource": item.url,
        "type": "http",
        "method": item.endpoint.method,
        "x402Version": 2,
        "description": item.endpoint.summary,
        "mimeType": "application/json",
        "accepts": item.accepts,
        "price": item.price,
        "lastUpdated": at,
        "extensions": item.extensions,
    }


def llms_text(url: str, sale: OpenSale | None) -> str:
    """Returns the document at ``/llms.txt``. ``sale`` None: nothing is sold without a key."""
    lines = [
        "# TrustGate",
        "",
        _ABOUT,
        "",
        f"The API is OpenAI's, with the base URL {url}/v1. Anthropic's Messages API is at {url}/v1/messages.",
    ]
    if sale is None:
        lines += ["", "An API key is needed; the operator of this gateway gives it out."]
    else:
        lines += ["", "No API key is needed: requests are paid for one by one, in stablecoins, over x402."]
        lines += ["", "## How to pay", "", _HOW_TO_PAY, "", _AFTERWARDS, ""]
        lines += [f"- {_way(offer.network)}: token {offer.asset}, to {offer.pay_to}" for offer in sale.terms.offers]
        lines += ["", "## What is sold", ""]
        lines += [
            f"- [{item.endpoint.method} {item.endpoint.path}]({item.url}): {item.endpoint.summary} {_costs(item)}"
            for item in sale.items
        ]
        lines += ["", "## Models", ""]
        lines += [f"- `{model.name}`: {_rates(model.pricing)}" for model in sale.models[:_NAMED]]
        if len(sale.models) > _NAMED:
            lines.append(f"- and {len(sale.models) - _NAMED} more")
    lines += [
        "",
        "## Reference",
        "",
        f"- [OpenAPI]({url}/openapi.json): every route, with schemas",
        f"- [Models]({url}/v1/models): what can be asked, with prices",
        *([] if sale is None else [f"- [x402]({url}/.well-known/x402): what is sold, and how to pay"]),
        f"- [Log]({url}/log/checkpoint): the signed checkpoint of the receipts; keys at {url}/log/keys",
        "",
    ]
    return "\n".join(lines)


def _way(network: str) -> str:
    name = v1_name_of(network)
    return network if name is None else f"{name} ({network})"


def _costs(item: Item) -> str:
    if item.fixed_nano_usd is not None:
        return f"{usd(item.fixed_nano_usd)} USD a request."
    return f"For example {usd(item.example_nano_usd)} USD with {item.model}."


def _rates(pricing: Any) -> str:
    names = [name for name in pricing if name not in ("currency", "conditions") and pricing[name] != "0"]
    return ", ".join(f"{name} {pricing[name]} USD" for name in names) or "no charge"
