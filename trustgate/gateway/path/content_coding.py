"""Request bodies that are compressed: gzip, deflate, br and zstd, undone as they arrive and within the body's bounds.

Owns which codings are taken (RFC 9110, section 8.4.1), and that what follows sees the content alone: its size is what
``serve.max_body_bytes`` bounds, and its bytes are what a receipt commits to, so that a request can be proven whatever
way it was sent. A small body that grows large is refused when it has passed the bound, not when it has been undone; one
of which nothing comes is bounded too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Message, Receive

from trustgate.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType, UpstreamFailed
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.models.upstream.encoding import decoded

#: What is taken, as ``Accept-Encoding`` has it.
CODINGS = "gzip, deflate, br, zstd"
_KNOWN = frozenset(("gzip", "x-gzip", "deflate", "br", "zstd"))


def check_coding(header: bytes) -> None:
    """Raise ``UnsupportedMediaType`` (415) for a ``Content-Encoding`` that is not taken; several at once are not."""
    if header.strip().lower().decode("latin-1") not in _KNOWN:
        raise UnsupportedMediaType(
            f"The body's content-encoding is not taken: send it as it is, or in one of: {CODINGS}.",
            code="unsupported_content_encoding",
            headers={"accept-encoding": CODINGS},
        )


def undone(receive: Receive, header: bytes, max_bytes: int) -> Receive:
    """Returns what gives the content of a body whose ``Content-Encoding`` has been checked.

    It raises ``InvalidRequest`` for a body that is not in that coding, ``RequestTooLarge`` for one that has more than
    ``max_bytes`` as it was sent, and ``ClientDisconnected``.
    """
    pieces = decoded(_chunks(receive, max_bytes), header.decode("latin-1"))

    async def receive_content() -> Message:
        try:
            piece = await anext(pieces, None)
        except UpstreamFailed:
            coding = header.decode("latin-1")[:20]
            raise InvalidRequest(
                f"The body is not what its content-encoding says, or it ends too early: {coding}.",
                code="invalid_content_encoding",
            ) from None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    return receive_content


async def _chunks(receive: Receive, max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if message.get("body"):
            size += len(message["body"])
            if size > max_bytes:
                raise RequestTooLarge(
                    f"The request body is larger than {max_bytes} bytes.", headers={"connection": "close"}
                )
            yield message["body"]
        if not message.get("more_body", False):
            return
