"""The operators' journal: every change of what operators decide, numbered, chained and on the disk before it holds.

Tenants, keys, plans, passports, aliases and terms of payment, and with them the log's names and its anchors, are
written here before they are written to the database, so that a database whose write-ahead log was lost, or that was put
back from an older copy, is brought up to date when it is opened: a key that was revoked stays revoked.

Owns the file: text, a line for each change,

    SHA-256 (hex) of the line before's digest and this line's JSON ‖ blank ‖ JSON of ``Change``

beginning with a ``ChangesHead``. The first change after a head is everything that there is, so that the file needs
nothing before it. Only the end of the last line may be torn (by a crash before the change was acknowledged). Lines are
synced one by one; a change takes as long as the disk does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from trustgate.errors import StoreTooNew
from trustgate.formats.durable import write_durably
from trustgate.ids import now_us
from trustgate.store.queries import Kept
from trustgate.types import Alias, Plan

_FORMAT = 1
#: A longer file is begun anew when it is opened.
MOST_BYTES = 8 * 1024 * 1024
_DIGITS = 64


class ChangesHead(msgspec.Struct, frozen=True, kw_only=True, tag="head"):
    """The first line: whose journal it is, and the number that its first change follows."""

    format: int = _FORMAT
    store_id: str
    after: int
    created_us: int


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="change"):
    """One change, all of it or none: records that were put and records that were removed."""

    number: int
    at_us: int
    put: tuple[Kept, ...] = ()
    removed: tuple[Plan | Alias, ...] = ()
    #: What was found missing, and taken as lost by the operator's word, before this change.
    accepted: str = ""


class FoundChanges(NamedTuple):
    """What is in a file: the changes in order, where its good lines end, and what is wrong with it ("" for nothing)."""

    store_id: str
    after: int
    changes: tuple[Change, ...]
    digest: bytes
    end: int
    damage: str

    @property
    def last(self) -> int:
        return self.changes[-1].number if self.changes else self.after


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ChangesHead | Change).decode


def read_changes(path: Path) -> FoundChanges | None:
    """Read the file and check its chain; None where there is none. Raises OSError, StoreTooNew.

    A line that is torn at the very end is no damage: its change was never acknowledged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    store_id, after, digest, end, damage = "", 0, b"", 0, ""
    changes: list[Change] = []
    for line in _whole_lines(data):
        read = _read_line(line, digest)
        number = changes[-1].number if changes else after
        if isinstance(read, ChangesHead) and end == 0:
            if read.format != _FORMAT:
                raise StoreTooNew(
                    f"The operators' journal {path} was written by a newer TrustGate (format {read.format}).",
                    hint="Use the newer TrustGate, or choose another folder with --home.",
                )
            store_id, after = read.store_id, read.after
        elif isinstance(read, Change) and end and read.number == number + 1:
            changes.append(read)
        else:
            damage = "it has no beginning" if end == 0 else f"the line after change {number} is unreadable"
            break
        digest, end = bytes.fromhex(line[:_DIGITS].decode()), end + len(line) + 1
    if end == 0 and not damage:
        damage = "it is empty"
    return FoundChanges(store_id, after, tuple(changes), digest, end, damage)


def _whole_lines(data: bytes) -> Iterator[bytes]:
    yield from data.split(b"\n")[:-1]


def _read_line(line: bytes, digest: bytes) -> ChangesHead | Change | None:
    told, _, body = line.partition(b" ")
    if told != hashlib.sha256(digest + body).hexdigest().encode():
        return None
    try:
        record: ChangesHead | Change = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return record


class ChangeJournal:
    """An open journal, to append to. Raises OSError from every method."""

    def __init__(self, path: Path, number: int, digest: bytes, end: int) -> None:
        """Use ``go_on`` or ``begin``."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.number = number
        self._digest = digest
        self._end = end
        #: Where the last line began, and what was before it.
        self._before = (number, digest, end)
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)

    @classmethod
    def go_on(cls, path: Path, found: FoundChanges) -> ChangeJournal:
        """After the last good line; what is torn after it is cut off."""
        return cls(path, found.last, found.digest, found.end)

    @classmethod
    def begin(cls, path: Path, store_id: str, after: int) -> ChangeJournal:
        """Replace the file with a new one, synced to the disk. Returns it, open."""
        line, digest = _line(ChangesHead(store_id=store_id, after=after, created_us=now_us()), b"")
        write_durably(path, line)
        return cls(path, after, digest, len(line))

    @property
    def size_bytes(self) -> int:
        return self._end

    def append(self, put: Sequence[Kept] = (), removed: Sequence[Plan | Alias] = (), *, accepted: str = "") -> Change:
        """Write the next change, synced. It is to be followed by its commit, or by ``undo``."""
        change = Change(
            number=self.number + 1, at_us=now_us(), put=tuple(put), removed=tuple(removed), accepted=accepted
        )
        line, digest = _line(change, self._digest)
        self._before = (self.number, self._digest, self._end)
        try:
            if os.pwrite(self._fd, line, self._end) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self.number, self._digest, self._end = change.number, digest, self._end + len(line)
        return change

    def undo(self) -> None:
        """Take back the last change, which was not committed."""
        number, digest, end = self._before
        os.ftruncate(self._fd, end)
        os.fsync(self._fd)
        self.number, self._digest, self._end = number, digest, end

    def close(self) -> None:
        """May be called twice."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1


def _line(record: ChangesHead | Change, digest: bytes) -> tuple[bytes, bytes]:
    body = _encode(record)
    made = hashlib.sha256(digest + body)
    return made.hexdigest().encode() + b" " + body + b"\n", made.digest()
