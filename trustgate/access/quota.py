"""Quotas: how much a tenant and a key may use, held in advance and settled to the real figure.

A key's use is counted under its ``account_id``: a key that was rotated goes on where the old one stood.

``enter`` takes one of the parallel requests that a tenant and a key may have, as soon as the key is known: before the
body is read, so that slow bodies count. ``reserve`` takes a request's worst case out of every window at once or
refuses it, ``post`` replaces the hold by what was really used, ``void`` gives it back. All of them run on one event
loop without awaiting, so no two requests can pass the same limit together: of N requests against a limit of M exactly
M are admitted. Requests are exact; tokens and money can overshoot by no more than one request's use beyond its hold.

Owns the counters. They are memory only: at start they are rebuilt from the receipts of the running windows.
Windows are calendar windows in UTC; what began in one window is settled in that one, or nowhere once it is over. Where
the clock had run ahead and is set back, the windows go back with it, and what was counted in the later ones counts in
these: no caller waits longer than a window lasts, and none gets a window for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from trustgate.access.budgets import Claim
from trustgate.access.quota_counter import COST, REQUESTS, TOKENS, CounterState, QuotaCounter, QuotaLimit
from trustgate.access.refusals import quota_refusal, too_many_at_once
from trustgate.access.windows import Windows
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.types import UNITS, WINDOWS, ApiKey, Limits, Plan, Tenant


class Ask(msgspec.Struct, frozen=True, gc=False):
    """The worst case of one request: what is held until the real figure is known."""

    tokens: int
    cost_nano_usd: int


class Rate(msgspec.Struct, frozen=True, gc=False):
    """The state of the tightest limit on one unit, for the ``x-ratelimit-*`` headers.

    Of limits that have equally much left it is the one that resets last: a client that waits for it has waited enough.
    """

    limit: int
    remaining: int
    reset_s: float


class ParallelSlot:
    """One of the parallel requests of a tenant and a key. Given back once, by ``release``."""

    __slots__ = ("_counters", "subjects")

    def __init__(self, counters: tuple[QuotaCounter, ...]) -> None:
        #: The counters of its tenant and of its key; none of a slot that counts nowhere.
        self.subjects = counters
        self._counters = counters
        for counter in counters:
            counter.parallel += 1

    def release(self) -> None:
        counters = self._counters
        if counters:
            self._counters = ()
            for counter in counters:
                counter.parallel -= 1


class Hold(msgspec.Struct, eq=False):
    """A reservation. Settled once, by ``post`` or ``void``; settling again does nothing."""

    ask: Ask
    counters: tuple[QuotaCounter, ...]
    starts: tuple[int, int, int]
    #: Given back when the hold is settled; None: the work is not a request in flight.
    slot: ParallelSlot | None
    open: bool = True
    #: Of work that goes on after its request has ended: no request in flight, and none to be counted.
    is_lasting: bool = False
    rates: tuple[Rate | None, Rate | None] = (None, None)
    #: What it draws on budgets, settled with it; None: there are none.
    claim: Claim | None = None


class QuotaUsage(NamedTuple):
    """Copies of all counters: of each subject its requests in flight and, for each window, requests, tokens and cost.

    What is in flight is part of the use, with its hold; what is held for work that outlives its request is not.
    """

    windows: Windows
    counters: dict[str, tuple[int, tuple[tuple[int, int, int], ...]]]


class LimitReached(NamedTuple):
    """A limit that had no room for a request, and would have had at the beginning of its window."""

    tenant_id: str
    #: "": it is the plan's limit.
    key_id: str
    #: ``day`` or ``month``: one for a minute is over before its notice is read.
    window: str
    unit: str
    most: int
    at_us: int
    #: The window's end.
    until_us: int


class Quota:
    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        """``clock`` returns the time now, which a request's own time may lag behind; microseconds UTC."""
        self._clock = clock
        #: The counters hold what a clock that ran ahead made of them; receipts do not say the same.
        self.was_set_back = False
        #: Is called once for each limit and window that refuses a request.
        self.on_limit: Callable[[LimitReached], None] | None = None
        #: Those it was called for, by subject, window and unit.
        self._reached: set[tuple[str, int, int]] = set()
        self._counters: dict[str, QuotaCounter] = {}
        #: By window and its beginning: what subjects have used in one that has not begun here yet.
        self._awaited: dict[tuple[int, int], dict[str, list[int]]] = {}
        self._windows = Windows((0, 0, 0), (0, 0, 0))

    # the request path

    def enter(self, tenant: Tenant, plan: Plan, key: ApiKey) -> ParallelSlot:
        """Take one of the parallel requests of a tenant and a key.

        Raises ``RateLimited`` (429) with ``Retry-After`` and changes nothing when either has as many as it may.
        """
        counters = self._counters
        by_tenant = counters.get(tenant.id) or self._counter(tenant.id)
        by_key = counters.get(key.account_id) or self._counter(key.account_id)
        most = plan.limits.parallel_requests
        if most is not None and by_tenant.parallel >= most:
            raise too_many_at_once(most, f"plan {plan.name!r}")
        most = key.limits.parallel_requests
        if most is not None and by_key.parallel >= most:
            raise too_many_at_once(most, "this API key")
        return ParallelSlot((by_tenant, by_key))

    def reserve(
        self,
        tenant: Tenant,
        plan: Plan,
        key: ApiKey,
        ask: Ask,
        at_us: int,
        slot: ParallelSlot | None = None,
        claim: Claim | None = None,
    ) -> Hold:
        """Take the request and its worst case out of every window of its tenant and its key.

        ``claim``: what it draws on budgets besides; taken and settled with the hold. ``slot``: what ``enter`` gave for
        this request; the hold gives it back when it is settled. None: one is taken.
        Raises ``RateLimited`` (429) with ``Retry-After`` and changes nothing when any limit would be passed.
        """
        windows = self._windows
        if not windows.starts[0] <= at_us < windows.ends[0]:
            if at_us >= windows.ends[0]:
                self._turn(at_us)
            else:
                self._turn_back()
            windows = self._windows
        subjects = slot.subjects if slot is not None else ()
        if not subjects:
            subjects = self._counter(tenant.id), self._counter(key.account_id)
        by_tenant, by_key = subjects
        tokens, cost_nano_usd = ask.tokens, ask.cost_nano_usd
        of_tenant = by_tenant.active if by_tenant.limits is plan.limits else self._active(by_tenant, plan.limits)
        of_key = by_key.active if by_key.limits is key.limits else self._active(by_key, key.limits)
        if of_tenant or of_key:
            demand = (1, tokens, cost_nano_usd)
            self._check(by_tenant, of_tenant, demand, f"plan {plan.name!r}", (tenant.id, ""), at_us)
            self._check(by_key, of_key, demand, "this API key", (tenant.id, key.id), at_us)
        if slot is None:
            slot = self.enter(tenant, plan, key)
        hold = Hold(ask, subjects, windows.starts, slot, claim=claim)
        for counter in subjects:
            counter.requests += 1
            counter.tokens += tokens
            counter.cost_nano_usd += cost_nano_usd
        if claim is not None:
            claim.take()
            if not claim.draws():
                claim = None
        if claim is None and not of_tenant and not of_key:
            return hold
        limited = ((by_tenant, of_tenant), (by_key, of_key))
        requests, of_tokens = self._rate(limited, REQUESTS, at_us), self._rate(limited, TOKENS, at_us)
        if claim is not None:
            requests = _tighter(requests, claim.rate("requests", at_us))
            of_tokens = _tighter(of_tokens, claim.rate("tokens", at_us))
        hold.rates = (requests, of_tokens)
        return hold

    def _check(
        self,
        counter: QuotaCounter,
        limits: Sequence[QuotaLimit],
        demand: tuple[int, int, int],
        owner: str,
        subject: tuple[str, str],
        at_us: int,
    ) -> None:
        """Raise ``RateLimited`` where a limit has no room.

        ``subject``: the ids of the tenant and of the key that the limits are of ("": they are the tenant's).

        A request that needs none of a unit (a free model, under a limit on money) is not refused for it. One larger
        than the whole limit may run only where nothing at all limits it: it is refused too.
        """
        for limit in limits:
            used, need = counter.used[limit.window][limit.unit], demand[limit.unit]
            if need and used + need > limit.most:
                if self.on_limit is not None and limit.window and need <= limit.most:
                    self._tell(limit, *subject, at_us)
                retry_after_s = max(1, -(-(self._windows.ends[limit.window] - at_us) // MICROSECONDS_PER_SECOND))
                raise quota_refusal(limit, used, need, owner, retry_after_s)

    def hold_work(self, subject_ids: Sequence[str], ask: Ask, at_us: int, claim: Claim | None = None) -> Hold:
        """Hold what work may still use that goes on after its request has ended.

        It was admitted before, so no limit refuses it. ``void`` gives it back; ``charge`` counts what was used.
        ``subject_ids``: those of its tenant and its key.
        """
        if at_us >= self._windows.ends[0]:
            self._turn(at_us)
        hold = self.held_work(subject_ids, ask, self._windows.starts)
        if claim is not None:
            claim.take()
            hold.claim = claim
        for counter in hold.counters:
            for figures in (*counter.used, *counter.lasting):
                figures[TOKENS] += ask.tokens
                figures[COST] += ask.cost_nano_usd
        return hold

    def held_work(self, subject_ids: Sequence[str], ask: Ask, starts: tuple[int, int, int]) -> Hold:
        """Returns the hold that ``hold_work`` made, in any process, when the windows began at ``starts``."""
        return Hold(ask, self.counters_of(subject_ids), starts, None, is_lasting=True)

    def counters_of(self, subject_ids: Iterable[str]) -> tuple[QuotaCounter, ...]:
        """Returns the counters of these tenants and keys, for ``Hold.counters``."""
        return tuple(self._counter(each) for each in subject_ids)

    def charge(self, subject_ids: Sequence[str], tokens: int, cost_nano_usd: int, at_us: int) -> None:
        """Count one request and what it used, of which nothing was held: the gateway's own, on a tenant's account.

        ``subject_ids``: those of the tenant and the key.
        """
        if at_us >= self._windows.ends[0]:
            self._turn(at_us)
        for counter in self.counters_of(subject_ids):
            counter.add(1, tokens, cost_nano_usd)

    def post(self, hold: Hold, tokens: int, cost_nano_usd: int) -> None:
        """Settle a hold to what was really used."""
        claim, ask = hold.claim, hold.ask
        if claim is not None and hold.open:
            claim.post(tokens, cost_nano_usd)
        self._settle(hold, 0, tokens - ask.tokens, cost_nano_usd - ask.cost_nano_usd)

    def void(self, hold: Hold) -> None:
        """Give a hold back whole: the request was not served."""
        if hold.claim is not None:
            hold.claim.void()
        self._settle(hold, 0 if hold.is_lasting else -1, -hold.ask.tokens, -hold.ask.cost_nano_usd)

    def _settle(self, hold: Hold, requests: int, tokens: int, cost_nano_usd: int) -> None:
        if not hold.open:
            return
        hold.open = False
        slot = hold.slot
        if slot is not None:
            slot.release()
        if hold.starts is self._windows.starts and not hold.is_lasting:
            # As nearly always: no window has ended since.
            for counter in hold.counters:
                counter.requests += requests
                counter.tokens += tokens
                counter.cost_nano_usd += cost_nano_usd
            return
        for counter in hold.counters:
            for window, start in enumerate(hold.starts):
                if start == self._windows.starts[window]:
                    for figures in (counter.used[window], counter.lasting[window])[: 1 + hold.is_lasting]:
                        figures[REQUESTS] += requests
                        figures[TOKENS] += tokens
                        figures[COST] += cost_nano_usd

    # start

    def restore(self, window: int, subject_id: str, requests: int, tokens: int, cost_nano_usd: int) -> None:
        """Add what the receipts of the running ``window`` (0 minute, 1 day, 2 month) say a subject used."""
        used = self._counter(subject_id).used[window]
        used[REQUESTS] += requests
        used[TOKENS] += tokens
        used[COST] += cost_nano_usd

    def await_window(self, window: int, start_us: int, subject_id: str, use: tuple[int, int, int]) -> None:
        """Have a later ``window`` that begins at ``start_us`` begin with the use in it by receipts.

        The clock is behind: it was in that window before the start, and may jump to it.
        """
        awaited = self._awaited.setdefault((window, start_us), {})
        before = awaited.get(subject_id, [0, 0, 0])
        awaited[subject_id] = [sum(pair) for pair in zip(before, use, strict=True)]

    def forget(self, subject_id: str) -> None:
        """Count a subject's use anew, from nothing."""
        self._counters.pop(subject_id, None)

    def begin(self, at_us: int) -> Windows:
        """Start counting in the windows that contain ``at_us``."""
        self._turn(at_us)
        return self._windows

    # several processes

    @property
    def starts(self) -> tuple[int, int, int]:
        """When the running windows began."""
        return self._windows.starts

    def subjects(self) -> list[str]:
        """Returns the tenants and keys that anything is counted of."""
        return list(self._counters)

    def has_limits(self, limits: Limits, subject_id: str) -> bool:
        """Returns whether any limit of the windows is set for a subject."""
        return bool(self._active(self._counter(subject_id), limits))

    def take_in(self, subject_id: str, state: CounterState, at_us: int) -> list[bool]:
        """Put what others counted in place of what is counted here, in the windows that contain ``at_us``.

        Returns: for each window whether the state is of the running one; of those that are over, nothing counts.
        """
        latest_us = max(at_us, state.starts[0])
        if latest_us >= self._windows.ends[0]:
            self._turn(latest_us)
        runs = [start >= now for start, now in zip(state.starts, self._windows.starts, strict=True)]
        counter = self._counter(subject_id)
        counter.used = [figures if live else [0, 0, 0] for figures, live in zip(state.used, runs, strict=True)]
        counter.lasting = [figures if live else [0, 0, 0] for figures, live in zip(state.lasting, runs, strict=True)]
        counter.parallel = state.parallel
        return runs

    def state(self, subject_id: str) -> CounterState:
        """Returns what a subject uses now, holds included."""
        counter = self._counter(subject_id)
        return CounterState(list(self._windows.starts), counter.used, counter.lasting, counter.parallel)

    # what people look up

    def parallel(self, subject_id: str) -> int:
        counter = self._counters.get(subject_id)
        return 0 if counter is None else counter.parallel

    def used(self, subject_id: str, at_us: int) -> dict[str, dict[str, int]]:
        """Returns what a tenant or key has used in each running window, holds included: {window: {unit: n}}."""
        if at_us >= self._windows.ends[0]:
            self._turn(at_us)
        counter = self._counters.get(subject_id) or QuotaCounter()
        return {window: dict(zip(UNITS, used, strict=True)) for window, used in zip(WINDOWS, counter.used, strict=True)}

    def current_usage(self, at_us: int) -> QuotaUsage:
        """Returns everything at once, for the audit."""
        if at_us >= self._windows.ends[0]:
            self._turn(at_us)
        return QuotaUsage(
            self._windows,
            {
                subject: (counter.parallel, _without(counter.used, counter.lasting))
                for subject, counter in self._counters.items()
            },
        )

    # inside

    def _counter(self, subject_id: str) -> QuotaCounter:
        try:
            return self._counters[subject_id]
        except KeyError:
            return self._counters.setdefault(subject_id, QuotaCounter())

    def _turn(self, at_us: int) -> None:
        """Begin the windows of ``at_us``; a clock that was set back keeps the later windows."""
        windows = Windows.at(at_us)
        for index, (old, new) in enumerate(zip(self._windows.starts, windows.starts, strict=True)):
            if new > old:
                self._reached = {which for which in self._reached if which[1] != index}
                for counter in self._counters.values():
                    counter.used[index] = [0, 0, 0]
                    counter.lasting[index] = [0, 0, 0]
                for subject, used in self._awaited.pop((index, new), {}).items():
                    self._counter(subject).used[index] = used
        if windows.starts[0] > self._windows.starts[0]:
            self._windows = windows

    def _turn_back(self) -> None:
        """Where the clock itself is before the running windows, and not a request that has waited: go back to it."""
        windows = Windows.at(self._clock())
        if windows.starts[0] < self._windows.starts[0]:
            self._windows = windows
            self.was_set_back = True

    def _active(self, counter: QuotaCounter, limits: Limits) -> tuple[QuotaLimit, ...]:
        """Returns those of a subject's limits that are set."""
        if counter.limits is not limits:
            counter.limits = limits
            counter.active = tuple(
                QuotaLimit(window, unit, most)
                for window, window_name in enumerate(WINDOWS)
                for unit, unit_name in enumerate(UNITS)
                if (most := getattr(limits, f"{unit_name}_per_{window_name}")) is not None
            )
        return counter.active

    def _rate(
        self, subjects: Sequence[tuple[QuotaCounter, Sequence[QuotaLimit]]], unit: int, at_us: int
    ) -> Rate | None:
        tightest = None
        for counter, active in subjects:
            for limit in active:
                if limit.unit == unit:
                    remaining = max(0, limit.most - counter.used[limit.window][unit])
                    if tightest is None or remaining <= tightest.remaining:
                        reset_s = (self._windows.ends[limit.window] - at_us) / MICROSECONDS_PER_SECOND
                        if tightest is None or remaining < tightest.remaining or reset_s > tightest.reset_s:
                            tightest = Rate(limit.most, remaining, reset_s)
        return tightest

    def _tell(self, limit: QuotaLimit, tenant_id: str, key_id: str, at_us: int) -> None:
        which = (key_id or tenant_id, limit.window, limit.unit)
        if which in self._reached or self.on_limit is None:
            return
        self._reached.add(which)
        until_us = self._windows.ends[limit.window]
        window, unit = WINDOWS[limit.window], UNITS[limit.unit]
        self.on_limit(LimitReached(tenant_id, key_id, window, unit, limit.most, at_us, until_us))


def _tighter(rate: Rate | None, of_budget: tuple[int, int, float] | None) -> Rate | None:
    if of_budget is None:
        return rate
    _, remaining, reset_s = of_budget
    if rate is not None and (rate.remaining, -rate.reset_s) <= (remaining, -reset_s):
        return rate
    return Rate(*of_budget)


def _without(used: list[list[int]], lasting: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    pairs = zip(used, lasting, strict=True)
    return tuple((of[0] - less[0], of[1] - less[1], of[2] - less[2]) for of, less in pairs)
