"""One segment of the journal: the bytes of it.

Owns the format, and nothing that keeps a file open:

    name     ``%020d.journal`` of the first sequence number ("base") the segment may hold
    header   magic 8 ‖ version u32 ‖ base u64 ‖ store id, 64 bytes, NUL-padded ‖ CRC-32 of the foregoing
    record   length u32 ‖ CRC-32 of the payload, starting from the header's CRC ‖ payload: MessagePack of types.Entry
    rest     zeros; a length of 0 ends the segment

All integers are little-endian. Because checksums start from the header's, a record read in another segment, or in a
segment of another store, is no record.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from trustgate.errors import StoreDamaged, StoreTooNew
from trustgate.types import Entry

#: What one record may take up at most, its head of length and checksum included. A receipt is about 900 bytes;
#: the strings in it that a client or an upstream chooses must be kept short enough by the code that makes it.
MAX_RECORD_BYTES = 4096
MAX_STORE_ID_BYTES = 64

_MAGIC = b"TGJOURNL"
_VERSION = 1
_HEADER = struct.Struct(f"<8sIQ{MAX_STORE_ID_BYTES}sI")
_RECORD = struct.Struct("<II")
_NAME = re.compile(r"(\d{20})\.journal")

HEADER_BYTES = _HEADER.size
RECORD_HEAD_BYTES = _RECORD.size

encode_entry = msgspec.msgpack.Encoder().encode
pack_record_head = _RECORD.pack
decode_entry = msgspec.msgpack.Decoder(Entry).decode


_BLOCK_BYTES = 64 * 1024

#: A segment's content.
Content = bytes | mmap.mmap


class Segment(NamedTuple):
    path: Path
    base: int


class Scan(NamedTuple):
    """What is in a segment: where its good records end and the last one's sequence number (base - 1 for none)."""

    end: int
    last_seq: int
    #: How many bytes after ``end`` are not blank: a record that a crash interrupted.
    torn_bytes: int
    #: The CRC that the records' checksums start from.
    salt: int


def segments_in(folder: Path) -> list[Segment]:
    """Returns the segments of a folder, in order. Raises OSError."""
    names = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    return sorted((Segment(path, int(name.group(1))) for path, name in names if name), key=lambda found: found.base)


@contextmanager
def content_of(segment: Segment) -> Iterator[Content]:
    """Yields what is in a segment's file. Raises OSError.

    Not as ``bytes``: once so large a block has been freed, glibc's malloc keeps up to 32 MB of freed memory for good.
    """
    with segment.path.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        if size == 0:
            yield b""
            return
        file.seek(0)
        with mmap.mmap(-1, size) as content:
            position = 0
            while block := file.read(min(_BLOCK_BYTES, size - position)):
                content[position : position + len(block)] = block
                position += len(block)
            yield content


def used_bytes(content: Content) -> int:
    """Returns where the zeros begin that a segment ends with; 0 for a blank one."""
    for end in range(len(content), 0, -_BLOCK_BYTES):
        begin = max(0, end - _BLOCK_BYTES)
        if used := content[begin:end].rstrip(b"\0"):
            return begin + len(used)
    return 0


def segment_for(folder: Path, base: int) -> Segment:
    return Segment(folder / f"{base:020d}.journal", base)


def pack_header(base: int, store_id: str) -> tuple[bytes, int]:
    """Returns a header and its checksum, which is the records' salt."""
    header = _HEADER.pack(_MAGIC, _VERSION, base, store_id.encode(), 0)[:-4]
    salt = crc32(header)
    return header + struct.pack("<I", salt), salt


def check_header(segment: Segment, data: Content, store_id: str) -> int:
    """Returns the salt of a segment that is ours. Raises StoreDamaged or StoreTooNew."""
    header = data[:HEADER_BYTES]
    folder = segment.path.parent
    if len(header) < HEADER_BYTES:
        raise damaged(folder, f"{segment.path.name} is cut short")
    magic, version, base, owner, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or checksum != crc32(header[:-4]) or base != segment.base:
        raise damaged(folder, f"the header of {segment.path.name} is unreadable")
    if version != _VERSION:
        raise StoreTooNew(
            f"The journal in {folder} was written by a newer TrustGate (format {version}).",
            hint="Use the newer TrustGate, or choose another folder with --home.",
        )
    if owner.rstrip(b"\0") != store_id.encode():
        raise StoreDamaged(
            f"The journal in {folder} belongs to another database than the one beside it.",
            hint="Put the database and the journal that belong together into one folder. If the journal's database "
            "is gone for good, move the journal folder away.",
        )
    return int(checksum)


def records(segment: Segment, data: Content, salt: int) -> Iterator[tuple[Entry, int]]:
    """The good records from the segment's start on: each entry and the position after it. Raises StoreDamaged."""
    position = HEADER_BYTES
    while (payload := _payload_at(data, position, salt)) is not None:
        position += RECORD_HEAD_BYTES + len(payload)
        yield _entry(segment, payload), position


def scan(segment: Segment, data: Content, store_id: str) -> Scan:
    """Read a whole segment. Raises StoreDamaged for one that is not ours or has a bad record that others follow."""
    salt = check_header(segment, data, store_id)
    end, last_seq = HEADER_BYTES, segment.base - 1
    for entry, position in records(segment, data, salt):
        if entry.seq != last_seq + 1:
            raise damaged(
                segment.path.parent, f"entry {last_seq + 1} is followed by {entry.seq} in {segment.path.name}"
            )
        end, last_seq = position, entry.seq
    stop = used_bytes(data)
    for position in range(end + 1, stop):
        # A damaged length does not say where the next record begins, so one is looked for at every byte.
        if (payload := _payload_at(data, position, salt)) is not None:
            raise damaged(
                segment.path.parent,
                f"record {last_seq + 1} in {segment.path.name} is unreadable, and "
                f"{_entry(segment, payload).seq} follows it",
            )
    return Scan(end, last_seq, max(0, stop - end), salt)


def damaged(folder: Path, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"The journal in {folder} is damaged: {what}.",
        hint="Put the folder back from a copy. To go on with what the database has, move the folder away; entries "
        "that only the journal has are lost then.",
    )


def _payload_at(data: Content, position: int, salt: int) -> bytes | None:
    """Returns the payload of the record at ``position``; None if there is no good one."""
    start = position + RECORD_HEAD_BYTES
    if start > len(data):
        return None
    length, checksum = _RECORD.unpack_from(data, position)
    if not 0 < length <= MAX_RECORD_BYTES - RECORD_HEAD_BYTES:
        return None
    payload = data[start : start + length]
    return payload if len(payload) == length and crc32(payload, salt) == checksum else None


def _entry(segment: Segment, payload: bytes) -> Entry:
    try:
        return decode_entry(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(segment.path.parent, f"a record is whole but not an entry ({error})") from error
