"""The commands on tenants, keys and plans."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from trustgate.access.end_users import read_sources
from trustgate.access.keys import mint
from trustgate.admin.commands import (
    KeyCreate,
    KeyList,
    KeyRevoke,
    KeyRotate,
    KeySet,
    KeyShow,
    NewKey,
    PlanList,
    PlanPut,
    PlanRemove,
    PlanShow,
    TenantAdd,
    TenantDetail,
    TenantList,
    TenantRemove,
    TenantRestore,
    TenantResume,
    TenantSet,
    TenantShow,
    TenantSuspend,
    TenantWithKey,
)
from trustgate.admin.context import AdminContext
from trustgate.admin.own_keys import check_binds, check_room, ended_with, maker, own_key, revoked_with, within_life_of
from trustgate.admin.profiles import forget_profile_of
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.formats.written import INTEGER_MOST
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id, now_us
from trustgate.types import ENDPOINTS, FEATURES, ApiKey, Limits, Plan, Scope, Tenant, matches

T = TypeVar("T", Limits, Scope)

_NAME_MOST = 64
_OWN_KEYS_MOST = 1_000
#: A price a thousand times what a model costs is a slip of the keyboard.
_MOST_FACTOR_PPM = 1_000 * 1_000_000
#: Longer than any plan; keeps sums of times far from the largest integer.
_LIFETIME_MOST_S = 100 * 366 * 86_400


# tenants


async def tenant_add(context: AdminContext, command: TenantAdd) -> TenantWithKey:
    name = _free_tenant_name(context, command.name)
    plan = context.directory.plan(command.plan)
    at_us = now_us()
    tenant = Tenant(
        id=new_id("ten", at_us),
        name=name,
        plan=plan.name,
        price_factor_ppm=_checked_factor(command.price_factor_ppm),
        created_us=at_us,
    )
    new = _new_key(tenant, "default", at_us)
    await context.keep(tenant, new.key)
    return TenantWithKey(tenant=tenant, key=new.key, secret=new.secret)


async def tenant_list(context: AdminContext, command: TenantList) -> tuple[Tenant, ...]:
    return tuple(tenant for tenant in context.directory.tenants() if command.removed or tenant.status != "removed")


async def tenant_show(context: AdminContext, command: TenantShow) -> TenantDetail:
    tenant = context.tenant(command.tenant)
    return TenantDetail(
        tenant=tenant,
        plan=context.directory.plan(tenant.plan),
        keys=tuple(context.directory.keys_of(tenant.id)),
        terms=context.directory.terms(tenant.id),
    )


async def tenant_set(context: AdminContext, command: TenantSet) -> Tenant:
    tenant = _living(context, command.tenant)
    if command.name is not None and command.name != tenant.name:
        tenant = replace(tenant, name=_free_tenant_name(context, command.name))
    if command.plan is not None:
        tenant = replace(tenant, plan=context.directory.plan(command.plan).name)
    if command.price_factor_ppm is not None or command.factor_by_plan:
        tenant = replace(tenant, price_factor_ppm=_checked_factor(command.price_factor_ppm))
    await context.keep(tenant)
    return tenant


def _checked_factor(factor_ppm: int | None) -> int | None:
    if factor_ppm is not None and not 0 <= factor_ppm <= _MOST_FACTOR_PPM:
        raise InvalidRequest("The price factor must be between 0 and 1,000.", param="price_factor_ppm")
    return factor_ppm


async def tenant_suspend(context: AdminContext, command: TenantSuspend) -> Tenant:
    tenant = replace(_living(context, command.tenant), status="suspended")
    await context.keep(tenant)
    context.cut(_ids(context.directory.keys_of(tenant.id)))
    return tenant


async def tenant_resume(context: AdminContext, command: TenantResume) -> Tenant:
    tenant = replace(_living(context, command.tenant), status="active")
    await context.keep(tenant)
    return tenant


async def tenant_remove(context: AdminContext, command: TenantRemove) -> Tenant:
    """The tenant's name is free again and its keys are dead; its receipts and usage stay."""
    at_us = now_us()
    tenant = replace(_living(context, command.tenant), status="removed", removed_us=at_us)
    keys = context.directory.keys_of(tenant.id)
    await context.keep(tenant, *(replace(key, revoked_us=at_us) for key in keys if key.revoked_us is None))
    context.cut(_ids(keys))
    return tenant


