"""The counter of one budget for one subject: cells of use and holds, their sums, and the steps that were told of.

Owns how use is laid out in cells, when it ends to count, and when notice of a step is due. A budget's counters are
found, filled and settled by ``access.budgets``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from trustgate.access.spans import NEVER_US, Span, read_span
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.types import UNITS, Budget, Unit

#: How often the counters of end users are looked through for those that count nothing any more.
_SWEEP_EVERY_US: Final = 60 * MICROSECONDS_PER_SECOND
#: How many of them at a time: 0.4 ms where all of them are forgotten.
_SWEEP_PIECE: Final = 256


class BudgetStanding(msgspec.Struct, frozen=True, kw_only=True):
    """Where a budget stands. Amounts are in its unit; nano-USD of money."""

    budget: str
    name: str
    unit: Unit
    amount: int
    span: str
    hard: bool
    #: Whose it is, where each tenant, key or end user has one of its own: its id. "" for one that is shared.
    subject: str
    used: int
    #: Of requests and work under way: the worst case.
    held: int
    left: int
    #: From when on use counts, and when it resets (a rolling one: when the oldest use ends to count); None: never.
    since_us: int
    resets_us: int | None
    #: How long a rolling span is; 0 for another.
    rolling_us: int = 0


class CountState(msgspec.Struct, array_like=True):
    """A subject's use of a budget, to be kept where several processes count it."""

    #: Where each cell begins, microseconds UTC, and what of it is used and held; the oldest first.
    cells: list[tuple[int, int, int]]
    noticed: int = 0
    noticed_us: int = 0


class UseCell:
    __slots__ = ("end", "held", "is_open", "start", "until", "used")

    def __init__(self, span: Span, start: int) -> None:
        self.place(span, start)
        self.used = 0
        self.held = 0
        #: False once it has ended: what is settled later counts nowhere.
        self.is_open = True

    def place(self, span: Span, start: int) -> None:
        """It takes what is used from ``start`` on and before ``until``, which counts until ``end``."""
        self.start, self.until, self.end = _bounds(span, start)


@lru_cache(maxsize=256)
def _bounds(span: Span, start: int) -> tuple[int, int, int]:
    """Returns the bounds of the cell that begins at ``start``. Cached: hundreds of thousands of subjects share them."""
    end = span.end(start)
    return start, start + span.cell_us if span.is_rolling else end, end


