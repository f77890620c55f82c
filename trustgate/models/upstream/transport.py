"""The network's side of the upstream client: one request on a pooled connection, and the answer as it comes.

aiohttp's connector (names, TLS, limits) makes the connections, beneath its session and beneath httpx: what those build
around each request (URLs, header maps, cookies, redirects, timers) costs a gateway more than all of its own work, and
none of it is wanted. The bytes of a request with its body in hand are made here, its response is read by ``response``;
a body that still arrives goes through httpx's transport over the same connector, which knows how to send and to listen
at once.

Owns the pool of the connections that are kept between requests.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from trustgate.errors import TrustGateError
from trustgate.models.upstream.response import AiohttpResponse, Response
from trustgate.outbox import Outbox

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import httpx
    from aiohttp.connector import Connection
    from aiohttp.streams import StreamReader

    from trustgate.models.upstream.protocol import UpstreamProtocol

_KEEP_ALIVE_S = 60.0
#: How many heads of requests are kept for a host, and the most bytes of one: clients choose what is in them.
_HEADS_MOST = 256
_HEAD_MOST_BYTES = 2048


class NotConnected(Exception):
    """No connection was made, and so nothing was sent."""

    def __init__(self, *, is_proven: bool) -> None:
        """``is_proven``: the network answered so (refused, no such name), and not only a clock of ours."""
        super().__init__("no connection to the upstream")
        self.is_proven = is_proven


class Unanswered(Exception):
    """The connection ended before the first byte of a response."""


class _Lease:
    """A connection of the pool, in use or kept for the next request to its host.

    For aiohttp's connector, which made it, it is in use until it is closed.
    """

    __slots__ = ("_connection", "_is_open", "host", "protocol", "since")

    def __init__(self, connection: Connection, host: _Host) -> None:
        protocol: Any = connection.protocol
        self.protocol: UpstreamProtocol = protocol
        self.host = host
        #: When it was kept, in the time of ``time.monotonic``.
        self.since = 0.0
        self._connection = connection
        self._is_open = True
        host.pool.leases.add(self)
        protocol.on_whole = self._is_whole
        protocol.on_lost = self.close

    def _is_whole(self, may_go_on: bool) -> None:
        """llhttp has read a response to its end."""
        if may_go_on:
            self._keep()
        else:
            self.close()

    def is_read(self) -> None:
        """aiohttp has read a response to its end."""
        if self.protocol.should_close or self.protocol.transport is None:
            self.close()
        else:
            self._keep()

    def _keep(self) -> None:
        pool = self.host.pool
        if len(pool.leases) >= pool.most:
            # A request may wait for it inside the connector.
            self.hand_over()
        else:
            pool.keep(self)

    def hand_over(self) -> None:
        """Leave the connection, which is not in use, to the connector."""
        self._leave()
        self._connection.release()

    def close(self) -> None:
        """Close the connection. May be called twice."""
        if self._is_open:
            self._leave()
            self._connection.close()

    def _leave(self) -> None:
        self._is_open = False
        self.protocol.on_whole, self.protocol.on_lost = _take_no_notice, _nothing
        self.host.pool.leases.discard(self)
        if self in self.host.idle:
            self.host.idle.remove(self)


class UnderWay(msgspec.Struct, frozen=True, eq=False):
    """A request that was sent, and its response."""

    lease: _Lease
    #: Becomes the response when its head is here; None: aiohttp reads it.
    begun: asyncio.Future[Response | None]


class _Pool:
    """The connections of one scheme."""

    __slots__ = ("_timer", "connector", "hosts", "leases", "most")

    def __init__(self, connector: aiohttp.TCPConnector, most: int) -> None:
        self.connector = connector
        self.most = most
        #: All that there are, in use or kept.
        self.leases: set[_Lease] = set()
        self.hosts: list[_Host] = []
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, lease: _Lease) -> None:
        """Keep a connection for the next request to its host."""
        lease.since = monotonic()
        lease.host.idle.append(lease)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_KEEP_ALIVE_S, self._close_old)

    def kept(self, host: _Host) -> _Lease | None:
        """Returns a connection that is kept for the host and still open, the one that was used last."""
        while host.idle:
            lease = host.idle.pop()
            if lease.protocol.is_connected():
                return lease
            lease.close()
        return None

    def make_room(self) -> None:
        """Close a connection that is kept, where there are as many as there may be."""
        if len(self.leases) >= self.most:
            for host in self.hosts:
                if host.idle:
                    host.idle[0].close()
                    return

    def _close_old(self) -> None:
        self._timer = None
        now = monotonic()
        before = now - _KEEP_ALIVE_S
        for host in self.hosts:
            for lease in [lease for lease in host.idle if lease.since <= before]:
                lease.close()
        kept = [host.idle[0].since for host in self.hosts if host.idle]
        if kept:
            after_s = min(kept) + _KEEP_ALIVE_S - now
            self._timer = asyncio.get_running_loop().call_later(after_s, self._close_old)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for host in self.hosts:
            for lease in list(host.idle):
                lease.close()
        await self.connector.close()


class _Host:
    """What is the same for every request to a base URL, and the connections that are kept for it."""

    __slots__ = ("dial", "heads", "host", "idle", "pool", "prefix")

    def __init__(self, base_url: str, pool: _Pool) -> None:
        from aiohttp import ClientRequest
        from yarl import URL

        url = URL(base_url)
        #: Whom to connect to, in the connector's form. Never sent.
        self.dial = ClientRequest("GET", url, loop=asyncio.get_running_loop())
        self.host = self.dial.headers["host"]
        self.prefix = url.raw_path.rstrip("/")
        self.pool = pool
        #: The heads of requests as far as they are the same again and again: by method, path and headers.
        self.heads: dict[tuple[str, str, Sequence[tuple[str, str]]], bytes] = {}
        #: The one that was used last stands last.
        self.idle: list[_Lease] = []
        pool.hosts.append(self)


class Network:
    def __init__(self, *, connect_timeout_s: float, read_timeout_s: float, max_connections: int) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._max_connections = max_connections
        self._pools: dict[str, _Pool] = {}
        self._timeout: Any = None
        #: Made with the first request, of which there is an event loop.
        self._outbox: Outbox | None = None
        self._hosts: dict[str, _Host] = {}
        self._transports: dict[str, httpx.AsyncBaseTransport] = {}
        #: Until the next head may be late. One timer, and a look at all connections, costs a request nothing.
        self._silence_timer: asyncio.TimerHandle | None = None

    async def send(
        self,
        method: str,
        base_url: str,
        path: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | tuple[bytes, ...],
        request_id: str = "",
    ) -> Response | AiohttpResponse:
        """Send a request whose body is in hand; gives the answer when its head is here.

        ``request_id``: sent as ``x-request-id`` besides, without a check of its characters; "": not sent.

        Raises ``NotConnected``; ``Unanswered``; ``UpstreamFailed`` for a head that makes no sense; and for what happens
        later what aiohttp and the system raise.
        """
        host = self._hosts.get(base_url) or self._host(base_url)
        rest: Sequence[bytes] = ()
        if isinstance(body, bytes):
            data = _request_bytes(method, host, path, headers, request_id, body)
        else:
            first, *rest = body or (b"",)
            data = _request_bytes(method, host, path, headers, request_id, first, sum(map(len, rest)))
        lease = host.pool.kept(host) or await self._connect(host)
        return await self.answer(self._send_on(lease, data, rest))

    def send_at_once(
        self, method: str, base_url: str, path: str, headers: Sequence[tuple[str, str]], body: bytes, request_id: str
    ) -> UnderWay | None:
        """Send a request as ``send`` does, over a connection that is kept. ``answer`` is to be awaited, or ``give_up``.

        Returns None, and has sent nothing, where none is kept, or where ``send`` would raise.
        """
        host = self._hosts.get(base_url)
        if host is None or not host.idle:
            return None
        try:
            data = _request_bytes(method, host, path, headers, request_id, body)
        except ValueError:
            return None
        lease = host.pool.kept(host)
        return None if lease is None else self._send_on(lease, data, ())

    def _send_on(self, lease: _Lease, data: bytes, rest: Sequence[bytes]) -> UnderWay:
        protocol = lease.protocol
        begun = protocol.expect_response(self._read_timeout_s)
        if rest:
            protocol.put(data)
            for piece in rest:
                protocol.put(piece)
        else:
            if self._outbox is None:
                self._outbox = Outbox(asyncio.get_running_loop())
            protocol.write_soon(data, self._outbox)
        if self._silence_timer is None:
            self._look_for_silence()
        return UnderWay(lease, begun)

    def _look_for_silence(self) -> None:
        """End the waiting for heads that are late, and look again when the next one may be."""
        self._silence_timer = None
        loop = asyncio.get_running_loop()
        now, next_at = loop.time(), math.inf
        for pool in self._pools.values():
            for protocol in [lease.protocol for lease in pool.leases]:
                if protocol.is_waiting:
                    late_at = protocol.waits_since + self._read_timeout_s
                    if late_at <= now:
                        protocol.head_is_late()
                    elif late_at < next_at:
                        next_at = late_at
        if next_at < math.inf:
            self._silence_timer = loop.call_at(next_at, self._look_for_silence)

    def give_up(self, under_way: UnderWay) -> None:
        """Its response is not waited for any more."""
        if not _is_whole(under_way.begun):  # else the connection may serve another request already
            under_way.lease.close()

    async def answer(self, under_way: UnderWay) -> Response | AiohttpResponse:
        """Returns the answer to a request that was sent, when its head is here. Raises as ``send``."""
        lease = under_way.lease
        try:
            response = await under_way.begun
            return await self._read_by_aiohttp(lease) if response is None else response
        except BaseException as error:
            self.give_up(under_way)
            is_network = isinstance(error, OSError | _aiohttp().ClientConnectionError)
            if not is_network or isinstance(error, TimeoutError) or lease.protocol.heard:
                raise
            raise Unanswered from error

    async def _connect(self, host: _Host) -> _Lease:
        host.pool.make_room()
        try:
            return _Lease(await host.pool.connector.connect(host.dial, [], self._timeout), host)
        except TrustGateError:
            raise
        except TimeoutError as error:
            raise NotConnected(is_proven=False) from error
        except (OSError, _aiohttp().ClientError) as error:
            raise NotConnected(is_proven=True) from error

    async def _read_by_aiohttp(self, lease: _Lease) -> AiohttpResponse:
        """Returns a response that is not ordinary, once its head is here."""
        message, payload = await _read_head(lease.protocol)
        payload.on_eof(lease.is_read)
        return AiohttpResponse(message.code, message.headers, payload, lease, self._read_timeout_s)

    def transport(self, base_url: str) -> httpx.AsyncBaseTransport:
        """httpx's transport over the same connector, for a request to this base URL."""
        scheme = base_url.partition(":")[0].lower()
        host = self._hosts.get(base_url)
        kept = None if host is None else host.pool.kept(host)
        if kept is not None:
            kept.hand_over()
        if scheme not in self._transports:
            import aiohttp
            from httpx_aiohttp import AiohttpTransport

            session = aiohttp.ClientSession(
                connector=self._pool(scheme).connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            )
            self._transports[scheme] = AiohttpTransport(client=session)
        return self._transports[scheme]

    async def close(self) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        for transport in self._transports.values():
            await transport.aclose()
        for pool in self._pools.values():
            await pool.close()

    def _pool(self, scheme: str) -> _Pool:
        """Returns the pool of connections; those with TLS have one of their own, made when it is first wanted."""
        pool = self._pools.get(scheme)
        if pool is None:
            import aiohttp

            from trustgate.models.upstream.protocol import Connector

            self._timeout = aiohttp.ClientTimeout(connect=self._connect_timeout_s, sock_connect=self._connect_timeout_s)
            connector = Connector(
                limit=self._max_connections,
                keepalive_timeout=_KEEP_ALIVE_S,
                ssl=_certificates() if scheme == "https" else True,
            )
            pool = self._pools[scheme] = _Pool(connector, self._max_connections)
        return pool

    def _host(self, base_url: str) -> _Host:
        host = self._hosts[base_url] = _Host(base_url, self._pool(base_url.partition(":")[0].lower()))
        return host


