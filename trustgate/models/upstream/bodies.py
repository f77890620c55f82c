"""The bodies of upstreams' answers, before they are metered: what kind a body is, and its parts as they arrive.

Servers answer with JSON where a stream was asked for and the other way round, put a byte order mark before a document
or a stream's end behind it, and send blanks first while they work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from trustgate.errors import UpstreamFailed
from trustgate.models.metering.sse import SseScanner, frame_data, frame_event
from trustgate.models.upstream.response import Response

#: The largest answer that is read whole (a stream has no such bound).
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
#: Blanks before an answer and behind it are looked for in so many bytes first.
_ENDING_BYTES = 64


def is_json(content_type: str) -> bool:
    """Returns whether a ``content-type`` is JSON's, or of a format built on it (RFC 6839)."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_event_stream(content_type: str) -> bool:
    """Returns whether a ``content-type`` is that of server-sent events."""
    return content_type[:17].lower() == "text/event-stream"


async def read_whole(chunks: AsyncIterator[bytes]) -> bytes:
    """Returns a body read to its end. Raises ``UpstreamFailed`` where it is larger than ``MAX_ANSWER_BYTES``."""
    if isinstance(chunks, Response) and chunks.is_whole:
        return chunks.take()
    parts = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise UpstreamFailed("The upstream's answer is too large.", retryable=False)
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def first_bytes(chunks: AsyncIterator[bytes]) -> bytes:
    """Returns the first bytes that are not blank, with those before them; b"" for a body that is empty."""
    first = b""
    async for chunk in chunks:
        first += chunk
        if first.removeprefix(_BOM).strip():
            break
    return first


async def continued(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yields what was read of a body already, then the rest."""
    if first:
        yield first
    async for chunk in chunks:
        yield chunk


async def single(chunk: bytes) -> AsyncIterator[bytes]:
    """Yields a body that came in one piece."""
    yield chunk


def looks_like_events(body: bytes) -> bool:
    """Returns whether a body begins as a stream of server-sent events does."""
    return body[:64].removeprefix(_BOM).lstrip().startswith((b"data:", b"event:", b":", b"id:", b"retry:"))


def first_byte(body: bytes) -> bytes:
    """Returns the first byte that is not blank, without a copy of what may be many megabytes."""
    return body[:_ENDING_BYTES].lstrip()[:1] or body.lstrip()[:1]


def bare_document(body: bytes) -> bytes:
    """Returns a JSON document without a byte order mark before it and without a stream's end behind it."""
    body = body.removeprefix(_BOM)
    if body[-_ENDING_BYTES:].rstrip().endswith(b"[DONE]") and first_byte(body) == b"{":
        return body.rstrip()[:-6].rstrip().removesuffix(b"data:").rstrip()
    return body


def event_frames(body: bytes, max_event_bytes: int) -> Iterator[tuple[bytes, str | None]]:
    """Yields the payloads of a stream that was read whole, and the names of their events."""
    scanner = SseScanner(max_event_bytes)
    for frame in (*scanner.feed(body), scanner.tail()):
        data = frame_data(frame)
        if data is not None:
            yield data, frame_event(frame)
