"""The delivery of an answer to its client: paid for before the first byte leaves, accounted for before the last.

Owns these two moments (``pay``, ``close``), whatever ends the request and in whatever form the answer comes, and what
is told of the request at its end (``RequestOutcome``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from trustgate.errors import AuthenticationFailed, PaymentRequired, TrustGateError, Unavailable, UpstreamTimeout
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.accounting import Account
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.inflight import Cancellation, Reason
from trustgate.gateway.path.reply import Reply
from trustgate.http.sending import Headers
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.targets import Target
from trustgate.types import Finish, Receipt, Usage

_STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
#: The status that nginx made customary for "the client closed the request"; it is in receipts only.
_CLIENT_CLOSED_REQUEST = 499
#: Endings that a client which had left before does not change.
_LEFT: frozenset[Reason] = frozenset({"client_gone", "client_stalled"})


class RequestOutcome(msgspec.Struct, frozen=True, eq=False):
    """How a request ended."""

    endpoint: Endpoint
    arrival: Arrival
    #: None: it was refused without one, or its answer was given before.
    receipt: Receipt | None
    #: Whose answer it was, where one was asked.
    target: Target | None
    #: What it was refused for, or failed with.
    error: TrustGateError | None


OnEnd = Callable[[RequestOutcome], None]


class Delivery(msgspec.Struct, eq=False):
    """One request's answer, from the moment it is admitted to its end."""

    reply: Reply
    #: None until the request is admitted, or its refusal put on record.
    account: Account | None = None
    _is_paid: bool = False

    def end(self, endpoint: Endpoint, arrival: Arrival, error: TrustGateError | None) -> RequestOutcome:
        """Returns what is told of the request, once all is said."""
        account = self.account
        if account is None or account.receipt is None:
            return RequestOutcome(endpoint, arrival, None, None, error)
        return RequestOutcome(endpoint, arrival, account.receipt, account.target, error)

    @property
    def admitted(self) -> Account:
        """The account, which there is wherever there is an answer."""
        assert self.account is not None, "what is delivered was admitted"
        return self.account

    # the first moment

    async def pay(self) -> None:
        """Collect what the request is to be paid with; called with content in hand and before any of it leaves.

        Raises what ``Sale.settle`` raises.
        """
        sale = self.admitted.sale
        if sale is not None and not self._is_paid:
            self.reply.headers += await sale.settle()
            self._is_paid = True

    async def pay_upfront(self, cancellation: Cancellation) -> None:
        """Collect before the upstream is asked, where the terms or the payer's other requests ask for that.

        Otherwise the payment may be settled before there is an answer, when it would be void soon: where it then does
        not pay, the request is ended, and the upstream's work with it.
        """
        sale = self.admitted.sale
        if sale is None:
            return
        if sale.is_upfront:
            await self.pay()
        else:
            sale.on_unpaid = partial(cancellation.cancel, "unpaid")

    async def begin(self, answer: Answer) -> None:
        """Send the head of a stream."""
        content_type = answer.content_type.encode("latin-1", "replace")
        if answer.events is not None and b"charset" not in content_type.lower():
            # Events are UTF-8 by definition; clients that do not know that take text without a charset for Latin-1.
            content_type += b"; charset=utf-8"
        says_cache = any(name == b"cache-control" for name, _ in self.reply.headers)
        headers = _STREAM_HEADERS[1:] if says_cache else _STREAM_HEADERS
        await self.reply.begin(answer.status, [(b"content-type", content_type), *headers])

    # the second

    def close(self, finish: Finish, *, status: int, usage: Usage | None = None) -> None:
        """Settle and write the receipt, before the last byte leaves; does nothing where that is done.

        ``usage`` None: what was used up to now. A client that had left before makes it ``client_gone``.
        """
        account = self.account
        assert account is not None, "what is delivered was admitted"
        if not account.closed:
            usage = account.usage_so_far() if usage is None else usage
            account.close("client_gone" if self.reply.gone else finish, status=status, usage=usage)

    async def kept(self) -> None:
        """Wait until the receipt, where one was written, cannot be lost: before the last byte leaves."""
        if self.account is not None:
            await self.account.kept()

    def failed(self, error: TrustGateError, finish: Finish = "upstream_cut") -> None:
        """The upstream, or the gateway, gave up. What was sent is charged; before the first byte nothing is."""
        account, reply = self.admitted, self.reply
        if account.closed:
            return
        if account.sale is not None and account.sale.is_settled and not reply.started:
            error.message += " The payment for it was credited: sent again with the same request, it buys the answer."
        account.sent(reply.last_words(error))
        if isinstance(error, PaymentRequired):
            account.close("refused", status=error.status)
        elif reply.started:
            self.close(finish, status=200)
        else:
            account.close("upstream_error", status=error.status)

    def refusal_of(self, reason: Reason) -> TrustGateError | None:
        """Returns the error of a request that was ended early; None where its client left, which is refused nothing."""
        if reason in _LEFT:
            return None
        sale = None if self.account is None else self.account.sale
        if reason == "unpaid" and sale is not None and sale.failure is not None:
            return sale.failure
        return cancellation_error(reason)

    def cancelled(self, reason: Reason) -> None:
        """The request was ended early. A client that hung up is charged for what it had the upstream do."""
        account, error = self.admitted, self.refusal_of(reason)
        if error is None:
            finish: Finish = "client_gone" if reason == "client_gone" else "cut"
            account.close(finish, status=_CLIENT_CLOSED_REQUEST, usage=account.usage_so_far())
        else:
            self.failed(error, "cut")


def cancellation_error(reason: Reason) -> TrustGateError:
    """Returns what a client gets whose request was ended early."""
    if reason == "key_revoked":
        return AuthenticationFailed("The API key has been revoked.", code="api_key_revoked")
    if reason == "account_inactive":
        return AuthenticationFailed("The account of this API key is not active.", code="account_inactive")
    if reason == "deadline":
        return UpstreamTimeout("The request took longer than the gateway allows.", code="request_deadline")
    if reason == "database_away":
        return Unavailable(
            "The gateway has lost its database, and cannot see whether the API key still holds.",
            code="store_unreachable",
            headers={"retry-after": "5"},
        )
    return Unavailable("The gateway is shutting down.", code="shutting_down", headers={"retry-after": "5"})
