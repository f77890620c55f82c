"""Budgets: what some callers may use together in a span of time, held in advance and settled to the real figure.

``claim`` finds the budgets that a request draws on and refuses it where a hard one has not enough left for its worst
case; ``Claim.take`` holds that, ``post`` replaces the hold by what was really used, ``void`` gives it back. None of
them awaits, so no two requests can pass the same budget together: of N requests against a budget of M exactly M are
admitted. Requests are exact; tokens and money can overshoot by no more than each request's use beyond its hold. A
request costs as many steps as its caller has budgets. What is under way is held on a budget that is added meanwhile or
begins to count anew, as on the others.

Owns the counters. They are memory only, and are rebuilt from receipts: at the start, and when a budget is added or its
reach changes (``admin.budget_counts``). What was used is counted in the cell (``access.spans``) of the moment when it
was admitted. Where the clock had run ahead and is set back, the cells go back with it: what was counted in them counts
from now on, and no caller waits longer than the span lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from trustgate.access.budget_counter import (
    BudgetCounter,
    BudgetStanding,
    CountedBudget,
    UseCell,
    next_step_at,
    step_of,
)
from trustgate.access.budget_reach import Drawer, applies, covers, hides_figures, reach_of, subject_of
from trustgate.access.refusals import budget_refusal
from trustgate.access.spans import NEVER_US, Span
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.types import Budget, EndUser, Unit

#: End users of one tenant that one budget counts one by one; those that come later share one more.
END_USERS_MOST: Final = 100_000
#: For how long a request may have waited and still find what counted when it arrived, though the span is over.
_LATE_US: Final = 60 * MICROSECONDS_PER_SECOND


class BudgetEvent(NamedTuple):
    """A budget's use has come to a step of its ``notice_at_percent``, or a request was refused for it."""

    standing: BudgetStanding
    percent: int
    is_refused: bool
    at_us: int


class Claim(msgspec.Struct, eq=False):
    """What one request draws on budgets. Settled once, by ``post`` or ``void``; settling again does nothing."""

    _budgets: Budgets
    _drawer: Drawer
    #: Of requests, tokens and money.
    _needs: tuple[int, int, int]
    _at_us: int
    #: Of the budgets, when it was made.
    _generation: int
    #: Of work that goes on after its request has ended.
    _is_lasting: bool = False
    _parts: list[tuple[BudgetCounter, UseCell]] = []
    _is_held: bool = False

    def add(self, counter: BudgetCounter, cell: UseCell) -> None:
        self._parts.append((counter, cell))

    def draws(self) -> bool:
        """Returns whether it draws on a budget now. One that comes while it is held is drawn on then."""
        return bool(self._parts)

    def parts(self) -> list[tuple[BudgetCounter, int, int]]:
        """Returns each counter that it was held of, where the cell begins, microseconds UTC, and how much was held.

        Of cells that have ended nothing is held any more.
        """
        return [(of, cell.start, self._needs[of.of.unit]) for of, cell in self._parts]

    @property
    def at_us(self) -> int:
        """When it was made, microseconds UTC."""
        return self._at_us

    def take(self) -> None:
        """Hold the worst case, on the budgets found, and on those that come before it is settled."""
        self._is_held = True
        self._budgets.held.add(self)
        for counter, cell in self._parts:
            self._hold(counter, cell)

    def follow(self) -> None:
        """Hold it on budgets that have come, or count anew, since: no change of a budget lets more pass than it has.

        A request counts in the span of the moment when it was admitted, as its receipt does; what lasts, in this one.
        """
        # By budget, not by counter: its end user may have been forgotten since, and have a new one now.
        held = {counter.of for counter, _ in self._parts}
        for counter in self._budgets.counters_of(self._drawer, self._at_us):
            if counter.of not in held:
                at_us = self._budgets.clock() if self._is_lasting else self._at_us
                cell = counter.at(at_us, self._budgets.clock)
                self.add(counter, cell)
                self._hold(counter, cell)

    def _hold(self, counter: BudgetCounter, cell: UseCell) -> None:
        counter.hold(cell, self._needs[counter.of.unit])

    def post(self, tokens: int, cost_nano_usd: int) -> None:
        """Settle to what was really used."""
        if not self._parts and self._generation == self._budgets.generation:
            # As where there are no budgets: it has drawn on none, and still does.
            self._is_held = False
            self._budgets.held.discard(self)
        elif self._is_held:
            self._give_back()
            self.count((1, tokens, cost_nano_usd))

    def void(self) -> None:
        """Give the hold back whole."""
        if self._is_held:
            self._give_back()

    def _give_back(self) -> None:
        self._is_held = False
        self._budgets.held.discard(self)
        for counter, cell in self._parts:
            if cell.is_open:
                counter.hold(cell, -self._needs[counter.of.unit])

    def count(self, use: tuple[int, int, int]) -> None:
        """Count what was used, where nothing is held any more."""
        budgets = self._budgets
        parts = self._parts
        if self._generation != budgets.generation:
            # Budgets have come, gone or changed since: those that hold now count it, wherever it was held.
            known = {part[0].of: part for part in parts}
            parts = [
                known.get(counter.of) or (counter, counter.at(self._at_us, budgets.clock))
                for counter in budgets.counters_of(self._drawer, self._at_us)
            ]
        for counter, cell in parts:
            budgets.add_use(counter, cell, use)

    def rate(self, unit: Unit, at_us: int) -> tuple[int, int, float] | None:
        """Returns limit, remaining and seconds until it resets, of the tightest hard budget of this unit."""
        tightest: tuple[int, int, float] | None = None
        for counter, _ in self._parts:
            budget = counter.of.budget
            if budget.unit == unit and budget.hard and not hides_figures(budget):
                remaining = max(0, counter.amount - counter.used - counter.held)
                resets_us = counter.resets_us(at_us)
                if resets_us is not None and (tightest is None or remaining <= tightest[1]):
                    reset_s = max(0, resets_us - at_us) / MICROSECONDS_PER_SECOND
                    # Of those that have equally much left, the one that resets last (``access.quota.Rate``).
                    if tightest is None or remaining < tightest[1] or reset_s > tightest[2]:
                        tightest = counter.amount, remaining, reset_s
        return tightest


