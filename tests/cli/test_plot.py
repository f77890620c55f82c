"""The picture of usage: an SVG that any reader of XML takes, whatever the names are."""

from __future__ import annotations

import struct
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import resvg_py
from hypothesis import given
from hypothesis import strategies as st

from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.cli.plot import REQUIREMENT, Panel, png, svg
from trustgate.cli.render import bar, sparkline
from trustgate.errors import OperatorError

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
    refused = either_home.cli("usage", "--plot", "usage.jpg", check=False)
    assert (refused.returncode, "usage.png" in refused.stderr) == (2, True)


def test_usage_draws_it_as_png(either_home: Gateway) -> None:
    file = either_home.home.with_name("usage.png")
    either_home.cli("usage", "--plot", str(file))
    width, height, rows = pixels(file.read_bytes())
    assert (width, height) == (2 * 900, len(rows))


def test_a_png_is_the_same_picture() -> None:
    picture = svg("Usage", [Panel("Requests", [("gpt-4o", 4, "4"), ("other", 1, "1")])])
    root = ElementTree.fromstring(picture)
    width, height, rows = pixels(png(picture))
    assert (width, height) == (2 * int(root.get("width", "")), 2 * int(root.get("height", "")))
    assert set(rows[0]) == {255}, "it is a picture in light"
    for drawn in (rect for rect in root.iter(f"{_SVG}rect") if rect.get("class") == "bar"):
        y = 2 * int(drawn.get("y", "")) + 8
        x, length = 2 * float(drawn.get("x", "")), 2 * float(drawn.get("width", ""))
        begin, end = int(x) + 4, int(x + length) - 4
        assert rows[y][4 * begin : 4 * end] == b"\x09\x69\xda\xff" * (end - begin)
        assert rows[y][4 * (end + 6) : 4 * (end + 7)] == b"\xff" * 4
    # The words: what is dark left of all bars.
    assert sum(row[: 4 * 300].count(b"\x24\x29\x2f\xff") for row in rows) > 500


def test_without_the_extra_a_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "resvg_py.py").write_text("raise ImportError")
    hidden = clean_environment({"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    command = [sys.executable, "-m", "trustgate", "--home", str(tmp_path / "home"), "usage", "--plot", "usage.png"]
    refused = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert refused.returncode == 2
    assert f"-m pip install '{REQUIREMENT}'" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


def test_what_is_said_to_install_is_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["plot"] == [REQUIREMENT]


def test_where_there_is_no_font_a_png_would_be_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **given: draw(**{**given, "skip_system_fonts": True}))
    with pytest.raises(OperatorError, match="No font"):
        png(svg("x", []))


def pixels(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of a PNG with 8 bits for each of red, green, blue and alpha (RFC 2083)."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = chunks.get(kind, b"") + body
        at += 12 + size
    width, height, bits, colour, *_, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (bits, colour, interlace) == (8, 6, 0)
    packed, stride = zlib.decompress(chunks[b"IDAT"]), 4 * width
    rows = [bytes(stride)]
    for start in range(0, len(packed), stride + 1):
        filtered, above, row = packed[start + 1 : start + 1 + stride], rows[-1], bytearray(stride)
        for i, byte in enumerate(filtered):
            left, up, corner = (row[i - 4], above[i], above[i - 4]) if i >= 4 else (0, above[i], 0)
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda near: abs(guess - near))
            row[i] = (byte + (0, left, up, (left + up) // 2, nearest)[packed[start]]) & 255
        rows.append(bytes(row))
    return width, height, rows[1:]


def test_bars_in_text() -> None:
    assert sparkline([0, 1, 4, 8], 10) == "▁▂▅█"
    assert sparkline([0, 0], 10) == "▁▁"
    assert sparkline(range(100), 3) == "███"
    assert sparkline([], 3) == ""
    assert [bar(value, 8, 2) for value in (0, 0.01, 4, 8, 5)] == ["", "▏", "█", "██", "█▎"]
    assert bar(0, 0, 5) == ""
