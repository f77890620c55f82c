"""The receipt: a flat, canonical, salted record of one answered (or refused) request.

Owns the format. A receipt is strings, integers and booleans only, so that its JSON with sorted keys *is* its
RFC 8785 (JCS) form; floats, large integers and bytes, where the two differ, cannot occur by type.

There are ten versions, each with its members, all of them, always:

    1   of a tenant that owes nothing
    2   of a tenant that pays (x402): types.RECEIPT_PAYMENT_MEMBERS besides, which tell what was charged to the tenant's
        balance, what was credited to it, and by which payment; it may have ended as ``credited`` (endpoint
        ``credits``), which is no request's: it is of money alone
    3   as 1, and types.RECEIPT_PRICE_MEMBERS: every counter and condition that the price looked at, whether there was a
        price at all, and what the tenant's plan bills of the cost
    4   as 2, and those of 3
    5   as 3, and types.RECEIPT_END_USER_MEMBERS: the pseudonym of the end user whom the request named
    6   as 4, and that of 5
    7   as 3, of work that went on upstream after its request, and types.RECEIPT_WORK_MEMBERS: how many calls it sums
        up, and the step of the price, by the length of a prompt, that holds for each of them
    8, 9, 10    as 4, 5 and 6, and those of 7

Requests get versions 3 and 4, those of a key whose requests name end users 5 and 6; 1 and 2 were theirs before, and
credits are of version 2. What a batch used gets one receipt of version 7 to 10 for each step of the price that its
lines came to: it costs what its calls do at the rates of that step, rounded once, up. In Python the members that a
version lacks are ``msgspec.UNSET``, which no JSON has, so that a version is to the byte what it was before the next.

What was asked and answered is not stored: ``request_commitment`` and ``response_commitment`` are salted.
With the 32 secret bytes of a receipt, ``salt = HMAC-SHA256(secret, label)`` and ``commitment =
HMAC-SHA256(salt, SHA-256(content))``, label ``request`` or ``response``, hexadecimal. So a tenant who holds
the secret can open one commitment without the other, and no third party can guess a short prompt from it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import UNSET

from trustgate.types import Receipt

if TYPE_CHECKING:
    import hashlib

_sorted_json = msgspec.json.Encoder(order="sorted")

FIRST_TPREV = "0" * 64


def billed_of(receipt: Receipt) -> int:
    """Returns what the request was billed at, nano-USD; of versions before 3 that was its cost."""
    return receipt.cost_nano_usd if receipt.billed_nano_usd is UNSET else receipt.billed_nano_usd


def balance_change(receipt: Receipt) -> tuple[int, int]:
    """Returns what was charged to the tenant's balance and credited to it, nano-USD; 0 and 0 where it owes nothing."""
    charged, credited = receipt.charged_nano_usd, receipt.credited_nano_usd
    return 0 if charged is UNSET else charged, 0 if credited is UNSET else credited


def canonical(receipt: Receipt) -> bytes:
    """Returns the receipt in RFC 8785 (JCS) form: what is hashed, signed for and exported."""
    return _sorted_json.encode(receipt)


def leaf_hash(receipt: Receipt) -> bytes:
    """SHA-256(0x00 ‖ canonical form): RFC 6962 section 2.1."""
    return leaf_hash_of(canonical(receipt))


def leaf_hash_of(form: bytes) -> bytes:
    """As ``leaf_hash``, of a receipt's canonical form."""
    return sha256(b"\x00" + form).digest()


def salt(secret: bytes, label: Literal["request", "response"]) -> bytes:
    """Returns what opens one of a receipt's two commitments, 32 bytes; the other stays shut."""
    return _hmac_sha256(secret, label.encode()).digest()


def commitment(secret: bytes, label: Literal["request", "response"], content_sha256: bytes) -> str:
    """Returns the salted commitment to content with this SHA-256 digest, 64 hexadecimal digits."""
    return _hmac_sha256(salt(secret, label), content_sha256).hexdigest()


def commitments(secret: bytes, request_sha256: bytes, response_sha256: bytes) -> tuple[str, str]:
    """Returns both of a receipt's commitments: what ``commitment`` gives for each, with less to do."""
    inner, outer = secret.translate(_INNER) + _INNER_REST, secret.translate(_OUTER) + _OUTER_REST
    for_request = sha256(outer + sha256(inner + b"request").digest()).digest()
    for_response = sha256(outer + sha256(inner + b"response").digest()).digest()
    inner = sha256(for_request.translate(_INNER) + _INNER_REST + request_sha256).digest()
    to_request = sha256(for_request.translate(_OUTER) + _OUTER_REST + inner).hexdigest()
    inner = sha256(for_response.translate(_INNER) + _INNER_REST + response_sha256).digest()
    return to_request, sha256(for_response.translate(_OUTER) + _OUTER_REST + inner).hexdigest()


#: A byte with the inner and with the outer padding of HMAC, and the paddings of what a key of 32 bytes lacks.
_INNER, _OUTER = bytes(byte ^ 0x36 for byte in range(256)), bytes(byte ^ 0x5C for byte in range(256))
_INNER_REST, _OUTER_REST = b"\x36" * 32, b"\x5c" * 32


def _hmac_sha256(key: bytes, message: bytes) -> hashlib._Hash:
    """HMAC-SHA256 (RFC 2104), the key 32 bytes. To set OpenSSL's up for each costs more than both of its hashes."""
    inner = sha256(key.translate(_INNER) + _INNER_REST + message).digest()
    return sha256(key.translate(_OUTER) + _OUTER_REST + inner)
