"""Flush under faults and ``kill -9``: exactly one anchor for a state, whatever happens on the way.

Every case is a process of its own with a real store, flushing to a real (local) chain through a node that misbehaves;
in most of them the process is killed, by SIGKILL, at a call or at a save. Then an undisturbed flush follows,
and what stands on the chain is counted. All cases run beforehand, several at once; each is then a test that looks at
how its own went.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from msgspec.structs import replace

from tests.support import chain
from tests.support.chain import METHODS, FaultyNode, Kill, Lane, Wrong, faulty_node
from tests.support.flush_driver import Drivers, Ended, Order, Outcome, payer_key, target_of
from trustgate.formats.solana_transaction import Transaction, read_transaction
from trustgate.localnet import Localnet, running_localnet
from trustgate.store import open_store

pytestmark = pytest.mark.slow

SLOT_MS = 10
FINALITY_SLOTS = 6
#: How many flushes run at a time.
AT_ONCE = 6
TREE_SIZE = 7
STORE = "trustgate.duckdb"

KILLED = -9
WHENS: tuple[Literal["before"], Literal["after"]] = ("before", "after")


class Case(NamedTuple):
    name: str
    wrongs: tuple[Wrong, ...] = ()
    kill: Kill | None = None
    kill_at_save: tuple[int, Literal["before", "after"]] | None = None

    @property
    def is_deadly(self) -> bool:
        return self.kill is not None or self.kill_at_save is not None


class Played(NamedTuple):
    """How a case went: the disturbed flush, the undisturbed one after it, and what stands on the chain then."""

    disturbed: Ended
    lane: Lane
    undisturbed: Ended
    #: What the fee payer's transactions did: those that landed and did it, and those that failed.
    landed: list[Transaction]
    failed: list[Transaction]


# the cases


#: Each method's first call goes wrong like that.
FAILURES = {
    "drop-before": chain.drop_before,
    "drop-after": chain.drop_after,
    "late": chain.late,
    "429": chain.too_many,
    "500": chain.status_500,
    "503-html": chain.html_503,
    "200-html": chain.html_200,
    "truncated": chain.truncated,
    "half-json": chain.half_json,
    "garbage": chain.garbage,
    "wrong-id": chain.wrong_id,
    "nonsense": chain.nonsense,
    "unhealthy": chain.unhealthy,
    "internal-error": chain.internal_error,
}

#: What a node says that is not so.
LIES = {
    "null-status": (Wrong("getSignatureStatuses", chain.null_status, 4),),
    "failed-status": (Wrong("getSignatureStatuses", chain.failed_status, 4),),
    "final-status": (Wrong("getSignatureStatuses", chain.final_status, 4),),
    "no-transaction": (Wrong("getTransaction", chain.nothing, 4),),
    "other-transaction": (Wrong("getTransaction", chain.other_transaction, 4),),
    "no-history": (Wrong("getSignaturesForAddress", chain.no_history, 4),),
    "accepted-but-refused": (Wrong("sendTransaction", chain.accepted_but_refused, 4),),
    "accepted-but-refused-bare": (Wrong("sendTransaction", chain.accepted_and_bare, 4),),
    "refused": (Wrong("sendTransaction", chain.refused, 2),),
    "swallowed": (Wrong("sendTransaction", chain.swallowed, 2),),
    "swallowed-and-final": (
        Wrong("sendTransaction", chain.swallowed),
        Wrong("getSignatureStatuses", chain.final_status, 4),
    ),
    "stale-blockhash": (Wrong("getLatestBlockhash", chain.stale_blockhash),),
    "stale-answer": (Wrong("getLatestBlockhash", chain.stale_answer, 2),),
    "short-life": (Wrong("getLatestBlockhash", chain.short_life),),
    "short-life-and-null": (
        Wrong("getLatestBlockhash", chain.short_life),
        Wrong("getSignatureStatuses", chain.null_status_of_the_new, 10),
        Wrong("getSignaturesForAddress", chain.no_history_of_the_new, 10, first=2),
    ),
    "endless-life": (Wrong("getLatestBlockhash", chain.endless_life, 2),),
    "far-ahead": (Wrong("getEpochInfo", chain.far_ahead, 4, first=2),),
    "far-ahead-and-null": (
        Wrong("getEpochInfo", chain.far_ahead, 4, first=2),
        Wrong("getSignatureStatuses", chain.null_status, 4),
    ),
    "far-ahead-in-all-and-null": (
        Wrong("getEpochInfo", chain.far_ahead_all, 4, first=2),
        Wrong("getSignatureStatuses", chain.null_status, 4),
    ),
    "behind": tuple(Wrong(method, chain.behind, 4) for method in METHODS[1:]),
    "behind-later": tuple(Wrong(method, chain.behind, 4, first=2) for method in METHODS[1:]),
}

#: What goes wrong in the flush that is killed.
COMPANIONS = {
    "": (),
    "drop-after": (Wrong("*", chain.drop_after),),
    "accepted-but-refused": LIES["accepted-but-refused"],
    "null-status": LIES["null-status"],
    "stale-blockhash": LIES["stale-blockhash"],
}


def _cases() -> list[Case]:
    failing = [Case(name, (Wrong("*", fault),)) for name, fault in FAILURES.items()]
    failing += [
        Case(f"{method}-{name}", (Wrong(method, FAILURES[name], 3),))
        for method, name in itertools.product(("sendTransaction", "getSignatureStatuses"), ("drop-after", "500", "429"))
    ]
    lying = [Case(name, wrongs) for name, wrongs in LIES.items()]
    deadly = []
    for companion, wrongs in COMPANIONS.items():
        number = 2 if any(wrong.method == "*" for wrong in wrongs) else 1
        ending = companion and f"-{companion}"
        for when in WHENS:
            # The second time they are asked for the first time after sending.
            twice = [Kill(method, number + 1, when) for method in ("getEpochInfo", "getTransaction")]
            # Where a fault takes the first call of each method, the process is killed at the one that goes through; but
            # what was sent need not be sent again.
            once = [Kill(method, 1 if method == "sendTransaction" else number, when) for method in METHODS]
            kills = [*once, *twice]
            deadly += [Case(f"kill-{when}-{kill.method}-{kill.number}{ending}", wrongs, kill) for kill in kills]
            deadly += [
                Case(f"kill-{when}-save-{save}{ending}", wrongs, kill_at_save=(save, when)) for save in (1, 2, 3)
            ]
    return failing + lying + deadly


CASES = _cases()


# playing them


class Stage:
    def __init__(self, net: Localnet, node: FaultyNode, drivers: Drivers, folder: Path) -> None:
        self.net = net
        self.node = node
        self._drivers = drivers
        self._folder = folder
        self._ids = itertools.count(1)

    async def run(self, name: str, lane: Lane, **more: object) -> Ended:
        """A flush of the home of this name, which has an empty store when it is new; in a process of its own."""
        home = self._folder / name
        if not home.exists():
            home.mkdir()
            for file in self._folder.glob(f"{STORE}*"):  # the database, and what is kept beside it of its changes
                shutil.copyfile(file, home / file.name)
        order = Order(id=str(next(self._ids)), name=name, home=str(home), url=lane.url, tree_size=TREE_SIZE)

        def begun(pid: int) -> None:
            lane.pid = pid

        return await self._drivers.run(replace(order, **more), begun)

    async def fund(self, name: str) -> None:
        await self.node.ask("requestAirdrop", payer_key(name).address, 10**9)

    def posted(self, name: str) -> tuple[list[Transaction], list[Transaction]]:
        """What the fee payer's transactions that landed are, those that did it and those that failed."""
        mine = [
            (read_transaction(bytes(entry.transaction)), entry.outcome.err)
            for entry in self.net.chain.entries_of(payer_key(name).pubkey())
        ]
        mine = [(sent, err) for sent, err in mine if sent.fee_payer == payer_key(name).address]
        return [sent for sent, err in mine if err is None], [sent for sent, err in mine if err is not None]

    async def play(self, case: Case) -> Played:
        await self.fund(case.name)
        lane = self.node.lane(case.name, *case.wrongs, kill=case.kill)
        disturbed = await self.run(case.name, lane, kill_at_save=case.kill_at_save)
        undisturbed = await self.run(case.name, self.node.lane(f"{case.name}-after"))
        return Played(disturbed, lane, undisturbed, *self.posted(case.name))


