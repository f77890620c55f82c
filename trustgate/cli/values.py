"""Parsing command-line values: times, money, fallbacks, parameters.

Each parser raises ``typer.BadParameter``, which the command line reports with the option's name. The notations that
the console's forms have as well are ``admin.notation``'s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import typer

from trustgate.admin import notation
from trustgate.types import Fallback

T = TypeVar("T")
G = TypeVar("G")


def _parser(read: Callable[[G], T]) -> Callable[[G], T]:
    """Returns a parser of options: what ``read`` refuses is a ``typer.BadParameter``."""

    @functools.wraps(read)
    def parse(text: G) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


whole = _parser(notation.whole)
usd = _parser(notation.usd)
factor = _parser(notation.factor)
usd_per_million = _parser(notation.usd_per_million)
duration = _parser(notation.duration)
moment = _parser(notation.moment)
instant = _parser(notation.instant)
budget_span = _parser(notation.budget_span)
percentages = _parser(notation.percentages)
since = _parser(notation.since)
month = _parser(notation.month)
month_or_since = _parser(notation.month_or_since)
status = _parser(notation.status)
words = _parser(notation.words)
words_or_none = _parser(notation.words_or_none)
parameters = _parser(notation.parameters)


class Maybe:
    """A value as given; None stands for the word ``none``, which takes away what was there."""

    def __init__(self, value: Any) -> None:
        self.value = value


# numbers and money


def count_or_none(text: str) -> Maybe:
    return _or_none(text, whole)


def usd_or_none(text: str) -> Maybe:
    return _or_none(text, usd)


def usd_per_million_or_none(text: str) -> Maybe:
    return _or_none(text, usd_per_million)


def text_or_none(text: str) -> Maybe:
    return _or_none(text, str)


def _or_none(text: str, parser: Callable[[str], Any]) -> Maybe:
    return Maybe(None if notation.is_none(text) else parser(text))


def factor_or_none(text: str) -> Maybe:
    return _or_none(text, factor)


def absolute(path: str | None) -> str | None:
    """Returns a path made absolute, since the server may carry the command out."""
    return None if path is None else str(Path(path).expanduser().absolute())


# times


def moment_or_none(text: str) -> Maybe:
    return _or_none(text, moment)


def written_span(span: str) -> str:
    """A budget's span as it is given on the command line."""
    from trustgate.access.spans import read_span

    return str(read_span(span)) if span[-1:] == "s" and span[:-1].isdigit() else span


# passports


def fallbacks(texts: list[str]) -> tuple[Fallback, ...]:
    """Each text is one rank, in order: ``SLUG[:WEIGHT][,SLUG[:WEIGHT]…]``."""
    return tuple(_fallback(part, rank) for rank, text in enumerate(texts, start=1) for part in text.split(","))


def context_fallbacks(texts: list[str]) -> tuple[Fallback, ...]:
    """As ``fallbacks``, for prompts that are too long."""
    return tuple(msgspec.structs.replace(each, only_too_long=True) for each in fallbacks(texts))


def pool_members(texts: list[str]) -> tuple[Fallback, ...]:
    """All are of rank 0: ``SLUG[:WEIGHT][,SLUG[:WEIGHT]…]``."""
    return tuple(_fallback(part, 0) for text in texts for part in text.split(","))


def _fallback(text: str, rank: int) -> Fallback:
    slug, colon, weight = text.strip().rpartition(":")
    if colon and weight.isascii() and weight.isdigit():
        # A model's name may have a colon itself (llama3:8b); such a number is a weight all the same.
        if not slug or not 1 <= int(weight) <= 1_000_000:
            raise typer.BadParameter(f"{text!r} is not SLUG or SLUG:WEIGHT with a weight from 1 on.")
        return Fallback(passport=slug, rank=rank, weight=int(weight))
    if not text.strip():
        raise typer.BadParameter("A fallback names a passport: SLUG or SLUG:WEIGHT.")
    return Fallback(passport=text.strip(), rank=rank)
