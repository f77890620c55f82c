"""The commands, options and arguments of the app, as completion scripts need them. Owns what each value is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer

from trustgate.cli.commands import first_sentence


class Value(NamedTuple):
    """What a word can be. ``kind``: words (those), file, folder, one of ``DYNAMIC``, or any."""

    kind: str
    words: tuple[str, ...] = ()


class Option(NamedTuple):
    """``value`` is None for a switch."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    repeated: bool


class Node(NamedTuple):
    """A command. ``path`` is how it is called; ``commands`` are the names and help of those below it."""

    path: str
    commands: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]


ANY, FILE, FOLDER = Value("any"), Value("file"), Value("folder")
#: What the program is asked for: `trustgate completion values KIND`.
DYNAMIC = ("tenant", "plan", "passport", "key", "receipt", "budget")
#: How a parameter's help names its value.
_BY_METAVAR = {kind.upper(): Value(kind) for kind in DYNAMIC} | {
    "FILE": FILE,
    "DIR": FOLDER,
    "SLUG[:WEIGHT][,…]": Value("passport"),
    "GLOB": Value("passport"),
}

_HELP = Option(("--help", "-h"), "Show this message and exit.", None, repeated=False)


def read_tree(app: typer.Typer) -> tuple[Node, ...]:
    """Returns every command, from the whole program down."""
    return tuple(_walk(typer.main.get_command(app), "trustgate"))


def _walk(command: Any, path: str) -> Iterator[Node]:
    below: Mapping[str, Any] = {name: one for name, one in getattr(command, "commands", {}).items() if not one.hidden}
    options, arguments = [_HELP], []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            arguments.append(_value(parameter))
        elif not parameter.hidden:
            is_switch = bool(parameter.is_flag)
            names = (*parameter.opts, *parameter.secondary_opts)
            value = None if is_switch else _value(parameter)
            options.append(Option(names, first_sentence(parameter.help or ""), value, bool(parameter.multiple)))
    helps = tuple((name, first_sentence(one.get_short_help_str(200))) for name, one in below.items())
    yield Node(path, helps, tuple(options), tuple(arguments))
    for name, one in below.items():
        yield from _walk(one, f"{path} {name}")


def _value(parameter: Any) -> Value:
    described = parameter.type_descriptor
    if described.choices is not None:
        return Value("words", tuple(map(str, described.choices)))
    named = _BY_METAVAR.get(parameter.metavar or "")
    return named or (FILE if described.is_path else ANY)