class BudgetCounter:
    """The use of one budget by one subject."""

    __slots__ = (
        "amount",
        "awaited",
        "cells",
        "held",
        "next_notice",
        "noticed",
        "noticed_us",
        "of",
        "subject",
        "tenant_id",
        "used",
    )

    def __init__(self, of: CountedBudget, subject: str, tenant_id: str, amount: int) -> None:
        """``tenant_id``: whose the subject is; "" where it is shared."""
        self.of = of
        self.subject = subject
        self.tenant_id = tenant_id
        self.amount = amount
        #: The oldest first. A list: an empty deque takes as much memory as all else of a counter.
        self.cells: list[UseCell] = []
        #: What was used already in a cell that has not begun here: where it begins, and how much.
        self.awaited: tuple[int, int] | None = None
        #: The sums over the cells.
        self.used = 0
        self.held = 0
        #: The last step that notice was given of, when, and the use at which the next is due.
        self.noticed = 0
        self.noticed_us = 0
        self.next_notice = next_step_at(of.budget, amount, 0)

    def at(self, at_us: int, clock: Callable[[], int]) -> UseCell:
        """Returns the cell to count in what is admitted now and arrived at ``at_us``."""
        cells, span = self.cells, self.of.span
        if cells:  # nearly always the newest is the one, and there is no date to work out
            newest = cells[-1]
            if newest.start <= at_us < newest.until and cells[0].end > at_us:
                return newest
        self.turn(at_us)
        start = span.start(at_us)
        if cells and cells[-1].start > start:
            # The request has waited, or the clock was set back.
            now_start = span.start(clock())
            if now_start < cells[-1].start:
                self._set_back(now_start)
            if not span.is_rolling:
                return cells[-1]
            place = len(cells)
            while place and cells[place - 1].start > start:
                place -= 1
            if place and cells[place - 1].start == start:
                return cells[place - 1]
            cells.insert(place, UseCell(span, start))
            return cells[place]
        if not cells or cells[-1].start != start:
            cells.append(UseCell(span, start))
        return cells[-1]

    def hold(self, cell: UseCell, amount: int) -> None:
        """Hold an amount in a cell; below zero: give it back."""
        cell.held += amount
        self.held += amount

    def let_go(self, start_us: int, amount: int) -> None:
        """Give back what is held in the cell that begins then; nothing where that has ended."""
        cell = next((cell for cell in self.cells if cell.start == start_us), None)
        if cell is not None:
            self.hold(cell, -amount)

    def begun_at(self, start_us: int, at_us: int, clock: Callable[[], int]) -> UseCell | None:
        """Returns the cell that begins at ``start_us``; None where it has ended by ``at_us``.

        It is made anew where what others counted, or what a crash left of that, has it not.
        """
        found = next((cell for cell in self.cells if cell.start == start_us), None)
        if found is None and self.of.span.end(start_us) > at_us:
            found = self.at(start_us, clock)
        return found

    def turn(self, at_us: int) -> None:
        """Drop the cells that have ended."""
        cells = self.cells
        if self.awaited is not None and self.awaited[0] <= at_us:
            self._begin_awaited(at_us)
        if not cells or cells[0].end > at_us:
            return
        while cells and cells[0].end <= at_us:
            cell = cells.pop(0)
            cell.is_open = False
            self.used -= cell.used
            self.held -= cell.held
        if self.noticed:
            # A rolling budget gives notice of a step again when its use has been below it, and the span has passed.
            span, budget = self.of.span, self.of.budget
            if not span.is_rolling:
                self.noticed = 0
            elif at_us >= self.noticed_us + span.length_us:
                self.noticed = min(self.noticed, step_of(budget, self.amount, self.used))
            self.next_notice = next_step_at(budget, self.amount, self.noticed)

    def is_over(self, at_us: int) -> bool:
        """Returns whether it has nothing that counts at ``at_us`` or later: a new one is as good. Changes nothing."""
        cells, span = self.cells, self.of.span
        if cells and cells[-1].end > at_us:  # nearly always the newest is the last to end
            return False
        if self.awaited is not None and span.end(self.awaited[0]) > at_us:
            return False
        if self.noticed and span.is_rolling and at_us < self.noticed_us + span.length_us:
            return False  # notice of the same step is due once a span
        return all(cell.end <= at_us for cell in cells)

    def _begin_awaited(self, at_us: int) -> None:
        """The clock has jumped to the cell of a calendar span that it was in before."""
        start, used = self.awaited or (0, 0)
        self.awaited = None
        cell = UseCell(self.of.span, start)
        if cell.end > at_us:
            cell.used = used
            self.used += used
            self.cells.append(cell)

    def _set_back(self, start: int) -> None:
        for cell in self.cells:
            if cell.start > start:
                cell.place(self.of.span, start)

    def change_amount(self, amount: int) -> None:
        self.amount = amount
        self.noticed = min(self.noticed, step_of(self.of.budget, amount, self.used))
        self.next_notice = next_step_at(self.of.budget, amount, self.noticed)

    def take_in(self, state: CountState) -> None:
        """Put what others counted in place of what is counted here. Cells that they have no more have ended."""
        known = {cell.start: cell for cell in self.cells}
        self.cells.clear()
        for start, used, held in state.cells:
            cell = known.pop(start, None) or UseCell(self.of.span, start)
            cell.used, cell.held = used, held
            self.cells.append(cell)
        for cell in known.values():
            cell.is_open = False
        self.used = sum(cell.used for cell in self.cells)
        self.held = sum(cell.held for cell in self.cells)
        self.noticed, self.noticed_us = state.noticed, state.noticed_us
        self.next_notice = next_step_at(self.of.budget, self.amount, self.noticed)

    def state(self) -> CountState:
        """Returns what is used and held now."""
        cells = [(cell.start, cell.used, cell.held) for cell in self.cells]
        return CountState(cells, self.noticed, self.noticed_us)

    def room_at(self, need: int) -> int | None:
        """Returns when so much will be left, if nothing else is used; None for never."""
        total = self.used + self.held
        for cell in self.cells:
            total -= cell.used + cell.held
            if total + need <= self.amount:
                return cell.end if cell.end < NEVER_US else None
        return None

    def resets_us(self, at_us: int) -> int | None:
        span = self.of.span
        if span.is_rolling:
            return self.cells[0].end if self.cells else None
        newest = self.cells[-1] if self.cells else None
        end = newest.end if newest is not None and newest.end > at_us else span.end(span.start(at_us))
        return end if end < NEVER_US else None

    def standing(self, at_us: int) -> BudgetStanding:
        self.turn(at_us)
        budget, span = self.of.budget, self.of.span
        return BudgetStanding(
            budget=budget.id,
            name=budget.name,
            unit=budget.unit,
            amount=self.amount,
            span=str(span),
            hard=budget.hard,
            subject=self.subject,
            used=self.used,
            held=self.held,
            left=max(0, self.amount - self.used - self.held),
            since_us=at_us - span.length_us if span.is_rolling else span.start(at_us),
            resets_us=self.resets_us(at_us),
            rolling_us=span.length_us,
        )


