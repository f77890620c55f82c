"""The commands on passports and aliases."""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from trustgate.access.directory import Directory, limits_money
from trustgate.admin.commands import (
    AliasList,
    AliasRemove,
    AliasSet,
    ImportResult,
    PassportAdd,
    PassportImport,
    PassportList,
    PassportSet,
    PassportShow,
    PassportStatus,
)
from trustgate.admin.context import AdminContext
from trustgate.admin.money import PaymentFinding, PriceCheck
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.ids import new_id, now_us
from trustgate.models.catalog import Catalog
from trustgate.models.passports import change_passport, check_name, make_passport
from trustgate.types import Alias, Passport


async def passport_add(context: AdminContext, command: PassportAdd) -> Passport:
    _check_free(context, command.slug)
    at_us = now_us()
    passport = make_passport(new_id("passport", at_us), command.slug, command.fields, at_us)
    _check_fallbacks(context, passport, {})
    await context.keep(passport)
    return passport


async def passport_set(context: AdminContext, command: PassportSet) -> Passport:
    passport = change_passport(
        context.catalog.passport(command.passport), command.fields, unset=command.unset, prices=command.prices
    )
    _check_fallbacks(context, passport, {})
    await context.keep(passport)
    return passport


async def passport_list(context: AdminContext, command: PassportList) -> tuple[Passport, ...]:
    return tuple(
        passport for passport in context.catalog.passports() if command.revoked or passport.status != "revoked"
    )


async def passport_show(context: AdminContext, command: PassportShow) -> Passport:
    return context.catalog.passport(command.passport)


async def passport_status(context: AdminContext, command: PassportStatus) -> Passport:
    passport = replace(context.catalog.passport(command.passport), status=command.status)
    await context.keep(passport)
    return passport


async def price_check(context: AdminContext, command: PriceCheck) -> tuple[PaymentFinding, ...]:
    return price_findings(context.directory, context.catalog, command.plan)


def price_findings(directory: Directory, catalog: Catalog, plan: str | None = None) -> tuple[PaymentFinding, ...]:
    """Models without a price that a limit on money refuses, of one plan or of all; none where no such limit is."""
    plans = {plan.name: plan for plan in directory.plans()}
    limited = {name for name, plan in plans.items() if limits_money(plan.limits)}
    tenants = {tenant.id: tenant for tenant in directory.tenants() if tenant.status != "removed"}
    limited |= {
        tenants[key.tenant_id].plan
        for key in directory.keys()  # noqa: SIM118 - not a mapping
        if key.revoked_us is None and key.tenant_id in tenants and limits_money(key.limits)
    }
    refusing = sorted(name for name in limited if plans[name].unpriced_models == "refuse")
    if plan is not None:
        refusing = [name for name in refusing if name == plan]
    unpriced = catalog.not_priced()
    if not refusing or not unpriced:
        return ()
    shown = ", ".join(unpriced[:5]) + (f" and {len(unpriced) - 5} more" if len(unpriced) > 5 else "")
    whose = ", ".join(refusing[:5])
    return (
        PaymentFinding(
            status="warn",
            message=f"without a price, so refused where spending is limited (plan {whose}): {shown}",
            hint="trustgate passport set MODEL --input-price USD --output-price USD (or --free), "
            f"or: trustgate plan set {shlex.quote(refusing[0])} --unpriced-models allow",
        ),
    )


async def passport_import(context: AdminContext, command: PassportImport) -> ImportResult:
    """Returns all of the file or none of it."""
    if command.only_existing:
        return await _import_into_existing(context, command)
    known = {passport.slug: passport for passport in context.catalog.passports()}
    at_us = now_us()
    added: dict[str, Passport] = {}
    changed: dict[str, Passport] = {}
    unchanged = 0
    for imported in command.passports:
        existing = known.get(imported.slug)
        if existing is None:
            _check_free(context, imported.slug)
            added[imported.slug] = make_passport(new_id("passport", at_us), imported.slug, imported.fields, at_us)
        elif (passport := change_passport(existing, imported.fields)) == existing:
            unchanged += 1
        else:
            changed[imported.slug] = passport
    for passport in (*added.values(), *changed.values()):
        _check_fallbacks(context, passport, added)
    await context.keep(*added.values(), *changed.values())
    return ImportResult(added=tuple(added), changed=tuple(changed), unchanged=unchanged)


