"""What of the journal a power failure leaves: files as they were last synced, under the names that were synced."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.entries import make_entries, make_entry
from trustgate.errors import Unavailable
from trustgate.formats.positioned import PositionedWriter
from trustgate.receipts import journal as journal_module
from trustgate.receipts.journal import MAX_RECORD_BYTES, Journal
from trustgate.receipts.segment import HEADER_BYTES, RECORD_HEAD_BYTES, encode_entry
from trustgate.store.marks import Mark

#: Room for some twenty receipts.
SEGMENT_BYTES = 16 * 1024
STORE_ID = "store_1"


class Disk:
    """Stands for the disk below a journal's folder: keeps what was synced to it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._contents: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        #: Keeps their numbers from being given to other files.
        self._open: list[int] = []
        #: How often anything was synced.
        self.syncs = 0
        monkeypatch.setattr(journal_module, "_fdatasync", self._sync_data)
        monkeypatch.setattr(journal_module, "sync", self._sync_names)

    def _sync_data(self, fd: int) -> None:
        self.syncs += 1
        file = os.fstat(fd)
        if file.st_ino not in self._contents:
            self._open.append(os.dup(fd))
        self._contents[file.st_ino] = os.pread(fd, file.st_size, 0)

    def _sync_names(self, folder: Path) -> None:
        self.syncs += 1
        if folder == self._folder:
            self._names = self._names_now()

    def _names_now(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._folder.iterdir()}

    def after_power_failed(self, copy: Path, *, names_are_new: bool) -> Path:
        """Write what is left into a new folder: names of now, which went to the disk by themselves, or as synced.

        Files that were removed are gone either way.
        """
        copy.mkdir()
        now = self._names_now()
        for name, inode in (now if names_are_new else self._names).items():
            if name in now or not name.endswith(".journal"):
                (copy / name).write_bytes(self._contents.get(inode, bytes(SEGMENT_BYTES)))
        return copy

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(folder, monkeypatch)
    yield disk
    disk.close()


def open_journal(folder: Path, last_seq: int = 0, segment_bytes: int = SEGMENT_BYTES) -> Journal:
    return Journal.open(folder, store_id=STORE_ID, last_seq=last_seq, segment_bytes=segment_bytes)


def append(journal: Journal, count: int) -> None:
    for entry in make_entries(journal.last_seq + 1, count):
        journal.append(entry)


def check_left(disk: Disk, copy: Path, released: int, last: int) -> None:
    """Whichever names the power's end left, all after ``released`` is there, up to ``last`` at least."""
    for names_are_new in (False, True):
        left = open_journal(
            disk.after_power_failed(copy.with_name(f"{copy.name}-{names_are_new}"), names_are_new=names_are_new),
            released,
        )
        seqs = [entry.seq for entry in left.replay(released)]
        left.close()
        assert seqs == list(range(released + 1, released + 1 + len(seqs)))
        assert released + len(seqs) >= last


def test_what_was_there_when_it_was_maintained_is_left(folder: Path, disk: Disk, tmp_path: Path) -> None:
    journal = open_journal(folder)
    for turn in range(1, 7):
        append(journal, 9 if turn % 2 else 30)  # every second time into another segment
        journal.release(journal.last_seq - 12)
        journal.maintain()
        synced = journal.last_seq
        append(journal, 3)
        check_left(disk, tmp_path / f"turn-{turn}", max(0, synced - 12), synced)
    journal.maintain()
    before = disk.syncs
    journal.maintain()
    assert disk.syncs == before, "there was nothing new"
    journal.close()
    check_left(disk, tmp_path / "closed", journal.last_seq - 12, journal.last_seq)


def test_what_was_there_when_it_was_closed_is_left(folder: Path, disk: Disk, tmp_path: Path) -> None:
    journal = open_journal(folder)
    append(journal, 5)
    journal.close()
    check_left(disk, tmp_path / "one", 0, 5)
    journal = open_journal(folder)
    append(journal, 30)  # begins a segment, so that the one before has to be synced as well
    journal.close()
    (folder / "unsynced").touch()
    left = open_journal(disk.after_power_failed(tmp_path / "two", names_are_new=True))
    assert [entry.seq for entry in left.replay(0)] == list(range(1, 36))
    left.close()


def test_what_a_start_blanked_or_began_is_left(folder: Path, disk: Disk, tmp_path: Path) -> None:
    journal = open_journal(folder)
    append(journal, 5)
    journal.close()
    for last_seq in (0, 9):  # the second time the store is ahead
        journal = open_journal(folder, last_seq)
        append(journal, 2)
        journal.maintain()
        check_left(disk, tmp_path / f"from-{last_seq}", last_seq, journal.last_seq)
        journal.close()


