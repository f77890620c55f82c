"""The commands on how tenants pay, on payments and on balances.

Owns who settles where an operator does not say (``_facilitator_for``), and that every change of a balance by the
operator is a receipt before it is a balance.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from trustgate.admin.background_work import ReportProgress
from trustgate.admin.books import receipt_detail
from trustgate.admin.commands import AnchorKey
from trustgate.admin.context import AdminContext
from trustgate.admin.money import (
    BalanceChange,
    OfferWanted,
    Payer,
    PaymentCheck,
    PaymentDetail,
    PaymentFinding,
    PaymentKeygen,
    PaymentList,
    PaymentOff,
    PaymentReconcile,
    PaymentRefundCredit,
    PaymentResolve,
    PaymentSet,
    PaymentShow,
    PaymentTermsList,
    Reconciled,
    ReconcileState,
    Refund,
    TenantCredit,
    TermsDetail,
)
from trustgate.errors import Conflict, InvalidRequest, NotFound, TrustGateError
from trustgate.ids import now_us
from trustgate.models.pricing import FREE, NOT_PRICED
from trustgate.payment.credit import append_credit
from trustgate.payment.facilitators.registry import EMBEDDED
from trustgate.payment.networks import (
    BASE_SEPOLIA,
    SOLANA,
    SOLANA_DEVNET,
    SOLANA_TESTNET,
    caip2_of,
    check_address,
    v1_name_of,
)
from trustgate.payment.x402_wire import usd
from trustgate.settings import Settings
from trustgate.store import PaymentFilter, ReceiptFilter
from trustgate.types import NANO_USD_PER_USD, OPEN, PAID, Offer, Passport, Payment, PaymentTerms, Prices, Tenant

_PAYMENTS_MOST = 10_000
#: The states in which a payment may stay for ever where no node can be asked.
_UNDECIDED = frozenset({"settling", "unknown"})
#: As Solana (base58) and EVM chains write them.
_TRANSACTION = re.compile(r"[1-9A-HJ-NP-Za-km-z]{64,88}|0x[0-9a-fA-F]{64}")
#: One million dollars: more is a slip of the finger.
_MOST_NANO_USD = 1_000_000 * NANO_USD_PER_USD
_OFFERS_MOST = 16
_DEBTORS_MOST = 20
_RECEIPTS_PAGE = 1_000
#: Settles on test networks, for free.
_TEST_FACILITATOR = "https://x402.org/facilitator"
_TEST_NETWORKS = frozenset({SOLANA_DEVNET, SOLANA_TESTNET, BASE_SEPOLIA})
#: Fees that a fee payer should at least have left: some hundred payments' worth.
_LEAST_LAMPORTS = 1_000_000
#: Of one payment: two signatures.
_FEE_LAMPORTS = 10_000


# terms


async def payment_set(context: AdminContext, command: PaymentSet) -> TermsDetail:
    tenant = _living(context, command.tenant)
    old = context.directory.terms(tenant.id)
    terms = old or PaymentTerms(tenant_id=tenant.id, mode="off", created_us=now_us())
    if command.mode is not None:
        terms = replace(terms, mode=command.mode)
    elif terms.mode == "off":
        terms = replace(terms, mode="per-request")
    if command.by_passport:
        if command.price_nano_usd is not None:
            raise InvalidRequest("A price for every request and the passports' prices exclude each other.")
        terms = replace(terms, price_nano_usd=None)
    elif command.price_nano_usd is not None:
        terms = replace(terms, price_nano_usd=_amount(command.price_nano_usd, "price", least=1))
    if command.top_up_nano_usd is not None:
        terms = replace(terms, top_up_nano_usd=_amount(command.top_up_nano_usd, "top-up", least=1))
    _check_sellable(context, terms)
    if not command.offers and not terms.offers:
        raise InvalidRequest(
            "No network is set for this tenant's payments.",
            hint=f"trustgate payment set {shlex.quote(tenant.name)} --network solana-devnet --pay-to ADDRESS",
            param="network",
            code="no_network",
        )
    notes = []
    for wanted in command.offers:
        offer = await _checked(context, wanted)
        terms = replace(terms, offers=_with(terms.offers, offer))
        if wanted.facilitator is None:
            notes.append(_default_facilitator_note(context, offer))
    if len(terms.offers) > _OFFERS_MOST:
        raise InvalidRequest(f"At most {_OFFERS_MOST} networks can be offered.", param="network")
    await context.keep(terms)
    if terms.offers:
        await (await context.books.payment_service()).facilitators.prepare(terms.offers)
    return await _detail(context, tenant, terms, *notes, *_notes(context, terms))


async def payment_off(context: AdminContext, command: PaymentOff) -> TermsDetail:
    tenant = _living(context, command.tenant)
    terms = _terms(context, tenant)
    if command.network is None:
        terms = replace(terms, mode="off")
    else:
        network = caip2_of(command.network)
        left = tuple(offer for offer in terms.offers if offer.network != network)
        if len(left) == len(terms.offers):
            raise NotFound(
                f"{tenant.name} does not pay on {_name(network)}.",
                hint=f"trustgate payment terms {shlex.quote(tenant.name)}",
                code="offer_not_found",
            )
        if not left and terms.mode != "off":
            raise Conflict(
                f"{_name(network)} is the only network that {tenant.name} can pay on.",
                hint=f"trustgate payment off {shlex.quote(tenant.name)}",
                code="last_network",
            )
        terms = replace(terms, offers=left)
    await context.keep(terms)
    return await _detail(context, tenant, terms)


async def payment_terms(context: AdminContext, command: PaymentTermsList) -> tuple[TermsDetail, ...]:
    tenants = {tenant.id: tenant for tenant in context.directory.tenants()}
    if command.tenant is not None:
        tenant = context.tenant(command.tenant)
        return (await _detail(context, tenant, _terms(context, tenant), *_notes(context, _terms(context, tenant))),)
    balances = (await context.books.balances()).tenants()
    return tuple(
        TermsDetail(
            tenant=tenants[terms.tenant_id],
            terms=terms,
            balance_nano_usd=balances.get(terms.tenant_id, 0),
            notes=_notes(context, terms),
        )
        for terms in context.directory.all_terms()
        if terms.tenant_id in tenants and tenants[terms.tenant_id].status != "removed"
    )


async def _detail(context: AdminContext, tenant: Tenant, terms: PaymentTerms, *notes: str) -> TermsDetail:
    balance = (await context.books.balances()).balance(tenant.id)
    return TermsDetail(tenant=tenant, terms=terms, balance_nano_usd=balance, notes=notes)


def _living(context: AdminContext, ref: str) -> Tenant:
    tenant = context.tenant(ref)
    if tenant.status == "removed":
        raise Conflict(f"The tenant {tenant.name!r} was removed.", hint="trustgate tenant list")
    return tenant


def _terms(context: AdminContext, tenant: Tenant) -> PaymentTerms:
    terms = context.directory.terms(tenant.id)
    if terms is None:
        raise NotFound(
            f"Payment has never been switched on for {tenant.name}.",
            hint=f"trustgate payment set {shlex.quote(tenant.name)} --network solana-devnet --pay-to ADDRESS",
            code="no_terms",
        )
    return terms


def _amount(nano_usd: int, what: str, *, least: int) -> int:
    if not least <= nano_usd <= _MOST_NANO_USD:
        raise InvalidRequest(
            f"The {what} must be more than 0 and at most {usd(_MOST_NANO_USD)} USD.", param=what, code="bad_amount"
        )
    return nano_usd


async def _checked(context: AdminContext, wanted: OfferWanted) -> Offer:
    """Refused here, while the operator can still correct it, not when a customer pays."""
    from trustgate.payment.offers import OfferSpec, make_offer

    payment_service = await context.books.payment_service()
    network = caip2_of(wanted.network)
    check_address(network, wanted.pay_to, "pay_to")
    spec = OfferSpec(
        network=network,
        asset=wanted.asset,
        pay_to=wanted.pay_to,
        facilitator=wanted.facilitator or _facilitator_for(context.settings, network),
        decimals=wanted.decimals,
        name=wanted.asset_name,
        version=wanted.asset_version,
    )
    return await make_offer(spec, payment_service.facilitators, payment_service.nodes)


def _facilitator_for(settings: Settings, network: str) -> str:
    """Who settles on a network where the operator does not say. Raises ``InvalidRequest`` where none is known.

    The one of ``X402_FACILITATOR_URL``; on Solana this gateway, once there is a key that can pay the fees; on test
    networks the public one.
    """
    override = settings.facilitator_override()
    if override is not None:
        return override
    if network in (SOLANA, SOLANA_DEVNET) and settings.payment_keypair.exists():
        return EMBEDDED
    if network in _TEST_NETWORKS:
        return _TEST_FACILITATOR
    raise InvalidRequest(
        f"No facilitator is known for payments on {_name(network)}.",
        hint="To let the gateway settle payments itself, make a key: trustgate payment keygen"
        if network == SOLANA
        else "Name one: --facilitator URL",
        param="facilitator",
        code="no_facilitator",
    )


def _default_facilitator_note(context: AdminContext, offer: Offer) -> str:
    if offer.facilitator == EMBEDDED:
        payer = offer.extra.get("feePayer", "")
        return f"On {_name(offer.network)} this gateway settles payments itself; {payer} pays the fees."
    reason = "from X402_FACILITATOR_URL" if context.settings.facilitator_override() else "a public one for tests"
    return f"On {_name(offer.network)} payments are settled by {offer.facilitator}, {reason}."


def _with(offers: tuple[Offer, ...], offer: Offer) -> tuple[Offer, ...]:
    """Returns the offers with this one, in the place of the one for the same network."""
    if any(other.network == offer.network for other in offers):
        return tuple(offer if other.network == offer.network else other for other in offers)
    return (*offers, offer)


def _name(network: str) -> str:
    return v1_name_of(network) or network


# prices


def _priced(context: AdminContext) -> tuple[list[Passport], list[Passport]]:
    """Returns the passports that serve, with a price and without one."""
    serving = [passport for passport in context.catalog.passports() if passport.status != "revoked"]
    return (
        [passport for passport in serving if passport.is_wildcard or _prices(context, passport) not in _UNSOLD],
        [passport for passport in serving if not passport.is_wildcard and _prices(context, passport) == NOT_PRICED],
    )


#: Of these nothing is sold.
_UNSOLD = (NOT_PRICED, FREE)


def _prices(context: AdminContext, passport: Passport) -> Prices:
    return context.catalog.price_of(passport, passport.api_model_id, passport.slug).prices


def _check_sellable(context: AdminContext, terms: PaymentTerms) -> None:
    """Raises ``Conflict`` where every request of the tenant would be refused for want of a price."""
    if terms.price_nano_usd is None and not _priced(context)[0]:
        raise Conflict(
            "No passport has a price, so no request can be paid for.",
            hint="Set one price for every request (--price 0.01), or prices of passports: "
            "trustgate passport set SLUG --input-price USD --output-price USD",
            code="nothing_priced",
        )


def _notes(context: AdminContext, terms: PaymentTerms) -> tuple[str, ...]:
    if terms.mode == "off" or terms.price_nano_usd is not None:
        return ()
    unpriced = [passport.slug for passport in _priced(context)[1]]
    if not unpriced:
        return ()
    shown = ", ".join(unpriced[:5]) + (f" and {len(unpriced) - 5} more" if len(unpriced) > 5 else "")
    return (f"Passports without a price are refused to this tenant (403 model_not_priced): {shown}.",)


# payments


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


async def tenant_credit(context: AdminContext, command: TenantCredit) -> BalanceChange:
    tenant = context.tenant(command.tenant)
    if not command.add_nano_usd:
        balances = await context.books.balances()
        return BalanceChange(
            tenant=tenant, balance_nano_usd=balances.balance(tenant.id), held_nano_usd=balances.held(tenant.id)
        )
    tenant = _living(context, command.tenant)
    return await _change(context, tenant, _amount(command.add_nano_usd, "credit", least=1))


async def payment_refund_credit(context: AdminContext, command: PaymentRefundCredit) -> Refund:
    tenant = context.tenant(command.tenant)
    payment_service = await context.books.payment_service()
    payers = await _payers(context, tenant)
    free = payment_service.balances.balance(tenant.id) - payment_service.balances.held(tenant.id)
    amount = free if command.amount_nano_usd is None else _amount(command.amount_nano_usd, "refund", least=1)
    if not 0 < amount <= free:
        raise Conflict(
            f"{tenant.name} has {usd(max(free, 0))} USD that could be paid back"
            + (f", not {usd(amount)}." if amount > 0 else "."),
            hint=f"trustgate tenant credit {shlex.quote(tenant.name)}",
            code="balance_too_small",
        )
    return Refund(change=await _change(context, tenant, -amount), refunded_nano_usd=amount, payers=payers)


async def _change(context: AdminContext, tenant: Tenant, nano_usd: int) -> BalanceChange:
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


# the fee payer's key


async def payment_keygen(context: AdminContext, command: PaymentKeygen) -> AnchorKey:
    from trustgate.solana.keypair import create_keypair

    path = context.settings.payment_keypair if command.keypair is None else Path(command.keypair)
    return AnchorKey(pubkey=create_keypair(path).address, path=str(path))


# what doctor asks


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
            message=f"the outcome of {len(unknown)} payments is unknown, the oldest {minutes} minutes old",
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
    priced, unpriced = _priced(context)
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
    where = f"{_name(offer.network)} by {offer.facilitator}"
    facilitators = (await context.books.payment_service()).facilitators
    try:
        kinds = await (await facilitators.get(offer.facilitator)).supported()
        if not any(kind.scheme == offer.scheme and kind.network == offer.network for kind in kinds):
            return PaymentFinding(
                status="fail",
                message=f"{where}: it no longer settles on that network",
                hint=f"trustgate payment set TENANT --network {_name(offer.network)} --pay-to {offer.pay_to} "
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
                hint=f"trustgate payment set TENANT --network {_name(offer.network)} --pay-to {offer.pay_to}",
            )
        if offer.facilitator != EMBEDDED:
            return PaymentFinding(status="ok", message=where)
        lamports = await facilitators.embedded().balance(offer.network)
    except TrustGateError as error:
        return PaymentFinding(status="fail", message=f"{where}: {error.message}", hint=error.hint)
    payer = offer.extra.get("feePayer", "")
    message = f"{where}; {payer} has {lamports:,} lamports for fees"
    if lamports >= _LEAST_LAMPORTS:
        return PaymentFinding(status="ok", message=message)
    hint = f"Send some SOL to {payer}: a payment costs about {_FEE_LAMPORTS:,} lamports."
    return PaymentFinding(status="fail" if lamports < _FEE_LAMPORTS else "warn", message=message, hint=hint)
