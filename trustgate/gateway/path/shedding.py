"""Refusing at the door: what would be refused for want of room anyway, before anything is begun for it.

A request that comes while its tenant has its share of the gateway is refused by the path's second step. Under overload
most requests are, and what each costs until then (a task, its place among requests that wait to start) is taken from
those that are served. Here the same decision is made from the head alone, in some tens of microseconds.

Owns which requests are judged so: those of the path's own endpoints, of callers whose key is known. Health checks,
metrics and operators' routes never are, and neither is a request with ``origin`` where web pages may call: its refusal
needs the headers of CORS. A tenant that has room goes the whole path, so tenants are treated as they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import Scope

from trustgate.access.directory import Directory
from trustgate.errors import AuthenticationFailed, Unavailable
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.arrival import Arrival, bearer_token
from trustgate.gateway.path.delivery import OnEnd, RequestOutcome
from trustgate.gateway.path.inflight import InFlight
from trustgate.http.sending import Headers

#: The status, header fields and body of an answer.
Refusal = tuple[int, Headers, bytes]


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
        self._endpoints = {
            (endpoint.method, endpoint.path): endpoint for endpoint in endpoints if "{" not in endpoint.path
        }
        self._directory = directory
        self._running = running
        self._on_end = on_end
        self._trusts_id = trusts_id
        self._has_cors = has_cors

    def __call__(self, scope: Scope) -> Refusal | None:
        """Returns the refusal of a request that has no room; None: it goes the path."""
        if self._running.has_room_for_all:
            return None
        endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            return None
        arrival = Arrival.of(scope, trusts_id=self._trusts_id())
        headers = arrival.headers
        if len(headers) != len(scope["headers"]) or (self._has_cors and b"origin" in headers):
            return None
        try:
            caller = self._directory.authenticate(bearer_token(arrival, endpoint.dialect.key_header), arrival.at_us)
            self._running.admit(caller.key.id, caller.tenant.id)
        except AuthenticationFailed:
            return None
        except Unavailable as error:
            self._on_end(RequestOutcome(endpoint, arrival, None, None, error))
            own = [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
            return (
                error.status,
                [(b"content-type", b"application/json"), (b"x-request-id", arrival.request_id), *own],
                endpoint.dialect.body(error, arrival.request_id.decode()),
            )
        return None
