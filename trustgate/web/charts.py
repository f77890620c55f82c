"""Charts as SVG, drawn here: a script is not needed to see them. Beside each stands the table of its figures.

Libraries were weighed (uPlot, 50 KB; Chart.js, 200 KB): they draw on a canvas, which a screen reader cannot read and
which shows nothing without scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trustgate.web.html import Html, tag

_WIDTH, _HEIGHT = 520, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 22, 24
_LABELS_MOST = 6
_ROW, _NAME_WIDTH, _VALUE_WIDTH, _NAME_CHARACTERS = 22, 170, 90, 26


class Bar(NamedTuple):
    """One bar: its name, how long it is, and how that is written. ``mood``: ``bad`` colours it."""

    name: str
    value: int
    written: str
    mood: str = ""


def columns(caption: str, bars: Sequence[Bar]) -> Html:
    """Returns upright bars, for values over time. The highest one is written out; a pointer shows each."""
    most = max((bar.value for bar in bars), default=0)
    top = next((bar.written for bar in bars if bar.value == most), "")
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(bars), 1)
    height = _HEIGHT - _TOP - _BOTTOM
    drawn: list[Html] = [
        _line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
        _line(_LEFT, _TOP, _WIDTH - _RIGHT, _TOP),
        _text(_LEFT, _TOP - 7, f"most: {top}"),
    ]
    every = -(-len(bars) // _LABELS_MOST) if bars else 1
    for at, bar in enumerate(bars):
        tall = height * bar.value / most if most else 0.0
        left = _LEFT + at * step
        if tall:
            drawn.append(_bar(bar, left + step * 0.12, _HEIGHT - _BOTTOM - max(tall, 1), step * 0.76, max(tall, 1)))
        if at % every == 0:
            # The first one would begin outside of the picture.
            x, anchor = (left + step / 2, "middle") if at else (left, "start")
            drawn.append(_text(x, _HEIGHT - 8, bar.name, anchor=anchor, is_second=at // every % 2 == 1))
    return _figure(caption, _HEIGHT, drawn, "over-time")


def ranks(caption: str, bars: Sequence[Bar]) -> Html:
    """Returns lying bars, for names in their order."""
    most = max((bar.value for bar in bars), default=0)
    room = _WIDTH - _NAME_WIDTH - _VALUE_WIDTH
    drawn: list[Html] = []
    for at, bar in enumerate(bars):
        y = 4 + at * _ROW
        long = max(room * bar.value / most, 1) if most else 1.0
        shown = bar.name if len(bar.name) <= _NAME_CHARACTERS else bar.name[: _NAME_CHARACTERS - 1] + "…"
        drawn += (
            _text(_NAME_WIDTH - 8, y + 14, shown, anchor="end"),
            _bar(bar, _NAME_WIDTH, y + 3, long, _ROW - 6),
            _text(_NAME_WIDTH + long + 6, y + 14, bar.written),
        )
    return _figure(caption, 8 + _ROW * len(bars), drawn)


def _figure(caption: str, height: int, drawn: Sequence[Html], kind: str = "") -> Html:
    box = {"viewBox": f"0 0 {_WIDTH} {height}", "role": "img", "aria-label": caption, "preserveAspectRatio": "xMinYMin"}
    # Wider than a small screen, it is moved by the keyboard too.
    scrolled = {"class": f"chart {kind}".strip(), "tabindex": "0"}
    return tag("figure", scrolled, tag("figcaption", None, caption), tag("svg", box, drawn))


def _bar(bar: Bar, x: float, y: float, width: float, height: float) -> Html:
    place: dict[str, str | int | bool | None] = {"x": f"{x:.1f}", "y": f"{y:.1f}", "rx": 2}
    place |= {"width": f"{width:.1f}", "height": f"{height:.1f}"}
    name = tag("title", None, f"{bar.name}: {bar.written}")
    return tag("rect", {**place, "class": f"bar {bar.mood}".strip()}, name)


def _text(x: float, y: float, text: str, anchor: str | None = None, *, is_second: bool = False) -> Html:
    """``is_second``: every other label, which is left out where there is little room."""
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    return tag("text", {**place, "class": "second" if is_second else None}, text)


def _line(x1: float, y1: float, x2: float, y2: float) -> Html:
    return tag("line", {"class": "grid", "x1": f"{x1:g}", "x2": f"{x2:g}", "y1": f"{y1:g}", "y2": f"{y2:g}"})
