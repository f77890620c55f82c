"""The limits and the scope that plans and keys have: their options, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trustgate.cli import render, values
from trustgate.cli.options import option, with_options
from trustgate.cli.values import Maybe, count_or_none, usd_or_none
from trustgate.types import ENDPOINTS, FEATURES, WINDOWS, Limits, Scope

_SCOPES = ("models", "endpoints", "features", "parameters", "end_users")


class Allowed(NamedTuple):
    """What was given of limits (None lifts one) and of the scope, by field name."""

    limits: dict[str, int | None]
    scope: dict[str, tuple[str, ...]]


def _windows(field: str, flag: str, what: str, parser: Callable[[str], Maybe], metavar: str) -> list[Any]:
    return [
        option(
            f"{field}_per_{window}", Maybe, f"--{flag}-per-{window}", help=what + window, parser=parser, metavar=metavar
        )
        for window in WINDOWS
    ]


def _single(field: str, flag: str, what: str) -> Any:
    return option(field, Maybe, flag, help=what, parser=count_or_none, metavar="N")


_LIMITS = [
    *_windows("requests", "requests", "Requests a ", count_or_none, "N"),
    *_windows("tokens", "tokens", "Tokens a ", count_or_none, "N"),
    *_windows("cost_nano_usd", "usd", "Spending a ", usd_or_none, "USD"),
    _single("parallel_requests", "--parallel-requests", "Requests at the same time"),
    _single("max_tokens", "--max-tokens", "Largest completion of one request, in tokens"),
    _single("max_prompt_tokens", "--max-prompt-tokens", "Largest prompt of one request, in tokens"),
]
_OPTIONS = [
    *_LIMITS,
    option(
        "models", list[str], "--models", help="Models, as globs: 'openai/*'. Repeat, or use commas.", metavar="GLOB"
    ),
    option("endpoints", list[str], "--endpoints", help=f"Endpoints: {', '.join(ENDPOINTS)}", metavar="NAME"),
    option("features", list[str], "--features", help=f"Features: {', '.join(FEATURES)}, or '*'", metavar="NAME"),
    option(
        "parameters",
        list[str],
        "--parameters",
        help="Members that steer an upstream and may be sent: provider, fallbacks …",
        metavar="NAME",
    ),
    option(
        "end_users",
        list[str],
        "--end-users",
        help="Where requests name an app's own users: user (of the body), header:NAME. The first found counts.",
        metavar="SOURCE",
    ),
]


def _collect(given: Mapping[str, Any]) -> Allowed:
    limits = {o.name: given[o.name].value for o in _LIMITS if given[o.name] is not None}
    return Allowed(limits, {field: values.words_or_none(given[field]) for field in _SCOPES if given[field]})


#: Gives a command all options for limits and scope; its parameter ``allowed`` gets those that were given.
with_limits = with_options("allowed", _OPTIONS, _collect)


# showing them

_UNITS = {"requests": "Requests", "tokens": "Tokens", "cost_nano_usd": "Spending"}
_SINGLE = {
    "parallel_requests": "Parallel requests",
    "max_tokens": "Max. completion",
    "max_prompt_tokens": "Max. prompt",
}


def limit_fields(limits: Limits, *, none: str = "unlimited") -> list[tuple[str, render.Cell]]:
    """Returns the limits that are set, one line a unit; ``none`` is said when there is not one."""
    fields: list[tuple[str, render.Cell]] = [
        (title, text) for unit, title in _UNITS.items() if (text := windows(limits, unit))
    ]
    for field, title in _SINGLE.items():
        value = getattr(limits, field)
        if value is not None:
            unit = "" if field == "parallel_requests" else " tokens"
            fields.append((title, f"{render.number(value)}{unit}"))
    return fields or [("Limits", none)]


def windows(limits: Limits, unit: str) -> str:
    """``1,000 a day, 10,000 a month``; empty where nothing is limited."""
    written = render.usd if unit == "cost_nano_usd" else render.number
    found = ((window, getattr(limits, f"{unit}_per_{window}")) for window in WINDOWS)
    return ", ".join(f"{written(value)} a {window}" for window, value in found if value is not None)


def scope_fields(scope: Scope) -> list[tuple[str, render.Cell]]:
    """Returns what may be called, one line a kind; parameters only where some are named."""
    return [
        (field.capitalize().replace("_", " "), everything(patterns))
        for field in _SCOPES
        if (patterns := getattr(scope, field)) is not None
    ]


def everything(patterns: tuple[str, ...]) -> str:
    return "all" if "*" in patterns else render.names(patterns, nothing="none")
