"""Anchoring, against a real (local) chain: what is posted, what is recorded when, how it goes on after failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.anchoring import MOST, TIMING, Book, World, a_world, planned
from tests.support.chain import (
    Answer,
    Call,
    Fault,
    Wrong,
    behind,
    changed,
    drop_before,
    endless_life,
    failed_status,
    nothing,
    null_status,
    other_transaction,
    refused,
    short_life,
    stale_answer,
    swallowed,
)
from tests.support.flush_driver import payer_key
from trustgate.errors import (
    AnchorPending,
    OperatorError,
    RpcRejected,
    RpcUnavailable,
)
from trustgate.solana.anchors import Anchorer, RetryTiming
from trustgate.solana.clusters import find_cluster
from trustgate.solana.rpc import RpcClient
from trustgate.solana.transaction_status import look
from trustgate.types import Anchor, AnchorAttempt


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world in which the key has money."""
    async with a_world() as world:
        await world.fund()
        yield world


def failing_estimate(times: int = 1) -> Wrong:
    """The node says that the memo needs hardly any compute units: the transaction will land and fail."""

    async def too_few(call: Call) -> Answer:
        return await changed(call, lambda result: {**result, "value": {**result["value"], "unitsConsumed": 1}})

    return Wrong("simulateTransaction", too_few, times)


# what a flush does


async def test_the_state_of_the_log_is_posted_verbatim(world: World) -> None:
    result = await world.flush(5)
    target = world.target(5)
    (sent,) = world.posted()
    assert sent.memos == (target.note,)
    assert (result.anchored, result.dry_run, result.tree_size, result.root) == (True, False, 5, target.root.hex())
    assert (result.signature, result.fee_payer, result.fee_lamports) == (sent.signature, world.key.address, 5_000)
    assert (result.genesis, result.cluster) == (world.net.genesis, "local")
    assert result.slot == world.net.chain.entries[-1].slot
    assert world.net.chain.commitment_of(result.slot) == "finalized"


async def test_everything_is_recorded_before_it_happens(world: World) -> None:
    await world.flush(5)
    planned, attempted, anchored = world.book.saves
    assert world.book.steps == [("planned", ()), ("planned", ("open",)), ("anchored", ("final",))]
    target = world.target(5)
    for anchor in world.book.saves:
        assert (anchor.genesis, anchor.fee_payer) == (world.net.genesis, world.key.address)
        assert (anchor.tree_size, anchor.root, anchor.note.encode()) == (5, target.root.hex(), target.note)
        assert anchor.id == planned.id
    (attempt,) = attempted.attempts
    assert attempt.transaction == world.posted()[0].raw
    assert anchored.signature == attempt.signature == world.posted()[0].signature
    assert (anchored.slot, anchored.fee_lamports) == (
        world.net.chain.entries[-1].slot,
        world.net.chain.entries[-1].outcome.fee,
    )
    assert abs(anchored.anchored_us - planned.created_us) < 5_000_000


@pytest.mark.parametrize("failing_save", [1, 2])
async def test_what_cannot_be_recorded_is_not_sent(world: World, failing_save: int) -> None:
    class Full(Book):
        async def put(self, anchor: Anchor, /) -> None:
            if len(self.saves) + 1 == failing_save:
                raise OperatorError("the disk is full")
            await super().put(anchor)

    with pytest.raises(OperatorError, match="disk is full"):
        await world.flush(5, book=Full())
    assert world.posted() == []


async def test_nothing_to_anchor(world: World) -> None:
    first = await world.flush(5)
    again = await world.flush(5)
    assert again == first._replace(anchored=False, anchors=())
    assert len(world.posted()) == 1
    assert len(world.book.saves) == 3


async def test_an_empty_log_is_not_anchored(world: World) -> None:
    result = await world.flush(0)
    assert (result.anchored, result.tree_size, result.signature, result.explorer) == (False, 0, "", "")
    assert (world.posted(), world.book.saves) == ([], [])


async def test_a_log_that_has_grown_is_anchored_again(world: World) -> None:
    for size in (1, 2, 300):
        assert (await world.flush(size)).tree_size == size
    assert world.notes == [(world.target(size).note,) for size in (1, 2, 300)]
    assert [anchor.state for anchor in await world.book.anchors()] == ["anchored"] * 3


