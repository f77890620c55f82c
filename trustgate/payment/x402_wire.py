"""x402 as it travels over HTTP: the 402 challenge, the payment that a client presents, the answer that it settled.

Owns the JSON of versions 1 and 2 and the headers that carry it. Version 2 has everything in base64 headers
(``PAYMENT-REQUIRED``, ``PAYMENT-SIGNATURE``, ``PAYMENT-RESPONSE``), version 1 its challenge in the body and the rest in
``X-PAYMENT`` and ``X-PAYMENT-RESPONSE``. Sources: x402 specification v2, sections 5 and 6, "transports-v2/http"; x402
specification v1, section 5.

These are plain msgspec structs, not the SDK's models: challenges are made on the request path, where importing the SDK
(pydantic, 30 MB) would be paid by gateways whose tenants never pay. The tests hold each form against the SDK's models.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import msgspec

from trustgate.errors import InvalidRequest, PaymentRequired
from trustgate.payment.networks import caip2_of, is_solana, v1_name_of
from trustgate.types import NANO_USD_PER_USD, Offer, Payment

#: How long a client's authorization has to be good for, seconds: an upstream may take minutes to its first byte. (A
#: Solana transaction cannot be good for longer than its blockhash, 60 to 90 s.)
MAX_TIMEOUT_S: Final = 300
_SOLANA_TIMEOUT_S: Final = 60
_MAX_HEADER_BYTES: Final = 16 * 1024

#: x402 extension "payment-identifier": a client's own name for a payment, which makes a retry the same request.
IDENTIFIER_EXTENSION: Final = "payment-identifier"
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_IDENTIFIER_DECLARATION: Final = {
    "info": {"required": False},
    "schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "required": {"type": "boolean"},
            "id": {"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[a-zA-Z0-9_-]+$"},
        },
        "required": ["required"],
    },
}

#: The members of a payment that say what is paid, by their names in small letters: x402 specification v2, sections 5.2
#: and "schemes/exact"; EIP-3009; Permit2.
_SPELLED: Final = {
    name.casefold(): name
    for name in (
        *("x402Version", "scheme", "network", "accepted", "payload", "extensions", "amount", "asset", "payTo"),
        *("transaction", "signature", "authorization", "from", "to", "value", "validAfter", "validBefore", "nonce"),
        *("permit2Authorization", "permitted", "token", "spender", "deadline", "witness"),
    )
}

NO_EXTENSIONS: Final[Mapping[str, Any]] = MappingProxyType({})

_encode = msgspec.json.Encoder().encode


class Presented(NamedTuple):
    """A payment as its client presents it. What is signed in ``payload`` is not looked at here."""

    x402_version: Literal[1, 2]
    scheme: str
    #: CAIP-2; as the client wrote it where version 1 has no such name.
    network: str
    #: Version 2: the requirements that the client claims to fulfil.
    accepted: Mapping[str, Any] | None
    payload: dict[str, Any]
    #: The client's payment-identifier, or "".
    identifier: str
    #: The whole PaymentPayload, JSON.
    raw: bytes


class _PayloadV2(msgspec.Struct, rename="camel"):
    x402_version: Literal[2]
    payload: dict[str, Any]
    accepted: dict[str, Any]
    extensions: dict[str, Any] | None = None


class _PayloadV1(msgspec.Struct, rename="camel"):
    x402_version: Literal[1]
    scheme: str
    network: str
    payload: dict[str, Any]


class _Accepted(msgspec.Struct):
    scheme: str
    network: str


class _Version(msgspec.Struct, rename="camel"):
    x402_version: int = 2


# what clients present


def read_payment(headers: Mapping[bytes, bytes]) -> Presented | None:
    """Returns the payment in a request's headers (names in lower case); None without one.

    Raises ``InvalidRequest`` (400 ``invalid_payment``) where the header is not an x402 payment.
    """
    header = headers.get(b"payment-signature")
    name = "PAYMENT-SIGNATURE"
    if header is None:
        header, name = headers.get(b"x-payment"), "X-PAYMENT"
    if header is None:
        return None
    if len(header) > _MAX_HEADER_BYTES:
        raise _bad(name, f"it is longer than {_MAX_HEADER_BYTES} bytes")
    try:
        raw = base64.b64decode(header + b"=" * (-len(header) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _bad(name, "it is not base64") from None
    try:
        version = msgspec.json.decode(raw, type=_Version).x402_version
        _check_names(raw)
        if version == 2:
            return _read_v2(raw)
        if version == 1:
            return _read_v1(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _bad(name, f"it is not an x402 payment payload ({error})") from None
    raise _bad(name, f"x402 version {version} is not supported")


def _check_names(raw: bytes) -> None:
    """Raise ``ValueError`` where readers of a payment would differ over its members.

    The facilitator is given it as it came. Of a member that comes twice some readers take the first and some the last,
    and those of Go take one in another case for it: they could settle another payment than is known here.
    """
    payment = json.loads(raw, object_pairs_hook=_once)
    _check_spelling(payment)
    _check_spelling(payment.get("accepted"))
    left = [payment.get("payload")]
    while left:
        signed = left.pop()
        _check_spelling(signed)
        if isinstance(signed, dict | list):
            left += signed.values() if isinstance(signed, dict) else signed


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len({name.casefold() for name in found}) < len(members):
        raise ValueError("a member comes twice")
    return found


def _check_spelling(members: object) -> None:
    for name in members if isinstance(members, dict) else ():
        spelled = _SPELLED.get(name.casefold(), name)
        if spelled != name:
            raise ValueError(f"the member {name!a} must be spelled {spelled!r}")


def _read_v2(raw: bytes) -> Presented:
    found = msgspec.json.decode(raw, type=_PayloadV2)
    accepted = msgspec.convert(found.accepted, _Accepted)
    return Presented(
        2, accepted.scheme, accepted.network, found.accepted, found.payload, _identifier(found.extensions), raw
    )


def _read_v1(raw: bytes) -> Presented:
    found = msgspec.json.decode(raw, type=_PayloadV1)
    try:
        network = caip2_of(found.network)
    except InvalidRequest:
        network = found.network
    return Presented(1, found.scheme, network, None, found.payload, "", raw)


def _identifier(extensions: dict[str, Any] | None) -> str:
    extension = (extensions or {}).get(IDENTIFIER_EXTENSION)
    info = extension.get("info") if isinstance(extension, dict) else None
    identifier = info.get("id") if isinstance(info, dict) else None
    if identifier is None:
        return ""
    if not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):
        raise InvalidRequest(
            "The payment identifier must be 16 to 128 letters, digits, hyphens and underscores.",
            param=IDENTIFIER_EXTENSION,
            code="invalid_payment",
        )
    return identifier


def _bad(header: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The header {header} is invalid: {why}.", param=header, code="invalid_payment")


# what the gateway asks for


def atomic(nano_usd: int, offer: Offer) -> int:
    """So many atomic units of the offer's asset are worth at least ``nano_usd``; rounded up, at least 1."""
    scale: int = 10**offer.decimals
    return max(1, -(-nano_usd * scale // NANO_USD_PER_USD))


def worth_nano_usd(amount: int, offer: Offer) -> int:
    """Returns what so many atomic units are worth; rounded down."""
    scale: int = 10**offer.decimals
    return amount * NANO_USD_PER_USD // scale


def usd(nano_usd: int) -> str:
    """Dollars, with as many decimals as there are."""
    whole, rest = divmod(abs(nano_usd), NANO_USD_PER_USD)
    text = f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)
    return f"-{text}" if nano_usd < 0 else text


def max_timeout_s(network: str) -> int:
    """Returns how long a payment on a network stays good, seconds: the deadline that offers name."""
    return _SOLANA_TIMEOUT_S if is_solana(network) else MAX_TIMEOUT_S


def requirements(offer: Offer, amount: int) -> dict[str, Any]:
    """PaymentRequirements of version 2."""
    return {
        "scheme": offer.scheme,
        "network": offer.network,
        "asset": offer.asset,
        "amount": str(amount),
        "payTo": offer.pay_to,
        "maxTimeoutSeconds": max_timeout_s(offer.network),
        "extra": offer.extra,
    }


def requirements_v1(offer: Offer, amount: int, resource: str, description: str) -> dict[str, Any] | None:
    """PaymentRequirements of version 1; None where that version has no name for the network."""
    network = v1_name_of(offer.network)
    if network is None:
        return None
    return {
        "scheme": offer.scheme,
        "network": network,
        "maxAmountRequired": str(amount),
        "resource": resource,
        "description": description,
        "mimeType": "application/json",
        "payTo": offer.pay_to,
        "maxTimeoutSeconds": max_timeout_s(offer.network),
        "asset": offer.asset,
        "extra": offer.extra,
    }


def challenge(
    offers: Sequence[Offer],
    price_nano_usd: int,
    *,
    resource: str,
    description: str,
    message: str,
    reason: str,
    extensions: Mapping[str, Any] = NO_EXTENSIONS,
    takes_identifier: bool = True,
) -> PaymentRequired:
    """Returns the 402 that asks for a price: version 2 in its header, version 1 in the body, OpenAI's error beside it.

    ``resource``: the URL that was asked for. ``reason``: why a presented payment did not do, in x402's words, or "".
    ``extensions``: further ones, by name. ``takes_identifier``: whether a client may name its payment.
    """
    amounts = [(offer, atomic(price_nano_usd, offer)) for offer in offers]
    required = {
        "x402Version": 2,
        "error": reason or "payment_required",
        "resource": {"url": resource, "description": description, "mimeType": "application/json"},
        "accepts": [requirements(offer, amount) for offer, amount in amounts],
        "extensions": {**({IDENTIFIER_EXTENSION: _IDENTIFIER_DECLARATION} if takes_identifier else {}), **extensions},
    }
    older = (requirements_v1(offer, amount, resource, description) for offer, amount in amounts)
    return PaymentRequired(
        message,
        code=reason or "payment_required",
        headers={"payment-required": base64.b64encode(_encode(required)).decode(), "cache-control": "no-store"},
        retryable=False,
        beside={"x402Version": 1, "accepts": [accepts for accepts in older if accepts is not None]},
    )


# the gateway's response to a settled payment


def settled_headers(payment: Payment) -> list[tuple[bytes, bytes]]:
    """``PAYMENT-RESPONSE`` (version 1: ``X-PAYMENT-RESPONSE``) of a payment that has settled."""
    version_1 = payment.x402_version == 1
    network = payment.offer.network
    settled = {
        "success": True,
        "transaction": payment.transaction,
        "network": (v1_name_of(network) or network) if version_1 else network,
        "payer": payment.payer,
        **({} if version_1 else {"amount": payment.amount}),
    }
    name = b"x-payment-response" if version_1 else b"payment-response"
    return [(name, base64.b64encode(_encode(settled)))]
