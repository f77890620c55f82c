"""What waits at the door, whatever comes and in whatever order: on a loop and a clock of the tests' own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.http import refusals
from trustgate.http.refusals import Refusals, Shed, Wait

#: What a turn of the loop, and refusing one request, take, seconds.
TURN_S, REFUSAL_S, COSTLY_REFUSAL_S = 0.001, 0.000_025, 0.001
#: How often refusals are looked at, and the most that they are late where all of a run are due at once.
LATE_S = 0.02


class Loop:
    """Turns of ``TURN_S`` each, as far as the test lets the time pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: list[Handle] = []
        self._later: list[tuple[float, int, Handle]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., object], *arguments: object) -> Handle:
        handle = Handle(call, arguments)
        self._soon.append(handle)
        return handle

    def call_later(self, after_s: float, call: Callable[..., object], *arguments: object) -> Handle:
        handle = Handle(call, arguments)
        heapq.heappush(self._later, (self.now + after_s, next(self._numbers), handle))
        return handle

    def turn(self) -> None:
        self.now += TURN_S
        due, self._soon = self._soon, []
        while self._later and self._later[0][0] <= self.now:
            due.append(heapq.heappop(self._later)[2])
        for handle in due:
            handle.run()

    @property
    def is_idle(self) -> bool:
        """No turn but those of timers is to come."""
        return not self._soon


@dataclass
class Handle:
    call: Callable[..., object]
    arguments: tuple[object, ...]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def run(self) -> None:
        if not self.is_cancelled:
            self.call(*self.arguments)


@dataclass(eq=False)
class Request:
    tenant_id: str
    at_once: bool
    since: float
    door: Door
    wait: Wait | None = None
    #: "": it waits.
    outcome: str = ""
    at: float = 0.0

    @property
    def due(self) -> float:
        return self.since + (refusals.HOLD_AT_ONCE_S if self.at_once else refusals.HOLD_S)

    @property
    def latest(self) -> float:
        return self.since + (refusals.MOST_AT_ONCE_S if self.at_once else refusals.MOST_S)

    def look_again(self) -> None:
        assert self.wait is not None and not self.outcome, "it was looked at a second time"
        self.wait.leave()
        self.at = self.door.loop.now
        if self.door.room.get(self.tenant_id, 0) > 0:
            self.door.room[self.tenant_id] -= 1
            self.outcome = "let through"
            self.door.let_through.append(self)
        else:
            self.outcome = "refused"
            self.door.spent_s += self.door.refusal_s
            self.door.refused.append(self)


