"""Seeds and all that a fuzzing run has found pass their targets; ``python3 tests/fuzz`` looks for more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def _inputs() -> Iterator[object]:
    for name, target in TARGETS.items():
        for number, seed in enumerate(target.seeds()):
            yield pytest.param(name, seed, id=f"{name}-seed-{number}")
        for path in sorted((CORPUS / name).glob("*")):
            yield pytest.param(name, path.read_bytes(), id=f"{name}-{path.name}")


@pytest.mark.parametrize(("name", "data"), list(_inputs()))
def test_what_must_hold_for_any_bytes_holds(name: str, data: bytes) -> None:
    TARGETS[name].run(data)
    TARGETS[name].run(data[: len(data) // 2])
    TARGETS[name].run(data + data)


def test_every_input_kept_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()
