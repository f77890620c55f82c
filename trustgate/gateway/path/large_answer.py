"""Answers that are too large to be decoded in one go, read in pieces between the turns of the event loop.

A list of images or of vectors has tens of megabytes. Its long strings are cut out as those of a large request are
(``gateway.api.large_body``), and of vectors all but the last numbers: what an answer reports of itself is in what is
left (the skeleton), and the client gets the bytes as they came. Owns the digest of a large answer, made on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Final

import msgspec

from trustgate.errors import InvalidRequest, RequestTooLarge
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBodyReader

#: Numbers one after another, each with the comma behind it: nothing but a list of numbers holds so many.
_NUMBERS: Final = re.compile(rb"(?<![-+0-9.eE])(?:[-+0-9.eE]{1,64}+[ \t\r\n]{0,64}+,[ \t\r\n]{0,64}+){16,}+", re.ASCII)


class LargeAnswer(msgspec.Struct, frozen=True):
    """What is left of an answer to be decoded, and the SHA-256 of all of it, still open."""

    skeleton: bytes
    hash: hashlib._Hash


async def take_apart(body: bytes, *, drops_vectors: bool) -> LargeAnswer | None:
    """Returns a whole answer taken apart; None for one that is small.

    One that cannot be taken apart (it is no JSON, or has more values than fit in a skeleton) is its own skeleton.

    Args:
        body: the answer.
        drops_vectors: whether long lists of numbers are cut out too: of an answer that holds no text whose tokens
            might have to be estimated.
    """
    if len(body) <= DIRECT_BYTES:
        return None
    digest = hashlib.sha256()
    reader: LargeBodyReader | None = LargeBodyReader() if body[:64].lstrip()[:1] in (b"{", b"[") else None
    for at in range(0, len(body), DIRECT_BYTES):
        piece = body[at : at + DIRECT_BYTES]
        digest.update(piece)
        if reader is not None:
            try:
                reader.feed(_without_vectors(piece) if drops_vectors else piece)
            except (InvalidRequest, RequestTooLarge):
                reader = None
        await asyncio.sleep(0)  # the others' turn
    return LargeAnswer(body if reader is None else reader.finish().skeleton, digest)


def _without_vectors(piece: bytes) -> bytes:
    """Returns a piece without the long lists of numbers in it. It may begin and end within a number."""
    begin = piece.find(b",") + 1
    return piece[:begin] + _NUMBERS.sub(b"", piece[begin:]) if begin else piece
