"""Verifying a bundle, check by check, without trust in its holder or this gateway.

Owns the checks, their names and their order. Each builds on those before it, so the first that fails ends the
examination. What needs a chain to be asked is not here: its caller adds that check to the verdict. The scripts in
examples/verify make the same checks under the same names.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from trustgate.errors import VerificationFailed
from trustgate.formats.solana_transaction import Transaction, read_transaction
from trustgate.receipts.bundle import Label, read_bundle, receipt_of
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint
from trustgate.receipts.merkle import InvalidProof, verify_inclusion
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.proof import parse_proof
from trustgate.receipts.receipt import canonical, leaf_hash
from trustgate.types import Receipt

State = Literal["passed", "failed", "not checked"]

_NO_ANCHOR = "The bundle has no anchor: only the log's key protects the log from being rewritten."


class Check(NamedTuple):
    """One check that was made, or why it was not. ``detail`` is a sentence for people."""

    name: str
    state: State
    detail: str
    #: Of a failed check: what to do next, where that can be said.
    hint: str | None = None


#: The detail of the check when the chain is not asked.
CHAIN_NOT_ASKED = Check("chain", "not checked", "Only the chain can show whether the transaction reached it.")


@dataclass(frozen=True)
class Checked:
    """The checks in their order; a failed one is the last."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> Check | None:
        """The check that failed, if one did."""
        return next((check for check in self.checks if check.state == "failed"), None)

    @property
    def ok(self) -> bool:
        return self.failed is None

    def require(self) -> None:
        """Raises VerificationFailed, ``param`` naming the check, if one failed."""
        if (failed := self.failed) is not None:
            raise VerificationFailed(
                f"The check {failed.name!r} failed: {failed.detail}", hint=failed.hint, param=failed.name
            )


@dataclass(frozen=True)
class Verdict(Checked):
    """The checks of a bundle. What was found is None where it was not reached.

    Believe what was found only if the verdict is ``ok``.
    """

    receipt: Receipt | None = None
    checkpoint: Checkpoint | None = None
    #: The anchor's transaction; None also where the bundle has none.
    transaction: Transaction | None = None

    def plus(self, check: Check) -> Verdict:
        """Returns the verdict with one more check, made elsewhere: whether a chain knows the transaction."""
        return replace(self, checks=(*self.checks, check))


def verify_bundle(
    data: bytes,
    *,
    key: VerifierKey | None = None,
    request: bytes | None = None,
    response: bytes | None = None,
    fee_payer: str | None = None,
) -> Verdict:
    """Check the document ``data``. Never raises for what is in it: the verdict names the first check that fails.

    ``key`` is the log's verifier key as the operator publishes it, ``fee_payer`` the address that pays for its anchors
    (base58): without them the bundle's own are taken, and the checks say that nothing shows whose they are.
    ``request`` and ``response`` are contents that the commitments are to be opened to, byte for byte.
    """
    record = Examination()
    try:
        _examine(record, data, key, {"request": request, "response": response}, fee_payer)
    except VerificationFailed as error:
        record.failed(error)
    return Verdict(tuple(record.checks), record.receipt, record.checkpoint, record.transaction)


