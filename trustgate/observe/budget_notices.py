"""The notices of budgets: that use has come to a step, or that requests are refused."""

from __future__ import annotations

from datetime import UTC, datetime

from trustgate.access.budgets import BudgetEvent
from trustgate.access.refusals import shown_amount
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.observe.notices import Notice


def budget_notice(event: BudgetEvent) -> Notice:
    """Returns the notice of a step: one condition for each step, whose budget it is, and period."""
    standing = event.standing
    money = "$" if standing.unit == "cost_nano_usd" else ""
    unit = "" if money else f" {standing.unit}"
    used, amount = (f"{money}{shown_amount(standing.unit, n)}" for n in (standing.used, standing.amount))
    whose = f" of {standing.subject}" if standing.subject else ""
    share = "has no room for a request" if event.is_refused else f"is used to {event.percent} %"
    end = " Requests that would pass it are refused." if standing.hard and event.percent >= 100 else ""
    message = f"The budget {standing.name!r}{whose} {share}: {used} of {amount}{unit}, span {standing.span}."
    period_us, until_us = standing.since_us, standing.resets_us
    if standing.rolling_us:
        period_us, until_us = event.at_us - event.at_us % standing.rolling_us, event.at_us + standing.rolling_us
    elif until_us is not None:
        end += f" It resets at {_utc(until_us)}."
    return Notice(
        kind="budget",
        # What is over is over for each whose budget it is by itself.
        subject=f"{standing.name}{whose}",
        message=message + end,
        condition=f"{standing.budget}:{standing.subject}:{event.percent}:{period_us}",
        data={
            "budget": standing.budget,
            "whose": standing.subject,
            "unit": standing.unit,
            "percent": event.percent,
            "used": standing.used,
            "held": standing.held,
            "amount": standing.amount,
            "span": standing.span,
            "hard": standing.hard,
            "resets_us": standing.resets_us,
        },
        at_us=event.at_us,
        until_us=until_us,
    )


def _utc(at_us: int) -> str:
    return f"{datetime.fromtimestamp(-(-at_us // MICROSECONDS_PER_SECOND), UTC):%Y-%m-%d %H:%M:%S} UTC"
