"""The picture of usage: an SVG that any reader of XML takes, whatever the names are."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway import Gateway
from trustgate.cli.plot import Panel, svg
from trustgate.cli.render import bar, sparkline

_SVG = "{http://www.w3.org/2000/svg}"


@given(st.lists(st.tuples(st.text(), st.integers(0, 2**53), st.text()), max_size=5), st.text())
def test_it_is_xml_with_a_bar_for_each_name(bars: list[tuple[str, int, str]], title: str) -> None:
    root = ElementTree.fromstring(svg(title, [Panel(title, bars), Panel("x", [])]))
    drawn = [rect for rect in root.iter(f"{_SVG}rect") if rect.get("class") == "bar"]
    assert len(drawn) == len(bars)
    widths = [float(rect.get("width", "nan")) for rect in drawn]
    assert all(0 <= width <= 600.1 for width in widths)
    if any(value for _, value, _ in bars):
        assert max(widths) == pytest.approx(600, abs=0.1)


def test_usage_draws_it(either_home: Gateway) -> None:
    file = either_home.home.with_name("usage.svg")
    either_home.cli("usage", "--by", "model", "--plot", str(file))
    assert ElementTree.parse(file).getroot().tag == f"{_SVG}svg"
    refused = either_home.cli("usage", "--plot", "usage.png", check=False)
    assert (refused.returncode, "SVG" in refused.stderr) == (2, True)


def test_bars_in_text() -> None:
    assert sparkline([0, 1, 4, 8], 10) == "▁▂▅█"
    assert sparkline([0, 0], 10) == "▁▁"
    assert sparkline(range(100), 3) == "███"
    assert sparkline([], 3) == ""
    assert [bar(value, 8, 2) for value in (0, 0.01, 4, 8, 5)] == ["", "▏", "█", "██", "█▎"]
    assert bar(0, 0, 5) == ""
