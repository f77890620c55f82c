"""The network's side of the upstream client: one request on a pooled connection, and the answer as it comes.

aiohttp's connector (pool, names, TLS) and response parser are used directly, beneath its session and beneath httpx:
what those build around each request (URLs, header maps, cookies, redirects, timers) costs a gateway more than all of
its own work, and none of it is wanted. The bytes of a request with its body in hand are made here; a body that still
arrives goes through httpx's transport over the same connector, which knows how to send and to listen at once.

Owns the pool, and what an upstream's answer looks like to the client: the part of ``httpx.Response`` that is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trustgate.errors import TrustGateError

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import httpx
    from aiohttp.connector import Connection
    from aiohttp.streams import StreamReader

    from trustgate.models.upstream.protocol import UpstreamProtocol

_KEEP_ALIVE_S = 60.0
_READ_BYTES = 64 * 1024


class NotConnected(Exception):
    """No connection was made, and so nothing was sent."""

    def __init__(self, *, is_proven: bool) -> None:
        """``is_proven``: the network says so (refused, no such name), and not only a clock of ours."""
        super().__init__("no connection to the upstream")
        self.is_proven = is_proven


class Unanswered(Exception):
    """The connection ended before the first byte of a response."""


class Response:
    """An answer: its head, and its body still to be read from ``stream``, which is this too."""

    __slots__ = ("_connection", "_loop", "_payload", "_silence_s", "_timer", "_waits_since", "headers", "status_code")

    def __init__(
        self, status: int, headers: Mapping[str, str], payload: StreamReader, connection: Connection, silence_s: float
    ) -> None:
        """``silence_s``: how long the upstream may say nothing while somebody waits for it."""
        self.status_code = status
        self.headers = headers
        self._payload = payload
        self._connection = connection
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        #: One timer for the whole answer: to set one for every piece costs as much as to relay it.
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None
        # At the end of the body the connection is free for the next request.
        payload.on_eof(connection.release)

    @property
    def stream(self) -> Response:
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        payload = self._payload
        if not payload.is_eof():
            self._timer = self._loop.call_later(self._silence_s, self._look_whether_silent)
        while True:
            self._waits_since = self._loop.time()
            chunk = await payload.readany()
            self._waits_since = None
            if not chunk:
                break
            yield chunk

    def _look_whether_silent(self) -> None:
        now = self._loop.time()
        since = now if self._waits_since is None else self._waits_since
        left_s = since + self._silence_s - now
        if left_s <= 0:
            self._payload.set_exception(TimeoutError("the upstream fell silent"))
        else:
            self._timer = self._loop.call_later(left_s, self._look_whether_silent)

    async def aclose(self) -> None:
        """Let go of the connection; it is closed unless the body was read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        self._connection.close()


class _Host:
    """What is the same for every request to a base URL."""

    __slots__ = ("dial", "host", "prefix", "scheme")

    def __init__(self, base_url: str, loop: asyncio.AbstractEventLoop) -> None:
        from aiohttp import ClientRequest
        from yarl import URL

        url = URL(base_url)
        #: Whom to connect to, in the connector's form. Never sent.
        self.dial = ClientRequest("GET", url, loop=loop)
        self.host = self.dial.headers["host"]
        self.scheme = url.scheme
        self.prefix = url.raw_path.rstrip("/")


