"""Receipts that sum up calls (versions 7 to 10): whether their number and the step of the price can be right."""

from __future__ import annotations

from trustgate.models.pricing import PriceTable
from trustgate.types import WORK_VERSIONS, Receipt, Usage


def summed_of(receipt: Receipt) -> tuple[int, int] | None:
    """Returns how many calls a receipt sums up, and their step of the price; None where it is of one request."""
    calls, step = receipt.calls, receipt.price_above_prompt_tokens
    if receipt.v not in WORK_VERSIONS or not isinstance(calls, int) or not isinstance(step, int):
        return None
    return calls, step


def step_fault(table: PriceTable, receipt: Receipt, usage: Usage) -> str:
    """Returns why the step cannot hold for every call that the receipt sums up; "" where it can.

    Calls that are each above a length have more tokens in all than their number times it; calls that are not have no
    more.
    """
    calls, step = summed_of(receipt) or (0, 0)
    steps = table.steps(usage, receipt.created_us)
    if step and step not in steps:
        return f"its price table has no step above {step} prompt tokens"
    if not calls:
        return ""
    if step and receipt.prompt_tokens <= calls * step:
        return f"{calls} calls above {step} prompt tokens each have more than {receipt.prompt_tokens} in all"
    above = min([each for each in steps if each > step], default=None)
    if above is not None and receipt.prompt_tokens > calls * above:
        return f"{calls} calls of at most {above} prompt tokens each have no {receipt.prompt_tokens} in all"
    return ""
