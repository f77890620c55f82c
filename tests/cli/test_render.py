"""How things are written for people, and as JSON for programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trustgate.cli import render, values
from trustgate.types import ApiKey, Limits


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_500, "$0.0000015"),
        (5_000_000_000, "$5.00"),
        (5_100_000_000, "$5.10"),
        (1_234_567_000_000_000, "$1,234,567.00"),
        (-2_500_000_000, "-$2.50"),
    ],
)
def test_money_is_written_exactly(nano_usd: int, text: str) -> None:
    assert render.usd(nano_usd) == text


@given(st.integers(min_value=0, max_value=2**53 - 1))
def test_money_that_is_written_can_be_read_again(nano_usd: int) -> None:
    assert values.usd(render.usd(nano_usd).replace(",", "")) == nano_usd


def test_prices_are_per_million_tokens() -> None:
    assert render.usd_per_million(150_000) == "$0.15"


def test_times_are_utc() -> None:
    assert render.instant_utc(1_769_903_999_999_999) == "2026-01-31 23:59:59 UTC"
    assert render.instant(None) == "–"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (32 * 2**20, "32.0 MiB"), (2**50, "1,024.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert render.size(count) == text


def test_json_has_every_field_but_no_hash_of_a_secret(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    key = ApiKey(id="key_1", tenant_id="ten_1", name="Zoë", secret_sha256="ab" * 32, redacted="tgk_…")
    render.document({"keys": (key,)})
    import sys

    sys.stdout.flush()
    out = capfdbinary.readouterr().out
    [shown] = json.loads(out)["keys"]
    assert set(shown) == {*ApiKey.__struct_fields__} - {"secret_sha256"}
    assert set(shown["limits"]) == set(Limits.__struct_fields__)
    assert "Zoë".encode() in out
    assert out.endswith(b"}\n")


def test_control_codes_and_markup_in_names_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(["Name"], [["\x1b[31mred\x07 [bold]b[/bold] :smile:"]], empty="")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]b[/bold] :smile:" in out


def test_without_a_terminal_nothing_is_fitted_to_a_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    render.table(["A", "B"], [["x" * 300, "y" * 300]], empty="")
    render.card([("Name", "z" * 300)])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert "x" * 300 in out
    assert "z" * 300 in out


_CELLS = st.one_of(
    st.text(max_size=12).map(str.strip),
    st.sampled_from(["", "日本語", "e\u0301", "👩‍💻", "a\nb", "[bold]"]),
    st.builds(render.Styled, st.text(max_size=6).map(str.strip), st.sampled_from(["", "green", "bold red"])),
)


@settings(max_examples=30)
@given(st.lists(st.tuples(_CELLS, _CELLS, _CELLS), min_size=1, max_size=5))
def test_a_table_looks_as_richs_own(rows: list[tuple[render.Cell, ...]]) -> None:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = [render.Column("Name"), render.right("Größe"), render.Column("C")]
    for head in heads:
        made.add_column(head.title, justify=head.align, no_wrap=True)
    for row in rows:
        words = [cell.text if isinstance(cell, render.Styled) else cell for cell in row]
        made.add_row(*[Text(render.printable(text).replace("\n", "�")) for text in words])
    expected, shown = io.StringIO(), io.StringIO()
    Console(file=expected, width=1000, color_system=None).print(made)
    with contextlib.redirect_stdout(shown):
        render.table(heads, rows, empty="")
    assert shown.getvalue() == "".join(f"{line.rstrip()}\n" for line in expected.getvalue().split("\n")[:-1])


def test_a_styled_cell_has_its_colour_and_its_column_its_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    render.table(["State", "N"], [[render.status("ok"), "1"], ["x", "2"]], empty="")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "\x1b[1mState\x1b[0m  \x1b[1mN\x1b[0m"
    assert first == "\x1b[32mok\x1b[0m     1"
    assert second == "x      2"


def test_an_empty_table_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(["A"], [], empty="There is nothing.")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "There is nothing.\n"


_LONG_WORK: list[Callable[[bool], AbstractContextManager[Any]]] = [
    lambda quiet: render.waiting("Counting sheep", quiet=quiet),
    lambda quiet: render.working("Counting sheep", quiet=quiet),
    lambda quiet: render.progress("Counting sheep", quiet=quiet),
]


@pytest.mark.parametrize("begin", _LONG_WORK, ids=["waiting", "working", "progress"])
@pytest.mark.parametrize("quiet", [False, True])
def test_on_a_terminal_long_work_shows_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[[bool], AbstractContextManager[Any]], quiet: bool
) -> None:
    terminal, end = pty.openpty()
    with os.fdopen(end, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        with begin(quiet):
            pass
        print("woken", file=stderr, flush=True)
        shown = b""
        while b"woken" not in shown:
            shown += os.read(terminal, 65536)
    os.close(terminal)
    assert (b"Counting sheep" in shown) is not quiet


def test_elsewhere_only_stages_are_worth_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with render.waiting("Waiting", quiet=False), render.progress("Counting", quiet=False) as advance:
        advance(1, 2)
    with render.working("First", quiet=True) as tell:
        tell("Second")
    assert capsys.readouterr() == ("", "")
    with render.working("First", quiet=False) as tell:
        for stage in ("First", "Second", "Second"):
            tell(stage)
    assert capsys.readouterr() == ("", "First\nSecond\n")
