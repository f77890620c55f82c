"""The name that was probably meant, where there is none as it was typed."""

from __future__ import annotations

from collections.abc import Collection

#: Comparing takes some 10 µs a name: of more names than these none is looked for.
_MOST_NAMES = 1_000


def most_like(name: str, known: Collection[str], *, least: float = 0.6) -> str | None:
    """Returns the known name that is most like this one; None where none is alike.

    ``least``: the ratio of ``difflib.SequenceMatcher`` that counts as alike, 0 to 1.
    """
    if len(known) > _MOST_NAMES:
        return None
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, n=1, cutoff=least)), None)


def did_you_mean(name: str, known: Collection[str], otherwise: str) -> str:
    """Returns a hint: the known name that is most like this one, or what to do where none is alike.

    Args:
        name: as it was typed.
        known: the names that there are.
        otherwise: the hint where none of them is alike: a command that lists them.
    """
    alike = most_like(name, known)
    return otherwise if alike is None else f"Did you mean {alike!r}? All of them: {otherwise}"
