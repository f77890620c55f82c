"""What a receipt would cost by another price, where that follows from what it counts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.entries import make_receipt
from trustgate.admin.correcting import cost_by, usage_of
from trustgate.models.pricing import PriceTable
from trustgate.types import RECEIPT_PRICE_MEMBERS, ConditionalRates, Prices, Receipt

_NOTHING: dict[str, Any] = {
    **dict.fromkeys((name for name in RECEIPT_PRICE_MEMBERS if name.endswith("_tokens")), 0),
    **dict.fromkeys(("images", "audio_ms", "characters", "searches", "cached_tokens", "reasoning_tokens"), 0),
    **dict.fromkeys(("image_size", "image_quality"), ""),
    "service_tier": "batch",
    "endpoint": "batches",
}


def table(*steps: int, input_nano_usd: int = 1) -> PriceTable:
    """A token costs one nano-USD more above each step, and a call a hundred."""
    rows = [
        ConditionalRates(above_prompt_tokens=step, input_pico_usd=(input_nano_usd + number) * 1_000)
        for number, step in enumerate(steps, start=1)
    ]
    return PriceTable(Prices(input_pico_usd=input_nano_usd * 1_000, call_nano_usd=100, conditional=tuple(rows)))


def batch(calls: int, step: int, prompt: int) -> Receipt:
    members = {**_NOTHING, "prompt_tokens": prompt, "completion_tokens": 0}
    return make_receipt(v=7, calls=calls, price_above_prompt_tokens=step, **members)


BEFORE = table(50, 200)


@pytest.mark.parametrize(
    ("receipt", "price", "before", "cost"),
    [
        # The same steps, and none.
        (batch(3, 50, 300), table(50, 200, input_nano_usd=5), BEFORE, 300 * 6 + 300),
        (batch(3, 50, 300), table(input_nano_usd=5), BEFORE, 300 * 5 + 300),
        (batch(3, 200, 900), table(50, 200), BEFORE, 900 * 3 + 300),
        # Every prompt is above 50 and none above 200: what holds between is not known.
        (batch(3, 50, 300), table(50), BEFORE, 300 * 2 + 300),
        (batch(3, 50, 300), table(200), BEFORE, 300 * 1 + 300),
        (batch(3, 50, 300), table(40), BEFORE, 300 * 2 + 300),
        (batch(3, 50, 300), table(100), BEFORE, None),
        # None can be longer than what the others leave of the sum.
        (batch(3, 50, 160), table(58), BEFORE, 160 * 1 + 300),
        (batch(3, 50, 160), table(57), BEFORE, None),
        (batch(3, 0, 40), table(41), None, 40 * 1 + 300),
        (batch(3, 0, 40), table(39), None, None),
        # One call is as long as the sum.
        (batch(1, 50, 120), table(100), BEFORE, 120 * 2 + 100),
        # More of a call that was charged before; and nothing.
        (batch(0, 50, 10), table(50, input_nano_usd=5), BEFORE, 10 * 6),
        (batch(0, 50, 10), table(60), BEFORE, None),
        (batch(0, 0, 0), table(60), BEFORE, 0),
    ],
)
def test_calls_summed_up_cost_by_another_price_what_is_known_of_each(
    receipt: Receipt, price: PriceTable, before: PriceTable | None, cost: int | None
) -> None:
    assert cost_by(price, receipt, before) == cost


def test_a_batch_of_before_is_as_many_calls_as_its_cost_shows() -> None:
    """Receipts before version 7 do not have their number."""
    before = PriceTable(Prices(call_nano_usd=100))
    members = {**_NOTHING, "prompt_tokens": 7, "completion_tokens": 0}
    old = make_receipt(v=3, **members, cost_nano_usd=300)
    assert before.calls_of(300, usage_of(old), old.created_us) == 3
    assert cost_by(PriceTable(Prices(call_nano_usd=20)), old, before) == 60
    assert cost_by(before, old, None) is None
    assert cost_by(before, make_receipt(v=3, **members, cost_nano_usd=301), before) is None
