"""Bundles: made, and checked without trust in their maker. Every way to spoil one is noticed, by its proper check."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import REQUEST, RESPONSE, Damage, Hostile, SampleLog, damaged, hostile
from tests.support.entries import make_credit, make_receipt, receipts
from trustgate.errors import VerificationFailed
from trustgate.receipts.bundle import make_bundle, read_bundle, receipt_of
from trustgate.receipts.checkpoint import Checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.proof import InclusionProof, format_proof
from trustgate.receipts.receipt import canonical, salt
from trustgate.receipts.verify import CHAIN_NOT_ASKED, Check, Verdict, verify_bundle
from trustgate.types import (
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    Receipt,
)

LOG = SampleLog()
GOOD = LOG.bundle()
DAMAGED = list(damaged(GOOD))
PAID = SampleLog(v=2)
#: What is not of the receipt is damaged in the other, too.
DAMAGED_PAID = [damage for damage in damaged(PAID.bundle()) if damage.name.startswith("receipt.")]
PRICED = SampleLog(v=10)
DAMAGED_PRICED = [
    damage
    for damage in damaged(PRICED.bundle())
    if damage.name.startswith(
        tuple(f"receipt.{name}" for name in (*RECEIPT_PRICE_MEMBERS, *RECEIPT_END_USER_MEMBERS, *RECEIPT_WORK_MEMBERS))
    )
]

NAMES = [
    *("form", "receipt", "leaf", "proof", "checkpoint", "inclusion", "request", "response"),
    *("anchor transaction", "anchor signature", "anchor memo", "anchor fee payer"),
]


def states(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.state for check in verdict.checks}


def refused_by(data: bytes, **given_: Any) -> str:
    """The check that the bundle fails; every one before it passed or was not made, and none comes after."""
    verdict = verify_bundle(data, **given_)
    assert not verdict.ok
    assert verdict.failed is verdict.checks[-1]
    assert [check.name for check in verdict.checks] == NAMES[: len(verdict.checks)]
    assert "failed" not in [check.state for check in verdict.checks[:-1]]
    return verdict.checks[-1].name


def test_a_good_bundle_passes_every_check() -> None:
    verdict = verify_bundle(GOOD, key=LOG.verifier, request=REQUEST, response=RESPONSE, fee_payer=LOG.fee_payer)

    assert verdict.ok and verdict.failed is None
    assert [(check.name, check.state) for check in verdict.checks] == [(name, "passed") for name in NAMES]
    assert verdict.receipt == LOG.receipt
    assert verdict.checkpoint is not None and verdict.checkpoint.size == LOG.size
    assert verdict.transaction is not None and verdict.transaction.raw == LOG.anchor()
    verdict.require()


def test_what_was_not_given_is_said_not_to_be_checked() -> None:
    verdict = verify_bundle(GOOD)
    details = {check.name: check.detail for check in verdict.checks}

    assert verdict.ok
    assert [name for name, state in states(verdict).items() if state == "not checked"] == ["request", "response"]
    assert "nothing about whose key it is" in details["checkpoint"] and LOG.vkey in details["checkpoint"]
    assert LOG.fee_payer in details["anchor fee payer"] and "Compare" in details["anchor fee payer"]


def test_without_an_anchor_the_rest_is_checked_all_the_same() -> None:
    verdict = verify_bundle(LOG.bundle(anchor=None), key=LOG.verifier)

    assert verdict.ok and verdict.transaction is None
    assert [name for name, state in states(verdict).items() if name.startswith("anchor") and state == "passed"] == []
    assert refused_by(LOG.bundle(anchor=None), fee_payer=LOG.fee_payer) == "anchor transaction"


@pytest.mark.parametrize(
    ("size", "index"), [(1, 0), (2, 1), (3, 2), (256, 255), (257, 256), (1000, 0), (70_000, 69_999)]
)
def test_receipts_anywhere_in_logs_of_any_size(size: int, index: int) -> None:
    log = SampleLog(size, index)

    assert verify_bundle(log.bundle(), key=log.verifier).ok


@given(receipts())
def test_every_receipt_that_can_occur_survives_the_document(receipt: Receipt) -> None:
    """To the byte of its canonical form, whatever its texts hold."""
    document = make_bundle(receipt=receipt, proof=LOG.proof, salts={}, vkey=LOG.vkey, anchor=None)

    assert canonical(receipt_of(read_bundle(document).receipt)) == canonical(receipt)
    assert refused_by(document) == "inclusion"


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.name)
def test_damage_is_noticed(damage: Damage) -> None:
    """Every value changed, every member missing or doubled: nothing in a bundle is unbound."""
    assert damage.data != GOOD
    assert refused_by(damage.data, request=REQUEST, response=RESPONSE)


@pytest.mark.parametrize("damage", DAMAGED_PAID, ids=lambda damage: damage.name)
def test_damage_to_a_receipt_of_version_2_is_noticed(damage: Damage) -> None:
    assert damage.data != PAID.bundle()
    assert refused_by(damage.data, request=REQUEST, response=RESPONSE)


@pytest.mark.parametrize("version", [3, 4, 5, 6])
def test_receipts_with_what_a_price_looked_at_hold(version: int) -> None:
    log = SampleLog(v=version)

    verdict = verify_bundle(log.bundle(), key=log.verifier, request=REQUEST, response=RESPONSE)

    assert verdict.ok and verdict.receipt == log.receipt
    assert f"version {version}" in verdict.checks[1].detail


@pytest.mark.parametrize("damage", DAMAGED_PRICED, ids=lambda damage: damage.name)
def test_damage_to_what_a_price_looked_at_is_noticed(damage: Damage) -> None:
    assert damage.data != PRICED.bundle()
    assert refused_by(damage.data, request=REQUEST, response=RESPONSE)


def test_receipts_of_version_2_hold() -> None:
    verdict = verify_bundle(PAID.bundle(), key=PAID.verifier, request=REQUEST, response=RESPONSE)

    assert verdict.ok and verdict.receipt == PAID.receipt
    assert "version 2" in verdict.checks[1].detail
    unpaid = dict.fromkeys(RECEIPT_PAYMENT_MEMBERS[2:], "")
    for receipt in (make_receipt(2, v=2, **unpaid), make_credit(2), make_credit(2, key="", **unpaid)):
        log = SampleLog(3, 1, forged=json.loads(canonical(receipt)))
        verdict = verify_bundle(log.bundle(), key=log.verifier)
        assert verdict.ok and verdict.receipt == receipt


def test_what_is_wrong_with_a_receipt_is_said() -> None:
    first, second, third = (json.loads(canonical(make_receipt(v=version))) for version in (1, 2, 3))
    for members, why in (
        ({**first, "payment": ""}, "none of version 1 has: 'payment'"),
        ({**first, "v": 2}, "version 2 lacks charged_nano_usd, credited_nano_usd, payment, payment_amount"),
        ({**second, "v": 11}, "none of the versions 1 to 10"),
        ({**second, "v": 3}, "version 3 lacks audio_completion_tokens, audio_ms"),
        ({**third, "finish": "credited"}, "version 3, which has no finish 'credited'"),
        ({**third, "charged_nano_usd": 0}, "none of version 3 has: 'charged_nano_usd'"),
        ({**third, "price_known": 1}, "price_known"),
        ({**first, "finish": "credited"}, "version 1, which has no finish 'credited'"),
        ({**second, "payment_amount": "1.5"}, "payment_amount is not decimal digits"),
        ({**second, "charged_nano_usd": -1}, "charged_nano_usd is less than nothing"),
        ({**second, "payment_payer": None}, "payment_payer"),
    ):
        with pytest.raises(VerificationFailed, match=re.escape(why)):
            receipt_of(members)


@pytest.mark.parametrize(
    ("member", "value", "check"),
    [
        ("format", "trustgate-receipt-bundle@v2", "form"),
        ("receipt.v", 2, "receipt"),
        ("receipt.status", -1, "receipt"),
        ("receipt.stream", 0, "receipt"),
        ("receipt.status", True, "receipt"),
        ("receipt.finish", "whatever", "receipt"),
        ("receipt.tprev", "A" * 64, "receipt"),
        ("receipt.cost_nano_usd", 1, "inclusion"),
        ("receipt.model", "gpt-5", "inclusion"),
        ("salts.request", "0" * 64, "request"),
        ("salts.response", "0" * 64, "response"),
        ("salts.response", None, "response"),
        ("salts.request", "A" * 64, "form"),
        ("proof", "c2sp.org/tlog-proof@v2\n", "proof"),
        ("key", "", "checkpoint"),
        ("anchor", "AAAA", "anchor transaction"),
        ("anchor", "AAA", "form"),
    ],
)
def test_damage_is_noticed_by_the_check_whose_business_it_is(member: str, value: Any, check: str) -> None:
    document = json.loads(GOOD)
    parent = document
    *path, last = member.split(".")
    for name in path:
        parent = parent[name]
    parent[last] = value

    data = json.dumps(document, ensure_ascii=False).encode()
    assert refused_by(data, request=REQUEST, response=RESPONSE) == check


def test_blanks_and_the_order_of_members_are_free() -> None:
    document = json.loads(GOOD)
    document["receipt"] = dict(reversed(document["receipt"].items()))
    written = json.dumps(dict(reversed(document.items())), ensure_ascii=False, indent="\t").replace("\n", "\r\n")

    assert verify_bundle(f" \n{written}\n\n".encode(), request=REQUEST, response=RESPONSE).ok


def test_the_key_to_check_with_decides() -> None:
    """A bundle that vouches for itself, made by a forger from end to end, holds only until it meets the log's key."""
    forger = SampleLog(origin=LOG.key.name)
    forger.key = LogKey(LOG.key.name, bytes(32))
    forger.note = sign_checkpoint(Checkpoint(LOG.key.name, forger.size, forger.root), forger.key)

    assert verify_bundle(forger.bundle()).ok
    assert refused_by(forger.bundle(), key=LOG.verifier) == "checkpoint"
    assert refused_by(forger.bundle(vkey=LOG.vkey), key=LOG.verifier) == "checkpoint"


