"""The journal: what was appended is there after any crash, and whatever is missing or changed is noticed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trustgate
from tests.support.disks import fill, tiny_disk
from tests.support.entries import make_entries, make_entry, receipts
from trustgate.errors import HomeUnusable, StoreDamaged, StoreIncomplete, StoreTooNew, TrustGateError, Unavailable
from trustgate.formats.positioned import PositionedWriter
from trustgate.receipts import journal as journal_module
from trustgate.receipts.journal import MAX_RECORD_BYTES, Journal, mark_path
from trustgate.receipts.segment import (
    HEADER_BYTES,
    Segment,
    content_of,
    encode_entry,
    pack_header,
    scan,
    segments_in,
    used_bytes,
)
from trustgate.store import marks
from trustgate.store.marks import Mark, Marked
from trustgate.types import Entry

ROOT = Path(trustgate.__file__).parents[1]
#: Room for some twenty receipts.
SEGMENT_BYTES = 16 * 1024
STORE_ID = "store_1"

OpenJournal = Callable[..., Journal]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def open_journal(folder: Path) -> Iterator[OpenJournal]:
    """Opens the test's journal; what it takes besides is what ``Journal.open`` takes. Closes every one at the end."""
    opened: list[Journal] = []

    def factory(**arguments: Any) -> Journal:
        defaults = {"store_id": STORE_ID, "last_seq": 0, "segment_bytes": SEGMENT_BYTES}
        journal = Journal.open(folder, **{**defaults, **arguments})
        opened.append(journal)
        return journal

    yield factory
    for journal in opened:
        journal.close()


def append(journal: Journal, entries: list[Entry]) -> list[Entry]:
    for entry in entries:
        journal.append(entry)
    return entries


def write(folder: Path, entries: list[Entry], last_seq: int = 0, segment_bytes: int = SEGMENT_BYTES) -> None:
    """A journal with these entries, closed again."""
    journal = Journal.open(folder, store_id=STORE_ID, last_seq=last_seq, segment_bytes=segment_bytes)
    append(journal, entries)
    journal.close()


def read_mark(path: Path) -> Marked:
    found = marks.read_mark(path)
    assert found is not None
    return found


def mark_at(folder: Path, seq: int) -> None:
    """As a crash leaves it that comes while the entry after ``seq`` is being written."""
    mark = Mark(mark_path(folder))
    for _ in range(2):
        mark.write(seq)
    mark.close()


def names(folder: Path) -> list[int]:
    """The bases of the segments, and 0 for every other file."""
    return sorted(int(path.stem) if path.suffix == ".journal" else 0 for path in folder.iterdir())


# there and back


def test_what_was_appended_is_replayed(open_journal: OpenJournal) -> None:
    journal = open_journal()
    entries = append(journal, make_entries(1, 100))

    assert list(journal.replay(0)) == entries
    assert list(journal.replay(41)) == entries[41:]
    assert list(journal.replay(100)) == []
    assert journal.last_seq == 100
    assert journal.pending == 100


def test_appending_goes_on_after_reopening(folder: Path, open_journal: OpenJournal) -> None:
    entries = make_entries(1, 60)
    write(folder, entries[:30])
    write(folder, entries[30:31])
    write(folder, entries[31:])

    journal = open_journal(last_seq=7)

    assert journal.last_seq == 60
    assert list(journal.replay(7)) == entries[7:]


@settings(max_examples=25, deadline=None)
@given(st.lists(receipts(), max_size=40), st.binary(min_size=32, max_size=32), st.integers(0, 40))
def test_any_receipts_come_back_equal(drawn: list[Any], secret: bytes, reopened_after: int) -> None:
    entries = [Entry(seq=seq, receipt=receipt, secret=secret) for seq, receipt in enumerate(drawn, 1)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "journal")
        write(folder, entries[:reopened_after])
        write(folder, entries[reopened_after:])
        journal = Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        assert list(journal.replay(0)) == entries
        journal.close()


