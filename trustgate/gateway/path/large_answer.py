"""Answers that are too large to be decoded in one go, read in pieces between the turns of the event loop.

A list of images or of vectors has tens of megabytes. Its long strings are cut out as those of a large request are
(``gateway.api.large_body``), and of vectors all but the last numbers: what an answer reports of itself is in what is
left (the skeleton), and the client gets the bytes as they came. Owns the digest of a large answer, made on the way.

An answer may have more values than fit in a skeleton: the log probabilities of a long text, or a server's nonsense.
From there on its outline alone is read: what the outermost object has besides its large members, the usage that is
reported at the end among it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from itertools import accumulate
from typing import Final

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api import large_body
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBodyReader

#: How much is read at a turn of the loop; and how much of an outline, where each bracket costs a step.
_STEP_BYTES: Final = 32 * 1024
_OUTLINE_STEP_BYTES: Final = 16 * 1024
#: A member of the outermost object that is larger is left out of the outline; and what an outline has at most.
_MEMBER_BYTES: Final = 16 * 1024
_OUTLINE_BYTES: Final = 512 * 1024

#: Numbers one after another, each with the comma behind it: nothing but a list of numbers holds so many.
_NUMBER: Final = rb"[-+0-9.eE]{1,64}+[ \t\r\n]{0,64}+,[ \t\r\n]{0,64}+"
# The empty alternative: as in api/large_body.py.
_NUMBERS: Final = re.compile(rb"(?<![-+0-9.eE])(?:%b){16}(?:%b|)*+" % (_NUMBER, _NUMBER), re.ASCII)
_STRING: Final = rb'"(?:[^"\\]|\\[\s\S])*+"'
_STRINGS: Final = re.compile(_STRING)
_MARKS: Final = re.compile(_STRING + rb"|[\[\]{},]")
_BUT_MARKS: Final = bytes(set(range(256)) - set(b"[]{},"))
_BUT_BRACKETS: Final = _BUT_MARKS + b","
_CLOSERS: Final = {ord("["): b"]", ord("{"): b"}"}
#: What a bracket adds to the depth.
_DEEPER: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class LargeAnswer(msgspec.Struct, frozen=True):
    """What is left of an answer to be decoded, and the SHA-256 of all of it, still open."""

    skeleton: bytes
    hash: hashlib._Hash


async def take_apart(body: bytes, *, drops_vectors: bool) -> LargeAnswer | None:
    """Returns a whole answer taken apart; None for one that is small.

    One that is no JSON document is its own skeleton, or, where it begins like one, as much of it as shows that.

    Args:
        body: the answer.
        drops_vectors: whether long lists of numbers are cut out too: of an answer that holds no text whose tokens
            might have to be estimated.
    """
    if len(body) <= DIRECT_BYTES:
        return None
    digest = hashlib.sha256()
    is_json = body[:64].lstrip()[:1] in (b"{", b"[")
    reader = AnswerReader() if is_json else None
    at = 0
    while at < len(body):
        step = _OUTLINE_STEP_BYTES if reader is not None and reader.is_outlining else _STEP_BYTES
        piece = body[at : at + step]
        at += step
        digest.update(piece)
        if reader is not None:
            try:
                reader.feed(without_vectors(piece) if drops_vectors else piece)
            except InvalidRequest:
                reader = None
        await asyncio.sleep(0)  # other requests run
    if reader is not None:
        return LargeAnswer(reader.finish().skeleton, digest)
    # The beginning of a document is none.
    return LargeAnswer(body[:DIRECT_BYTES] if is_json else body, digest)


def without_vectors(piece: bytes) -> bytes:
    """Returns a piece without the long lists of numbers in it. It may begin and end within a number."""
    begin = piece.find(b",") + 1
    return piece[:begin] + _NUMBERS.sub(b"", piece[begin:]) if begin else piece


class AnswerReader(LargeBodyReader):
    """As its base; beyond the bounds of a skeleton it goes on with the answer's outline."""

    def __init__(self) -> None:
        super().__init__()
        #: The brackets that are open, the outermost first.
        self._open = bytearray()
        #: The last part of the skeleton that has a place to cut it: where it begins, what was open there, and itself.
        self._last_part: tuple[int, bytes, bytes] = (0, b"", b"")
        self.is_outlining = False
        #: What is open, of brackets, where the answer is read.
        self._depth = 0
        #: The member of the outermost object that is read, with the comma before it; None: it is left out.
        self._member: bytearray | None = None
        self._outline_bytes = 0
        #: Nothing more fits in the outline: only its end is looked for.
        self._is_full = False

    def _add(self, part: bytes) -> None:
        if self.is_outlining:
            self._outline(part)
            return
        marks = _STRINGS.sub(b"", part).translate(None, _BUT_MARKS)
        containers = marks.count(b"[") + marks.count(b"{")
        if (
            self._values + part.count(b",") > large_body.MOST_VALUES
            or self._containers + containers > large_body.MOST_CONTAINERS
            or len(self._skeleton) + len(part) > large_body.MOST_SKELETON_BYTES
        ):
            self._begin_outline()
            self._outline(part)
            return
        if containers or b"," in marks:
            self._last_part = (len(self._skeleton), bytes(self._open), part)
        _nest(self._open, marks.translate(None, b","))
        self._skeleton += part
        self._values += part.count(b",")
        self._containers += containers

    def _add_text(self, part: bytes) -> None:
        if not self.is_outlining:
            self._skeleton += part
        elif self._member is not None:
            self._member += part

    def _begin_outline(self) -> None:
        """Cut the skeleton behind its last whole value, and close what is open but for the outermost bracket."""
        self.is_outlining = True
        self._depth = len(self._open)
        begin, open_there, part = self._last_part
        cut, nesting, left_open = 0, bytearray(open_there), bytes(open_there)
        for found in _MARKS.finditer(part):  # of them the last mark counts that is no closing bracket
            mark = found[0]
            if mark == b",":
                cut, left_open = found.start(), bytes(nesting)
            elif mark in (b"[", b"{"):
                nesting += mark
                cut, left_open = found.end(), bytes(nesting)
            elif len(mark) == 1:
                del nesting[-1:]
        del self._skeleton[begin + cut :]
        self._skeleton += b"".join(_CLOSERS[bracket] for bracket in reversed(left_open[1:]))

    def _outline(self, part: bytes) -> None:
        """Add to the skeleton what the outermost object has in this part, but for large members."""
        lowest = 0 if self._is_full else 1
        if self._depth > lowest and self._member is None:
            brackets = _STRINGS.sub(b"", part).translate(None, _BUT_BRACKETS)
            depths = list(accumulate(map(_DEEPER.__getitem__, brackets), initial=self._depth))
            if min(depths) > lowest:
                self._depth = depths[-1]
                return
        at = 0
        for found in _MARKS.finditer(part):
            mark = found[0]
            if len(mark) > 1:
                continue
            if mark in (b"[", b"{"):
                self._depth += 1
                if self._depth == 1:
                    self._skeleton += mark
                    self._member = bytearray()
                    at = found.end()
            elif mark != b",":
                self._depth -= 1
                if self._depth == 0:
                    self._end_member(part[at : found.start()])
                    self._skeleton += mark
                    at = found.end()
            elif self._depth == 1 and not self._is_full:
                self._end_member(part[at : found.start()])
                self._begin_member()
                at = found.start()
        if self._member is not None:
            self._member += part[at:]
            if len(self._member) > _MEMBER_BYTES:
                self._member = None

    def _begin_member(self) -> None:
        self._member = None if self._is_full else bytearray()

    def _end_member(self, rest: bytes) -> None:
        member, self._member = self._member, None
        if member is None:
            return
        member += rest
        if self._skeleton.endswith((b"[", b"{")):
            del member[: member.startswith(b",")]  # the first that is left
        if len(member) <= _MEMBER_BYTES:
            self._outline_bytes += len(member)
            self._is_full = self._outline_bytes > _OUTLINE_BYTES
            if not self._is_full:
                self._skeleton += member


def _nest(nesting: bytearray, brackets: bytes) -> None:
    """Open and close brackets. Raises ``InvalidRequest`` where one is closed that is not open."""
    for bracket in brackets:
        if bracket in _CLOSERS:
            nesting.append(bracket)
        elif nesting:
            del nesting[-1]
        else:
            raise InvalidRequest("The document has more brackets closed than opened.", code="invalid_json")
