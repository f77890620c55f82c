"""A price as callers are shown it, in ``GET /v1/models`` and in what is published about the gateway.

Owns its form, which is the one that directories of models have made customary (OpenRouter API reference, "Models"):
USD for one token, call, image or search, as decimal text, so that no digit is lost.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from trustgate.ids import iso_us
from trustgate.models.pricing import PriceTable
from trustgate.types import FACTOR_ONE_PPM, ConditionalRates, Rates

_NANO: Final = Decimal("1e-9")
_PICO: Final = Decimal("1e-12")
#: The customary name of each rate that has one; ours where it has none.
_NAMES: Final = {
    "input_pico_usd": "prompt",
    "output_pico_usd": "completion",
    "call_nano_usd": "request",
    "image_nano_usd": "image",
    "search_nano_usd": "web_search",
    "reasoning_pico_usd": "internal_reasoning",
    "cached_input_pico_usd": "input_cache_read",
    "cache_write_pico_usd": "input_cache_write",
    "cache_write_1h_pico_usd": "input_cache_write_1h",
    "audio_second_nano_usd": "audio_second",
    "character_pico_usd": "character",
    "audio_input_pico_usd": "audio",
    "audio_output_pico_usd": "audio_output",
    "image_input_pico_usd": "image_input",
    "image_output_pico_usd": "image_output",
}
_TIMES: Final = ("from_us", "until_us")


def published(price: PriceTable, factor_ppm: int = FACTOR_ONE_PPM, request_nano_usd: int | None = None) -> Any:
    """Returns what a model costs its caller, as JSON; None where it has no price.

    Args:
        price: The model's own price.
        factor_ppm: What the caller's plan makes of it, in millionths.
        request_nano_usd: What every request costs, whatever the model's price is; None: what the model's price has.

    The rates of ``conditions`` lie over the others where every condition named in ``when`` holds.
    """
    if request_nano_usd is not None:
        return {"currency": "USD", "prompt": "0", "completion": "0", "request": _text(request_nano_usd * _NANO)}
    if not price.known:
        return None
    shown: dict[str, Any] = {"currency": "USD", "prompt": "0", "completion": "0", **_rates(price.prices, factor_ppm)}
    conditions = [
        {"when": _when(rates), **_rates(rates, factor_ppm)}
        for rates in price.prices.conditional
        if _rates(rates, factor_ppm)
    ]
    if conditions:
        shown["conditions"] = conditions
    return shown


def _rates(rates: Rates, factor_ppm: int) -> dict[str, str]:
    found = {}
    for member, name in _NAMES.items():
        rate = getattr(rates, member)
        if rate is not None:
            unit = _NANO if member.endswith("_nano_usd") else _PICO
            found[name] = _text(rate * unit * factor_ppm / FACTOR_ONE_PPM)
    return found


def _when(rates: ConditionalRates) -> dict[str, Any]:
    named = ("above_prompt_tokens", "service_tier", "image_size", "image_quality")
    found: dict[str, Any] = {name: getattr(rates, name) for name in named if getattr(rates, name) is not None}
    for member in _TIMES:
        at_us = getattr(rates, member)
        if at_us is not None:
            found[member.removesuffix("_us")] = iso_us(at_us)
    return found


def _text(usd: Decimal) -> str:
    text = f"{usd:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text
