"""JSON bodies that are too large to be decoded in one go, read as they arrive.

Decoding 50 MB holds the event loop for a tenth of a second when they are one text, and for many seconds when they are
millions of small values. So a large body is taken apart while it arrives, a piece at a time: its long strings are cut
out, each piece of them checked and weighed on the way, and what is left (the skeleton: names, numbers, short strings,
and a stand-in for each long one) is decoded like any other body once it is whole. The skeleton is bounded, and so are
the values in it. What goes upstream is the skeleton with the long strings put back: the client's bytes.

Owns these bounds. Grammar: RFC 8259.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec

from trustgate.errors import InvalidRequest, RequestTooLarge
from trustgate.models.estimate import estimate_milli
from trustgate.models.stand_in import STAND_IN, stand_in

#: A body of at most this many bytes is decoded as it is: that takes a few milliseconds whatever it holds.
DIRECT_BYTES: Final = 64 * 1024
#: A string longer than this is cut out, but for its beginning: names of models and ids are told by that.
LONG_STRING_BYTES: Final = 1024
_KEPT_BYTES: Final = 512
#: The largest skeleton, bytes, and the most commas, colons, and objects and arrays in it. Any of these decode in some
#: 25 ms. An object of 330,000 names takes five times as long as an array of so many values.
MOST_SKELETON_BYTES: Final = 4 * 1024 * 1024
MOST_VALUES: Final = 500_000
MOST_MEMBERS: Final = 150_000
MOST_CONTAINERS: Final = 50_000
#: A long string is checked and kept in pieces of about this size, bytes.
_PIECE_BYTES: Final = 64 * 1024

# Each repetition ends with an empty alternative: before CPython 3.11.5 a possessive one whose last try fails ends where
# that try had come to, not where it had begun (gh-106052).
#: What lies outside of long strings, up to one, or to a string that is not at its end: short strings come whole.
_SHORT: Final = re.compile(rb'(?:[^"]++|"(?:[^"\\]|\\[\s\S]){0,1000}+"|)*+')
#: The inside of a string, as far as it goes; a last backslash waits for what it escapes.
_INSIDE: Final = re.compile(rb'(?:[^"\\]++|\\[\s\S]|)*+')
#: The beginning of a string's inside that can be decoded by itself: no escape and no surrogate pair is cut.
_WHOLE: Final = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u]|)*+"
)
_decode_text = msgspec.json.Decoder(str).decode


A = TypeVar("A")
R = TypeVar("R")
#: Few: a thread that computes takes its share of the interpreter from the loop.
_readers = ThreadPoolExecutor(2, thread_name_prefix="trustgate-body")


async def in_reader(read: Callable[[A], R], body: A) -> R:
    """``read(body)`` in a thread of those that read bodies: its many small steps are no turn of the loop's."""
    return await asyncio.get_running_loop().run_in_executor(_readers, read, body)


class LargeBody:
    """A large body: its skeleton, and the long strings that were cut out of it."""

    __slots__ = ("_digest", "_strings", "size", "skeleton")

    def __init__(self, skeleton: bytes, strings: list[list[bytes]], digest: bytes, size: int) -> None:
        self.skeleton = skeleton
        #: Of the client's bytes.
        self.size = size
        self._strings = strings
        self._digest = digest

    def digest(self) -> bytes:
        """SHA-256 of the client's bytes."""
        return self._digest

    def with_skeleton(self, skeleton: bytes) -> LargeBody:
        """Returns the body with its skeleton as it was edited; its digest stays that of the client's bytes."""
        return LargeBody(skeleton, self._strings, self._digest, self.size)

    def restored(self, skeleton: bytes) -> tuple[bytes, ...]:
        """``skeleton`` (this body's own, or as it was edited) with the long strings put back, in pieces."""
        return tuple(piece for piece in self._pieces(skeleton) if piece)

    def _pieces(self, skeleton: bytes) -> Iterator[bytes]:
        at = 0
        for found in STAND_IN.finditer(skeleton):
            yield skeleton[at : found.start()]
            yield from self._strings[int(found[1])]
            at = found.end()
        yield skeleton[at:]