def test_an_entry_out_of_order_is_refused(open_journal: OpenJournal) -> None:
    journal = open_journal(last_seq=5)
    journal.append(make_entry(6))
    for seq in (5, 6):
        with pytest.raises(TrustGateError, match="7 is next"):
            journal.append(make_entry(seq))
    assert journal.last_seq == 6


def test_a_record_has_a_largest_size(open_journal: OpenJournal) -> None:
    journal = open_journal()
    small = len(encode_entry(make_entry(1, model=""))) + 8
    with pytest.raises(TrustGateError, match="larger than a record"):
        journal.append(make_entry(1, model="m" * (MAX_RECORD_BYTES - small + 1 - 2)))  # 2: a longer string's length

    largest = make_entry(1, model="m" * (MAX_RECORD_BYTES - small - 2))
    assert len(encode_entry(largest)) + 8 == MAX_RECORD_BYTES
    journal.append(largest)
    assert list(journal.replay(0)) == [largest]


def test_only_the_owner_may_read_it(folder: Path, open_journal: OpenJournal) -> None:
    open_journal()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


# crashes


def records_end(folder: Path) -> list[int]:
    """Where each record of the only segment ends."""
    (segment,) = segments_in(folder)
    data = segment.path.read_bytes()
    ends = [HEADER_BYTES]
    while length := int.from_bytes(data[ends[-1] : ends[-1] + 4], "little"):
        ends.append(ends[-1] + 8 + length)
    return ends


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_write_cut_off_anywhere_loses_nothing_before_it(data: st.DataObject) -> None:
    """The record that was being written is gone; those before are there; appending goes on in its place."""
    entries = make_entries(1, 8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "journal")
        write(folder, entries)
        ends = records_end(folder)
        (segment,) = segments_in(folder)
        cut = data.draw(st.integers(HEADER_BYTES, ends[-1]))
        whole = sum(end <= cut for end in ends) - 1
        if data.draw(st.booleans(), label="preallocated"):
            content = segment.path.read_bytes()
            segment.path.write_bytes(content[:cut] + bytes(len(content) - cut))
        else:
            os.truncate(segment.path, cut)
        mark_at(folder, whole)

        journal = Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        assert list(journal.replay(0)) == entries[:whole]
        again = append(journal, make_entries(whole + 1, 12))
        journal.close()

        journal = Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        assert list(journal.replay(0)) == [*entries[:whole], *again]
        journal.close()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    """In a last record that the mark does not know it passes for a write that was cut off; else it is damage."""
    entries = make_entries(1, 8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "journal")
        write(folder, entries)
        ends = records_end(folder)
        (segment,) = segments_in(folder)
        position = data.draw(st.integers(0, ends[-1] - 1))
        content = bytearray(segment.path.read_bytes())
        content[position] ^= data.draw(st.integers(1, 255))
        segment.path.write_bytes(content)

        if data.draw(st.booleans(), label="cut off"):
            mark_at(folder, 7)
        elif position >= ends[-2]:
            with pytest.raises(StoreIncomplete, match="receipts 8 to 8, which were acknowledged"):
                Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
            assert segment.path.read_bytes() == content, "what is left of it is left"
            return
        if position < ends[-2]:
            with pytest.raises((StoreDamaged, StoreTooNew)) as refusal:
                Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
            assert refusal.value.hint
        else:
            journal = Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
            assert list(journal.replay(0)) == entries[:-1]
            journal.close()


def test_a_torn_record_is_blanked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder, make_entries(1, 3))
    ends = records_end(folder)
    (segment,) = segments_in(folder)
    content = bytearray(segment.path.read_bytes())
    content[ends[2] + 20] ^= 1
    segment.path.write_bytes(content)
    mark_at(folder, 2)

    write(folder, [])

    assert "torn by a crash; it is dropped. Next: 3." in caplog.text
    data = segment.path.read_bytes()
    assert not any(data[ends[2] :])
    assert scan(segment, data, STORE_ID).last_seq == 2


