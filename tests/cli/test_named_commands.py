"""The command lines that messages, pages and guides name exist: their commands, subcommands and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.environments import ROOT
from trustgate.cli.commands import TABLE, Commands

_LINE = re.compile(r"trustgate((?: --home \S+)?(?: (?:[^\s`\"';|)]+|'[^']*'))+)")
_WORD = re.compile(r"[a-z][a-z-]*")
_OPTION = re.compile(r"--[a-z0-9-]+")
#: A group's own command where none is named: ``trustgate budget TENANT``.
_DEFAULTS = {"budget": "status", "statement": "make"}


def named(text: str) -> Iterator[list[str]]:
    """The words of each command line in the text, from its command on; of prose about TrustGate, nothing."""
    for found in _LINE.finditer(text):
        words = found[1].split()
        words = words[2:] if words[0] == "--home" else words
        if words and words[0] in TABLE:
            yield words


def unknown(commands: Any, words: list[str]) -> str | None:
    """Returns the first word that is no subcommand or option of its command; None where all are."""
    command, rest = commands[words[0]], words[1:]
    if hasattr(command, "commands"):
        if rest and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        elif words[0] in _DEFAULTS:
            command = command.commands[_DEFAULTS[words[0]]]
        elif rest and _WORD.fullmatch(rest[0]):
            return rest[0]
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    given = [found[0] for word in rest if (found := _OPTION.match(word))]
    return next((option for option in given if option not in options), None)


def test_every_command_line_that_is_named_exists() -> None:
    commands = Commands().commands
    found, wrong = 0, []
    for pattern in ("trustgate/**/*.py", "trustgate/**/*.js", "trustgate/**/*.html", "*.md", "examples/**/*.md"):
        for path in ROOT.glob(pattern):
            for words in named(path.read_text()):
                found += 1
                if (word := unknown(commands, words)) is not None:
                    wrong.append(f"{path.relative_to(ROOT)}: trustgate {' '.join(words)}: {word}")
    assert found > 300, "the command lines were not found"
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("trustgate key list --tenant acme", "--tenant"),
        ("trustgate key lst", "lst"),
        ("trustgate export --output receipts.parquet", "--output"),
        ("trustgate budget acme", None),
        ("trustgate --home restored restore backup.tar", None),
    ],
)
def test_a_word_that_does_not_exist_is_found(line: str, wrong: str | None) -> None:
    commands = Commands().commands
    assert [unknown(commands, words) for words in named(line)] == [wrong]
