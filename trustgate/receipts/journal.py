"""The journal: what makes an answer's receipt survive ``kill -9`` before the database has it.

Owns a folder of preallocated segment files (their format: ``receipts.segment``). One entry is one record, written by
one ``pwrite`` on the event loop (some 5 µs): what the kernel has taken outlives the process. ``maintain``, called in a
thread every few dozen milliseconds, does everything that is slow: fdatasync (which is for power loss only), the next
segment, deleting.

Because space is reserved when a segment is made, a full disk shows there and not when an answer is waiting to be
recorded: ``check_room`` lets admission know beforehand.

Beside the folder lies its mark (``store.marks``): the last number that was appended, written once for all entries of a
turn of the event loop. It is how a journal notices that segments of it are missing, or all of it. A process that is
killed within a turn leaves it behind the journal, and the next start raises it: what is lost of exactly that turn's
entries in between, when only a disk's damage could take them, is not noticed.

There is always a segment, even when the database has everything: its base is how much the database must hold. Only
the end of the last segment may be torn (the write that a crash interrupted, which was never acknowledged); a bad record
that others follow, or a gap, raises StoreDamaged.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from zlib import crc32

from trustgate.errors import HomeUnusable, StoreIncomplete, TrustGateError, Unavailable
from trustgate.formats.durable import sync
from trustgate.formats.positioned import PositionedWriter
from trustgate.ids import iso_us
from trustgate.receipts.segment import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    MAX_STORE_ID_BYTES,
    RECORD_HEAD_BYTES,
    Scan,
    Segment,
    check_header,
    content_of,
    damaged,
    encode_entry,
    pack_header,
    pack_record_head,
    records,
    scan,
    segment_for,
    segments_in,
    used_bytes,
)
from trustgate.store.marks import Mark
from trustgate.types import Entry

__all__ = ["MAX_RECORD_BYTES", "SEGMENT_BYTES", "Journal"]

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 16 * 1024 * 1024

_SPARE_NAME = "next.journal.new"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Journal:
    """An open journal. ``append`` and ``check_room`` belong to the event loop, ``maintain`` to one thread at a time."""

    def __init__(self, folder: Path, store_id: str, segment_bytes: int) -> None:
        """Use ``open``."""
        self.folder = folder
        self._store_id = store_id
        self._segment_bytes = segment_bytes
        self._writer = PositionedWriter()
        #: The current segment: descriptor (-1 when closed), size, start of its checksums, where the next record goes.
        self._fd = -1
        self._size = 0
        self._salt = 0
        self._position = 0
        self._next_seq = 0
        self._released = 0
        self._failure: str | None = None
        self._spare: int | None = None
        self._spare_missing = False
        #: Segments in order, the current one last, and descriptors that were rotated away but not yet synced.
        self._segments: list[Segment] = []
        self._retired: list[int] = []
        #: Guards the spare, the segments and the current descriptor where both threads change them; never on the
        #: path of an append that fits into its segment.
        self._rotation = threading.Lock()
        self._maintenance = threading.Lock()
        #: Base and position of what was last synced.
        self._synced = (0, 0)
        self._mark: Mark | None = None
        #: The number that the mark has; None until all has been recovered.
        self._marked: int | None = None
        #: What was amiss when it was opened and could be mended, for people.
        self.notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        store_id: str,
        last_seq: int,
        segment_bytes: int = SEGMENT_BYTES,
        accept_loss: bool = False,
    ) -> Journal:
        """Open the journal of the store whose last committed entry is ``last_seq``; make it if there is none.

        The caller holds the store's lock, which guards the journal too. Raises StoreDamaged if the journal is another
        store's or if a record is bad that others follow; StoreIncomplete if entries are missing that were appended,
        unless ``accept_loss``; HomeUnusable if the folder cannot be used; Unavailable (``storage_full``) if no segment
        can be made.
        """
        if segment_bytes < HEADER_BYTES + MAX_RECORD_BYTES:
            raise ValueError(f"a segment must hold a record of {MAX_RECORD_BYTES} bytes")
        if len(store_id.encode()) > MAX_STORE_ID_BYTES:
            raise ValueError(f"a store id has at most {MAX_STORE_ID_BYTES} bytes")
        journal = cls(folder, store_id, segment_bytes)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / _SPARE_NAME).unlink(missing_ok=True)
            journal._mark = Mark(mark_path(folder), journal._writer.pwrite)
            journal._segments = segments_in(folder)
            journal._released = last_seq
            journal._recover(last_seq, accept_loss=accept_loss)
            journal._mark.write(journal.last_seq)
            journal._marked = journal.last_seq
            journal._sync()
            sync(folder.parent)
            journal.maintain()
        except OSError as error:
            journal.close()
            if error.errno in _FULL:
                raise _storage_full() from error
            raise HomeUnusable(
                f"The journal cannot be used: {error.filename or folder}: {error.strerror or error}.",
                hint="Give it to the user who runs TrustGate, or choose another home with --home.",
            ) from error
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def last_seq(self) -> int:
        """The last entry recorded; where appending goes on."""
        return self._next_seq - 1

    @property
    def pending(self) -> int:
        """How many entries are recorded here and not yet released."""
        return max(0, self.last_seq - self._released)

    def append(self, entry: Entry, *, marks: bool = True) -> None:
        """Record the entry, whose number is the next one. When this returns it outlives the process.

        ``marks``: write the mark too; else ``mark`` is to follow within a turn of the event loop.

        Raises Unavailable if it could not be recorded (``check_room`` was not asked, or the disk failed). The caller
        may then give the entry to the store alone and go on with the next: a gap that the store fills is none.
        """
        payload = encode_entry(entry)
        size = RECORD_HEAD_BYTES + len(payload)
        if size > MAX_RECORD_BYTES:
            raise TrustGateError(f"A receipt of {size} bytes is larger than a record may be ({MAX_RECORD_BYTES}).")
        if entry.seq != self._next_seq:
            self._skip_to(entry.seq)
        position = self._position
        if position + size > self._size:
            self._rotate(entry.seq)
            position = self._position
        record = pack_record_head(len(payload), crc32(payload, self._salt)) + payload
        try:
            written = self._writer.pwrite(self._fd, record, position)
        except OSError as error:
            self._fail(error)
        if written != size:
            self._fail(OSError(f"only {written} of {size} bytes were written"))
        self._position = position + size
        self._next_seq += 1
        if marks:
            self.mark()

    def mark(self) -> None:
        """Write the number of the last entry into the mark, unless the mark has it. A failure is only logged."""
        last_seq = self._next_seq - 1
        if self._mark is not None and self._marked is not None and self._marked != last_seq:
            self._marked = last_seq
            try:
                self._mark.write(last_seq)
            except OSError as error:  # the entries themselves are safe
                logger.error("The journal's mark cannot be written: %s", error)

    def room(self) -> int:
        """Returns how many more entries are sure to fit without asking the disk for space."""
        current = (self._size - self._position) // MAX_RECORD_BYTES
        spare = 0 if self._spare is None else (self._segment_bytes - HEADER_BYTES) // MAX_RECORD_BYTES
        return current + spare

    def check_room(self, records_in_flight: int) -> None:
        """Raise Unavailable (``storage_full``) unless so many more entries are sure to fit."""
        if self._failure is not None:
            raise self._unwritable()
        if self._size - self._position >= records_in_flight * MAX_RECORD_BYTES:
            return
        if self.room() < records_in_flight:
            raise _storage_full()

    def release(self, seq: int) -> None:
        """Entries up to ``seq`` are committed to the store: ``maintain`` may delete the segments that hold no other."""
        self._released = max(self._released, seq)

    def maintain(self) -> None:
        """Make the next segment, sync, delete what is released. Blocks: call it in a thread, every now and then.

        A full disk raises nothing here: ``check_room`` raises then. Raises Unavailable if the disk fails to sync.
        """
        with self._maintenance:
            if self._fd == -1:
                return
            try:
                self._prepare_next()
                self._sync()
                self._delete_released()
            except OSError as error:
                self._failure = error.strerror or str(error)
                logger.error("The journal cannot be written: %s", error)
                raise self._unwritable() from error
            self._failure = None

    def replay(self, after_seq: int) -> Iterator[Entry]:
        """The entries after ``after_seq``, in order. Raises StoreDamaged, at once, if they do not reach back so far."""
        self._check_reaches_back_to(after_seq)
        return self._replay(after_seq)

    def close(self) -> None:
        """Sync and close. Nothing is deleted. May be called twice."""
        self.mark()
        with self._maintenance, self._rotation:
            descriptors = [*self._retired, *(fd for fd in (self._fd, self._spare) if fd is not None and fd != -1)]
            self._fd, self._spare, self._retired = -1, None, []
            for descriptor in descriptors:
                try:
                    _fdatasync(descriptor)
                except OSError as error:
                    logger.error("The journal could not be synced: %s", error)
                finally:
                    os.close(descriptor)
            with contextlib.suppress(OSError):
                (self.folder / _SPARE_NAME).unlink()
            if self._mark is not None:
                self._mark.close()
                self._mark = None

    # Opening.

    def _recover(self, last_seq: int, *, accept_loss: bool) -> None:
        """Go on after the last good record; in a new segment if the store is ahead of it or there is none."""
        covered = last_seq
        last: tuple[Segment, Scan] | None = None
        for segment in list(self._segments):
            with content_of(segment) as data:
                if last is not None and segment is self._segments[-1] and not used_bytes(data):
                    self._drop_blank(segment)
                    break
                found = scan(segment, data, self._store_id)
            if last is not None and segment.base > covered + 1:
                raise damaged(self.folder, f"entries {covered + 1} to {segment.base - 1} are missing")
            covered = max(covered, found.last_seq)
            last = segment, found
        if last is not None:
            self._check_reaches_back_to(last_seq)
        self._check_mark(covered, accept_loss=accept_loss)
        if last is not None:
            self._resume(*last)
        if last is None or covered > self.last_seq:
            if last is not None:
                logger.warning("The journal ends at entry %d, the database at %d.", self.last_seq, covered)
                self._retired.append(self._fd)
            self._start_segment(self._reserve(), covered + 1, sync=True)

    def _check_mark(self, has: int, *, accept_loss: bool) -> None:
        """Compare ``has``, the last entry here or in the store, with what was appended. Raises StoreIncomplete."""
        assert self._mark is not None, "it is opened first"
        found, was_there = self._mark.found, bool(self._segments)
        notes: list[str] = []
        if found is not None and found.numbers[0] > has:
            lost = f"receipts {has + 1} to {found.numbers[0]}"
            where = "cut short or damaged at its end" if was_there else "missing"
            if accept_loss:
                notes.append(f"Accepted as lost: {lost}.")
            elif found.rebooted and was_there:
                # What was not synced yet, some milliseconds, goes with the power.
                notes.append(f"The machine was started anew, and {lost} of before it are lost ({iso_us(found.at_us)}).")
            else:
                raise StoreIncomplete(
                    f"The journal {self.folder} is {where}, and the database ends at receipt {has}: {lost}, which were "
                    f"acknowledged until {iso_us(found.at_us)}, are missing."
                )
        elif not was_there and has > 0 and found is not None:
            notes.append(
                f"The folder {self.folder.name} was missing; the database has every receipt of it. It is made anew."
            )
        elif not was_there and has > 0:
            notes.append(
                f"The folder {self.folder.name} and its mark were missing and are made anew: whether the database has "
                "every receipt that was acknowledged cannot be told."
            )
        for note in notes:
            logger.warning("%s", note)
        self.notes = tuple(notes)

    def _drop_blank(self, segment: Segment) -> None:
        """Remove the last segment, whose name outlived a power failure while its content did not."""
        logger.warning("The journal's last segment %s is blank; it is dropped.", segment.path.name)
        segment.path.unlink()
        self._segments.pop()

    def _resume(self, segment: Segment, found: Scan) -> None:
        """Make an existing segment the current one; blank what a crash tore, so that nothing can be read into it."""
        self._fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        self._size = max(os.fstat(self._fd).st_size, self._segment_bytes)
        _allocate(self._fd, self._size)  # a copy of the folder may have holes, or be cut short
        self._salt, self._position, self._next_seq = found.salt, found.end, found.last_seq + 1
        if found.torn_bytes:
            logger.warning("The journal's last record was torn by a crash; it is dropped. Next: %d.", self._next_seq)
            os.pwrite(self._fd, bytes(found.torn_bytes), found.end)

    def _check_reaches_back_to(self, after_seq: int) -> None:
        base = self._segments[0].base
        if base > after_seq + 1:
            raise StoreIncomplete(
                f"The database ends at entry {after_seq}, but it has had every entry up to {base - 1}: entries "
                f"{after_seq + 1} to {base - 1} are missing from it. It was restored from an older copy, or cut short."
            )

    # Replaying.

    def _replay(self, after_seq: int) -> Iterator[Entry]:
        expected = after_seq + 1
        for segment in list(self._segments):
            with content_of(segment) as data:
                for entry, _ in records(segment, data, check_header(segment, data, self._store_id)):
                    if entry.seq > expected:
                        raise damaged(self.folder, f"entries {expected} to {entry.seq - 1} are missing")
                    if entry.seq == expected:
                        yield entry
                        expected += 1

    # Failing.

    def _fail(self, error: OSError) -> NoReturn:
        """Admit nothing more until ``maintain`` has found the disk well again."""
        self._failure = error.strerror or str(error)
        logger.error("The journal cannot be written: %s", error)
        if error.errno in _FULL:
            raise _storage_full() from error
        raise self._unwritable() from error

    def _unwritable(self) -> Unavailable:
        return Unavailable(
            f"Receipts cannot be recorded: {self._failure}.", code="journal_failed", hint="Check the disk; see the log."
        )

    # Rotation and maintenance.

    def _skip_to(self, seq: int) -> None:
        """Go on with a later entry than the next, those between having failed to be recorded.

        Numbers within a segment have no gaps, so that a lost record is noticed: a new segment begins.
        """
        if seq < self._next_seq:
            raise TrustGateError(f"Entry {seq} does not continue the journal: {self._next_seq} is next.")
        if self._failure is not None:
            raise self._unwritable()
        self._rotate(seq)

    def _rotate(self, base: int) -> None:
        """Go on in a new segment. Quick if the spare is there; else it is made on the spot."""
        with self._rotation:
            spare, self._spare = self._spare, None
            retired = self._fd
            try:
                self._start_segment(self._reserve() if spare is None else spare, base)
            except OSError as error:
                self._fail(error)
            self._retired.append(retired)

    def _start_segment(self, spare: int, base: int, *, sync: bool = False) -> None:
        """Make the spare the current segment; closes it on failure.

        ``maintain`` makes the header and the new name safe from power loss together with the records, and deletes no
        segment before; the only segment there is must be safe at once (``sync``), for it alone keeps the base.
        """
        header, salt = pack_header(base, self._store_id)
        segment = segment_for(self.folder, base)
        try:
            os.pwrite(spare, header, 0)
            if sync:
                _fdatasync(spare)
            size = os.fstat(spare).st_size
            (self.folder / _SPARE_NAME).rename(segment.path)
        except BaseException:
            os.close(spare)
            raise
        self._segments.append(segment)
        self._fd, self._size, self._salt, self._position = spare, size, salt, HEADER_BYTES
        self._next_seq = base

    def _reserve(self) -> int:
        """A new file of zeros under the spare's name, its space reserved. Raises OSError, on a full disk too."""
        path = self.folder / _SPARE_NAME
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _allocate(fd, self._segment_bytes)
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return fd

    def _prepare_next(self) -> None:
        """Make the spare if there is none. On a full disk there will be none, and ``check_room`` counts without it."""
        with self._rotation:
            if self._spare is not None:
                return
            try:
                self._spare = self._reserve()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                if not self._spare_missing:
                    logger.error("The disk is full: no further journal segment can be made.")
            self._spare_missing = self._spare is None

    def _sync(self) -> None:
        """Make everything appended so far safe from power loss."""
        with self._rotation:
            fd, retired = self._fd, self._retired
            self._retired = []
            mark = self._segments[-1].base, self._position
        with contextlib.ExitStack() as closing:
            for descriptor in retired:
                closing.callback(os.close, descriptor)
            for descriptor in retired:
                _fdatasync(descriptor)
        if mark != self._synced:
            _fdatasync(fd)
        if mark[0] != self._synced[0]:
            sync(self.folder)
        self._synced = mark

    def _delete_released(self) -> None:
        """Delete the segments that hold released entries alone. The current one stays: it keeps the base."""
        while len(self._segments) > 1 and self._segments[1].base <= self._released + 1:
            self._segments[0].path.unlink(missing_ok=True)
            del self._segments[0]


def mark_path(folder: Path) -> Path:
    """Returns the mark of the journal in ``folder``."""
    return folder.with_name(folder.name + ".mark")


def _storage_full() -> Unavailable:
    return Unavailable(
        "The disk is full: receipts cannot be recorded, so no request is admitted.",
        code="storage_full",
        hint="Free some space; nothing recorded is lost and no restart is needed.",
    )


def _allocate(fd: int, size: int) -> None:
    """Reserve ``size`` bytes of zeros, what is there already staying. Raises OSError if the disk has not so many."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    block = bytes(1024 * 1024)
    for position in range(os.fstat(fd).st_size, size, len(block)):
        os.pwrite(fd, block[: size - position], position)


def _fdatasync(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)
