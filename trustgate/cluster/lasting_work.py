"""Work that goes on upstream after its request has ended (batches, background responses), counted by several processes.

It is held once and charged once. Its worst case is held in the rows of its tenant, its key, their budgets and their
balance, as in one process alone. The hold belongs to the work and to no node: it outlives the process that made it. The
work has a row of its own with what is held, and where, until it is settled. A process that sees the end settles that
row in the transaction that charges the work, so of all processes that see the end one charges.

Owns the row, and which receipt charges work while that receipt is in a process's journal alone (``EndedWork.mark``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.quota import Ask, Quota
from trustgate.cluster.batches import Batch, RowsChanged
from trustgate.cluster.rows import BalanceRow, BudgetRow, QuotaRow, Row, add_rows, budget_key
from trustgate.payment.balance import Balances

#: Marks a receipt of the gateway's own look at the work: it is dropped where another receipt has charged the work.
_LOOK = "look "


class LastingCounters(Protocol):
    """The counters in memory that rows are taken into."""

    @property
    def quota(self) -> Quota: ...
    @property
    def budgets(self) -> Budgets: ...
    @property
    def balances(self) -> Balances: ...


class LastingWork(NamedTuple):
    """Work that goes on, and what it may still use."""

    #: Of its row (``work_key``).
    key: str
    drawer: Drawer
    #: The ids of its tenant and its key that anything limits.
    subjects: tuple[str, ...]
    ask: Ask
    #: What is held of its tenant's balance, nano-USD.
    money_nano_usd: int


class EndedWork(NamedTuple):
    """Work whose end was seen, to be charged by a receipt."""

    key: str
    #: Whether the gateway saw the end when it looked by itself; otherwise a request did.
    is_look: bool

    @property
    def mark(self) -> str:
        """What a receipt in a journal has as its ``tprev``, which is set only when it is closed."""
        return _LOOK * self.is_look + self.key

    @classmethod
    def of_mark(cls, mark: str) -> EndedWork | None:
        """Returns the work that a receipt in a journal charges, from its ``tprev``; None: it charges none."""
        return cls(mark.removeprefix(_LOOK), mark.startswith(_LOOK)) if mark else None


def work_key(kind: str, upstream: str, object_id: str, *, part: int = 0) -> str:
    """Returns the key of a work's row.

    Args:
        kind: of the object upstream, such as ``batch``.
        upstream: its name.
        object_id: the upstream's.
        part: 0, or the number of one of the receipts that charge the work besides the first: each has a row in which
            nothing is held, so that each is charged once.
    """
    key = f"work/{kind}/{hashlib.sha256(f'{upstream} {object_id}'.encode()).hexdigest()[:40]}"
    return f"{key}/{part}" if part else key


class _Held(msgspec.Struct):
    tokens: int
    cost_nano_usd: int
    #: By subject, when the windows in which it is held began, microseconds UTC.
    windows: dict[str, tuple[int, int, int]] = {}
    #: By the key of a budget's row: the budget's id, its subject, its tenant, when the cell begins (microseconds UTC),
    #: and the amount.
    budgets: dict[str, tuple[str, str, str, int, int]] = {}
    tenant_id: str = ""
    money_nano_usd: int = 0


class _WorkState(msgspec.Struct):
    held: _Held | None = None
    settled: bool = False
    #: When, microseconds UTC; 0: it is not, or a version that did not write it down has settled it.
    settled_us: int = 0


def is_settled(state: str) -> bool:
    """Returns whether a row of work, whose content this is, is settled: a receipt has charged the work."""
    return msgspec.json.decode(state, type=_WorkState).settled


class WorkRow:
    """The row of one piece of work: what it holds, or that it is settled."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.state = _WorkState()

    def take_in(self, content: str, at_us: int) -> None:
        self.state = msgspec.json.decode(content, type=_WorkState)

    def content(self) -> bytes:
        return msgspec.json.encode(self.state)


