"""The commands on prices: what a model costs and did, the price list that holds, and what limits on money refuse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from msgspec.structs import replace

from trustgate.access.budget_reach import applies
from trustgate.access.directory import Directory, limits_money
from trustgate.admin.context import AdminContext
from trustgate.admin.money import (
    PaymentFinding,
    PriceChanged,
    PriceCheck,
    PriceFound,
    PriceHistory,
    PriceListUpdate,
    PriceShow,
    PriceUpdate,
)
from trustgate.errors import InvalidRequest, NotFound
from trustgate.models.catalog import Catalog
from trustgate.models.passports import check_prices
from trustgate.models.pricelist import PriceBook, as_record, built_in, data_of
from trustgate.models.prices import is_priced, price_hash
from trustgate.types import Passport, PriceChange, Prices

_HASH = re.compile(r"[0-9a-f]{64}")
_CHANGED_MOST = 100


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
    money = [
        each for each in directory.budgets() if each.hard and each.unit == "cost_nano_usd" and each.covers_all_models
    ]
    limited |= {
        tenant.plan
        for tenant in tenants.values()
        for budget in money
        if any(applies(budget, tenant.id, key.account_id, tenant.plan) for key in directory.keys_of(tenant.id))
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
            hint="Give it a price: trustgate passport set MODEL --input-price USD --output-price USD (or --free), "
            f"or let it pass: trustgate plan set {shlex.quote(refusing[0])} --unpriced-models allow",
        ),
    )


def with_listed_price(catalog: Catalog, passport: Passport) -> Passport:
    """Returns the passport as it is shown: with the price list's price and its source where it has none of its own."""
    if is_priced(passport.prices):
        return passport
    if passport.is_wildcard:
        return replace(passport, price_source=f"by name: {catalog.price_book.title}")
    price = catalog.price_of(passport, passport.api_model_id, passport.slug)
    return replace(passport, prices=price.prices, price_source=price.source)


async def price_show(context: AdminContext, command: PriceShow) -> tuple[PriceFound, ...]:
    if _HASH.fullmatch(command.name):
        return await _by_hash(context, command.name)
    resolved = context.catalog.resolve(command.name)
    if resolved is None:
        raise NotFound(
            f"No passport serves {command.name!r}.", hint="trustgate passport list", code="passport_not_found"
        )
    passport, price = resolved.passport, resolved.price
    own = is_priced(passport.prices)
    return (
        PriceFound(
            model=command.name,
            passport=passport.slug,
            prices=price.prices,
            source=price.source,
            from_us=passport.priced_us if own else 0,
            price_hash=price.hash,
        ),
    )


async def _by_hash(context: AdminContext, wanted: str) -> tuple[PriceFound, ...]:
    found = [_of_change(change) for change in await context.store.price_changes(price_hash=wanted)]
    found += [
        _as_found(passport.slug, passport, passport.price_source, passport.priced_us)
        for passport in context.catalog.passports()
        if price_hash(passport.prices) == wanted and not found
    ]
    for book, installed_us in await _books(context):
        found += [
            PriceFound(
                model=listed.name,
                passport="",
                prices=listed.prices,
                source=book.title,
                from_us=installed_us,
                price_hash=wanted,
            )
            for listed in book
            if price_hash(listed.prices) == wanted
        ]
    if not found:
        raise NotFound("No price here has that hash, nor had it.", code="price_not_found")
    return tuple(found[:_CHANGED_MOST])


def _of_change(change: PriceChange) -> PriceFound:
    return PriceFound(
        model=change.slug,
        passport=change.slug,
        prices=change.prices,
        source=change.source,
        from_us=change.from_us,
        price_hash=change.price_hash,
    )


def _as_found(model: str, passport: Passport, source: str, from_us: int) -> PriceFound:
    return PriceFound(
        model=model,
        passport=passport.slug,
        prices=passport.prices,
        source=source,
        from_us=from_us,
        price_hash=price_hash(passport.prices),
    )


async def _books(context: AdminContext) -> list[tuple[PriceBook, int]]:
    """Every list there was, each with the time from which it held; the program's own first."""
    kept = (await context.store.load_state()).price_lists
    books = [(PriceBook(data_of(record)), record.installed_us) for record in kept]
    own = PriceBook(built_in())
    return books if any(book.title == own.title for book, _ in books) else [(own, 0), *books]


async def price_history(context: AdminContext, command: PriceHistory) -> tuple[PriceFound, ...]:
    passport = context.catalog.passport(command.passport)
    changes = await context.store.price_changes(passport_id=passport.id)
    if not changes and is_priced(passport.prices):
        return (_as_found(passport.slug, passport, passport.price_source, passport.created_us),)
    return tuple(_of_change(change) for change in changes)


async def price_list_update(context: AdminContext, command: PriceListUpdate) -> PriceUpdate:
    new, old = PriceBook(command.data), context.catalog.price_book
    before = {listed.name: listed.prices for listed in old}
    after = {listed.name: listed.prices for listed in new}
    for name, prices in after.items():
        try:
            check_prices(prices)
        except InvalidRequest as error:
            raise InvalidRequest(f"The price list's entry {name!r} is no price: {error.message}") from None
    changed = list(_changed(before, after))
    if command.install:
        kept = (await context.store.load_state()).price_lists
        # What held until now must be found later, also when it came with a program that is replaced.
        first = () if kept else (as_record(built_in(), 0),)
        await context.keep(*first, as_record(command.data))
    return PriceUpdate(
        source=new.source,
        as_of=new.as_of,
        before=old.title,
        models=len(new),
        added=len(after.keys() - before.keys()),
        removed=len(before.keys() - after.keys()),
        changes=len(changed),
        changed=tuple(changed[:_CHANGED_MOST]),
        installed=command.install,
    )


def _changed(before: dict[str, Prices], after: dict[str, Prices]) -> Iterator[PriceChanged]:
    for name, prices in after.items():
        old = before.get(name)
        if old is not None and price_hash(old) != price_hash(prices):
            yield PriceChanged(name=name, before=old, after=prices)
