"""How long a recording is, by its own headers: what a transcription costs where its answer does not say.

Owns the reading of lengths from untrusted files in bounded memory and time: of a file only its beginning and its end
are kept while it streams by. WAVE, MP3, MP4/M4A, FLAC, AIFF and WMA are read by tinytag; Ogg, whose length stands in
its last page, and WebM, which tinytag does not know, here. Nothing raises.

Sources: RFC 3533 section 6 (Ogg pages), RFC 7845 sections 4 and 5.1 (Opus in Ogg: 48 kHz, pre-skip), Xiph's Vorbis I
specification section 4.2.2, RFC 8794 (EBML) and RFC 9559 section 5.1 (Matroska: Info, Cluster).
"""

from __future__ import annotations

import io
import struct
from typing import Final

#: So much is kept of a file's beginning, bytes: what looks for frames in it may have to take four bytes at a time ...
HEAD_BYTES: Final = 64 * 1024
#: ... and of its end, enough for the index of a quarter of an hour of AAC, which recorders put there.
TAIL_BYTES: Final = 256 * 1024

#: Bytes a second between which recordings lie. What a header claims beyond is not believed: it would set the price.
#: Speech is not coded in less than 1 kbit/s; an MP3 holds at most 320 kbit/s; video, and samples as they are, 1.5 MB/s.
_LEAST_BYTES_PER_SECOND: Final = 125
_MOST_BYTES_PER_SECOND: Final = 1_500_000
_MOST_MP3_BYTES_PER_SECOND: Final = 40_000
#: What a recording is estimated by that names no length, bytes a second: 64 kbit/s.
_ESTIMATE_BYTES_PER_SECOND: Final = 8_000


class Recording:
    """The beginning, the end and the size of a recording that streams by."""

    __slots__ = ("_head", "_skip", "_start", "_tail", "size")

    def __init__(self) -> None:
        self._start = b""
        #: Bytes of an ID3 tag still to come: pictures, mostly, which say nothing of the length. None: not known yet.
        self._skip: int | None = None
        self._head = bytearray()
        self._tail = bytearray()
        #: Bytes so far, without an ID3 tag in front.
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Take one piece of the file."""
        if self._skip is None:
            data = self._start + data
            if len(data) < _ID3_HEADER_BYTES:
                self._start = data
                return
            self._skip = _id3_bytes(data)
            self._start = b""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        self._tail += data[-TAIL_BYTES:]
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        self.size += len(data)

    def more(self, size: int) -> None:
        """Count ``size`` bytes that are not at hand: what would be at the file's end is then not known."""
        self._tail.clear()
        self.size += size

    def length_ms(self) -> int | None:
        """Returns how long the recording is, milliseconds; None if that cannot be told."""
        tail = bytes(self._tail[-TAIL_BYTES:])
        return _length_ms(bytes(self._head), tail, self.size)

    def estimate_ms(self) -> int:
        """Returns how long a recording of this size is that does not tell, milliseconds."""
        return estimate_ms(self.size)


_ID3_HEADER_BYTES: Final = 10


def _id3_bytes(start: bytes) -> int:
    """Returns the length of the ID3 tag that a file begins with; 0 without one. Source: ID3v2.4, section 3.1."""
    if start[:3] != b"ID3":
        return 0
    high, third, second, low = (byte & 0x7F for byte in start[6:10])
    return _ID3_HEADER_BYTES + (high << 21 | third << 14 | second << 7 | low)


def audio_ms(data: bytes, size: int | None = None) -> int | None:
    """Returns how long a recording is, milliseconds, rounded up; None if that cannot be told.

    ``data``: all of it, or its beginning; ``size``: of all of it, bytes, if ``data`` is its beginning alone.
    """
    recording = Recording()
    recording.feed(data)
    if size is not None and size > len(data):
        recording.more(size - len(data))
    return recording.length_ms()


