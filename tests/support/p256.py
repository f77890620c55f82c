"""ECDSA on P-256, written down from the standard (SEC 1, FIPS 186-4), as the other side of what the program signs."""

from __future__ import annotations

import base64
import hashlib

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_A = _P - 3
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int] | None


def _add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return other if one is None else one
    if one[0] == other[0]:
        if (one[1] + other[1]) % _P == 0:
            return None
        slope = (3 * one[0] * one[0] + _A) * pow(2 * one[1], -1, _P)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, _P)
    x = (slope * slope - one[0] - other[0]) % _P
    return x, (slope * (one[0] - x) - one[1]) % _P


def multiply(scalar: int, point: Point = _G) -> Point:
    total: Point = None
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point, scalar = _add(point, point), scalar >> 1
    return total


def verifies(public: Point, message: bytes, signature: bytes) -> bool:
    """Returns whether r and s, 32 bytes each, are the key's signature of the message with SHA-256."""
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if len(signature) != 64 or not 0 < r < _N or not 0 < s < _N:
        return False
    digest, inverse = int.from_bytes(hashlib.sha256(message).digest()), pow(s, -1, _N)
    point = _add(multiply(digest * inverse % _N), multiply(r * inverse % _N, public))
    return point is not None and point[0] % _N == r


def pem_of(scalar: int) -> str:
    """Returns a private key as SEC 1 writes it, in PEM (RFC 5915)."""
    der = bytes.fromhex(
        "303102010104200000000000000000000000000000000000000000000000000000000000000000a00a06082a8648ce3d030107"
    )
    der = der[:7] + scalar.to_bytes(32) + der[39:]
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END EC PRIVATE KEY-----\n"
