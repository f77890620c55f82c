"""A picture of usage, as SVG or PNG.

Owns the drawing: some rectangles and texts, written here. A plotting library would weigh more than this whole program
(matplotlib and what it needs: some 100 MB). The SVG follows the reader's light or dark mode; a PNG is the same picture
in light, made of it by resvg, the extra ``plot`` (one wheel of 1.4 MB without dependencies).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from trustgate.errors import ExtraMissing, InvalidRequest, OperatorError

_WIDTH, _LEFT, _RIGHT, _TOP = 900, 190, 110, 40
_ROW, _PANEL_GAP = 18, 34
_NAME_CHARACTERS = 23

#: What draws the PNG takes sans-serif for one family, Arial, which most servers lack: those that they have are named.
_FAMILIES = 'system-ui, "Noto Sans", "DejaVu Sans", "Liberation Sans", "FreeSans", Arial, Helvetica, sans-serif'

_STYLE = f"""
text {{ font: 12px {_FAMILIES}; fill: #24292f; }} .title {{ font-size: 16px; font-weight: 600; }}
.panel {{ font-weight: 600; }} .value {{ fill: #57606a; }} .bar {{ fill: #0969da; }} .background {{ fill: #ffffff; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }} .value {{ fill: #9198a1; }} .bar {{ fill: #4493f8; }} .background {{ fill: #0d1117; }}
}}
"""


#: As pyproject.toml has it for the extra.
REQUIREMENT = "resvg-py>=0.5,<0.6"
#: Pixels of a PNG for each of the SVG's: sharp on the screens of today.
_PNG_SCALE = 2


class Panel(NamedTuple):
    """Bars of one measure: a title, and for each name a value and how that is written."""

    title: str
    bars: Sequence[tuple[str, int, str]]


def svg(title: str, panels: Sequence[Panel]) -> str:
    """Returns the whole picture. Values are not negative."""
    rows: list[str] = []
    y = _TOP
    for panel in panels:
        y += _PANEL_GAP
        rows.append(f'<text class="panel" x="16" y="{y}">{_text(panel.title)}</text>')
        most = max((value for _, value, _ in panel.bars), default=0)
        for name, value, written in panel.bars:
            y += _ROW
            length = (_WIDTH - _LEFT - _RIGHT) * value / most if most else 0
            whole = f"<title>{_text(name)}</title>"
            rows += (
                f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">{_text(_shortened(name))}{whole}</text>',
                f'<rect class="bar" x="{_LEFT}" y="{y - 11}" width="{length:.1f}" height="13" rx="2"/>',
                f'<text class="value" x="{_LEFT + length + 6:.1f}" y="{y}">{_text(written)}</text>',
            )
    height = y + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{_text(title)}">\n<style>{_STYLE}</style>\n'
        f'<rect class="background" width="100%" height="100%"/>\n'
        f'<text class="title" x="16" y="28">{_text(title)}</text>\n' + "\n".join(rows) + "\n</svg>\n"
    )


def writer(file: Path) -> Callable[[str], bytes]:
    """Returns what makes a file of that name of an SVG.

    Raises ``InvalidRequest`` for other names, ``ExtraMissing`` when nothing here makes a PNG.
    """
    kind = file.suffix.lower()
    if kind == ".svg":
        return str.encode
    if kind != ".png":
        raise InvalidRequest(
            f"{file} does not end in .svg or .png.", hint="Name it usage.svg or usage.png.", param="plot"
        )
    try:
        import resvg_py  # noqa: F401 - whether it can be had
    except ImportError:
        message = "The packages that draw a PNG are not installed; an SVG needs none."
        raise ExtraMissing.of(message, "plot", REQUIREMENT) from None
    return png


def png(picture: str) -> bytes:
    """Raises ``OperatorError`` where there is no font to write with: bars without names say nothing."""
    import resvg_py

    drawn = resvg_py.svg_to_bytes(svg_string=picture, zoom=_PNG_SCALE)
    if drawn == resvg_py.svg_to_bytes(svg_string=picture, zoom=_PNG_SCALE, skip_system_fonts=True):
        raise OperatorError(
            "No font was found on this machine, so a PNG would have no text.",
            hint="Install one (on Debian: apt install fonts-dejavu-core), or draw an SVG, which needs none.",
        )
    return drawn


def _text(text: str) -> str:
    """XML knows no control characters at all."""
    return escape("".join(c if c.isprintable() else "�" for c in text), {'"': "&quot;"})


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"