async def _import_into_existing(context: AdminContext, command: PassportImport) -> ImportResult:
    """Set the prices of every passport whose model is in the table.

    The table may know the model by the passport's slug, by its model id, or by provider and model id.
    """
    table = {imported.slug: imported.fields for imported in command.passports}
    changed: dict[str, Passport] = {}
    unchanged = 0
    for passport in context.catalog.passports():
        names = (passport.slug, passport.api_model_id, f"{passport.provider}/{passport.api_model_id}")
        fields = next((table[name] for name in names if name in table), None)
        if fields is None or passport.is_wildcard:
            continue
        # Which server has the model is set by the operator, not by the table.
        new = change_passport(passport, replace(fields, provider=None, api_model_id=None))
        if new == passport:
            unchanged += 1
        else:
            changed[passport.slug] = new
    await context.keep(*changed.values())
    return ImportResult(added=(), changed=tuple(changed), unchanged=unchanged)


async def alias_set(context: AdminContext, command: AliasSet) -> Alias:
    _check_alias_name(context, command.name)
    alias = Alias(name=command.name, target=_alias_target(context, command.name, command.target))
    await context.keep(alias)
    return alias


def _check_alias_name(context: AdminContext, name: str) -> None:
    check_name(name, "An alias")
    if "*" in name:
        raise InvalidRequest("An alias cannot have a * in it.", param="name")
    if any(passport.slug == name for passport in context.catalog.passports()):
        raise Conflict(f"{name!r} is a passport: it cannot be an alias too.", code="alias_taken")
    if any(alias.target == name for alias in context.catalog.aliases()):
        raise Conflict(f"{name!r} is the target of other aliases, so it cannot be an alias itself.", code="alias_taken")


def _alias_target(context: AdminContext, name: str, target: str) -> str:
    """Returns the slug, or the name under a wildcard such as openai/*, that an alias may lead to.

    Raises ``NotFound``, or ``InvalidRequest`` for another alias.
    """
    if target == name or any(alias.name == target for alias in context.catalog.aliases()):
        raise InvalidRequest(f"{target!r} is an alias itself.", hint="Name the passport behind it.", param="target")
    passport = _answering(context, target)
    if passport is None:
        raise _no_passport(target)
    return target if passport.is_wildcard else passport.slug


def _answering(context: AdminContext, name: str) -> Passport | None:
    """Returns the passport for a model's name, if one is meant for it: ``*`` takes any name and so proves nothing."""
    resolved = None if "*" in name else context.catalog.resolve(name)
    return None if resolved is None or resolved.passport.slug == "*" else resolved.passport


def _no_passport(name: str) -> NotFound:
    return NotFound(
        f"There is no passport {name!r}.",
        hint=f"See trustgate passport list, or add it: trustgate passport add {shlex.quote(name)}",
        code="passport_not_found",
    )


async def alias_list(context: AdminContext, command: AliasList) -> tuple[Alias, ...]:
    return tuple(context.catalog.aliases())


async def alias_remove(context: AdminContext, command: AliasRemove) -> Alias:
    for alias in context.catalog.aliases():
        if alias.name == command.name:
            await context.forget(alias)
            return alias
    raise NotFound(
        f"There is no alias {command.name!r}.", hint="trustgate passport alias --list", code="alias_not_found"
    )


def _check_free(context: AdminContext, slug: str) -> None:
    if any(passport.slug == slug for passport in context.catalog.passports()):
        raise Conflict(
            f"The passport {slug!r} already exists.",
            hint=f"trustgate passport set {shlex.quote(slug)} …",
            code="passport_exists",
        )
    if any(alias.name == slug for alias in context.catalog.aliases()):
        raise Conflict(
            f"{slug!r} is an alias.",
            hint=f"trustgate passport alias --remove {shlex.quote(slug)}",
            code="passport_exists",
        )


def _check_fallbacks(context: AdminContext, passport: Passport, added: dict[str, Passport]) -> None:
    """``added`` are passports that will be kept together with this one."""
    for fallback in passport.fallbacks:
        if fallback.passport not in added and _answering(context, fallback.passport) is None:
            raise _no_passport(fallback.passport)