def test_the_only_segment_has_its_name_once_its_content_is_safe(
    folder: Path, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note_what_is_left(journal: Journal) -> None:
        if not copy.exists():
            disk.after_power_failed(copy, names_are_new=True)
        sync(journal)

    copy, sync = tmp_path / "left", Journal._sync
    with monkeypatch.context() as noting:
        noting.setattr(Journal, "_sync", note_what_is_left)
        open_journal(folder, 7).close()
    left = open_journal(copy, 7)
    assert left.last_seq == 7
    left.close()


# disks that fill up, and files that are short


def test_a_segment_that_was_cut_short_has_its_space_again(folder: Path) -> None:
    journal = open_journal(folder)
    append(journal, 3)
    journal.close()
    (segment,) = folder.iterdir()
    os.truncate(segment, len(segment.read_bytes().rstrip(b"\0")) + 1)
    journal = open_journal(folder)
    assert segment.stat().st_size == SEGMENT_BYTES
    assert [entry.seq for entry in journal.replay(0)] == [1, 2, 3]
    journal.close()


def test_a_record_that_just_fits_needs_no_other_segment(folder: Path) -> None:
    journal = open_journal(folder, segment_bytes=HEADER_BYTES + MAX_RECORD_BYTES)
    assert journal.room() == 2
    small = len(encode_entry(make_entry(1, model="m" * 300)))
    for seq in (1, 2):
        journal.append(make_entry(seq, model="m" * (300 + MAX_RECORD_BYTES - RECORD_HEAD_BYTES - small)))
        assert journal.room() == 2 - seq
    journal.close()


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_is_named_where_there_is_no_room_any_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(folder)
    monkeypatch.setattr(PositionedWriter, "pwrite", full)
    with pytest.raises(Unavailable) as refusal:
        append(journal, 1)
    assert refusal.value.code == "storage_full"
    monkeypatch.undo()
    journal.close()


def test_that_no_segment_can_be_made_is_logged_once_for_each_time_the_disk_was_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def begin_a_segment() -> None:
        begun = len(list(folder.glob("0*.journal")))
        while len(list(folder.glob("0*.journal"))) == begun:
            append(journal, 1)

    journal = open_journal(folder)
    for times in (1, 2):
        begin_a_segment()
        with monkeypatch.context() as filled:
            filled.setattr(journal_module, "_allocate", full)
            for _ in range(3):
                journal.maintain()
        assert [message for message in caplog.messages if "The disk is full" in message] == [
            "The disk is full: no further journal segment can be made."
        ] * times
        journal.maintain()
    journal.close()


# descriptors


def descriptors(folder: Path) -> int:
    return sum(folder in fd.resolve().parents for fd in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_a_start_that_fails_or_goes_on_in_a_new_segment_leaks_no_descriptor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    journal = open_journal(folder)
    append(journal, 3)
    journal.close()
    with monkeypatch.context() as failing:
        failing.setattr(journal_module, "sync", fail)
        with pytest.raises(Exception, match="Input/output error"):
            open_journal(folder)
    assert descriptors(folder) == 0
    journal = open_journal(folder, 9)
    assert descriptors(folder) == 2
    journal.close()
    assert descriptors(folder) == 0


def test_a_journal_works_where_the_system_reserves_no_space_and_syncs_whole_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "fdatasync")
    size = 1024 * 1024 + 512 * 1024
    for _ in range(2):
        journal = open_journal(folder, segment_bytes=size)
        append(journal, 3)
        assert {path.stat().st_size for path in folder.iterdir()} == {size}
        assert journal.room() > (size - HEADER_BYTES) // MAX_RECORD_BYTES
        journal.close()
    journal = open_journal(folder, segment_bytes=size)
    assert [entry.seq for entry in journal.replay(0)] == list(range(1, 7))
    journal.close()


def test_the_mark_is_written_where_it_has_another_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = Mark.write

    def count(mark: Mark, *numbers: int) -> None:
        written.append(numbers)
        write(mark, *numbers)

    journal = open_journal(folder)
    monkeypatch.setattr(Mark, "write", count)
    for entry in make_entries(1, 2):
        journal.append(entry, marks=False)
    journal.mark()
    journal.mark()
    journal.close()
    assert written == [(2,)]


def test_a_missing_journal_that_never_had_a_receipt_is_no_news(folder: Path) -> None:
    open_journal(folder).close()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    journal = open_journal(folder)
    assert journal.notes == ()
    journal.close()
