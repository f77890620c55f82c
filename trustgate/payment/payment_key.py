"""When two payloads are the same payment, and who pays with one.

A signed payment can be written in many ways: base64 with or without padding, a fee payer's signature of any bytes, hex
in upper or lower case, bytes after the end. The key is made of what was signed and nothing else, so that no other
spelling of a payment counts as another payment. Everything here is generous in what it decodes: what a facilitator
takes for the same payment must have the same key. Whether a payment is any good is not judged here.

Sources: x402 specifications, ``schemes/exact`` for SVM and EVM; EIP-3009; Permit2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from trustgate.errors import InvalidRequest, VerificationFailed
from trustgate.formats.solana_transaction import Transaction, b58encode, read_transaction

TOKEN_PROGRAMS: Final = frozenset(
    {"TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA", "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"}
)
#: A transaction in base64, ten times over; decoding is bounded by it.
_MOST_BASE64_CHARACTERS: Final = 16_384
_TRANSFER_CHECKED: Final = 12
_SOURCE_PLACE: Final = 0
_OWNER_PLACE: Final = 3


class Authorization(NamedTuple):
    """What an EVM payer signed, as far as it identifies a payment. Hexadecimal, in lower case, with 0x."""

    #: ``eip3009`` (transferWithAuthorization) or ``permit2``.
    method: str
    payer: str
    nonce: str
    #: Seconds since the epoch; the last second in which it can be used is the one before. 0: not said.
    valid_before_s: int


def payment_key(x402_version: int, scheme: str, network_caip2: str, asset: str, payload: dict[str, Any]) -> str:
    """64 hexadecimal digits that are the same for every spelling of one signed payment.

    Of a Solana transaction: SHA-256 of its message, which is what its signers sign. Of an EVM authorization: SHA-256 of
    chain, asset, payer and nonce, which the chain takes once. Of anything else: SHA-256 of the payload as JSON with
    sorted members. ``x402_version`` makes no difference: a payment made for one version is spent for the other too.
    Raises ``InvalidRequest`` for a payload that is nested without end.
    """
    network = network_caip2.lower()
    if network.startswith("solana:"):
        transaction = transaction_of(payload)
        if transaction is not None:
            return hashlib.sha256(transaction.message).hexdigest()
    elif network.startswith("eip155:"):
        if isinstance(payload.get("authorization"), dict) and isinstance(payload.get("permit2Authorization"), dict):
            raise InvalidRequest(
                "The payment has two authorizations: which of them is to be settled, facilitators differ over.",
                code="invalid_payment",
                hint="Send authorization or permit2Authorization, whichever is signed.",
            )
        authorization = authorization_of(payload)
        if authorization is not None:
            # With Permit2 one nonce serves for all tokens, and with EIP-3009 each token counts its own.
            token = asset.lower() if authorization.method == "eip3009" else "permit2"
            return _digest(network, token, authorization.payer, authorization.nonce)
    try:
        text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    except (RecursionError, TypeError, ValueError):
        raise InvalidRequest(
            "The payment's payload cannot be read.",
            code="invalid_payment",
            hint="Send the payload that the x402 client made.",
        ) from None
    return _digest(scheme, network, text)


def payer_of(payload: Mapping[str, Any]) -> str:
    """Returns the address that pays, as its network writes it; "" where the payload does not say."""
    transaction = transaction_of(payload)
    if transaction is not None:
        return _token_owner(transaction)
    authorization = payload.get("authorization") or payload.get("permit2Authorization")
    payer = authorization.get("from") if isinstance(authorization, dict) else None
    return payer if isinstance(payer, str) and re.fullmatch("0x[0-9a-fA-F]{40}", payer) else ""


def same_payer(network_caip2: str, payer: str) -> str:
    """Returns an address in the one spelling in which it is compared: those of EVM chains may have letters of any
    case.
    """
    return payer.lower() if network_caip2.startswith("eip155:") else payer


def inner_of(payload: bytes) -> dict[str, Any]:
    """Returns the scheme's own part of a PaymentPayload in JSON; empty where there is none."""
    try:
        inner = msgspec.json.decode(payload).get("payload")
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError, RecursionError):
        return {}
    return inner if isinstance(inner, dict) else {}


def transaction_of(payload: Mapping[str, Any]) -> Transaction | None:
    """Returns the Solana transaction in an exact payload; None where there is none that a validator would take."""
    text = payload.get("transaction")
    if not isinstance(text, str) or len(text) > _MOST_BASE64_CHARACTERS:
        return None
    digits = re.sub("[^A-Za-z0-9+/]", "", text.replace("-", "+").replace("_", "/").partition("=")[0])
    try:
        raw = base64.b64decode(digits + "=" * (-len(digits) % 4))
        return read_transaction(raw, allow_trailing=True)
    except (binascii.Error, VerificationFailed):
        return None


def authorization_of(payload: Mapping[str, Any]) -> Authorization | None:
    """Returns what was signed of an EVM exact payload; None where it is not known."""
    for member, method, deadline in (
        ("authorization", "eip3009", "validBefore"),
        ("permit2Authorization", "permit2", "deadline"),
    ):
        signed = payload.get(member)
        if not isinstance(signed, dict):
            continue
        payer, nonce = _hex(signed.get("from"), 20), _nonce(method, signed.get("nonce"))
        if payer and nonce:
            return Authorization(method, payer, nonce, _number(signed.get(deadline)))
    return None


def token_source(transaction: Transaction) -> str:
    """Returns the account that the tokens of the first transfer come from; "" where there is none."""
    return _transfer_account(transaction, _SOURCE_PLACE)


def _token_owner(transaction: Transaction) -> str:
    """Who signs for the tokens that the first transfer moves."""
    return _transfer_account(transaction, _OWNER_PLACE)


def _transfer_account(transaction: Transaction, which: int) -> str:
    for program, accounts, data in transaction.instructions:
        if program in TOKEN_PROGRAMS and data[:1] == bytes([_TRANSFER_CHECKED]) and len(accounts) > _OWNER_PLACE:
            place = accounts[which]
            return b58encode(transaction.keys[place]) if place < len(transaction.keys) else ""
    return ""


def _nonce(method: str, value: object) -> str:
    """As 32 bytes in hexadecimal; "" if it is none. Permit2's is a number, in decimal or hexadecimal."""
    if method == "eip3009":
        return _hex(value, 32)
    try:
        number = value if not isinstance(value, str) else int(value, 16 if value.strip()[:2].lower() == "0x" else 10)
    except ValueError:
        return ""
    return f"0x{number:064x}" if isinstance(number, int) and 0 <= number < 2**256 else ""


def _hex(value: object, size: int) -> str:
    """``size`` bytes in hexadecimal, however they are spelled; "" if they are none."""
    if not isinstance(value, str):
        return ""
    digits = "".join(value.split()).lower().removeprefix("0x")
    return f"0x{digits}" if re.fullmatch(f"[0-9a-f]{{{2 * size}}}", digits) else ""


def _number(value: object) -> int:
    try:
        return int(value) if isinstance(value, str | int) else 0
    except ValueError:
        return 0


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
