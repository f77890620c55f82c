"""The commands on tenants."""

from __future__ import annotations

import shlex
import unicodedata

from msgspec.structs import replace

from trustgate.admin.checked import checked_factor, checked_name
from trustgate.admin.commands import (
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
from trustgate.admin.keys import new_key
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.ids import new_id, now_us
from trustgate.types import Tenant


async def tenant_add(context: AdminContext, command: TenantAdd) -> TenantWithKey:
    name = _free_tenant_name(context, command.name)
    plan = context.directory.plan(command.plan)
    at_us = now_us()
    tenant = Tenant(
        id=new_id("ten", at_us),
        name=name,
        plan=plan.name,
        price_factor_ppm=checked_factor(command.price_factor_ppm),
        created_us=at_us,
    )
    new = new_key(tenant, "default", at_us)
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
    tenant = context.living_tenant(command.tenant)
    if command.name is not None and command.name != tenant.name:
        tenant = replace(tenant, name=_free_tenant_name(context, command.name))
    if command.plan is not None:
        tenant = replace(tenant, plan=context.directory.plan(command.plan).name)
    if command.price_factor_ppm is not None or command.factor_by_plan:
        tenant = replace(tenant, price_factor_ppm=checked_factor(command.price_factor_ppm))
    await context.keep(tenant)
    return tenant


async def tenant_suspend(context: AdminContext, command: TenantSuspend) -> Tenant:
    tenant = replace(context.living_tenant(command.tenant), status="suspended")
    await context.keep(tenant)
    context.cut({key.id for key in context.directory.keys_of(tenant.id)})
    return tenant


async def tenant_resume(context: AdminContext, command: TenantResume) -> Tenant:
    tenant = replace(context.living_tenant(command.tenant), status="active")
    await context.keep(tenant)
    return tenant


async def tenant_remove(context: AdminContext, command: TenantRemove) -> Tenant:
    """The tenant's name is free again and its keys are dead; its receipts and usage stay."""
    at_us = now_us()
    tenant = replace(context.living_tenant(command.tenant), status="removed", removed_us=at_us)
    keys = context.directory.keys_of(tenant.id)
    await context.keep(tenant, *(replace(key, revoked_us=at_us) for key in keys if key.revoked_us is None))
    context.cut({key.id for key in keys})
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
