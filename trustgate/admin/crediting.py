"""The commands on balances: what an operator adds or pays back, and what a mistaken price is given back.

Owns that a credit or refund with a reference counts once: its note is in the database before its receipt is in the
log, and a note whose receipt a crash has prevented gets it with the next command on that tenant's balance. A refund
gets it only where the balance still has that much: the requests that came in between may have used it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from trustgate.admin.context import AdminContext
from trustgate.admin.money import BalanceChange, TenantCredit
from trustgate.errors import Conflict, InvalidRequest, Unavailable
from trustgate.ids import new_id, now_us
from trustgate.payment.credit import append_credit
from trustgate.payment.x402_wire import usd
from trustgate.types import NANO_USD_PER_USD, CreditNote, Tenant

#: One million dollars: more is a slip of the finger.
_MOST_NANO_USD = 1_000_000 * NANO_USD_PER_USD
_REFERENCE_MOST = 200


async def tenant_credit(context: AdminContext, command: TenantCredit) -> BalanceChange:
    """Add to or take from a balance. Returns the balance, changed or not.

    Raises ``Conflict`` for a tenant that draws on no balance, and for a reference that another amount has.
    """
    tenant = context.tenant(command.tenant)
    if not command.add_nano_usd:
        balances = await context.books.balances()
        return BalanceChange(
            tenant=tenant, balance_nano_usd=balances.balance(tenant.id), held_nano_usd=balances.held(tenant.id)
        )
    amount = checked_amount(command.add_nano_usd, "credit")
    reference = checked_reference(command.reference)
    notes = await finish_notes(context, tenant)
    note = note_of(notes, reference)
    if note is not None:
        return await repeated(context, tenant, note, amount)
    _check_draws(context, tenant)
    if not reference:
        return await change_balance(context, tenant, amount)
    return await book_note(context, tenant, amount, reference=reference)


def note_of(notes: Sequence[CreditNote], reference: str) -> CreditNote | None:
    """Returns the note that has this reference; "" is none."""
    return next((note for note in notes if reference and note.reference == reference), None)


async def repeated(context: AdminContext, tenant: Tenant, note: CreditNote, nano_usd: int) -> BalanceChange:
    """Returns what a command with a note's reference is answered: nothing is changed by it.

    Raises ``Conflict`` where it has another amount, and where it was broken off and the balance has too little for it.
    """
    if note.credited_nano_usd != nano_usd:
        what = "a refund of " if note.credited_nano_usd < 0 else ""
        raise Conflict(
            f"The reference {note.reference!r} was used for {what}{usd(abs(note.credited_nano_usd))} USD.",
            hint="Give another reference, or the same amount to see the balance.",
            code="reference_used",
        )
    if not await _finish(context, note):
        raise Conflict(
            f"The refund with the reference {note.reference!r} was broken off, and {tenant.name} has less than "
            f"{usd(abs(nano_usd))} USD by now: nothing was taken.",
            hint=f"Pay back what there is, with another reference: trustgate tenant credit {shlex.quote(tenant.name)}",
            code="balance_too_small",
        )
    balances = await context.books.balances()
    return BalanceChange(
        tenant=tenant,
        balance_nano_usd=balances.balance(tenant.id),
        held_nano_usd=balances.held(tenant.id),
        receipt=note.receipt_id,
        repeated=True,
    )


def _check_draws(context: AdminContext, tenant: Tenant) -> None:
    if tenant.status == "removed":
        raise Conflict(
            f"The tenant {tenant.name!r} was removed.", hint=f"trustgate tenant restore {shlex.quote(tenant.id)}"
        )
    terms = context.directory.terms(tenant.id)
    if terms is None or terms.mode == "off":
        raise Conflict(
            f"{tenant.name} draws on no balance: its requests are not charged, so a credit would lie idle. Let it "
            f"draw on credit first: trustgate payment set {shlex.quote(tenant.name)} --mode prepaid",
            hint=f"To give back what a mistaken price billed: trustgate tenant correct {shlex.quote(tenant.name)} "
            "--since DATE",
            code="not_prepaid",
        )


def checked_amount(nano_usd: int, what: str) -> int:
    """Raises ``InvalidRequest`` unless it is an amount that can be meant."""
    if not 1 <= nano_usd <= _MOST_NANO_USD:
        raise InvalidRequest(
            f"The {what} must be more than 0 and at most {usd(_MOST_NANO_USD)} USD.", param=what, code="bad_amount"
        )
    return nano_usd


def checked_reference(reference: str) -> str:
    """Raises ``InvalidRequest`` for what is no reference; "" is none."""
    if len(reference) > _REFERENCE_MOST or not reference.isprintable() or reference != reference.strip():
        raise InvalidRequest(
            f"A reference has at most {_REFERENCE_MOST} printable characters, without blanks around it.",
            param="reference",
        )
    return reference


async def finish_notes(context: AdminContext, tenant: Tenant) -> list[CreditNote]:
    """Returns the notes of a tenant's credits and refunds, each with its receipt in the log but for refunds that were
    broken off and that the balance had too little for.

    Commands run one after the other and each finishes before it begins, so of the others only the newest can lack its
    receipt.
    """
    notes = await context.store.credit_notes(tenant.id)
    if notes:
        await _finish(context, notes[-1])
    return notes


async def _finish(context: AdminContext, note: CreditNote) -> bool:
    """Write a note's receipt where it has none yet.

    Returns:
        Whether it has one now: a refund gets none while the balance has less than that free.
    """
    await context.flush()
    if await _has_receipt(context, note):
        return True
    if note.credited_nano_usd < 0:
        balances = await context.books.balances()
        if balances.balance(note.tenant_id) - balances.held(note.tenant_id) < -note.credited_nano_usd:
            return False
    await _write_receipt(context, note)
    return True


async def _has_receipt(context: AdminContext, note: CreditNote) -> bool:
    """Returns whether a note's receipt is in the log: so, too, where it is of the time of an archive file that is
    away. It is months old then, and credit can be added while such a file is elsewhere.
    """
    try:
        return await context.store.entry(note.receipt_id) is not None
    except Unavailable as error:
        if error.code != "archive_unavailable":
            raise
        return True


async def book_note(
    context: AdminContext, tenant: Tenant, nano_usd: int, *, reference: str, corrects: tuple[int, ...] = ()
) -> BalanceChange:
    """Keep the note of a credit (below zero: of a refund), then write its receipt; durable when this returns."""
    payment_service = await context.books.payment_service()
    payment_service.log.check_room(1)
    at_us = now_us()
    note = CreditNote(
        id=new_id("credit", at_us),
        tenant_id=tenant.id,
        reference=reference,
        receipt_id=new_id("rcpt", at_us),
        credited_nano_usd=nano_usd,
        corrects=corrects,
        created_us=at_us,
    )
    await context.store.put(note)
    await _write_receipt(context, note)
    return _changed(tenant, payment_service.balances.balance(tenant.id), payment_service.balances.held(tenant.id), note)


def _changed(tenant: Tenant, balance: int, held: int, note: CreditNote) -> BalanceChange:
    return BalanceChange(tenant=tenant, balance_nano_usd=balance, held_nano_usd=held, receipt=note.receipt_id)


async def _write_receipt(context: AdminContext, note: CreditNote) -> None:
    payment_service = await context.books.payment_service()
    append_credit(
        payment_service.log,
        note.tenant_id,
        minted=(note.receipt_id, note.created_us),
        credited_nano_usd=max(note.credited_nano_usd, 0),
        charged_nano_usd=max(-note.credited_nano_usd, 0),
        about=about(note),
    )
    payment_service.balances.change(note.tenant_id, note.credited_nano_usd)
    await context.flush()


def about(note: CreditNote) -> bytes:
    """What the receipt of a credit commits to in place of a request: its reference, and the receipts it corrects."""
    return msgspec.json.encode({"corrects": note.corrects, "reference": note.reference})


async def change_balance(context: AdminContext, tenant: Tenant, nano_usd: int) -> BalanceChange:
    """Write the receipt, then change the balance with it; durable when this returns."""
    payment_service = await context.books.payment_service()
    payment_service.log.check_room(1)
    entry = append_credit(
        payment_service.log, tenant.id, credited_nano_usd=max(nano_usd, 0), charged_nano_usd=max(-nano_usd, 0)
    )
    payment_service.balances.change(tenant.id, nano_usd)
    await context.flush()
    return BalanceChange(
        tenant=tenant,
        balance_nano_usd=payment_service.balances.balance(tenant.id),
        held_nano_usd=payment_service.balances.held(tenant.id),
        receipt=entry.receipt.id,
    )
