"""Calls summed up: they cost what each does by itself, no more than was held, and what a stranger can compute again."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.models.test_pricing import AT_US
from tests.support.entries import make_receipt
from trustgate.models.metering.usages import consistent
from trustgate.models.prices import RATES
from trustgate.models.pricing import BATCH_TIER, PriceTable
from trustgate.models.summing import CallSums, SummedCalls
from trustgate.statements.summed import step_fault, summed_of
from trustgate.types import ConditionalRates, Prices, Receipt, Usage

BATCH = Usage(service_tier=BATCH_TIER)


def summed(prices: Prices, *usages: Usage) -> tuple[SummedCalls, ...]:
    sums = CallSums(PriceTable(prices), AT_US, BATCH)
    for usage in usages:
        sums.add(usage)
    return sums.sums()


def receipt_of(one: SummedCalls) -> Receipt:
    counts = {name: getattr(one.usage, name) for name in Usage.__struct_fields__}
    del counts["estimated"], counts["contradictory"]
    return make_receipt(v=7, created_us=AT_US, calls=one.calls, price_above_prompt_tokens=one.step, **counts)


# by an independent calculation: input, output and a call, each step above the one before


_three = st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
_steps = st.dictionaries(st.integers(1, 3_000), _three, max_size=4)
_lines = st.lists(st.tuples(st.integers(1, 4_000), st.integers(0, 2_000)), min_size=1, max_size=40)


@given(_three, _steps, _lines, st.booleans())
def test_lines_cost_what_an_independent_calculation_gives(
    base: tuple[int, int, int], steps: dict[int, tuple[int, int, int]], lines: list[tuple[int, int]], by_tier: bool
) -> None:
    names = ("input_pico_usd", "output_pico_usd", "call_nano_usd")
    tier: dict[str, Any] = {"service_tier": BATCH_TIER} if by_tier else {}
    rows = [
        msgspec.convert(
            {"above_prompt_tokens": above, **tier, **dict(zip(names, rates, strict=True))}, ConditionalRates
        )
        for above, rates in steps.items()
    ]
    flat: dict[str, Any] = dict(zip(names, base, strict=True))
    prices = Prices(**flat, conditional=tuple(rows))
    expected: Counter[int] = Counter()
    for prompt, completion in lines:
        step = max((above for above in steps if prompt > above), default=0)
        for_input, for_output, for_call = steps.get(step, base)
        expected[step] += prompt * for_input + completion * for_output + for_call * 1_000
    table = PriceTable(prices)
    found = summed(prices, *(Usage(prompt_tokens=prompt, completion_tokens=out) for prompt, out in lines))
    costs = {each.step: each.cost_nano_usd(AT_US) for each in found}
    assert costs == {step: ceil(Fraction(pico, 1_000)) for step, pico in expected.items()}
    assert sum(each.calls for each in found) == len(lines)
    assert [step_fault(table, receipt_of(each), each.usage) for each in found] == [""] * len(found)
    held = [Usage(prompt_tokens=prompt, completion_tokens=out) for prompt, out in lines]
    assert sum(costs.values()) <= sum(table.worst_line_nano_usd(each, AT_US) for each in held)


# by each call's own price, for any table


_rates = st.fixed_dictionaries({}, optional=dict.fromkeys(RATES, st.integers(0, 10**7)))
_conditions = st.fixed_dictionaries(
    {},
    optional={
        "above_prompt_tokens": st.integers(0, 2_000),
        "service_tier": st.sampled_from(["flex", BATCH_TIER]),
        "from_us": st.integers(AT_US - 2, AT_US + 2),
        "until_us": st.integers(AT_US - 2, AT_US + 2),
    },
)
_tables = st.builds(
    lambda base, rows: Prices(**base, conditional=tuple(ConditionalRates(**a, **b) for a, b in rows)),
    _rates,
    st.lists(st.tuples(_rates, _conditions), max_size=5),
)
_counts = st.integers(0, 3_000)
_parts = (
    *("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "audio_prompt_tokens", "image_prompt_tokens"),
    *("reasoning_tokens", "audio_completion_tokens", "image_completion_tokens"),
)
_usages = st.builds(
    lambda prompt, **counts: consistent(Usage(prompt_tokens=prompt, **counts)),
    st.integers(1, 3_000),
    **dict.fromkeys(("completion_tokens", "images", "searches", *_parts), _counts),
)


@given(_tables, st.lists(_usages, min_size=1, max_size=12), st.integers(AT_US - 3, AT_US))
def test_a_sum_costs_what_its_calls_do_but_for_what_rounding_each_would_add(
    prices: Prices, usages: list[Usage], held_us: int
) -> None:
    """And never more than what was held for them, at that time or before."""
    table = PriceTable(prices)
    found = summed(prices, *usages)
    by_step: dict[int, list[int]] = {}
    for each_usage in usages:
        usage = msgspec.structs.replace(each_usage, service_tier=BATCH_TIER)
        by_step.setdefault(table.step(usage, AT_US), []).append(table.cost_nano_usd(usage, AT_US))
    assert [each.step for each in found] == sorted(by_step)
    for each in found:
        cost_nano_usd = each.cost_nano_usd(AT_US)
        alone = by_step[each.step]
        assert each.calls == len(alone)
        assert 0 <= sum(alone) - cost_nano_usd < each.calls
        assert step_fault(table, receipt_of(each), each.usage) == ""
        assert summed_of(receipt_of(each)) == (each.calls, each.step)
    most = [
        Usage(
            prompt_tokens=usage.prompt_tokens + 100,
            completion_tokens=usage.completion_tokens,
            images=usage.images,
            searches=usage.searches,
        )
        for usage in usages
    ]
    held = [table.worst_line_nano_usd(usage, held_us, audio=True) for usage in most]
    assert sum(each.cost_nano_usd(AT_US) for each in found) <= sum(held)


# what is known of all calls together, and what cannot be


STEPPED = Prices(
    input_pico_usd=1_000_000,
    call_nano_usd=5,
    conditional=(
        ConditionalRates(above_prompt_tokens=100, input_pico_usd=2_000_000),
        ConditionalRates(above_prompt_tokens=1_000, input_pico_usd=3_000_000),
        ConditionalRates(above_prompt_tokens=500, service_tier="flex", input_pico_usd=9_000_000),
    ),
)


@given(st.integers(0, 10_000), st.integers(1, 20))
@example(200, 2)
@example(201, 2)
def test_a_sum_alone_is_priced_as_calls_of_one_length(prompt: int, calls: int) -> None:
    sums = CallSums(PriceTable(STEPPED), AT_US, BATCH)
    sums.add_sum(Usage(prompt_tokens=prompt), calls)
    [found] = sums.sums()
    assert (found.calls, found.usage.prompt_tokens) == (calls, prompt)
    assert found.step == (1_000 if prompt > 1_000 * calls else 100 if prompt > 100 * calls else 0)
    assert step_fault(PriceTable(STEPPED), receipt_of(found), found.usage) == ""


def test_what_used_nothing_is_one_sum_of_no_calls() -> None:
    [found] = summed(STEPPED)
    assert (found.usage, found.calls, found.step, found.cost_nano_usd(AT_US)) == (BATCH, 0, 0, 0)


@pytest.mark.parametrize(
    ("calls", "step", "prompt", "fault"),
    [
        (2, 100, 200, "2 calls above 100 prompt tokens each have more than 200 in all"),
        (2, 100, 201, ""),
        (2, 100, 2_000, ""),
        (2, 100, 2_001, "2 calls of at most 1000 prompt tokens each have no 2001 in all"),
        (2, 0, 200, ""),
        (2, 0, 201, "2 calls of at most 100 prompt tokens each have no 201 in all"),
        (2, 1_000, 10_000, ""),
        (2, 500, 1_500, "its price table has no step above 500 prompt tokens"),
        (0, 100, 1, ""),
    ],
)
def test_a_step_that_cannot_hold_is_noticed(calls: int, step: int, prompt: int, fault: str) -> None:
    usage = msgspec.structs.replace(BATCH, prompt_tokens=prompt)
    table = PriceTable(STEPPED)
    receipt = receipt_of(SummedCalls(usage=usage, calls=calls, price=table, step=step))
    assert step_fault(table, receipt, usage) == fault


# what is held


def test_a_shorter_prompt_that_is_dearer_is_held() -> None:
    """A request and a line may turn out shorter than their estimate."""
    above = ConditionalRates(above_prompt_tokens=100, input_pico_usd=1_000)
    table = PriceTable(Prices(input_pico_usd=10_000, conditional=(above,)))
    ask = Usage(prompt_tokens=150)
    assert (table.worst_nano_usd(ask, AT_US), table.worst_line_nano_usd(ask, AT_US)) == (1_000, 1_000)
    assert table.worst_nano_usd(Usage(prompt_tokens=1_500), AT_US) == 1_500


def test_a_line_is_held_at_the_dearest_price_from_now_on() -> None:
    """It is served some time later; what it costs at other tiers and at times that are over does not matter."""
    rows = (
        ConditionalRates(until_us=AT_US - 5, input_pico_usd=9_000_000),
        ConditionalRates(from_us=AT_US + 5, until_us=AT_US + 9, input_pico_usd=3_000),
        ConditionalRates(service_tier="priority", input_pico_usd=8_000_000),
        ConditionalRates(service_tier=BATCH_TIER, until_us=AT_US + 7, input_pico_usd=500),
    )
    table = PriceTable(Prices(input_pico_usd=1_000, conditional=rows))
    ask = Usage(prompt_tokens=100)
    assert table.worst_line_nano_usd(ask, AT_US) == 300
    assert table.worst_line_nano_usd(ask, AT_US + 9) == 100
    assert table.worst_nano_usd(ask, AT_US) == 100
