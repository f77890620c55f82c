"""Networks and tokens: the names people use, x402's names of version 1, CAIP-2, and the tokens worth one dollar.

Owns the tables and the checks of addresses, as far as nobody has to be asked. Sources: CAIP-2 and its namespaces
``solana`` and ``eip155``; Circle's list of USDC contracts; the tables of the x402 SDK (``default_assets`` of SVM and
EVM), with which a test compares these.
"""

from __future__ import annotations

import re
from typing import Final

from trustgate.errors import InvalidRequest

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
_CAIP2: Final = re.compile("solana:[-_a-zA-Z0-9]{1,32}|eip155:[1-9][0-9]{0,17}")


def caip2_of(name: str) -> str:
    """The CAIP-2 id of a network by its name or id, in any case of the name. Raises ``InvalidRequest``."""
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
    """The network's name in version 1 of the protocol; None where that has none, so that it cannot be offered."""
    return _NAME_OF.get(caip2)
