"""The parts of README.md made from code: ``python tests/docs.py`` writes them, a test finds them out of date.

The table of clients is made from what they did: ``python -m tests.clients`` runs them and writes it.
"""

from __future__ import annotations

import re
from pathlib import Path

from trustgate.settings import describe

README = Path(__file__).resolve().parent.parent / "README.md"
_SETTINGS = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- end of settings -->)", re.DOTALL)

_CLIENTS = re.compile(r"(<!-- clients: .*? -->\n)(.*?)(<!-- end of clients -->)", re.DOTALL)


def settings_table() -> str:
    """Every setting with its default and its variable, as a Markdown table."""
    rows = ["| setting | default | variable | |", "|---|---|---|---|"]
    for setting in describe():
        default = "–" if setting.default in (None, (), []) else f"`{setting.default}`"
        rows.append(f"| `{setting.name}` | {default} | `{setting.variable}` | {setting.doc} |")
    return "\n".join(rows) + "\n"


def current(text: str) -> str:
    """The README with its generated parts as the code has them now."""
    return _SETTINGS.sub(lambda found: found[1] + settings_table() + found[2], text)


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
