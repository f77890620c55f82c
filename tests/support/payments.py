"""Rows of the ledger as facilitators and chains get them, made from payloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trustgate.ids import new_id, now_us
from trustgate.payment.networks import caip2_of, v1_name_of
from trustgate.payment.payment_key import payment_key
from trustgate.types import Offer, Payment

#: Addresses of an EVM chain whose keys do not exist.
PAYER = "0x857b06519E91e3A54538791bDbb0E22373e36b66"
SHOP = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
BASE_USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


def payment_of(
    payload: Mapping[str, Any],
    requirements: Mapping[str, Any],
    *,
    facilitator: str = "embedded",
    decimals: int = 6,
    version: int = 2,
    **members: Any,
) -> Payment:
    """The payment that a client makes with this PaymentPayload (version 2) for these PaymentRequirements (version 2).

    With ``version`` 1 both are written as that has them.
    """
    network, scheme, asset = requirements["network"], requirements["scheme"], requirements["asset"]
    inner = payload["payload"]
    if version == 1:
        name = v1_name_of(network)
        payload = {"x402Version": 1, "scheme": scheme, "network": name, "payload": inner}
        requirements = {
            **{key: value for key, value in requirements.items() if key != "amount"},
            "network": name,
            "maxAmountRequired": requirements["amount"],
            "resource": "https://gateway.example/v1/chat/completions",
        }
    offer = Offer(
        network=caip2_of(network),
        asset=asset,
        decimals=decimals,
        pay_to=requirements["payTo"],
        facilitator=facilitator,
        extra=dict(requirements.get("extra", {})),
    )
    amount = str(requirements.get("amount", requirements.get("maxAmountRequired")))
    now = now_us()
    return Payment(
        **{
            "id": new_id("payment", now),
            "key": payment_key(version, scheme, offer.network, asset, inner),
            "tenant_id": "tenant_1",
            "key_id": "key_1",
            "receipt_id": "receipt_1",
            "request_sha256": "0" * 64,
            "x402_version": version,
            "offer": offer,
            "amount": amount,
            "value_nano_usd": int(amount) * 1_000,
            "payload": json.dumps(payload).encode(),
            "requirements": json.dumps(dict(requirements)).encode(),
            "created_us": now,
            "updated_us": now,
            **members,
        }
    )


def evm_requirements(units: int = 10_000, **members: Any) -> dict[str, Any]:
    """PaymentRequirements for USDC on Base."""
    return {
        "scheme": "exact",
        "network": "eip155:8453",
        "asset": BASE_USDC,
        "amount": str(units),
        "payTo": SHOP,
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USD Coin", "version": "2"},
        **members,
    }


def evm_payload(
    requirements: Mapping[str, Any], *, nonce: int = 1, valid_before_s: int = 2_000_000_000
) -> dict[str, Any]:
    """A PaymentPayload with an EIP-3009 authorization, as if signed."""
    authorization = {
        "from": PAYER,
        "to": requirements["payTo"],
        "value": requirements["amount"],
        "validAfter": "0",
        "validBefore": str(valid_before_s),
        "nonce": f"0x{nonce:064x}",
    }
    inner = {"signature": "0x" + "ab" * 65, "authorization": authorization}
    return {"x402Version": 2, "payload": inner, "accepted": dict(requirements)}
