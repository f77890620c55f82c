"""What a request is refused with that passes a quota or a budget: the limit, what is left of it, when to try again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from trustgate.access.budget_counter import BudgetCounter
from trustgate.access.budget_reach import hides_figures
from trustgate.access.quota_counter import COST, QuotaLimit
from trustgate.errors import RateLimited
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.types import NANO_USD_PER_USD, UNITS, WINDOWS, Unit

#: Beyond this many seconds a client should not wait in its retry loop but tell its user.
_RETRY_WORTH_S: Final = 60


def shown_amount(unit: Unit, amount: int) -> str:
    """``1500`` requests or tokens; of money ``1.50``."""
    if unit != "cost_nano_usd":
        return str(amount)
    decimals = f"{amount % NANO_USD_PER_USD:09d}".rstrip("0").ljust(2, "0")
    return f"{amount // NANO_USD_PER_USD}.{decimals}"


def too_many_at_once(most: int, owner: str) -> RateLimited:
    """Returns the refusal of one more parallel request than ``most``. ``owner``: whose limit it is, for people."""
    return RateLimited(
        f"Too many parallel requests for {owner}: at most {most} at once. Please try again when one has ended.",
        type="requests",
        code="too_many_parallel_requests",
        headers={"retry-after": "1"},
        retryable=True,
    )


def quota_refusal(limit: QuotaLimit, used: int, need: int, owner: str, retry_after_s: int) -> RateLimited:
    """Returns the refusal of a request that needs more than a limit of a window has left.

    ``owner``: whose limit it is, for people. ``retry_after_s``: until its window ends.
    """
    window, unit = WINDOWS[limit.window], UNITS[limit.unit]
    most, left, wanted = (_exactly(limit.unit, n) for n in (limit.most, max(0, limit.most - used), need))
    is_hopeless = need > limit.most
    return RateLimited(
        f"Rate limit reached on {_called(unit)} per {window} for {owner}: limit {most}, left {left}, this request "
        f"needs {wanted}. " + ("It can never pass." if is_hopeless else f"Please try again in {retry_after_s} s."),
        type=_type_of(unit),
        code=_code_of(unit),
        headers={"retry-after": str(retry_after_s)},
        retryable=not is_hopeless and retry_after_s <= _RETRY_WORTH_S,
    )


def budget_refusal(counter: BudgetCounter, need: int, at_us: int) -> RateLimited:
    """Returns the refusal of a request that needs more than a budget has left for its subject."""
    budget, span = counter.of.budget, counter.of.span
    is_hopeless = need > counter.amount
    room_us = None if is_hopeless else counter.room_at(need)
    figures = f"limit {shown_amount(budget.unit, counter.amount)}"
    if not hides_figures(budget):
        left = max(0, counter.amount - counter.used - counter.held)
        figures += f", left {shown_amount(budget.unit, left)}"
    period = "in all" if span.is_total else f"in {span}" if span.is_rolling else f"per {span}"
    headers, is_worth_retrying = {}, False
    if is_hopeless:
        end = "It can never pass."
    elif room_us is None:
        end = "This budget does not begin anew."
    else:
        retry_after_s = max(1, -(-(room_us - at_us) // MICROSECONDS_PER_SECOND))
        headers["retry-after"] = str(retry_after_s)
        is_worth_retrying = retry_after_s <= _RETRY_WORTH_S
        moment = datetime.fromtimestamp(-(-room_us // MICROSECONDS_PER_SECOND), UTC)
        end = f"It has room again at {moment:%Y-%m-%d %H:%M:%S} UTC. Please try again in {retry_after_s} s."
    return RateLimited(
        f"The budget {budget.name!r} is reached: {_called(budget.unit)} {period}, {figures}, this request needs "
        f"{shown_amount(budget.unit, need)}. {end}",
        type=_type_of(budget.unit),
        code=_code_of(budget.unit),
        headers=headers,
        retryable=is_worth_retrying,
    )


def _exactly(unit: int, amount: int) -> str:
    """To the nano-USD: a limit that is nearly used up is not shown as used up."""
    return str(amount) if unit != COST else f"{amount // NANO_USD_PER_USD}.{amount % NANO_USD_PER_USD:09d}"


def _called(unit: str) -> str:
    return "USD" if unit == "cost_nano_usd" else unit


def _type_of(unit: str) -> str:
    return "insufficient_quota" if unit == "cost_nano_usd" else unit


def _code_of(unit: str) -> str:
    return "insufficient_quota" if unit == "cost_nano_usd" else "rate_limit_exceeded"
