"""From where the console may be used, and whether a form comes from its own page.

``serve.console = "loopback"``: from this machine alone, by a loopback address, and not through a proxy. ``"network"``:
from elsewhere too, over TLS: of the gateway itself, or of a proxy where ``payment.public_url`` is an https address and
the request names its host. Whatever else is refused looks like an address that leads nowhere.

The Host header is looked at so that a page elsewhere cannot reach the console under a name of its own that resolves to
127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from trustgate.net.addresses import is_loopback
from trustgate.settings import Settings

#: What proxies and tunnels add: a request that has one comes from elsewhere, whatever its address is.
_FORWARDED = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "cf-ray"})
_FORWARDED_PREFIXES = ("x-forwarded-", "x-original-")


def is_allowed(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> bool:
    """Returns whether a request may see the console at all. ``headers``: by lower-case name."""
    if settings.serve.console == "off":
        return False
    client = scope.get("client") or ("", 0)
    host = host_name(headers.get("host", ""))
    is_near = is_loopback(str(client[0]).removeprefix("::ffff:")) and not _is_forwarded(scope, headers)
    if is_near and is_loopback(host):
        return True
    return settings.serve.console == "network" and is_secure(scope, headers, settings)


def _is_forwarded(scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Returns whether a proxy shows itself: by a header, or by HTTP/1.0, which nginx speaks unless told otherwise, with
    the loopback address as host and no header of these; no browser speaks it.
    """
    if scope.get("http_version") == "1.0":
        return True
    return any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES) for name in headers)


def is_secure(scope: Mapping[str, Any], headers: Mapping[str, str], settings: Settings) -> bool:
    """Returns whether the browser speaks TLS: with the gateway, or with a proxy at ``payment.public_url``."""
    if scope.get("scheme") == "https":
        return True
    public = urlsplit(settings.payment.public_url or "")
    return public.scheme == "https" and headers.get("host", "").lower() == public.netloc.lower()


def is_own_form(headers: Mapping[str, str]) -> bool:
    """Returns whether the browser reports that a form was sent by a page of this very origin.

    Sources: RFC 6454 (Origin), W3C Fetch Metadata (Sec-Fetch-Site). A browser sends one of them with every POST.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return site == "same-origin"
    return bool(origin) and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def host_name(host: str) -> str:
    """Returns the name in a Host header, without its port; "" where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
