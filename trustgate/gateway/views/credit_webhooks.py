"""``POST /v1/credit-webhooks/stripe`` and ``…/standard``: a shop or a bank's script adds credit to a tenant's balance,
and reports what of it is disputed.

Owns the route: nothing of a message is believed before its signature is. The credit is that of ``trustgate tenant
credit`` with a reference, so what is reported twice counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from trustgate.errors import NotFound, TrustGateError, Unavailable
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.gateway.path.arrival import Arrival, check_head, read_body
from trustgate.http.sending import send_error, send_json
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.observe.dispute_notices import dispute_notice
from trustgate.observe.notices import Notices
from trustgate.payment.shop_events import ShopDispute, check_signature, read_event

_logger = logging.getLogger("trustgate.gateway")

_MAX_BODY_BYTES = 256 * 1024
_TIMEOUT_S = 10.0
#: Messages in the memory at once: any client that reaches the port can send them.
_AT_ONCE = 8

#: Adds so many nano-USD to a tenant's balance, once for a reference; gives the receipt and whether it had been added.
AddCredit = Callable[[str, int, str], Awaitable[tuple[str, bool]]]
#: The secrets of each form that is switched on.
Secrets = Callable[[], Mapping[str, Sequence[str]]]


class CreditWebhooks:
    def __init__(self, add: AddCredit, secrets: Secrets, notices: Notices) -> None:
        self._add = add
        self._secrets = secrets
        self._notices = notices
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival.of(scope)
        headers = [(b"x-request-id", arrival.request_id)]
        try:
            answer = await self._book(arrival, scope, receive)
        except ClientDisconnected:
            return
        except TrustGateError as error:
            _logger.warning("a credit webhook was refused: %s", error.message)
            await send_error(send, error, headers)
        except Exception:
            _logger.exception("internal error in request %s", arrival.request_id.decode())
            await send_error(send, TrustGateError("The gateway failed. The error is in its log."), headers)
        else:
            await send_json(send, answer, headers)

    async def _book(self, arrival: Arrival, scope: Scope, receive: Receive) -> dict[str, Any]:
        form = scope["path_params"]["form"]
        secrets = self._secrets().get(form)
        if not secrets:
            raise NotFound("There is no such webhook.", code="unknown_url")
        check_head(scope, arrival, "json", _MAX_BODY_BYTES)
        if self._running >= _AT_ONCE:
            raise Unavailable("Too many webhooks at once.", code="overloaded", headers={"retry-after": "5"})
        self._running += 1
        try:
            body = await read_body(receive, _MAX_BODY_BYTES, _TIMEOUT_S)
            now_s = arrival.at_us // MICROSECONDS_PER_SECOND
            message_id = check_signature(form, arrival.headers, body, secrets, now_s)
            credit = read_event(form, body, message_id)
            if isinstance(credit, ShopDispute):
                notice = dispute_notice(credit, arrival.at_us)
                _logger.warning("%s%s", "over: " if credit.is_over else "", notice.message)
                self._notices.publish(notice)
                return {"object": "dispute", "booked": False}
            if credit is None:
                return {"object": "credit", "booked": False}
            receipt, repeated = await self._add(credit.tenant, credit.nano_usd, credit.reference)
            return {"object": "credit", "booked": not repeated, "receipt": receipt, "reference": credit.reference}
        finally:
            self._running -= 1
