"""One bounded exchange over HTTP with an untrusted peer: a node, a facilitator.

Owns the limits of time and size, and what may be said of an address: the host and no more, for the rest of a URL is
where providers put API keys. Nothing is followed, nothing is asked for twice, nothing is read compressed. Requests go
straight to an httpx transport: httpx's client logs the URL.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from trustgate.ids import MICROSECONDS_PER_SECOND, now_us

if TYPE_CHECKING:
    import httpx

_RETRY_AFTER_MOST_S: Final = 300.0
_MESSAGE_MOST: Final = 300
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
#: Parts of a URL shorter than this are words such as "v2", not keys.
_SECRET_LEAST: Final = 8


class PeerFailed(Exception):
    """There is no whole answer. The text ends a sentence that begins with who it was; it holds nothing of the URL."""


class PeerResponse(NamedTuple):
    status: int
    body: bytes
    #: Seconds.
    retry_after_s: float | None
    #: Names in lower case.
    headers: Mapping[str, str] = {}


class Peer:
    """Who answers at a URL. Exchanges may overlap. To be closed."""

    def __init__(self, url: str, *, timeout_s: float, most_bytes: int) -> None:
        """``timeout_s`` bounds each exchange from its first to its last byte, ``most_bytes`` the body of its answer."""
        self.url = url
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._secrets = _secrets_in(url)
        self._transport: httpx.AsyncBaseTransport | None = None

    async def close(self) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            await transport.aclose()

    async def exchange(
        self,
        what: str,
        body: bytes | None,
        *,
        path: str = "",
        timeout_s: float | None = None,
        headers: Mapping[str, str] = _NONE,
    ) -> PeerResponse:
        """POST the JSON ``body``, or GET where that is None, at the URL and ``path``. Raises ``PeerFailed``.

        ``what`` names the call in errors. ``headers``: further ones, which take the place of those of the same name.
        """
        import httpx

        if self._transport is None:
            # Loading the certificate authorities takes 50 ms, and http:// has no use for them: this one trusts no
            # response.
            verify = True if self.url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            limits = httpx.Limits(max_connections=16)
            self._transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        method = "GET" if body is None else "POST"
        request = httpx.Request(
            method, _joined(self.url, path), headers={**_headers(self.url), **headers}, content=body
        )
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    return PeerResponse(
                        response.status_code,
                        await self._read(what, response),
                        _retry_after_s(response),
                        {name.lower(): value for name, value in response.headers.items()},
                    )
                finally:
                    await response.aclose()
        except TimeoutError:
            raise PeerFailed(f"did not answer {what} within {timeout_s:g} s") from None
        except (httpx.TransportError, httpx.StreamError, httpx.InvalidURL) as error:
            why = "cannot be reached" if isinstance(error, httpx.ConnectError) else "broke off the connection"
            raise PeerFailed(f"{why} ({what}: {type(error).__name__})") from None

    def tamed(self, text: str) -> str:
        """Returns what the peer said, as it may be shown: one line, not long, without what the URL may hold of
        secrets.
        """
        text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MESSAGE_MOST]).split())
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text[:_MESSAGE_MOST]

    async def _read(self, what: str, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise PeerFailed(f"answered {what} compressed, which was not requested")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._most_bytes:
                raise PeerFailed(f"answered {what} with more than {self._most_bytes} bytes")
        return bytes(body)


def _joined(url: str, path: str) -> str:
    """Returns the URL with the path at the end of its own; a query stays where it is."""
    if not path:
        return url
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}{path}").geturl()


def _headers(url: str) -> dict[str, str]:
    """Nothing is asked for compressed: the size limit holds for what is decoded."""
    headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
    parts = urlsplit(url)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return headers


def _retry_after_s(response: httpx.Response) -> float | None:
    """Retry-After in seconds, from either of its forms (RFC 9110 section 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _RETRY_AFTER_MOST_S)
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(until_s - now_us() / MICROSECONDS_PER_SECOND, 0.0), _RETRY_AFTER_MOST_S)


def _secrets_in(url: str) -> list[str]:
    """Returns what of a URL may be an API key, the longest first."""
    parts = urlsplit(url)
    found = [parts.username or "", parts.password or "", *parts.path.split("/"), parts.query]
    found += [value for _, value in parse_qsl(parts.query)]
    return sorted({text for text in found if len(text) >= _SECRET_LEAST}, key=len, reverse=True)
