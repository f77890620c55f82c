"""The estimate stays within the errors its own documentation states, measured with the real tokenizer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.models import estimate
from trustgate.models.estimate import (
    IMAGE_TOKENS,
    estimate_chat,
    estimate_input,
    estimate_tokens,
    with_margin,
)

SAMPLES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "token_samples.json").read_text("utf-8"))


def error_percent(sample: dict[str, Any]) -> float:
    return 100 * (estimate_tokens(sample["text"]) / int(sample["cl100k_tokens"]) - 1)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["kind"])
def test_the_error_is_the_one_the_documentation_states(sample: dict[str, Any]) -> None:
    row = re.search(rf"^    {sample['kind']} +([+-]\d+) %", estimate.__doc__ or "", re.MULTILINE)
    assert row, f"{sample['kind']} is not in the table"
    assert abs(error_percent(sample) - int(row[1])) <= 0.51


def test_the_error_over_all_kinds_is_small() -> None:
    assert len(SAMPLES) == 18
    assert sum(abs(error_percent(sample)) for sample in SAMPLES) / len(SAMPLES) < 9
    assert all(with_margin(estimate_tokens(sample["text"])) >= sample["cl100k_tokens"] for sample in SAMPLES)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("Hello, world!", 4), ("\ud800", 2), ("            x", 1), ("你好", 3)]
)
def test_small_texts(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@given(st.text(max_size=200), st.text(max_size=200))
def test_an_estimate_is_bounded_and_adds_up(one: str, other: str) -> None:
    for text in (one, other):
        assert bool(text) <= estimate_tokens(text) <= 2.5 * len(text) + 1
        assert estimate_tokens(text) == estimate_tokens(text.encode())
    apart = estimate_tokens(one + "\n") + estimate_tokens(other)
    assert abs(estimate_tokens(one + "\n" + other) - apart) <= 1


def test_a_chat_is_its_texts_and_what_surrounds_them() -> None:
    texts = ["You are helpful.", "What is in this picture?"]
    bare = estimate_chat(texts, messages=2)
    assert bare == estimate_tokens("".join(texts)) + 2 * 4 + 3
    assert estimate_chat(texts, messages=2, images=2, tools_bytes=401) == bare + 2 * IMAGE_TOKENS + 101


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("Hello, world!", 4),
        (["Hello, world!", "a"], 5),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
        ([], 0),
        (None, 0),
        ({"a": 1}, 0),
        (7, 0),
    ],
)
def test_prompts_and_inputs(value: object, tokens: int) -> None:
    assert estimate_input(value) == tokens


def test_the_margin_rounds_up() -> None:
    assert [with_margin(tokens) for tokens in (0, 1, 5, 6)] == [0, 2, 6, 8]