class Examination:
    """What has been checked and found so far."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.receipt: Receipt | None = None
        self.checkpoint: Checkpoint | None = None
        self.transaction: Transaction | None = None
        self._name = ""

    def begin(self, name: str) -> None:
        self._name = name

    def passed(self, detail: str) -> None:
        self.checks.append(Check(self._name, "passed", detail))

    def skipped(self, detail: str) -> None:
        self.checks.append(Check(self._name, "not checked", detail))

    def failed(self, error: VerificationFailed) -> None:
        self.checks.append(Check(self._name, "failed", error.message, error.hint))


def _examine(
    record: Examination,
    data: bytes,
    key: VerifierKey | None,
    contents: dict[Label, bytes | None],
    fee_payer: str | None,
) -> None:
    """Every check in its order. Raises VerificationFailed in the one that fails."""
    record.begin("form")
    bundle = read_bundle(data)
    record.passed(f"A document of the format {bundle.format}, in its unambiguous form.")

    record.begin("receipt")
    receipt = record.receipt = receipt_of(bundle.receipt)
    size = len(canonical(receipt))
    record.passed(f"All members of a version {receipt.v} receipt and no other; {size} bytes in RFC 8785 form.")

    record.begin("leaf")
    leaf = leaf_hash(receipt)
    record.passed(f"The receipt's leaf hash is {leaf.hex()}.")

    record.begin("proof")
    proof = parse_proof(bundle.proof.encode())
    if proof.extra:
        raise VerificationFailed("The proof has extra data, which nothing authenticates; a bundle's proof has none.")
    record.passed(f"A tlog-proof of {len(proof.hashes)} hashes for leaf {proof.index}.")

    record.begin("checkpoint")
    own_key = VerifierKey.parse(bundle.key)
    if key is not None and key != own_key:
        raise VerificationFailed(
            f"The bundle names the key {own_key}, not the given one, {key}.",
            hint="Take the verifier key of the log that issued the receipt. If this is it, the bundle is forged.",
        )
    checkpoint = record.checkpoint = open_checkpoint(proof.checkpoint, own_key)
    signed = f"{checkpoint.origin} signed a checkpoint of {checkpoint.size} receipts"
    record.passed(
        f"{signed} with the given key."
        if key is not None
        else f"{signed} with the key that the bundle itself names. This shows nothing about whose key it is: compare "
        f"{own_key} with what the operator publishes."
    )

    record.begin("inclusion")
    try:
        verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    except InvalidProof as error:
        raise VerificationFailed(f"The receipt is not in the log at this place: {error}.") from None
    record.passed(f"Leaf {proof.index} of the {checkpoint.size} under the root {checkpoint.root.hex()} is the receipt.")

    _examine_opening(record, "request", bundle.salt("request"), contents["request"], receipt.request_commitment)
    _examine_opening(record, "response", bundle.salt("response"), contents["response"], receipt.response_commitment)
    examine_anchor(record, bundle.transaction, proof.checkpoint, fee_payer)


def _examine_opening(
    record: Examination, label: Label, salt: bytes | None, content: bytes | None, commitment: str
) -> None:
    """HMAC(salt, SHA-256(content)) is the commitment."""
    record.begin(label)
    if content is None:
        disclosed = "is not disclosed" if salt is None else "is disclosed, but no content was given"
        record.skipped(f"The salt of the commitment to the {label} {disclosed}.")
        return
    if salt is None:
        raise VerificationFailed(
            f"The bundle does not disclose the salt of the commitment to the {label}.",
            hint=f"Ask its holder for a bundle that discloses the {label}.",
        )
    if hmac.digest(salt, hashlib.sha256(content).digest(), "sha256").hex() != commitment:
        raise VerificationFailed(
            f"The given {label} is not what the receipt was issued for.",
            hint="It has to be the same bytes, down to blanks and line ends; or the salt was altered.",
        )
    record.passed(f"The receipt was issued for the given {label} of {len(content)} bytes.")


def examine_anchor(record: Examination, raw: bytes | None, note: bytes, fee_payer: str | None) -> None:
    """The transaction is one, is signed, carries the checkpoint, and is paid for by whom it should be."""
    record.begin("anchor transaction")
    if raw is None:
        if fee_payer is not None:
            raise VerificationFailed(
                "The bundle has no anchor, so it has no fee payer.",
                hint="Omit the fee payer, or ask for a bundle made after the next anchor.",
            )
        for name in ("anchor transaction", "anchor signature", "anchor memo", "anchor fee payer"):
            record.begin(name)
            record.skipped(_NO_ANCHOR)
        return
    transaction = record.transaction = read_transaction(raw)
    record.passed(f"A well-formed Solana transaction of {len(raw)} bytes.")

    record.begin("anchor signature")
    transaction.verify_signatures()
    record.passed(f"Signed by all its signers; it is known as {transaction.signature}.")

    record.begin("anchor memo")
    if transaction.memos != (note,):
        raise VerificationFailed(
            f"The transaction carries {len(transaction.memos)} memos, of which one alone has to be the checkpoint, "
            "to the byte."
        )
    record.passed("Its one memo is the signed checkpoint, to the byte.")

    record.begin("anchor fee payer")
    paid = transaction.fee_payer
    if fee_payer is not None and fee_payer != paid:
        raise VerificationFailed(f"{paid} signed and paid for the transaction, not {fee_payer}.")
    record.passed(
        f"{paid}, the given address, signed and paid for it."
        if fee_payer is not None
        else f"{paid} signed and paid for it. Compare this address with the one that the operator publishes."
    )