async def test_a_dry_run_says_what_would_be(world: World) -> None:
    forecast = await world.flush(5, dry_run=True)
    assert (forecast.anchored, forecast.dry_run, forecast.tree_size) == (False, True, 5)
    assert (world.posted(), world.book.saves) == ([], [])
    result = await world.flush(5)
    assert (forecast.root, forecast.fee_lamports) == (result.root, result.fee_lamports)
    assert (await world.flush(5, dry_run=True)).fee_lamports == result.fee_lamports
    assert len(world.posted()) == 1


async def test_a_dry_run_records_nothing_that_it_finds(world: World) -> None:
    await world.post(world.target(5).note)
    forecast = await world.flush(9, dry_run=True)
    assert (forecast.tree_size, forecast.fee_lamports) == (9, 5_000)
    assert not (await world.flush(5, dry_run=True)).anchored
    assert world.book.saves == []


async def test_progress_is_told_in_sentences(world: World) -> None:
    await world.flush(
        5, Wrong("getSignatureStatuses", drop_before), Wrong("getSignatureStatuses", null_status, 1, first=2)
    )
    stages = list(dict.fromkeys(at.stage for at in world.heard))
    assert stages == ["looking", "sending", "trouble", "waiting"]
    assert all(at.text and not at.text.endswith(".") and at.text[0].isupper() for at in world.heard)


async def test_confirmed_is_enough_when_that_is_asked_for() -> None:
    async with a_world(slot_ms=0) as world:
        await world.fund()

        async def one_slot_on(call: Call) -> Answer:
            world.net.advance()
            return await changed(call, lambda result: result)

        result = await world.flush(5, Wrong("getSignatureStatuses", one_slot_on), commitment="confirmed")
        assert world.net.chain.commitment_of(result.slot) == "confirmed"
        # And the next flush, which looks at the finalized chain only where it must, has nothing to do.
        assert not (await world.flush(5, commitment="confirmed")).anchored


async def test_two_flushes_at_once_in_one_process(world: World) -> None:
    anchorer = Anchorer(world.book, timing=TIMING)
    async with RpcClient(find_cluster(world.net.url)) as rpc:
        target = world.target(5)
        results = await asyncio.gather(
            *(anchorer.flush(rpc, world.key, target, max_fee_lamports=MOST) for _ in range(3))
        )
    assert sorted(result.anchored for result in results) == [False, False, True]
    assert len({result.signature for result in results}) == 1
    assert len(world.posted()) == 1


# going on


async def test_what_was_begun_is_finished_first_and_then_the_present_state(world: World) -> None:
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("sendTransaction", swallowed, 1000), timing=TIMING._replace(timeout_s=0.2))
    result = await world.flush(9)
    assert result.tree_size == 9
    assert [anchor.tree_size for anchor in result.anchors] == [5, 9]
    assert world.notes == [(world.target(5).note,), (world.target(9).note,)]


async def test_a_plan_without_a_transaction_is_finished_too(world: World) -> None:
    target = world.target(5)
    plan = planned(world, target)
    world.book = Book(plan)
    result = await world.flush(9)
    assert [(anchor.id == plan.id, anchor.tree_size) for anchor in result.anchors] == [(True, 5), (False, 9)]
    assert len(world.posted()) == 2


async def test_a_flush_whose_time_is_up_says_so_and_the_next_goes_on_with_the_same_transaction(world: World) -> None:
    with pytest.raises(AnchorPending) as caught:
        await world.flush(5, Wrong("sendTransaction", refused, 1000), timing=TIMING._replace(timeout_s=0.2))
    ((attempt,),) = [anchor.attempts for anchor in await world.book.anchors()]
    assert attempt.outcome == "open"
    assert f"not finalized within 0.2 s (transaction {attempt.signature})" in caught.value.message
    assert "Blockhash not found" in caught.value.message
    assert caught.value.hint is not None and "does not post a second one" in caught.value.hint

    result = await world.flush(5)
    assert result.signature == attempt.signature
    assert len(world.posted()) == 1


