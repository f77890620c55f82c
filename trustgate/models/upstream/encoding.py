"""Decoding an upstream's answer that came compressed although ``identity`` was asked for.

Owns content codings (RFC 9110, section 8.4.1): gzip, deflate (with or without zlib's frame), br and zstd, several on
top of each other included. Output comes in pieces of bounded size, so that a small answer cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

from trustgate.errors import UpstreamFailed

#: About the largest piece that decoding gives at a time, bytes (brotli may give some twice as much).
PIECE_BYTES = 256 * 1024
#: More codings than this on top of each other are refused.
_CODINGS_MOST = 3


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded pieces of ``data``, each about ``PIECE_BYTES`` at most. Raises ``ValueError`` and the like."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether the input may end here."""
        ...


class _Zlib:
    """gzip and deflate. gzip's members may follow each other; a raw deflate stream is told by its first byte."""

    def __init__(self, coding: str) -> None:
        self._is_gzip = coding == "gzip"
        self._decoder: zlib._Decompress | None = zlib.decompressobj(31) if self._is_gzip else None
        self._begun = False

    @property
    def is_whole(self) -> bool:
        return not self._begun or (self._decoder is not None and self._decoder.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._decoder is None:
                # zlib's frame (RFC 1950) begins with the method 8; without it the stream is raw (some servers).
                self._decoder = zlib.decompressobj(15 if data[0] & 0x0F == 8 else -15)
            elif self._decoder.eof:
                if not self._is_gzip or not data.lstrip(b"\0"):
                    return
                self._decoder = zlib.decompressobj(31)
            self._begun = True
            piece = self._decoder.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            if not data and len(piece) == PIECE_BYTES and not self._decoder.eof:
                # Output that had no room may still be inside.
                yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        assert self._decoder is not None
        while piece := self._decoder.decompress(b"", PIECE_BYTES):
            yield piece


class _Brotli:
    def __init__(self) -> None:
        import brotli

        self._decoder = brotli.Decompressor()
        self._begun = False

    @property
    def is_whole(self) -> bool:
        return not self._begun or bool(self._decoder.is_finished())

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._begun = True
        if self._decoder.is_finished():
            return
        piece = self._decoder.process(data, output_buffer_limit=PIECE_BYTES)
        while True:
            if piece:
                yield piece
            if self._decoder.is_finished() or (not piece and self._decoder.can_accept_more_data()):
                return
            piece = self._decoder.process(b"", output_buffer_limit=PIECE_BYTES)


class _Zstd:
    """Frames may follow each other."""

    def __init__(self) -> None:
        self._decoder = _zstd_decoder()
        self._begun = False

    @property
    def is_whole(self) -> bool:
        return not self._begun or self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._decoder.eof:
                data = self._decoder.unused_data + data
                if not data:
                    return
                self._decoder = _zstd_decoder()
            self._begun = True
            piece = self._decoder.decompress(data, PIECE_BYTES)
            data = b""
            if piece:
                yield piece
            if self._decoder.eof:
                if not self._decoder.unused_data:
                    return
            elif self._decoder.needs_input:
                return


class _ZstdDecoder(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _zstd_decoder() -> _ZstdDecoder:
    try:
        from compression.zstd import ZstdDecompressor  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        from backports.zstd import ZstdDecompressor
    decoder: _ZstdDecoder = ZstdDecompressor()
    return decoder


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": lambda: _Zlib("gzip"),
    "x-gzip": lambda: _Zlib("gzip"),
    "deflate": lambda: _Zlib("deflate"),
    "br": _Brotli,
    "zstd": _Zstd,
}


def decoded(chunks: AsyncIterator[bytes], content_encoding: str | None) -> AsyncIterator[bytes]:
    """The body as if ``identity`` had been obeyed: ``chunks`` itself where nothing is to be undone.

    Args:
        chunks: the body as it arrives.
        content_encoding: the header of that name; codings are undone from the last to the first.

    Raises ``UpstreamFailed`` for a coding that is not known; so does the iterator, for a body that is not in its
    header's coding, or ends too early.
    """
    if not content_encoding:
        return chunks
    codings = [coding for part in content_encoding.split(",") if (coding := part.strip().lower())]
    for coding in reversed([coding for coding in codings if coding != "identity"][: _CODINGS_MOST + 1]):
        make = _DECODERS.get(coding)
        if make is None or len(codings) > _CODINGS_MOST:
            raise UpstreamFailed(
                f"The upstream's response is compressed in a way that this gateway cannot read: {coding[:40]!r}.",
                retryable=False,
            )
        chunks = _undone(chunks, make(), coding)
    return chunks


async def _undone(chunks: AsyncIterator[bytes], decoder: _Decoder, coding: str) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        try:
            for number, piece in enumerate(decoder.feed(chunk)):
                if number:
                    await asyncio.sleep(0)  # a small chunk may become a thousand times as much
                yield piece
        except Exception as error:
            # zlib.error, brotli.error and ZstdError have no class in common.
            raise UpstreamFailed(
                f"The upstream's response says that it is compressed with {coding}, but it is not.", retryable=False
            ) from error
    if not decoder.is_whole:
        raise UpstreamFailed(f"The upstream's response, compressed with {coding}, ends too early.", retryable=False)