async def tenant_restore(context: AdminContext, command: TenantRestore) -> TenantDetail:
    """Bring a removed tenant back, with the keys that its removal revoked, and its balance.

    Raises ``NotFound``, and ``Conflict`` where it was not removed or its name is another tenant's now.
    """
    tenant = _removed(context, command.tenant)
    name = command.name or tenant.name
    if command.name is None and any(
        other.name == name and other.status != "removed" for other in context.directory.tenants()
    ):
        raise Conflict(
            f"Another tenant is called {name!r} now.",
            hint=f"trustgate tenant restore {shlex.quote(tenant.id)} --name NAME",
            code="tenant_exists",
        )
    if command.name is not None:
        name = _free_tenant_name(context, command.name)
    plan = context.directory.plan(command.plan or tenant.plan)
    removed_us = tenant.removed_us
    tenant = replace(tenant, name=name, plan=plan.name, status="active", removed_us=None)
    keys = context.directory.keys_of(tenant.id)
    revived = [replace(key, revoked_us=None) for key in keys if removed_us is not None and key.revoked_us == removed_us]
    await context.keep(tenant, *revived)
    return await tenant_show(context, TenantShow(tenant=tenant.id))


def _removed(context: AdminContext, ref: str) -> Tenant:
    """Returns the removed tenant of this id or name."""
    ref = unicodedata.normalize("NFC", ref)
    found = [tenant for tenant in context.directory.tenants() if ref == tenant.id or ref == tenant.name]
    removed = [tenant for tenant in found if tenant.status == "removed"]
    if len(removed) == 1:
        return removed[0]
    if removed:
        shown = ", ".join(tenant.id for tenant in removed[-5:])
        raise Conflict(f"Several removed tenants are called {ref!r}: {shown}.", hint="Name one by its id.")
    if found:
        raise Conflict(f"The tenant {found[0].name!r} is not removed.", hint="trustgate tenant list --removed")
    raise NotFound(
        f"There is no removed tenant {ref!r}.", hint="trustgate tenant list --removed", code="tenant_not_found"
    )


def _living(context: AdminContext, ref: str) -> Tenant:
    tenant = context.tenant(ref)
    if tenant.status == "removed":
        raise Conflict(f"The tenant {tenant.name!r} was removed.", hint=f"trustgate tenant restore {tenant.id}")
    return tenant


def checked_name(name: str, whose: str) -> str:
    """Returns the name as it is kept: Unicode's composed form (NFC). Raises ``InvalidRequest``."""
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= _NAME_MOST or not name.isprintable() or name != name.strip():
        raise InvalidRequest(
            f"{whose} name must have 1 to {_NAME_MOST} printable characters, without blanks around it.", param="name"
        )
    if name.startswith("-"):
        raise InvalidRequest(f"{whose} name cannot begin with a dash.", param="name")
    if not name.strip("."):
        # In an address of the console such a name would be taken for a folder (RFC 3986, section 5.2.4).
        raise InvalidRequest(f"{whose} name cannot be of dots alone.", param="name")
    return name


def _free_tenant_name(context: AdminContext, name: str) -> str:
    name = checked_name(name, "A tenant's")
    if name.startswith("ten_"):
        raise InvalidRequest("A tenant's name cannot begin with ten_, as ids do.", param="name")
    if any(tenant.name == name and tenant.status != "removed" for tenant in context.directory.tenants()):
        raise Conflict(
            f"The tenant {name!r} already exists.",
            hint=f"trustgate tenant show {shlex.quote(name)}",
            code="tenant_exists",
        )
    return name


# keys


