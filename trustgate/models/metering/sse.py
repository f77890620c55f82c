"""Cutting a stream of server-sent events into frames, as it arrives and byte for byte.

Owns where a frame ends. A frame is everything up to and including the blank line that ends it, whatever its
line ends are (LF, CRLF, CR, mixed); comments, ``event:``, ``id:`` and ``retry:`` lines, a byte order mark and
UTF-8 split between chunks all travel untouched. Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

import re

from trustgate.errors import UpstreamFailed

#: The payload that ends an OpenAI stream.
DONE = b"[DONE]"

#: 4 MiB: far above any real chunk (the largest carry base64 audio), far below what would hurt.
DEFAULT_FRAME_LIMIT_BYTES = 4 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
#: As a number: as bytes it is looked for much more slowly (``in`` makes an exception of it first).
_CR = 0x0D
#: A line end followed by an empty line. A CR after LF waits for the next byte, which may be the LF of a CRLF.
_BLANK_LINE = re.compile(rb"\n(?:\n|\r\n|\r(?=[^\n]))|\r\r")
#: All that a new chunk can need of the bytes before it, to show that a frame ends inside it.
_EDGE_BYTES = 2


class SseScanner:
    """An incremental scanner: chunks in, whole frames out; one for each stream.

    All frames and then ``tail()`` put together are the input exactly, and how the input was split into chunks
    makes no difference to the frames. Work is linear in the input, however small the chunks.
    """

    __slots__ = ("_edge", "_limit", "_pending", "_pending_bytes")

    def __init__(self, limit: int = DEFAULT_FRAME_LIMIT_BYTES) -> None:
        """``limit``: the largest frame, in bytes."""
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        #: The last bytes of what is pending.
        self._edge = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the frames that ``chunk`` completes, in order; often one, maybe none.

        Raises ``UpstreamFailed`` when a frame, finished or not, is longer than the limit.
        """
        if self._pending:
            return self._feed_after_pending(chunk)
        if _CR in chunk:
            frames = _split(chunk)
        else:
            frames = chunk.split(b"\n\n")
            if len(frames) == 2 and not frames[1]:
                # The usual case, one chunk that is one frame, costs no copy.
                if len(chunk) > self._limit:
                    raise _too_long(self._limit)
                return [chunk]
            tail = frames.pop()
            frames = [frame + b"\n\n" for frame in frames]
            frames.append(tail)
        return self._keep_tail(frames, len(chunk))

    def only_frame(self, chunk: bytes) -> tuple[bytes, str | None] | None:
        """Returns the ``frame_parts`` of a chunk that is one usual frame, as most are: it is fed with that.

        None for every other one, which ``feed`` takes.
        """
        if self._pending_bytes or len(chunk) > self._limit:
            return None
        # The most usual one: a single line of data.
        if chunk[:6] == b"data: " and chunk.find(b"\n") == len(chunk) - 2 and chunk[-1:] == b"\n" and _CR not in chunk:
            return chunk[6:-2], None
        return _usual_parts(chunk)

    def _feed_after_pending(self, chunk: bytes) -> list[bytes]:
        """``feed`` while an unfinished frame is kept: joins it only once its end has come."""
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        around = self._edge + chunk
        if _BLANK_LINE.search(around) is None:
            if self._pending_bytes > self._limit:
                raise _too_long(self._limit)
            self._edge = around[-_EDGE_BYTES:]
            return []
        return self._keep_tail(_split(self.tail()), self._pending_bytes)

    def _keep_tail(self, frames: list[bytes], size: int) -> list[bytes]:
        """Keep the last, unfinished piece of ``frames`` (``size`` bytes in all) and give the others."""
        if size > self._limit and max(map(len, frames)) > self._limit:
            raise _too_long(self._limit)
        tail = frames.pop()
        self._pending = [tail] if tail else []
        self._pending_bytes = len(tail)
        self._edge = tail[-_EDGE_BYTES:]
        return frames

    def tail(self) -> bytes:
        """Returns what came after the last whole frame: at the end of a stream, a last frame without its blank line."""
        return b"".join(self._pending)


def frame_data(frame: bytes) -> bytes | None:
    """Returns the payload of a frame: its ``data:`` lines joined by LF; None when it has none (a comment, a ping).

    Takes a ``tail()`` too. A byte order mark is skipped in front of any frame, not of the first alone. A frame without
    ``data:`` lines that has an ``error:`` line gives that: older llama.cpp servers tell an error so.
    """
    if frame.startswith(b"data: ") and frame.endswith(b"\n\n") and frame.find(b"\n") == len(frame) - 2:
        payload = frame[6:-2]
        if _CR not in payload:
            return payload
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in frame.removeprefix(_BOM).splitlines()
        if line.startswith(b"data:") or line == b"data"
    ]
    if lines:
        return b"\n".join(lines)
    return _last_field(frame, b"error:")


def frame_parts(frame: bytes) -> tuple[bytes, str | None]:
    """Returns the payload of a frame (``frame_data``), b"" where it has none, and the name of its event."""
    return _usual_parts(frame) or (frame_data(frame) or b"", frame_event(frame))


def _usual_parts(frame: bytes) -> tuple[bytes, str | None] | None:
    """Returns the parts of a frame that is one line of data, behind one with its event's name or by itself.

    None for every other one.
    """
    if frame[-2:] != b"\n\n" or _CR in frame:
        return None
    line_end = frame.find(b"\n")
    if frame[:6] == b"data: ":
        return (frame[6:-2], None) if line_end == len(frame) - 2 else None
    if frame[:7] != b"event: " or frame[line_end + 1 : line_end + 7] != b"data: ":
        return None
    if frame.find(b"\n", line_end + 1) != len(frame) - 2:
        return None
    return frame[line_end + 7 : -2], frame[7:line_end].decode("utf-8", "replace")


def frame_event(frame: bytes) -> str | None:
    """Returns the name in a frame's ``event:`` line, the last of them; None for a frame without one.

    "error" for a frame with an error in a line of that name (``frame_data``).
    """
    if frame.startswith(b"data:") and frame.find(b"\n") == len(frame) - 2:
        # The usual case: one line, and it is not an event's name.
        return None
    event = _last_field(frame, b"event:")
    if event is not None:
        return event.decode("utf-8", "replace")
    is_error = frame_data(frame) is not None and _last_field(frame, b"data:") is None and b"error:" in frame
    return "error" if is_error else None


def _last_field(frame: bytes, field: bytes) -> bytes | None:
    """Returns the value of the last line of a field, without the one blank that may precede it."""
    values = [line[len(field) :] for line in frame.removeprefix(_BOM).splitlines() if line.startswith(field)]
    return values[-1].removeprefix(b" ") if values else None


def _split(data: bytes) -> list[bytes]:
    """Returns the whole frames in ``data``, then what is left over (maybe empty)."""
    pieces: list[bytes] = []
    start = 0
    for blank_line in _BLANK_LINE.finditer(data):
        pieces.append(data[start : blank_line.end()])
        start = blank_line.end()
    pieces.append(data[start:])
    return pieces


def _too_long(limit: int) -> UpstreamFailed:
    return UpstreamFailed(
        f"The model's server sent a stream event longer than {limit} bytes.",
        hint="It may not be speaking server-sent events; look at its own log.",
        code="upstream_event_too_large",
    )
