"""Accounts of EVM chains that sign typed data, as wallets do.

Written from EIP-712, apart from the x402 client that the account page has: the client asks for a signature, an account
gives it, and ``has_signed`` is what a token's contract checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.ecdsa import SECP256K1
from trustgate.formats.keccak import keccak256

Types = Mapping[str, list[Mapping[str, str]]]

#: EIP-3009, and the domain of EIP-712, as the token's contract has them.
TRANSFER: Types = {
    "EIP712Domain": [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ],
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ],
}


class Account:
    """A private key and its address."""

    def __init__(self, scalar: int) -> None:
        self._scalar = scalar
        self._public = SECP256K1.public(scalar)
        point = b"".join(number.to_bytes(32) for number in self._public)
        #: Lower case, without the checksum.
        self.address = f"0x{keccak256(point)[-20:].hex()}"

    def sign(self, typed: Mapping[str, Any]) -> str:
        """The signature as ``eth_signTypedData_v4`` gives it: r, s and v, which is not computed: 27."""
        hashed = digest(typed)
        nonce = int.from_bytes(keccak256(hashed + self._scalar.to_bytes(32))) % SECP256K1.n
        r, s = SECP256K1.sign(self._scalar, hashed, nonce)
        return f"0x{r:064x}{s:064x}1b"

    def has_signed(self, typed: Mapping[str, Any], signature: str) -> bool:
        raw = bytes.fromhex(signature.removeprefix("0x"))
        return len(raw) == 65 and SECP256K1.verifies(self._public, digest(typed), raw[:64])


def digest(typed: Mapping[str, Any]) -> bytes:
    """What is signed of typed data whose members are all of types without members of their own."""
    types: Types = typed["types"]
    domain = _hash_of(types, "EIP712Domain", typed["domain"])
    return keccak256(b"\x19\x01" + domain + _hash_of(types, typed["primaryType"], typed["message"]))


def _hash_of(types: Types, name: str, value: Mapping[str, Any]) -> bytes:
    members = types[name]
    listed = ",".join(f"{member['type']} {member['name']}" for member in members)
    kind = f"{name}({listed})"
    words = [_word(member["type"], value[member["name"]]) for member in members]
    return keccak256(keccak256(kind.encode()) + b"".join(words))


def _word(kind: str, value: Any) -> bytes:
    if kind == "string":
        return keccak256(str(value).encode())
    if kind == "uint256":
        return int(value).to_bytes(32, "big")
    assert kind in ("address", "bytes32"), kind
    return bytes.fromhex(str(value).removeprefix("0x")).rjust(32, b"\0")
