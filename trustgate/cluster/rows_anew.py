"""Rows written anew: what was used as counters in memory have it from receipts, and what is held as the rows have it.

Done where a limit is new, where a process begins alone, and where the rows and the receipts differ. Each function
returns the contents of rows by their keys; its caller holds a lock on the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from trustgate.access.budgets import Budgets
from trustgate.access.quota import Quota
from trustgate.cluster.rows import (
    BalanceContent,
    BalanceRow,
    BudgetContent,
    BudgetRow,
    HeadRow,
    QuotaRow,
    Row,
    balance_key,
    budget_key,
    reach_digest,
)
from trustgate.payment.balance import Balances, BalanceState


def written_anew(
    quota: Quota,
    budgets: Budgets,
    balances: Balances,
    heads: Mapping[str, tuple[int, str]],
    limited: Collection[str],
) -> dict[str, str]:
    """Returns the rows of what counters in memory have, by key, where nothing is held.

    Args:
        quota: the counters of quotas.
        budgets: those of budgets.
        balances: what tenants have.
        heads: by tenant, the number and the leaf hash (hex) of its last receipt.
        limited: the tenants and keys that quotas are counted of.
    """
    rows: list[Row] = [QuotaRow(quota, subject) for subject in quota.subjects() if subject in limited]
    rows += [BudgetRow(counter) for counter in budgets.counters()]
    rows += [BalanceRow(balances, tenant_id) for tenant_id in balances.tenants()]
    return {row.key: row.content().decode() for row in rows} | heads_anew(heads)


def quotas_anew(counted: Quota, subjects: Iterable[str], found: Mapping[str, str], at_us: int) -> dict[str, str]:
    """Returns the rows of quotas counted anew, by key: what was used as ``counted`` has it, and what is held.

    Args:
        counted: Has counted what was used.
        subjects: The tenants and keys whose quotas they are.
        found: The rows as they are, by key.
        at_us: The database's time, microseconds UTC.
    """
    rows: dict[str, str] = {}
    quota = Quota()
    quota.begin(at_us)
    for subject in subjects:
        row = QuotaRow(quota, subject)
        if row.key in found:
            row.take_in(found[row.key], at_us)
        row.count_anew(counted.state(subject).used)
        rows[row.key] = row.content().decode()
    return rows


def counted_anew(budgets: Budgets, found: Mapping[str, str]) -> dict[str, str]:
    """Returns the rows of budgets counted anew, by key: what was used as the counters have it, and what is held.

    Args:
        budgets: Have counted what was used.
        found: The rows as they are, by key, of these and other budgets.
    """
    counters = {budget_key(counter.of.budget, counter.subject): counter for counter in budgets.counters()}
    rows = {key: BudgetRow(counter).content().decode() for key, counter in counters.items()}
    digests = {(budget.id, reach_digest(budget)) for budget in budgets.budgets()}
    for key, content in found.items():
        if tuple(key.split("/", 3)[1:3]) not in digests:
            continue
        was, counter = msgspec.json.decode(content, type=BudgetContent), counters.get(key)
        used = {} if counter is None else {cell.start: cell.used for cell in counter.cells}
        held = {start: amount for start, _, amount in was.figures.cells}
        was.figures.cells = [(start, used.get(start, 0), held.get(start, 0)) for start in sorted(used.keys() | held)]
        rows[key] = msgspec.json.encode(was).decode()
    return rows


def balances_anew(balances: Balances, found: Mapping[str, str]) -> dict[str, str]:
    """Returns the rows of balances, by key, with what tenants have as ``balances`` has it, and what is held.

    ``found``: the rows as they are, by key, of these and others.
    """
    rows: dict[str, str] = {}
    for tenant_id, amount in balances.tenants().items():
        key = balance_key(tenant_id)
        content = BalanceContent(BalanceState())
        if key in found:
            content = msgspec.json.decode(found[key], type=BalanceContent)
        content.figures.balance = amount
        rows[key] = msgspec.json.encode(content).decode()
    return rows


def heads_anew(heads: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """Returns the rows of the ends of chains, by key. ``heads``: as ``written_anew`` has them."""
    rows: dict[str, str] = {}
    for tenant_id, (tseq, tail) in heads.items():
        head = HeadRow(tenant_id)
        head.advance(tseq, tail)
        rows[head.key] = head.content().decode()
    return rows
