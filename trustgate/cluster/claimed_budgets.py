"""What requests claim of budgets, in the rows in which several processes count it.

A claim is settled by the keys of rows and the times at which cells begin, not by the counters and cells that were in
memory when it was made: memory takes in other states of a row in between, from a look at it, or where it was written
anew.
"""

from __future__ import annotations

from trustgate.access.budget_counter import UseCell
from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets, Claim
from trustgate.cluster.batches import Batch, RowsChanged
from trustgate.cluster.rows import BudgetRow, Row, budget_key


def claimed_rows(budgets: Budgets, drawer: Drawer, claim: Claim | None) -> list[Row]:
    """Returns the rows of the budgets that count a request now, and of those that hold its claim."""
    at_us = budgets.clock()
    counters = budgets.counters_of(drawer, at_us)
    if not counters and (claim is None or not claim.draws()):
        return []
    found: dict[str, Row] = {}
    for counter in counters:
        row = BudgetRow(counter)
        found[row.key] = row
    if claim is not None and claim.draws():
        for of, _, _ in claim.parts():
            key = budget_key(of.of.budget, of.subject)
            if key not in found:
                # A budget that was changed, and changed back, has new counters and the same rows. Others go by those.
                now = budgets.counter_of(of.of.budget.id, of.subject, of.tenant_id, at_us)
                is_same = now is not None and budget_key(now.of.budget, now.subject) == key
                found[key] = BudgetRow(now if now is not None and is_same else of)
    return list(found.values())


def claimed_parts(claim: Claim | None) -> dict[str, tuple[int, int]]:
    """Returns, by the key of the row, when the cell that holds a claim begins (microseconds UTC), and the amount."""
    if claim is None or not claim.draws():
        return {}
    return {budget_key(of.of.budget, of.subject): (start_us, amount) for of, start_us, amount in claim.parts()}


def check_rows(budgets: Budgets, drawer: Drawer, batch: Batch) -> None:
    """Raise RowsChanged where a budget that was made since the batch was sent counts the request."""
    for counter in budgets.counters_of(drawer, batch.at_us):
        row = batch.rows.get(budget_key(counter.of.budget, counter.subject))
        if row is None or row.counter is not counter:
            raise RowsChanged


def count_use(budgets: Budgets, drawer: Drawer, claim: Claim, use: tuple[int, int, int], batch: Batch) -> None:
    """Count requests, tokens and nano-USD on the budgets of now.

    They count in the cells that held them; on a budget that did not hold them, in the cell of the claim's time.
    """
    counters = budgets.counters_of(drawer, batch.at_us)
    if not counters:
        return
    parts = claimed_parts(claim)
    for counter in counters:
        begun_us, _ = parts.get(budget_key(counter.of.budget, counter.subject), (None, 0))
        if begun_us is None:
            cell: UseCell | None = counter.at(claim.at_us, budgets.clock)
        else:
            cell = counter.begun_at(begun_us, batch.at_us, budgets.clock)
        if cell is not None:
            budgets.add_use(counter, cell, use)