async def test_a_transaction_that_expired_is_replaced(world: World) -> None:
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("sendTransaction", swallowed, 1000), timing=TIMING._replace(timeout_s=0.1))
    world.net.advance(200)
    result = await world.flush(5)
    (anchor,) = await world.book.anchors()
    assert [attempt.outcome for attempt in anchor.attempts] == ["expired", "final"]
    assert "expired at block" in anchor.attempts[0].detail
    assert [transaction.signature for transaction in world.posted()] == [result.signature]


async def test_a_transaction_that_landed_long_ago_is_found(world: World) -> None:
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("getTransaction", nothing, 1000, first=2), timing=TIMING._replace(timeout_s=0.2))
    world.net.advance(100_000)
    result = await world.flush(5)
    assert [transaction.signature for transaction in world.posted()] == [result.signature]
    assert world.book.steps[-1] == ("anchored", ("final",))


async def test_an_expiry_that_is_seen_only_once_is_not_believed(world: World) -> None:
    """The transaction landed; a node that answers once that it is unknown, and has no history, is not enough."""
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("getTransaction", nothing, 1000, first=2), timing=TIMING._replace(timeout_s=0.2))
    world.net.advance(200)

    async def no_history(call: Call) -> Answer:
        return await changed(call, lambda _: [])

    result = await world.flush(
        5, Wrong("getSignatureStatuses", null_status), Wrong("getSignaturesForAddress", no_history)
    )
    assert [transaction.signature for transaction in world.posted()] == [result.signature]
    assert world.book.steps == [("planned", ()), ("planned", ("open",)), ("anchored", ("final",))]


async def test_a_transaction_that_failed_is_replaced(world: World) -> None:
    result = await world.flush(5, failing_estimate())
    (anchor,) = await world.book.anchors()
    assert [attempt.outcome for attempt in anchor.attempts] == ["failed", "final"]
    assert "ComputationalBudgetExceeded" in anchor.attempts[0].detail or "ProgramFailed" in anchor.attempts[0].detail
    assert [transaction.signature for transaction in world.posted()] == [result.signature]
    spent = 10**9 - world.net.chain.bank.lamports(world.key.pubkey())
    assert spent == 10_000, "the one that failed has cost its fee"


async def test_money_is_not_burnt_on_transactions_that_go_on_failing(world: World) -> None:
    with pytest.raises(RpcRejected, match="3 transactions in a row landed and failed"):
        await world.flush(5, failing_estimate(1000))
    assert 10**9 - world.net.chain.bank.lamports(world.key.pubkey()) == 15_000
    await world.flush(5)
    (anchor,) = await world.book.anchors()
    assert [attempt.outcome for attempt in anchor.attempts] == ["failed"] * 3 + ["final"]


async def test_a_node_that_never_answers_leaves_nothing_behind(world: World) -> None:
    for method in ("getGenesisHash", "getSignaturesForAddress", "getBalance", "simulateTransaction"):
        with pytest.raises(RpcUnavailable):
            await world.flush(5, Wrong(method, drop_before, 1000), timing=TIMING._replace(timeout_s=0.1))
        assert world.book.saves == []
    with pytest.raises(RpcUnavailable):
        await world.flush(5, Wrong("getLatestBlockhash", drop_before, 1000), timing=TIMING._replace(timeout_s=0.1))
    assert world.book.steps == [("planned", ())]
    assert world.posted() == []


@pytest.mark.parametrize("lie", [short_life, endless_life, stale_answer, behind], ids=lambda lie: lie.__name__)
async def test_how_long_a_transaction_may_land_is_not_left_to_the_node(world: World, lie: Fault) -> None:
    """After too short a life it would be signed anew while it may land; too long a one would be waited for in vain."""
    world.net.advance(1_000)
    before = world.net.slot - 1_000
    await world.flush(5, Wrong("getLatestBlockhash", lie))
    after = world.net.slot - 1_000
    (attempt,) = world.book.saves[-1].attempts
    assert before + 149 <= attempt.last_valid_block_height <= after + 300


