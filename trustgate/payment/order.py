"""What one request would have to pay for, and the row of the ledger that a presented payment makes of it."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.errors import Unavailable
from trustgate.ids import new_id, now_us
from trustgate.payment import x402_wire
from trustgate.payment.payment_key import payment_key
from trustgate.payment.x402_wire import Presented
from trustgate.types import Offer, Payment, PaymentTerms

#: What distinguishes requests: the tenant, and SHA-256 (hex) of what is asked.
Request = tuple[str, str]

_PENDING_RETRY_S = 5


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What one request would have to pay for."""

    tenant_id: str
    key_id: str
    terms: PaymentTerms
    receipt_id: str
    #: SHA-256 (hex) of what is paid for: endpoint and body.
    request_sha256: str
    #: Path of the endpoint, and what it does, for the challenge.
    path: str
    description: str
    #: The worst case.
    price_nano_usd: int
    presented: Presented | None
    #: What its kept answer is encrypted with; b"": the answer is kept in memory alone.
    answer_key: bytes = b""
    #: It buys nothing but balance, so the balance is not drawn on.
    tops_up: bool = False
    #: The endpoint is one that costs something. One whose price is 0 is refused while the balance is below zero.
    is_sold: bool = True
    #: Its caller has no key: it is paid for by itself, and neither draws on the tenant's balance nor adds to it.
    is_keyless: bool = False
    #: Further extensions (x402 version 2) of the challenge, by name.
    extensions: dict[str, Any] = {}

    @property
    def request(self) -> Request:
        return self.tenant_id, self.request_sha256


def request_of(payment: Payment) -> Request:
    return payment.tenant_id, payment.request_sha256


def claim_of(order: Order, presented: Presented, offer: Offer, amount: int, public_url: str) -> Payment:
    at_us = now_us()
    ours = (
        x402_wire.requirements(offer, amount)
        if presented.x402_version == 2
        else x402_wire.requirements_v1(offer, amount, public_url + order.path, order.description)
    )
    return Payment(
        id=new_id("pay", at_us),
        key=payment_key(presented.x402_version, offer.scheme, offer.network, offer.asset, presented.payload),
        tenant_id=order.tenant_id,
        key_id=order.key_id,
        receipt_id=order.receipt_id,
        request_sha256=order.request_sha256,
        identifier="" if order.is_keyless else presented.identifier,
        x402_version=presented.x402_version,
        offer=offer,
        amount=str(amount),
        value_nano_usd=x402_wire.worth_nano_usd(amount, offer),
        payload=presented.raw,
        requirements=msgspec.json.encode(ours),
        created_us=at_us,
        updated_us=at_us,
    )


def pending(payment: Payment) -> Unavailable:
    transaction = f"transaction {payment.transaction} on {payment.offer.network}" if payment.transaction else ""
    return Unavailable(
        f"Payment {payment.id} for this request{' (' + transaction + ')' if transaction else ''} is being looked up: "
        "whether it went through is not known yet. Do not pay again; try again with the same payment. "
        f"See how it stands: GET /v1/payments/{payment.id}",
        code="payment_pending",
        headers={"retry-after": str(_PENDING_RETRY_S)},
        retryable=True,
    )
