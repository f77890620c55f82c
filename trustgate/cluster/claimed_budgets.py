"""What requests claim of budgets, in the rows in which several processes count it.

A claim is settled by the keys of rows and the beginnings of cells, not by the counters and cells that memory had when
it was made: memory takes in other states of a row in between, of a look, or of a start that has written it anew.
"""

from __future__ import annotations

from trustgate.access.budget_counter import UseCell
from trustgate.access.budgets import Budgets, Claim, Drawer
from trustgate.cluster.batches import Batch, RowsChanged
from trustgate.cluster.rows import BudgetRow, Row, budget_key


def claimed_rows(budgets: Budgets, drawer: Drawer, claim: Claim | None) -> list[Row]:
    """Returns the rows of the budgets that count a request now, and of those that hold its claim."""
    counters = budgets.counters_of(drawer, budgets.clock())
    if claim is not None:
        counters += [counter for counter, _, _ in claim.parts()]
    found: dict[str, Row] = {}
    for counter in counters:
        row = BudgetRow(counter)
        # One that changed, and back, has other counters than then, and the same rows.
        found.setdefault(row.key, row)
    return list(found.values())


def claimed_parts(claim: Claim | None) -> dict[str, tuple[int, int]]:
    """Returns by row where the cell begins that holds a claim, microseconds UTC, and how much it holds."""
    if claim is None:
        return {}
    return {budget_key(of.of.budget, of.subject): (start_us, amount) for of, start_us, amount in claim.parts()}


def check_rows(budgets: Budgets, drawer: Drawer, batch: Batch) -> None:
    """Raise RowsChanged where a budget has come since the batch was sent that counts a request."""
    for counter in budgets.counters_of(drawer, batch.at_us):
        row = batch.rows.get(budget_key(counter.of.budget, counter.subject))
        if row is None or row.counter is not counter:
            raise RowsChanged


def count_use(budgets: Budgets, drawer: Drawer, claim: Claim, use: tuple[int, int, int], batch: Batch) -> None:
    """Count requests, tokens and nano-USD on the budgets of now: in the cells that held them, or those of the claim's
    time.
    """
    parts = claimed_parts(claim)
    for counter in budgets.counters_of(drawer, batch.at_us):
        begun_us, _ = parts.get(budget_key(counter.of.budget, counter.subject), (None, 0))
        if begun_us is None:
            cell: UseCell | None = counter.at(claim.at_us, budgets.clock)
        else:
            cell = counter.begun_at(begun_us, batch.at_us, budgets.clock)
        if cell is not None:
            budgets.add_use(counter, cell, use)
