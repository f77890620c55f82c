"""What stands on the chain and what the book says: what was forgotten is taken up, what contradicts is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.anchoring import FINALITY_SLOTS, TIMING, Book, World, a_world, planned
from tests.support.chain import (
    Wrong,
    swallowed,
)
from tests.support.flush_driver import log_key, payer_key, root_of
from trustgate.errors import (
    AnchorPending,
    AnchorRefused,
    RpcUnavailable,
)
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world in which the key has money."""
    async with a_world() as world:
        await world.fund()
        yield world


# what the book has forgotten


async def test_anchors_that_the_book_has_forgotten_are_taken_up(world: World) -> None:
    signatures = [await world.post(world.target(size).note) for size in (3, 5)]
    await world.post(b"something else")
    result = await world.flush(9)
    assert [anchor.tree_size for anchor in result.anchors] == [3, 5, 9]
    assert [anchor.signature for anchor in result.anchors[:2]] == signatures
    for anchor, sent in zip(result.anchors, (*world.posted()[:2], world.posted()[3]), strict=True):
        assert anchor.attempts[-1].transaction == sent.raw
        assert (anchor.state, anchor.note.encode(), anchor.fee_lamports) == ("anchored", *sent.memos, 5_000)
    assert len(world.posted()) == 4


async def test_a_state_that_stands_on_the_chain_already_is_not_posted_again(world: World) -> None:
    signature = await world.post(world.target(5).note)
    result = await world.flush(5)
    assert (result.anchored, result.signature) == (True, signature)
    assert len(world.posted()) == 1
    assert not (await world.flush(5)).anchored


async def test_a_plan_from_an_old_copy_of_the_book_ends_with_what_really_landed(world: World) -> None:
    """The copy was made between two attempts: the one that it has expired, a later one landed."""
    with pytest.raises(AnchorPending):
        await world.flush(5, Wrong("sendTransaction", swallowed, 1000), timing=TIMING._replace(timeout_s=0.1))
    old_copy = Book(*await world.book.anchors())
    world.net.advance(200)
    landed = await world.flush(5)

    result = await world.flush(5, book=old_copy)
    assert result.signature == landed.signature
    (anchor,) = await old_copy.anchors()
    assert [attempt.outcome for attempt in anchor.attempts] == ["expired", "final"]
    assert len(world.posted()) == 1


async def test_a_plan_that_was_overtaken_becomes_what_overtook_it(world: World) -> None:
    book = Book(planned(world, world.target(5)))
    signature = await world.post(world.target(7).note)
    result = await world.flush(9, book=book)
    assert [(anchor.id == "anchor_plan", anchor.tree_size) for anchor in result.anchors] == [(True, 7), (False, 9)]
    assert result.anchors[0].signature == signature
    assert world.notes == [(world.target(7).note,), (world.target(9).note,)]


async def test_a_plan_stays_when_something_older_is_found(world: World) -> None:
    book = Book(planned(world, world.target(5)))
    await world.post(world.target(3).note)
    result = await world.flush(5, book=book)
    assert [(anchor.id == "anchor_plan", anchor.tree_size) for anchor in result.anchors] == [(False, 3), (True, 5)]


async def test_what_was_found_is_believed_only_once_it_is_final() -> None:
    async with a_world(slot_ms=0) as world:
        await world.fund()
        await world.post(world.target(5).note, settle=False)
        world.net.advance()
        with pytest.raises(RpcUnavailable, match="not in the database, is not final yet"):
            await world.flush(5, timing=TIMING._replace(timeout_s=0.1))
        assert world.book.saves == []
        world.net.advance(FINALITY_SLOTS)
        assert (await world.flush(5)).anchored
        assert len(world.posted()) == 1


