"""Clusters: what is meant by a name, what must not be taken for another, and what may be shown."""

from __future__ import annotations

import pytest

from trustgate.errors import AnchorRefused, SettingsError
from trustgate.solana.clusters import (
    MAINNET,
    Cluster,
    check_genesis,
    check_money,
    cluster_name,
    explorer_url,
    find_cluster,
    funding_hint,
    is_public,
    is_real_money,
)

DEVNET_GENESIS = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"
TESTNET_GENESIS = "4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"
MAINNET_GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
OWN_GENESIS = "9cEGFPCBcMCjZ6LwSU4nWCSw1vTQdpXE1JyQx2RZ3CRH"


@pytest.mark.parametrize("name", ["devnet", "testnet", "mainnet-beta"])
def test_a_public_cluster_has_an_address(name: str) -> None:
    cluster = find_cluster(name)
    assert cluster == Cluster(name, f"https://api.{name}.solana.com")
    assert cluster.host == f"api.{name}.solana.com"


def test_local_is_on_this_machine() -> None:
    assert find_cluster("local").url == "http://127.0.0.1:8899"


@pytest.mark.parametrize(
    "url",
    [
        "https://rpc.example.com",
        "http://[::1]:8899",
        "https://user:word@rpc.example.com/v2/key?api-key=abc",
        "http://h:1/",
    ],
)
def test_a_url_is_taken_as_it_is(url: str) -> None:
    assert find_cluster(url) == Cluster("custom", url)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mainnet", "There is no cluster 'mainnet'"),
        ("", "There is no cluster"),
        ("sk_live_51H8fjdkslfjdskfjdksjfkdsjfkj", r"There is no cluster\.$"),
        ("ftp://rpc.example.com", "must begin with http"),
        ("wss://rpc.example.com", "must begin with http"),
        ("https://", "must begin with http"),
        ("https://host:0", "is not a URL"),
        ("https://host:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://host/ path", "is not a URL"),
        ("https://höst", "is not a URL"),
        ("https://host\n", "is not a URL"),
        ("https://host/#part", "fragment"),
    ],
)
def test_what_is_no_cluster_is_refused_with_what_there_is(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        find_cluster(text)
    assert caught.value.hint


def test_an_api_key_in_a_url_is_never_shown() -> None:
    cluster = find_cluster("https://me:pass@rpc.example.com:8443/v2/SECRET?api-key=HIDDEN")
    assert cluster.host == "rpc.example.com:8443"
    assert "SECRET" not in repr(cluster) and "HIDDEN" not in repr(cluster) and "pass" not in repr(cluster)
    with pytest.raises(SettingsError) as caught:
        find_cluster("htps://rpc.example.com/SECRET")
    assert "SECRET" not in caught.value.message


def test_the_genesis_block_decides_what_a_chain_is_called() -> None:
    names = [cluster_name(g) for g in (DEVNET_GENESIS, TESTNET_GENESIS, MAINNET_GENESIS, OWN_GENESIS)]
    assert names == ["devnet", "testnet", "mainnet-beta", "local"]
    assert [is_public(g) for g in (DEVNET_GENESIS, OWN_GENESIS)] == [True, False]
    assert [is_real_money(g) for g in (MAINNET_GENESIS, DEVNET_GENESIS, OWN_GENESIS)] == [True, False, False]


@pytest.mark.parametrize(
    ("name", "genesis"),
    [("devnet", DEVNET_GENESIS), ("testnet", TESTNET_GENESIS), (MAINNET, MAINNET_GENESIS), ("local", OWN_GENESIS)]
    + [("custom", genesis) for genesis in (DEVNET_GENESIS, TESTNET_GENESIS, MAINNET_GENESIS, OWN_GENESIS)],
)
def test_a_node_of_the_cluster_that_is_meant_is_accepted(name: str, genesis: str) -> None:
    check_genesis(Cluster(name, "https://rpc.example.com"), genesis)


@pytest.mark.parametrize(
    ("name", "genesis"),
    [
        ("devnet", MAINNET_GENESIS),
        ("devnet", OWN_GENESIS),
        ("testnet", DEVNET_GENESIS),
        (MAINNET, DEVNET_GENESIS),
        ("local", DEVNET_GENESIS),
        ("local", MAINNET_GENESIS),
    ],
)
def test_a_node_of_another_cluster_is_refused(name: str, genesis: str) -> None:
    with pytest.raises(AnchorRefused, match=rf"rpc\.example\.com is not {name}: its genesis block is {genesis}"):
        check_genesis(Cluster(name, "https://rpc.example.com/secret"), genesis)


def test_real_money_needs_a_choice() -> None:
    url = Cluster("custom", "https://rpc.example.com")
    with pytest.raises(AnchorRefused, match="real money"):
        check_money(url, MAINNET_GENESIS, allow_mainnet=False)
    check_money(url, MAINNET_GENESIS, allow_mainnet=True)
    check_money(Cluster(MAINNET, "https://rpc.example.com"), MAINNET_GENESIS, allow_mainnet=False)
    check_money(url, DEVNET_GENESIS, allow_mainnet=False)


def test_where_to_look_at_a_transaction() -> None:
    base = "https://explorer.solana.com/tx/SIG"
    assert explorer_url("SIG", MAINNET_GENESIS) == base
    assert explorer_url("SIG", DEVNET_GENESIS, "https://rpc.example.com/key") == f"{base}?cluster=devnet"
    own = f"{base}?cluster=custom&customUrl=http%3A%2F%2F127.0.0.1%3A8899"
    assert explorer_url("SIG", OWN_GENESIS, "http://127.0.0.1:8899") == own
    assert explorer_url("SIG", OWN_GENESIS, "http://localhost:1/").endswith("http%3A%2F%2Flocalhost%3A1")


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://rpc.example.com", "http://10.0.0.7:8899", "http://127.0.0.1:1/key", "http://127.0.0.1:1?k=1"),
        *("http://u:p@127.0.0.1:1", "https://127.0.0.1:1", "http://node:8899"),
    ],
)
def test_an_address_that_could_hold_a_secret_is_put_into_no_link(url: str) -> None:
    assert explorer_url("SIG", OWN_GENESIS, url) == ""
    assert url == "" or url.removeprefix("http") not in funding_hint("ADDRESS", OWN_GENESIS, url)


def test_how_to_fund_an_address() -> None:
    assert "airdrop 1 ADDRESS --url devnet" in funding_hint("ADDRESS", DEVNET_GENESIS, "https://x")
    assert funding_hint("ADDRESS", MAINNET_GENESIS, "https://x") == "Send SOL to ADDRESS."
    assert "--url http://127.0.0.1:8899" in funding_hint("ADDRESS", OWN_GENESIS, "http://127.0.0.1:8899")
