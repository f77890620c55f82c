"""Rebuilding what budgets count from the receipts: at the start, and when a budget's reach changes.

Owns which receipts count for which budget. They are added up by the database, so that the cost at a start depends on
how many callers there are, not on how many receipts. A budget of a plan counts what the tenants use that are on it now,
before they were, too; one of some models goes by the models' names as they are now.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from trustgate.access.budget_counter import BudgetStanding
from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.spans import Span
from trustgate.models.catalog import Catalog
from trustgate.store import Store
from trustgate.store.queries import BudgetUseFilter
from trustgate.types import Budget

#: Sums put into counters before the event loop gets its turn.
_SLICE = 1_000


async def rebuild(
    budgets: Budgets,
    wanted: Iterable[Budget],
    *,
    store: Store,
    directory: Directory,
    catalog: Catalog,
    at_us: int,
    until_seq: int | None = None,
    counts_ahead: bool = False,
) -> None:
    """Add to each budget of ``wanted``, which counts nothing yet, what receipts say was used of it.

    ``until_seq``: the last receipt before they began to count by themselves; None: all receipts. ``counts_ahead``:
    what was used while the clock ran ahead, before it was set back to ``at_us``, counts as well.
    """
    groups: defaultdict[tuple[int, int, int], list[Budget]] = defaultdict(list)
    spans: dict[tuple[int, int, int], Span] = {}
    for budget in wanted:
        span = budgets.span_of(budget.id)
        group = (*span.range(at_us), span.cell_us)
        groups[group].append(budget)
        spans[group] = span
    for group, members in groups.items():
        since_us, until_us, part_us = group
        ahead_us = await store.latest_ahead(since_us, at_us) if counts_ahead else 0
        query = BudgetUseFilter(
            since_us,
            max(until_us, ahead_us + 1),
            part_us,
            by_model=any(not budget.covers_all_models for budget in members),
            by_end_user=any(budget.each == "end_user" for budget in members),
            until_seq=until_seq,
        )
        await _count(query, members, budgets.restore, store, directory, catalog)
        later_us = spans[group].start(ahead_us)
        if later_us > since_us and not part_us:
            # The clock may have been right before, and jump to where it was.
            query = query._replace(since_us=later_us, until_us=spans[group].end(later_us))
            await _count(query, members, budgets.await_cell, store, directory, catalog)


async def _count(
    query: BudgetUseFilter,
    members: Sequence[Budget],
    count: Callable[[str, Drawer, tuple[int, int, int], int], None],
    store: Store,
    directory: Directory,
    catalog: Catalog,
) -> None:
    """Give each of ``members``, by ``count``, what it is to count of the sums of the query."""
    for number, use in enumerate(await store.budget_use(query)):
        resolved = catalog.resolve(use.model) if use.model else None
        names = () if not use.model else (use.model,) if resolved is None else resolved.all_names(use.model)
        account_id, plan = directory.key_account_id(use.key_id), directory.plan_name_of(use.tenant_id)
        drawer = Drawer(use.tenant_id, account_id, plan, names, use.end_user)
        for budget in members:
            count(budget.id, drawer, (use.requests, use.tokens, use.cost_nano_usd), use.from_us)
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)


async def count_anew(
    *,
    store: Store,
    directory: Directory,
    catalog: Catalog,
    at_us: int,
    wanted: Iterable[Budget] | None = None,
    until_seq: int | None = None,
) -> Budgets:
    """Returns budgets that count what the receipts in the store say, for a look without a server."""
    budgets = Budgets(lambda: at_us)
    listed = directory.budgets() if wanted is None else list(wanted)
    load(budgets, directory, listed)
    await rebuild(budgets, listed, store=store, directory=directory, catalog=catalog, at_us=at_us, until_seq=until_seq)
    return budgets


async def budget_differences(
    standings: Sequence[BudgetStanding],
    *,
    store: Store,
    directory: Directory,
    catalog: Catalog,
    at_us: int,
    until_seq: int,
) -> list[tuple[str, str]]:
    """Compare where budgets stood at a moment with what the receipts up to then say. Returns the differences.

    A request counts in the span that runs when it is admitted, which may have begun after it arrived; so there may be
    more in a counter than in the receipts of its span, but in the total. Budgets of some models go by names that may
    have changed since, and are left out.
    """
    wanted = [budget for budget in directory.budgets() if budget.covers_all_models]
    if not standings or not wanted:
        return []
    anew = await count_anew(
        store=store, directory=directory, catalog=catalog, at_us=at_us, wanted=wanted, until_seq=until_seq
    )
    by_receipts = {(each.budget, each.subject): each.used for each in anew.standings(at_us)}
    found = []
    for standing in standings:
        used = by_receipts.get((standing.budget, standing.subject))
        is_exact = standing.span == "total" and not standing.held
        if used is not None and (standing.used < used or (is_exact and standing.used > used)):
            whose = f" of {standing.subject}" if standing.subject else ""
            found.append((f"budget {standing.name}{whose}", f"{standing.used} counted, by the receipts {used}"))
    return found


def load(budgets: Budgets, directory: Directory, listed: Iterable[Budget]) -> None:
    """Give budgets that begin empty what operators have set up."""
    for budget in listed:
        budgets.put(budget)
    for end_user in directory.all_end_users():
        budgets.put_end_user(end_user)