def test_a_checkpoint_of_another_log_is_refused_under_its_own_key() -> None:
    """The names of key and origin have to agree, else one log could speak for another."""
    impostor = LogKey("other.example/log", bytes(32))
    text = LOG.note.decode().split("\n\n")[0] + "\n"
    proof = format_proof(InclusionProof(LOG.index, tuple(LOG.hashes), impostor.sign(text)))

    assert refused_by(LOG.bundle(proof=proof, vkey=str(impostor.verifier))) == "checkpoint"


def test_the_receipt_of_another_leaf_is_refused() -> None:
    assert refused_by(LOG.bundle(receipt=make_receipt(7))) == "inclusion"


@pytest.mark.parametrize("bundle", list(hostile(LOG)), ids=lambda bundle: bundle.name)
def test_what_is_signed_and_still_wrong(bundle: Hostile) -> None:
    assert refused_by(bundle.data) == bundle.check


def test_the_fee_payer_has_to_be_the_given_one() -> None:
    other = SampleLog(2, 0).key.verifier
    assert refused_by(GOOD, fee_payer=str(other)) == "anchor fee payer"


@pytest.mark.parametrize("content", ["request", "response"])
def test_a_commitment_opens_to_its_content_alone(content: str) -> None:
    assert refused_by(GOOD, **{content: b""}) == content
    assert refused_by(GOOD, **{content: RESPONSE if content == "request" else REQUEST}) == content


