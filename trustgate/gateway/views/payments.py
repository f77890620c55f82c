"""``/v1/payments``: a tenant's own payments, and how each stands. Looked at, they cost nothing and write no receipt."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import Scope

from trustgate.access.directory import Caller
from trustgate.errors import InvalidRequest, NotFound
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.payment.x402_wire import usd
from trustgate.store import PaymentFilter, Store
from trustgate.types import Payment

_PAGE_DEFAULT = 20
_PAGE_MOST = 100


class Payments:
    """The handlers of the two routes, over the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/payments?after=ID&limit=20``: the caller's tenant's, newest first, paged as OpenAI pages lists."""
        query = QueryParams(scope["query_string"])
        limit = _limit(query.get("limit"))
        wanted = PaymentFilter(tenant_id=caller.tenant.id, before_id=query.get("after"), limit=limit + 1)
        found = await self._store.payments(wanted)
        cards = [_card(payment) for payment in found[:limit]]
        return {
            "object": "list",
            "data": cards,
            "first_id": cards[0]["id"] if cards else None,
            "last_id": cards[-1]["id"] if cards else None,
            "has_more": len(found) > limit,
        }

    async def show(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/payments/{id}``. Raises ``NotFound`` (404) for a payment of another tenant too."""
        payment = await self._store.payment(scope["path_params"]["payment"])
        # Of callers without a key each knows the ids of its own payments alone.
        is_theirs = payment is not None and (
            payment.key_id == caller.key.id if caller.is_keyless else payment.tenant_id == caller.tenant.id
        )
        if payment is None or not is_theirs:
            raise NotFound("There is no such payment.", code="payment_not_found")
        return _card(payment)


def _card(payment: Payment) -> dict[str, Any]:
    """Returns a payment as its tenant sees it: nothing of what was signed, no word of the facilitator's address."""
    return {
        "id": payment.id,
        "object": "payment",
        "created": payment.created_us // MICROSECONDS_PER_SECOND,
        "state": payment.state,
        "reason": payment.reason,
        "network": payment.offer.network,
        "asset": payment.offer.asset,
        "amount": payment.amount,
        "value_usd": usd(payment.value_nano_usd),
        "value_nano_usd": payment.value_nano_usd,
        "transaction": payment.transaction or None,
        "payer": payment.payer or None,
        "pay_to": payment.offer.pay_to,
        "receipt": payment.receipt_id,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return _PAGE_DEFAULT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _PAGE_MOST:
        raise InvalidRequest(f"limit must be a number from 1 to {_PAGE_MOST}.", param="limit", code="invalid_value")
    return int(text)
