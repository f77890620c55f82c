"""API key secrets: how one is made, recognised and hashed.

``tgk_`` + 32 random characters (base62, 190 bits) + 6 characters that are the CRC32 of all that stands before
them. The prefix lets secret scanners find a leaked key; the checksum separates a typing error from an unknown key
without a look-up. Only the SHA-256 of the whole secret is ever kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib

import msgspec

from trustgate.errors import AuthenticationFailed

PREFIX = "tgk_"
_RANDOM_CHARACTERS = 32
_CHECKSUM_CHARACTERS = 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS}}}", re.ASCII)


class MintedKey(msgspec.Struct, frozen=True):
    secret: str
    sha256: str
    redacted: str


def mint() -> MintedKey:
    """Returns a new secret with its hash and the form in which it may be shown again."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    secret = body + _checksum(body)
    return MintedKey(secret, hashlib.sha256(secret.encode()).hexdigest(), redact(secret))


def redact(secret: str) -> str:
    return f"{secret[:8]}…{secret[-4:]}"


def hash_secret(secret: bytes) -> bytes:
    """Returns what keys are looked up by: SHA-256 of the secret, 32 bytes."""
    return hashlib.sha256(secret).digest()


#: How a secret is named to the control plane: by its hash, so that it does not travel nor end up in a log.
HASH_PREFIX = "sha256:"


def reference(text: str) -> str:
    """Returns what a key is named by: of a whole secret ``sha256:`` and its hash, anything else as it is.

    Raises ``AuthenticationFailed`` for a secret with a typing error, without repeating it.
    """
    if not text.startswith(PREFIX) or "…" in text:
        return text
    if not _SECRET.fullmatch(text) or _checksum(text[:-_CHECKSUM_CHARACTERS]) != text[-_CHECKSUM_CHARACTERS:]:
        raise explain_unknown(text)
    return HASH_PREFIX + hash_secret(text.encode()).hex()


def explain_unknown(secret: str) -> AuthenticationFailed:
    """Why a secret that no key has was refused: not ours, mistyped, or simply unknown. Never repeats it."""
    if not _SECRET.fullmatch(secret):
        reason = f"The API key is not a TrustGate key: those begin with {PREFIX} and have 42 characters."
    elif _checksum(secret[:-_CHECKSUM_CHARACTERS]) != secret[-_CHECKSUM_CHARACTERS:]:
        reason = "The API key has a typing error: its checksum does not match."
    else:
        reason = "The API key is unknown here."
    return AuthenticationFailed(f"Incorrect API key provided. {reason}")


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECKSUM_CHARACTERS):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
