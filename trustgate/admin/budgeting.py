"""The verbs on budgets and end users, as data; see ``admin.commands``."""

from __future__ import annotations

from typing import Literal

import msgspec

from trustgate.access.budget_counter import BudgetStanding
from trustgate.admin.commands import Command
from trustgate.types import Budget, Unit


class BudgetPut(Command[Budget], frozen=True, kw_only=True, tag="budget.put"):
    """Add a budget (``create``) or change one. What is None stays; a new one wants unit, amount and span."""

    budget: str
    create: bool = False
    name: str | None = None
    unit: Unit | None = None
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


# end users; USER is a name as an app names it, or a pseudonym


class EndUserUsage(msgspec.Struct, frozen=True, kw_only=True):
    """An end user of a tenant: what it has used in the time that was asked for, and what was decided of it."""

    #: Pseudonym; "" stands for all requests that named none.
    end_user: str
    requests: int = 0
    tokens: int = 0
    cost_nano_usd: int = 0
    #: Of its first and last request in that time; 0 where there was none.
    first_us: int = 0
    last_us: int = 0
    blocked: bool = False
    #: Its own amounts, by the name of the budget that each end user has.
    amounts: dict[str, int] = {}


class EndUserList(Command[tuple[EndUserUsage, ...]], frozen=True, kw_only=True, tag="end-user.list"):
    """Those with requests since then, the dearest first, and those of whom something was decided."""

    tenant: str
    since_us: int = 0
    limit: int = 100
    result = tuple[EndUserUsage, ...]


class EndUserDetail(msgspec.Struct, frozen=True, kw_only=True):
    usage: EndUserUsage
    #: Where the budgets stand that it has.
    standings: tuple[BudgetStanding, ...]


class EndUserShow(Command[EndUserDetail], frozen=True, kw_only=True, tag="end-user.show"):
    tenant: str
    end_user: str
    result = EndUserDetail


class EndUserSet(Command[EndUserUsage], frozen=True, kw_only=True, tag="end-user.set"):
    """Block or unblock an end user, or give it another amount of a budget that each end user has."""

    tenant: str
    end_user: str
    blocked: bool | None = None
    budget: str | None = None
    #: With ``budget``; None gives back the budget's own.
    amount: int | None = None
    result = EndUserUsage
