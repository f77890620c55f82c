"""Answers that were paid for: kept on disk for their payer alone, never more than the bound, over a restart."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.payment import paid_answers
from trustgate.payment.paid_answers import MOST_ANSWER_BYTES, AnswerRecorder, Answers, Recorded, answer_key

KEY = answer_key(b"sk-of-acme")
ANSWER = Recorded(
    200, [(b"content-type", b"application/json"), (b"x-odd", b"\xff\x80")], b'{"text": "a secret answer"}'
)


def of_size(size: int) -> Recorded:
    return Recorded(200, [], b"a" * size)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else 0


async def kept(answers: Answers, payment_id: str, recorded: Recorded, key: bytes = KEY) -> None:
    answers.keep(payment_id, recorded)
    await answers.write(payment_id, key)


async def test_an_answer_survives_the_process_for_its_payer_alone(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    await kept(Answers(folder), "pay_1", ANSWER)
    again = Answers(folder)
    assert again.find("pay_1", KEY) == ANSWER
    for other in (answer_key(b"sk-of-another"), b""):
        assert again.find("pay_1", other) is None
    assert "API key that asked" in again.why_gone("pay_1")
    [file] = folder.iterdir()
    assert b"secret" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@given(body=st.binary(max_size=2_000), at=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_what_was_altered_on_disk_is_no_answer(body: bytes, at: int, mask: int) -> None:
    sealed = paid_answers._sealed(body, KEY, "pay_1")
    assert paid_answers._unsealed(sealed, KEY, "pay_1") == body
    assert paid_answers._unsealed(sealed, KEY, "pay_2") is None
    altered = bytearray(sealed)
    altered[at % len(sealed)] ^= mask
    assert paid_answers._unsealed(bytes(altered), KEY, "pay_1") is None


async def test_there_is_never_more_than_the_bound(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    answers = Answers(folder, most_bytes=10_000)
    for number in range(30):
        answers.keep(f"pay_{number}", of_size(100 * number))
        assert answers.size <= 10_000
        await answers.write(f"pay_{number}", KEY)
        assert on_disk(folder) == answers.size <= 10_000
    assert answers.find("pay_29", KEY) == of_size(2_900)
    assert answers.find("pay_0", KEY) is None
    assert "no longer kept" in answers.why_gone("pay_0")
    # A lower bound holds from the start on.
    lower = Answers(folder, most_bytes=4_000)
    assert on_disk(folder) == lower.size <= 4_000
    assert lower.find("pay_29", KEY) == of_size(2_900)


async def test_an_answer_dropped_while_it_is_written_leaves_no_file(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers", most_bytes=1_000)
    answers.keep("pay_1", of_size(500))
    writing = asyncio.create_task(answers.write("pay_1", KEY))
    await asyncio.sleep(0)  # it is with the thread that writes; it goes on when that is done, and not before
    answers.keep("pay_2", of_size(800))
    await writing
    await answers.write("pay_2", KEY)
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["pay_2"]


@pytest.mark.parametrize("size", [MOST_ANSWER_BYTES + 1, 20_000])
async def test_an_answer_beyond_a_bound_is_not_kept_and_a_retry_is_told_so(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "answers"
    answers = Answers(folder, most_bytes=10_000)
    recorder = AnswerRecorder()
    recorder.begin(200, [])
    recorder.write(b"a" * size, last=True)
    recorded = recorder.recorded()
    assert (recorded is None) == recorder.is_too_large == (size > MOST_ANSWER_BYTES)
    if recorded is None:
        answers.keep_none("pay_1")
    else:
        answers.keep("pay_1", recorded)
    await answers.write("pay_1", KEY)
    for each in (answers, Answers(folder, most_bytes=10_000)):
        assert each.find("pay_1", KEY) is None
        assert "larger than 10000 bytes" in each.why_gone("pay_1")
        assert each.size == on_disk(folder) == 0


async def test_what_is_old_or_unfinished_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    answers = Answers(folder)
    await kept(answers, "pay_old", ANSWER)
    await kept(answers, "pay_new", ANSWER)
    (folder / "pay_half.new").write_bytes(b"half")
    long_ago = time.time() - 4_000
    os.utime(folder / "pay_old", (long_ago, long_ago))
    again = Answers(folder)
    assert [path.name for path in folder.iterdir()] == ["pay_new"]
    assert again.find("pay_old", KEY) is None
    assert again.find("pay_new", KEY) == ANSWER


async def test_what_cannot_be_written_is_kept_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "answers").write_text("a file in its place")
    answers = Answers(tmp_path / "answers")
    await kept(answers, "pay_1", ANSWER)
    assert answers.find("pay_1", b"") == ANSWER
    assert "in memory alone" in caplog.text


async def test_without_an_api_key_nothing_is_written(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers")
    await kept(answers, "pay_1", ANSWER, answer_key(b""))
    assert answers.find("pay_1", b"") == ANSWER
    assert not (tmp_path / "answers").exists()


def test_an_answer_is_kept_for_an_hour_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("trustgate.payment.paid_answers.time.time", lambda: now[0])
    answers = Answers()
    answers.keep("pay_1", ANSWER)
    now[0] += 3_599
    assert answers.find("pay_1", KEY) == ANSWER
    now[0] += 1
    assert answers.find("pay_1", KEY) is None
    answers.sweep()
    assert answers.size == 0
