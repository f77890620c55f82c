"""Balances and their holds; the receipts of money by itself; the answers that a retry gets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trustgate.payment.balance import BalanceHold, Balances
from trustgate.payment.paid_answers import MOST_ANSWER_BYTES, AnswerRecorder, Recorded
from trustgate.store import Balance


def _balances(credited: int = 10, charged: int = 0) -> Balances:
    return Balances([Balance(tenant_id="t", credited_nano_usd=credited, charged_nano_usd=charged)])


def test_a_balance_begins_with_what_receipts_say() -> None:
    balances = _balances(10, 4)
    assert (balances.balance("t"), balances.balance("other")) == (6, 0)


def test_a_hold_is_out_of_reach_and_settled_once() -> None:
    balances = _balances(10)
    hold = balances.hold("t", 7)
    assert hold is not None
    assert (balances.balance("t"), balances.held("t")) == (10, 7)
    assert balances.hold("t", 4) is None
    hold.settle(2)
    hold.settle(2)
    assert (balances.balance("t"), balances.held("t")) == (8, 0)


def test_what_is_settled_is_on_record_once_its_receipt_is_written() -> None:
    balances = _balances(10)
    balances.settled("t", 5)
    assert (balances.balance("t"), balances.on_record()) == (15, {"t": 10})
    balances.recorded("t", 5)
    assert balances.on_record() == {"t": 15}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=40), st.integers(0, 50))
def test_holds_never_promise_more_than_there_is(steps: list[tuple[int, int, bool]], credited: int) -> None:
    balances, holds, charged = _balances(credited), list[tuple[BalanceHold, int]](), 0
    for ask, use, settles in steps:
        if settles and holds:
            hold, held = holds.pop()
            hold.settle(min(use, held))
            charged += min(use, held)
        elif (taken := balances.hold("t", ask)) is not None:
            holds.append((taken, ask))
        assert balances.balance("t") == credited - charged
        assert balances.held("t") == sum(held for _, held in holds) <= balances.balance("t")


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), min_size=2, max_size=12), st.integers(0, 100))
def test_requests_at_once_never_overdraw_by_more_than_the_overshoot_of_one(
    asks: list[tuple[int, int]], credited: int
) -> None:
    """Each holds its worst case, and then uses whatever it uses."""
    balances = _balances(credited)
    holds = [(hold, ask, use) for ask, use in asks if (hold := balances.hold("t", ask)) is not None]
    taken = [hold.settle(use) for hold, _, use in holds]
    assert balances.balance("t") == credited - sum(taken)
    assert balances.balance("t") >= -max((use - ask for _, ask, use in holds), default=0)
    assert all(part <= use for part, (_, _, use) in zip(taken, holds, strict=True))


# answers


def _recorded(body: bytes) -> Recorded:
    return Recorded(200, [], body)


def test_an_answer_is_taken_down_whole_or_not_at_all() -> None:
    recorder = AnswerRecorder()
    assert recorder.recorded() is None
    recorder.begin(200, [(b"a", b"b")])
    recorder.write(b"one ", last=False)
    assert recorder.recorded() is None
    recorder.write(b"two", last=True)
    assert recorder.recorded() == Recorded(200, [(b"a", b"b")], b"one two")
    large = AnswerRecorder()
    large.begin(200, [])
    large.write(b"x" * MOST_ANSWER_BYTES, last=False)
    large.write(b"x", last=True)
    assert large.recorded() is None