async def key_create(context: AdminContext, command: KeyCreate) -> NewKey:
    tenant = _living(context, command.tenant)
    _check_limits(command.limits)
    _check_scope(command.scope)
    at_us = now_us()
    expires_us = _expiry(command.expires_in_s, command.expires_us, at_us)
    made_by = ""
    if command.by_key:
        by = maker(context, command.by_key)
        check_room(context, tenant, at_us)
        made_by, expires_us = by.account_id, within_life_of(by, expires_us)
    new = _new_key(
        tenant,
        command.name,
        at_us,
        limits=command.limits,
        scope=command.scope,
        expires_us=expires_us,
        made_by=made_by,
    )
    await context.keep(new.key)
    return new


async def key_set(context: AdminContext, command: KeySet) -> ApiKey:
    """The changed key; its secret, and what was used of its limits, stay. In effect from the next request on."""
    by = maker(context, command.by_key) if command.by_key else None
    key = context.directory.key(command.key) if by is None else own_key(context, by, command.key)
    tenant = _living(context, key.tenant_id)
    if key.revoked_us is not None:
        raise Conflict(
            f"The key {key.id} has been revoked, so it cannot be changed.",
            hint=f"trustgate key create {shlex.quote(tenant.name)}",
        )
    if command.name is not None:
        key = replace(key, name=checked_name(command.name, "A key's"))
    if command.never_expires:
        key = replace(key, expires_us=None)
    expires_us = _expiry(command.expires_in_s, command.expires_us, now_us())
    if expires_us is not None:
        key = replace(key, expires_us=expires_us)
    if by is not None:
        key = replace(key, expires_us=within_life_of(by, key.expires_us))
    key = replace(
        key,
        limits=_changed(key.limits, command.limits, "a key"),
        scope=_changed(key.scope, command.scope, "a key"),
    )
    _check_limits(key.limits)
    _check_scope(key.scope)
    if (key.limits, key.scope) != (Limits(), Scope()):
        check_binds(context, key, "The limits of a key")
    await context.keep(key, *ended_with(context.directory.keys_of(key.tenant_id), key))
    return key


def _expiry(in_s: int | None, at: int | None, now: int) -> int | None:
    """Returns when a key expires, microseconds UTC; None where it does not. Raises ``InvalidRequest``."""
    if in_s is not None:
        return _after(in_s, now, least_s=1)
    if at is not None:
        _check_time(at, now)
    return at


async def key_list(context: AdminContext, command: KeyList) -> tuple[ApiKey, ...]:
    keys = context.directory.keys() if command.tenant is None else _keys_of(context, command.tenant)
    return tuple(key for key in keys if command.revoked or key.revoked_us is None)


def _keys_of(context: AdminContext, tenant: str) -> list[ApiKey]:
    return context.directory.keys_of(context.tenant(tenant).id)


async def key_show(context: AdminContext, command: KeyShow) -> ApiKey:
    return context.directory.key(command.key)


async def key_revoke(context: AdminContext, command: KeyRevoke) -> ApiKey:
    by = maker(context, command.by_key) if command.by_key else None
    key = context.directory.key(command.key) if by is None else own_key(context, by, command.key)
    at_us = now_us()
    ended = {key.id}
    if key.revoked_us is None:
        key = replace(key, revoked_us=at_us, revoked_by="" if by is None else by.account_id)
        made = revoked_with(context.directory.keys_of(key.tenant_id), key, at_us)
        await context.keep(key, *made)
        ended |= _ids(made)
    context.cut(ended)
    return key


async def key_rotate(context: AdminContext, command: KeyRotate) -> NewKey:
    old = context.directory.key(command.key)
    tenant = _living(context, old.tenant_id)
    at_us = now_us()
    if old.revoked_us is not None or (old.expires_us is not None and old.expires_us <= at_us):
        state = "has expired" if old.revoked_us is None else "has been revoked"
        raise Conflict(
            f"The key {old.id} {state}, so it cannot be rotated.",
            hint=f"trustgate key create {shlex.quote(tenant.name)}",
        )
    new = _new_key(
        tenant,
        old.name,
        at_us,
        limits=old.limits,
        scope=old.scope,
        expires_us=old.expires_us,
        origin_id=old.account_id,
        made_by=old.made_by,
    )
    ends_us = _expiry(None, command.until_us, at_us) or _after(command.grace_s, at_us, least_s=0)
    if ends_us == at_us:
        await context.keep(new.key, replace(old, revoked_us=at_us))
        context.cut({old.id})
    else:
        soonest_us = ends_us if old.expires_us is None else min(ends_us, old.expires_us)
        await context.keep(new.key, replace(old, expires_us=soonest_us))
    return new


