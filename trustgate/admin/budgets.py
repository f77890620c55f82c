"""The commands on budgets."""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from trustgate.access.budgets import Budgets
from trustgate.access.spans import read_span
from trustgate.admin.budget_counts import count_anew
from trustgate.admin.budgeting import BudgetList, BudgetNames, BudgetPut, BudgetRemove, BudgetReport
from trustgate.admin.checked import checked_name
from trustgate.admin.context import AdminContext
from trustgate.admin.own_keys import check_binds
from trustgate.errors import Conflict, InvalidRequest
from trustgate.formats.written import INTEGER_MOST
from trustgate.ids import new_id, now_us
from trustgate.types import Budget

_STEPS_MOST = 10
_PERCENT_MOST = 1_000


async def budget_put(context: AdminContext, command: BudgetPut) -> Budget:
    budget = _new(context, command) if command.create else context.directory.budget(command.budget)
    name = budget.name if command.name is None else checked_name(command.name, "A budget's")
    if name != budget.name:
        _check_free(context, name)
    budget = replace(
        budget,
        name=name,
        unit=command.unit or budget.unit,
        amount=budget.amount if command.amount is None else command.amount,
        span=command.span or budget.span,
        each=command.each or budget.each,
        models=budget.models if command.models is None else command.models,
        hard=budget.hard if command.hard is None else command.hard,
        notice_at_percent=budget.notice_at_percent if command.notice_at_percent is None else command.notice_at_percent,
    )
    if (command.tenants, command.keys, command.plans, command.everyone) != (None, None, None, None):
        budget = _for_whom(context, budget, command)
    budget = replace(budget, notice_at_percent=tuple(sorted(set(budget.notice_at_percent))))
    _check(budget)
    await context.keep(budget)
    return budget


def _new(context: AdminContext, command: BudgetPut) -> Budget:
    name = checked_name(command.budget, "A budget's")
    _check_free(context, name)
    if command.unit is None or command.amount is None or command.span is None:
        raise InvalidRequest(
            "A budget needs an amount and a span.",
            hint="Give --usd, --tokens or --requests, and --per.",
            param="amount",
        )
    at_us = now_us()
    return Budget(
        id=new_id("budget", at_us),
        name=name,
        unit=command.unit,
        amount=command.amount,
        span=command.span,
        created_us=at_us,
    )


def _check_free(context: AdminContext, name: str) -> None:
    if name.startswith("budget_"):
        raise InvalidRequest("A budget's name cannot begin with budget_, as ids do.", param="name")
    if any(budget.name == name for budget in context.directory.budgets()):
        raise Conflict(
            f"The budget {name!r} already exists.",
            hint=f"trustgate budget set {shlex.quote(name)} …",
            code="budget_exists",
        )


def _for_whom(context: AdminContext, budget: Budget, command: BudgetPut) -> Budget:
    directory = context.directory
    named = [directory.key(ref) for ref in command.keys or ()]
    for key in named:
        check_binds(context, key, "A budget of a key", {each.account_id for each in named})
    return replace(
        budget,
        tenants=_once(context.tenant(ref).id for ref in command.tenants or ()),
        keys=_once(key.account_id for key in named),
        plans=_once(directory.plan(name).name for name in command.plans or ()),
        everyone=command.everyone or False,
    )


def _once(values: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))  # type: ignore[call-overload]


def _check(budget: Budget) -> None:
    read_span(budget.span)
    if not 0 <= budget.amount <= INTEGER_MOST:
        raise InvalidRequest("A budget's amount must be a number from 0 on.", param="amount")
    if not (budget.tenants or budget.keys or budget.plans or budget.everyone):
        raise InvalidRequest(
            "A budget needs the callers that it limits.",
            hint="Give --tenant, --key or --plan, or --everyone.",
            param="tenants",
        )
    if not budget.models or not all(glob and glob.isprintable() for glob in budget.models):
        raise InvalidRequest("models must not be empty.", hint="Use * for every model.", param="models")
    steps = budget.notice_at_percent
    if len(steps) > _STEPS_MOST or not all(1 <= step <= _PERCENT_MOST for step in steps):
        raise InvalidRequest(
            f"A budget has at most {_STEPS_MOST} steps of notice, each from 1 to {_PERCENT_MOST} percent.",
            param="notice_at_percent",
        )


async def budget_remove(context: AdminContext, command: BudgetRemove) -> Budget:
    budget = replace(context.directory.budget(command.budget), removed_us=now_us())
    await context.keep(budget)
    return budget


async def budget_names(context: AdminContext, command: BudgetNames) -> tuple[Budget, ...]:
    return tuple(context.directory.budgets())


async def budget_list(context: AdminContext, command: BudgetList) -> BudgetReport:
    directory, at_us = context.directory, now_us()
    budgets = await counted_budgets(context, at_us)
    if command.tenant is not None:
        tenant = context.tenant(command.tenant)
        keys = {key.account_id for key in directory.keys_of(tenant.id)}
        standings = budgets.standings_of(tenant.id, keys, tenant.plan, at_us)
    else:
        only = None if command.budget is None else [directory.budget(command.budget).id]
        standings = budgets.standings(at_us, only)
    shown = {standing.budget for standing in standings}
    listed = tuple(budget for budget in directory.budgets() if budget.id in shown)
    ids = {ref for budget in listed for ref in (*budget.tenants, *budget.keys)} | {each.subject for each in standings}
    names = {tenant.id: tenant.name for tenant in directory.tenants() if tenant.id in ids}
    for tenant in directory.tenants():
        for rest in ("unnamed", "others"):
            if f"{tenant.id}/{rest}" in ids:
                names[f"{tenant.id}/{rest}"] = f"{tenant.name}, {rest}"
    all_keys = directory.keys()
    names |= {key.account_id: f"{key.name} {key.redacted}" for key in all_keys if key.account_id in ids}
    return BudgetReport(budgets=listed, standings=tuple(standings), names=names)


async def counted_budgets(context: AdminContext, at_us: int) -> Budgets:
    """Returns the server's own counts; without one, what the receipts say."""
    if context.budgets is not None:
        await context.books.refresh_counts()
        return context.budgets
    await context.flush()
    return await count_anew(store=context.store, directory=context.directory, catalog=context.catalog, at_us=at_us)
