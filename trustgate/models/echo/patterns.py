"""A text that a regular expression finds: for the ``pattern`` of a JSON schema.

Owns the choice: of alternatives the first that can be made, of repetitions the fewest, of sets of characters the first
that is in one. No text is ever tried against a pattern: patterns come with requests, and a search can take for ever. So
a text is right by its making, and what cannot be made so (assertions, boundaries, possessive repetitions) is given up.
Source: JSON Schema, draft 2020-12, validation, section 6.3.3; ECMA-262, "Patterns".
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Iterable
from typing import Any

#: What a wildcard or an excluding set may stand for, in this order.
_ORDINARY = string.ascii_lowercase + string.digits + string.ascii_uppercase + " -_." + string.punctuation
_CATEGORIES = {
    "CATEGORY_DIGIT": "0",
    "CATEGORY_SPACE": " ",
    "CATEGORY_WORD": "a",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_NOT_SPACE": "a",
    "CATEGORY_NOT_WORD": "-",
}
_WORD = frozenset(string.ascii_letters + string.digits + "_")
#: Of the ordinary characters those that are of a category.
_OF_CATEGORY = {
    "CATEGORY_DIGIT": frozenset(string.digits),
    "CATEGORY_SPACE": frozenset(" "),
    "CATEGORY_WORD": _WORD,
    "CATEGORY_NOT_DIGIT": frozenset(_ORDINARY) - frozenset(string.digits),
    "CATEGORY_NOT_SPACE": frozenset(_ORDINARY) - frozenset(" "),
    "CATEGORY_NOT_WORD": frozenset(_ORDINARY) - _WORD,
}
_PATTERN_MOST = 2_000
_TEXT_MOST = 10_000
#: ECMAScript's named groups and escapes of code points.
_NAMED_GROUP = re.compile(r"\(\?<(?=[A-Za-z_])")
_CODE_POINT = re.compile(r"\\u\{([0-9a-fA-F]{1,6})\}")
_BEGINNINGS = frozenset({"AT_BEGINNING", "AT_BEGINNING_STRING"})
_ENDS = frozenset({"AT_END", "AT_END_STRING"})


def text_matching(pattern: str, least: int, most: float) -> str | None:
    """Returns a text of ``least`` to ``most`` characters in which ``pattern`` is found; None where none is made."""
    if len(pattern) > _PATTERN_MOST or least > _TEXT_MOST:
        return None
    pattern = _NAMED_GROUP.sub("(?P<", pattern)
    pattern = _CODE_POINT.sub(lambda found: f"\\U{int(found[1], 16):08x}", pattern)
    try:
        parts = _parsed(pattern)
        begins = bool(parts) and str(parts[0][1]) in _BEGINNINGS
        ends = bool(parts) and str(parts[-1][1]) in _ENDS
        middle = parts[begins : len(parts) - ends]
        shortest = _Reader(0).text_of(middle)
        made = [shortest]
        if len(shortest) < least:
            # Repetitions without an upper bound may be what makes a text long enough.
            made += [_Reader(more).text_of(middle) for more in (1, least - len(shortest), least)]
    except (re.error, RecursionError, OverflowError, _NotMade):
        return None
    if not ends:
        made.append(shortest + "a" * max(0, least - len(shortest)))
    return next((text for text in made if least <= len(text) <= most), None)


def work_of(pattern: str) -> int:
    """Returns how much work a text for a pattern is, in members of schemas that are looked at."""
    return min(len(pattern), _PATTERN_MOST)


class _NotMade(Exception):
    """The pattern has something that no text is made for."""


def _parsed(pattern: str) -> list[Any]:
    # What ``re`` itself compiles from; ``re`` has no public way to a pattern's parts.
    from re import _parser  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(_parser.parse(pattern))


class _Reader:
    """Makes the text of a pattern's parts. ``more``: by how much open repetitions exceed the fewest."""

    def __init__(self, more: int) -> None:
        self._more = more
        self._groups: dict[int, str] = {}

    def text_of(self, parts: Any) -> str:
        text = "".join(self._part(str(code), value) for code, value in parts)
        if len(text) > _TEXT_MOST:
            raise _NotMade("too long")
        return text

    def _part(self, code: str, value: Any) -> str:
        match code:
            case "LITERAL":
                return chr(value)
            case "NOT_LITERAL":
                return next(each for each in _ORDINARY if each != chr(value))
            case "ANY":
                return "a"
            case "IN":
                return self._one_of(value)
            case "BRANCH":
                return self._first_of(value[1])
            case "SUBPATTERN":
                made = self.text_of(value[3])
                self._groups[value[0]] = made
                return made
            case "GROUPREF" if value in self._groups:
                return self._groups[value]
            case "MAX_REPEAT" | "MIN_REPEAT":
                fewest, most, parts = value
                times = min(int(most), int(fewest) + self._more)
                made = self.text_of(parts) if times else ""
                if len(made) * times > _TEXT_MOST:
                    raise _NotMade("too long")
                return made * times
        raise _NotMade(code)

    def _first_of(self, branches: Any) -> str:
        for branch in branches:
            try:
                return self.text_of(branch)
            except _NotMade:
                continue
        raise _NotMade("BRANCH")

    def _one_of(self, members: Any) -> str:
        first, *_ = members
        if str(first[0]) == "NEGATE":
            taken = frozenset[str]().union(*(_excluded(str(code), value) for code, value in members[1:]))
            found = next((each for each in _ORDINARY if each not in taken), None)
            if found is None:
                raise _NotMade("NEGATE")
            return found
        code, value = str(first[0]), first[1]
        if code == "LITERAL":
            return chr(value)
        if code == "RANGE":
            return chr(value[0])
        made = _CATEGORIES.get(str(value))
        if made is None:
            raise _NotMade(code)
        return made


def _excluded(code: str, value: Any) -> Iterable[str]:
    """Returns the characters of a set's member, as far as they are ordinary ones."""
    if code == "LITERAL":
        return chr(value)
    if code == "RANGE":
        first, last = chr(value[0]), chr(value[1])
        return [each for each in _ORDINARY if first <= each <= last]
    found = _OF_CATEGORY.get(str(value))
    if found is None:
        raise _NotMade(code)
    return found