def _new_key(
    tenant: Tenant,
    name: str,
    at_us: int,
    *,
    limits: Limits | None = None,
    scope: Scope | None = None,
    expires_us: int | None = None,
    origin_id: str = "",
    made_by: str = "",
) -> NewKey:
    name = checked_name(name, "A key's")
    minted = mint()
    key = ApiKey(
        id=new_id("key", at_us),
        tenant_id=tenant.id,
        name=name,
        secret_sha256=minted.sha256,
        redacted=minted.redacted,
        limits=limits or Limits(),
        scope=scope or Scope(),
        created_us=at_us,
        expires_us=expires_us,
        origin_id=origin_id,
        made_by=made_by,
    )
    return NewKey(key=key, secret=minted.secret)


def _after(seconds: int, at_us: int, *, least_s: int) -> int:
    """Returns the moment so many seconds later, microseconds UTC. Raises ``InvalidRequest``."""
    if not least_s <= seconds <= _LIFETIME_MOST_S:
        raise _no_such_time()
    return at_us + seconds * MICROSECONDS_PER_SECOND


def _check_time(wanted_us: int, at_us: int) -> None:
    if not at_us < wanted_us <= at_us + _LIFETIME_MOST_S * MICROSECONDS_PER_SECOND:
        raise _no_such_time()


def _no_such_time() -> InvalidRequest:
    return InvalidRequest("A time must be in the future, at most a hundred years from now.", param="expires")


def _ids(keys: Collection[ApiKey]) -> set[str]:
    return {key.id for key in keys}


# plans


async def plan_put(context: AdminContext, command: PlanPut) -> Plan:
    plan = _new_plan(context, command) if command.create else context.directory.plan(command.name)
    plan = replace(
        plan,
        limits=_changed(plan.limits, command.limits, "a plan"),
        scope=_changed(plan.scope, command.scope, "a plan"),
        on_disconnect=command.on_disconnect or plan.on_disconnect,
        price_factor_ppm=plan.price_factor_ppm if command.price_factor_ppm is None else command.price_factor_ppm,
        unpriced_models=command.unpriced_models or plan.unpriced_models,
        own_keys=plan.own_keys if command.own_keys is None else command.own_keys,
    )
    _checked_factor(plan.price_factor_ppm)
    if not 0 <= plan.own_keys <= _OWN_KEYS_MOST:
        raise InvalidRequest(f"own_keys must be a whole number from 0 to {_OWN_KEYS_MOST:,}.", param="own_keys")
    _check_limits(plan.limits)
    _check_scope(plan.scope)
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


def _changed(record: T, changes: Mapping[str, object], whose: str) -> T:
    unknown = changes.keys() - set(record.__struct_fields__)
    if unknown:
        raise InvalidRequest(f"There is no {', '.join(sorted(unknown))} in {whose}.")
    try:
        return msgspec.convert({**msgspec.to_builtins(record), **changes}, type(record))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid value for {whose}: {error}.") from None


def _check_limits(limits: Limits) -> None:
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if value is not None and not 0 <= value <= INTEGER_MOST:
            raise InvalidRequest(f"{name} must be a whole number from 0 on.", param=name)


def _check_scope(scope: Scope) -> None:
    for name in ("models", "endpoints", "features"):
        patterns: tuple[str, ...] = getattr(scope, name)
        if not all(pattern and pattern.isprintable() for pattern in patterns):
            raise InvalidRequest(f"{name} are globs of printable characters.", hint="* is everything.", param=name)
    read_sources(scope.end_users or ())
    for name, singular, known in (("endpoints", "endpoint", ENDPOINTS), ("features", "feature", FEATURES)):
        for pattern in getattr(scope, name):
            if not any(matches((pattern,), each) for each in known):
                raise InvalidRequest(
                    f"There is no {singular} {pattern!r}.", hint=f"The {name} are: {', '.join(known)}.", param=name
                )