def test_a_blank_new_segment_after_a_power_failure_is_dropped(folder: Path, open_journal: OpenJournal) -> None:
    """Its name reached the disk, its content did not; what is before it did."""
    entries = make_entries(1, 5)
    write(folder, entries)
    (folder / f"{6:020d}.journal").write_bytes(bytes(SEGMENT_BYTES))

    journal = open_journal()

    assert list(journal.replay(0)) == entries
    assert names(folder) == [0, 1]
    append(journal, make_entries(6, 20))


def test_a_blank_only_segment_is_damage(folder: Path, open_journal: OpenJournal) -> None:
    write(folder, make_entries(1, 5))
    (segment,) = segments_in(folder)
    segment.path.write_bytes(bytes(SEGMENT_BYTES))
    with pytest.raises(StoreDamaged, match="header"):
        open_journal()


APPEND_FOR_EVER = """
import sys, threading, time
from pathlib import Path
from tests.support.entries import make_entry
from trustgate.receipts.journal import Journal
journal = Journal.open(Path(sys.argv[1]), store_id=sys.argv[2], last_seq=0, segment_bytes=int(sys.argv[3]))
def maintain():
    while True:
        journal.maintain()
        time.sleep(0.002)
threading.Thread(target=maintain, daemon=True).start()
while True:
    entry = make_entry(journal.last_seq + 1)
    journal.append(entry)
    print(entry.seq, flush=True)
"""


