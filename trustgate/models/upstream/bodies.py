"""The bodies of upstreams' answers, before they are metered: what kind a body is, and its parts as they arrive.

Servers answer with JSON where a stream was asked for and the other way round, put a byte order mark before a document
or a stream's end behind it, and send blanks first while they work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from trustgate.errors import UpstreamFailed
from trustgate.models.metering.sse import SseScanner, frame_data, frame_event
from trustgate.models.upstream.response import Response

#: The largest answer that is read whole (a stream has no such bound).
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: The most blanks before an answer, bytes. Servers send one now and then while they work.
MAX_BLANKS_BYTES = 64 * 1024
#: A stream that is read whole is cut into frames in pieces of so many bytes: all of them at once can be many millions.
_CUT_BYTES = 64 * 1024
_FRAMES_PER_TURN = 64
#: The most events of one that is read whole, comments among them: each is a token or a few, and no model's answer has
#: as many.
MAX_EVENTS = 500_000
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
    """Returns the first bytes that are not blank, with those before them; b"" for a body that is empty.

    Raises ``UpstreamFailed`` where more than ``MAX_BLANKS_BYTES`` come before them.
    """
    parts = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        # A byte order mark may come in pieces: it is short, and so are they together.
        start = b"".join(parts) if size <= _ENDING_BYTES else chunk
        if start.removeprefix(_BOM).strip():
            break
        if size > MAX_BLANKS_BYTES:
            raise UpstreamFailed(
                f"The upstream sent more than {MAX_BLANKS_BYTES} bytes of blanks before its answer.", retryable=False
            )
    return b"".join(parts)


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


async def event_frames(body: bytes, max_event_bytes: int) -> AsyncGenerator[tuple[bytes, str | None], None]:
    """Yields the payloads of a stream that was read whole, and the names of their events.

    Others have turns of the event loop meanwhile. Raises ``UpstreamFailed`` for more events than ``MAX_EVENTS``, or one
    that is too large.
    """
    scanner = SseScanner(max_event_bytes)
    found = 0
    for start in range(0, len(body), _CUT_BYTES):
        frames = scanner.feed(body[start : start + _CUT_BYTES])
        if start + _CUT_BYTES >= len(body):
            frames.append(scanner.tail())
        found += len(frames)
        if found > MAX_EVENTS:
            raise UpstreamFailed(f"The upstream's answer has more than {MAX_EVENTS} events.", retryable=False)
        for number, frame in enumerate(frames, 1):
            data = frame_data(frame)
            if data is not None:
                yield data, frame_event(frame)
            if number % _FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)
