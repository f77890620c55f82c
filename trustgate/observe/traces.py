"""The trace a request belongs to: W3C Trace Context, taken from its client and given on to its upstream.

Owns the ids. A request's span is named after its receipt: the span's id is the end of the receipt's id, and where the
client brings no trace, all 32 digits of it are the trace's id. So nothing has to be remembered, and who has a receipt
finds its trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

#: Version 00 ends with the flags; later ones may go on, and there is no version ff.
_IDS = rb"-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
_TRACEPARENT = re.compile(rb"(?:00" + _IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _IDS + rb"(?:-.*)?)")
_STATE = re.compile(rb"[\x20-\x7e]{1,512}")
_ID_BITS = 64


class TraceContext(NamedTuple):
    """A request's place in its trace; ids in hexadecimal."""

    trace_id: str
    span_id: str
    #: Of the client's span; "" where the trace begins here.
    parent_id: str
    #: The client's tracestate, as it came.
    state: str
    is_sampled: bool

    def traceparent(self) -> str:
        """Returns the header ``traceparent`` for the upstream's request."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


class Tracing:
    """How requests are traced. ``ratio``: which part of the traces that begin here is kept, from 0 to 1."""

    def __init__(self, ratio: float) -> None:
        self._below = round(ratio * 2**_ID_BITS)

    def context(self, headers: Mapping[bytes, bytes], receipt_id: str) -> TraceContext:
        """The client decides for its own traces whether they are kept."""
        own = receipt_id.rpartition("_")[2]
        span_id = own[-16:]
        found = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
        trace_id, parent_id, flags = (part.decode() for part in found.groups() if part) if found else ("0", "0", "0")
        if not int(trace_id, 16) or not int(parent_id, 16):
            return TraceContext(own, span_id, "", "", int(span_id, 16) < self._below)
        state = headers.get(b"tracestate", b"")
        shown = state.decode() if _STATE.fullmatch(state) else ""
        return TraceContext(trace_id, span_id, parent_id, shown, bool(int(flags, 16) & 1))