def estimate_ms(size: int) -> int:
    """Returns how long a recording of ``size`` bytes is that does not tell, milliseconds."""
    return -(-size * 1000 // _ESTIMATE_BYTES_PER_SECOND)


def _length_ms(head: bytes, tail: bytes, size: int) -> int | None:
    if not size:
        return None
    most_per_second = _MOST_BYTES_PER_SECOND
    try:
        if head[:4] == b"OggS":
            seconds = _ogg_s(head, tail)
        elif head[:4] == b"\x1aE\xdf\xa3":
            seconds = _webm_s(head, tail)
        elif head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
            seconds = _wave_s(head, size)
        else:
            seconds = _told_s(head, tail, size)
            if head[:1] == b"\xff" and head[1:2] >= b"\xe0":
                most_per_second = _MOST_MP3_BYTES_PER_SECOND
    except (struct.error, IndexError, ValueError):
        return None
    if seconds is None or not size / most_per_second <= seconds <= size / _LEAST_BYTES_PER_SECOND:
        return None
    return -int(-seconds * 1000 // 1)


def _told_s(head: bytes, tail: bytes, size: int) -> float | None:
    from tinytag import TinyTag, TinyTagException

    try:
        tag = TinyTag.get(file_obj=_Sparse(head, tail, size), tags=False)
    except TinyTagException:
        return None
    if tag.duration is None or not tag.bitrate or size <= len(head):
        return tag.duration
    by_rate = size * 8 / (tag.bitrate * 1000)
    # An MP3 of varying bit rate without an index, of which the beginning alone was read.
    return by_rate if head[4:8] != b"ftyp" and tag.duration < by_rate / 2 else tag.duration


class _Sparse(io.BytesIO):
    """A file of which only the beginning and the end are there; between them it reads as if it ended."""

    def __init__(self, head: bytes, tail: bytes, size: int) -> None:
        super().__init__(head)
        self._all_head = head
        self._all_tail = tail
        self._size = size
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._size if size is None or size < 0 else size
        if self._at < len(self._all_head):
            piece = self._all_head[self._at : self._at + wanted]
        else:
            start = self._at - (self._size - len(self._all_tail))
            piece = self._all_tail[start : start + wanted] if start >= 0 else b""
        self._at += len(piece)
        return piece


def _wave_s(head: bytes, size: int) -> float | None:
    """By the form of the samples and the size. Its lengths are not believed: streams leave them open."""
    at = head.find(b"fmt ", 12)
    if at < 0 or len(head) < at + 24:
        return None
    (bytes_per_second,) = struct.unpack_from("<I", head, at + 16)
    data = head.find(b"data", at)
    start = data + 8 if data >= 0 else at + 24
    return max(size - start, 0) / bytes_per_second if bytes_per_second else None


def _ogg_s(head: bytes, tail: bytes) -> float | None:
    """Returns the last page's position, in samples."""
    last = tail.rfind(b"OggS")
    if last < 0 or len(tail) < last + 14:
        return None
    position: int = struct.unpack_from("<q", tail, last + 6)[0]
    if (opus := head.find(b"OpusHead", 0, 4096)) >= 0:
        skipped: int = struct.unpack_from("<H", head, opus + 10)[0]
        return max(position - skipped, 0) / 48_000
    if (vorbis := head.find(b"\x01vorbis", 0, 4096)) >= 0:
        rate: int = struct.unpack_from("<I", head, vorbis + 12)[0]
        return position / rate if rate else None
    return None


#: Matroska's elements: Info's timestamp scale (nanoseconds) and duration, a cluster, and a cluster's timestamp.
_SCALE, _DURATION, _CLUSTER, _TIMESTAMP = b"\x2a\xd7\xb1", b"\x44\x89", b"\x1f\x43\xb6\x75", 0xE7


def _webm_s(head: bytes, tail: bytes) -> float | None:
    """Returns the duration in Info; browsers' recorders leave it out, then when the last block that can be seen
    begins.
    """
    info = head[:4096]
    scale_ns = 1_000_000
    if (at := info.find(_SCALE)) >= 0:
        scale_ns = int.from_bytes(_value(info, at + 3), "big") or scale_ns
    if (at := info.find(_DURATION)) >= 0:
        raw = _value(info, at + 2)
        if len(raw) in (4, 8):
            duration: float = struct.unpack(">f" if len(raw) == 4 else ">d", raw)[0]
            if duration > 0:
                return duration * scale_ns / 1e9
    cluster = tail.rfind(_CLUSTER)
    if cluster < 0:
        return None
    at = cluster + 4
    at += _size_length(tail, at)
    if tail[at] != _TIMESTAMP:
        return None
    begun = _value(tail, at + 1)
    blocks = at + 1 + _size_length(tail, at + 1) + len(begun)
    return (int.from_bytes(begun, "big") + _last_block(tail, blocks)) * scale_ns / 1e9


def _last_block(data: bytes, at: int) -> int:
    """Returns how long after its cluster the last of its simple blocks begins, in units of the scale."""
    last = 0
    while at < len(data) and data[at] == 0xA3:
        length = _size_length(data, at + 1)
        size = int.from_bytes(data[at + 1 : at + 1 + length], "big") & ((1 << 7 * length) - 1)
        start = at + 1 + length
        # The number of its track in one byte, then the time, 16 bits with a sign.
        last = max(last, int.from_bytes(data[start + 1 : start + 3], "big", signed=True))
        at = start + size
    return last


def _size_length(data: bytes, at: int) -> int:
    """Returns how many bytes an EBML size takes: one more than its leading zero bits."""
    return 9 - data[at].bit_length() if data[at] else 8


def _value(data: bytes, at: int) -> bytes:
    """Returns the value of an element whose size stands at ``at``."""
    length = _size_length(data, at)
    size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return data[at + length : at + length + min(size, 8)]
