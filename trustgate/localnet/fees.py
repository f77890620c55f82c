"""What a transaction costs, from its message alone.

Owns the fee rules: 5,000 lamports a signature, those that signature programs check included, plus the price per
compute unit times the limit, rounded up. Sources: Solana documentation, "Fees"; SIMD-0170 for the limit of a
transaction that asks for none.
"""

from __future__ import annotations

from collections.abc import Iterable

LAMPORTS_PER_SIGNATURE = 5_000
MAX_COMPUTE_UNITS = 1_400_000
COMPUTE_BUDGET_PROGRAM = "ComputeBudget111111111111111111111111111111"

_MICRO_LAMPORTS_PER_LAMPORT = 1_000_000
_DEFAULT_UNITS = 200_000
_DEFAULT_BUILTIN_UNITS = 3_000
_SIGNATURE_PROGRAMS = frozenset(
    {
        "Ed25519SigVerify111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
        "Secp256r1SigVerify1111111111111111111111111",
    }
)
_BUILTINS = frozenset(
    {
        COMPUTE_BUDGET_PROGRAM,
        "11111111111111111111111111111111",
        "Vote111111111111111111111111111111111111111",
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "LoaderV411111111111111111111111111111111111",
        "Ed25519SigVerify111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
    }
)
#: The first byte of a compute-budget instruction, and how many bytes its number has.
_SET_LIMIT, _LIMIT_BYTES = 2, 4
_SET_PRICE, _PRICE_BYTES = 3, 8


def base_fee(signatures: int, instructions: Iterable[tuple[str, bytes]]) -> int:
    """Lamports for signatures. ``instructions``: each one's program, base58, and data."""
    checked = sum(data[0] for program, data in instructions if program in _SIGNATURE_PROGRAMS and data)
    return LAMPORTS_PER_SIGNATURE * (signatures + checked)


def priority_fee(instructions: Iterable[tuple[str, bytes]]) -> int:
    """Lamports for being preferred: the price asked times the limit, used up or not."""
    listed = tuple(instructions)
    limit = _asked(listed, _SET_LIMIT, _LIMIT_BYTES)
    if limit is None:
        limit = sum(_DEFAULT_BUILTIN_UNITS if program in _BUILTINS else _DEFAULT_UNITS for program, _ in listed)
    return -(-unit_price(listed) * min(limit, MAX_COMPUTE_UNITS) // _MICRO_LAMPORTS_PER_LAMPORT)


def unit_price(instructions: Iterable[tuple[str, bytes]]) -> int:
    """Returns the price asked, micro-lamports a compute unit."""
    return _asked(instructions, _SET_PRICE, _PRICE_BYTES) or 0


def _asked(instructions: Iterable[tuple[str, bytes]], kind: int, size: int) -> int | None:
    for program, data in instructions:
        if program == COMPUTE_BUDGET_PROGRAM and data[:1] == bytes([kind]) and len(data) == 1 + size:
            return int.from_bytes(data[1:], "little")
    return None
