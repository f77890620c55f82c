"""Prices as a table: what each thing that is counted costs, under which condition, and what is held for it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from trustgate.models.prices import (
    CONDITIONS,
    FREE,
    NOT_PRICED,
    RATES,
    gaps,
    is_priced,
    merged,
    price_hash,
    with_condition,
    without_call,
)
from trustgate.models.pricing import (
    BATCH_TIER,
    MAX_COST_NANO_USD,
    MAX_COUNT,
    PriceTable,
    billed_nano_usd,
    bounded,
    is_plain,
)
from trustgate.types import ConditionalRates, Prices, Usage

AT_US = 1_780_000_000_000_000

#: USD a million tokens, as a provider publishes them for a model with all of it.
LARGE = Prices(
    input_pico_usd=5_000_000,
    cached_input_pico_usd=500_000,
    cache_write_pico_usd=6_250_000,
    cache_write_1h_pico_usd=10_000_000,
    output_pico_usd=25_000_000,
    conditional=(
        ConditionalRates(above_prompt_tokens=200_000, input_pico_usd=10_000_000, output_pico_usd=45_000_000),
        ConditionalRates(service_tier="priority", input_pico_usd=8_750_000, output_pico_usd=43_750_000),
        ConditionalRates(above_prompt_tokens=200_000, service_tier="priority", input_pico_usd=17_500_000),
        ConditionalRates(service_tier="flex", input_pico_usd=2_500_000, output_pico_usd=12_500_000),
    ),
)


def cost(prices: Prices, at_us: int = AT_US, **usage: Any) -> int:
    return PriceTable(prices).cost_nano_usd(Usage(**usage), at_us)


def test_each_kind_of_token_costs_its_own() -> None:
    """By hand: 60,000 plain, 20,000 cached, 5,000 written for 5 minutes and 15,000 for an hour; 1,000 generated."""
    usd = (
        60_000 * Fraction(5) + 20_000 * Fraction("0.5") + 5_000 * Fraction("6.25") + 15_000 * Fraction(10) + 1_000 * 25
    ) / 1_000_000
    used = {"cached_tokens": 20_000, "cache_write_tokens": 20_000, "cache_write_1h_tokens": 15_000}
    assert cost(LARGE, prompt_tokens=100_000, completion_tokens=1_000, **used) == usd * 10**9


@pytest.mark.parametrize(
    ("usage", "usd_per_million"),
    [
        ({"prompt_tokens": 200_000}, (5, 25)),
        ({"prompt_tokens": 200_001}, (10, 45)),
        ({"prompt_tokens": 200_000, "service_tier": "priority"}, (Fraction("8.75"), Fraction("43.75"))),
        # What the table says of both conditions together, and where it says nothing of both, the dearer of them.
        ({"prompt_tokens": 200_001, "service_tier": "priority"}, (Fraction("17.5"), 45)),
        ({"prompt_tokens": 200_001, "service_tier": "flex"}, (10, 45)),
        ({"prompt_tokens": 10, "service_tier": "flex"}, (Fraction("2.5"), Fraction("12.5"))),
        ({"prompt_tokens": 10, "service_tier": "default"}, (5, 25)),
    ],
)
def test_conditions(usage: dict[str, Any], usd_per_million: tuple[Any, Any]) -> None:
    given_, generated = usd_per_million
    expected = (usage["prompt_tokens"] * given_ + 1_000 * generated) * 1_000
    assert cost(LARGE, completion_tokens=1_000, **usage) == expected


def test_a_price_holds_from_and_until_a_time() -> None:
    prices = Prices(
        input_pico_usd=1_000_000,
        conditional=(
            ConditionalRates(until_us=AT_US, input_pico_usd=3_000_000),
            ConditionalRates(from_us=AT_US + 10, input_pico_usd=2_000_000),
        ),
    )
    moments = (AT_US - 1, AT_US, AT_US + 9, AT_US + 10)
    assert [cost(prices, at_us, prompt_tokens=1) for at_us in moments] == [3_000, 1_000, 1_000, 2_000]


def test_what_is_not_priced_apart_costs_what_its_sum_does() -> None:
    plain = Prices(input_pico_usd=3_000, output_pico_usd=7_000)
    details = {
        "cached_tokens": 10,
        "cache_write_tokens": 20,
        "cache_write_1h_tokens": 5,
        "audio_prompt_tokens": 30,
        "image_prompt_tokens": 40,
        "reasoning_tokens": 10,
        "audio_completion_tokens": 20,
    }
    assert cost(plain, prompt_tokens=100, completion_tokens=50, **details) == 3 * 100 + 7 * 50
    write = msgspec.structs.replace(plain, cache_write_pico_usd=4_000)
    assert cost(write, prompt_tokens=20, cache_write_tokens=20, cache_write_1h_tokens=5) == 4 * 20


def test_audio_images_reasoning_and_other_units() -> None:
    prices = Prices(
        input_pico_usd=1_000,
        output_pico_usd=2_000,
        reasoning_pico_usd=5_000,
        search_nano_usd=10_000_000,
        audio_input_pico_usd=40_000,
        audio_output_pico_usd=80_000,
        image_output_pico_usd=30_000,
        image_nano_usd=11,
        audio_second_nano_usd=6_000,
        character_pico_usd=15_000,
        call_nano_usd=7,
        conditional=(ConditionalRates(image_size="1024x1024", image_quality="hd", image_nano_usd=80_000_000),),
    )
    used = {"audio_prompt_tokens": 30, "reasoning_tokens": 10, "audio_completion_tokens": 20}
    assert cost(prices, prompt_tokens=100, completion_tokens=50, **used) == 7 + 70 + 30 * 40 + 10 * 5 + 20 * 80 + 20 * 2
    heard = cost(prices, prompt_tokens=100, completion_tokens=50, audio_ms=1_500, **used)
    assert heard == cost(prices, prompt_tokens=100, completion_tokens=50, **used), "by its tokens, which are told"
    assert cost(prices, searches=2) == 20_000_007
    assert cost(prices, images=2, audio_ms=1_500, characters=100) == 7 + 22 + 9_000 + 1_500
    assert cost(prices, images=2, image_size="1024x1024") == 7 + 22
    assert cost(prices, images=2, image_size="1024x1024", image_quality="hd") == 160_000_007


def test_what_is_seen_costs_its_own() -> None:
    prices = Prices(input_pico_usd=1_000, image_input_pico_usd=7_000)
    assert cost(prices, prompt_tokens=100, image_prompt_tokens=60) == 60 * 7 + 40
    assert cost(prices, prompt_tokens=100, image_prompt_tokens=160) == 100 * 7, "no more than there are"


def test_a_cost_is_rounded_once_and_up() -> None:
    prices = Prices(input_pico_usd=1, output_pico_usd=1, character_pico_usd=1)
    assert cost(prices, prompt_tokens=1, completion_tokens=1, characters=998) == 1
    assert cost(prices, prompt_tokens=1, completion_tokens=1, characters=999) == 2


_rates = st.fixed_dictionaries({}, optional=dict.fromkeys(RATES, st.integers(0, 10**7) | st.integers(0, 10**15)))
_conditions = st.fixed_dictionaries(
    {},
    optional={
        "above_prompt_tokens": st.integers(0, 10**6),
        "service_tier": st.sampled_from(["flex", "priority", "batch"]),
        "image_size": st.just("1024x1024"),
        "from_us": st.integers(0, 2 * AT_US),
        "until_us": st.integers(0, 2 * AT_US),
    },
)
_prices = st.builds(
    lambda base, rows: Prices(**base, conditional=tuple(ConditionalRates(**a, **b) for a, b in rows)),
    _rates,
    st.lists(st.tuples(_rates, _conditions), max_size=4),
)
_COUNTS = [field.name for field in msgspec.structs.fields(Usage) if field.type is int]
_usages = st.builds(
    Usage,
    **dict.fromkeys(_COUNTS, st.integers(-(10**20), 10**20)),
    service_tier=st.sampled_from(["", "flex", "priority", "batch", "auto"]),
    image_size=st.sampled_from(["", "1024x1024"]),
)


@given(_prices, _usages)
def test_no_usage_and_no_price_make_a_cost_that_cannot_be_kept(prices: Prices, usage: Usage) -> None:
    """2^53 - 1 is the largest integer that RFC 8785 keeps."""
    found = bounded(usage)
    assert bounded(found) == found
    assert all(
        0 <= getattr(found, field.name) <= MAX_COUNT for field in msgspec.structs.fields(Usage) if field.type is int
    )
    assert found == usage or found.contradictory
    assert 0 <= PriceTable(prices).cost_nano_usd(found, AT_US) <= MAX_COST_NANO_USD == 2**53 - 1


def test_a_count_out_of_bounds_becomes_the_nearest_in_them_and_no_other_changes() -> None:
    found = bounded(Usage(prompt_tokens=MAX_COUNT + 1, completion_tokens=-1, images=7))
    assert found == Usage(prompt_tokens=MAX_COUNT, images=7, contradictory=True)


def test_a_length_is_held_beside_the_tokens_where_the_prompt_has_no_price_of_its_own() -> None:
    prices = Prices(audio_second_nano_usd=1, audio_input_pico_usd=1, audio_output_pico_usd=1)
    ask = Usage(prompt_tokens=1, completion_tokens=1001, audio_ms=60_000)
    table = PriceTable(prices)
    used = msgspec.structs.replace(ask, audio_completion_tokens=1001)
    assert table.cost_nano_usd(used, AT_US) <= table.worst_nano_usd(ask, AT_US, audio=True)


@given(_prices, st.integers(1, 10**6), st.integers(0, 10**6), st.data())
def test_what_is_held_is_never_less_than_what_it_can_cost(
    prices: Prices, prompt: int, completion: int, data: st.DataObject
) -> None:
    """Whatever the tokens turn out to be, in the tier that was asked for or without one."""
    tier = data.draw(st.sampled_from(["", "flex", "priority"]))
    audio_ms = data.draw(st.sampled_from([0, 60_000]))
    ask = Usage(prompt_tokens=prompt, completion_tokens=completion, service_tier=tier, audio_ms=audio_ms)
    # A shorter prompt may be dearer.
    prompt = data.draw(st.integers(1, prompt))
    parts = {name: data.draw(st.integers(0, prompt)) for name in ("cached_tokens", "cache_write_tokens")}
    parts |= {"audio_prompt_tokens": data.draw(st.integers(0, prompt)), "cache_write_1h_tokens": prompt}
    parts |= {"reasoning_tokens": data.draw(st.integers(0, completion)), "audio_completion_tokens": completion}
    parts["prompt_tokens"] = prompt
    used = msgspec.structs.replace(ask, **parts, service_tier=data.draw(st.sampled_from(["", tier])))
    if data.draw(st.booleans()):  # the tokens of what was heard are not told
        used = msgspec.structs.replace(
            used, completion_tokens=0, reasoning_tokens=0, audio_completion_tokens=0, audio_prompt_tokens=0
        )
    table = PriceTable(prices)
    assert table.cost_nano_usd(used, AT_US) <= table.worst_nano_usd(ask, AT_US, audio=True)


_counts = st.integers(0, 10**6) | st.sampled_from([0, MAX_COUNT])
_plain_usages = st.builds(
    lambda cached, prompt, reasoning, completion, **texts: Usage(
        cached_tokens=min(cached, prompt),
        prompt_tokens=prompt,
        reasoning_tokens=min(reasoning, completion),
        completion_tokens=completion,
        **texts,
    ),
    *(_counts for _ in range(4)),
    service_tier=st.sampled_from(["", "flex", "default"]),
    image_size=st.sampled_from(["", "1024x1024"]),
)


@given(_prices, _plain_usages)
@example(
    Prices(input_pico_usd=7_000, cached_input_pico_usd=3_000, output_pico_usd=20_000, reasoning_pico_usd=50_000),
    Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=20, reasoning_tokens=6),
)
def test_tokens_alone_cost_what_they_cost_among_others(prices: Prices, usage: Usage) -> None:
    table = PriceTable(prices)
    assert is_plain(usage)
    assert table.plain_nano_usd(usage, AT_US) == table.cost_nano_usd(usage, AT_US)


@given(_usages)
def test_a_plain_usage_is_in_bounds_and_has_tokens_alone(usage: Usage) -> None:
    others = [name for name in _COUNTS if name not in ("prompt_tokens", "completion_tokens")]
    kinds = {"cached_tokens": usage.prompt_tokens, "reasoning_tokens": usage.completion_tokens}
    for name in others:
        whole = kinds.get(name, 0)
        assert not is_plain(msgspec.structs.replace(bounded(usage), **{name: whole + 1}))
    assert not is_plain(msgspec.structs.replace(Usage(), prompt_tokens=MAX_COUNT + 1))
    assert not is_plain(usage) or bounded(usage) is usage


@given(_prices, st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_held_for_tokens_alone_is_what_is_held_for_them_among_others(
    prices: Prices, prompt: int, completion: int
) -> None:
    table = PriceTable(prices)
    worst = table.worst_of_tokens(prompt, completion)
    assert worst in (None, table.worst_nano_usd(Usage(prompt_tokens=prompt, completion_tokens=completion), AT_US))
    assert worst is not None or prices.conditional


def test_a_condition_that_names_a_tier_or_an_image_leaves_tokens_alone_as_they_are() -> None:
    named = ("service_tier", "image_size", "image_quality")
    rows = tuple(msgspec.convert({name: "x", "input_pico_usd": 9_000}, ConditionalRates) for name in named)
    assert PriceTable(Prices(input_pico_usd=1_000, conditional=rows)).worst_of_tokens(2, 3) == 2


def test_hashes_of_older_tables_are_what_they_were() -> None:
    """Computed by the program as it was when a price had no conditions."""
    older = {
        "{}": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        '{"cached_input_pico_usd":0,"input_pico_usd":150000,"output_pico_usd":600000}': (
            "d799604f4be3d4acca3097c1b51ae545e32203e69381efe81b9b712ac3970aa3"
        ),
        '{"call_nano_usd":7,"image_nano_usd":40000000}': (
            "20bad4b47eeadf64b93c2a8c1f6fe4bbe1bda0ed4e57a4b3e652e2444aa94d8e"
        ),
    }
    for stored, expected in older.items():
        assert price_hash(msgspec.json.decode(stored, type=Prices)) == expected


def test_every_rate_and_condition_is_in_the_hash() -> None:
    hashes = {price_hash(NOT_PRICED), price_hash(FREE), price_hash(Prices(input_pico_usd=0))}
    hashes |= {price_hash(msgspec.convert({name: 1}, Prices)) for name in RATES}
    for name in CONDITIONS:
        for value in (1, 2) if name.endswith(("_us", "_tokens")) else ("a", "b"):
            conditional: dict[str, Any] = {name: value, "call_nano_usd": 1}
            hashes.add(price_hash(Prices(conditional=(ConditionalRates(**conditional),))))
    assert len(hashes) == 3 + len(RATES) + 2 * len(CONDITIONS)


def test_not_priced_is_not_free() -> None:
    assert not is_priced(NOT_PRICED)
    assert is_priced(FREE)
    assert is_priced(Prices(input_pico_usd=0))
    assert cost(FREE, prompt_tokens=10**6) == 0


@pytest.mark.parametrize(
    ("cost_nano_usd", "factor_ppm", "billed"),
    [
        (1_000, 1_000_000, 1_000),
        (1_000, 1_150_000, 1_150),
        (1, 1_000_001, 2),
        (1_000, 0, 0),
        (2**53 - 1, 2 * 10**6, 2**53 - 1),
    ],
)
def test_a_factor_is_exact_and_rounded_up(cost_nano_usd: int, factor_ppm: int, billed: int) -> None:
    assert billed_nano_usd(cost_nano_usd, factor_ppm) == billed


@pytest.mark.parametrize(
    ("tier", "usd_per_million"),
    [("", (10, 25)), ("flex", (10, 25)), ("priority", (10, Fraction("43.75"))), ("unknown", (10, 25))],
)
def test_what_a_tier_costs_is_held_and_no_less_than_without_it(tier: str, usd_per_million: tuple[Any, Any]) -> None:
    """An upstream may serve a request in another tier than it asked for. A token may be the dearest of its kinds."""
    ask = Usage(prompt_tokens=100, completion_tokens=10, service_tier=tier)
    of_prompt, of_completion = usd_per_million
    by_tier = replace(LARGE, conditional=tuple(r for r in LARGE.conditional if r.above_prompt_tokens is None))
    for prices in (LARGE, by_tier):
        assert PriceTable(prices).worst_nano_usd(ask, AT_US) == (100 * of_prompt + 10 * of_completion) * 1_000


def test_what_is_heard_is_held_by_its_length_or_its_tokens_whichever_is_more() -> None:
    prices = Prices(input_pico_usd=1_000, output_pico_usd=2_000, audio_second_nano_usd=6_000)
    ask = Usage(prompt_tokens=10, completion_tokens=10)
    held = {audio_ms: replace(ask, audio_ms=audio_ms) for audio_ms in (1, 1_000_000)}
    worst = {audio_ms: PriceTable(prices).worst_nano_usd(each, AT_US) for audio_ms, each in held.items()}
    assert worst == {1: 10 + 20, 1_000_000: 10 + 6_000_000}


def test_a_model_without_a_price_of_plain_tokens_is_held_at_what_they_are_charged() -> None:
    table = PriceTable(Prices(audio_input_pico_usd=3_000, audio_output_pico_usd=7_000))
    ask = Usage(prompt_tokens=100, completion_tokens=10)
    assert table.cost_nano_usd(ask, AT_US) == 370
    assert table.worst_of_tokens(100, 10) == table.worst_nano_usd(ask, AT_US) == 370


def test_what_a_call_costs_is_left_out_where_only_its_answer_is_looked_at() -> None:
    of_size = ConditionalRates(image_size="1024x1024", call_nano_usd=9)
    of_tier = ConditionalRates(service_tier="flex", call_nano_usd=3, input_pico_usd=1)
    prices = Prices(input_pico_usd=2, call_nano_usd=7, conditional=(of_size, of_tier))
    left = Prices(input_pico_usd=2, conditional=(replace(of_tier, call_nano_usd=None),))
    assert without_call(prices) == left
    assert without_call(replace(prices, call_nano_usd=None)) == left
    assert without_call(left) is left
    assert without_call(Prices(call_nano_usd=7)) is FREE, "a call alone was priced: it is not unknown what this costs"
    table = PriceTable(prices, "a list")
    assert table.without_call is table.without_call
    assert (table.without_call.prices, table.without_call.source) == (left, "a list")


_CACHED = "prompt tokens that are neither read from the cache nor written to it"
_COMPLETIONS = "completions (embeddings have none)"


@pytest.mark.parametrize(
    ("rated", "left"),
    [
        ((), []),
        (("input", "output"), []),
        (("image",), []),
        (("input",), [_COMPLETIONS]),
        (("output",), ["prompts"]),
        *(((name, "output"), [_CACHED]) for name in ("cached_input", "cache_write", "cache_write_1h")),
        *((("input", name), []) for name in ("audio_output", "image_output")),
        (("input", "reasoning"), ["completion tokens apart from reasoning"]),
        (("input", "cached_input", "reasoning"), ["completion tokens apart from reasoning"]),
        (("cached_input", "reasoning"), [_CACHED, "completion tokens apart from reasoning"]),
    ],
)
def test_what_a_table_leaves_free_is_told(rated: tuple[str, ...], left: list[str]) -> None:
    """A rate of 0 is one."""
    rates = {f"{name}_{'nano' if name == 'image' else 'pico'}_usd": 0 for name in rated}
    assert gaps(msgspec.convert(rates, Prices)) == left


def test_a_batch_of_before_is_as_many_calls_as_it_costs() -> None:
    prices, usage = Prices(input_pico_usd=1_000, call_nano_usd=100), Usage(prompt_tokens=7, service_tier=BATCH_TIER)
    table = PriceTable(prices)
    for calls, cost_nano_usd in ((1, 107), (2, 207), (3, 307)):
        assert table.batch_nano_usd(usage, AT_US, calls) == cost_nano_usd
        assert table.calls_of(cost_nano_usd, usage, AT_US) == calls
    assert table.calls_of(7, usage, AT_US) is table.calls_of(208, usage, AT_US) is None
    by_tokens = PriceTable(replace(prices, call_nano_usd=None))
    assert (by_tokens.calls_of(7, usage, AT_US), by_tokens.calls_of(8, usage, AT_US)) == (1, None)
    in_batches = ConditionalRates(service_tier=BATCH_TIER, call_nano_usd=50)
    assert PriceTable(replace(prices, conditional=(in_batches,))).calls_of(107, usage, AT_US) == 2
    dearest = PriceTable(Prices(call_nano_usd=MAX_COST_NANO_USD))
    assert dearest.batch_nano_usd(usage, AT_US, 2) == MAX_COST_NANO_USD


def test_a_newer_table_changes_what_it_speaks_of() -> None:
    flex, priority = {"service_tier": "flex"}, {"service_tier": "priority"}
    old = with_condition(Prices(input_pico_usd=1, output_pico_usd=2), flex, {"input_pico_usd": 3, "output_pico_usd": 4})
    assert merged(old, Prices()) is old
    assert merged(FREE, Prices()) is FREE
    newer = merged(old, Prices(output_pico_usd=5))
    assert newer == replace(old, output_pico_usd=5)
    of_flex = with_condition(Prices(), flex, {"input_pico_usd": 6})
    assert merged(old, of_flex).conditional == (
        ConditionalRates(service_tier="flex", input_pico_usd=6, output_pico_usd=4),
    )
    of_both = with_condition(of_flex, priority, {"input_pico_usd": 7})
    assert [rates.service_tier for rates in merged(old, of_both).conditional] == ["flex", "priority"]
    assert merged(FREE, of_both) == replace(of_both, free=False)


def test_a_set_of_conditions_ends_with_its_last_rate() -> None:
    flex = {"service_tier": "flex"}
    prices = with_condition(LARGE, flex, {"input_pico_usd": None})
    assert prices.conditional[-1] == ConditionalRates(service_tier="flex", output_pico_usd=12_500_000)
    assert with_condition(prices, flex, {"output_pico_usd": None}).conditional == LARGE.conditional[:-1]
    with pytest.raises(msgspec.ValidationError):
        with_condition(LARGE, {"service_tier": 1}, {"input_pico_usd": 1})
