"""The receipt: its canonical form, its leaf hash, its commitments."""

from __future__ import annotations

import hashlib
import hmac
import json

from hypothesis import given

from tests.support.entries import make_receipt, receipts
from trustgate.receipts.receipt import canonical, commitment, leaf_hash
from trustgate.types import Receipt


@given(receipts())
def test_the_canonical_form_is_jcs(receipt: Receipt) -> None:
    """RFC 8785, of what can occur in a receipt: no blanks, names in order, as little escaped as JSON lets."""
    members = {name: getattr(receipt, name) for name in Receipt.__struct_fields__}
    expected = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert canonical(receipt) == expected.encode()


def test_every_member_is_in_the_canonical_form() -> None:
    """Members with defaults too: whoever checks a receipt must not need to know what ours are."""
    assert sorted(json.loads(canonical(make_receipt()))) == sorted(Receipt.__struct_fields__)


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
