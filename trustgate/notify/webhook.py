"""Webhooks in the form of Standard Webhooks: one signed POST, and nothing that its URL leads to besides.

Owns the signature (Standard Webhooks specification 1.0: HMAC-SHA256 over ``id.timestamp.body``, headers
``webhook-id``, ``webhook-timestamp``, ``webhook-signature``) and which addresses may be connected to. The address is
judged where the socket to it is made, after the name was looked up, so that a name which leads elsewhere a second time
(DNS rebinding) gains nothing. No redirect is followed, no proxy used, no cookie kept; of the answer the status is read.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
import ssl
from typing import Any, NamedTuple

from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.net.addresses import host_of
from trustgate.notify.subscribers import SECRET_PREFIX
from trustgate.types import Subscriber

_OK = range(200, 300)
_REDIRECT = range(300, 400)
_GONE = 410
#: Networks that reach private addresses by another name: NAT64, 6to4 and Teredo hold an IPv4 address.
_TUNNELS = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))


class AttemptOutcome(NamedTuple):
    """What came of one attempt; ``detail`` is for people and holds nothing of a URL but its host."""

    ok: bool
    detail: str
    #: The receiver wants no more of it (status 410).
    is_final: bool = False


class AddressRefused(OSError):
    """The name leads to an address that this webhook may not be sent to."""


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Returns the value of ``webhook-signature``. ``secret``: as it is shown, ``whsec_…``."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the Internet: not of this machine, a private network or a special use."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in _TUNNELS):
            return False
    return ip.is_global and not ip.is_multicast


async def post(subscriber: Subscriber, message_id: str, body: bytes, timeout_s: float) -> AttemptOutcome:
    """Send a message once. Never raises but for cancellation.

    Args:
        timeout_s: for all of it: looking the name up, connecting, sending, the head of the answer.
    """
    import aiohttp

    timestamp_s = now_us() // MICROSECONDS_PER_SECOND
    headers = {
        "content-type": "application/json",
        "user-agent": "TrustGate",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(subscriber.secret, message_id, timestamp_s, body),
    }
    connector = aiohttp.TCPConnector(force_close=True, socket_factory=_checked_sockets(subscriber.is_private))
    host = host_of(subscriber.url)
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
            session.post(subscriber.url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            return _judged(host, response.status)
    except TimeoutError:
        return AttemptOutcome(False, f"{host} did not answer within {timeout_s:g} s")
    except aiohttp.InvalidURL:
        return AttemptOutcome(False, f"{host} is no name or address of a host")
    except aiohttp.ClientError as error:
        return AttemptOutcome(False, f"{host} {_reason(error)}")
    except (OSError, ValueError) as error:
        return AttemptOutcome(False, f"{host} cannot be reached ({type(error).__name__})")


def _judged(host: str, status: int) -> AttemptOutcome:
    if status in _OK:
        return AttemptOutcome(True, f"status {status}")
    if status in _REDIRECT:
        return AttemptOutcome(False, f"{host} answered with a redirect (status {status}), which is not followed")
    return AttemptOutcome(False, f"{host} answered with status {status}", is_final=status == _GONE)


def _checked_sockets(is_private: bool) -> Any:
    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_private and not is_public(str(address[0])):
            raise AddressRefused("the address is private")
        made = socket.socket(family=family, type=kind, proto=protocol)
        made.setblocking(False)
        return made

    return make


def _reason(error: Exception) -> str:
    import aiohttp

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return "is at a private address, which needs --private"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"has a certificate that is not valid ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "is a name that is not found"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot be reached ({error.os_error.strerror or type(error).__name__})"
    return f"broke off the connection ({type(error).__name__})"
