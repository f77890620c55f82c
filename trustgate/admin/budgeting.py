"""The verbs on budgets and end users, as data; see ``admin.commands``."""

from __future__ import annotations

from typing import Literal

import msgspec

from trustgate.access.budgets import BudgetStanding
from trustgate.admin.commands import Command
from trustgate.types import Budget, BudgetUnit


class BudgetPut(Command[Budget], frozen=True, kw_only=True, tag="budget.put"):
    """Add a budget (``create``) or change one. What is None stays; a new one wants unit, amount and span."""

    budget: str
    create: bool = False
    name: str | None = None
    unit: BudgetUnit | None = None
    #: Of money, nano-USD.
    amount: int | None = None
    span: str | None = None
    #: Whom it is for: ids or names of tenants, ids of keys, names of plans, or everyone. All four change together.
    tenants: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None
    plans: tuple[str, ...] | None = None
    everyone: bool | None = None
    each: Literal["all", "tenant", "key", "end_user"] | None = None
    models: tuple[str, ...] | None = None
    hard: bool | None = None
    notice_at_percent: tuple[int, ...] | None = None
    result = Budget


class BudgetRemove(Command[Budget], frozen=True, kw_only=True, tag="budget.remove"):
    budget: str
    result = Budget


class BudgetNames(Command[tuple[Budget, ...]], frozen=True, kw_only=True, tag="budget.names"):
    """The budgets alone, without where they stand."""

    result = tuple[Budget, ...]


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets, and where each stands: once for every subject that has one of its own."""

    budgets: tuple[Budget, ...]
    standings: tuple[BudgetStanding, ...]
    #: People's names of the ids of tenants and keys in them.
    names: dict[str, str] = {}


class BudgetList(Command[BudgetReport], frozen=True, kw_only=True, tag="budget.list"):
    """Where budgets stand: all of them, those that a tenant draws on, or one."""

    tenant: str | None = None
    budget: str | None = None
    result = BudgetReport
