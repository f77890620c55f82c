"""Counting how many examples of a property reach its assertion: a property that filters all of them away cannot fail.

    @reaches(0.3)
    @given(texts)
    def test_what_is_read_is_written_back(text: str) -> None:
        try:
            value = read(text)
        except Refused:
            return
        reached()
        assert write(value) == text

The test above fails where less than three tenths of its examples come to ``reached()``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., None])


class _Count:
    def __init__(self) -> None:
        self.examples = 0
        self.reached = 0


_count: ContextVar[_Count] = ContextVar("count")


def reached() -> None:
    """The example has come to what the property asserts. To be called inside a test under ``reaches``."""
    _count.get().reached += 1


def reaches(share: float) -> Callable[[Test], Test]:
    """Fail the property below (``@given``) unless at least this share of its examples calls ``reached``."""

    def decorate(test: Test) -> Test:
        handle: Any = test.hypothesis  # type: ignore[attr-defined]
        inner = handle.inner_test

        @functools.wraps(inner)
        def counted(*arguments: Any, **named: Any) -> None:
            _count.get().examples += 1
            inner(*arguments, **named)

        handle.inner_test = counted

        @functools.wraps(test)
        def outer(*arguments: Any, **named: Any) -> None:
            count = _Count()
            token = _count.set(count)
            try:
                test(*arguments, **named)
            finally:
                _count.reset(token)
            assert count.reached >= share * count.examples, (
                f"{count.reached} of {count.examples} examples reached the assertion; at least {share:.0%} have to"
            )

        return outer  # type: ignore[return-value]

    return decorate
