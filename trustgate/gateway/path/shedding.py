"""Refusing at the door: what would be refused for want of room anyway, before anything is begun for it.

A request that comes while its tenant has its share of the gateway is refused by the path's second step. Under overload
most requests are, and what each costs until then (a task, its place among requests that wait to start) is taken from
those that are served. Here the same decision is made from the head alone, in some tens of microseconds.

Owns which requests are judged so: those of the path's own endpoints, of callers whose key is known. Health checks,
metrics and operators' routes never are, and neither is a request with ``origin`` where web pages may call: its refusal
needs the headers of CORS. A tenant that has room goes the whole path, so tenants are treated as they are there.

Requests that were let through are on their way until they take their place in the path (``begun``), a turn of the event
loop later or more, and count as if they had it: all that come together would find the same room otherwise.

A head is read once: a connection gives the same one again where its client sends the same fields again. Whether its key
is good, and whether there is room, is checked each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from trustgate.access.directory import Directory
from trustgate.errors import AuthenticationFailed
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.arrival import Arrival, token_in
from trustgate.gateway.path.delivery import OnEnd, RequestOutcome
from trustgate.gateway.path.inflight import InFlight, NoRoom, no_room
from trustgate.http.parser import RequestHead
from trustgate.http.refusals import Refusal
from trustgate.ids import now_us

_REASONS: tuple[NoRoom, ...] = ("draining", "full", "share")


class _Noted(NamedTuple):
    """What is known of a request from its head."""

    endpoint: Endpoint
    token: bytes
    headers: dict[bytes, bytes]


class Shedding:
    """Judges requests by their head; see the module."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        directory: Directory,
        running: InFlight,
        on_end: OnEnd,
        *,
        trusts_id: Callable[[], bool],
        has_cors: bool,
    ) -> None:
        """
        Args:
            endpoints: of the path; those whose path is fixed are judged.
            on_end: is called for each request that is refused here.
            trusts_id: whether a client's own request id is kept, as the settings have it now.
            has_cors: web pages may call.
        """
        self._endpoints: dict[tuple[str, bytes], Endpoint] = {
            (endpoint.method, endpoint.path.encode()): endpoint for endpoint in endpoints if "{" not in endpoint.path
        }
        self._directory = directory
        self._running = running
        self._on_end = on_end
        self._trusts_id = trusts_id
        self._has_cors = has_cors
        #: How many requests are on their way, in all and, of those that were looked at, by tenant.
        self._coming = 0
        self._coming_of: dict[str, int] = {}

    def judge(self, head: RequestHead) -> NoRoom:
        """Returns why a request has no room; "": it goes the path, and ``begun`` is called then."""
        tenant_id = ""
        if not self._running.has_room_for_all(self._coming):
            noted = head.noted
            if noted is None:
                noted = head.noted = self._note(head)
            if not noted:
                return ""
            try:
                tenant_id = self._directory.authenticate(noted.token, now_us()).tenant.id
            except AuthenticationFailed:
                return ""
            reason = self._running.why_not(tenant_id, self._coming, self._coming_of.get(tenant_id, 0))
            if reason:
                return reason
            self._coming_of[tenant_id] = self._coming_of.get(tenant_id, 0) + 1
        self._coming += 1
        head.passed = tenant_id
        return ""

    def begun(self, head: RequestHead) -> None:
        """The path begins with a request that was let through, or its client has gone before."""
        tenant_id, head.passed = head.passed, None
        if tenant_id is None:
            return
        self._coming -= 1
        if tenant_id:
            left = self._coming_of[tenant_id] - 1
            if left:
                self._coming_of[tenant_id] = left
            else:
                del self._coming_of[tenant_id]

    def _note(self, head: RequestHead) -> _Noted | tuple[()]:
        """Returns what is known from a head; an empty tuple where its request goes the whole path."""
        endpoint = self._endpoints.get((head.method, head.path))
        headers = dict(head.headers)
        if endpoint is None or len(headers) != len(head.headers) or (self._has_cors and b"origin" in headers):
            return ()
        try:
            return _Noted(endpoint, token_in(headers), headers)
        except AuthenticationFailed:
            return ()

    def refusal(self, head: RequestHead, reason: NoRoom) -> Refusal:
        """Returns the answer to a request that has no room, which is counted and logged."""
        noted = head.noted
        endpoint, error = noted.endpoint, _ERRORS[reason]
        arrival = Arrival.with_headers(noted.headers, trusts_id=self._trusts_id())
        self._on_end(RequestOutcome(endpoint, arrival, None, None, error))
        return (
            error.status,
            [*_FIELDS[reason], (b"x-request-id", arrival.request_id)],
            endpoint.dialect.body(error, arrival.request_id.decode()),
        )


#: By the reason: the error, which is shown and never raised, and the fields of its answer.
_ERRORS = {reason: no_room(reason) for reason in _REASONS}
_FIELDS = {
    reason: [
        (b"content-type", b"application/json"),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    for reason, error in _ERRORS.items()
}
