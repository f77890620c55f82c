"""Verifying a statement, check by check, without trust in its maker: offline, by the file alone.

Owns the checks, their names and their order. Each builds on those before it, so the first that fails ends the
examination, and its detail names the place. The scripts in examples/verify make the same checks under the same names.

What a statement cannot show by itself, its checks leave open and say so: what the balance was before the tenant's first
receipt in the file (the statements of the months before show it), and whether the log has receipts of the month after
the last one in the file, where no later one of the tenant was there yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trustgate.errors import TrustGateError, VerificationFailed
from trustgate.receipts.bundle import receipt_of
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint
from trustgate.receipts.merkle import InvalidProof, verify_consistency
from trustgate.receipts.note import VerifierKey, decode_base64
from trustgate.receipts.receipt import FIRST_TPREV, balance_change, leaf_hash
from trustgate.receipts.verify import Checked, Examination, examine_anchor
from trustgate.statements.account import Adding
from trustgate.statements.batch import batch_root
from trustgate.statements.document import (
    StatementDocument,
    document_hash,
    document_of,
    read_document,
)
from trustgate.statements.months import Month, parse_month
from trustgate.statements.opening import Opening, examine_opening
from trustgate.statements.page import page_matches
from trustgate.statements.price_checks import PriceChecks, read_tables
from trustgate.types import Receipt

_ANCHOR_CHECKS = (*("anchor consistency", "anchor transaction", "anchor signature", "anchor memo", "anchor fee payer"),)


@dataclass(frozen=True)
class StatementVerdict(Checked):
    """The checks of a statement. Believe what was found only if the verdict is ``ok``."""

    document: StatementDocument | None = None
    #: What this statement shows for the next month's.
    opening: Opening | None = None


def verify_statement(
    data: bytes,
    *,
    key: VerifierKey | None = None,
    fee_payer: str | None = None,
    earlier: Sequence[Opening] = (),
) -> StatementVerdict:
    """Check the file ``data``: a document, deflated or not, or the HTML that carries one.

    Never raises for what is in it: the verdict names the first check that fails. ``key`` is the log's verifier key as
    the operator publishes it, ``fee_payer`` the address that pays for its anchors (base58): without them the
    statement's own are taken, and the checks say that nothing shows whose they are. ``earlier`` are the tenant's
    statements of months before, each verified.
    """
    record = Examination()
    found = _Found()
    try:
        _examine(record, found, data, key, fee_payer, earlier)
    except VerificationFailed as error:
        record.failed(error)
    except InvalidProof as error:
        record.failed(VerificationFailed(f"The proof does not hold: {error}."))
    except TrustGateError as error:
        record.failed(VerificationFailed(error.message))
    return StatementVerdict(tuple(record.checks), found.document, found.opening)


class _Found:
    def __init__(self) -> None:
        self.document: StatementDocument | None = None
        self.opening: Opening | None = None


def _examine(
    record: Examination,
    found: _Found,
    data: bytes,
    key: VerifierKey | None,
    fee_payer: str | None,
    earlier: Sequence[Opening],
) -> None:
    record.begin("form")
    text = document_of(data)
    document = found.document = read_document(text)
    record.passed(f"A document of the format {document.format}, in its unambiguous form.")

    record.begin("hash")
    if (digest := document_hash(text)) != document.sha256:
        raise VerificationFailed(
            f"The document's SHA-256 is {digest}, not the {document.sha256[:80]} that it names.",
            hint="Something in it was changed after it was made. Ask for it again.",
        )
    record.passed(f"SHA-256 over all of it: {digest}.")

    record.begin("receipts")
    receipts = _receipts(document)
    record.passed(f"{len(receipts)} receipts of {document.account.tenant}, each with all members of its version.")

    record.begin("chain")
    leaves = _examine_chain(document, receipts)
    record.passed(
        f"Numbers {receipts[0].tseq} to {receipts[-1].tseq} of the tenant without a gap, each with the hash of the one "
        "before."
    )

    record.begin("period")
    month = _examine_period(document, receipts)
    after = receipts[-1].created_us >= month.until_us
    record.passed(
        f"{document.account.receipts} receipts of {month.title} (UTC), from its first "
        + (
            "to its last: one of a later month follows."
            if after
            else "on. Whether more followed in the month is for the next statement to show: none was in the log yet."
        )
    )

    checkpoint = _examine_log(record, document, leaves, key)
    _examine_prices(record, document, receipts, month)
    _examine_sums(record, document, receipts, month)
    found.opening = Opening(
        document.account,
        {
            receipt.tseq: (leaf, receipt.created_us, _change(receipt))
            for receipt, leaf in zip(receipts, leaves, strict=True)
        },
        document.key,
    )
    examine_opening(record, document, month, found.opening, earlier)
    _examine_anchored(record, document, checkpoint, fee_payer)
    if data.lstrip()[:1] == b"<":
        record.begin("page")
        if not page_matches(data, document):
            raise VerificationFailed(
                "The page differs from the one that its data gives: it was changed, or made by another version.",
                hint="Believe the data alone; trustgate statement verify shows it.",
            )
        record.passed("The page shows what its data says, to the byte.")


def _receipts(document: StatementDocument) -> list[Receipt]:
    if not document.receipts:
        raise VerificationFailed("The statement has no receipts.")
    receipts = []
    for at, members in enumerate(document.receipts, start=1):
        try:
            receipt = receipt_of(members)
        except VerificationFailed as error:
            raise VerificationFailed(f"Receipt {at} of the file: {error.message}", hint=error.hint) from None
        if receipt.tenant != document.account.tenant:
            raise VerificationFailed(
                f"Receipt {at} of the file ({receipt.id}) is one of {receipt.tenant}, not of {document.account.tenant}."
            )
        receipts.append(receipt)
    return receipts


def _examine_chain(document: StatementDocument, receipts: Sequence[Receipt]) -> list[bytes]:
    """Returns the leaf hashes."""
    leaves: list[bytes] = []
    if receipts[0].tseq < 1 or (receipts[0].tseq == 1) != (receipts[0].tprev == FIRST_TPREV):
        raise VerificationFailed(f"Receipt {receipts[0].id} is not number {receipts[0].tseq} of the tenant.")
    for before, receipt in zip((None, *receipts), receipts, strict=False):
        if before is not None:
            if receipt.tseq != before.tseq + 1:
                raise VerificationFailed(
                    f"After the tenant's receipt {before.tseq} comes {receipt.tseq} ({receipt.id}): "
                    "receipts are left out, or out of order."
                )
            if receipt.tprev != leaves[-1].hex():
                raise VerificationFailed(
                    f"The tenant's receipts {before.tseq} and {receipt.tseq} ({receipt.id}) do not fit together: one "
                    "of the two was changed."
                )
        leaves.append(leaf_hash(receipt))
    return leaves


def _examine_period(document: StatementDocument, receipts: Sequence[Receipt]) -> Month:
    account = document.account
    month = parse_month(account.month)
    for name, said, right in (
        ("from_us", account.from_us, month.from_us),
        ("until_us", account.until_us, month.until_us),
    ):
        if said != right:
            raise VerificationFailed(f"account.{name} is {said}; {month.title} has {right} (UTC).")
    first, last = receipts[0], receipts[-1]
    adding = Adding(account.tenant, month)
    if first.tseq > 1 and adding.counts(first):
        raise VerificationFailed(
            f"The file begins with the tenant's receipt {first.tseq}, which is one of the month: those before it are "
            "left out."
        )
    if not any(map(adding.counts, receipts)):
        is_between = len(receipts) == 2 and first.created_us < month.from_us and last.created_us >= month.until_us
        is_end = len(receipts) == 1 and (first.created_us < month.from_us or first.tseq == 1)
        if not is_between and not is_end:
            raise VerificationFailed("The file has no receipt of the month, nor the two that the month lies between.")
    return month


def _examine_log(
    record: Examination, document: StatementDocument, leaves: Sequence[bytes], key: VerifierKey | None
) -> Checkpoint:
    record.begin("checkpoint")
    own_key = VerifierKey.parse(document.key)
    if key is not None and key != own_key:
        raise VerificationFailed(
            f"The statement names the key {own_key}, not the given one, {key}.",
            hint="Take the verifier key that the operator publishes. If this is it, the statement is forged.",
        )
    checkpoint = open_checkpoint(document.checkpoint.encode(), own_key)
    signed = f"{checkpoint.origin} signed a checkpoint of {checkpoint.size} receipts"
    record.passed(
        f"{signed} with the given key."
        if key is not None
        else f"{signed} with the key that the statement itself names. This shows nothing about whose key it is: "
        f"compare {own_key} with what the operator publishes."
    )

    record.begin("inclusion")
    root = batch_root(document.leaves, leaves, checkpoint.size, _hashes(document.proof, "proof"))
    if root != checkpoint.root:
        raise VerificationFailed(
            f"The receipts and the proof lead to the root {root.hex()}, not to {checkpoint.root.hex()}: a receipt, its "
            "place (leaves) or a hash of the proof was changed."
        )
    record.passed(f"All {len(leaves)} receipts are in the log, at the places named, under its root {root.hex()}.")
    return checkpoint


def _hashes(encoded: Sequence[str], what: str) -> list[bytes]:
    found = []
    for at, text in enumerate(encoded, start=1):
        value = decode_base64(text)
        if value is None or len(value) != 32:
            raise VerificationFailed(f"Number {at} of the hashes in {what} is not 32 bytes in base64.")
        found.append(value)
    return found


def _examine_prices(
    record: Examination, document: StatementDocument, receipts: Sequence[Receipt], month: Month
) -> None:
    """Every cost follows from the receipt's counters and the table with its hash, every bill from cost and factor."""
    record.begin("prices")
    checks = PriceChecks(read_tables(document.prices, receipts))
    for receipt in filter(Adding(document.account.tenant, month).counts, receipts):
        checks.check(receipt)
    record.passed(checks.found())


