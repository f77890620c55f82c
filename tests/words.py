"""How the code's prose reads: words per 1,000 in the docstrings and comments of ``trustgate``.

``python tests/words.py`` prints a table by room, and ``python tests/words.py ROOM…`` the places behind the counts.
Other libraries, for comparison: Starlette and httpx have 0 to 0.2 of ``person``, 0 to 0.8 of ``speech`` and 5 to 12 of
``returns``.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "trustgate"

#: What is counted: a name and the words behind it.
WORDS = {
    "person": re.compile(r"\b(?:whoever|somebody|nobody|anybody)(?:'s)?\b", re.IGNORECASE),
    "speech": re.compile(r"\b(?:tells|says)\b", re.IGNORECASE),
    "returns": re.compile(r"\bReturns\b"),
    "raises": re.compile(r"\bRaises\b"),
}
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")


class Prose(NamedTuple):
    """One docstring or comment."""

    path: Path
    line: int
    text: str


class Count(NamedTuple):
    """The words of a room's prose: all of them, and those of each name in ``WORDS``."""

    words: int
    found: dict[str, int]

    def per_thousand(self, name: str) -> float:
        """Returns how many of 1,000 words are of that name."""
        return 1000 * self.found[name] / max(self.words, 1)


def prose(path: Path) -> Iterator[Prose]:
    """Yields the docstrings and comments of one file."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(docstring))):
                    yield Prose(path, statement.lineno, docstring)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield Prose(path, token.start[0], token.string.lstrip("#: "))


def files(room: str = "") -> list[Path]:
    """Returns the files of a room such as ``gateway`` or ``gateway/path``, of a file, or of the whole package."""
    target = PACKAGE / room
    return [target] if target.is_file() else sorted(target.rglob("*.py"))


def count(paths: list[Path]) -> Count:
    """Returns the counts over these files."""
    words, found = 0, dict.fromkeys(WORDS, 0)
    for piece in (piece for path in paths for piece in prose(path)):
        words += len(_WORD.findall(piece.text))
        for name, pattern in WORDS.items():
            found[name] += len(pattern.findall(piece.text))
    return Count(words, found)


def rooms() -> list[str]:
    """Returns the names of all rooms and of the files beside them."""
    return sorted(
        entry.name for entry in PACKAGE.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").exists()
    )


def main(chosen: list[str]) -> None:
    print(f"{'room':16}{'words':>8}" + "".join(f"{name:>9}" for name in WORDS))
    for room in [*(chosen or rooms()), ""]:
        counted = count(files(room))
        shares = "".join(f"{counted.per_thousand(name):9.1f}" for name in WORDS)
        print(f"{room or 'all':16}{counted.words:8}{shares}")
    for piece in (piece for room in chosen for path in files(room) for piece in prose(path)):
        for name in ("person", "speech"):
            for found in WORDS[name].finditer(piece.text):
                line = piece.line + piece.text.count("\n", 0, found.start())
                print(f"{piece.path.relative_to(PACKAGE.parent)}:{line}: {found[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
