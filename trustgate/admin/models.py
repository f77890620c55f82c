"""The commands on passports and aliases."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from msgspec.structs import replace

from trustgate.admin.context import AdminContext
from trustgate.admin.model_commands import (
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
from trustgate.admin.prices import with_listed_price
from trustgate.errors import Conflict, InvalidRequest, NotFound
from trustgate.ids import new_id, now_us
from trustgate.models.passports import PassportFields, change_passport, check_name, make_passport
from trustgate.models.prices import NOT_PRICED, merged, price_hash
from trustgate.types import Alias, Passport, PriceChange


async def passport_add(context: AdminContext, command: PassportAdd) -> Passport:
    _check_free(context, command.slug)
    at_us = now_us()
    passport = make_passport(new_id("passport", at_us), command.slug, command.fields, at_us)
    _check_fallbacks(context, passport, {})
    passport, *changes = _repriced(None, passport, BY_HAND)
    await context.keep(passport, *changes)
    return passport


async def passport_set(context: AdminContext, command: PassportSet) -> Passport:
    old = context.catalog.passport(command.passport)
    passport = change_passport(
        old,
        command.fields,
        unset=command.unset,
        prices=command.prices,
        conditions=command.conditions,
        clear_conditions=command.clear_conditions,
    )
    _check_fallbacks(context, passport, {})
    passport, *changes = _repriced(old, passport, BY_HAND)
    await context.keep(passport, *changes)
    return passport


#: The source of a price that an operator has set.
BY_HAND = "set by hand"


def _repriced(old: Passport | None, new: Passport, source: str) -> tuple[Passport, *tuple[PriceChange, ...]]:
    """Returns the passport with where its prices come from, where they are new, and what its history gets."""
    before = NOT_PRICED if old is None else old.prices
    if new.prices == before:
        return (new,)
    at_us = now_us()
    changes = [_price_change(new, source, at_us)]
    if old is not None and before != NOT_PRICED and not old.priced_us:
        # From before there was a history: what held until now must be found in it.
        changes.insert(0, _price_change(old, BY_HAND, old.created_us))
    return (replace(new, price_source=source, priced_us=at_us), *changes)


def _price_change(passport: Passport, source: str, from_us: int) -> PriceChange:
    return PriceChange(
        id=new_id("price", from_us),
        passport_id=passport.id,
        slug=passport.slug,
        price_hash=price_hash(passport.prices),
        prices=passport.prices,
        source=source,
        from_us=from_us,
    )


def _with_kept_prices(existing: Passport, fields: PassportFields) -> PassportFields:
    """Returns a file's fields over what was set before: prices that it does not name stay."""
    return fields if fields.prices is None else replace(fields, prices=merged(existing.prices, fields.prices))


async def passport_list(context: AdminContext, command: PassportList) -> tuple[Passport, ...]:
    return tuple(
        with_listed_price(context.catalog, passport)
        for passport in context.catalog.passports()
        if command.revoked or passport.status != "revoked"
    )


async def passport_show(context: AdminContext, command: PassportShow) -> Passport:
    return with_listed_price(context.catalog, context.catalog.passport(command.passport))


async def passport_status(context: AdminContext, command: PassportStatus) -> Passport:
    passport = replace(context.catalog.passport(command.passport), status=command.status)
    await context.keep(passport)
    return passport


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
        elif (passport := change_passport(existing, _with_kept_prices(existing, imported.fields))) == existing:
            unchanged += 1
        else:
            changed[imported.slug] = passport
    for passport in (*added.values(), *changed.values()):
        _check_fallbacks(context, passport, added)
    await _keep_repriced(context, known, (*added.values(), *changed.values()), command.source)
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
        kept = _with_kept_prices(passport, replace(fields, provider=None, api_model_id=None))
        new = change_passport(passport, kept)
        if new == passport:
            unchanged += 1
        else:
            changed[passport.slug] = new
    known = {passport.slug: passport for passport in context.catalog.passports()}
    await _keep_repriced(context, known, tuple(changed.values()), command.source)
    return ImportResult(added=(), changed=tuple(changed), unchanged=unchanged)


async def _keep_repriced(
    context: AdminContext, known: Mapping[str, Passport], passports: tuple[Passport, ...], source: str
) -> None:
    repriced = [_repriced(known.get(passport.slug), passport, source) for passport in passports]
    changes = [change for _, *changes in repriced for change in changes]
    await context.keep(*(passport for passport, *_ in repriced), *changes)


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