def test_nothing_acknowledged_is_lost_to_kill_9(folder: Path) -> None:
    chance = random.Random(os.getpid())
    for _ in range(5):
        command = [sys.executable, "-c", APPEND_FOR_EVER, str(folder), STORE_ID, str(SEGMENT_BYTES)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as appending:
            assert appending.stdout is not None
            acknowledged = int(appending.stdout.readline())
            time.sleep(chance.random() * 0.2)
            appending.send_signal(signal.SIGKILL)
            for line in appending.stdout:
                acknowledged = int(line) if line.endswith("\n") else acknowledged

        journal = Journal.open(folder, store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        replayed = list(journal.replay(0))
        journal.close()

        assert journal.last_seq >= acknowledged > 0
        assert [entry.seq for entry in replayed] == list(range(1, journal.last_seq + 1))
        assert {entry.receipt.tseq - entry.seq for entry in replayed} == {0}


# the journal and the store


def test_another_stores_journal_is_refused(folder: Path, open_journal: OpenJournal) -> None:
    write(folder, [])
    with pytest.raises(StoreDamaged, match="belongs to another database") as refusal:
        open_journal(store_id="store_2")
    assert refusal.value.hint


def test_a_journal_that_is_missing_is_noticed_by_its_mark(folder: Path, open_journal: OpenJournal) -> None:
    write(folder, make_entries(1, 30))
    shutil.rmtree(folder)

    with pytest.raises(StoreIncomplete, match=r"receipts 6 to 30, which were acknowledged until .* are missing"):
        open_journal(last_seq=5)
    assert open_journal(last_seq=30).notes == (
        "The folder journal was missing; the database has every receipt of it. It is made anew.",
    )


def test_a_mark_that_is_to_follow_is_written_at_the_end_at_the_latest(folder: Path, open_journal: OpenJournal) -> None:
    journal = open_journal()
    for entry in make_entries(1, 3):
        journal.append(entry, marks=False)
    assert read_mark(mark_path(folder)).numbers == (0, 0)
    journal.mark()
    assert read_mark(mark_path(folder)).numbers == (3, 0)
    journal.append(make_entry(4), marks=False)
    journal.close()
    assert read_mark(mark_path(folder)).numbers == (4, 0)


def test_a_journal_that_is_missing_can_be_accepted_as_lost(folder: Path, open_journal: OpenJournal) -> None:
    write(folder, make_entries(1, 30))
    shutil.rmtree(folder)

    accepted = open_journal(last_seq=5, accept_loss=True)
    append(accepted, make_entries(6, 1))
    accepted.close()

    assert accepted.notes == ("Accepted as lost: receipts 6 to 30.",)
    assert open_journal(last_seq=5).last_seq == 6


def test_receipts_that_went_with_the_power_are_told_and_stop_no_start(
    folder: Path, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark reached the disk, the last records did not."""
    write(folder, make_entries(1, 10))
    ends = records_end(folder)
    (segment,) = segments_in(folder)
    content = segment.path.read_bytes()
    segment.path.write_bytes(content[: ends[8]] + bytes(len(content) - ends[8]))
    monkeypatch.setattr(marks, "_boot", lambda: b"another1")

    journal = open_journal()

    assert journal.last_seq == 8
    assert journal.notes[0].startswith("The machine was started anew, and receipts 9 to 10 of before it are lost")


def test_a_store_that_lost_entries_is_noticed(folder: Path, open_journal: OpenJournal) -> None:
    """Restored from an old copy or cut short, even when every entry had been released."""
    journal = open_journal()
    append(journal, make_entries(1, 40))
    journal.release(40)
    journal.maintain()
    (base,) = [name for name in names(folder) if name]
    journal.close()
    assert base > 10

    with pytest.raises(StoreDamaged, match=f"ends at entry 9, but it has had every entry up to {base - 1}") as refusal:
        open_journal(last_seq=9)
    assert "the newer database with its .wal" in str(refusal.value.hint)

    journal = open_journal(last_seq=base - 1)  # an old copy, but the journal has the rest
    assert [entry.seq for entry in journal.replay(base - 1)] == list(range(base, 41))
    with pytest.raises(StoreDamaged, match="ends at entry 9"):
        journal.replay(9)


def test_a_store_without_a_journal_gets_one_that_starts_where_it_ends(folder: Path, open_journal: OpenJournal) -> None:
    open_journal(last_seq=1234).close()

    assert names(folder) == [1235]
    with pytest.raises(StoreDamaged, match="ends at entry 1233"):
        open_journal(last_seq=1233)


def test_a_store_ahead_of_its_journal_goes_on_in_a_new_segment(folder: Path, open_journal: OpenJournal) -> None:
    """A power failure may take the end of the journal after the store had committed it."""
    write(folder, make_entries(1, 5))
    journal = open_journal(last_seq=9)
    assert journal.last_seq == 9
    assert names(folder) == [0, 10]
    append(journal, make_entries(10, 2))
    journal.close()

    journal = open_journal(last_seq=9)
    assert [entry.seq for entry in journal.replay(9)] == [10, 11]
    journal.close()
    with pytest.raises(StoreDamaged, match="entries 8 to 9 are missing"):
        open_journal(last_seq=7)


def test_a_missing_segment_is_noticed(folder: Path, open_journal: OpenJournal) -> None:
    write(folder, make_entries(1, 70))
    bases = names(folder)
    assert len(bases) == 4
    (folder / f"{bases[1]:020d}.journal").unlink()
    with pytest.raises(StoreDamaged, match=f"entries {bases[1]} to {bases[2] - 1} are missing"):
        open_journal()
    open_journal(last_seq=bases[2] - 1).close()


def test_a_segment_under_another_name_is_noticed(folder: Path, open_journal: OpenJournal) -> None:
    write(folder, make_entries(1, 3))
    (segment,) = segments_in(folder)
    segment.path.rename(folder / f"{2:020d}.journal")
    with pytest.raises(StoreDamaged, match="header"):
        open_journal(last_seq=1)


def test_a_record_of_another_segment_is_no_record(folder: Path) -> None:
    """The checksum is bound to the segment, so that nothing left over from another can come back to life."""
    write(folder, make_entries(1, 3))
    (segment,) = segments_in(folder)
    data = segment.path.read_bytes()
    header, _ = pack_header(1, "store_2")

    assert scan(segment, data, STORE_ID).last_seq == 3
    assert scan(segment, header + data[HEADER_BYTES:], "store_2").last_seq == 0


def test_a_newer_format_is_refused(folder: Path, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("trustgate.receipts.segment._VERSION", 2)
        write(folder, [])
    with pytest.raises(StoreTooNew):
        open_journal()


def test_a_whole_record_that_is_no_entry_is_damage(
    folder: Path, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(journal_module, "encode_entry", lambda entry: b"\x93\x01\x02\x03")
        write(folder, make_entries(1, 1))
    with pytest.raises(StoreDamaged, match="not an entry"):
        open_journal()


# segments come and go


def test_released_segments_are_deleted(folder: Path, open_journal: OpenJournal) -> None:
    journal = open_journal()
    append(journal, make_entries(1, 70))
    bases = [name for name in names(folder) if name]
    assert len(bases) == 4

    journal.release(bases[1] - 2)  # one short of the first segment's last
    journal.maintain()
    assert [name for name in names(folder) if name] == bases

    journal.release(bases[1] - 1)
    journal.maintain()
    assert [name for name in names(folder) if name] == bases[1:]

    journal.release(70)
    journal.maintain()
    assert [name for name in names(folder) if name] == bases[3:]
    assert journal.pending == 0
    assert list(journal.replay(70)) == []


def test_maintaining_beside_appending(folder: Path, open_journal: OpenJournal) -> None:
    """The two threads that a server has: what is released goes, what is not stays, in order."""
    journal = open_journal()
    stop = threading.Event()
    failures: list[Exception] = []

    def maintain() -> None:
        try:
            while not stop.is_set():
                journal.release(journal.last_seq - 100)
                journal.maintain()
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    thread = threading.Thread(target=maintain)
    thread.start()
    append(journal, make_entries(1, 3000))
    stop.set()
    thread.join()
    assert not failures
    journal.release(2900)
    journal.maintain()

    assert [entry.seq for entry in journal.replay(2900)] == list(range(2901, 3001))
    assert len(names(folder)) < 10


def test_descriptors_are_not_leaked(folder: Path, open_journal: OpenJournal) -> None:
    def mine() -> int:
        return sum(folder in fd.resolve().parents for fd in Path("/proc/self/fd").iterdir())

    if not Path("/proc/self/fd").exists():
        pytest.skip("descriptors can only be counted where there is /proc")
    journal = open_journal()
    append(journal, make_entries(1, 200))
    journal.release(200)
    journal.maintain()
    assert mine() == 2  # the current segment and the next
    journal.close()
    journal.close()
    assert mine() == 0


def test_a_closed_journal_takes_nothing(open_journal: OpenJournal) -> None:
    journal = open_journal()
    journal.close()
    journal.maintain()
    with pytest.raises(Unavailable):
        journal.append(make_entry(1))


# full disks


def test_room_is_what_is_sure_to_fit(open_journal: OpenJournal) -> None:
    """Down to the last record of the largest size, in two segments, without a third."""
    journal = open_journal()
    small = len(encode_entry(make_entry(1, model=""))) + 8
    room = journal.room()
    assert room == 2 * ((SEGMENT_BYTES - HEADER_BYTES) // MAX_RECORD_BYTES)
    journal.check_room(room)
    with pytest.raises(Unavailable) as refusal:
        journal.check_room(room + 1)
    assert refusal.value.code == "storage_full"

    for seq in range(1, room + 1):
        assert journal.room() >= room - seq + 1
        journal.append(make_entry(seq, model="m" * (MAX_RECORD_BYTES - small - 2)))
    assert journal.room() == 0
    assert len(names(journal.folder)) == 2


def test_a_full_disk_refuses_before_anything_is_lost(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 8 * SEGMENT_BYTES) as disk:
        journal = Journal.open(disk / "journal", store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        filler = fill(disk)
        while journal.room():
            journal.maintain()
            journal.check_room(1)
            journal.append(make_entry(journal.last_seq + 1))
        with pytest.raises(Unavailable) as refusal:
            journal.check_room(1)
        assert refusal.value.code == "storage_full"
        assert journal.last_seq > 20  # both segments were used
        with pytest.raises(Unavailable):  # one that does not ask is refused when it does not fit any more
            append(journal, make_entries(journal.last_seq + 1, 10))
        last_seq = journal.last_seq

        filler.unlink()
        journal.maintain()
        journal.check_room(3)
        append(journal, make_entries(last_seq + 1, 30))
        journal.close()

        journal = Journal.open(disk / "journal", store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        assert [entry.seq for entry in journal.replay(0)] == list(range(1, last_seq + 31))
        journal.close()


def test_a_journal_cannot_be_made_on_a_full_disk(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 4 * SEGMENT_BYTES) as disk:
        fill(disk)
        with pytest.raises(Unavailable) as refusal:
            Journal.open(disk / "journal", store_id=STORE_ID, last_seq=0, segment_bytes=SEGMENT_BYTES)
        assert refusal.value.code == "storage_full"


def test_a_failing_disk_stops_admission_until_it_is_well_again(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry that could not be recorded reaches the store alone; the journal goes on after it."""
    journal = open_journal()
    append(journal, make_entries(1, 3))

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(PositionedWriter, "pwrite", broken)
        with pytest.raises(Unavailable, match="Input/output error") as refusal:
            journal.append(make_entry(4))
        assert refusal.value.code == "journal_failed"
    for _ in range(2):
        with pytest.raises(Unavailable):
            journal.check_room(1)
        with pytest.raises(Unavailable):
            journal.append(make_entry(5))
    journal.maintain()

    journal.check_room(1)
    append(journal, make_entries(6, 2))
    journal.close()
    journal = open_journal(last_seq=5)
    assert [entry.seq for entry in journal.replay(5)] == [6, 7]
    journal.close()
    with pytest.raises(StoreDamaged, match="entries 4 to 5 are missing"):
        open_journal(last_seq=3)


def test_a_disk_that_fails_to_sync_is_told(open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal()
    append(journal, make_entries(1, 3))

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(journal_module, "_fdatasync", broken)
        with pytest.raises(Unavailable, match="Input/output error"):
            journal.maintain()
        with pytest.raises(Unavailable):
            journal.check_room(1)
    journal.maintain()
    journal.check_room(1)


def test_a_half_written_record_is_written_over(open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal()
    with monkeypatch.context() as failing:
        failing.setattr(PositionedWriter, "pwrite", lambda _, fd, data, at: os.pwrite(fd, data[:100], at))
        with pytest.raises(Unavailable, match="only 100 of"):
            journal.append(make_entry(1))
    journal.maintain()
    entries = append(journal, make_entries(1, 3))
    assert list(journal.replay(0)) == entries


@pytest.mark.parametrize("kind", ["file", "missing"])
def test_an_unusable_folder_is_named(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "home").touch()
    with pytest.raises(HomeUnusable, match="journal cannot be used") as refusal:
        Journal.open(tmp_path / "home" / "journal", store_id=STORE_ID, last_seq=0)
    assert refusal.value.hint


@pytest.mark.parametrize("arguments", [{"segment_bytes": 4096}, {"store_id": "x" * 65}])
def test_impossible_arguments_are_refused(open_journal: OpenJournal, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must hold|at most"):
        open_journal(**arguments)


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16])
@pytest.mark.parametrize("used", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**17 + 5])
def test_a_segments_content_is_that_of_its_file(tmp_path: Path, size: int, used: int) -> None:
    """A byte at the beginning and the last one before the zeros, in its first block, at its edge and later."""
    data = bytearray(size)
    if 0 < used <= size:
        data[0] = data[used - 1] = 7
    path = tmp_path / "0.journal"
    path.write_bytes(data)
    with content_of(Segment(path, 0)) as content:
        assert content[:] == data
        assert used_bytes(content) == len(data.rstrip(b"\0"))
