"""Names of networks and tokens, and addresses: tables against the SDK's own, checks against what people type."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reached import reached, reaches
from trustgate.errors import InvalidRequest
from trustgate.formats.keccak import _sponge, keccak256
from trustgate.formats.solana_transaction import b58encode
from trustgate.payment import networks
from trustgate.payment.chains.evm import (
    AUTHORIZATION_CANCELED,
    AUTHORIZATION_STATE,
    AUTHORIZATION_USED,
    DECIMALS,
    NAME,
    TRANSFER,
    VERSION,
)
from trustgate.payment.networks import (
    BASE,
    BASE_SEPOLIA,
    SOLANA,
    SOLANA_DEVNET,
    caip2_of,
    check_address,
    checksummed,
    known_asset,
    v1_name_of,
)

#: From EIP-55.
CHECKSUMMED = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]
WALLET = b58encode(hashlib.sha256(b"a wallet").digest())


def sdk_literal(path: str, name: str) -> Any:
    """A table in the SDK's source. Its EVM part cannot be imported without the 40 packages it wants."""
    spec = importlib.util.find_spec("x402")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / path).read_text())
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            assert node.value is not None
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def test_names_are_those_of_the_sdk() -> None:
    chains = sdk_literal("mechanisms/evm/v1/constants.py", "V1_NETWORK_CHAIN_IDS")
    from x402.mechanisms.svm.constants import V1_TO_V2_NETWORK_MAP

    wanted = {name: f"eip155:{number}" for name, number in chains.items()} | V1_TO_V2_NETWORK_MAP
    assert {name: caip2_of(name) for name in wanted} == wanted
    assert {name: v1_name_of(network) for name, network in wanted.items()} == {name: name for name in wanted}


def test_tokens_are_those_of_the_sdk() -> None:
    from x402.mechanisms.svm.default_assets import DEFAULT_ASSETS

    for network, listed in networks._ASSETS.items():
        for symbol, asset in listed.items():
            if networks.is_solana(network):
                entry: Any = DEFAULT_ASSETS[network][0]
                assert (asset.name, asset.version) == ("", "")
            else:
                entry = sdk_literal("mechanisms/evm/default_assets.py", "DEFAULT_ASSETS")[network][0]
                assert (asset.name, asset.version) == (entry["name"], entry["version"])
            assert (asset.address, asset.decimals, symbol) == (
                entry["asset"],
                entry["decimals"],
                entry["symbol"].lower(),
            )
            assert check_address(network, asset.address, "asset") == asset.address


def test_base_and_base_sepolia_sign_under_different_names() -> None:
    base, sepolia = known_asset(BASE, "usdc"), known_asset(BASE_SEPOLIA, "USDC")
    assert base is not None and sepolia is not None
    assert (base.name, base.version, sepolia.name, sepolia.version) == ("USD Coin", "2", "USDC", "2")


def test_a_known_token_is_known_by_its_address_in_any_case() -> None:
    usdc = known_asset(BASE, "usdc")
    assert usdc is not None
    assert known_asset(BASE, usdc.address.lower()) == usdc
    assert known_asset(BASE, "0x" + "11" * 20) is None
    mint = known_asset(SOLANA, "usdc")
    assert mint is not None and known_asset(SOLANA, mint.address.lower()) is None


@pytest.mark.parametrize("name", ["Solana-Devnet", " solana-devnet ", SOLANA_DEVNET])
def test_a_network_by_any_of_its_names(name: str) -> None:
    assert caip2_of(name) == SOLANA_DEVNET


@pytest.mark.parametrize("name", ["eip155:10", "solana:abc"])
def test_any_caip2_id_is_a_network(name: str) -> None:
    assert caip2_of(name) == name
    assert v1_name_of(name) is None


@pytest.mark.parametrize(
    "name", ["", "bitcoin", "eip155:", "eip155:0x1", "eip155:01", "solana:", "solana:a b", "x" * 999]
)
def test_what_is_no_network_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        caip2_of(name)
    assert refused.value.param == "network"
    assert refused.value.hint and len(refused.value.message) < 120


@pytest.mark.parametrize("network", [SOLANA_DEVNET, "eip155:10"])
def test_an_unknown_name_of_a_token_is_refused(network: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        known_asset(network, "usdx")
    assert refused.value.param == "asset"


# addresses


@pytest.mark.parametrize("address", CHECKSUMMED)
def test_checksums_are_those_of_eip_55(address: str) -> None:
    assert checksummed(address.lower()) == address
    for spelled in (address, address.lower(), "0x" + address[2:].upper()):
        assert check_address(BASE, spelled, "pay_to") == address


@reaches(0.8)
@settings(deadline=None)
@given(st.binary(min_size=20, max_size=20).filter(any), st.data())
def test_a_wrong_digit_does_not_pass_as_an_address(raw: bytes, data: st.DataObject) -> None:
    right = checksummed("0x" + raw.hex())
    letters = [place for place in range(2, 42) if right[place].isalpha()]
    if len({right[place].isupper() for place in letters}) < 2:
        return
    place = data.draw(st.sampled_from(letters))
    wrong = right[:place] + right[place].swapcase() + right[place + 1 :]
    if wrong[2:] in (wrong[2:].lower(), wrong[2:].upper()):
        return
    reached()
    with pytest.raises(InvalidRequest, match="checksum"):
        check_address(BASE, wrong, "pay_to")


@pytest.mark.parametrize(
    ("network", "address"),
    [
        (BASE, ""),
        (BASE, WALLET),
        (BASE, "0x" + "1" * 39),
        (BASE, "0x" + "0" * 40),
        (BASE, "0x" + "g" * 40),
        (SOLANA, ""),
        (SOLANA, CHECKSUMMED[0]),
        (SOLANA, WALLET[:-3]),
        (SOLANA, WALLET + "1111"),
        (SOLANA, WALLET.replace(WALLET[5], "0")),
        (SOLANA, "1" * 500),
    ],
)
def test_what_is_no_address_is_refused(network: str, address: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_address(network, address, "pay_to")
    assert (refused.value.param, refused.value.code) == ("pay_to", "bad_address")
    assert refused.value.hint


def test_an_address_of_solana() -> None:
    assert check_address(SOLANA, f" {WALLET} ", "pay_to") == WALLET


# the hash


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_the_permutation_is_that_of_sha3(data: bytes) -> None:
    """SHA3-256 is the same sponge with another padding, and the standard library has it."""
    assert _sponge(data, 0x06) == hashlib.sha3_256(data).digest()


def test_keccak_256() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"


@pytest.mark.parametrize(
    ("signature", "selector"),
    [
        ("authorizationState(address,bytes32)", AUTHORIZATION_STATE),
        ("decimals()", DECIMALS),
        ("name()", NAME),
        ("version()", VERSION),
        ("AuthorizationUsed(address,bytes32)", AUTHORIZATION_USED),
        ("AuthorizationCanceled(address,bytes32)", AUTHORIZATION_CANCELED),
        ("Transfer(address,address,uint256)", TRANSFER),
    ],
)
def test_selectors_are_hashes_of_their_signatures(signature: str, selector: str) -> None:
    digest = f"0x{keccak256(signature.encode()).hex()}"
    assert digest[: len(selector)] == selector
    assert len(selector) in (10, 66)