def _nothing() -> None:
    pass


def _take_no_notice(_: bool) -> None:
    pass


def _is_whole(begun: asyncio.Future[Response | None]) -> bool:
    """Returns whether a response has come, and come to its end."""
    if not begun.done() or begun.cancelled() or begun.exception() is not None:
        return False
    response = begun.result()
    return response is not None and response.is_whole


async def _read_head(protocol: UpstreamProtocol) -> tuple[Any, StreamReader]:
    """Returns what aiohttp reads: a response's head, after those of interim responses, its body still to be read."""
    message, payload = await protocol.read()
    while 100 <= message.code < 200:
        message, payload = await protocol.read()
    protocol.read_timeout = None
    return message, payload


def _aiohttp() -> Any:
    """aiohttp, whose errors are named where they are caught; it is imported by then."""
    import aiohttp

    return aiohttp


def _certificates() -> ssl.SSLContext:
    """Whom TLS trusts: the bundle that SSL_CERT_FILE or SSL_CERT_DIR names, else certifi's. httpx's way."""
    import httpx

    return httpx.create_ssl_context()


def _request_bytes(
    method: str,
    host: _Host,
    path: str,
    headers: Sequence[tuple[str, str]],
    request_id: str,
    body: bytes,
    more_bytes: int = 0,
) -> bytes:
    """Returns a request in HTTP/1.1, but for the last ``more_bytes`` of its body.

    Raises ``ValueError`` for a header or a path that would say something else.
    """
    which = method, path, headers if isinstance(headers, tuple) else tuple(headers)
    head = host.heads.get(which)
    if head is None:
        head = _head(method, host, path, headers)
        if len(head) <= _HEAD_MOST_BYTES:
            if len(host.heads) >= _HEADS_MOST:
                host.heads.clear()
            host.heads[which] = head
    if request_id:
        head += b"x-request-id: %b\r\n" % request_id.encode()
    if body or method == "POST":
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body) + more_bytes, body)
    return head + b"\r\n"


def _head(method: str, host: _Host, path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """Returns the head of a request up to its last fields. Raises as ``_request_bytes``."""
    fields = "\r\n".join(map(": ".join, headers)) + "\r\n" if headers else ""
    text = f"{method} {host.prefix}{path} HTTP/1.1\r\nhost: {host.host}\r\n{fields}"
    lines = len(headers) + 2
    if text.count("\n") != lines or text.count("\r") != lines or "\0" in text or " " in path or not path.isascii():
        raise ValueError("a header or the path of the request to the upstream holds what it must not")
    return text.encode("latin-1")
