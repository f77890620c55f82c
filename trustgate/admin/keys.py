"""The commands on keys."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from msgspec.structs import replace

from trustgate.access.keys import mint
from trustgate.admin.checked import changed, check_limits, check_scope, checked_name
from trustgate.admin.commands import KeyCreate, KeyList, KeyRevoke, KeyRotate, KeySet, KeyShow, NewKey
from trustgate.admin.context import AdminContext
from trustgate.admin.own_keys import check_binds, check_room, ended_with, maker, own_key, revoked_with, within_life_of
from trustgate.errors import Conflict, InvalidRequest
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id, now_us
from trustgate.types import ApiKey, Limits, Scope, Tenant

#: Longer than any plan; keeps sums of times far from the largest integer.
_LIFETIME_MOST_S = 100 * 366 * 86_400


async def key_create(context: AdminContext, command: KeyCreate) -> NewKey:
    tenant = context.living_tenant(command.tenant)
    check_limits(command.limits)
    check_scope(command.scope)
    at_us = now_us()
    expires_us = _expiry(command.expires_in_s, command.expires_us, at_us)
    made_by = ""
    if command.by_key:
        by = maker(context, command.by_key)
        check_room(context, tenant, at_us)
        made_by, expires_us = by.account_id, within_life_of(by, expires_us)
    new = new_key(
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
    tenant = context.living_tenant(key.tenant_id)
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
        limits=changed(key.limits, command.limits, "a key"),
        scope=changed(key.scope, command.scope, "a key"),
    )
    check_limits(key.limits)
    check_scope(key.scope)
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
    tenant = context.living_tenant(old.tenant_id)
    at_us = now_us()
    if old.revoked_us is not None or (old.expires_us is not None and old.expires_us <= at_us):
        state = "has expired" if old.revoked_us is None else "has been revoked"
        raise Conflict(
            f"The key {old.id} {state}, so it cannot be rotated.",
            hint=f"trustgate key create {shlex.quote(tenant.name)}",
        )
    new = new_key(
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


def new_key(
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
    """Returns a key that is not kept yet, with its secret."""
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