@asynccontextmanager
async def _stage(folder: Path) -> AsyncIterator[Stage]:
    await (await open_store(folder / STORE)).close()  # making a store takes longer than copying one
    async with (
        running_localnet(slot_ms=SLOT_MS, finality_slots=FINALITY_SLOTS) as net,
        faulty_node(net.url) as node,
        Drivers.running() as drivers,
    ):
        net.advance(300)  # the node's stale blockhash is so old now
        yield Stage(net, node, drivers, folder)


async def _play_all(folder: Path) -> dict[str, Played | BaseException]:
    async with _stage(folder) as stage:
        room = asyncio.Semaphore(AT_ONCE)

        async def play(case: Case) -> Played:
            async with room:
                return await stage.play(case)

        played = await asyncio.gather(*map(play, CASES), return_exceptions=True)
    return {case.name: how for case, how in zip(CASES, played, strict=True)}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played | BaseException]:
    return asyncio.run(_play_all(tmp_path_factory.mktemp("homes")))


# looking at them


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_exactly_one_anchor(case: Case, matrix: dict[str, Played | BaseException]) -> None:
    played = matrix[case.name]
    if isinstance(played, BaseException):
        raise played

    if case.is_deadly:
        assert played.disturbed.exit_code == KILLED, "the point where it was to be killed was never reached"
    else:
        assert played.disturbed.outcome is not None
        assert played.disturbed.outcome.error == "", played.disturbed.outcome.message
        assert played.disturbed.outcome.anchored
        assert played.lane.went_wrong, "nothing went wrong"

    _check(played.undisturbed.outcome, case.name, played.landed, played.failed)


