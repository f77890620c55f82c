"""What makes payloads the same payment: every spelling of one, and no two different ones."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from tests.support.payments import BASE_USDC, PAYER, evm_payload, evm_requirements
from trustgate.errors import InvalidRequest
from trustgate.formats.spl_token import TOKEN_PROGRAM
from trustgate.payment.networks import BASE, BASE_SEPOLIA, SOLANA, SOLANA_DEVNET
from trustgate.payment.payment_key import Authorization, authorization_of, payer_of, payment_key, transaction_of
from trustgate.payment.x402_wire import read_payment

PAYER_KEY, FEE_KEY = Keypair(), Keypair()


def transaction(seed: int = 0) -> bytes:
    """A transfer of tokens, signed by their owner and by the payer of the fee."""
    accounts = [AccountMeta(Pubkey.new_unique(), False, True) for _ in range(3)]
    accounts.append(AccountMeta(PAYER_KEY.pubkey(), True, False))
    data = bytes([12]) + (1_000).to_bytes(8, "little") + bytes([6])
    transfer = Instruction(Pubkey.from_string(TOKEN_PROGRAM), data, accounts)
    message = MessageV0.try_compile(FEE_KEY.pubkey(), [transfer], [], Hash(seed.to_bytes(32)))
    return bytes(VersionedTransaction(message, [FEE_KEY, PAYER_KEY]))


RAW = transaction()


def key_of(text: str, network: str = SOLANA_DEVNET, **members: Any) -> str:
    return payment_key(2, "exact", network, "mint", {"transaction": text, **members})


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


KEY = key_of(encoded(RAW))

SPELLINGS: dict[str, Callable[[], str]] = {
    "another signature of the fee payer": lambda: encoded(RAW[:1] + b"\7" * 64 + RAW[65:]),
    "no signatures at all": lambda: encoded(RAW[:1] + bytes(128) + RAW[129:]),
    "without padding": lambda: encoded(RAW).rstrip("="),
    "the alphabet of URLs": lambda: base64.urlsafe_b64encode(RAW).decode(),
    "line ends": lambda: "\n".join(encoded(RAW)[at : at + 60] for at in range(0, 4_000, 60)),
    "bytes after the end": lambda: encoded(RAW + b"more"),
    "many bytes after the end": lambda: encoded(RAW + bytes(3_000)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_transaction_is_the_same_payment_however_it_is_written(spelling: str) -> None:
    text = SPELLINGS[spelling]()
    assert text != encoded(RAW)
    assert key_of(text) == KEY


def test_what_stands_beside_a_transaction_changes_nothing() -> None:
    assert key_of(encoded(RAW), memo="x") == KEY
    assert payment_key(1, "exact", SOLANA_DEVNET, "another mint", {"transaction": encoded(RAW)}) == KEY


def test_other_transactions_are_other_payments() -> None:
    assert len({key_of(encoded(transaction(seed))) for seed in range(5)}) == 5


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
def test_what_is_no_transaction_has_a_key_too(text: str) -> None:
    key = key_of(text)
    assert len(key) == 64 and int(key, 16) >= 0
    assert key != KEY
    assert key_of(text) == key


def test_the_payer_of_a_transaction_owns_the_tokens() -> None:
    assert payer_of({"transaction": encoded(RAW)}) == str(PAYER_KEY.pubkey())
    read = transaction_of({"transaction": encoded(RAW + b"more")})
    assert read is not None and read.raw == RAW


AUTHORIZED = evm_payload(evm_requirements(), nonce=7)["payload"]


def evm_key(payload: dict[str, Any], network: str = BASE, asset: str = BASE_USDC) -> str:
    return payment_key(2, "exact", network, asset, payload)


def changed(**members: Any) -> dict[str, Any]:
    payload: dict[str, Any] = copy.deepcopy(AUTHORIZED)
    payload["authorization"] |= members
    return payload


@pytest.mark.parametrize(
    "payload",
    [
        {**AUTHORIZED, "signature": "0x" + "cd" * 65},
        changed(nonce=AUTHORIZED["authorization"]["nonce"].upper().replace("0X", "0x")),
        changed(nonce=AUTHORIZED["authorization"]["nonce"].removeprefix("0x")),
        changed(**{"from": PAYER.lower()}),
        changed(value="1", validBefore="0"),
    ],
    ids=["another signature", "upper case", "no 0x", "no checksum", "another value for the same nonce"],
)
def test_an_authorization_is_known_by_payer_and_nonce(payload: dict[str, Any]) -> None:
    assert evm_key(payload) == evm_key(AUTHORIZED)
    assert evm_key(payload, asset=BASE_USDC.lower(), network=BASE.upper()) == evm_key(AUTHORIZED)


def _presented(payment: str) -> None:
    read_payment({b"payment-signature": base64.b64encode(payment.encode())})


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"payload": {', '"payload": {}, "payload": {'),
        ('"payload": {', '"Payload": {}, "payload": {'),
        ('"nonce": ', '"nonce": "0x01", "nonce": '),
        ('"nonce": ', '"Nonce": "0x01", "nonce": '),
        ('"nonce": ', '"NONCE": '),
        ('"nonce": ', '"non\\u0063e": "0x01", "nonce": '),
        ('"authorization": ', '"Authorization": '),
        ('"x402Version": 2', '"x402Version": 1, "x402Version": 2'),
        ('"x402Version": 2', '"x402version": 1, "x402Version": 2'),
        ('"scheme": ', '"\u017fcheme": "upto", "scheme": '),
    ],
    ids=ascii,
)
def test_a_payment_that_two_readers_read_differently_is_none(written: str, instead: str) -> None:
    """A facilitator that reads it otherwise would settle, and settle again, what is another payment here."""
    payment = json.dumps(evm_payload(evm_requirements(), nonce=7))
    assert payment.count(written) >= 1
    _presented(payment)
    with pytest.raises(InvalidRequest, match="it is not an x402 payment payload"):
        _presented(payment.replace(written, instead))


def test_what_extensions_hold_may_be_called_anything() -> None:
    payment = evm_payload(evm_requirements(), nonce=7)
    _presented(json.dumps({**payment, "extensions": {"other": {"Nonce": 1, "schema": {"Value": {"From": 1}}}}}))


def test_other_authorizations_are_other_payments() -> None:
    keys = [
        evm_key(AUTHORIZED),
        evm_key(AUTHORIZED, network=BASE_SEPOLIA),
        evm_key(AUTHORIZED, asset="0x" + "11" * 20),
        evm_key(changed(nonce="0x" + "22" * 32)),
        evm_key(changed(**{"from": "0x" + "33" * 20})),
    ]
    assert len(set(keys)) == len(keys)


def test_a_permit_is_known_by_its_nonce_whatever_the_token() -> None:
    permit = {"permit2Authorization": {"from": PAYER, "nonce": "255", "deadline": "99"}, "signature": "0x"}
    same = {"permit2Authorization": {"from": PAYER.lower(), "nonce": "0xff", "deadline": "99"}}
    assert evm_key(permit) == evm_key(same, asset="0x" + "11" * 20)
    assert authorization_of(permit) == Authorization("permit2", PAYER.lower(), f"0x{255:064x}", 99)
    assert payer_of(permit) == PAYER


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"authorization": None},
        {"authorization": {"from": 5, "nonce": []}},
        {"authorization": {"from": PAYER, "nonce": "0x12"}},
        {"permit2Authorization": {"from": PAYER, "nonce": "9" * 5_000}},
        {"permit2Authorization": {"from": PAYER, "nonce": "-1"}},
        {"transaction": 7},
        {"transaction": "A" * 100_000},
        {"deep": [[[{"a": 1.5, "b": 10**30, "c": "\ud800"}]]]},
    ],
)
@pytest.mark.parametrize("network", [SOLANA, BASE])
def test_nonsense_has_a_key_of_its_own(payload: dict[str, Any], network: str) -> None:
    assert payment_key(2, "exact", network, "asset", payload) == payment_key(1, "exact", network, "asset", payload)
    assert payment_key(2, "exact", network, "asset", {**payload, "x": 1}) != payment_key(
        2, "exact", network, "asset", payload
    )


def test_the_order_of_members_is_no_difference() -> None:
    assert payment_key(2, "exact", SOLANA, "a", {"x": 1, "y": 2}) == payment_key(
        2, "exact", SOLANA, "a", {"y": 2, "x": 1}
    )
    assert payment_key(2, "exact", SOLANA, "a", {"x": 1}) != payment_key(2, "upto", SOLANA, "a", {"x": 1})


def test_two_authorizations_at_once_are_refused() -> None:
    """A facilitator settles the one of them, and the nonce of the other could be a new one each time."""
    permit = {"from": PAYER, "nonce": "5", "deadline": "2000000000"}
    with pytest.raises(InvalidRequest) as refused:
        evm_key({**AUTHORIZED, "permit2Authorization": permit})
    assert (refused.value.code, bool(refused.value.hint)) == ("invalid_payment", True)
    assert evm_key({**AUTHORIZED, "permit2Authorization": None}) == evm_key(AUTHORIZED)


def test_endless_nesting_is_refused() -> None:
    payload: dict[str, Any] = {}
    for _ in range(100_000):
        payload = {"a": payload}
    try:
        with pytest.raises(InvalidRequest):
            payment_key(2, "exact", SOLANA, "a", payload)
    finally:
        while payload:  # taken apart by hand: freeing it in one go would recurse
            payload = payload["a"]