def test_one_commitment_can_be_opened_without_the_other() -> None:
    bundle = LOG.bundle(disclose=("response",))

    assert verify_bundle(bundle, response=RESPONSE).ok
    assert refused_by(bundle, request=REQUEST) == "request"
    assert salt(LOG.secret, "request").hex() not in bundle.decode()
    assert LOG.secret.hex() not in GOOD.decode()


def test_a_failed_verdict_raises_naming_the_check() -> None:
    verdict = verify_bundle(LOG.bundle(receipt=make_receipt(7)))

    with pytest.raises(VerificationFailed, match="'inclusion'") as caught:
        verdict.require()
    assert caught.value.param == "inclusion" and caught.value.exit_code == 7


def test_checks_made_elsewhere_join_the_verdict() -> None:
    verdict = verify_bundle(GOOD)

    assert verdict.plus(CHAIN_NOT_ASKED).ok
    failed = verdict.plus(Check("chain", "failed", "No such transaction."))
    assert not failed.ok and failed.failed == failed.checks[-1]
    assert verdict.ok


def test_no_bytes_crash_it() -> None:
    """A broken piece anywhere in the bundle ends in a verdict, and in a good one only if it says the same as before."""
    generator = hashlib.sha256(b"seed").digest()
    for number in range(500):
        generator = hashlib.sha256(generator).digest()
        at = int.from_bytes(generator[:4]) % len(GOOD)
        data = GOOD[:at] + generator[4 : 5 + number % 3] + GOOD[at + 1 :]
        verdict = verify_bundle(data, request=REQUEST, response=RESPONSE)
        assert not verdict.ok or verdict.receipt == LOG.receipt


@given(st.text(max_size=200))
def test_no_key_crashes_it(text: str) -> None:
    document = make_bundle(receipt=LOG.receipt, proof=LOG.proof, salts={}, vkey=text, anchor=None)

    assert refused_by(document) == "checkpoint"
