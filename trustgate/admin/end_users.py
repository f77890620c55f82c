"""The commands on end users: the users of an app behind a key, by pseudonym."""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from trustgate.access.end_users import is_pseudonym, pseudonym, salt_of
from trustgate.admin.budgeting import EndUserDetail, EndUserList, EndUserSet, EndUserShow, EndUserUsage
from trustgate.admin.budgets import counted_budgets
from trustgate.admin.context import AdminContext
from trustgate.errors import InvalidRequest, NotFound
from trustgate.formats.written import INTEGER_MOST
from trustgate.ids import now_us
from trustgate.store.queries import EndUserUse
from trustgate.types import EndUser, Tenant

_LIST_MOST = 10_000


async def end_user_list(context: AdminContext, command: EndUserList) -> tuple[EndUserUsage, ...]:
    tenant = context.tenant(command.tenant)
    if not 1 <= command.limit <= _LIST_MOST:
        raise InvalidRequest(f"limit must be a number from 1 to {_LIST_MOST}.", param="limit")
    await context.flush()
    decided = context.directory.end_users(tenant.id)
    used = {use.end_user: use for use in await context.store.end_users(tenant.id, command.since_us, command.limit)}
    idle = [end_user for end_user in decided if end_user not in used]
    return tuple(_usage(context, decided.get(each), each, used.get(each)) for each in (*used, *idle))


async def end_user_show(context: AdminContext, command: EndUserShow) -> EndUserDetail:
    tenant = context.tenant(command.tenant)
    end_user = _pseudonym(context, tenant, command.end_user)
    await context.flush()
    used = {use.end_user: use for use in await context.store.end_users(tenant.id, 0, 1, end_user)}
    decided = context.directory.end_users(tenant.id).get(end_user)
    if decided is None and end_user not in used:
        raise NotFound(
            f"The tenant {tenant.name!r} has no end user {end_user}.",
            hint=f"trustgate end-user list {shlex.quote(tenant.name)}",
            code="end_user_not_found",
        )
    at_us = now_us()
    budgets = await counted_budgets(context, at_us)
    keys = {key.account_id for key in context.directory.keys_of(tenant.id)}
    standings = budgets.standings_of(tenant.id, keys, tenant.plan, at_us)
    return EndUserDetail(
        usage=_usage(context, decided, end_user, used.get(end_user)),
        standings=tuple(standing for standing in standings if standing.subject == end_user),
    )


async def end_user_set(context: AdminContext, command: EndUserSet) -> EndUserUsage:
    tenant, at_us = context.tenant(command.tenant), now_us()
    end_user = _pseudonym(context, tenant, command.end_user)
    decided = context.directory.end_users(tenant.id).get(end_user) or EndUser(id=end_user, tenant_id=tenant.id)
    if command.blocked is not None:
        decided = replace(decided, blocked=command.blocked)
    if command.budget is not None:
        budget = context.directory.budget(command.budget)
        if budget.each != "end_user":
            raise InvalidRequest(
                f"The budget {budget.name!r} does not count each end user separately.",
                hint="Such a budget is made with --each end-user.",
                param="budget",
            )
        if command.amount is not None and not 0 <= command.amount <= INTEGER_MOST:
            raise InvalidRequest("An amount must be 0 or more, and less than 2^53.", param="amount")
        others = {budget_id: amount for budget_id, amount in decided.amounts.items() if budget_id != budget.id}
        own = {} if command.amount is None else {budget.id: command.amount}
        decided = replace(decided, amounts=others | own)
    decided = replace(decided, changed_us=at_us)
    await context.keep(decided)
    return _usage(context, decided, end_user, None)


def _pseudonym(context: AdminContext, tenant: Tenant, ref: str) -> str:
    if is_pseudonym(ref):
        return ref
    name = ref.strip()
    if not name:
        raise InvalidRequest(
            "An end user's name is not empty.",
            hint=f"trustgate end-user list {tenant.name}",
            param="end_user",
        )
    key = context.directory.pseudonym_key
    if key is None:
        raise NotFound(
            "No key or plan names end users yet.",
            hint="trustgate key set KEY --end-users header:NAME",
            code="end_users_off",
        )
    return pseudonym(salt_of(key.secret, tenant.id), name)


def _usage(context: AdminContext, decided: EndUser | None, end_user: str, use: EndUserUse | None) -> EndUserUsage:
    names = {budget.id: budget.name for budget in context.directory.budgets()}
    amounts = {} if decided is None else {names[ref]: n for ref, n in decided.amounts.items() if ref in names}
    blocked = decided is not None and decided.blocked
    if use is None:
        return EndUserUsage(end_user=end_user, blocked=blocked, amounts=amounts)
    return EndUserUsage(
        end_user=end_user,
        requests=use.requests,
        tokens=use.tokens,
        cost_nano_usd=use.cost_nano_usd,
        first_us=use.first_us,
        last_us=use.last_us,
        blocked=blocked,
        amounts=amounts,
    )
