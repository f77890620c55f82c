"""What a shop or a bank's script reports: signed events, the credit that each is worth, and disputes.

Owns the two forms of signature and of events, the window in which a message counts, and the reference by which a credit
counts once. Sources: Stripe documentation, "Verify webhook signatures manually", "The Checkout Session object" and
"The Dispute object"; Standard Webhooks specification 1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from trustgate.errors import AuthenticationFailed, InvalidRequest
from trustgate.types import NANO_USD_PER_USD

Form = Literal["stripe", "standard"]

#: A message counts for so long after (and before) the time that is signed with it, seconds.
WINDOW_S: Final = 300
_NANO_USD_PER_CENT: Final = NANO_USD_PER_USD // 100
_MOST_CENTS: Final = 100_000_000
_SIGNATURES_MOST: Final = 16
#: Events that say that a checkout is paid; the second of one whose payment took days.
_PAID_EVENTS: Final = frozenset({"checkout.session.completed", "checkout.session.async_payment_succeeded"})
_CREDIT_EVENT: Final = "credit"
#: Whether the dispute is over, by the event's type: Stripe's, and ours.
_STRIPE_DISPUTES: Final = {"charge.dispute.created": False, "charge.dispute.closed": True}
_DISPUTES: Final = {"dispute": False, "dispute.closed": True}
_NAME_MOST: Final = 100


class ShopCredit(NamedTuple):
    """A credit that was reported. ``reference``: the same for every message about the same payment."""

    tenant: str
    nano_usd: int
    reference: str


class ShopDispute(NamedTuple):
    """A payment that its buyer disputes, or no longer does. Nothing is booked: what it was credited to may be used up.

    Attributes:
        id: The same for every message about it.
        payment: What the shop calls the payment; "" where that is not told.
        tenant: Whose credit it was; "" where that is not told.
        is_over: Whether it has been decided or withdrawn.
    """

    id: str
    payment: str
    tenant: str
    cents: int
    currency: str
    is_over: bool


class _Details(msgspec.Struct):
    amount_tax: Annotated[int, Meta(ge=0)] | None = None


class _Session(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    amount_total: int | None = None
    currency: str | None = None
    payment_status: str = ""
    client_reference_id: str | None = None
    metadata: dict[str, str] | None = None
    total_details: _Details | None = None


class _StripeData(msgspec.Struct):
    object: msgspec.Raw = msgspec.Raw(b"null")


class _StripeEvent(msgspec.Struct):
    type: str
    data: _StripeData


class _StripeDispute(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    amount: Annotated[int, Meta(ge=0)]
    currency: str
    payment_intent: str | None = None
    charge: str | None = None


class _Dispute(msgspec.Struct):
    id: Annotated[str, Meta(min_length=1)]
    amount_cents: Annotated[int, Meta(ge=0)]
    tenant: str = ""
    currency: str = "usd"


class _Credit(msgspec.Struct):
    tenant: str
    amount_cents: int
    currency: str = "usd"


class _StandardEvent(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


def check_signature(form: Form, headers: Mapping[bytes, bytes], body: bytes, secrets: Sequence[str], now_s: int) -> str:
    """Returns the id of a message that a holder of one of the secrets has signed; "" where the form signs none.

    Args:
        form: Whose signature it is.
        headers: Of the request, names in lower case.
        body: As it came, byte for byte.
        secrets: Any of them may have signed, so that one can be replaced by another.
        now_s: The time, seconds since the epoch.

    Raises:
        AuthenticationFailed: 401 ``invalid_signature``; it does not say which part is wrong.
    """
    message_id, timestamp, given = (_stripe_head if form == "stripe" else _standard_head)(headers)
    if not timestamp.isdigit() or len(timestamp) > 12 or abs(now_s - int(timestamp)) > WINDOW_S:
        raise _unsigned()
    signed = b".".join([timestamp, body] if form == "stripe" else [message_id, timestamp, body])
    expected = [hmac.digest(_key(form, secret), signed, hashlib.sha256) for secret in secrets]
    # Every pair is compared, so that the time taken gives nothing away.
    matching = [hmac.compare_digest(one, other) for one in expected for other in given]
    if not any(matching):
        raise _unsigned()
    return message_id.decode("latin-1")


def _key(form: Form, secret: str) -> bytes:
    """Returns the bytes to sign with: Stripe takes its secret as it is written, Standard Webhooks decodes it."""
    if form == "stripe":
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return secret.encode()


def _stripe_head(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes, list[bytes]]:
    """Returns no id, the timestamp and the signatures of ``Stripe-Signature: t=…,v1=…``."""
    pairs = [part.strip().partition(b"=") for part in headers.get(b"stripe-signature", b"").split(b",")]
    timestamp = next((value for name, _, value in pairs if name == b"t"), b"")
    given = [_unhex(value) for name, _, value in pairs if name == b"v1"]
    return b"", timestamp, given[:_SIGNATURES_MOST]


def _standard_head(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes, list[bytes]]:
    pairs = [part.partition(b",") for part in headers.get(b"webhook-signature", b"").split()]
    given = [_unbase64(value) for name, _, value in pairs if name == b"v1"]
    message_id = headers.get(b"webhook-id", b"")
    if not message_id or len(message_id) > 128 or b"." in message_id:
        raise _unsigned()
    return message_id, headers.get(b"webhook-timestamp", b""), given[:_SIGNATURES_MOST]


def _unhex(text: bytes) -> bytes:
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        return b""


def _unbase64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _unsigned() -> AuthenticationFailed:
    return AuthenticationFailed(
        f"The signature is missing, wrong, or more than {WINDOW_S} s old.", code="invalid_signature"
    )


def read_event(form: Form, body: bytes, message_id: str) -> ShopCredit | ShopDispute | None:
    """Returns the credit or the dispute that an event reports; None for one that reports neither.

    Raises ``InvalidRequest`` (400 ``invalid_event``) for one that claims to, and lacks what is credited or disputed.
    """
    try:
        return _read_stripe(body) if form == "stripe" else _read_standard(body, message_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The event cannot be read: {error}.", code="invalid_event") from None


def _read_stripe(body: bytes) -> ShopCredit | ShopDispute | None:
    event = msgspec.json.decode(body, type=_StripeEvent)
    if event.type in _STRIPE_DISPUTES:
        of = msgspec.json.decode(event.data.object, type=_StripeDispute)
        return _dispute(
            of.id, of.payment_intent or of.charge or "", "", of.amount, of.currency, _STRIPE_DISPUTES[event.type]
        )
    if event.type not in _PAID_EVENTS:
        return None
    session = msgspec.json.decode(event.data.object, type=_Session)
    if session.payment_status != "paid":
        return None
    tenant = (session.metadata or {}).get("tenant") or session.client_reference_id
    tax = 0 if session.total_details is None else session.total_details.amount_tax or 0
    # Named after the checkout, not the event: more than one event can say that it is paid.
    return _credit(tenant, session.currency, (session.amount_total or 0) - tax, f"stripe:{session.id}")


def _read_standard(body: bytes, message_id: str) -> ShopCredit | ShopDispute | None:
    event = msgspec.json.decode(body, type=_StandardEvent)
    if event.type in _DISPUTES:
        of = msgspec.json.decode(event.data, type=_Dispute)
        return _dispute(of.id, "", of.tenant, of.amount_cents, of.currency, _DISPUTES[event.type])
    if event.type != _CREDIT_EVENT:
        return None
    credit: Any = msgspec.json.decode(event.data, type=_Credit)
    return _credit(credit.tenant, credit.currency, credit.amount_cents, f"webhook:{message_id}")


def _dispute(id: str, payment: str, tenant: str, cents: int, currency: str, is_over: bool) -> ShopDispute:
    names = [each[:_NAME_MOST] for each in (id, payment, tenant, currency)]
    if not all(name.isprintable() for name in names):
        raise InvalidRequest("The names in an event have printable characters.", code="invalid_event")
    return ShopDispute(names[0], names[1], names[2], cents, names[3], is_over)


def _credit(tenant: str | None, currency: str | None, cents: int, reference: str) -> ShopCredit:
    if not tenant:
        raise InvalidRequest(
            "The event names no tenant: set metadata.tenant (or client_reference_id) of the checkout.",
            code="invalid_event",
        )
    if (currency or "").lower() != "usd":
        raise InvalidRequest(f"Credit is in USD; the event is in {currency!r}.", code="invalid_event")
    if not 0 < cents <= _MOST_CENTS:
        raise InvalidRequest(f"The event's amount, {cents} cents, is no credit.", code="invalid_event")
    return ShopCredit(tenant, cents * _NANO_USD_PER_CENT, reference)
