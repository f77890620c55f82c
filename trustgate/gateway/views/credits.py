"""``/v1/credits``: a tenant's balance, and the paid route that tops it up.

Owns the two routes. They authenticate like the path, cost no quota and ask no model; a top-up is a payment for nothing
but the balance, so it is settled at once and has a receipt of its own.
"""

from __future__ import annotations

import hashlib
import logging
from decimal import Decimal
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from trustgate.access.directory import Caller, Directory
from trustgate.errors import InvalidRequest, PermissionDenied, TrustGateError
from trustgate.gateway.api.body_faults import explain
from trustgate.gateway.api.dialects import OPENAI
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.gateway.path.accounting import receipt_header
from trustgate.gateway.path.arrival import Arrival, bearer_token, check_head, read_body
from trustgate.gateway.path.inflight import InFlight
from trustgate.gateway.path.payment_step import request_sha256
from trustgate.gateway.path.reply import Reply
from trustgate.http.sending import send_json
from trustgate.payment.cashier import Cashier
from trustgate.payment.order import Order
from trustgate.payment.paid_answers import Recorded
from trustgate.payment.sale import Sale
from trustgate.payment.x402_wire import read_payment, usd
from trustgate.settings import ServeSettings
from trustgate.types import NANO_USD_PER_USD, PaymentTerms

_logger = logging.getLogger("trustgate.gateway")

_PATH = "/v1/credits"
_MAX_BODY_BYTES = 4_096
_MOST_USD = 1_000_000


class _TopUp(msgspec.Struct):
    #: How much to add; None: what the tenant's terms say.
    amount_usd: Decimal | None = None


class Credits:
    def __init__(self, directory: Directory, cashier: Cashier, running: InFlight, limits: ServeSettings) -> None:
        self._directory = directory
        self._cashier = cashier
        self._running = running
        self._limits = limits

    def apply_settings(self, limits: ServeSettings) -> None:
        """Use these settings from the next request on."""
        self._limits = limits

    async def show(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/credits``: the balance of the caller's tenant."""
        await self._cashier.balances.refresh(caller.tenant.id)
        return balance_card(self._cashier, caller)

    async def top_up(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/credits``: 402 with a price, or, with a payment, the new balance."""
        arrival = Arrival.of(scope)
        reply = Reply(send, arrival.request_id, OPENAI)
        try:
            await self._top_up(arrival, scope, receive, send, reply)
        except ClientDisconnected:
            return
        except TrustGateError as error:
            await reply.refuse(error)
        except Exception:
            _logger.exception("internal error in request %s", arrival.request_id.decode())
            await reply.refuse(TrustGateError("The gateway failed. The error is in its log."))

    async def _top_up(self, arrival: Arrival, scope: Scope, receive: Receive, send: Send, reply: Reply) -> None:
        check_head(scope, arrival, "json", _MAX_BODY_BYTES)
        caller = self._directory.authenticate(bearer_token(arrival), arrival.at_us)
        if caller.terms is None or not caller.terms.offers:
            raise _not_sold(self._cashier, caller.terms)
        with self._running.admit(caller.key.id, caller.tenant.id):
            self._cashier.log.check_room(len(self._running))
            body = await read_body(receive, _MAX_BODY_BYTES, self._limits.body_timeout_s)
            admitted = await self._cashier.admit(_order(arrival, caller, caller.terms, body))
            if isinstance(admitted, Recorded):
                await reply.replay(*admitted)
                return
            async with admitted as sale:
                await self._settle(sale, caller, reply)
            await self._cashier.balances.refresh(caller.tenant.id)
            await send_json(send, balance_card(self._cashier, caller), reply.headers)

    async def _settle(self, sale: Sale, caller: Caller, reply: Reply) -> None:
        """Collect. Without a payment the sale is one that was credited before: only the balance is shown again."""
        reply.headers += await sale.settle()
        if sale.payment is not None:
            entry = sale.credit()
            kept = self._cashier.log.committed(entry)
            if kept is not None:
                await kept.ended()
            reply.headers.append(receipt_header(entry.receipt.id))


def _not_sold(cashier: Cashier, terms: PaymentTerms | None) -> PermissionDenied:
    contact = "" if terms is None else cashier.contact_for(terms)
    more = "" if terms is None else " Credit is added by the operator of this gateway."
    contact = contact and f" To get more: {contact}"
    return PermissionDenied(f"Payment is not enabled for this account.{more}{contact}", code="payment_not_enabled")


def _order(arrival: Arrival, caller: Caller, terms: PaymentTerms, body: bytes) -> Order:
    return Order(
        tenant_id=caller.tenant.id,
        key_id=caller.key.id,
        terms=terms,
        receipt_id=arrival.receipt_id,
        request_sha256=request_sha256(_PATH, hashlib.sha256(body).digest()),
        path=_PATH,
        description="Add to the balance that requests draw on.",
        price_nano_usd=_amount(body, terms),
        presented=read_payment(arrival.headers),
        tops_up=True,
    )


def _amount(body: bytes, terms: PaymentTerms) -> int:
    """Returns what is to be added, nano-USD. Raises ``InvalidRequest``."""
    if not body.strip():
        return terms.top_up_nano_usd
    try:
        asked = msgspec.json.decode(body, type=_TopUp).amount_usd
    except msgspec.ValidationError as error:
        raise explain(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The body is not JSON.", code="invalid_json") from None
    if asked is None:
        return terms.top_up_nano_usd
    if not asked.is_finite() or not 0 < asked <= _MOST_USD or (nano := asked * NANO_USD_PER_USD) % 1:
        raise InvalidRequest(
            f"amount_usd must be more than 0, at most {_MOST_USD} and have at most 9 decimals.",
            param="amount_usd",
            code="invalid_value",
        )
    return int(nano)


def balance_card(cashier: Cashier, caller: Caller) -> dict[str, Any]:
    balances = cashier.balances
    balance, held = balances.balance(caller.tenant.id), balances.held(caller.tenant.id)
    terms = caller.terms
    return {
        "object": "credits",
        "balance_usd": usd(balance),
        "available_usd": usd(balance - held),
        "balance_nano_usd": balance,
        "held_nano_usd": held,
        "mode": "off" if terms is None else terms.mode,
        "price_usd": None if terms is None or terms.price_nano_usd is None else usd(terms.price_nano_usd),
        "top_up_usd": None if terms is None or not terms.offers else usd(terms.top_up_nano_usd),
        "contact": None if terms is None else cashier.contact_for(terms) or None,
    }
