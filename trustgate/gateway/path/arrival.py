"""Reading a request under limits: its head, its bearer token and its body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from time import monotonic

import msgspec
from starlette.types import Receive, Scope

from trustgate.errors import (
    AuthenticationFailed,
    InvalidRequest,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from trustgate.gateway.api.endpoints import Body
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.gateway.path.content_coding import check_coding
from trustgate.http.parser import RequestHead
from trustgate.http.sending import EXCHANGE, Headers
from trustgate.ids import new_request, now_us

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")


#: Where a key may be, besides ``Authorization``: Anthropic's clients, Azure's.
KEY_HEADERS = (b"x-api-key", b"api-key")
_ONCE = (b"authorization", b"content-length", b"content-type", b"content-encoding")


class Arrival(msgspec.Struct, frozen=True):
    """One request's head: when it came, its ids, and the headers that matter. Header names are lower case."""

    at_us: int
    #: In the time of ``time.monotonic``, which is the event loop's.
    started: float
    receipt_id: str
    request_id: bytes
    #: Of the receipt: what its commitments are salted with, 32 bytes.
    secret: bytes
    #: The last of each name; ``check_head`` refuses repeats of those that must be said once.
    headers: dict[bytes, bytes]
    #: As its connection read it, which has it again for the next request with the same; None: it did not.
    head: RequestHead | None = None

    @classmethod
    def of(cls, scope: Scope, *, trusts_id: bool = True) -> Arrival:
        """Returns what arrives now. ``trusts_id``: whether the client's own request id is kept, where it is sane."""
        fields: Headers = scope["headers"]
        exchange = scope["extensions"].get(EXCHANGE) if "extensions" in scope else None
        head: RequestHead | None = None if exchange is None else exchange.head
        if head is None or head.headers is not fields:
            return cls.with_headers(dict(fields), trusts_id=trusts_id)
        return cls.with_headers(head.fields or head.by_name(), trusts_id=trusts_id, head=head)

    @classmethod
    def with_headers(cls, headers: dict[bytes, bytes], *, trusts_id: bool, head: RequestHead | None = None) -> Arrival:
        """As ``of``. ``headers``: by name; kept as they are."""
        at_us = now_us()
        receipt_id, request_id, secret = new_request(at_us)
        if trusts_id and b"x-request-id" in headers:
            request_id = own_request_id(headers) or request_id
        return cls(at_us, monotonic(), receipt_id, request_id, secret, headers, head)

    def another(self) -> Arrival:
        """Returns the arrival of another request at the same time: with ids and a secret of its own."""
        receipt_id, request_id, secret = new_request(self.at_us)
        return msgspec.structs.replace(self, receipt_id=receipt_id, request_id=request_id, secret=secret)

    def elapsed_ms(self) -> int:
        return int((monotonic() - self.started) * 1000)


def own_request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """Returns the id that a client gave its request; empty where it gave none, or one that is not sane."""
    asked = headers.get(b"x-request-id", b"")
    return asked if asked and _SANE_REQUEST_ID.fullmatch(asked) is not None else b""


def check_head(scope: Scope, arrival: Arrival, body: Body, max_body_bytes: int) -> None:
    """Refuse what the head alone condemns.

    Raises ``RequestTooLarge`` (413) for a declared size over the limit, ``InvalidRequest`` (400) for repeated
    credentials or lengths and for a body declared as another type than the endpoint's.
    """
    head = arrival.head
    if head is not None and head.is_usual and body == "json":
        if head.length > max_body_bytes:
            raise too_large(max_body_bytes)
        return
    headers = arrival.headers
    if len(headers) != len(scope["headers"]):
        for single in (*_ONCE, *KEY_HEADERS):
            if sum(name == single for name, _ in scope["headers"]) > 1:
                raise InvalidRequest(f"The header {single.decode()} is given more than once.", code="duplicate_header")
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit():
        raise InvalidRequest("The header content-length is not a number.", code="invalid_header")
    if int(declared) > max_body_bytes:
        raise too_large(max_body_bytes)
    if body == "json" and not is_json(headers.get(b"content-type", b"application/json")):
        raise InvalidRequest(
            "The body must be JSON: send the header content-type: application/json.", code="unsupported_content_type"
        )
    coding = headers.get(b"content-encoding", b"identity")
    if coding != b"identity":
        if body != "json":
            raise UnsupportedMediaType(
                "Only JSON bodies may be compressed.",
                code="unsupported_content_encoding",
                headers={"accept-encoding": "identity"},
            )
        check_coding(coding)
    elif head is not None and body == "json" and not head.is_chunked:
        head.is_usual = True


def is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")


def bearer_token(arrival: Arrival) -> bytes:
    """Returns the token of ``Authorization: Bearer …`` (RFC 6750 section 2.1), or what one of ``KEY_HEADERS`` holds.

    Raises ``AuthenticationFailed``, also where they differ.
    """
    return token_in(arrival.headers)


def token_in(headers: Mapping[bytes, bytes]) -> bytes:
    """As ``bearer_token``, of header fields by name."""
    header = headers.get(b"authorization")
    keys = {headers[name] for name in KEY_HEADERS if name in headers}
    if keys:
        if header is not None:
            keys.add(header.partition(b" ")[2].strip())
        if len(keys) > 1:
            raise AuthenticationFailed("The headers authorization, x-api-key and api-key hold different keys.")
        return keys.pop()
    if header is None:
        raise AuthenticationFailed(
            "You didn't provide an API key. Provide it in an Authorization header: Authorization: Bearer YOUR_KEY."
        )
    scheme, _, token = header.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise AuthenticationFailed("The Authorization header must be: Bearer YOUR_KEY.")
    return token


async def read_body(receive: Receive, max_body_bytes: int, timeout_s: float) -> bytes:
    """Returns the whole body. Raises ``RequestTooLarge`` (413), ``RequestTimeout`` (408) or ``ClientDisconnected``."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_body(receive, max_body_bytes)
    except TimeoutError:
        raise RequestTimeout(
            f"The request body did not arrive within {timeout_s:g} s.", headers={"connection": "close"}
        ) from None


async def _read_body(receive: Receive, max_body_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        if chunk:
            size += len(chunk)
            if size > max_body_bytes:
                raise too_large(max_body_bytes)
            parts.append(chunk)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(max_body_bytes: int) -> RequestTooLarge:
    """Returns the refusal of a body over the limit."""
    return RequestTooLarge(f"The request body is larger than {max_body_bytes} bytes.", headers={"connection": "close"})