class LargeBodyReader:
    """Takes a body apart as it arrives. The work of ``feed`` is linear in what it is given."""

    def __init__(self) -> None:
        self._skeleton = bytearray()
        self._strings: list[list[bytes]] = []
        self._hash = hashlib.sha256()
        self._size = 0
        self._values = 0
        self._members = 0
        self._containers = 0
        #: Bytes that cannot be told apart before more has come: a backslash.
        self._carried = b""
        self._is_inside = False
        #: What has come of the string that is read, and is not in the skeleton or among the pieces yet.
        self._pending = bytearray()
        #: The pieces of a long string, and what they weigh; None: it is not long yet.
        self._pieces: list[bytes] | None = None
        self._milli = 0
        self._characters = 0

    def feed(self, data: bytes) -> None:
        """Take in the next bytes.

        Raises ``InvalidRequest`` for a long string that is none and ``RequestTooLarge`` (413) for too large a skeleton.
        """
        self._hash.update(data)
        self._size += len(data)
        if self._carried:
            data, self._carried = self._carried + data, b""
        at = 0
        while at < len(data):
            if not self._is_inside:
                end = _end(_SHORT, data, at)
                self._add(data[at:end])
                if end < len(data):  # at the quote of a string that is long, or not at its end
                    self._is_inside = True
                    self._add_text(b'"')
                    end += 1
            else:
                end = _end(_INSIDE, data, at)
                self._go_on(data[at:end])
                if data[end : end + 1] == b'"':
                    self._end_string()
                    end += 1
                elif end < len(data):
                    self._carried = data[end:]
                    end = len(data)
            at = end

    def finish(self) -> LargeBody:
        """Returns the body, which is at its end. Whether its skeleton is JSON is for its decoder to say."""
        self._skeleton += self._pending + self._carried
        return LargeBody(bytes(self._skeleton), self._strings, self._hash.digest(), self._size)

    def _add(self, part: bytes) -> None:
        """Add structure to the skeleton: what stands outside of strings, and whole strings that are short."""
        self._add_text(part)

    def _add_text(self, part: bytes) -> None:
        """Add to the skeleton, within bounds. What strings hold is counted like structure."""
        self._skeleton += part
        self._values += part.count(b",")
        self._members += part.count(b":")
        self._containers += part.count(b"[") + part.count(b"{")
        if self._values > MOST_VALUES or self._members > MOST_MEMBERS or self._containers > MOST_CONTAINERS:
            raise _too_many(
                f"more than {MOST_VALUES} values, {MOST_MEMBERS} members or {MOST_CONTAINERS} objects and arrays"
            )
        if len(self._skeleton) > MOST_SKELETON_BYTES:
            raise _too_many(f"more than {MOST_SKELETON_BYTES} bytes besides its long texts")

    def _go_on(self, part: bytes) -> None:
        self._pending += part
        if self._pieces is None:
            if len(self._pending) <= LONG_STRING_BYTES:
                return
            # Its beginning stays.
            self._pieces, self._milli, self._characters = [], 0, 0
            kept = _cut(bytes(self._pending[:_KEPT_BYTES]))
            self._add_text(bytes(self._pending[:kept]))
            del self._pending[:kept]
        while len(self._pending) > _PIECE_BYTES:
            self._weigh(_cut(bytes(self._pending[:_PIECE_BYTES])) or len(self._pending))

    def _weigh(self, size: int) -> None:
        """Check and weigh the first bytes of what is pending, and put them aside."""
        assert self._pieces is not None, "only long strings are weighed"
        piece = bytes(self._pending[:size])
        del self._pending[:size]
        try:
            text = _decode_text(b'"%b"' % piece)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidRequest(
                "We could not parse the JSON body of your request: a long string in it is not valid.",
                code="invalid_json",
            ) from None
        self._milli += estimate_milli(text)
        self._characters += len(text)
        self._pieces.append(piece)

    def _end_string(self) -> None:
        self._is_inside = False
        if self._pieces is not None:
            if self._pending:
                self._weigh(len(self._pending))
            self._pending += stand_in(len(self._strings), self._milli, self._characters)
            self._strings.append(self._pieces)
            self._pieces = None
        self._pending += b'"'
        self._add_text(bytes(self._pending))
        self._pending.clear()


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return at if found is None else found.end()  # each of them matches nothing, too


def _cut(data: bytes) -> int:
    """Returns how much of a string can be decoded by itself: it ends with no part of an escape or a character."""
    end = _end(_WHOLE, data, 0)
    for back in range(1, min(4, end + 1)):
        byte = data[end - back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return end - back if needed > back else end
        if byte < 0x80:
            break
    return end


def _too_many(what: str) -> RequestTooLarge:
    return RequestTooLarge(f"The JSON body has {what}.", headers={"connection": "close"})
