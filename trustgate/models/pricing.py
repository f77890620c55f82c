"""What a request costs: a price table applied to what was used, in integers, rounded once.

Owns the meaning of ``types.Prices``. Details are priced apart from their sum only where the table has a rate for them:

    cached, cache-write, audio and image prompt tokens   else as other prompt tokens
    cache writes for an hour                             else as those for five minutes
    reasoning, audio and image completion tokens         else as other completion tokens

A token counts once: prompt tokens read from the cache come first, then those written to it, then audio and images;
of the completion reasoning, then audio and images. Conditional rates lie over those without conditions, rate by rate:
rates with more conditions over those with fewer, and of the same conditions longer prompts over shorter ones and later
times over earlier ones. Of rates with as many conditions, but others, the dearest holds.

Calls that are summed up (a batch's lines) are priced each by itself: those of one step, size and quality together
(``PriceTable.step``), at the rates of that step, rounded once for all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Final

import msgspec

from trustgate.formats.written import INTEGER_MOST
from trustgate.models.prices import CONDITIONS, RATES, given, is_priced, price_hash, without_call
from trustgate.types import FACTOR_ONE_PPM, PICO_USD_PER_NANO_USD, ConditionalRates, Prices, Rates, Usage

__all__ = [
    "BATCH_TIER",
    "COUNTS",
    "MAX_COST_NANO_USD",
    "MAX_COUNT",
    "PriceTable",
    "billed_nano_usd",
    "bounded",
    "is_plain",
]

#: The tier of every line of a batch (``types.ConditionalRates``).
BATCH_TIER: Final = "batch"
#: Rates of what a sum of tokens, cached ones and reasoning does not tell.
_NOT_PLAIN: Final = tuple(
    name
    for name in RATES
    if name not in ("input_pico_usd", "output_pico_usd", "cached_input_pico_usd", "reasoning_pico_usd", "call_nano_usd")
)

#: No request costs more: what receipts keep exactly, 9 million USD. Sums of them over years still fit into what a
#: database keeps.
MAX_COST_NANO_USD: Final = INTEGER_MOST
#: No request uses more of anything: no model reads 10⁹ tokens. A larger figure is no count.
MAX_COUNT: Final = 1_000_000_000
#: The names of all counts of a usage.
COUNTS: Final = tuple(field.name for field in msgspec.structs.fields(Usage) if field.type is int)
_counts_of: Final = attrgetter(*COUNTS)
#: Counts that are 0 for nearly every request: all but tokens, and cached and reasoning ones among them.
_SELDOM: Final = tuple(
    name for name in COUNTS if name not in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
)
_seldom_of: Final = attrgetter(*_SELDOM)
_NO_SELDOM: Final = (0,) * len(_SELDOM)
_PROMPT_RATES: Final = (
    *("cached_input_pico_usd", "cache_write_pico_usd", "cache_write_1h_pico_usd"),
    "image_input_pico_usd",
)
_COMPLETION_RATES: Final = ("reasoning_pico_usd", "image_output_pico_usd")


def bounded(usage: Usage) -> Usage:
    """The usage with every count brought into what one request can use; one that was not is marked contradictory."""
    given = _counts_of(usage)
    if min(given) >= 0 and max(given) <= MAX_COUNT:
        return usage
    counts = {name: min(max(getattr(usage, name), 0), MAX_COUNT) for name in COUNTS}
    return msgspec.structs.replace(usage, **counts, contradictory=True)


def is_plain(usage: Usage) -> bool:
    """Returns whether nothing but tokens was used, and every count is in bounds (``bounded`` leaves it as it is)."""
    return (
        0 <= usage.cached_tokens <= usage.prompt_tokens <= MAX_COUNT
        and 0 <= usage.reasoning_tokens <= usage.completion_tokens <= MAX_COUNT
        and _seldom_of(usage) == _NO_SELDOM
    )


def billed_nano_usd(cost_nano_usd: int, factor_ppm: int) -> int:
    """Returns the cost times a factor in millionths, nano-USD, rounded up."""
    if factor_ppm == FACTOR_ONE_PPM:
        return cost_nano_usd
    return min(-(-cost_nano_usd * factor_ppm // FACTOR_ONE_PPM), MAX_COST_NANO_USD)


class PriceTable:
    """A price made ready to be applied: its hash is known, and its conditional rates are in the order they lie in."""

    __slots__ = (
        *("_conditional", "_dearest", "_laid", "_of_plain", "_plain_most", "_without_call"),
        *("hash", "is_by_prompt", "known", "prices", "source"),
    )

    def __init__(self, prices: Prices, source: str = "") -> None:
        """``source``: where the price comes from, for people."""
        self.prices = prices
        self.source = source
        self.hash = price_hash(prices)
        self.known = is_priced(prices)
        self._conditional = sorted(prices.conditional, key=_weight)
        #: Whether any rate depends on the length of the prompt.
        self.is_by_prompt = any(rates.above_prompt_tokens is not None for rates in prices.conditional)
        #: No condition holds of a usage without tier, size and quality, of at most so many prompt tokens.
        self._plain_most = _plain_most(self._conditional)
        self._laid: dict[tuple[int, ...], Rates] = {}
        self._of_plain = _rates_of_plain(prices)
        self._without_call: PriceTable | None = None
        #: The table without conditions at its dearest: with audio, and without.
        self._dearest = {audio: _dearest(prices, audio=audio) for audio in (False, True)}

    @property
    def without_call(self) -> PriceTable:
        """The same without what a call costs: for requests that look at what another call has made."""
        if self._without_call is None:
            prices = without_call(self.prices)
            self._without_call = self if prices is self.prices else PriceTable(prices, self.source)
        return self._without_call

    def rates(self, usage: Usage, at_us: int) -> Rates:
        """Returns the rates that hold for a usage at a time."""
        if usage.prompt_tokens <= self._plain_most and not (
            usage.service_tier or usage.image_size or usage.image_quality
        ):
            return self.prices
        hold = tuple([n for n, rates in enumerate(self._conditional) if _holds(rates, usage, at_us)])
        if not hold:
            return self.prices
        laid = self._laid.get(hold)
        if laid is None:
            laid = self._laid[hold] = _laid_over(self.prices, [self._conditional[n] for n in hold])
        return laid

    def cost_nano_usd(self, usage: Usage, at_us: int) -> int:
        """Returns the cost of what was used, nano-USD, rounded once, up; at most MAX_COST_NANO_USD."""
        return _cost(self.rates(usage, at_us), usage)

    def steps(self, usage: Usage, at_us: int) -> tuple[int, ...]:
        """Returns the lengths of a prompt above which other rates hold, ascending: those whose other conditions a usage
        fulfils at a time.
        """
        if not self._conditional:
            return ()
        longest = msgspec.structs.replace(usage, prompt_tokens=sys.maxsize)
        found = {rates.above_prompt_tokens for rates in self._conditional if _holds(rates, longest, at_us)}
        return tuple(sorted(step for step in found if step and step > 0))

    def step(self, usage: Usage, at_us: int) -> int:
        """Returns the highest of the ``steps`` that the prompt is above; 0 where it is above none."""
        return max([step for step in self.steps(usage, at_us) if usage.prompt_tokens > step], default=0)

    def summed_nano_usd(self, usage: Usage, at_us: int, calls: int, step: int) -> int:
        """Returns the cost of calls that are priced each by itself, nano-USD, rounded once, up.

        Args:
            usage: what they used in all, the parts of each ``apart``.
            at_us: when, microseconds UTC.
            calls: how many they are; 0: it is more of what a call has used that is charged already.
            step: the ``step`` of each of them.
        """
        return _cost(self._step_rates(usage, at_us, step), usage, calls)

    def apart(self, usage: Usage, at_us: int, step: int) -> Usage:
        """Returns the usage of one call with every token in one part, that by which it is priced.

        Sums of such usages cost what the calls cost by themselves.
        """
        if not (
            usage.audio_prompt_tokens
            or usage.image_prompt_tokens
            or usage.audio_completion_tokens
            or usage.image_completion_tokens
        ):
            return usage
        rates, parts = self._step_rates(usage, at_us, step), {}
        left = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
        for name, rate in (
            ("audio_prompt_tokens", rates.audio_input_pico_usd),
            ("image_prompt_tokens", rates.image_input_pico_usd),
        ):
            if rate is not None:
                parts[name] = min(getattr(usage, name), left)
                left -= parts[name]
        left = usage.completion_tokens - (0 if rates.reasoning_pico_usd is None else usage.reasoning_tokens)
        for name, rate in (
            ("audio_completion_tokens", rates.audio_output_pico_usd),
            ("image_completion_tokens", rates.image_output_pico_usd),
        ):
            if rate is not None:
                parts[name] = min(getattr(usage, name), left)
                left -= parts[name]
        return msgspec.structs.replace(usage, **parts)

    def _step_rates(self, usage: Usage, at_us: int, step: int) -> Rates:
        return self.rates(msgspec.structs.replace(usage, prompt_tokens=step + 1), at_us)

    @property
    def is_by_plain_sums(self) -> bool:
        """Whether what calls cost follows from their tokens in all, cached and reasoning ones apart."""
        return not self.is_by_prompt and all(
            getattr(rates, name) is None for rates in (self.prices, *self._conditional) for name in _NOT_PLAIN
        )

    def sizes(self) -> tuple[frozenset[str], frozenset[str]]:
        """Returns the sizes and the qualities of images that conditions name."""
        sizes = {rates.image_size for rates in self._conditional if rates.image_size}
        return frozenset(sizes), frozenset({rates.image_quality for rates in self._conditional if rates.image_quality})

    def batch_nano_usd(self, usage: Usage, at_us: int, calls: int) -> int:
        """Returns the cost of a batch of so many calls, nano-USD: of what it used, and the price of each call in it.

        As receipts before version 7 have it: by the sum of what all calls used.
        """
        cost_nano_usd = self.cost_nano_usd(usage, at_us)
        if calls > 1:
            cost_nano_usd += (calls - 1) * self._by_itself(usage, at_us)
        return min(cost_nano_usd, MAX_COST_NANO_USD)

    def calls_of(self, cost_nano_usd: int, usage: Usage, at_us: int) -> int | None:
        """Returns of how many calls a batch is that cost so much; None where no number of them comes to it.

        ``batch_nano_usd`` the other way about. 1 where a call by itself costs nothing.
        """
        more = cost_nano_usd - self.cost_nano_usd(usage, at_us)
        if not more:
            return 1
        by_itself = self._by_itself(usage, at_us)
        return None if more < 0 or not by_itself or more % by_itself else 1 + more // by_itself

    def _by_itself(self, usage: Usage, at_us: int) -> int:
        """Returns what a call costs that used nothing, in the tier of ``usage``."""
        return self.cost_nano_usd(Usage(service_tier=usage.service_tier), at_us)

    def plain_nano_usd(self, usage: Usage, at_us: int) -> int:
        """As ``cost_nano_usd``, of a usage that ``is_plain``."""
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if prompt > self._plain_most or usage.service_tier or usage.image_size or usage.image_quality:
            return _cost(self.rates(usage, at_us), usage)
        base, for_cached, written, for_reasoning, call = self._of_plain
        pico = prompt * base + usage.cached_tokens * for_cached
        pico += completion * written + usage.reasoning_tokens * for_reasoning
        cost_nano_usd = call - (-pico // PICO_USD_PER_NANO_USD)
        return min(cost_nano_usd, MAX_COST_NANO_USD)

    def worst_nano_usd(self, ask: Usage, at_us: int, *, audio: bool = False) -> int:
        """Returns the most that a request may cost which uses no more than ``ask``, whose details are not known yet.

        ``ask.service_tier`` is the tier that was asked for: the upstream may serve the request in it or not.
        ``audio``: the request hears or speaks; then tokens may be audio.
        """
        if not ask.service_tier and not ask.audio_ms and not self.is_by_prompt:
            return self._worst(ask, at_us, audio=audio)
        ways = [ask]
        if ask.service_tier:
            ways.append(msgspec.structs.replace(ask, service_tier=""))
        return max([self._worst(way, at_us, audio=audio) for way in self._shorter(ways, at_us)])

    def worst_line_nano_usd(self, ask: Usage, at_us: int, *, audio: bool = False) -> int:
        """As ``worst_nano_usd``, of a line of a batch: it is served in that tier, now or at any later time."""
        ask = msgspec.structs.replace(ask, service_tier=BATCH_TIER)
        bounds = {bound for rates in self._conditional for bound in (rates.from_us, rates.until_us)}
        times = [at_us, *(bound for bound in bounds if bound is not None and bound > at_us)]
        return max([self._worst(way, at, audio=audio) for at in times for way in self._shorter([ask], at)])

    def _shorter(self, ways: Sequence[Usage], at_us: int) -> list[Usage]:
        """Returns the usages, and those that are less and may cost more."""
        found = list(ways)
        if found[0].audio_ms:  # billed by its length, where its tokens are not told
            found += [msgspec.structs.replace(way, completion_tokens=0) for way in ways]
        if self.is_by_prompt:  # a shorter prompt may be dearer
            found += [
                msgspec.structs.replace(way, prompt_tokens=step)
                for way in list(found)
                for step in self.steps(way, at_us)
                if step < way.prompt_tokens
            ]
        return found

    def worst_of_tokens(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """As ``worst_nano_usd``, of a request with nothing but tokens; None where a condition may hold of it."""
        if prompt_tokens > self._plain_most:
            return None
        dearest = self._dearest[False]
        pico = prompt_tokens * (dearest.input_pico_usd or 0) + completion_tokens * (dearest.output_pico_usd or 0)
        return min((dearest.call_nano_usd or 0) - (-pico // PICO_USD_PER_NANO_USD), MAX_COST_NANO_USD)

    def _worst(self, ask: Usage, at_us: int, *, audio: bool) -> int:
        dearest = self._dearest_rates(ask, at_us, audio=audio)
        cost = _cost(dearest, ask)
        if ask.audio_ms and dearest.input_pico_usd and not self.rates(ask, at_us).input_pico_usd:
            # Without a price of the prompt's own, the length counts beside the tokens.
            cost -= -ask.audio_ms * (dearest.audio_second_nano_usd or 0) // PICO_USD_PER_NANO_USD
        return min(cost, MAX_COST_NANO_USD)

    def _dearest_rates(self, ask: Usage, at_us: int, *, audio: bool) -> Rates:
        rates = self.rates(ask, at_us)
        return self._dearest[audio] if rates is self.prices else _dearest(rates, audio=audio)


def _plain_most(conditional: Sequence[ConditionalRates]) -> float:
    """The most prompt tokens of a usage of which no condition holds but those that name a tier, a size or a quality."""
    others = [rates for rates in conditional if not (rates.service_tier or rates.image_size or rates.image_quality)]
    return min(
        (-1 if rates.above_prompt_tokens is None else rates.above_prompt_tokens for rates in others), default=inf
    )


def _weight(rates: ConditionalRates) -> tuple[int, int, int]:
    conditions = sum(getattr(rates, name) is not None for name in CONDITIONS)
    return conditions, rates.above_prompt_tokens or 0, rates.from_us or 0


def _holds(rates: ConditionalRates, usage: Usage, at_us: int) -> bool:
    return (
        (rates.above_prompt_tokens is None or usage.prompt_tokens > rates.above_prompt_tokens)
        and (rates.service_tier is None or rates.service_tier == usage.service_tier)
        and (rates.image_size is None or rates.image_size == usage.image_size)
        and (rates.image_quality is None or rates.image_quality == usage.image_quality)
        and (rates.from_us is None or at_us >= rates.from_us)
        and (rates.until_us is None or at_us < rates.until_us)
    )


def _laid_over(base: Rates, layers: Iterable[ConditionalRates]) -> Rates:
    """``layers``: those that hold, in the order of their weight."""
    rates = {name: getattr(base, name) for name in RATES}
    for _, level in groupby(layers, key=lambda layer: _weight(layer)[0]):
        of_conditions: dict[tuple[str, ...], dict[str, int]] = {}
        for layer in level:
            conditions = tuple(name for name in CONDITIONS if getattr(layer, name) is not None)
            of_conditions.setdefault(conditions, {}).update(given(layer))
        for name in RATES:
            said = [each[name] for each in of_conditions.values() if name in each]
            if said:
                rates[name] = max(said)
    return Rates(**rates)


def _dearest(rates: Rates, *, audio: bool) -> Rates:
    """Rates at which every prompt and completion token costs what the dearest of its kinds does."""
    prompt = (*_PROMPT_RATES, "audio_input_pico_usd") if audio else _PROMPT_RATES
    completion = (*_COMPLETION_RATES, "audio_output_pico_usd") if audio else _COMPLETION_RATES
    return msgspec.structs.replace(
        rates,
        input_pico_usd=max(_prompt_base(rates), *(getattr(rates, name) or 0 for name in prompt)),
        output_pico_usd=max(_completion_base(rates), *(getattr(rates, name) or 0 for name in completion)),
    )


def _cost(rates: Rates, usage: Usage, calls: int = 1) -> int:
    pico = 0
    if usage.prompt_tokens:
        pico += _prompt_pico_usd(rates, usage)
    if usage.completion_tokens:
        pico += _completion_pico_usd(rates, usage)
    if usage.images or usage.audio_ms or usage.characters or usage.searches:
        # Of a model with both prices its tokens count where they are told, else the length.
        in_tokens = rates.input_pico_usd and (usage.audio_prompt_tokens or usage.completion_tokens)
        pico += (
            usage.images * (rates.image_nano_usd or 0) * PICO_USD_PER_NANO_USD
            # A thousandth of a second costs a thousandth of the price: nano-USD a second is pico-USD a millisecond.
            + (0 if in_tokens else usage.audio_ms * (rates.audio_second_nano_usd or 0))
            + usage.characters * (rates.character_pico_usd or 0)
            + usage.searches * (rates.search_nano_usd or 0) * PICO_USD_PER_NANO_USD
        )
    return min(calls * (rates.call_nano_usd or 0) - (-pico // PICO_USD_PER_NANO_USD), MAX_COST_NANO_USD)


def _rates_of_plain(rates: Rates) -> tuple[int, int, int, int, int]:
    """Returns what a usage that ``is_plain`` is charged.

    For a prompt token, more for a cached one, for a completion token and more for a reasoning one, pico-USD; for a
    call, nano-USD.
    """
    base, written = _prompt_base(rates), _completion_base(rates)
    for_cached = _either(rates.cached_input_pico_usd, base) - base
    for_reasoning = _either(rates.reasoning_pico_usd, written) - written
    return base, for_cached, written, for_reasoning, rates.call_nano_usd or 0


def _prompt_base(rates: Rates) -> int:
    """Returns the price of a prompt token of no further kind."""
    base = rates.input_pico_usd
    return _first(rates.audio_input_pico_usd, rates.image_input_pico_usd) if base is None else base


def _completion_base(rates: Rates) -> int:
    """Returns the price of a completion token of no further kind."""
    base = rates.output_pico_usd
    return _first(rates.image_output_pico_usd, rates.audio_output_pico_usd) if base is None else base


def _prompt_pico_usd(rates: Rates, usage: Usage) -> int:
    left, base = usage.prompt_tokens, _prompt_base(rates)
    pico = 0
    if usage.cached_tokens:
        cached = min(usage.cached_tokens, left)
        left -= cached
        pico += cached * _either(rates.cached_input_pico_usd, base)
    if usage.cache_write_tokens:
        written = min(usage.cache_write_tokens, left)
        for_an_hour = min(usage.cache_write_1h_tokens, written)
        left -= written
        write = _either(rates.cache_write_pico_usd, base)
        pico += (written - for_an_hour) * write + for_an_hour * _either(rates.cache_write_1h_pico_usd, write)
    if usage.audio_prompt_tokens and rates.audio_input_pico_usd is not None:
        audio = min(usage.audio_prompt_tokens, left)
        left -= audio
        pico += audio * rates.audio_input_pico_usd
    if usage.image_prompt_tokens and rates.image_input_pico_usd is not None:
        image = min(usage.image_prompt_tokens, left)
        left -= image
        pico += image * rates.image_input_pico_usd
    return pico + left * base


def _completion_pico_usd(rates: Rates, usage: Usage) -> int:
    left, base = usage.completion_tokens, _completion_base(rates)
    if not (usage.reasoning_tokens or usage.audio_completion_tokens or usage.image_completion_tokens):
        return left * base
    pico = 0
    for tokens, rate in (
        (usage.reasoning_tokens, rates.reasoning_pico_usd),
        (usage.audio_completion_tokens, rates.audio_output_pico_usd),
        (usage.image_completion_tokens, rates.image_output_pico_usd),
    ):
        if tokens and rate is not None:
            part = min(tokens, left)
            left -= part
            pico += part * rate
    return pico + left * base


def _first(*rates: int | None) -> int:
    """Returns the first that is said: a model that makes nothing but images has no other price of its tokens."""
    return next((rate for rate in rates if rate is not None), 0)


def _either(rate: int | None, otherwise: int) -> int:
    return otherwise if rate is None else rate
