"""Compressed answers: a small piece that becomes a large one leaves the others their turns of the event loop."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest

from tests.support.streams import counting_turns
from trustgate.models.upstream.bodies import single
from trustgate.models.upstream.encoding import PIECE_BYTES, decoded

_PIECES = 40
_BODY = bytes(_PIECES * PIECE_BYTES)


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)]
)
async def test_what_a_small_piece_becomes_is_given_in_turns(coding: str, compress: Callable[[bytes], bytes]) -> None:
    async with counting_turns() as turns:
        pieces = [piece async for piece in decoded(single(compress(_BODY)), coding)]
    assert b"".join(pieces) == _BODY
    assert turns.number >= _PIECES // 3  # how large pieces are is up to the decoder
