"""Solana clusters: names, addresses, and genesis hashes.

A URL does not identify the cluster; the hash of the genesis block does. So it is the genesis hash that decides
whether a fee is real money, and that an anchor is filed under. Source of addresses and hashes: Solana documentation,
"Clusters".
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from trustgate.errors import AnchorRefused, SettingsError
from trustgate.net.addresses import host_of

MAINNET: Final = "mainnet-beta"
LOCAL: Final = "local"
#: What a URL is called whose cluster is none of the public ones, and a URL before it was asked.
CUSTOM: Final = "custom"

LOCAL_URL: Final = "http://127.0.0.1:8899"

_URLS: Final = {
    "devnet": "https://api.devnet.solana.com",
    "testnet": "https://api.testnet.solana.com",
    MAINNET: "https://api.mainnet-beta.solana.com",
    LOCAL: LOCAL_URL,
}
_GENESIS: Final = {
    "devnet": "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG",
    "testnet": "4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY",
    MAINNET: "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d",
}
_NAMES: Final = {genesis: name for name, genesis in _GENESIS.items()}
_EXPLORER: Final = "https://explorer.solana.com/tx/"


class Cluster(NamedTuple):
    """What was asked for: ``name`` is ``custom`` where it was a URL. The URL may hold a secret; ``host`` does not."""

    name: str
    url: str

    @property
    def host(self) -> str:
        """Host and port: what of the address may be shown."""
        return host_of(self.url)

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {self.host!r})"


def find_cluster(text: str) -> Cluster:
    """Returns the cluster of a name or URL. Raises ``SettingsError``, which repeats no URL: it may hold an API key."""
    if text in _URLS:
        return Cluster(text, _URLS[text])
    if "://" not in text:
        # A name that is wrong, or a pasted key: only what looks like a name is repeated.
        named = f" {text!r}" if len(text) <= 20 and text.replace("-", "").isalnum() and text.isascii() else ""
        raise SettingsError(
            f"There is no cluster{named}.", hint=f"Name one of {', '.join(_URLS)}, or the http(s) URL of an RPC node."
        )
    if (fault := why_not_url(text)) is not None:
        raise SettingsError(
            f"The address of the RPC node {fault}.", hint="It looks like https://rpc.example.com or https://host:8899."
        )
    return Cluster(CUSTOM, text)


def check_genesis(cluster: Cluster, genesis: str) -> None:
    """Raises ``AnchorRefused`` where the node behind the name is of another cluster."""
    actual = cluster_name(genesis)
    wanted = _GENESIS.get(cluster.name)
    if (wanted is not None and genesis != wanted) or (cluster.name == LOCAL and actual != LOCAL):
        raise AnchorRefused(
            f"{cluster.host} is not {cluster.name}: its genesis block is {genesis}"
            + (f", that of {actual}." if actual != LOCAL else "."),
            hint=f"Name the intended cluster:  {', '.join(_URLS)}.",
        )


def check_money(cluster: Cluster, genesis: str, *, allow_mainnet: bool) -> None:
    """Raises ``AnchorRefused`` where a fee would be real money without the operator's consent.

    Naming mainnet-beta is a choice; a URL that leads there is not.
    """
    if is_real_money(genesis) and not allow_mainnet and cluster.name != MAINNET:
        raise AnchorRefused(
            f"{cluster.host} is a node of Solana's mainnet, where fees are paid with real money.",
            hint="If that is intended, use --rpc mainnet-beta, or --mainnet with the URL.",
        )


def cluster_name(genesis: str) -> str:
    """Returns the name of the public cluster with this genesis block; ``local`` for every other chain."""
    return _NAMES.get(genesis, LOCAL)


def is_real_money(genesis: str) -> bool:
    return genesis == _GENESIS[MAINNET]


def is_public(genesis: str) -> bool:
    """Returns whether it is one of the public clusters, not a private chain."""
    return genesis in _NAMES


def explorer_url(signature: str, genesis: str, rpc_url: str = "") -> str:
    """Returns where a person can look at a transaction; "" where no explorer could know it.

    An explorer can show a chain on the reader's own machine when the link has its address, which is put there only if
    it is one: other addresses may hold a secret.
    """
    name = _NAMES.get(genesis)
    if name == MAINNET:
        return f"{_EXPLORER}{signature}"
    if name is not None:
        return f"{_EXPLORER}{signature}?cluster={name}"
    if not rpc_url or not _is_loopback(rpc_url):
        return ""
    return f"{_EXPLORER}{signature}?cluster=custom&customUrl={quote('http://' + host_of(rpc_url), safe='')}"


def funding_hint(address: str, genesis: str, rpc_url: str) -> str:
    """Returns how to put lamports onto an address. ``rpc_url`` is shown only where it is on this machine."""
    name = cluster_name(genesis)
    if name == MAINNET:
        return f"Send SOL to {address}."
    if name == LOCAL:
        url = f"http://{host_of(rpc_url)}" if _is_loopback(rpc_url) else "URL"
        return f"To get some:  solana airdrop 1 {address} --url {url}"
    return f"To get some:  solana airdrop 1 {address} --url {name}, or use https://faucet.solana.com."


def why_not_url(url: str) -> str | None:
    """Returns what is wrong with it, as the end of a sentence; None if nothing is."""
    try:
        parts = urlsplit(url)
        port_fault = parts.port == 0
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must begin with http:// or https:// and name a host"
    if port_fault or not url.isascii() or not url.isprintable() or " " in url:
        return "is not a URL"
    if parts.fragment:
        return "must not have a fragment"
    return None


def _is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.query or parts.username or parts.path not in ("", "/"):
        return False
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