class HoldWork:
    """Hold what work may still use, wherever it is not held yet; nothing for work that is settled."""

    def __init__(self, counters: LastingCounters, work: LastingWork) -> None:
        self._counters = counters
        self._work = work

    def add_rows(self, rows: dict[str, Any]) -> None:
        counters, work = self._counters, self._work
        add_rows(rows, (WorkRow(work.key), *(QuotaRow(counters.quota, each) for each in work.subjects)))
        add_rows(rows, map(BudgetRow, counters.budgets.counters_of(work.drawer, counters.budgets.clock())))
        if work.money_nano_usd:
            add_rows(rows, (BalanceRow(counters.balances, work.drawer.tenant_id),))

    def apply(self, batch: Batch) -> None:
        counters, work, at_us = self._counters, self._work, batch.at_us
        state: _WorkState = batch.rows[work.key].state
        if state.settled:
            return
        found = counters.budgets.counters_of(work.drawer, at_us)
        keys = [budget_key(counter.of.budget, counter.subject) for counter in found]
        if any(key not in batch.rows or batch.rows[key].counter is not of for key, of in zip(keys, found, strict=True)):
            raise RowsChanged
        held = state.held
        if held is None:
            state.held = held = _Held(work.ask.tokens, work.ask.cost_nano_usd)
        ask = Ask(held.tokens, held.cost_nano_usd)
        for subject in work.subjects:
            if subject not in held.windows:
                held.windows[subject] = counters.quota.hold_work((subject,), ask, at_us).starts
        needs = (1, ask.tokens, ask.cost_nano_usd)
        for key, counter in zip(keys, found, strict=True):
            if key not in held.budgets:
                cell, need = counter.at(at_us, counters.budgets.clock), needs[counter.of.unit]
                counter.hold(cell, need)
                held.budgets[key] = counter.of.budget.id, counter.subject, counter.tenant_id, cell.start, need
        if work.money_nano_usd and not held.money_nano_usd:
            held.tenant_id, held.money_nano_usd = work.drawer.tenant_id, work.money_nano_usd
            counters.balances.hold_at_least(held.tenant_id, held.money_nano_usd)


class SettleWork:
    """The part of a receipt's closing that settles work: what is held is given back, once."""

    def __init__(self, counters: LastingCounters, ended: EndedWork) -> None:
        self._counters = counters
        self.ended = ended
        #: The rows in which the work is held, as its own row had them last.
        self._named: list[Row] = []

    def rows(self) -> Sequence[Row]:
        return [WorkRow(self.ended.key), *self._named]

    def apply(self, batch: Batch) -> bool:
        """Returns whether the receipt charges the work; False: another receipt has.

        Raises RowsChanged where the work is held in rows that the batch lacks.
        """
        state: _WorkState = batch.rows[self.ended.key].state
        if state.settled:
            return False
        if state.held is not None:
            self._give_back(state.held, batch)
        state.held, state.settled, state.settled_us = None, True, batch.at_us
        return True

    def _give_back(self, held: _Held, batch: Batch) -> None:
        quota, balances = self._counters.quota, self._counters.balances
        found = [QuotaRow(quota, subject) for subject in held.windows]
        budgets = self._budget_rows(held, batch.at_us)
        named: list[Row] = [*found, *(row for row, _, _ in budgets)]
        if held.money_nano_usd:
            named.append(BalanceRow(balances, held.tenant_id))
        if any(row.key not in batch.rows for row in named):
            self._named = named
            raise RowsChanged
        ask = Ask(held.tokens, held.cost_nano_usd)
        for subject, starts in held.windows.items():
            quota.void(quota.held_work((subject,), ask, starts))
        for row, start_us, amount in budgets:
            batch.rows[row.key].counter.let_go(start_us, amount)
        if held.money_nano_usd:
            balances.let_go(held.tenant_id, held.money_nano_usd)

    def _budget_rows(self, held: _Held, at_us: int) -> list[tuple[BudgetRow, int, int]]:
        """Returns, for each budget that still counts: its row, when the cell begins in which it holds, the amount."""
        found = []
        for key, (budget_id, subject, tenant_id, start_us, amount) in held.budgets.items():
            counter = self._counters.budgets.counter_of(budget_id, subject, tenant_id, at_us)
            if counter is not None and budget_key(counter.of.budget, subject) == key:
                found.append((BudgetRow(counter), start_us, amount))
        return found
