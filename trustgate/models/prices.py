"""Price tables as data (``types.Prices``): their hash, how they are changed, and what in them looks mistaken."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from trustgate.types import ConditionalRates, Prices, Rates

__all__ = [
    "CONDITIONS",
    "CONDITION_MOST",
    "FREE",
    "NOT_PRICED",
    "RATES",
    "gaps",
    "given",
    "is_by_tokens",
    "is_priced",
    "merged",
    "price_hash",
    "slips",
    "with_condition",
    "without_call",
]

NOT_PRICED: Final = Prices()
FREE: Final = Prices(free=True)

#: The names of all rates, and of all conditions.
RATES: Final = Rates.__struct_fields__
CONDITIONS: Final = tuple(name for name in ConditionalRates.__struct_fields__ if name not in RATES)
#: Characters of a tier, size or quality: prices look at no more of it, so that a receipt, which keeps these, shows all
#: that its price looked at.
CONDITION_MOST: Final = 32
#: Pico-USD a token: $10 a thousand tokens, and a thousandth of a cent a million. Beyond them a unit was mistaken.
_DEAREST_PICO_USD: Final = 10_000_000_000
_CHEAPEST_PICO_USD: Final = 10


def is_priced(prices: Prices) -> bool:
    """Returns whether the table sets a price: free is one, an empty table is none."""
    return prices != NOT_PRICED


def is_by_tokens(prices: Prices) -> bool:
    """Returns whether the table has a price of tokens, apart from conditions."""
    return bool(
        prices.input_pico_usd
        or prices.output_pico_usd
        or prices.audio_input_pico_usd
        or prices.audio_output_pico_usd
        or prices.image_output_pico_usd
    )


def price_hash(prices: Prices) -> str:
    """Returns the SHA-256 (hex) of the table in JSON with sorted keys: what a receipt calls ``price_hash``.

    What a table does not say is not in its JSON, so the hash of an older table stays what it was.
    """
    return hashlib.sha256(msgspec.json.encode(prices, order="sorted")).hexdigest()


def slips(prices: Prices) -> list[str]:
    """Returns which rates look like a slip of the unit, as text for people; none where all are plausible."""
    found = []
    for rates in (prices, *prices.conditional):
        for name in RATES:
            rate = getattr(rates, name)
            if rate and name.endswith("_pico_usd") and not _CHEAPEST_PICO_USD <= rate <= _DEAREST_PICO_USD:
                usd = f"{rate / 1_000_000:,.6f}".rstrip("0").rstrip(".")
                what = "more than $10 a thousand" if rate > _DEAREST_PICO_USD else "less than $0.00001 a million"
                found.append(f"{name.removesuffix('_pico_usd').replace('_', ' ')} ${usd} a million ({what})")
    return list(dict.fromkeys(found))


def gaps(prices: Prices) -> list[str]:
    """Returns what a table leaves free beside what it has a rate for, as text for people. A rate of 0 leaves no gap."""
    found = []
    if prices.input_pico_usd is None:
        of_cache = prices.cached_input_pico_usd, prices.cache_write_pico_usd, prices.cache_write_1h_pico_usd
        if of_cache != (None, None, None):
            found.append("prompt tokens that are neither read from the cache nor written to it")
        elif prices.output_pico_usd is not None:
            found.append("prompts")
    if prices.output_pico_usd is None:
        other = prices.audio_output_pico_usd, prices.image_output_pico_usd
        if prices.reasoning_pico_usd is not None:
            found.append("completion tokens apart from reasoning")
        elif prices.input_pico_usd is not None and other == (None, None):
            found.append("completions (embeddings have none)")
    return found


def without_call(prices: Prices) -> Prices:
    """Returns the table without what a call costs; the same one where it says nothing of that."""
    rows = (prices, *prices.conditional)
    if all(rates.call_nano_usd is None for rates in rows):
        return prices
    conditional = tuple(msgspec.structs.replace(rates, call_nano_usd=None) for rates in prices.conditional)
    left = msgspec.structs.replace(
        prices, call_nano_usd=None, conditional=tuple(rates for rates in conditional if given(rates))
    )
    return left if is_priced(left) else FREE


def with_condition(prices: Prices, conditions: Mapping[str, int | str], rates: Mapping[str, int | None]) -> Prices:
    """Returns the table with the rates of one set of conditions changed.

    None takes a rate away, and the last one the set. Raises ``msgspec.ValidationError`` for conditions that are none.
    """
    wanted = msgspec.convert(dict(conditions), ConditionalRates)
    rows = {_key(row): row for row in prices.conditional}
    row = msgspec.structs.replace(rows.get(_key(wanted), wanted), **rates)
    rows[_key(wanted)] = row
    if not given(row):
        del rows[_key(wanted)]
    return msgspec.structs.replace(prices, conditional=tuple(rows.values()))


def merged(old: Prices, new: Prices) -> Prices:
    """Returns the older table with what the newer one speaks of changed, rate by rate and condition by condition."""
    if not any(getattr(new, name) is not None for name in RATES) and not new.conditional:
        return old
    rows = {_key(rates): rates for rates in old.conditional}
    for rates in new.conditional:
        known = rows.get(_key(rates))
        rows[_key(rates)] = rates if known is None else msgspec.structs.replace(known, **given(rates))
    return msgspec.structs.replace(old, **given(new), free=False, conditional=tuple(rows.values()))


def given(rates: Prices | ConditionalRates) -> dict[str, int]:
    """Returns the rates that are given, by name."""
    return {name: rate for name in RATES if (rate := getattr(rates, name)) is not None}


def _key(rates: ConditionalRates) -> tuple[object, ...]:
    return tuple(getattr(rates, name) for name in rates.__struct_fields__ if name not in RATES)
