"""The price tables that receipts name by their hashes, from wherever they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import msgspec

from trustgate.formats.written import INTEGER_MOST
from trustgate.models.catalog import Catalog
from trustgate.models.pricelist import PriceBook, built_in, data_of
from trustgate.models.prices import FREE, NOT_PRICED, price_hash, without_call
from trustgate.store import Store
from trustgate.types import Prices


async def find_prices(store: Store, catalog: Catalog, hashes: Collection[str]) -> Mapping[str, Prices]:
    """Returns the tables with these hashes, as far as this installation knows them or did."""
    known = {price_hash(prices): prices for prices in (NOT_PRICED, FREE)}
    for passport in catalog.passports():
        known |= _with_and_without_calls(passport.prices)
    found = {wanted: known[wanted] for wanted in hashes if wanted in known}
    for wanted in hashes - found.keys():
        for change in (await store.price_changes(price_hash=wanted))[:1]:
            found[wanted] = change.prices
    if missing := hashes - found.keys():
        former: dict[str, Prices] = {}
        for change in await store.price_changes():
            former |= _with_and_without_calls(change.prices)
        found |= {wanted: former[wanted] for wanted in missing if wanted in former}
    if missing := hashes - found.keys():
        kept = (await store.load_state()).price_lists
        lists = [*(data_of(record) for record in reversed(kept)), built_in()]
        found |= await asyncio.to_thread(_listed, lists, missing)
    return found


def fits_statements(prices: Prices) -> bool:
    """Returns whether a statement can carry the table: every number in it is one that all readers keep exactly.

    Tables from before such numbers were refused may have others: what they priced is in statements, their price is not.
    """
    numbers = (value for rates in (prices, *prices.conditional) for value in msgspec.to_builtins(rates).values())
    return all(abs(value) <= INTEGER_MOST for value in numbers if isinstance(value, int))


def _with_and_without_calls(prices: Prices) -> dict[str, Prices]:
    """The table, and what looking at the outcome of a call is priced by, by their hashes."""
    return {price_hash(each): each for each in (prices, without_call(prices))}


def _listed(lists: list[bytes], wanted: Collection[str]) -> dict[str, Prices]:
    found: dict[str, Prices] = {}
    for data in lists:
        hashes = PriceBook(data).hashes()
        found |= {each: hashes[each].prices for each in wanted if each in hashes and each not in found}
        if len(found) < len(wanted):
            for listed in hashes.values():
                found |= {each: made for each, made in _with_and_without_calls(listed.prices).items() if each in wanted}
        if len(found) == len(wanted):
            break
    return found
