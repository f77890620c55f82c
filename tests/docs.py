"""The parts of README.md made from code: ``python tests/docs.py`` writes them, a test finds them out of date."""

from __future__ import annotations

import re
from pathlib import Path

from tests.bench import report
from trustgate.gateway.tuning import is_reloaded
from trustgate.settings import describe

README = Path(__file__).resolve().parent.parent / "README.md"
_BENCH = re.compile(r"(<!-- benchmark: .*? -->\n).*?(<!-- end of benchmark -->)", re.DOTALL)
_SETTINGS = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- end of settings -->)", re.DOTALL)


def settings_table() -> str:
    """Every setting with its default and its variable, as a Markdown table."""
    rows = ["| setting | default | variable | |", "|---|---|---|---|"]
    for setting in describe():
        default = "–" if setting.default in (None, (), []) else f"`{setting.default}`"
        doc = f"{setting.doc} ↻" if is_reloaded(setting.name) else setting.doc
        rows.append(f"| `{setting.name}` | {default} | `{setting.variable}` | {doc} |")
    return "\n".join(rows) + "\n"


def current(text: str) -> str:
    """The README with its generated parts as the code has them now."""
    text = _SETTINGS.sub(lambda found: found[1] + settings_table() + found[2], text)
    return _BENCH.sub(lambda found: found[1] + report.published() + found[2], text)


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
