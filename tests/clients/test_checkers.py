"""What others' checkers and a fuzzer find: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.checkers import FORMATS, comply, fuzz, served
from tests.support.gateway import Gateway


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    with served(tmp_path_factory.mktemp("checked")) as made:
        yield made


@pytest.mark.parametrize("kind", FORMATS)
def test_llm_comply_is_content(checked: tuple[Gateway, str], kind: str) -> None:
    """What it skips needs a model whose name says that it reasons."""
    results = comply(*checked, kind)
    passed = [result for result in results if result["status"] == "passed"]
    assert len(passed) >= 8, results
    assert not [result for result in results if result["status"] not in ("passed", "skipped")]


def test_requests_made_from_its_own_document_never_break_it(checked: tuple[Gateway, str], tmp_path: Path) -> None:
    """``python -m tests.clients.checkers`` makes many more of them."""
    fuzzed = fuzz(*checked, tmp_path, examples=2, seed=20261)
    assert fuzzed.failures == [], fuzzed.log
    assert fuzzed.operations >= 30
    assert fuzzed.requests > 1000
