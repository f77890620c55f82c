"""What a connection's two ends and a request's head give: the scope that ASGI's applications get.

Source of the scope: ASGI specification, "HTTP connection scope".
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope

from trustgate.http.parser import RequestHead
from trustgate.http.sending import EXCHANGE

_WEBSOCKET = b"websocket"


def scope_of(
    head: RequestHead, exchange: object, *, scheme: str, client: tuple[str, int] | None, server: tuple[str, int] | None
) -> Scope:
    """Returns the scope of a request of HTTP/1.1. ``exchange``: what gives and takes a whole body at once.

    ``scheme``, ``client`` and ``server`` are those of the connection to which the head belongs.
    """
    known = head.scope
    if known is None:
        known = head.scope = _scope_of(head, scheme, client, server)
    scope = known.copy()
    scope["state"] = {}
    scope["extensions"] = {EXCHANGE: exchange}
    return scope


def _scope_of(
    head: RequestHead, scheme: str, client: tuple[str, int] | None, server: tuple[str, int] | None
) -> dict[str, Any]:
    path = head.path.decode("ascii")
    return {
        "type": "http",
        "http_version": head.version,
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": head.method,
        "scheme": scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": head.path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": client,
        "server": server,
    }


def switches(head: RequestHead, websockets: Collection[bytes]) -> bool:
    """Returns whether this request begins a WebSocket; a wish for another protocol is ignored (RFC 9110 section 7.8).

    So is ``h2c``: RFC 9113 section 3.1 deprecates it, and clients begin HTTP/2 without TLS by prior knowledge.
    ``websockets``: the paths of which there may be one.
    """
    return (
        (head.version, head.upgrade, head.method) == ("1.1", _WEBSOCKET, "GET")
        and head.path in websockets
        and not head.length
        and not head.is_chunked
    )


def is_reset(transport: asyncio.Transport) -> bool:
    """Returns whether the other side has reset the connection: seen without reading from it or writing to it."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))


def has_unread(transport: asyncio.Transport) -> bool:
    """Returns whether something has come that the transport has not read yet: data, or the other side's end."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def address_of(name: Any) -> tuple[str, int] | None:
    """Returns host and port of a socket's name; None for a Unix socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
