"""What is made from code: parts of README.md and the completion scripts.

``python tests/docs.py`` writes them; tests find them out of date.

The table of clients is made from what they did: ``python -m tests.clients`` runs them and writes it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Run by its path: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.bench import report
from trustgate.cli.completion import FILES, script
from trustgate.server.reload import is_reloaded
from trustgate.settings import describe

README = Path(__file__).resolve().parent.parent / "README.md"
COMPLETIONS = README.parent / "completions"
_BENCH = re.compile(r"(<!-- benchmark: .*? -->\n).*?(<!-- end of benchmark -->)", re.DOTALL)
_SETTINGS = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- end of settings -->)", re.DOTALL)

_CLIENTS = re.compile(r"(<!-- clients: .*? -->\n)(.*?)(<!-- end of clients -->)", re.DOTALL)


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


def clients_section(text: str) -> str:
    """The table of clients that the README has. Raises AssertionError when it has none."""
    found = _CLIENTS.search(text)
    assert found is not None, "the README has no table of clients"
    return found[2]


def with_clients_section(text: str, table: str) -> str:
    """The README with that table of clients."""
    return _CLIENTS.sub(lambda found: found[1] + table + found[3], text)


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
    for shell, name in FILES.items():
        (COMPLETIONS / name).write_text(script(shell))
