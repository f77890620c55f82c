"""The commands that look up again what facilitators say, and have offers follow."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from trustgate.admin.context import AdminContext
from trustgate.admin.money import PaymentFollow, PaymentLookAgain
from trustgate.admin.payment_terms import network_name
from trustgate.payment.facilitators.facts import followed, look_again
from trustgate.payment.interfaces import OfferFact

_logger = logging.getLogger("trustgate.payment")


async def payment_look_again(context: AdminContext, command: PaymentLookAgain) -> tuple[OfferFact, ...]:
    del command
    payment_service = await context.books.payment_service()
    offers = [offer for terms in context.directory.all_terms() for offer in terms.offers]
    return await look_again(payment_service.facilitators, offers)


async def payment_follow(context: AdminContext, command: PaymentFollow) -> tuple[str, ...]:
    """What was set since the facts were looked up is left alone: a fact concerns only what it was found for."""
    fact = command.fact
    names = {tenant.id: tenant.name for tenant in context.directory.tenants()}
    changed = []
    for terms in context.directory.all_terms():
        offers = tuple(followed(offer, fact) for offer in terms.offers)
        if offers != terms.offers:
            await context.keep(replace(terms, offers=offers))
            changed.append(names.get(terms.tenant_id, terms.tenant_id))
    if changed:
        _logger.info(
            "offers on %s by %s name its new fee payer %s, in place of %s",
            network_name(fact.network),
            fact.facilitator,
            fact.current,
            fact.offered,
        )
    return tuple(changed)
