"""What a facilitator reports of a network (``GET /supported``), asked when an offer is made, and again while it stands.

Owns what is followed without a person and what is not: a fee payer that changes is followed, as facilitators change
theirs; one that cannot be right (no address, or an address of the offer's own) is reported and leaves the offer alone.

Source: x402 specification v2, section 7.3; "exact" for SVM, ``extra.feePayer``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from trustgate.errors import InvalidRequest, TrustGateError
from trustgate.payment.facilitators.registry import Facilitators
from trustgate.payment.interfaces import OfferFact
from trustgate.payment.networks import check_address, is_solana, v1_name_of
from trustgate.types import Offer

_logger = logging.getLogger("trustgate.payment")


async def extra_of(facilitators: Facilitators, name: str, network: str) -> dict[str, Any]:
    """Returns the facilitator's extra data for clients.

    Raises ``InvalidRequest`` where it does not settle there, or names no fee payer, ``FacilitatorUnavailable`` and
    ``SettingsError`` where it cannot be asked.
    """
    kinds = await (await facilitators.get(name)).supported()
    exact = [kind for kind in kinds if kind.scheme == "exact"]
    found = [kind for kind in exact if kind.network in (network, v1_name_of(network))]
    if not found:
        listed = ", ".join(sorted({kind.network for kind in exact})[:10]) or "nothing"
        others = sorted({kind.scheme for kind in kinds if kind.network in (network, v1_name_of(network))})
        what = f" by the scheme exact, only by {', '.join(others)}" if others else ""
        raise InvalidRequest(
            f"The facilitator does not settle on {v1_name_of(network) or network}{what}.",
            param="facilitator",
            code="bad_facilitator",
            hint=f"It settles exact payments on {listed}.",
        )
    chosen = next((kind for kind in found if kind.x402_version == 2), found[0])
    if not is_solana(network):
        return {}
    fee_payer = chosen.extra.get("feePayer")
    if not isinstance(fee_payer, str):
        raise InvalidRequest(
            "The facilitator does not name who pays the network's fee (feePayer).",
            param="facilitator",
            code="bad_facilitator",
            hint="Use another one, or embedded.",
        )
    return {"feePayer": check_address(network, fee_payer, "facilitator")}


async def look_again(facilitators: Facilitators, offers: Iterable[Offer]) -> tuple[OfferFact, ...]:
    """Returns what the facilitators of these offers say now, one fact for each that offers say differently.

    Raises nothing: one that cannot be asked leaves its offers as they are, and its fact has the reason.
    """
    distinct: dict[tuple[str, str, str], list[Offer]] = {}
    for offer in offers:
        fee_payer = offer.extra.get("feePayer", "")
        distinct.setdefault((offer.facilitator, offer.network, str(fee_payer)), []).append(offer)
    return tuple(await asyncio.gather(*(_look(facilitators, *asked, same) for asked, same in distinct.items())))


async def _look(facilitators: Facilitators, name: str, network: str, offered: str, offers: list[Offer]) -> OfferFact:
    current, problem = "", ""
    try:
        current = (await extra_of(facilitators, name, network)).get("feePayer", "")
    except TrustGateError as error:
        problem = error.message
    if not problem and any(current in (offer.pay_to, offer.asset) for offer in offers):
        problem = f"it names {current} as its fee payer, which receives the payments or is their token"
    if problem:
        _logger.warning("offers on %s by %s stay as they are: %s", v1_name_of(network) or network, name, problem)
    return OfferFact(facilitator=name, network=network, offered=offered, current=current, problem=problem)


def followed(offer: Offer, fact: OfferFact) -> Offer:
    """Returns the offer as the fact has it; the same where it is not concerned."""
    concerns = (offer.facilitator, offer.network, offer.extra.get("feePayer", "")) == (
        fact.facilitator,
        fact.network,
        fact.offered,
    )
    if not concerns or not fact.is_news:
        return offer
    return msgspec.structs.replace(offer, extra={**offer.extra, "feePayer": fact.current})