@dataclass
class Door:
    """Tenants with room as the test gives it; stands in for what judges heads."""

    #: What each refusal takes, seconds.
    refusal_s: float = REFUSAL_S
    loop: Loop = field(default_factory=Loop)
    room: dict[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    let_through: list[Request] = field(default_factory=list)
    refused: list[Request] = field(default_factory=list)
    spent_s: float = 0.0
    calls: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: list[Request] = []
        loop = cast("Any", self.loop)
        self.refusals = Refusals(loop, cast("Shed", self), lambda: self.loop.now + self.spent_s)

    def has_room(self, tenant_id: str) -> bool:
        return self.room.get(tenant_id, 0) > 0

    def on_room(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def off_room(self, call: Callable[[], None]) -> None:
        self.calls.remove(call)

    def come(self, tenant_id: str, *, at_once: bool = False) -> Request:
        """A request comes: as a connection has it, it is let through at once where it may be."""
        request = Request(tenant_id, at_once, self.loop.now, self)
        self.requests.append(request)
        self._open.append(request)
        if tenant_id not in self.refusals.queues and self.has_room(tenant_id):
            self.room[tenant_id] -= 1
            request.outcome, request.at = "let through", self.loop.now
        else:
            request.wait = self.refusals.wait(request, tenant_id, 100, at_once=at_once)
        return request

    def give_room(self, tenant_id: str, amount: int = 1) -> None:
        self.room[tenant_id] = self.room.get(tenant_id, 0) + amount
        for call in self.calls:
            call()

    def waiting(self) -> list[Request]:
        self._open = [request for request in self._open if not request.outcome]
        return self._open

    def pass_turns(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.turn()
            if self.loop.is_idle:
                assert not any(self.has_room(request.tenant_id) for request in self.waiting()), "room is unused"

    def settle(self) -> None:
        """Let all that waits come to its end."""
        for _ in range(int((refusals.MOST_AT_ONCE_S + 5 * LATE_S) / TURN_S)):
            if not self.waiting():
                return
            self.pass_turns(1)


Tenant = st.sampled_from("abc")
Step = st.one_of(
    st.tuples(st.just("come"), Tenant, st.integers(1, 90), st.booleans()),
    st.tuples(st.just("room"), Tenant, st.integers(1, 80), st.just(False)),
    st.tuples(st.just("turns"), Tenant, st.integers(1, 60), st.just(False)),
    st.tuples(st.just("leave"), Tenant, st.integers(0, 200), st.just(False)),
)


@given(st.lists(Step, max_size=40), st.sampled_from((REFUSAL_S, COSTLY_REFUSAL_S)))
def test_none_is_lost_each_ends_in_time_and_no_room_is_unused_while_one_waits(
    steps: list[tuple[str, str, int, bool]], refusal_s: float
) -> None:
    door = Door(refusal_s)
    for name, tenant_id, number, at_once in steps:
        if name == "come":
            for _ in range(number):
                door.come(tenant_id, at_once=at_once)
        elif name == "room":
            door.give_room(tenant_id, number)
        elif name == "turns":
            door.pass_turns(number)
        elif waiting := door.waiting():
            request = waiting[number % len(waiting)]
            assert request.wait is not None, "it waits"
            request.wait.leave()
            request.outcome, request.at = "left", door.loop.now
    door.settle()
    assert not door.waiting() and not door.refusals.are_waiting
    assert not door.calls, "nothing waits for room"
    late_s = LATE_S + TURN_S * (len(door.requests) // (refusals.MAX_REFUSED_PER_TURN // 2))
    for request in door.refused:
        assert request.due - TURN_S <= request.at <= request.latest + late_s
    for tenant_id in "abc":
        let_through = [request for request in door.let_through if request.tenant_id == tenant_id]
        for before, after in itertools.pairwise(let_through):
            assert before.latest <= after.latest or after.since >= before.at - 1e-9, "one went before that is due later"
    assert door.refusals._held_bytes == 0


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=5, max_size=15))
def test_a_tenant_with_room_waits_for_no_flood_of_another(bursts: list[tuple[int, int]]) -> None:
    door = Door()
    for number, turns in bursts:
        for _ in range(number):
            door.come("flood", at_once=number % 2 == 0)
        door.give_room("idle")
        assert door.come("idle").at == door.loop.now, "its first request waited"
        waits = door.come("idle")
        door.give_room("idle")
        door.pass_turns(1)
        assert waits.outcome == "let through"
        door.pass_turns(turns)


@given(st.integers(100, 400), st.integers(510, 990))
def test_beyond_their_share_of_the_time_refusals_wait_for_as_long_as_they_may(connections: int, turns: int) -> None:
    """Clients in a tight loop: each connection's request comes again as soon as it is refused."""
    door = Door(COSTLY_REFUSAL_S)
    for _ in range(connections):
        door.come("flood", at_once=True)
    for _ in range(turns):
        seen = len(door.refused)
        door.loop.turn()
        for request in door.refused[seen:]:
            door.come(request.tenant_id, at_once=True)
    share_s = refusals.TIME_SHARE * (turns * TURN_S + door.spent_s)
    assert 0 < door.spent_s <= share_s + 0.002 + COSTLY_REFUSAL_S


@given(st.integers(900, 999))
def test_room_is_for_the_one_that_would_be_refused_first(turns: int) -> None:
    door = Door()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refusals, "HOLD_AT_ONCE_S", refusals.MOST_AT_ONCE_S)
        again = door.come("a", at_once=True)
        door.pass_turns(turns)
        polite = door.come("a")
        door.give_room("a")
        door.pass_turns(1)
    assert door.let_through == [again if again.latest < polite.latest else polite]


def test_room_for_a_hundred_is_given_to_a_hundred() -> None:
    door = Door()
    for _ in range(120):
        door.come("a")
    door.give_room("a", 100)
    door.pass_turns(3)
    assert len(door.let_through) == 100


def test_tenants_take_turns_for_room_that_any_of_them_may_have() -> None:
    door = Door()
    for _ in range(50):
        door.come("a")
    for tenant_id in "bc":
        door.come(tenant_id)
    door.room.update(dict.fromkeys("abc", 1))
    for call in door.calls:
        call()
    door.pass_turns(1)
    assert [request.tenant_id for request in door.let_through] == ["a", "b", "c"]


def test_what_comes_of_one_that_is_refused_in_the_next_turn_is_not_counted_as_held() -> None:
    door = Door()
    request = Request("a", at_once=False, since=door.loop.now, door=door)
    request.wait = door.refusals.wait(request, None, 100)
    door.refusals.grow(request.wait, 900)
    door.pass_turns(1)
    assert (request.outcome, door.refusals._held_bytes) == ("refused", 0)
