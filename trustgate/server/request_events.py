"""What becomes known of requests as they happen: counted, written to the request log, traced, and observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from trustgate.access.budgets import BudgetEvent
from trustgate.access.quota import LimitReached
from trustgate.admin.commands import Admin
from trustgate.errors import TrustGateError
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.delivery import RequestOutcome
from trustgate.observe.budget_notices import budget_notice
from trustgate.observe.counters import Counters
from trustgate.observe.limit_notices import limit_notice
from trustgate.observe.notices import Notices
from trustgate.observe.request_log import RequestLog
from trustgate.types import Receipt

if TYPE_CHECKING:
    from trustgate.telemetry.hub import Telemetry


class Observer(Protocol):
    """What the server calls, in its process, as things happen."""

    def on_ready(self, address: str, admin: Admin) -> None:
        """It listens. ``admin`` carries out commands until it stops."""
        ...

    def on_receipt(self, receipt: Receipt) -> None:
        """A receipt is in the journal; the answer that it records may not be at its end yet."""
        ...

    def on_refusal(self, error: TrustGateError, endpoint: str, receipt_id: str) -> None:
        """A request is refused or has failed. There need not be a receipt of it."""
        ...


class RequestEvents:
    """Passes on how each request ended or was refused, and the notices of limits and budgets that it has reached."""

    def __init__(
        self,
        counters: Counters,
        request_log: RequestLog,
        notices: Notices,
        *,
        telemetry: Telemetry | None,
        observer: Observer | None,
        tenant_name: Callable[[str], str],
    ) -> None:
        """
        Args:
            counters: count every receipt and error.
            request_log: writes a line of each, where it has a form.
            notices: take those of limits and budgets.
            telemetry: sends what each request did; None: nothing is sent.
            observer: is called as things happen; None: none is.
            tenant_name: returns the name of a tenant by its id.
        """
        self._counters = counters
        self._request_log = request_log
        self._notices = notices
        self._telemetry = telemetry
        self._tenant_name = tenant_name
        self.observer = observer

    def on_receipt(self, receipt: Receipt) -> None:
        self._counters.count(receipt)
        if self._request_log.form is not None:
            self._request_log.request(receipt)
        if self.observer is not None:
            self.observer.on_receipt(receipt)

    def on_end(self, end: RequestOutcome) -> None:
        """A request has ended. Its receipt was counted when it was written: before the answer's last byte."""
        if self._telemetry is not None:
            self._telemetry.on_end(end)
        if end.error is not None:
            self.on_refusal(end.error, end.endpoint, end.arrival)

    def count_shed(self, error: TrustGateError) -> bool:
        """Count a request that was refused at the door.

        Returns:
            Whether that is all; False where telemetry, the request log or an observer needs the request itself.
        """
        if self._telemetry is not None or self._request_log.form is not None or self.observer is not None:
            return False
        self._counters.count_error(error)
        return True

    def on_refusal(self, error: TrustGateError, endpoint: Endpoint, arrival: Arrival) -> None:
        self._counters.count_error(error)
        if self._request_log.form is not None:
            self._request_log.refusal(error, endpoint.name, arrival.receipt_id, arrival.request_id.decode())
        if self.observer is not None:
            self.observer.on_refusal(error, endpoint.name, arrival.receipt_id)

    def on_unserved(self, error: TrustGateError, what: str, request_id: str) -> None:
        """A request was refused that is of no endpoint of the path: an unknown route or method, or an unknown key."""
        self._counters.count_error(error)
        if self._request_log.form is not None:
            self._request_log.refusal(error, what, "", request_id)

    def on_limit(self, reached: LimitReached) -> None:
        self._notices.publish(limit_notice(reached, self._tenant_name(reached.tenant_id)))

    def on_budget(self, event: BudgetEvent) -> None:
        self._notices.publish(budget_notice(event))
