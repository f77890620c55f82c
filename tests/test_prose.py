"""The code's prose stays plain: see ``tests/words.py``, which also shows the places behind a count."""

from __future__ import annotations

import pytest

from tests.words import Count, count, files


@pytest.fixture(scope="module")
def package() -> Count:
    counted = count(files())
    assert counted.words > 30_000
    return counted


@pytest.mark.parametrize(("name", "most"), [("person", 1.0), ("speech", 1.5)])
def test_components_are_not_persons(package: Count, name: str, most: float) -> None:
    assert package.per_thousand(name) <= most, "see where: python tests/words.py ROOM"


@pytest.mark.parametrize(("name", "least"), [("returns", 5.0), ("raises", 3.0)])
def test_functions_say_what_they_return_and_raise(package: Count, name: str, least: float) -> None:
    assert package.per_thousand(name) >= least
