"""Step 3 of the path, seen from the request: what it would cost at most, and its dealings with the cashier.

Owns the price of a request and what makes it the same request when it comes again with the same payment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from trustgate.access.directory import Caller
from trustgate.access.plans import price_command
from trustgate.access.quota import Ask
from trustgate.errors import PaymentRequired, PermissionDenied
from trustgate.gateway.api.bazaar import bazaar
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.uploads import Upload, digest
from trustgate.gateway.path.accounting import Accounting, Request
from trustgate.gateway.path.arrival import Arrival, bearer_token
from trustgate.gateway.path.delivery import Delivery
from trustgate.gateway.path.worst_case import requests_in
from trustgate.models.catalog import Resolved
from trustgate.payment.cashier import Cashier
from trustgate.payment.order import Order
from trustgate.payment.paid_answers import Recorded, answer_key
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import Presented, read_payment
from trustgate.settings import ServeSettings
from trustgate.types import PaymentTerms


class PaymentStep:
    def __init__(self, cashier: Cashier, accounting: Accounting, limits: ServeSettings) -> None:
        self._cashier = cashier
        self._accounting = accounting
        self._limits = limits
        #: What the example of an endpoint costs callers without a key, nano-USD, and with which model.
        self.quote_example: Callable[[Endpoint], tuple[int, str] | None] | None = None

    def apply_settings(self, limits: ServeSettings) -> None:
        """Go by these from the next request on."""
        self._limits = limits

    async def admit(
        self, request: Request, resolved: Resolved | None, ask: Ask, delivery: Delivery
    ) -> Sale | Recorded | None:
        """Have the request paid for: a sale to be entered, the answer it has bought already, or None: it owes nothing.

        Raises what ``Cashier.admit`` raises, ``InvalidRequest`` for a payment header that is none, and
        ``PermissionDenied`` for a model without a price. That a presented payment does not do is put on record.
        """
        arrival, endpoint, caller, body = request.arrival, request.endpoint, request.caller, request.body
        terms = caller.terms
        if terms is None:
            return None
        if isinstance(body, Upload) and endpoint.is_sold:
            # What is paid for must be known to the last byte.
            await body.read_whole(self._limits.max_body_bytes)
        presented = read_payment(arrival.headers) if endpoint.is_sold else None
        if caller.is_keyless and not request.call.model:
            self.tell_price(endpoint, caller, arrival)
        price_nano_usd = _price(request, terms, resolved, ask)
        if caller.is_keyless and price_nano_usd == 0 and resolved is not None:
            raise PermissionDenied(
                "This model costs nothing, so it is not sold to callers without an API key.",
                code="model_not_sold",
                param="model",
            )
        # Without a key a retry is known by its payment and its whole body, which only the payer has.
        known_by = digest(body) if caller.is_keyless else bearer_token(arrival)
        order = _order(request, terms, price_nano_usd, presented, answer_key(known_by))
        try:
            admitted = await self._cashier.admit(order)
        except PaymentRequired as refusal:
            if presented is not None:
                delivery.account = self._accounting.refuse(request, refusal, delivery.reply)
            raise
        if isinstance(admitted, Sale):
            delivery.reply.recorder = admitted.recorder
        return admitted

    def tell_price(self, endpoint: Endpoint, caller: Caller, arrival: Arrival) -> None:
        """Raise ``PaymentRequired`` with the price of the endpoint's example, for a request that asks for nothing yet.

        Does nothing for one that brings a payment, or where the endpoint is not sold now.
        """
        quote = None if self.quote_example is None else self.quote_example(endpoint)
        if quote is None or caller.terms is None or read_payment(arrival.headers) is not None:
            return
        price_nano_usd, model = quote
        order = Order(
            tenant_id=caller.tenant.id,
            key_id=caller.key.id,
            terms=caller.terms,
            receipt_id=arrival.receipt_id,
            request_sha256="",
            path=endpoint.path,
            description=endpoint.summary,
            price_nano_usd=price_nano_usd,
            presented=None,
            is_keyless=True,
            extensions=bazaar(endpoint, model),
        )
        raise self._cashier.challenge(order)

    def owing(self, request: Request) -> Sale | None:
        """Returns the sale of work that was admitted before and is charged now, whatever the balance is.

        None where it owes nothing.
        """
        terms = request.caller.terms
        return None if terms is None else Sale(self._cashier, _order(request, terms, 0, None))


def _order(
    request: Request, terms: PaymentTerms, price_nano_usd: int, presented: Presented | None, key: bytes = b""
) -> Order:
    """``key``: what the kept answer is encrypted with."""
    arrival, endpoint, caller, body = request.arrival, request.endpoint, request.caller, request.body
    return Order(
        tenant_id=caller.tenant.id,
        key_id=caller.key.id,
        terms=terms,
        receipt_id=arrival.receipt_id,
        request_sha256=request_sha256(endpoint.path + request.call.place, digest(body)),
        path=endpoint.path,
        description=endpoint.summary,
        price_nano_usd=price_nano_usd,
        presented=presented,
        answer_key=key,
        is_sold=endpoint.is_sold,
        is_keyless=caller.is_keyless,
        extensions=bazaar(endpoint, request.call.model) if caller.is_keyless else {},
    )


def request_sha256(path: str, body_sha256: bytes) -> str:
    """Returns what a payment is bound to: the endpoint and every byte of the body."""
    return hashlib.sha256(path.encode() + b"\n" + body_sha256).hexdigest()


def _price(request: Request, terms: PaymentTerms, resolved: Resolved | None, ask: Ask) -> int:
    """Returns the most that a request can cost, nano-USD; 0 where it owes nothing, or where its model means nothing.

    Raises ``PermissionDenied`` for a model that has no price, unless the plan allows such: it would be given away.
    """
    if not request.endpoint.is_sold:
        return 0
    if terms.price_nano_usd is not None:
        return terms.price_nano_usd * requests_in(request.call)
    if resolved is not None and not resolved.price.known and request.caller.plan.unpriced_models == "refuse":
        raise PermissionDenied(
            f"This model has no price yet, so a request cannot be paid for. Its operator sets one: "
            f"{price_command(request.call.model, request.endpoint.service_slug or resolved.passport.slug)}",
            code="model_not_priced",
            param="model",
        )
    return ask.cost_nano_usd