def _check(outcome: Outcome | None, name: str, landed: list[Transaction], failed: list[Transaction]) -> None:
    """One anchor on the chain, the same one in the book, nothing open, nothing unrecorded."""
    target = target_of(name, TREE_SIZE)
    assert outcome is not None
    assert outcome.error == "", outcome.message
    assert [sent.memos for sent in landed] == [(target.note,)], "not exactly one transaction with the note"
    assert failed == []
    (anchor,) = outcome.anchors
    assert anchor.state == "anchored"
    assert (anchor.tree_size, anchor.root, anchor.note) == (TREE_SIZE, target.root.hex(), target.note.decode())
    assert anchor.signature == outcome.signature == landed[0].signature
    final = [attempt for attempt in anchor.attempts if attempt.outcome == "final"]
    assert [attempt.transaction for attempt in final] == [landed[0].raw]
    assert {attempt.outcome for attempt in anchor.attempts} <= {"final", "expired"}


def test_the_matrix_is_as_large_as_it_should_be() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.is_deadly for case in CASES) >= 100


# several flushes


async def test_two_flushes_at_once(tmp_path: Path) -> None:
    """The store's lock lets in one process at a time; here the second waits for it."""
    async with _stage(tmp_path) as stage:
        await stage.fund("two")
        lanes = [stage.node.lane(f"two-{number}", Wrong("*", chain.drop_after)) for number in range(4)]
        ended = await asyncio.gather(*(stage.run("two", lane, wait_for_lock=True) for lane in lanes))
        outcomes = [end.outcome for end in ended if end.outcome is not None]
        assert [outcome.error for outcome in outcomes] == [""] * 4
        assert sorted(outcome.anchored for outcome in outcomes) == [False, False, False, True]
        _check(outcomes[0], "two", *stage.posted("two"))


async def test_a_flush_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Each one gets a little further, or not; in between the chain moves on, so that what was signed expires."""
    steps: list[tuple[str, Literal["before", "after"], int]] = [
        ("getLatestBlockhash", "after", 0),
        ("sendTransaction", "before", 0),
        ("getSignatureStatuses", "before", 200),
        ("sendTransaction", "before", 200),
        ("getSignaturesForAddress", "after", 0),
        ("sendTransaction", "after", 0),
        ("getSignatureStatuses", "after", 200),
        ("getTransaction", "after", 0),
    ]
    async with _stage(tmp_path) as stage:
        await stage.fund("often")
        for number, (method, when, blocks) in enumerate(steps):
            lane = stage.node.lane(f"often-{number}", kill=Kill(method, 1, when))
            end = await stage.run("often", lane)
            assert end.exit_code == KILLED, steps[number]
            if blocks:
                stage.net.advance(blocks)
        last = await stage.run("often", stage.node.lane("often-after"))
        landed, failed = stage.posted("often")
        _check(last.outcome, "often", landed, failed)
        assert last.outcome is not None
        assert [attempt.outcome for attempt in last.outcome.anchors[0].attempts] == ["expired", "expired", "final"]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_chain_that_moved_on_while_nobody_looked(tmp_path: Path, moment: Literal["before", "after"]) -> None:
    """Killed as it sends; the blockhash has expired when the next flush comes. What landed is found, else replaced."""
    async with _stage(tmp_path) as stage:
        await stage.fund("late")
        lane = stage.node.lane("late", kill=Kill("sendTransaction", 1, moment))
        end = await stage.run("late", lane)
        assert end.exit_code == KILLED
        stage.net.advance(1_000)
        assert len(stage.posted("late")[0]) == (moment == "after")
        last = await stage.run("late", stage.node.lane("late-after"))
        _check(last.outcome, "late", *stage.posted("late"))
        assert last.outcome is not None
        attempts = [attempt.outcome for attempt in last.outcome.anchors[0].attempts]
        assert attempts == (["final"] if moment == "after" else ["expired", "final"])


async def test_a_node_that_loses_everything(tmp_path: Path) -> None:
    """It says that it took the transaction, always, and never passes it on. Another node is used then."""
    async with _stage(tmp_path) as stage:
        await stage.fund("lost")
        lane = stage.node.lane("lost", Wrong("sendTransaction", chain.swallowed, 10_000))
        end = await stage.run("lost", lane, timeout_s=0.6)
        assert end.outcome is not None
        assert end.outcome.error == "AnchorPending"
        assert stage.posted("lost") == ([], [])
        last = await stage.run("lost", stage.node.lane("lost-after"))
        _check(last.outcome, "lost", *stage.posted("lost"))
