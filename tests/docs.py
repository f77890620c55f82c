"""What is made from code: parts of README.md and the completion scripts.

``python tests/docs.py`` writes them; tests find them out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Run by its path: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.bench import report
from trustgate.cli.completion import FILES, script
from trustgate.gateway.tuning import is_reloaded
from trustgate.settings import describe

README = Path(__file__).resolve().parent.parent / "README.md"
COMPLETIONS = README.parent / "completions"
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
    for shell, name in FILES.items():
        (COMPLETIONS / name).write_text(script(shell))
