"""What limits, scopes, prices and budgets are in words; as the command line has them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trustgate.formats.written import names, number, usd
from trustgate.statements.words import rates
from trustgate.types import WINDOWS, Budget, Limits, Prices, Scope, Unit

_UNITS = {"requests": "Requests", "tokens": "Tokens", "cost_nano_usd": "Spending"}
_SINGLE = {
    "parallel_requests": "Parallel requests",
    "max_tokens": "Max. completion",
    "max_prompt_tokens": "Max. prompt",
}


def windows(limits: Limits, unit: str) -> str:
    """Returns ``1,000 a day, 10,000 a month``; "" where nothing is limited."""
    write = usd if unit == "cost_nano_usd" else number
    found = ((window, getattr(limits, f"{unit}_per_{window}")) for window in WINDOWS)
    return ", ".join(f"{write(value)} a {window}" for window, value in found if value is not None)


def limit_facts(limits: Limits, none: str) -> list[tuple[str, str]]:
    """Returns the limits that are set; ``none`` where there is not one."""
    found = [(title, text) for unit, title in _UNITS.items() if (text := windows(limits, unit))]
    found += [
        (title, number(value)) for field, title in _SINGLE.items() if (value := getattr(limits, field)) is not None
    ]
    return found or [("Limits", none)]


def scope_facts(scope: Scope) -> list[tuple[str, str]]:
    """Returns what may be called."""
    found = (("Models", scope.models), ("Endpoints", scope.endpoints), ("Features", scope.features))
    more = (("Parameters", scope.parameters), ("End users", scope.end_users))
    return [(title, everything(patterns)) for title, patterns in (*found, *more) if patterns is not None]


def everything(patterns: tuple[str, ...]) -> str:
    return "all" if "*" in patterns else names(patterns, nothing="none")


def prices_text(prices: Prices) -> str:
    return rates(msgspec.to_builtins(prices))


def amount(unit: Unit, value: int) -> str:
    """Returns an amount of a budget's unit."""
    return usd(value) if unit == "cost_nano_usd" else f"{number(value)} {unit}"


def per(span: str) -> str:
    """Returns a budget's span: ``a month``, ``in 6h``, ``in all``."""
    if span == "total":
        return "in all"
    if not span[:-1].isdigit():
        return f"a {span}"
    seconds = int(span[:-1])
    unit = next((each for each in (("d", 86_400), ("h", 3_600), ("m", 60)) if seconds % each[1] == 0), ("s", 1))
    return f"in {seconds // unit[1]}{unit[0]}"


def for_whom(budget: Budget, named: Mapping[str, str]) -> str:
    """Returns whom a budget is for. ``named``: names of tenants and keys by id."""
    if budget.everyone:
        whom = ["everyone"]
    else:
        whom = [named.get(each, each) for each in (*budget.tenants, *budget.keys)]
        whom += [f"plan {plan}" for plan in budget.plans]
    return names(whom) + ("" if budget.each == "all" else f", each {budget.each.replace('_', ' ')}")
