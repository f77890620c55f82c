"""The commands on plans."""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from trustgate.admin.checked import changed, check_limits, check_scope, checked_factor, checked_name
from trustgate.admin.commands import PlanList, PlanPut, PlanRemove, PlanShow
from trustgate.admin.context import AdminContext
from trustgate.admin.profiles import forget_profile_of
from trustgate.errors import Conflict, InvalidRequest
from trustgate.ids import now_us
from trustgate.types import Plan

_OWN_KEYS_MOST = 1_000


async def plan_put(context: AdminContext, command: PlanPut) -> Plan:
    plan = _new_plan(context, command) if command.create else context.directory.plan(command.name)
    plan = replace(
        plan,
        limits=changed(plan.limits, command.limits, "a plan"),
        scope=changed(plan.scope, command.scope, "a plan"),
        on_disconnect=command.on_disconnect or plan.on_disconnect,
        price_factor_ppm=plan.price_factor_ppm if command.price_factor_ppm is None else command.price_factor_ppm,
        unpriced_models=command.unpriced_models or plan.unpriced_models,
        own_keys=plan.own_keys if command.own_keys is None else command.own_keys,
    )
    checked_factor(plan.price_factor_ppm)
    if not 0 <= plan.own_keys <= _OWN_KEYS_MOST:
        raise InvalidRequest(f"own_keys must be a whole number from 0 to {_OWN_KEYS_MOST:,}.", param="own_keys")
    check_limits(plan.limits)
    check_scope(plan.scope)
    await context.keep(plan)
    return plan


def _new_plan(context: AdminContext, command: PlanPut) -> Plan:
    name = checked_name(command.name, "A plan's")
    if any(plan.name == name for plan in context.directory.plans()):
        raise Conflict(
            f"The plan {name!r} already exists.", hint=f"trustgate plan set {shlex.quote(name)} …", code="plan_exists"
        )
    like = Plan(name="") if command.like is None else context.directory.plan(command.like)
    return replace(like, name=name, created_us=now_us())


async def plan_list(context: AdminContext, command: PlanList) -> tuple[Plan, ...]:
    return tuple(context.directory.plans())


async def plan_show(context: AdminContext, command: PlanShow) -> Plan:
    return context.directory.plan(command.name)


async def plan_remove(context: AdminContext, command: PlanRemove) -> Plan:
    plan = context.directory.plan(command.name)
    users = [
        tenant.name for tenant in context.directory.tenants() if tenant.plan == plan.name and tenant.status != "removed"
    ]
    if users:
        shown = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
        raise Conflict(
            f"The plan {plan.name!r} is in use by {shown}.",
            hint="Move them first: trustgate tenant set NAME --plan OTHER",
            code="plan_in_use",
        )
    await forget_profile_of(context, plan)
    await context.forget(plan)
    return plan