async def landed_long_ago(world: World) -> AnchorAttempt:
    await world.flush(5)
    world.net.advance(1_000)
    return world.book.saves[-1].attempts[-1]


@pytest.mark.parametrize(
    ("wrongs", "why"),
    [
        ((Wrong("getSignatureStatuses", null_status),), "in the history of its address, but does not know its status"),
        ((Wrong("getSignatureStatuses", behind),), "it lags behind"),
        ((Wrong("getSignatureStatuses", failed_status),), "contradicts itself on whether"),
        ((Wrong("getTransaction", nothing),), "does not return it"),
        ((Wrong("getTransaction", other_transaction),), "returns another transaction"),
        (
            (Wrong("getSignatureStatuses", null_status), Wrong("getSignaturesForAddress", drop_before)),
            "broke off the connection",
        ),
    ],
)
async def test_what_became_of_a_transaction_is_not_believed_of_a_node_that_contradicts_itself(
    world: World, wrongs: tuple[Wrong, ...], why: str
) -> None:
    attempt = await landed_long_ago(world)
    async with RpcClient(find_cluster(world.node.lane("look", *wrongs).url)) as rpc:
        with pytest.raises(RpcUnavailable, match=why):
            await look(rpc, attempt, "finalized")
        assert (await look(rpc, attempt, "finalized")).state == "landed"


def _soon_over() -> RetryTiming:
    """A flush's time ends after some polls, however long they take."""
    clock = FakeClock()
    return TIMING._replace(timeout_s=0.1, clock=clock.now, sleep=clock.sleep)


async def test_another_key_may_finish_what_one_began(world: World) -> None:
    other = payer_key("other")
    await world.fund(other)
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("sendTransaction", swallowed, 1000), timing=_soon_over())
    result = await world.flush(9, key=other)
    assert world.notes == [(world.target(5).note,)]
    assert [transaction.memos for transaction in world.posted(other)] == [(world.target(9).note,)]
    assert result.fee_payer == other.address
    assert [anchor.fee_payer for anchor in result.anchors] == [world.key.address, other.address]


async def test_an_expired_transaction_of_one_key_is_replaced_by_one_of_another(world: World) -> None:
    other = payer_key("other")
    await world.fund(other)
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("sendTransaction", swallowed, 1000), timing=_soon_over())
    world.net.advance(200)
    assert (await world.flush(5, key=other)).fee_payer == other.address
    assert (len(world.posted()), len(world.posted(other))) == (0, 1)
    assert [anchor.fee_payer for anchor in await world.book.anchors()] == [other.address]


# a clock of one's own


async def test_the_time_limit_is_the_clocks(world: World) -> None:
    """Nothing here waits in real time: three minutes pass on a clock that only sleeping moves."""
    clock = FakeClock()
    timing = RetryTiming(clock=clock.now, sleep=clock.sleep)
    with pytest.raises(AnchorPending, match="within 180 s"):
        await world.flush(
            5, Wrong("sendTransaction", swallowed, 10_000), Wrong("getEpochInfo", early(world), 10_000), timing=timing
        )
    assert 180 <= clock.seconds < 182
    assert 85 <= sum(name == "sendTransaction" for name in world.node.lane_calls.elements()) <= 95, "every two seconds"


def early(world: World) -> Callable[[Call], Any]:
    """The chain seems to stand still, so that nothing expires."""
    height = world.net.slot - 1_000

    async def still(call: Call) -> Answer:
        return await changed(call, lambda result: {**result, "blockHeight": min(result["blockHeight"], height)})

    return still


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


async def test_a_node_that_asks_for_time_gets_it(world: World) -> None:
    async def later(_: Call) -> Answer:
        return Answer(b"slow down", 429, "text/plain", (("Retry-After", "40"),))

    clock = FakeClock()
    await world.flush(
        5,
        Wrong("getBalance", later),
        Wrong("getSignatureStatuses", later),
        timing=RetryTiming(clock=clock.now, sleep=clock.sleep),
    )
    assert clock.seconds >= 80
    with pytest.raises(RpcUnavailable, match="limits the rate of requests"):
        await world.flush(9, Wrong("getBalance", later), timing=TIMING._replace(timeout_s=30.0))