class Network:
    def __init__(self, *, connect_timeout_s: float, read_timeout_s: float, max_connections: int) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._max_connections = max_connections
        self._connectors: dict[str, aiohttp.TCPConnector] = {}
        self._timeout: Any = None
        self._hosts: dict[str, _Host] = {}
        self._transports: dict[str, httpx.AsyncBaseTransport] = {}

    async def send(
        self,
        method: str,
        base_url: str,
        path: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | tuple[bytes, ...],
    ) -> Response:
        """Send a request whose body is in hand; gives the answer when its head is here.

        Raises ``NotConnected``; ``Unanswered``; ``UpstreamFailed`` for a head that makes no sense; and for what happens
        later what aiohttp and the system raise.
        """
        host = self._hosts.get(base_url) or self._host(base_url)
        connector = self._connectors.get(host.scheme) or self._connector(host.scheme)
        first, *rest = (body,) if isinstance(body, bytes) else body or (b"",)
        data = _request_bytes(method, host, path, headers, first, sum(map(len, rest)))
        connection = await self._connect(connector, host)
        protocol: Any = connection.protocol
        try:
            message, payload = await self._exchange(protocol, data, rest)
        except (OSError, _aiohttp().ClientConnectionError) as error:
            connection.close()
            if isinstance(error, TimeoutError) or protocol.heard:
                raise
            raise Unanswered from error
        except BaseException:
            connection.close()
            raise
        return Response(message.code, message.headers, payload, connection, self._read_timeout_s)

    async def _connect(self, connector: aiohttp.TCPConnector, host: _Host) -> Connection:
        try:
            return await connector.connect(host.dial, [], self._timeout)
        except TrustGateError:
            raise
        except TimeoutError as error:
            raise NotConnected(is_proven=False) from error
        except (OSError, _aiohttp().ClientError) as error:
            raise NotConnected(is_proven=True) from error

    async def _exchange(
        self, protocol: UpstreamProtocol, data: bytes, rest: Sequence[bytes]
    ) -> tuple[Any, StreamReader]:
        """Write a request and wait for the head of its response."""
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._read_timeout_s,
            read_bufsize=_READ_BYTES,
        )
        transport: Any = protocol.transport
        transport.write(data)
        for piece in rest:
            transport.write(piece)
        protocol.start_timeout()
        message, payload = await protocol.read()
        while 100 <= message.code < 200:
            message, payload = await protocol.read()
        protocol.read_timeout = None
        return message, payload

    def transport(self, base_url: str) -> httpx.AsyncBaseTransport:
        """httpx's transport over the same connections."""
        scheme = base_url.partition(":")[0].lower()
        if scheme not in self._transports:
            import aiohttp
            from httpx_aiohttp import AiohttpTransport

            session = aiohttp.ClientSession(
                connector=self._connectors.get(scheme) or self._connector(scheme),
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            )
            self._transports[scheme] = AiohttpTransport(client=session)
        return self._transports[scheme]

    async def close(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()
        for connector in self._connectors.values():
            await connector.close()

    def _connector(self, scheme: str) -> aiohttp.TCPConnector:
        """The pool of connections; those with TLS have one of their own, made when it is first wanted."""
        import aiohttp

        from trustgate.models.upstream.protocol import Connector

        self._timeout = aiohttp.ClientTimeout(connect=self._connect_timeout_s, sock_connect=self._connect_timeout_s)
        connector = Connector(
            limit=self._max_connections,
            keepalive_timeout=_KEEP_ALIVE_S,
            ssl=_certificates() if scheme == "https" else True,
        )
        return self._connectors.setdefault(scheme, connector)

    def _host(self, base_url: str) -> _Host:
        return self._hosts.setdefault(base_url, _Host(base_url, asyncio.get_running_loop()))


def _aiohttp() -> Any:
    """aiohttp, whose errors are named where they are caught; it is imported by then."""
    import aiohttp

    return aiohttp


def _certificates() -> ssl.SSLContext:
    """Whom TLS trusts: the bundle that SSL_CERT_FILE or SSL_CERT_DIR names, else certifi's. httpx's way."""
    import httpx

    return httpx.create_ssl_context()


def _request_bytes(
    method: str, host: _Host, path: str, headers: Sequence[tuple[str, str]], body: bytes, more_bytes: int = 0
) -> bytes:
    """A request in HTTP/1.1, but for the last ``more_bytes`` of its body.

    Raises ``ValueError`` for a header or a path that would say something else.
    """
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
    length = f"content-length: {len(body) + more_bytes}\r\n" if body or method == "POST" else ""
    text = f"{method} {host.prefix}{path} HTTP/1.1\r\nhost: {host.host}\r\n{fields}{length}\r\n"
    lines = len(headers) + 3 + (length != "")
    if text.count("\n") != lines or text.count("\r") != lines or "\0" in text or " " in path or not path.isascii():
        raise ValueError("a header or the path of the request to the upstream holds what it must not")
    return text.encode("latin-1") + body
