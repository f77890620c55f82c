"""The receipt: its canonical form, its leaf hash, its commitments."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from msgspec import UNSET

from tests.support.entries import make_credit, make_receipt, receipts
from trustgate.receipts.receipt import canonical, commitment, commitments, leaf_hash
from trustgate.types import (
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    Receipt,
)


@given(receipts())
def test_the_canonical_form_is_jcs(receipt: Receipt) -> None:
    """RFC 8785, of what can occur in a receipt: no blanks, names in order, as little escaped as JSON lets."""
    members = {name: getattr(receipt, name) for name in Receipt.__struct_fields__}
    present = {name: value for name, value in members.items() if value is not UNSET}
    expected = json.dumps(present, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert canonical(receipt) == expected.encode()


def test_every_member_of_its_version_is_in_the_canonical_form() -> None:
    """Members with defaults too: a checker must not need to know what ours are."""
    payment, price = set(RECEIPT_PAYMENT_MEMBERS), set(RECEIPT_PRICE_MEMBERS)
    end_user = set(RECEIPT_END_USER_MEMBERS)
    work = set(RECEIPT_WORK_MEMBERS)
    first = set(Receipt.__struct_fields__) - payment - price - end_user - work
    for receipt, members in (
        (make_receipt(), first),
        (make_receipt(v=2), first | payment),
        (make_credit(), first | payment),
        (make_receipt(v=3), first | price),
        (make_receipt(v=4), first | payment | price),
        (make_receipt(v=5), first | price | end_user),
        (make_receipt(v=6), first | payment | price | end_user),
        (make_receipt(v=7), first | price | work),
        (make_receipt(v=8), first | payment | price | work),
        (make_receipt(v=9), first | price | end_user | work),
        (make_receipt(v=10), first | payment | price | end_user | work),
    ):
        assert set(json.loads(canonical(receipt))) == members


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        # Computed by the program as it was before there was a version 2.
        (1, "afe7aee1b41594ce67608f9fc312f399b48ef059ce43ce7b195582fb671d869e"),
        (2, "c4336552e4285bd75da22587c03a61f06dbb5630b17b4f1b52f4a6a0318456b0"),
        # As it was before there was a version 5.
        (3, "5ab7c306b596574ba428966b45d7b2f4f054d7267af128e3abbeedad0de96225"),
        (4, "b906d36d9ab9e6ff0c44a1c2fbdf1c1db473c1e2675c2833990493b491d897f3"),
        # As it was before there was a version 7.
        (5, "268c70e48f4b195abc8dff07c7afade73acfb8b95ac7dee94e92de8df75234a2"),
        (6, "8c23ecb33e0d76792b75f73f83cce5a33c6474b4e3f587a6252a34424da1cf8f"),
        # As it was when it came.
        (7, "a75bc7ab3632d53a842b6763aeca682a82e6bdf07c1008f804a6400917c6164f"),
        (8, "4d8a855efcdbf6e723010da55f0c3c3578eaa1087746598e2b63f8ebb6e432fa"),
    ],
)
def test_a_version_never_changes(version: int, expected: str) -> None:
    """Receipts are checked years after they were issued: not a byte of a version's form may ever be another."""
    assert leaf_hash(make_receipt(1, id="rcpt_1", v=version)).hex() == expected


def test_the_leaf_hash_is_rfc_6962s() -> None:
    receipt = make_receipt()

    assert leaf_hash(receipt) == hashlib.sha256(b"\x00" + canonical(receipt)).digest()
    assert leaf_hash(receipt) != leaf_hash(make_receipt(2))


def test_a_commitment_can_be_opened_without_the_secret() -> None:
    """Its salt and the content are enough, and say nothing of the other commitment's salt."""
    secret, digest = bytes(range(32)), hashlib.sha256(b"the prompt").digest()
    salt = hmac.new(secret, b"request", "sha256").digest()

    assert commitment(secret, "request", digest) == hmac.new(salt, digest, "sha256").hexdigest()
    assert commitment(secret, "request", digest) != commitment(secret, "response", digest)
    assert commitment(secret, "request", digest) != commitment(bytes(32), "request", digest)
    both = commitment(secret, "request", digest), commitment(secret, "response", bytes(32))
    assert commitments(secret, digest, bytes(32)) == both
