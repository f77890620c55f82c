"""Networks and tokens: the names people use, x402's names of version 1, CAIP-2, and the tokens worth one dollar.

Owns the tables and the checks of addresses that need no network. Sources: CAIP-2 and its namespaces
``solana`` and ``eip155``; Circle's list of USDC contracts; the tables of the x402 SDK (``default_assets`` of SVM and
EVM), with which a test compares these.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from trustgate.errors import InvalidRequest
from trustgate.formats.keccak import keccak256
from trustgate.formats.solana_transaction import KEY_BYTES, b58decode

SOLANA: Final = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
SOLANA_DEVNET: Final = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
SOLANA_TESTNET: Final = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
BASE: Final = "eip155:8453"
BASE_SEPOLIA: Final = "eip155:84532"

#: x402's names of version 1, which are also what people type.
_CAIP2_OF: Final = {
    "solana": SOLANA,
    "solana-devnet": SOLANA_DEVNET,
    "solana-testnet": SOLANA_TESTNET,
    "base": BASE,
    "base-sepolia": BASE_SEPOLIA,
    "ethereum": "eip155:1",
    "polygon": "eip155:137",
    "polygon-amoy": "eip155:80002",
    "avalanche": "eip155:43114",
    "avalanche-fuji": "eip155:43113",
    "sei": "eip155:1329",
    "sei-testnet": "eip155:1328",
    "iotex": "eip155:4689",
    "peaq": "eip155:3338",
    "abstract": "eip155:2741",
    "abstract-testnet": "eip155:11124",
    "story": "eip155:1513",
    "educhain": "eip155:656476",
    "skale-base-sepolia": "eip155:1444673419",
    "megaeth": "eip155:4326",
    "monad": "eip155:143",
    "monad-testnet": "eip155:10143",
    "stable": "eip155:988",
    "stable-testnet": "eip155:2201",
    "celo": "eip155:42220",
    "flare": "eip155:14",
}
_NAME_OF: Final = {caip2: name for name, caip2 in _CAIP2_OF.items()}


class Asset(NamedTuple):
    """A token that is worth one USD a unit. ``name`` and ``version`` are those of its EIP-712 domain, on EVM."""

    address: str
    decimals: int = 6
    name: str = ""
    version: str = ""


#: By network, then by the name that people type.
_ASSETS: Final[dict[str, dict[str, Asset]]] = {
    SOLANA: {"usdc": Asset("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")},
    SOLANA_DEVNET: {"usdc": Asset("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU")},
    SOLANA_TESTNET: {"usdc": Asset("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU")},
    BASE: {"usdc": Asset("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", name="USD Coin", version="2")},
    BASE_SEPOLIA: {"usdc": Asset("0x036CbD53842c5426634e7929541eC2318f3dCF7e", name="USDC", version="2")},
    "eip155:1": {"usdc": Asset("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", name="USD Coin", version="2")},
    "eip155:137": {"usdc": Asset("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", name="USD Coin", version="2")},
    "eip155:42161": {"usdc": Asset("0xaf88d065e77c8cC2239327C5EDb3A432268e5831", name="USD Coin", version="2")},
    "eip155:43114": {"usdc": Asset("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", name="USD Coin", version="2")},
}
_CAIP2: Final = re.compile("solana:[-_a-zA-Z0-9]{1,32}|eip155:[1-9][0-9]{0,17}")


def caip2_of(name: str) -> str:
    """Returns the CAIP-2 id of a network by its name or id, in any case of the name. Raises ``InvalidRequest``."""
    text = name.strip()
    known = _CAIP2_OF.get(text.lower())
    if known is not None:
        return known
    if _CAIP2.fullmatch(text):
        return text
    raise InvalidRequest(
        f"There is no network {text[:64]!r}.",
        param="network",
        code="unknown_network",
        hint="Name solana, solana-devnet, base or base-sepolia, or another by its CAIP-2 id, such as eip155:137.",
    )


def v1_name_of(caip2: str) -> str | None:
    """Returns the network's name in version 1 of the protocol; None where that has none, so that it cannot be
    offered.
    """
    return _NAME_OF.get(caip2)


def is_solana(caip2: str) -> bool:
    return caip2.startswith("solana:")


def known_asset(network: str, text: str) -> Asset | None:
    """Returns the well-known token of this name or address; None for another. Raises ``InvalidRequest`` for an unknown
    name.
    """
    listed = _ASSETS.get(network, {})
    named = listed.get(text.strip().lower())
    if named is not None:
        return named
    same = [asset for asset in listed.values() if asset.address.lower() == text.strip().lower()]
    if same and (not is_solana(network) or same[0].address == text.strip()):
        return same[0]
    if re.fullmatch("[A-Za-z]{2,8}", text.strip()):
        kind = "mint" if is_solana(network) else "contract"
        raise InvalidRequest(
            f"No token {text.strip()!r} is known on {v1_name_of(network) or network}.",
            param="asset",
            code="unknown_asset",
            hint=f"Name {' or '.join(listed)}, or its {kind}." if listed else f"Give its {kind}.",
        )
    return None


def check_address(network: str, text: str, param: str) -> str:
    """Returns an address of the network, in its usual spelling. Raises ``InvalidRequest``, which names ``param``.

    Whether anything is there is another question.
    """
    return _solana_address(text.strip(), param) if is_solana(network) else _evm_address(text.strip(), param)


def checksummed(address: str) -> str:
    """Returns an EVM address in the mixed case of EIP-55; ``address`` is 0x and 40 hexadecimal digits in any case."""
    digits = address[2:].lower()
    digest = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= 8 else digit for digit, nibble in zip(digits, digest, strict=False)
    )


def _solana_address(text: str, param: str) -> str:
    try:
        size = len(b58decode(text))
    except ValueError:
        size = 0
    if size == KEY_BYTES:
        return text
    hint = "That is an address of an EVM chain: name its network." if text.startswith("0x") else None
    raise _bad(text, param, "is not a Solana address", hint or "It is 32 bytes in base58, some 44 characters.")


def _evm_address(text: str, param: str) -> str:
    if not re.fullmatch("0x[0-9a-fA-F]{40}", text):
        raise _bad(text, param, "is not an EVM address", "It is 0x and 40 hexadecimal digits.")
    right = checksummed(text)
    if text[2:] not in (right[2:], text[2:].lower(), text[2:].upper()):
        raise _bad(text, param, "has a checksum that does not fit: a digit is wrong", "Copy it again, all of it.")
    if not int(text, 16):
        raise _bad(text, param, "is the zero address: a payment to it is lost", "Give an address of your own.")
    return right


def _bad(text: str, param: str, what: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {text[:64]!r} {what}.", param=param, code="bad_address", hint=hint)