async def test_what_others_say_is_not_taken_up(world: World) -> None:
    """A stranger posts the log's own note; the payer posts what is not signed by the log, or of another log."""
    stranger, other_log = payer_key("stranger"), log_key("other")
    await world.fund(stranger)
    note = world.target(7).note
    await world.post(note, key=stranger)
    forged = LogKey(log_key("log").name, bytes(32))
    await world.post(sign_checkpoint(Checkpoint(forged.name, 8, root_of("log", 8)), forged))
    await world.post(sign_checkpoint(Checkpoint(other_log.name, 9, root_of("other", 9)), other_log))
    await world.post(note[:-8] + b"AAAAAA=\n")
    await world.post(b"\xe2\x80\x94 no note at all")
    result = await world.flush(5)
    assert [anchor.tree_size for anchor in result.anchors] == [5]
    assert world.notes[-1] == (world.target(5).note,)


# what is refused


async def test_a_chain_that_knows_more_is_not_contradicted(world: World) -> None:
    await world.flush(9)
    with pytest.raises(AnchorRefused, match=r"The chain has an anchor of 9 receipts .* has only 5") as caught:
        await world.flush(5, book=Book())
    assert caught.value.hint is not None and "older copy" in caught.value.hint
    with pytest.raises(AnchorRefused, match=r"The database has an anchor of 9 receipts .* has only 5"):
        await world.flush(5)
    assert len(world.posted()) == 1


@pytest.mark.parametrize("size", [5, 9])
async def test_a_chain_that_knows_another_root_is_not_contradicted(world: World, size: int) -> None:
    await world.flush(5)

    async def other_root(_: int) -> bytes:
        return bytes(32)

    changed_log = world.target(size)._replace(root=bytes(32), root_at=other_root)
    for book, where in ((Book(), "The chain"), (world.book, "The database")):
        with pytest.raises(AnchorRefused, match=rf"{where} has an anchor of .* first 5 receipts are not those"):
            await world.flush(size, book=book, target=changed_log)
    assert len(world.posted()) == 1


async def test_a_plan_that_the_log_contradicts_is_not_sent(world: World) -> None:
    book = Book(planned(world, world.target(5)))
    with pytest.raises(AnchorRefused, match="The database has an anchor of 5 receipts"):
        await world.flush(3, book=book)

    async def other_root(_: int) -> bytes:
        return bytes(32)

    with pytest.raises(AnchorRefused, match="first 5 receipts are not those"):
        await world.flush(9, book=book, target=world.target(9)._replace(root_at=other_root))
    assert world.posted() == []


async def test_a_log_under_another_name_is_another_log(world: World) -> None:
    await world.flush(9)
    world.name = "renamed"
    result = await world.flush(4)
    assert (result.anchored, result.tree_size) == (True, 4)
    assert [anchor.tree_size for anchor in await world.book.anchors()] == [9, 4]


async def test_what_was_begun_under_another_name_gives_way(world: World) -> None:
    with pytest.raises(AnchorPending):
        await world.flush(9, Wrong("sendTransaction", swallowed, 1000), timing=TIMING._replace(timeout_s=0.1))
    world.net.advance(200)
    world.name = "renamed"
    result = await world.flush(4)
    (anchor,) = await world.book.anchors()
    assert (anchor.tree_size, anchor.state) == (4, "anchored")
    assert [attempt.outcome for attempt in anchor.attempts] == ["expired", "final"]
    assert world.notes == [(world.target(4).note,)]
    assert result.anchors == (anchor,)


async def test_another_chains_anchors_do_not_count(world: World) -> None:
    await world.flush(9)
    async with a_world() as elsewhere:
        await elsewhere.fund()
        result = await elsewhere.flush(9, book=world.book)
        assert result.anchored
        assert {anchor.genesis for anchor in await world.book.anchors()} == {world.net.genesis, elsewhere.net.genesis}


async def test_a_note_too_long_for_a_transaction(world: World) -> None:
    key = LogKey("x" * 500, bytes(32))
    note = sign_checkpoint(Checkpoint(key.name, 5, root_of("log", 5)), key)
    target = world.target(5)._replace(
        note=note, origin=key.name, open_note=lambda data: open_checkpoint(data, key.verifier)
    )
    with pytest.raises(AnchorRefused, match="a transaction carries at most 1008"):
        await world.flush(5, target=target)
    assert sum(world.node.lane_calls.values()) == 0
