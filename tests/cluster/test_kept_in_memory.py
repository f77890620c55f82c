"""What a process keeps of rows and receipts that it has written itself, so that it need not read them again."""

from __future__ import annotations

import pytest

from tests.support.entries import make_entry
from trustgate.cluster import linked_receipts, row_states
from trustgate.cluster.linked_receipts import LinkedReceipt, LinkedReceipts
from trustgate.cluster.row_states import RowStates
from trustgate.types import Entry


def test_what_was_written_last_is_had_once_and_only_all_of_it() -> None:
    states = RowStates()
    states.note({"a": "1", "b": "2", "c": "3"})
    states.note({"b": "4"})
    assert states.take(("a", "b")) == ["1", "4"]
    assert states.take(("a",)) is None
    assert states.take(("c", "unknown")) is None
    assert states.take(("c",)) is None, "it was removed, since what comes next is decided from the database"
    states.note({"a": "5"})
    states.forget()
    assert states.take(("a",)) is None
    assert states.take(()) == []


def test_states_of_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_states, "_STATES_MOST", 3)
    states = RowStates()
    states.note({"a": "1", "b": "2"})
    states.note({"c": "3"})
    states.note({"d": "4"})
    assert [states.take((key,)) for key in "abcd"] == [None, None, None, ["4"]]
    states.note({"a": "1", "b": "2", "c": "3"})
    assert states.take(("a", "b", "c")) == ["1", "2", "3"], "so many may be kept"


def linked(entry: Entry) -> LinkedReceipt:
    return LinkedReceipt(entry, b"leaf", b"encoded")


def test_linked_receipts_are_kept_for_the_sequencer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked_receipts, "_MOST", 2)
    one, two, three, four = (make_entry(seq) for seq in range(1, 5))
    ids = [entry.receipt.id for entry in (one, two, three, four)]
    receipts = LinkedReceipts()
    receipts.note([linked(one)])
    assert receipts.take(ids[0]) is None, "this process is not the sequencer"
    with receipts.wanted() as wanted:
        assert wanted is receipts
        receipts.note([linked(one)])
        assert receipts.take(ids[0]) == linked(one)
        assert receipts.take(ids[0]) is None
        receipts.note([linked(one)])
        receipts.note([linked(two)])
        receipts.note([linked(three), linked(four)])
        assert [receipts.take(each) is not None for each in ids] == [False, False, True, True], "they are bounded"
        receipts.note([linked(one)])
    assert receipts.take(ids[0]) is None
    receipts.note([linked(two)])
    assert receipts.take(ids[1]) is None
