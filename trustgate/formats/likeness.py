"""The name that was probably meant, where there is none as it was typed."""

from __future__ import annotations

from collections.abc import Collection

#: Comparing takes some 10 µs a name: of more names than these none is looked for.
_MOST_NAMES = 1_000


def did_you_mean(name: str, known: Collection[str], otherwise: str) -> str:
    """Returns a hint: the known name that is most like this one, or what to do where none is alike.

    Args:
        name: as it was typed.
        known: the names that there are.
        otherwise: the hint where none of them is alike: a command that lists them.
    """
    if len(known) > _MOST_NAMES:
        return otherwise
    from difflib import get_close_matches

    alike = get_close_matches(name, known, n=1)
    return f"Did you mean {alike[0]!r}? All of them: {otherwise}" if alike else otherwise
