"""Which commands there are without importing them, and what words mean without Typer's validator."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import trustgate.cli
from tests.support.gateway import Gateway
from trustgate.cli import app
from trustgate.cli.commands import TABLE


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(app)


def test_the_table_of_commands_is_what_the_modules_say(program: Any) -> None:
    assert {name: command.get_short_help_str(200) for name, command in program.commands.items()} == {
        name: entry.help for name, entry in TABLE.items()
    }


def test_no_command_is_missing_from_the_table() -> None:
    found: set[str | None] = set()
    for module in pkgutil.iter_modules(trustgate.cli.__path__):
        loaded = import_module(f"trustgate.cli.{module.name}")
        if hasattr(loaded, "app"):
            found.add(module.name.replace("_", "-"))
        elif hasattr(loaded, "register"):
            alone = typer.Typer()
            loaded.register(alone)
            found |= {info.name for info in alone.registered_commands}
    assert found == set(TABLE)


@pytest.mark.parametrize("arguments", [("tenant", "list"), ("tenant", "add", "x"), ("usage", "--by", "model")], ids=str)
def test_plain_words_need_no_validator(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from trustgate.cli import run; code = run(sys.argv[1:]); "
        "sys.exit('pydantic was imported' if 'pydantic' in sys.modules else code)"
    )
    home = Gateway(tmp_path / "home").make_home().home
    command = [sys.executable, "-c", code, "--home", str(home), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for below in getattr(command, "commands", {}).values():
        yield from _parameters(below)


#: None whose meaning depends on the clock.
_TEXTS = ["", "x", " 7", "7", "-7", "+7", "07", "7.5", "٧", "99999999", "day", "DAY", "yes", "0.10", "a=1", "/", "-"]


def test_what_is_read_without_the_validator_is_what_the_validator_reads(program: Any) -> None:
    """For every parameter of every command: its default, and texts that may be right or wrong."""

    def outcome(reader: Any, value: Any, parameter: Any) -> tuple[type, str]:
        try:
            read = reader.coerce(value, param=parameter, ctx=None)
        except typer.BadParameter as error:
            return type(error), error.message
        return type(read), repr(read)

    compared = 0
    for parameter in _parameters(program):
        short = parameter.get_runtime_param()
        whole = short._validator()
        one = parameter.nargs == 1 and not parameter.multiple
        for value in (parameter.default, *(text if one else [text, "x"] for text in _TEXTS)):
            assert outcome(short, value, parameter) == outcome(whole, value, parameter), (parameter.name, value)
            compared += 1
    assert compared > 1000
