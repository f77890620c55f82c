"""The helper that makes a property fail when it filters its examples away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reached import reached, reaches


def test_a_property_that_filters_everything_away_fails() -> None:
    @reaches(0.1)
    @given(st.integers())
    def asserts_nothing(number: int) -> None:
        if number != number:
            reached()

    with pytest.raises(AssertionError, match=r"0 of \d+ examples reached the assertion; at least 10% have to"):
        asserts_nothing()


def test_a_property_that_reaches_its_assertion_passes_and_a_failing_one_fails() -> None:
    @reaches(0.9)
    @given(st.integers())
    def holds(number: int) -> None:
        reached()

    @reaches(0.0)
    @given(st.integers())
    def fails(number: int) -> None:
        reached()
        assert number < 10, "found it"

    holds()
    with pytest.raises(AssertionError, match="found it"):
        fails()
