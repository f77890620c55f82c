"""Keys and signatures on P-256, as the other side of what the program signs."""

from __future__ import annotations

import base64
import hashlib

from tests.support.ecdsa import P256, Point


def multiply(scalar: int) -> Point:
    """Returns the public key of a private one."""
    return P256.public(scalar)


def verifies(public: Point, message: bytes, signature: bytes) -> bool:
    """Returns whether r and s, 32 bytes each, are the key's signature of the message with SHA-256."""
    return P256.verifies(public, hashlib.sha256(message).digest(), signature)


def pem_of(scalar: int) -> str:
    """Returns a private key as SEC 1 writes it, in PEM (RFC 5915)."""
    der = bytes.fromhex(
        "303102010104200000000000000000000000000000000000000000000000000000000000000000a00a06082a8648ce3d030107"
    )
    der = der[:7] + scalar.to_bytes(32) + der[39:]
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END EC PRIVATE KEY-----\n"
