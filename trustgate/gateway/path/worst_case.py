"""What a request may use at most: tokens, and what they cost. It is held before the request is forwarded.

Owns the bound of a completion, and the price that applies to a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustgate.access.quota import Ask
from trustgate.gateway.api import units
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.members import BOUNDS, largest
from trustgate.gateway.api.object_ids import BATCHES
from trustgate.models.catalog import Resolved
from trustgate.models.estimate import with_margin
from trustgate.models.prices import is_by_tokens
from trustgate.models.pricing import PriceTable, billed_nano_usd
from trustgate.types import Prices, Usage

#: The completion that is held for a request when neither it, its plan nor its passport bounds one, in tokens.
DEFAULT_COMPLETION_TOKENS = 4_096


def completion_bound(call: Call, resolved: Resolved | None, cap: int | None) -> int:
    """The most tokens that one completion may get: what is held for it, and sent along for those who are held to it.

    ``cap``: the plan's and the key's bound.
    """
    most = call.max_tokens if cap is None or (call.max_tokens is not None and call.max_tokens < cap) else cap
    if resolved is not None:
        passport = resolved.passport
        if passport.max_output_tokens is not None and (most is None or passport.max_output_tokens < most):
            most = passport.max_output_tokens
        if passport.default_parameters and not call.bounds:
            bounds = [(name, value) for name, value in passport.default_parameters.items() if _bounds(name, value)]
            defaults = largest(bounds)
            if defaults is not None and (most is None or defaults < most):
                most = defaults
    return DEFAULT_COMPLETION_TOKENS if most is None else most


def _bounds(name: str, value: Any) -> bool:
    return name in BOUNDS and isinstance(value, int | float) and not isinstance(value, bool)


def worst_case(
    endpoint: Endpoint,
    call: Call,
    resolved: Resolved | None,
    bound: int,
    factor_ppm: int,
    at_us: int,
    fallbacks: Sequence[Resolved],
) -> Ask:
    """Returns what to hold: the prompt's estimate with a margin, and the largest completion each choice may get.

    Of a batch: the worst case of all of its lines. The money is what that costs at most by the price table of the
    model, or of the dearest that may answer in its place (``fallbacks``), times the factor that the caller is billed
    at. ``bound``: the most that one completion may get, in tokens (``completion_bound``).
    """
    if call.work is not None:
        work = call.work
        return Ask(work.prompt_tokens + work.completion_tokens, work.cost_nano_usd)
    prompt_tokens = with_margin(call.prompt_tokens)
    completion_tokens = bound * call.choices if endpoint.generates else 0
    if not fallbacks and resolved is not None and resolved.price.known:
        price = price_for(endpoint, resolved.price)
        return _priced_ask(call, price, prompt_tokens, completion_tokens, factor_ppm, at_us)
    worst = Ask(prompt_tokens + completion_tokens, 0)
    for each in (resolved, *fallbacks):
        if each is not None and each.price.known:
            price = price_for(endpoint, each.price)
            ask = _priced_ask(call, price, prompt_tokens, completion_tokens, factor_ppm, at_us)
            worst = Ask(max(worst.tokens, ask.tokens), max(worst.cost_nano_usd, ask.cost_nano_usd))
    return worst


def worst_line(
    endpoint: Endpoint, call: Call, resolved: Resolved | None, bound: int, factor_ppm: int, at_us: int
) -> Ask:
    """As ``worst_case``, of a line of a batch, which is priced as one, at a time that is not known yet."""
    prompt_tokens = with_margin(call.prompt_tokens)
    completion_tokens = bound * call.choices if endpoint.generates else 0
    if resolved is None or not resolved.price.known:
        return Ask(prompt_tokens + completion_tokens, 0)
    price = price_for(endpoint, resolved.price)
    usage = _most(call, price, prompt_tokens, completion_tokens)
    cost_nano_usd = price.worst_line_nano_usd(usage, at_us, audio="audio" in call.features)
    return Ask(usage.total_tokens, billed_nano_usd(cost_nano_usd, factor_ppm))


def _priced_ask(
    call: Call, price: PriceTable, prompt_tokens: int, completion_tokens: int, factor_ppm: int, at_us: int
) -> Ask:
    is_audio = "audio" in call.features
    if not (is_audio or call.audio_ms or call.characters or call.images or call.service_tier):
        # As nearly always: nothing but tokens.
        cost_nano_usd = price.worst_of_tokens(prompt_tokens, completion_tokens)
        if cost_nano_usd is not None:
            return Ask(prompt_tokens + completion_tokens, billed_nano_usd(cost_nano_usd, factor_ppm))
    usage = _most(call, price, prompt_tokens, completion_tokens)
    cost_nano_usd = price.worst_nano_usd(usage, at_us, audio=is_audio)
    return Ask(usage.total_tokens, billed_nano_usd(cost_nano_usd, factor_ppm))


def _most(call: Call, price: PriceTable, prompt_tokens: int, completion_tokens: int) -> Usage:
    """Returns the most that a call may use, its tokens and what is counted besides."""
    heard, made = _unit_tokens(call, price.prices)
    return Usage(
        prompt_tokens=prompt_tokens + heard,
        completion_tokens=completion_tokens + made,
        images=call.images,
        characters=call.characters,
        audio_ms=call.audio_ms or _spoken_ms(call, price.prices),
        service_tier=call.service_tier,
        image_size=call.image_size,
        image_quality=call.image_quality,
    )


def price_for(endpoint: Endpoint, price: PriceTable) -> PriceTable:
    """Returns the price of a request: one that only looks at what another has made is no call of its own.

    What begins a batch is none, either: its lines are, once they are answered.
    """
    is_call = (endpoint.is_sold and endpoint.makes not in BATCHES) or endpoint.is_unmetered
    return price if is_call else price.without_call


def _unit_tokens(call: Call, prices: Prices) -> tuple[int, int]:
    """Prompt and completion tokens of what is heard, spoken or drawn, where the model is priced by tokens."""
    if not (call.audio_ms or call.characters or call.images) or not is_by_tokens(prices):
        return 0, 0
    heard, written = units.transcription_tokens(call.audio_ms)
    return heard, written + units.speech_tokens(call.characters) + units.image_tokens(call.images, call.image_quality)


def _spoken_ms(call: Call, prices: Prices) -> int:
    """Returns how long what is spoken may be, where the model is priced by the second alone."""
    is_by_second = prices.audio_second_nano_usd and not prices.character_pico_usd and not is_by_tokens(prices)
    return units.spoken_ms(call.characters) if is_by_second else 0


def requests_in(call: Call) -> int:
    """Returns how many requests a call stands for: a batch has one a line."""
    return 1 if call.work is None else call.work.lines
