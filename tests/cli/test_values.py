"""What people write on a command line, and the exact values it becomes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from trustgate.cli import values
from trustgate.types import Fallback


@pytest.mark.parametrize(
    ("text", "nano_usd"),
    [("5.00", 5_000_000_000), ("$5", 5_000_000_000), ("0.000000001", 1), (".5", 500_000_000), ("7.", 7_000_000_000)],
)
def test_dollars_are_kept_exactly(text: str, nano_usd: int) -> None:
    assert values.usd(text) == nano_usd


@pytest.mark.parametrize("text", ["", "-1", "+1", "5,00", "1e3", "NaN", "inf", "$", ".", "1 000", "٣", "0x10", "€5"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not an amount"):
        values.usd(text)


def test_more_decimals_than_are_kept_are_refused_not_rounded() -> None:
    with pytest.raises(typer.BadParameter, match="more than 9 decimals"):
        values.usd("0.0000000001")
    with pytest.raises(typer.BadParameter, match="more than 6 decimals"):
        values.usd_per_million("0.0000001")


def test_an_amount_beyond_what_is_kept_exactly_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="too large"):
        values.usd("9007200")


@given(st.decimals(min_value=0, max_value=9_000_000, places=9))
def test_every_amount_with_nine_decimals_is_exact(amount: Decimal) -> None:
    assert Decimal(values.usd(f"{amount:f}")) == amount * 1_000_000_000


def test_prices_per_million_tokens_are_pico_dollars_a_token() -> None:
    assert values.usd_per_million("0.15") == 150_000
    assert values.usd_per_million("0.000001") == 1


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("50000", 50_000), ("50_000", 50_000), ("9007199254740991", 2**53 - 1)]
)
def test_whole_numbers(text: str, number: int) -> None:
    assert values.whole(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1,000", "5_00", "_5", "9007199254740992", "1" * 5000, "²", "ten"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="not a whole number"):
        values.whole(text)


def test_the_word_none_takes_a_value_away() -> None:
    assert values.count_or_none("None").value is None
    assert values.count_or_none("0").value == 0
    assert values.usd_or_none("none").value is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("45s", 45), ("90m", 5400), ("24h", 86_400), ("30d", 2_592_000), ("2w", 1_209_600)]
)
def test_time_spans(text: str, seconds: int) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "1y", "1 d", "9999999999s"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="not a time span"):
        values.duration(text)


def _us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "start_us"),
    [
        ("2026-01-31", _us(2026, 1, 31)),
        ("2026-01-31T12:30:00Z", _us(2026, 1, 31, 12, 30)),
        ("2026-01-31T12:30:00+02:00", _us(2026, 1, 31, 10, 30)),
        ("2026-01-31 12:30", _us(2026, 1, 31, 12, 30)),
        ("1960-01-01", 0),
    ],
)
def test_a_start_that_is_written_out(text: str, start_us: int) -> None:
    assert values.since(text) == start_us


def test_a_start_that_counts_from_now() -> None:
    now_us = int(datetime.now(UTC).timestamp() * 1_000_000)
    week_us = 7 * 86_400 * 1_000_000
    assert 0 <= now_us - week_us - values.since("7d") < 60_000_000 or values.since("7d") >= now_us - week_us
    today = datetime.fromtimestamp(values.since("today") / 1_000_000, UTC)
    month = datetime.fromtimestamp(values.since("month") / 1_000_000, UTC)
    assert (today.hour, today.minute, today.second, today.microsecond) == (0, 0, 0, 0)
    assert (month.day, month.hour) == (1, 0)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-02-30", "01/02/2026", "2026-01-31T25:00:00Z"])
def test_what_is_no_start_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a start"):
        values.since(text)


def test_a_start_before_all_time_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="too far back"):
        values.since("999999999w")


def test_each_fallback_option_is_one_rank() -> None:
    assert values.fallbacks(["a:3,b", "llama3:8b"]) == (
        Fallback(passport="a", rank=1, weight=3),
        Fallback(passport="b", rank=1, weight=1),
        Fallback(passport="llama3:8b", rank=2, weight=1),
    )


@pytest.mark.parametrize("text", ["", "a,", "a:0", ":3", "a:99999999"])
def test_what_is_no_fallback_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        values.fallbacks([text])


def test_parameters_are_json() -> None:
    assert values.parameters(["temperature=0.2", 'stop=["a=b"]', "seed=7"]) == {
        "temperature": 0.2,
        "stop": ["a=b"],
        "seed": 7,
    }


@pytest.mark.parametrize("text", ["temperature", "=1", "stop=hello", "x={"])
def test_what_is_no_parameter_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        values.parameters([text])


def test_words_are_kept_once_and_in_order() -> None:
    assert values.words(["tools, vision", "tools"]) == ("tools", "vision")
