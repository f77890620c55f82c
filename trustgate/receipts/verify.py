"""Checking a bundle: what it shows, check by check, to somebody who trusts neither its holder nor this gateway.

Owns the checks, their names and their order. Each builds on those before it, so the first that fails ends the
examination. What needs a chain to be asked is not here: its caller adds that check to the verdict. The scripts in
examples/verify make the same checks under the same names.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Literal, NamedTuple

from trustgate.errors import VerificationFailed
from trustgate.receipts.bundle import Bundle, Label, read_bundle, receipt_of
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint
from trustgate.receipts.merkle import InvalidProof, verify_inclusion
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.proof import InclusionProof, parse_proof
from trustgate.receipts.receipt import canonical, leaf_hash
from trustgate.solana.transaction import Transaction, read_transaction
from trustgate.types import Receipt

State = Literal["passed", "failed", "not checked"]

#: What ``verify_bundle`` checks, in this order.
CHECKS = (
    "form",
    "receipt",
    "leaf",
    "proof",
    "checkpoint",
    "inclusion",
    "request",
    "response",
    "anchor transaction",
    "anchor signature",
    "anchor memo",
    "anchor fee payer",
)

_NO_ANCHOR = "The bundle has no anchor: no chain vouches for the time or the permanence of the checkpoint."


class Check(NamedTuple):
    """One check that was made, or why it was not. ``detail`` is a sentence for people."""

    name: str
    state: State
    detail: str
    #: Of a failed check: what to do next, where that can be said.
    hint: str | None = None


class Verdict(NamedTuple):
    """The checks in their order; a failed one is the last. What was found is None where it was not reached.

    Believe what was found only if the verdict is ``ok``.
    """

    checks: tuple[Check, ...]
    receipt: Receipt | None = None
    checkpoint: Checkpoint | None = None
    #: The anchor's transaction; None also where the bundle has none.
    transaction: Transaction | None = None

    @property
    def failed(self) -> Check | None:
        """The check that failed, if one did."""
        return next((check for check in self.checks if check.state == "failed"), None)

    @property
    def ok(self) -> bool:
        return self.failed is None

    def plus(self, check: Check) -> Verdict:
        """The verdict with one more check, made elsewhere: whether a chain knows the transaction."""
        return self._replace(checks=(*self.checks, check))

    def require(self) -> None:
        """Raises VerificationFailed, ``param`` naming the check, if one failed."""
        if (failed := self.failed) is not None:
            raise VerificationFailed(
                f"The check {failed.name!r} failed: {failed.detail}", hint=failed.hint, param=failed.name
            )


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
    examination = _Examination(data, key, {"request": request, "response": response}, fee_payer)
    checks: list[Check] = []
    for name in CHECKS:
        try:
            state, detail = examination.make(name)
        except VerificationFailed as error:
            checks.append(Check(name, "failed", error.message, error.hint))
            break
        checks.append(Check(name, state, detail))
    return Verdict(tuple(checks), examination.receipt, examination.checkpoint, examination.transaction)


_Outcome = tuple[Literal["passed", "not checked"], str]


class _Examination:
    """One bundle under examination. Each check takes what those before it found; all raise VerificationFailed."""

    bundle: Bundle
    receipt: Receipt | None = None
    proof: InclusionProof
    checkpoint: Checkpoint | None = None
    transaction: Transaction | None = None

    def __init__(
        self, data: bytes, key: VerifierKey | None, contents: dict[Label, bytes | None], fee_payer: str | None
    ) -> None:
        self._data = data
        self._key = key
        self._contents = contents
        self._fee_payer = fee_payer
        made: tuple[Callable[[], _Outcome], ...] = (
            self._form,
            self._receipt,
            self._leaf,
            self._proof,
            self._checkpoint,
            self._inclusion,
            lambda: self._opening("request"),
            lambda: self._opening("response"),
            self._anchor_transaction,
            self._anchor_signature,
            self._anchor_memo,
            self._anchor_fee_payer,
        )
        self._checks = dict(zip(CHECKS, made, strict=True))

    def make(self, name: str) -> _Outcome:
        return self._checks[name]()

    def _form(self) -> _Outcome:
        self.bundle = read_bundle(self._data)
        return "passed", f"A document of the format {self.bundle.format}, written without ambiguity."