class Budgets:
    def __init__(
        self,
        clock: Callable[[], int] = now_us,
        on_event: Callable[[BudgetEvent], None] | None = None,
        end_users_most: int = END_USERS_MOST,
        *,
        forgets_early: bool = True,
    ) -> None:
        """
        Args:
            clock: The time now, microseconds UTC.
            on_event: Must be quick: it is called in mid-request.
            end_users_most: End users of one tenant that one budget counts one by one.
            forgets_early: End users of whom nothing counts any more are forgotten before their tenant has
                ``end_users_most``. Not where rows are read between finding a counter and counting in it.
        """
        self.clock = clock
        self.on_event = on_event
        #: What is held now, by requests and by work that goes on after its request has ended.
        self.held: set[Claim] = set()
        #: Changes whenever a request may draw on other budgets than before.
        self.generation = 0
        self._end_users_most = end_users_most
        self._forgets_early = forgets_early
        self._counted: dict[str, CountedBudget] = {}
        self._amounts: dict[tuple[str, str], int] = {}
        #: The plans of tenants that have come onto another one. What was begun before is theirs, and ends on these.
        self._plans: dict[str, str] = {}
        #: By tenant, key and plan. Cleared with every change.
        self._applying: dict[tuple[str, str, str], tuple[CountedBudget, ...]] = {}

    # the request path

    def claim(
        self,
        drawer: Drawer,
        tokens: int,
        cost_nano_usd: int,
        at_us: int,
        *,
        refuses: bool = True,
        is_lasting: bool = False,
    ) -> Claim:
        """Find the budgets that a request draws on; ``tokens`` and ``cost_nano_usd`` are its worst case.

        Raises ``RateLimited`` (429) where a hard one has not enough left, unless not ``refuses``: of work that was
        admitted before. Changes no counter.
        """
        needs = (1, tokens, cost_nano_usd)
        claim = Claim(self, drawer, needs, at_us, self.generation, is_lasting)
        if not self._counted:
            return claim
        for counter in self.counters_of(drawer, at_us):
            cell = counter.at(at_us, self.clock)
            need = needs[counter.of.unit]
            # A request that needs none of a unit is not refused for it.
            if refuses and need and counter.of.budget.hard and counter.used + counter.held + need > counter.amount:
                if need <= counter.amount:
                    self.give_notice(counter, is_refused=True)
                raise budget_refusal(counter, need, at_us)
            claim.add(counter, cell)
        return claim

    def claim_work(self, drawer: Drawer, tokens: int, cost_nano_usd: int, at_us: int) -> Claim:
        """Claim for work that was admitted before and goes on after its request has ended. It is refused nothing."""
        return self.claim(drawer, tokens, cost_nano_usd, at_us, refuses=False, is_lasting=True)

    def count(self, drawer: Drawer, tokens: int, cost_nano_usd: int, at_us: int) -> None:
        """Count one request and what it used, of which nothing was held."""
        claim = self.claim(drawer, 0, 0, at_us, refuses=False)
        claim.take()
        claim.post(tokens, cost_nano_usd)

    def add_use(self, counter: BudgetCounter, cell: UseCell, use: tuple[int, int, int]) -> None:
        """Count requests, tokens and nano-USD in a cell; nowhere where it has ended."""
        if cell.is_open:
            amount = use[counter.of.unit]
            cell.used += amount
            counter.used += amount
            if counter.used >= counter.next_notice:
                self.give_notice(counter)

    def counters_of(self, drawer: Drawer, at_us: int) -> list[BudgetCounter]:
        """Returns the counters that a request draws on, budget by budget."""
        found: list[BudgetCounter] = []
        if not self._counted:
            return found
        for counted in self._applying_to(drawer):
            budget = counted.budget
            if covers(budget, drawer.models):
                subject = subject_of(budget, drawer)
                if subject is not None:
                    found.append(self._counter(counted, subject, drawer.tenant_id, at_us))
        return found

    def _applying_to(self, drawer: Drawer) -> tuple[CountedBudget, ...]:
        who = drawer[:3]
        try:
            return self._applying[who]
        except KeyError:
            tenant_id, key_id, plan = who
            plan = self._plans.get(tenant_id, plan)
            found = tuple(each for each in self._counted.values() if applies(each.budget, tenant_id, key_id, plan))
            return self._applying.setdefault(who, found)

    def give_notice(self, counter: BudgetCounter, *, is_refused: bool = False) -> None:
        """Tell of the step that a counter has come to, once a step and period."""
        budget, at_us = counter.of.budget, self.clock()
        step = 100 if is_refused else step_of(budget, counter.amount, counter.used)
        if step <= counter.noticed or not budget.notice_at_percent:
            return
        counter.noticed, counter.noticed_us = step, at_us
        counter.next_notice = next_step_at(budget, counter.amount, step)
        if self.on_event is not None:
            self.on_event(BudgetEvent(counter.standing(at_us), step, is_refused, at_us))

    # changes

    def put(self, budget: Budget) -> bool:
        """Take a new or changed budget. Returns whether what it counts has to be rebuilt (``restore``)."""
        old = self._counted.get(budget.id)
        if budget.removed_us is not None:
            self._counted.pop(budget.id, None)
            self._changed()
            return False
        if old is not None and reach_of(old.budget) == reach_of(budget):
            old.budget = budget
            for subject, counter in old.counters.items():
                counter.change_amount(self._amounts.get((budget.id, subject), budget.amount))
            return False
        self._counted[budget.id] = CountedBudget(budget)
        self._changed()
        return True

    def move(self, tenant_id: str, plan: str) -> None:
        """Have a tenant draw on another plan's budgets: by what it has begun, too, as its receipts count there."""
        self._plans[tenant_id] = plan
        self._changed()

    def forget_some(self) -> bool:
        """Forget some of the end users of whom nothing counts any more, where no request of another one does it.

        Returns:
            Whether it is to be called again soon: it looks at a part of them at a time.
        """
        if not self._forgets_early:
            return False
        clock_us, is_left = self.clock(), False
        for counted in self._counted.values():
            is_left |= counted.forget_some(clock_us - _LATE_US, clock_us)
        return is_left

    def forget_counts(self, budget_id: str) -> None:
        """Begin counting a budget anew; to be rebuilt from receipts."""
        counted = self._counted.get(budget_id)
        if counted is not None:
            self._counted[budget_id] = CountedBudget(counted.budget)
            self._changed()

    def _changed(self) -> None:
        self.generation += 1
        self._applying.clear()
        for claim in self.held:
            claim.follow()

    def put_end_user(self, end_user: EndUser) -> None:
        """Take what was decided of an end user: its own amounts of budgets that each end user has."""
        for budget_id, counted in self._counted.items():
            amount = end_user.amounts.get(budget_id)
            if amount is None:
                self._amounts.pop((budget_id, end_user.id), None)
            else:
                self._amounts[budget_id, end_user.id] = amount
            counter = counted.counters.get(end_user.id)
            if counter is not None:
                counter.change_amount(counted.budget.amount if amount is None else amount)

    def restore(self, budget_id: str, drawer: Drawer, use: tuple[int, int, int], at_us: int) -> None:
        """Add what receipts of the cell of ``at_us`` say was used: requests, tokens, nano-USD. Gives no notice."""
        counted = self._counted.get(budget_id)
        if counted is None:
            return
        budget = counted.budget
        if not applies(budget, drawer.tenant_id, drawer.key_id, drawer.plan) or not covers(budget, drawer.models):
            return
        subject = subject_of(budget, drawer)
        if subject is not None:
            counter = self._counter(counted, subject, drawer.tenant_id, at_us)
            span = counted.span
            if not span.is_rolling and counter.cells and counter.cells[-1].start > span.start(at_us):
                return  # the calendar span has ended since
            cell = counter.at(at_us, lambda: NEVER_US)
            cell.used += use[counted.unit]
            counter.used += use[counted.unit]

    def await_cell(self, budget_id: str, drawer: Drawer, use: tuple[int, int, int], start_us: int) -> None:
        """Have the cell of a calendar span that begins at ``start_us`` begin with the use in it by receipts.

        The clock is behind: it was in that cell before the start, and may jump to it.
        """
        counted = self._counted.get(budget_id)
        if counted is None:
            return
        budget = counted.budget
        if applies(budget, drawer.tenant_id, drawer.key_id, drawer.plan) and covers(budget, drawer.models):
            subject = subject_of(budget, drawer)
            if subject is not None:
                counter = self._counter(counted, subject, drawer.tenant_id, start_us)
                used = 0 if counter.awaited is None else counter.awaited[1]
                counter.awaited = start_us, used + use[counted.unit]

    # what people look up

    def budgets(self) -> list[Budget]:
        return [counted.budget for counted in self._counted.values()]

    def find(self, budget_id: str) -> Budget | None:
        counted = self._counted.get(budget_id)
        return None if counted is None else counted.budget

    def counter_of(self, budget_id: str, subject: str, tenant_id: str, at_us: int) -> BudgetCounter | None:
        """Returns a subject's counter of a budget; None where there is no such budget."""
        counted = self._counted.get(budget_id)
        return None if counted is None else self._counter(counted, subject, tenant_id, at_us)

    def counters(self) -> list[BudgetCounter]:
        """Returns all that count anything."""
        return [counter for counted in self._counted.values() for counter in counted.counters.values()]

    def span_of(self, budget_id: str) -> Span:
        return self._counted[budget_id].span

    def standings(self, at_us: int, budget_ids: Iterable[str] | None = None) -> list[BudgetStanding]:
        """Returns where budgets stand, each once for every subject that has used it.

        One that is unused yet is there once, unless its users have one each.
        """
        found = []
        for budget_id in self._counted if budget_ids is None else budget_ids:
            counted = self._counted.get(budget_id)
            if counted is None:
                continue
            counters: Sequence[BudgetCounter] = list(counted.counters.values())
            if not counters:
                counters = [BudgetCounter(counted, "", "", counted.budget.amount)]
            found += [counter.standing(at_us) for counter in counters]
        return found

    def standing_of(self, drawer: Drawer, at_us: int) -> list[BudgetStanding]:
        """Returns where the budgets stand that a tenant's key draws on, whatever the models."""
        found = []
        for counted in self._counted.values():
            budget = counted.budget
            if applies(budget, drawer.tenant_id, drawer.key_id, drawer.plan):
                subject = subject_of(budget, drawer)
                if subject is not None:
                    counter = counted.counters.get(subject)
                    if counter is None:
                        amount = self._amounts.get((budget.id, subject), budget.amount)
                        counter = BudgetCounter(counted, subject, drawer.tenant_id, amount)
                    found.append(counter.standing(at_us))
        return found

    def standings_of(self, tenant_id: str, key_ids: Iterable[str], plan: str, at_us: int) -> list[BudgetStanding]:
        """Returns where the budgets stand that any of a tenant's keys draws on: its own, and those it shares."""
        keys, found = list(key_ids), []
        for counted in self._counted.values():
            budget = counted.budget
            if applies(budget, tenant_id, "", plan) or any(key_id in budget.keys for key_id in keys):
                counters = [each for each in counted.counters.values() if each.tenant_id in ("", tenant_id)]
                if not counters and budget.each in ("all", "tenant"):
                    subject = tenant_id if budget.each == "tenant" else ""
                    counters = [BudgetCounter(counted, subject, tenant_id, budget.amount)]
                found += [counter.standing(at_us) for counter in counters]
        return found

    # inside

    def _counter(self, counted: CountedBudget, subject: str, tenant_id: str, at_us: int) -> BudgetCounter:
        counter = counted.counters.get(subject)
        if counter is not None:
            return counter
        budget = counted.budget
        if budget.each != "end_user":
            owner = "" if budget.each == "all" else tenant_id
            counter = counted.counters[subject] = BudgetCounter(counted, subject, owner, budget.amount)
            return counter
        is_full = counted.end_users.get(tenant_id, 0) >= self._end_users_most
        if is_full or self._forgets_early:
            # What is restored, or awaited, is dated otherwise than the requests that come now.
            clock_us = self.clock()
            counted.forget_some(min(at_us, clock_us) - _LATE_US, clock_us)
            is_full = counted.end_users.get(tenant_id, 0) >= self._end_users_most
        if is_full:
            subject = f"{tenant_id}/others"
            counter = counted.counters.get(subject)
            if counter is not None:
                return counter
        amount = self._amounts.get((budget.id, subject), budget.amount)
        counter = BudgetCounter(counted, subject, tenant_id, amount)
        counted.add_end_user(counter)
        return counter
