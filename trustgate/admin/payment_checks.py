"""What ``doctor`` asks of payments: open ones, debts, prices, and whether each offer can still be settled."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from trustgate.admin.context import AdminContext
from trustgate.admin.money import (
    PaymentCheck,
    PaymentFinding,
)
from trustgate.admin.payment_terms import network_name, priced_passports
from trustgate.errors import TrustGateError
from trustgate.formats.written import counted
from trustgate.ids import now_us
from trustgate.payment.chains.nodes import node_hint
from trustgate.payment.facilitators.registry import EMBEDDED
from trustgate.payment.x402_wire import usd
from trustgate.store import PaymentFilter, ReceiptFilter
from trustgate.types import Offer, PaymentTerms, Tenant

_PAYMENTS_MOST = 10_000
_DEBTORS_MOST = 20
_RECEIPTS_PAGE = 1_000
#: Fees that a fee payer should at least have left: some hundred payments' worth.
_LEAST_LAMPORTS = 1_000_000
#: Of one payment: two signatures.
_FEE_LAMPORTS = 10_000


async def payment_check(context: AdminContext, command: PaymentCheck) -> tuple[PaymentFinding, ...]:
    living = {tenant.id: tenant for tenant in context.directory.tenants() if tenant.status != "removed"}
    paying = [terms for terms in context.directory.all_terms() if terms.mode != "off" and terms.tenant_id in living]
    found = [*await _open_findings(context), *_price_findings(context, paying, living)]
    payment_service = await context.books.payment_service()
    found += await _debt_findings(context, payment_service.balances.tenants(), living)
    if paying:
        offers = {(offer.facilitator, offer.network): offer for terms in paying for offer in terms.offers}
        await payment_service.facilitators.prepare(offers.values())
        found += [await _offer_finding(context, offer) for offer in offers.values()]
    return tuple(found)


async def _open_findings(context: AdminContext) -> list[PaymentFinding]:
    unknown = await context.store.payments(PaymentFilter(states=("unknown",), limit=_PAYMENTS_MOST))
    if not unknown:
        return []
    first = min(payment.created_us for payment in unknown)
    minutes = max(0, now_us() - first) // 60_000_000
    return [
        PaymentFinding(
            status="warn",
            message=f"the outcome of {counted(len(unknown), 'payment')} is unknown, the oldest {minutes} minutes old",
            hint="trustgate payment reconcile",
        )
    ]


async def _debt_findings(
    context: AdminContext, balances: Mapping[str, int], living: Mapping[str, Tenant]
) -> list[PaymentFinding]:
    """Tenants whose balance is below zero, each with the day since when."""
    found = []
    for tenant_id, balance in sorted(balances.items(), key=lambda item: item[1]):
        if balance >= 0 or tenant_id not in living:
            continue
        name = living[tenant_id].name
        since_us = await _below_zero_since(context, tenant_id, balance)
        found.append(
            PaymentFinding(
                status="warn",
                message=f"{name} owes {usd(-balance)} USD since {_instant(since_us)}: its last requests used more than "
                "was held for them; the next payment asks for it as well",
                hint=f"trustgate tenant credit {shlex.quote(name)}",
            )
        )
        if len(found) == _DEBTORS_MOST:
            break
    return found


async def _below_zero_since(context: AdminContext, tenant_id: str, balance: int) -> int:
    """When the balance last fell below zero, microseconds UTC: read back from the newest receipt."""
    await context.flush()
    since_us, until_seq = 0, None
    while balance < 0:
        query = ReceiptFilter(tenant_id=tenant_id, until_seq=until_seq, limit=_RECEIPTS_PAGE)
        entries = await context.store.entries(query)
        for entry in entries:
            if balance >= 0:
                break
            receipt = entry.receipt
            since_us = receipt.created_us
            if isinstance(receipt.charged_nano_usd, int) and isinstance(receipt.credited_nano_usd, int):
                balance += receipt.charged_nano_usd - receipt.credited_nano_usd
        if len(entries) < _RECEIPTS_PAGE:
            break
        until_seq = entries[-1].seq - 1
    return since_us


def _instant(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us / 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"


def _price_findings(
    context: AdminContext, paying: list[PaymentTerms], living: dict[str, Tenant]
) -> Iterator[PaymentFinding]:
    by_passport = [living[terms.tenant_id].name for terms in paying if terms.price_nano_usd is None]
    if not by_passport:
        return
    priced, unpriced = priced_passports(context)
    whose = ", ".join(by_passport[:5]) + (f" and {len(by_passport) - 5} more" if len(by_passport) > 5 else "")
    hint = "trustgate passport set SLUG --input-price USD --output-price USD"
    if not priced:
        yield PaymentFinding(
            status="fail", message=f"{whose} pay the prices of passports, and no passport has one", hint=hint
        )
    elif unpriced:
        slugs = ", ".join(passport.slug for passport in unpriced[:5])
        more = f" and {len(unpriced) - 5} more" if len(unpriced) > 5 else ""
        yield PaymentFinding(status="warn", message=f"without a price, so refused to {whose}: {slugs}{more}", hint=hint)


async def _offer_finding(context: AdminContext, offer: Offer) -> PaymentFinding:
    """Returns whether this offer can be settled: the facilitator still does, and the fee payer can pay."""
    where = f"{network_name(offer.network)} by {offer.facilitator}"
    payment_service = await context.books.payment_service()
    facilitators = payment_service.facilitators
    if not payment_service.nodes.has(offer.network):
        return PaymentFinding(
            status="fail",
            message=f"{where}: what becomes of its payments cannot be looked up, for there is no node to ask",
            hint=node_hint(offer.network),
        )
    try:
        kinds = await (await facilitators.get(offer.facilitator)).supported()
        if not any(kind.scheme == offer.scheme and kind.network == offer.network for kind in kinds):
            return PaymentFinding(
                status="fail",
                message=f"{where}: it no longer settles on that network",
                hint=f"trustgate payment set TENANT --network {network_name(offer.network)} --pay-to {offer.pay_to} "
                "--facilitator URL",
            )
        said = next(
            (kind.extra.get("feePayer") for kind in kinds if kind.network == offer.network and kind.x402_version == 2),
            None,
        )
        if said is not None and said != offer.extra.get("feePayer"):
            return PaymentFinding(
                status="fail",
                message=f"{where}: its fee payer is now {said}, but offers still name {offer.extra.get('feePayer')}",
                hint="trustgate payment refresh",
            )
        if offer.facilitator != EMBEDDED:
            said = facilitators.extension_responses(offer.facilitator)
            taken = "".join(f"; of the extension {name} it says: {text}" for name, text in said.items())
            return PaymentFinding(status="ok", message=where + taken)
        lamports = await facilitators.embedded().balance(offer.network)
    except TrustGateError as error:
        return PaymentFinding(status="fail", message=f"{where}: {error.message}", hint=error.hint)
    payer = offer.extra.get("feePayer", "")
    message = f"{where}; {payer} has {lamports:,} lamports for fees"
    if lamports >= _LEAST_LAMPORTS:
        return PaymentFinding(status="ok", message=message)
    hint = f"Send some SOL to {payer}: a payment costs about {_FEE_LAMPORTS:,} lamports."
    return PaymentFinding(status="fail" if lamports < _FEE_LAMPORTS else "warn", message=message, hint=hint)
