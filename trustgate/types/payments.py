"""How tenants pay, and what they have paid: offers, terms, payments, credits that operators gave."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trustgate.types.units import NANO_USD_PER_USD


class Offer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One way to pay: an x402 network, an asset on it, the address that receives, and who settles there."""

    #: CAIP-2, such as ``solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1`` or ``eip155:8453``.
    network: str
    #: Mint (Solana) or contract (EVM) of a token that is worth one USD a unit, with so many decimals.
    asset: str
    decimals: int
    pay_to: str
    #: ``embedded``, or the base URL of a remote facilitator.
    facilitator: str
    scheme: Literal["exact"] = "exact"
    #: The scheme's further data for clients: ``feePayer`` (Solana), ``name`` and ``version`` (EVM), ``paymentFlow``.
    extra: dict[str, Any] = {}

    @property
    def flow(self) -> PaymentFlow:
        return "upfront" if self.extra.get("paymentFlow") == "upfront" else "authorization"


#: When a payment is settled, in x402's words (``paymentFlow``). ``authorization``: once there is an answer.
#: ``upfront``: before the upstream is asked; where that fails, the payment is credited.
PaymentFlow = Literal["authorization", "upfront"]
PaymentMode = Literal["off", "per-request", "prepaid"]


class PaymentTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="payment_terms"):
    """How a tenant pays. One record a tenant; a tenant without one owes nothing.

    In both modes a request draws on the tenant's balance where that covers its worst case. Where it does not,
    ``per-request`` asks for that worst case, ``prepaid`` for ``top_up_nano_usd`` (or the worst case, if that is more);
    what a payment brings beyond the request's cost stays on the balance.
    """

    tenant_id: str
    mode: PaymentMode
    #: What every request costs; None: what its passport's prices say.
    price_nano_usd: int | None = None
    top_up_nano_usd: int = NANO_USD_PER_USD
    #: At most one for each network, in the order in which they are offered.
    offers: tuple[Offer, ...] = ()
    #: How the tenant gets more credit, for people: an address of mail or of a page. "": what the settings say.
    contact: str = ""
    created_us: int = 0
    #: The key whose limits and scope hold for callers without a key, who pay for each request; "": there are none.
    keyless_key_id: str = ""


class CreditNote(msgspec.Struct, frozen=True, kw_only=True, tag="credit_note"):
    """A credit or refund of the operator's that counts once: kept before its receipt is written, and found by its
    reference.
    """

    id: str
    tenant_id: str
    #: The operator's own name for it, one a tenant; "" for none.
    reference: str
    #: The id of the credit's receipt, minted before there is one.
    receipt_id: str
    #: Below zero: taken from the balance, to be paid back.
    credited_nano_usd: int
    #: The places in the log of the receipts whose price it corrects; none of them is corrected again.
    corrects: tuple[int, ...] = ()
    created_us: int


#: ``reserved``: claimed for one request, nothing was asked of the facilitator but to verify. ``settling``: it was told
#: to settle. ``settled``: the money moved. ``delivered``: a receipt of the request that it paid for exists.
#: ``credited``: the money moved, the request was not served: the receipt of the credit exists. ``unknown``: it is
#: not known yet whether the money moved. ``failed``: it did not, and never will with this payment.
PaymentState = Literal["reserved", "settling", "settled", "delivered", "credited", "unknown", "failed"]

#: The states in which the money has moved.
PAID: frozenset[str] = frozenset({"settled", "delivered", "credited"})
#: The states from which a payment goes on by itself.
OPEN: frozenset[str] = frozenset({"reserved", "settling", "settled", "unknown"})


#: How the reason of a credited payment begins whose credit has paid for the request that it was presented with again.
SPENT_ON = "its credit paid for "


class Payment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="payment"):
    """One x402 payment, from its claim to its end: a row of the ledger, written before the act it describes."""

    id: str
    #: What makes it the same payment, however it is encoded: 64 hexadecimal digits (payment.x402_wire).
    key: str
    tenant_id: str
    key_id: str
    #: The id of the request's receipt, minted before there is one.
    receipt_id: str
    #: SHA-256 (hex) of what it pays for: endpoint and body.
    request_sha256: str
    #: The client's payment-identifier (x402 extension); "" without one. Unique for a tenant.
    identifier: str = ""
    x402_version: Literal[1, 2]
    offer: Offer
    #: Atomic units of the asset, decimal digits, and what they are worth.
    amount: str
    value_nano_usd: int
    #: The client's PaymentPayload and the PaymentRequirements it is held against, JSON as the facilitator takes them.
    payload: bytes
    requirements: bytes
    state: PaymentState = "reserved"
    #: As the scheme writes it (base58 signature, 0x hash); known before it is sent where the gateway itself sends it.
    transaction: str = ""
    payer: str = ""
    #: Why it failed or is unknown, for people. Of one that was credited: the request that its credit paid for.
    reason: str = ""
    created_us: int
    updated_us: int
    #: The process, of several on one database, whose request has it; "": there was one process.
    node: str = ""

    @property
    def spent_on(self) -> str:
        """The receipt of the request that a credited payment's own credit has paid for; "" while there is none."""
        is_spent = self.state == "credited" and self.reason.startswith(SPENT_ON)
        return self.reason.removeprefix(SPENT_ON) if is_spent else ""
