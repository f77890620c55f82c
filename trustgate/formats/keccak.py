"""Keccak-256, for Ethereum's address checksums; the standard library has only SHA-3, its later variant.

The two differ in one byte of padding. Two addresses are checked when an operator sets them, so this is written for
reading, and no package is needed: those that have it bring a compiled library, or forty others. Source: "The Keccak
reference" 3.0, and FIPS 202 for the permutation.
"""

from __future__ import annotations

from typing import Final

_RATE_BYTES: Final = 136
_MASK: Final = 2**64 - 1
_ROUNDS: Final = 24


def keccak256(data: bytes) -> bytes:
    """Returns the 32 bytes of the hash."""
    return _sponge(data, 0x01)


def _sponge(data: bytes, domain: int) -> bytes:
    """``domain`` is the first byte of the padding: 0x01 for Keccak-256, 0x06 for SHA3-256."""
    padded = bytearray(data) + bytes([domain]) + bytes(-(len(data) + 1) % _RATE_BYTES)
    padded[-1] |= 0x80
    state = [0] * 25
    for start in range(0, len(padded), _RATE_BYTES):
        for lane in range(_RATE_BYTES // 8):
            at = start + 8 * lane
            state[lane] ^= int.from_bytes(padded[at : at + 8], "little")
        state = _permuted(state)
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])


def _permuted(state: list[int]) -> list[int]:
    """Keccak-f[1600]; the lane (x, y) is at x + 5y."""
    constant = 1
    for _ in range(_ROUNDS):
        # theta
        columns = [state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20] for x in range(5)]
        state = [lane ^ columns[(i - 1) % 5] ^ _rotated(columns[(i + 1) % 5], 1) for i, lane in enumerate(state)]
        # rho and pi
        x, y, moved = 1, 0, state[1]
        turned = list(state)
        for step in range(_ROUNDS):
            x, y = y, (2 * x + 3 * y) % 5
            turned[x + 5 * y], moved = _rotated(moved, (step + 1) * (step + 2) // 2), state[x + 5 * y]
        # chi
        state = [
            turned[i] ^ (~turned[i - i % 5 + (i + 1) % 5] & turned[i - i % 5 + (i + 2) % 5]) & _MASK for i in range(25)
        ]
        # iota: bits of a linear feedback shift register, at the places 2^j - 1
        for j in range(7):
            state[0] ^= (constant & 1) << ((1 << j) - 1)
            constant = constant << 1 ^ (0x171 if constant & 0x80 else 0)
    return state


def _rotated(lane: int, by: int) -> int:
    by %= 64
    return (lane << by | lane >> (64 - by)) & _MASK
