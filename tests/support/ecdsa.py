"""ECDSA on curves y² = x³ + ax + b over a prime field, written down from the standards (SEC 1 and 2, FIPS 186-4).

The other side of what the program, or a wallet, signs. Not for secrets: its time depends on the numbers.
"""

from __future__ import annotations

from typing import NamedTuple

Point = tuple[int, int] | None


class Curve(NamedTuple):
    """``p``: of the field; ``n``: the order of ``base``; ``a``: of the curve's equation."""

    p: int
    n: int
    a: int
    base: tuple[int, int]

    def add(self, one: Point, other: Point) -> Point:
        if one is None or other is None:
            return other if one is None else one
        if one[0] == other[0]:
            if (one[1] + other[1]) % self.p == 0:
                return None
            slope = (3 * one[0] * one[0] + self.a) * pow(2 * one[1], -1, self.p)
        else:
            slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, self.p)
        x = (slope * slope - one[0] - other[0]) % self.p
        return x, (slope * (one[0] - x) - one[1]) % self.p

    def multiply(self, scalar: int, point: Point) -> Point:
        total: Point = None
        while scalar:
            if scalar & 1:
                total = self.add(total, point)
            point, scalar = self.add(point, point), scalar >> 1
        return total

    def public(self, scalar: int) -> tuple[int, int]:
        """The public key of a private one, 0 < scalar < n."""
        point = self.multiply(scalar, self.base)
        assert point is not None
        return point

    def sign(self, scalar: int, digest: bytes, nonce: int) -> tuple[int, int]:
        """The signature of a digest of 32 bytes: r and s, the smaller one of both that there are."""
        r = self.public(nonce)[0] % self.n
        s = pow(nonce, -1, self.n) * (int.from_bytes(digest) + r * scalar) % self.n
        return r, min(s, self.n - s)

    def verifies(self, public: Point, digest: bytes, signature: bytes) -> bool:
        """Whether r and s, 32 bytes each, are the key's signature of a digest of 32 bytes."""
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if len(signature) != 64 or not 0 < r < self.n or not 0 < s < self.n:
            return False
        number, inverse = int.from_bytes(digest), pow(s, -1, self.n)
        ours = self.multiply(number * inverse % self.n, self.base)
        point = self.add(ours, self.multiply(r * inverse % self.n, public))
        return point is not None and point[0] % self.n == r


P256 = Curve(
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    a=-3,
    base=(
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
SECP256K1 = Curve(
    p=2**256 - 2**32 - 977,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    a=0,
    base=(
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    ),
)
