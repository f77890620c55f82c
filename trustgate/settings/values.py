"""Checks of values beyond their type: addresses, header names, durations, the name of a log."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

#: A memo carries the name twice and has room for about a thousand bytes.
_ORIGIN_CHARACTERS = 128
_ANCHOR_LEAST_S = 10

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


BUILTIN_SCHEME = "builtin:"
_BUILTINS = frozenset({"builtin:echo"})
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that must never be copied from one side to the other.
_HEADERS_OURS = frozenset(
    (
        *("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "set-cookie", "host"),
        *("connection", "keep-alive", "upgrade", "te", "trailer", "proxy-authenticate", "proxy-connection"),
        *("content-length", "content-encoding", "transfer-encoding"),
    )
)

#: What describes a message as it is sent: its sender adds that.
HEADERS_OF_A_MESSAGE = frozenset(
    ("content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "host")
)


def why_not_base_url(url: str) -> str | None:
    """Returns what is wrong with a base URL, as the end of a sentence ("it …"); None if it is one."""
    if url.startswith(BUILTIN_SCHEME):
        return None if url in _BUILTINS else f"is not a built-in LLM server ({', '.join(sorted(_BUILTINS))})"
    try:
        parts = urlsplit(url)
        port_fault = parts.port == 0
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must begin with http:// or https:// and name a host"
    if port_fault or not url.isprintable() or " " in url:
        return "is not a URL"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password: name an environment variable for the key instead"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    return None


def why_not_store_url(url: str) -> str | None:
    """Returns what is wrong with the address of a database, as the end of a sentence ("it …"); None if it is one.

    Never shows what it was given: there may be a password in it.
    """
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("postgresql", "postgres") and bool(parts.path.strip("/") or parts.query)
        port_fault = parts.port == 0
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        return "is not a URL"
    if not named:
        return "must look like postgresql://user@host:port/database"
    if parts.password is not None or "password" in options:
        return (
            "must not hold a password: put it into a variable that store.password_env names, a file that "
            "store.password_file names, PGPASSWORD, or ~/.pgpass"
        )
    return "is not a URL" if port_fault or not url.isprintable() or " " in url or parts.fragment else None


def check_value(name: str, value: Any) -> str | None:
    """Returns what is wrong with a value beyond its type, as the end of a sentence; None if nothing is."""
    if name == "upstream.url" or (name == "payment.public_url" and value):
        return why_not_base_url(value)
    if name == "store.url" and value:
        return why_not_store_url(value)
    if name == "otlp.endpoint" and value:
        return (
            why_not_base_url(value) if not value.startswith(BUILTIN_SCHEME) else "must begin with http:// or https://"
        )
    if name == "otlp.attributes":
        bad = [pair for pair in value if not all(part.strip() for part in pair.partition("="))]
        return f"holds {bad[0]!r}, which is not name=value" if bad else None
    if name == "anchor.every" and value:
        return None if (duration_s(value) or 0) >= _ANCHOR_LEAST_S else "must be a time from 10s on, such as 30m or 1h"
    if name == "receipts.origin" and value:
        return why_not_origin(value)
    if name.endswith((".key_env", ".headers_env", ".password_env")) and value is not None:
        return why_not_variable_name(value)
    if name == "serve.cors_origins":
        bad = [origin for origin in value if origin != "*" and not _ORIGIN.fullmatch(origin)]
        return f"holds {bad[0]!r}, which is not an origin such as https://app.example.com" if bad else None
    if name in ("upstream.forward_headers", "upstream.forward_response_headers"):
        for header in value:
            if not HEADER_NAME.fullmatch(header):
                return f"holds {header!r}, which is not a header name"
            if header.lower() in _HEADERS_OURS:
                return f"must not hold {header}: that header is the gateway's own"
    return None


def why_not_origin(origin: str) -> str | None:
    """Returns what is wrong with a log's name (C2SP signed-note: not empty, no blanks, no plus); None if nothing is."""
    if len(origin) > _ORIGIN_CHARACTERS or not (origin.isascii() and origin.isprintable()):
        return f"must be at most {_ORIGIN_CHARACTERS} printable ASCII characters"
    return "must not hold blanks or a plus sign" if " " in origin or "+" in origin else None


def duration_s(text: str) -> int | None:
    """``30s``, ``15m``, ``1h``, ``7d`` or ``2w`` in seconds; None for anything else."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    return None if found is None else int(found[1]) * SECONDS[found[2]]


def why_not_variable_name(name: str) -> str | None:
    """Returns what is wrong with the name of an environment variable. Does not repeat it: it may be a pasted key."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        return None
    return "must be the name of an environment variable, not the key itself"


def shown_value(name: str, value: Any) -> Any:
    """Returns a setting's value as it may be shown: of the URL of an RPC node only the host, since path and query are
    where its key stands.
    """
    if name in _NODES:
        return _shown_node(value)
    if name == "payment.nodes":
        return tuple(
            f"{network}{sign}{_shown_node(url)}" for network, sign, url in (each.partition("=") for each in value)
        )
    return value


#: Settings that name an RPC node, maybe with its key.
_NODES = frozenset(
    {
        *("anchor.rpc", "payment.solana_rpc", "payment.solana_devnet_rpc"),
        *("payment.base_rpc", "payment.base_sepolia_rpc"),
    }
)


def _shown_node(url: str) -> str:
    if "://" not in url:
        return url
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return host if url.rstrip("/") == host else f"{host}/…"
