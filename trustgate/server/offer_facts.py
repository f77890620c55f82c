"""Looks up again what facilitators say of the networks that offers name, and has the offers follow.

Owns when: at the start, every ``payment.facilitator_every_s``, and as soon as a payment was refused for its fee payer,
which is how a facilitator that has changed its own is noticed first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from trustgate.admin.commands import Admin
from trustgate.admin.money import PaymentFollow
from trustgate.errors import TrustGateError
from trustgate.ids import now_us
from trustgate.observe.notices import Notice, Notices
from trustgate.payment.interfaces import OfferFact
from trustgate.payment.networks import v1_name_of

_logger = logging.getLogger("trustgate.server")

#: Clients decide what payments are refused for; facilitators are not asked more often for that, seconds.
_DOUBTS_EVERY_S = 5.0


#: Asks the facilitators of all offers what they say now.
Look = Callable[[], Awaitable[tuple[OfferFact, ...]]]


async def follow_for_ever(admin: Admin, look: Look, doubt: asyncio.Event, every_s: float, notices: Notices) -> None:
    """``doubt``: is set where a payment was refused for what its offer said.

    ``look`` is no command of ``admin``'s, whose commands are waited for when the server stops: a facilitator that does
    not answer must not hold that up.
    """
    while True:
        doubt.clear()
        await follow(admin, look, notices)
        await asyncio.sleep(min(_DOUBTS_EVERY_S, every_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await doubt.wait()


async def follow(admin: Admin, look: Look, notices: Notices) -> None:
    """Look once, and have the offers follow. Raises nothing: what fails is logged and tried again."""
    try:
        for fact in await look():
            notices.publish(_notice(fact))
            if fact.is_news:
                await admin.execute(PaymentFollow(fact=fact))
    except TrustGateError as error:
        _logger.warning("what facilitators say cannot be looked up again: %s", error.message)


def _notice(fact: OfferFact) -> Notice:
    where = v1_name_of(fact.network) or fact.network
    message = (
        f"The facilitator {fact.facilitator} cannot be relied on for {where}: {fact.problem}. See trustgate doctor."
        if fact.problem
        else f"The facilitator {fact.facilitator} settles on {where}."
    )
    return Notice(
        kind="payment",
        subject=fact.facilitator,
        message=message,
        condition=f"facilitator {fact.facilitator} {fact.network}",
        state="firing" if fact.problem else "resolved",
        data={"network": fact.network, "fee_payer": fact.current},
        at_us=now_us(),
    )
