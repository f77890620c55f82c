"""Which budgets a request draws on, and whose counter of each: what is known of its caller against a budget's reach."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from trustgate.types import Budget, matches


class Drawer(NamedTuple):
    """Who draws on budgets, and with which model."""

    tenant_id: str
    #: What the key's use is counted under (``ApiKey.account_id``).
    key_id: str
    plan: str
    #: The names that the model goes by; none for a request without a model.
    models: tuple[str, ...]
    #: Pseudonym; "" for a request that names no end user; None where the key's requests do not name any.
    end_user: str | None = None


def applies(budget: Budget, tenant_id: str, key_id: str, plan: str) -> bool:
    """Returns whether a tenant's requests with a key draw on a budget, whatever the model."""
    return budget.everyone or tenant_id in budget.tenants or key_id in budget.keys or plan in budget.plans


def covers(budget: Budget, models: tuple[str, ...]) -> bool:
    """Returns whether a budget is for a model of these names."""
    return budget.covers_all_models or any(matches(budget.models, name) for name in models)


def hides_figures(budget: Budget) -> bool:
    """Whether tenants that draw on it do not see its use: it is that of tenants who need not know of each other."""
    return budget.each == "all" and (budget.everyone or bool(budget.plans))


def reach_of(budget: Budget) -> Budget:
    """Returns what decides which use a budget counts."""
    return msgspec.structs.replace(budget, name="", amount=0, hard=True, notice_at_percent=(), created_us=0)


def subject_of(budget: Budget, drawer: Drawer) -> str | None:
    """Whose counter a request draws on; None: on none of this budget's."""
    if budget.each == "all":
        return ""
    if budget.each == "tenant":
        return drawer.tenant_id
    if budget.each == "key":
        return drawer.key_id
    # Leaving out the name must not be a way around the budget: those without one have one together.
    return None if drawer.end_user is None else drawer.end_user or f"{drawer.tenant_id}/unnamed"