def _examine_sums(record: Examination, document: StatementDocument, receipts: Sequence[Receipt], month: Month) -> None:
    record.begin("sums")
    account = document.account
    adding = Adding(account.tenant, month)
    for receipt in receipts:
        adding.add(receipt)
    right = adding.account(opening_nano_usd=account.opening_nano_usd, issued_us=account.issued_us)
    for place, said, found in _differences("account", msgspec.to_builtins(account), msgspec.to_builtins(right)):
        raise VerificationFailed(f"{place} is {_short(said)}; the receipts come to {_short(found)}.")
    record.passed(
        f"Every sum follows from the receipts: {account.total.requests} requests, "
        f"{account.total.billed_nano_usd} nano-USD billed."
    )


def _differences(place: str, said: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(said, dict) and isinstance(right, dict):
        for name in right:
            yield from _differences(f"{place}.{name}", said.get(name), right[name])
    elif isinstance(said, list | tuple) and isinstance(right, list | tuple):
        for at, (one, other) in enumerate(zip(said, right, strict=False)):
            yield from _differences(f"{place}[{at}]", one, other)
        if len(said) != len(right):
            yield f"the number of lines in {place}", len(said), len(right)
    elif said != right or type(said) is not type(right):
        yield place, said, right


def _short(value: Any) -> str:
    return ascii(value)[:100]


def _change(receipt: Receipt) -> int:
    charged, credited = balance_change(receipt)
    return credited - charged


def _examine_anchored(
    record: Examination, document: StatementDocument, checkpoint: Checkpoint, fee_payer: str | None
) -> None:
    anchor = document.anchor
    if anchor is None:
        record.begin("anchor consistency")
        if fee_payer is not None:
            raise VerificationFailed(
                "The statement has no anchor, so it has no fee payer.",
                hint="Omit the fee payer, or ask for a statement made after the next anchor.",
            )
        for name in _ANCHOR_CHECKS:
            record.begin(name)
            record.skipped("The statement has no anchor: only the log's key protects the log from being rewritten.")
        return
    record.begin("anchor consistency")
    anchored = open_checkpoint(anchor.checkpoint.encode(), VerifierKey.parse(document.key))
    hashes = _hashes(anchor.consistency, "anchor.consistency")
    verify_consistency(anchored.size, anchored.root, checkpoint.size, checkpoint.root, hashes)
    covered = sum(leaf < anchored.size for leaf in document.leaves)
    record.passed(
        f"The anchored log of {anchored.size} receipts is a beginning of this one. It has "
        + (
            "all of the statement's receipts."
            if covered == len(document.leaves)
            else f"{covered} of the statement's {len(document.leaves)} receipts; the others await the next anchor."
        )
    )
    transaction = decode_base64(anchor.transaction)
    if not transaction:
        record.begin("anchor transaction")
        raise VerificationFailed("The anchor's transaction is not base64.")
    examine_anchor(record, transaction, anchor.checkpoint.encode(), fee_payer)
