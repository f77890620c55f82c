"""Sending a whole response: a body, a JSON document, an error in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.types import Send

from trustgate.errors import TrustGateError

Headers = list[tuple[bytes, bytes]]

#: In the message of a response's head: its whole body comes with the next message, at once.
BODY_FOLLOWS = "trustgate.body_follows"
#: Among a request's extensions: its ``Exchange``, which gives and takes a whole body at once.
EXCHANGE = "trustgate.exchange"

_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


async def send_body(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
            BODY_FOLLOWS: True,
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, value: Any, headers: Iterable[tuple[bytes, bytes]] = (), status: int = 200) -> None:
    await send_body(send, status, [_JSON, *headers], _encode(value))


async def send_error(
    send: Send, error: TrustGateError, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes | None = None
) -> None:
    """Refuse with the error's status, headers and body; the body in OpenAI's form unless given."""
    own = [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    if error.status == 401:
        own.append((b"www-authenticate", b'Bearer realm="trustgate"'))
    await send_body(send, error.status, [_JSON, *headers, *own], error_body(error) if body is None else body)


def error_body(error: TrustGateError) -> bytes:
    return _encode(error.to_openai())
