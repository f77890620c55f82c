"""The commands on payments and on balances.

Owns that every change of a balance by the operator is a receipt before it is a balance.
"""

from __future__ import annotations

import re
import shlex

from msgspec.structs import replace

from trustgate.admin.background_work import ReportProgress
from trustgate.admin.books import receipt_detail
from trustgate.admin.context import AdminContext
from trustgate.admin.crediting import (
    book_note,
    change_balance,
    checked_amount,
    checked_reference,
    finish_notes,
    note_of,
    repeated,
)
from trustgate.admin.money import (
    Payer,
    PaymentDetail,
    PaymentList,
    PaymentReconcile,
    PaymentRefundCredit,
    PaymentResolve,
    PaymentShow,
    Reconciled,
    ReconcileState,
    Refund,
)
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.payment.x402_wire import usd
from trustgate.store import PaymentFilter
from trustgate.types import OPEN, PAID, Payment, Tenant

_PAYMENTS_MOST = 10_000
#: The states in which a payment may stay for ever where no node can be asked.
_UNDECIDED = frozenset({"settling", "unknown"})
#: As Solana (base58) and EVM chains write them.
_TRANSACTION = re.compile(r"[1-9A-HJ-NP-Za-km-z]{64,88}|0x[0-9a-fA-F]{64}")


async def payment_list(context: AdminContext, command: PaymentList) -> tuple[Payment, ...]:
    if not 1 <= command.limit <= _PAYMENTS_MOST:
        raise InvalidRequest(f"limit must lie between 1 and {_PAYMENTS_MOST}.", param="limit")
    tenant_id = None if command.tenant is None else context.tenant(command.tenant).id
    payments = await context.store.payments(
        PaymentFilter(tenant_id=tenant_id, states=command.states, before_id=command.before_id, limit=command.limit)
    )
    return tuple(_unsigned(payment) for payment in payments)


async def payment_show(context: AdminContext, command: PaymentShow) -> PaymentDetail:
    payment = await context.store.payment(command.payment)
    if payment is None:
        raise NotFound(
            f"There is no payment {command.payment!r}.", hint="trustgate payment list", code="payment_not_found"
        )
    await context.flush()
    entry = await context.store.payment_receipt(payment)
    return PaymentDetail(payment=payment, receipt=None if entry is None else receipt_detail(entry))


def _unsigned(payment: Payment) -> Payment:
    return replace(payment, payload=b"", requirements=b"")


async def payment_reconcile(context: AdminContext, command: PaymentReconcile) -> ReconcileState:
    async def work(report: ReportProgress) -> tuple[Reconciled, ...]:
        return await _reconcile(context, report)

    stage, payments = await context.reconciling.advance(command.reconcile, work, "Looking for open payments")
    return ReconcileState(stage=stage, payments=payments)


async def _reconcile(context: AdminContext, report: ReportProgress) -> tuple[Reconciled, ...]:
    # Before the room is opened: opening it ends what a dead process left.
    query = PaymentFilter(states=tuple(sorted(OPEN)), limit=None)  # type: ignore[arg-type]
    before = await context.store.payments(query)
    payment_service = await context.books.payment_service()
    await payment_service.facilitators.prepare([payment.offer for payment in before])
    report(f"Asking about {len(before)} payments")
    await payment_service.reconciler.reconcile()
    await context.flush()
    found = []
    for payment in before:
        now = await context.store.payment(payment.id)
        problem = payment_service.reconciler.problems.get(payment.id, "")
        found.append(
            Reconciled(before=payment.state, payment=_unsigned(now or payment), released=now is None, problem=problem)
        )
    return tuple(found)


async def payment_resolve(context: AdminContext, command: PaymentResolve) -> PaymentDetail:
    """Raises ``NotFound``, ``Conflict`` for a payment whose outcome is known, ``InvalidRequest`` for no transaction."""
    payment_service = await context.books.payment_service()
    payment = await context.store.payment(command.payment)
    if payment is None:
        raise NotFound(
            f"There is no payment {command.payment!r}.", hint="trustgate payment list", code="payment_not_found"
        )
    if payment.state not in _UNDECIDED or payment_service.cashier.is_active(payment):
        raise Conflict(
            f"Payment {payment.id} is {payment.state}: only one whose outcome is unknown can be resolved.",
            hint="trustgate payment list --state unknown",
            code="payment_decided",
        )
    if command.settled is not None and not _TRANSACTION.fullmatch(command.settled):
        raise InvalidRequest(
            f"{command.settled!r} is not a transaction of a network.",
            hint="A Solana signature is 87 or 88 letters and digits, an EVM hash 0x and 64 hexadecimal digits.",
            param="settled",
        )
    await payment_service.reconciler.resolve(payment, command.settled)
    return await payment_show(context, PaymentShow(payment=payment.id))


# balances


async def payment_refund_credit(context: AdminContext, command: PaymentRefundCredit) -> Refund:
    tenant = context.tenant(command.tenant)
    reference = checked_reference(command.reference)
    payment_service = await context.books.payment_service()
    payers = await _payers(context, tenant)
    note = note_of(await finish_notes(context, tenant), reference)
    if note is not None:
        amount = -note.credited_nano_usd if command.amount_nano_usd is None else command.amount_nano_usd
        return Refund(change=await repeated(context, tenant, note, -amount), refunded_nano_usd=amount, payers=payers)
    free = payment_service.balances.balance(tenant.id) - payment_service.balances.held(tenant.id)
    amount = free if command.amount_nano_usd is None else checked_amount(command.amount_nano_usd, "refund")
    if not 0 < amount <= free:
        raise Conflict(
            f"{tenant.name} has {usd(max(free, 0))} USD that could be paid back"
            + (f", not {usd(amount)}." if amount > 0 else "."),
            hint=f"trustgate tenant credit {shlex.quote(tenant.name)}",
            code="balance_too_small",
        )
    change = await (
        book_note(context, tenant, -amount, reference=reference)
        if reference
        else change_balance(context, tenant, -amount)
    )
    return Refund(change=change, refunded_nano_usd=amount, payers=payers)


async def _payers(context: AdminContext, tenant: Tenant) -> tuple[Payer, ...]:
    """Who paid how much, the last to pay first."""
    query = PaymentFilter(tenant_id=tenant.id, states=tuple(sorted(PAID)), limit=None)  # type: ignore[arg-type]
    found: dict[tuple[str, str, str], Payer] = {}
    for payment in await context.store.payments(query):
        offer = payment.offer
        known = found.get((payment.payer, offer.network, offer.asset))
        found[payment.payer, offer.network, offer.asset] = Payer(
            payer=payment.payer,
            network=offer.network,
            asset=offer.asset,
            decimals=offer.decimals,
            amount=str(int(payment.amount) + (0 if known is None else int(known.amount))),
            value_nano_usd=payment.value_nano_usd + (0 if known is None else known.value_nano_usd),
        )
    return tuple(found.values())
