"""Prices as callers are shown them: the same numbers that requests are charged by."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from trustgate.models.prices import FREE, NOT_PRICED
from trustgate.models.pricing import PriceTable, billed_nano_usd
from trustgate.models.published import published
from trustgate.types import ConditionalRates, Prices, Usage


def test_a_model_without_a_price_has_none_and_one_that_is_free_says_so() -> None:
    assert published(PriceTable(NOT_PRICED)) is None
    assert published(PriceTable(FREE)) == {"currency": "USD", "prompt": "0", "completion": "0"}


def test_every_rate_is_usd_for_one_and_no_digit_is_lost() -> None:
    prices = Prices(input_pico_usd=1, output_pico_usd=2_500_000, call_nano_usd=1, image_nano_usd=40_000_000)
    assert published(PriceTable(prices)) == {
        "currency": "USD",
        "prompt": "0.000000000001",
        "completion": "0.0000025",
        "request": "0.000000001",
        "image": "0.04",
    }


def test_a_plans_factor_is_in_the_rates_and_one_price_for_all_stands_alone() -> None:
    prices = Prices(input_pico_usd=1_000_000)
    assert published(PriceTable(prices), 1_200_000)["prompt"] == "0.0000012"
    shown = published(PriceTable(prices), 1_200_000, 10_000_000)
    assert shown == {"currency": "USD", "prompt": "0", "completion": "0", "request": "0.01"}
    assert published(PriceTable(NOT_PRICED), request_nano_usd=1_000_000_000)["request"] == "1"


def test_conditions_are_named_beside_their_rates() -> None:
    dear = ConditionalRates(above_prompt_tokens=200_000, input_pico_usd=2_000_000, from_us=1_767_225_600_000_000)
    prices = Prices(input_pico_usd=1_000_000, conditional=(dear,))
    [condition] = published(PriceTable(prices))["conditions"]
    assert condition == {
        "when": {"above_prompt_tokens": 200_000, "from": "2026-01-01T00:00:00Z"},
        "prompt": "0.000002",
    }


@given(
    st.integers(1, 10**9),
    st.integers(1, 10**9),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.integers(100_000, 3_000_000),
)
def test_what_is_shown_is_what_is_billed(
    input_pico: int, output_pico: int, prompt: int, completion: int, factor_ppm: int
) -> None:
    """But for rounding up, of the cost and of the bill: less than a nano-USD each, the first times the factor."""
    price = PriceTable(Prices(input_pico_usd=input_pico, output_pico_usd=output_pico))
    shown = published(price, factor_ppm)
    by_shown = (Decimal(shown["prompt"]) * prompt + Decimal(shown["completion"]) * completion) * 10**9
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    billed = billed_nano_usd(price.cost_nano_usd(usage, 0), factor_ppm)
    assert 0 <= billed - by_shown < 1 + Decimal(factor_ppm) / 10**6
