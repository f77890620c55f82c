"""A text that a regular expression finds: for the ``pattern`` of a JSON schema.

Owns the choice: of alternatives the first, of repetitions the fewest, of sets of characters the first that is in one.
What is found is tried before it is returned, so assertions that are not understood cost an answer, never a wrong one.
Source: JSON Schema, draft 2020-12, validation, section 6.3.3; ECMA-262, "Patterns".
"""

from __future__ import annotations

import re
import string
from typing import Any

#: What a wildcard or an excluding set may stand for, in this order.
_ORDINARY = string.ascii_lowercase + string.digits + string.ascii_uppercase + " -_." + string.punctuation
_CATEGORIES = {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a"}
_EXCLUDING = {"CATEGORY_NOT_DIGIT": "a", "CATEGORY_NOT_SPACE": "a", "CATEGORY_NOT_WORD": "-"}
_REPEATED_MOST = 10_000
#: ECMAScript's named groups and escapes of code points.
_NAMED_GROUP = re.compile(r"\(\?<(?=[A-Za-z_])")
_CODE_POINT = re.compile(r"\\u\{([0-9a-fA-F]{1,6})\}")


def text_matching(pattern: str, text: str, least: int, most: float) -> str | None:
    """Returns a text of ``least`` to ``most`` characters in which ``pattern`` is found; None where none is known.

    ``text``: what is taken where it fits.
    """
    pattern = _NAMED_GROUP.sub("(?P<", pattern)
    pattern = _CODE_POINT.sub(lambda found: f"\\U{int(found[1], 16):08x}", pattern)
    try:
        compiled = re.compile(pattern)
        tried = [text, _made(pattern, 0)]
        # Repetitions without an upper bound may be what makes a text long enough.
        tried += [_made(pattern, more) for more in (1, max(0, least - len(tried[1])), least)]
    except (re.error, RecursionError, OverflowError, _NotMade):
        return None
    tried += [found + "a" * max(0, least - len(found)) for found in tried[:2]]
    return next((found for found in tried if least <= len(found) <= most and compiled.search(found)), None)


class _NotMade(Exception):
    """The pattern has something that no text is made for."""


def _made(pattern: str, more: int) -> str:
    # What ``re`` itself compiles from; ``re`` has no public way to a pattern's parts.
    from re import _parser  # type: ignore[attr-defined]

    return _Reader(more).text_of(_parser.parse(pattern))


class _Reader:
    """Makes the text of a pattern's parts. ``more``: by how much open repetitions exceed the fewest."""

    def __init__(self, more: int) -> None:
        self._more = more
        self._groups: dict[int, str] = {}

    def text_of(self, parts: Any) -> str:
        return "".join(self._part(str(code), value) for code, value in parts)

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
                return self.text_of(value[1][0])
            case "SUBPATTERN":
                made = self.text_of(value[3])
                self._groups[value[0]] = made
                return made
            case "GROUPREF":
                return self._groups.get(value, "")
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                fewest, most, parts = value
                times = min(int(most), int(fewest) + self._more, _REPEATED_MOST)
                return self.text_of(parts) * times
            case "ATOMIC_GROUP":
                return self.text_of(value)
            case "AT" | "ASSERT" | "ASSERT_NOT":
                return ""
        raise _NotMade(code)

    def _one_of(self, members: Any) -> str:
        first, *_ = members
        if str(first[0]) == "NEGATE":
            taken = re.compile("|".join(filter(None, (_excluded(str(code), value) for code, value in members[1:]))))
            found = next((each for each in _ORDINARY if not taken.fullmatch(each)), None)
            if found is None:
                raise _NotMade("NEGATE")
            return found
        code, value = str(first[0]), first[1]
        if code == "LITERAL":
            return chr(value)
        if code == "RANGE":
            return chr(value[0])
        made = {**_CATEGORIES, **_EXCLUDING}.get(str(value))
        if made is None:
            raise _NotMade(code)
        return made


def _excluded(code: str, value: Any) -> str:
    """Returns a pattern of the characters of a set's member."""
    if code == "LITERAL":
        return re.escape(chr(value))
    if code == "RANGE":
        return f"[{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}]"
    names = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w", "NOT_DIGIT": r"\D", "NOT_SPACE": r"\S", "NOT_WORD": r"\W"}
    return names.get(str(value).removeprefix("CATEGORY_"), "")