class CountedBudget:
    """A budget and its counters, by subject."""

    __slots__ = ("_sweep_left", "_swept", "_swept_us", "budget", "counters", "end_users", "span", "unit")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.span: Span = read_span(budget.span)
        self.unit = UNITS.index(budget.unit)
        self.counters: dict[str, BudgetCounter] = {}
        #: Counters of end users, by tenant.
        self.end_users: dict[str, int] = {}
        #: These, in the order in which the sweep looks at them: from the left, and back in on the right.
        self._swept: deque[BudgetCounter] = deque()
        #: When the last sweep through them began, microseconds UTC, and how many it has not looked at yet.
        self._swept_us = 0
        self._sweep_left = 0

    def add_end_user(self, counter: BudgetCounter) -> None:
        """Take an end user's counter, which ``forget_some`` looks at from now on."""
        self.counters[counter.subject] = counter
        self.end_users[counter.tenant_id] = self.end_users.get(counter.tenant_id, 0) + 1
        self._swept.append(counter)

    def forget_some(self, over_us: int, now_us: int) -> bool:
        """Forget the end users of whom nothing counts since ``over_us``, among the next of the sweep.

        A sweep begins a minute after the one before has begun, or later, and takes as many calls as its pieces are:
        together in one they would hold up all requests for as long as 300,000 counters take.

        Returns:
            Whether there are more for this sweep.
        """
        if not self._sweep_left:
            if 0 <= now_us - self._swept_us < _SWEEP_EVERY_US:  # below zero: the clock was set back
                return False
            self._swept_us, self._sweep_left = now_us, len(self._swept)
        piece = min(self._sweep_left, _SWEEP_PIECE)
        self._sweep_left -= piece
        for _ in range(piece):
            counter = self._swept.popleft()
            if counter.is_over(over_us):
                self._forget(counter, over_us)
            else:
                self._swept.append(counter)
        return self._sweep_left > 0

    def _forget(self, counter: BudgetCounter, over_us: int) -> None:
        counter.turn(over_us)  # requests under way that held of it are to count nowhere
        del self.counters[counter.subject]
        left = self.end_users[counter.tenant_id] - 1
        if left:
            self.end_users[counter.tenant_id] = left
        else:
            del self.end_users[counter.tenant_id]


def step_of(budget: Budget, amount: int, used: int) -> int:
    """Returns the highest step that use has come to; 0 for none."""
    return max((step for step in budget.notice_at_percent if used and used * 100 >= amount * step), default=0)


def next_step_at(budget: Budget, amount: int, noticed: int) -> int:
    """Returns the use at which the next notice is due, after that of step ``noticed``."""
    return _next_step_at(budget.notice_at_percent, amount, noticed)


@lru_cache(maxsize=256)
def _next_step_at(steps: tuple[int, ...], amount: int, noticed: int) -> int:
    """As ``next_step_at``. Cached: all subjects share the number."""
    left = [step for step in steps if step > noticed]
    return max(1, -(-amount * min(left) // 100)) if left else NEVER_US
