"""Receipts of balance changes without a request: credits and refunds.

Owns their form: endpoint ``credits``, finish ``credited``, version 2; a receipt like any other in the log and in its
tenant's chain. They are written where a payment settled and its request was not served, and where the operator adds to
a balance or takes from it.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from trustgate.ids import new_id, now_us
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import commitment
from trustgate.types import Entry, Payment, Receipt

ENDPOINT = "credits"
_EMPTY = hashlib.sha256(b"").digest()


def payment_members(payment: Payment | None) -> dict[str, Any]:
    """Returns the members of a receipt that tell of its payment."""
    if payment is None:
        members = ("payment", "payment_network", "payment_transaction", "payment_asset", "payment_amount")
        return dict.fromkeys((*members, "payment_payer"), "")
    return {
        "payment": payment.id,
        "payment_network": payment.offer.network,
        "payment_transaction": payment.transaction,
        "payment_asset": payment.offer.asset,
        "payment_amount": payment.amount,
        "payment_payer": payment.payer,
    }


def append_credit(
    log: Log,
    tenant_id: str,
    *,
    key_id: str = "",
    credited_nano_usd: int = 0,
    charged_nano_usd: int = 0,
    payment: Payment | None = None,
    minted: tuple[str, int] | None = None,
    about: bytes = b"",
) -> Entry:
    """Write the receipt. When this returns it survives the process; the balance is the caller's to change with it.

    Args:
        minted: The receipt's id and time, microseconds UTC, where they were kept before; the id begins with the time.
        about: What the receipt commits to in place of a request.
    """
    if minted is None:
        at_us = now_us()
        receipt_id = new_id("rcpt", at_us)
    else:
        receipt_id, at_us = minted
    secret = os.urandom(32)
    tseq, tprev = log.link(tenant_id)
    receipt = Receipt(
        v=2,
        id=receipt_id,
        created_us=at_us,
        tenant=tenant_id,
        key=key_id,
        tseq=tseq,
        tprev=tprev,
        endpoint=ENDPOINT,
        model="",
        passport="",
        upstream_model="",
        request_commitment=commitment(secret, "request", hashlib.sha256(about).digest()),
        response_commitment=commitment(secret, "response", _EMPTY),
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        reasoning_tokens=0,
        usage_source="provider",
        cost_nano_usd=0,
        price_hash=_EMPTY.hex(),
        policy_hash=_EMPTY.hex(),
        latency_first_ms=0,
        latency_total_ms=0,
        status=200,
        finish="credited",
        stream=False,
        charged_nano_usd=charged_nano_usd,
        credited_nano_usd=credited_nano_usd,
        **payment_members(payment),
    )
    return log.append(receipt, secret)
