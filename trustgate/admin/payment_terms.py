"""The commands on how tenants pay: terms, offers, and the key that pays the network's fees.

Owns who settles where an operator does not say (``_facilitator_for``).
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from trustgate.admin.context import AdminContext
from trustgate.admin.crediting import checked_amount
from trustgate.admin.log_commands import AnchorKey
from trustgate.admin.money import (
    OfferWanted,
    PaymentKeygen,
    PaymentOff,
    PaymentSet,
    PaymentTermsList,
    TermsDetail,
)
from trustgate.errors import Conflict, FacilitatorUnavailable, InvalidRequest, NotFound
from trustgate.ids import now_us
from trustgate.models.prices import FREE, NOT_PRICED
from trustgate.payment.facilitators.auth import is_cdp
from trustgate.payment.facilitators.registry import EMBEDDED
from trustgate.payment.networks import (
    BASE_SEPOLIA,
    SOLANA,
    SOLANA_DEVNET,
    SOLANA_TESTNET,
    caip2_of,
    check_address,
    is_solana,
    v1_name_of,
)
from trustgate.settings import Settings
from trustgate.types import Offer, Passport, PaymentFlow, PaymentTerms, Prices, Tenant

_OFFERS_MOST = 16
_CONTACT_MOST = 200
#: Settles on test networks, for free.
_TEST_FACILITATOR = "https://x402.org/facilitator"
_TEST_NETWORKS = frozenset({SOLANA_DEVNET, SOLANA_TESTNET, BASE_SEPOLIA})


#: What a change of the mode means for a tenant, by the mode.
_SWITCHED_ON = {
    "per-request": "From now on this tenant pays for each request.",
    "prepaid": "From now on this tenant's requests draw on its prepaid credit, and are refused where that is used up.",
}


async def payment_set(context: AdminContext, command: PaymentSet) -> TermsDetail:
    tenant = living(context, command.tenant)
    old = context.directory.terms(tenant.id)
    terms = old or PaymentTerms(tenant_id=tenant.id, mode="off", created_us=now_us())
    if terms.mode != "off" and command == PaymentSet(tenant=command.tenant):
        raise InvalidRequest("No change was given.", hint="trustgate payment set --help")
    if command.mode is not None:
        terms = replace(terms, mode=command.mode)
    elif terms.mode == "off":
        terms = replace(terms, mode="per-request")
    if command.by_passport:
        if command.price_nano_usd is not None:
            raise InvalidRequest("A price for every request and the passports' prices exclude each other.")
        terms = replace(terms, price_nano_usd=None)
    elif command.price_nano_usd is not None:
        terms = replace(terms, price_nano_usd=checked_amount(command.price_nano_usd, "price"))
    if command.top_up_nano_usd is not None:
        terms = replace(terms, top_up_nano_usd=checked_amount(command.top_up_nano_usd, "top-up"))
    if command.contact is not None:
        terms = replace(terms, contact=_checked_contact(command.contact))
    if terms.mode == "per-request" and not command.offers and not terms.offers:
        name = shlex.quote(tenant.name)
        raise InvalidRequest(
            "No network is set for this tenant's payments.",
            hint=f"Name one: trustgate payment set {name} --network solana-devnet --pay-to ADDRESS; or, to let it "
            f"draw on credit that you add: trustgate payment set {name} --mode prepaid",
            param="network",
            code="no_network",
        )
    _check_sellable(context, terms)
    notes = [] if old is not None and old.mode == terms.mode else [_SWITCHED_ON[terms.mode]]
    for wanted in command.offers:
        offer, note = await _checked(context, wanted)
        if note:
            notes.append(note)
        if any(old.network == offer.network and old.flow == "upfront" for old in terms.offers):
            offer = _with_flow(offer, "upfront")
        terms = replace(terms, offers=_with(terms.offers, offer))
        if wanted.facilitator is None:
            notes.append(_default_facilitator_note(context, offer))
        if is_cdp(offer.facilitator) and is_solana(offer.network):
            notes.append(
                "On Solana Coinbase's facilitator settles by the scheme exact alone: each payment is of the worst "
                "case, and what it brings beyond the cost is credited."
            )
    if command.flow is not None:
        terms = replace(terms, offers=tuple(_with_flow(offer, command.flow) for offer in terms.offers))
    if len(terms.offers) > _OFFERS_MOST:
        raise InvalidRequest(f"At most {_OFFERS_MOST} networks can be offered.", param="network")
    await context.keep(terms)
    if terms.offers:
        await (await context.books.payment_service()).facilitators.prepare(terms.offers)
    return await _detail(context, tenant, terms, *notes, *_notes(context, terms))


async def payment_off(context: AdminContext, command: PaymentOff) -> TermsDetail:
    tenant = living(context, command.tenant)
    if command.network is None and context.directory.terms(tenant.id) is None:
        unset = PaymentTerms(tenant_id=tenant.id, mode="off", created_us=now_us())
        return await _detail(context, tenant, unset, "Payment was never switched on: there is nothing to change.")
    terms = _terms(context, tenant)
    if command.network is None:
        terms = replace(terms, mode="off")
    else:
        network = caip2_of(command.network)
        left = tuple(offer for offer in terms.offers if offer.network != network)
        if len(left) == len(terms.offers):
            raise NotFound(
                f"{tenant.name} does not pay on {network_name(network)}.",
                hint=f"trustgate payment terms {shlex.quote(tenant.name)}",
                code="offer_not_found",
            )
        if not left and terms.mode == "per-request":
            raise Conflict(
                f"{network_name(network)} is the only network that {tenant.name} can pay on.",
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


def living(context: AdminContext, ref: str) -> Tenant:
    tenant = context.tenant(ref)
    if tenant.status == "removed":
        raise Conflict(f"The tenant {tenant.name!r} was removed.", hint="trustgate tenant list")
    return tenant


def _terms(context: AdminContext, tenant: Tenant) -> PaymentTerms:
    terms = context.directory.terms(tenant.id)
    if terms is None:
        raise NotFound(
            f"Payment has never been switched on for {tenant.name}.",
            hint=f"trustgate payment set {shlex.quote(tenant.name)} --mode prepaid",
            code="no_terms",
        )
    return terms


async def _checked(context: AdminContext, wanted: OfferWanted) -> tuple[Offer, str]:
    """Returns the offer, and what of it could not be checked; "" for nothing.

    What is wrong is refused here, while the operator can still correct it, not when a customer pays.
    """
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
    make = partial(make_offer, facilitators=payment_service.facilitators, nodes=payment_service.nodes)
    try:
        return await make(spec), ""
    except FacilitatorUnavailable as error:
        if not wanted.unchecked:
            keep = "" if is_solana(network) else " To save the offer all the same: --unchecked."
            error.hint = f"{error.hint or ''}{keep} To try payments without a network: examples/agent".strip()
            raise
        offer = await make(spec._replace(checks_facilitator=False))
        where = network_name(network)
        return (
            offer,
            f"{error.message} Whether it settles on {where} was not checked. To check it later: trustgate doctor",
        )


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
        f"No facilitator is known for payments on {network_name(network)}.",
        hint="To let the gateway settle payments itself, make a key: trustgate payment keygen"
        if network == SOLANA
        else "Name one: --facilitator URL",
        param="facilitator",
        code="no_facilitator",
    )


def _default_facilitator_note(context: AdminContext, offer: Offer) -> str:
    if offer.facilitator == EMBEDDED:
        payer = offer.extra.get("feePayer", "")
        return f"On {network_name(offer.network)} this gateway settles payments itself; {payer} pays the fees."
    reason = "from X402_FACILITATOR_URL" if context.settings.facilitator_override() else "a public one for tests"
    return f"On {network_name(offer.network)} payments are settled by {offer.facilitator}, {reason}."


def _checked_contact(text: str) -> str:
    if len(text) > _CONTACT_MOST or not text.isprintable() or text != text.strip():
        raise InvalidRequest(
            f"The contact must have at most {_CONTACT_MOST} printable characters, without blanks around it.",
            param="contact",
        )
    return text


def _with(offers: tuple[Offer, ...], offer: Offer) -> tuple[Offer, ...]:
    """Returns the offers with this one, in the place of the one for the same network."""
    if any(other.network == offer.network for other in offers):
        return tuple(offer if other.network == offer.network else other for other in offers)
    return (*offers, offer)


def _with_flow(offer: Offer, flow: PaymentFlow) -> Offer:
    """Returns the offer, settled so. Clients see the member; ``authorization`` is its absence."""
    extra = {name: value for name, value in offer.extra.items() if name != "paymentFlow"}
    return replace(offer, extra=extra if flow == "authorization" else {**extra, "paymentFlow": flow})


def network_name(network: str) -> str:
    return v1_name_of(network) or network


# prices


def priced_passports(context: AdminContext) -> tuple[list[Passport], list[Passport]]:
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
    if terms.price_nano_usd is None and not priced_passports(context)[0]:
        raise Conflict(
            "No passport has a price, so no request can be paid for.",
            hint="Set one price for every request (--price 0.01), or prices of passports: "
            "trustgate passport set SLUG --input-price USD --output-price USD",
            code="nothing_priced",
        )


def _notes(context: AdminContext, terms: PaymentTerms) -> tuple[str, ...]:
    if terms.mode == "off" or terms.price_nano_usd is not None:
        return ()
    unpriced = [passport.slug for passport in priced_passports(context)[1]]
    if not unpriced:
        return ()
    shown = ", ".join(unpriced[:5]) + (f" and {len(unpriced) - 5} more" if len(unpriced) > 5 else "")
    return (f"Passports without a price are refused to this tenant (403 model_not_priced): {shown}.",)


# the fee payer's key


async def payment_keygen(context: AdminContext, command: PaymentKeygen) -> AnchorKey:
    from trustgate.solana.keypair import create_keypair

    path = context.settings.payment_keypair if command.keypair is None else Path(command.keypair)
    return AnchorKey(pubkey=create_keypair(path).address, path=str(path))
