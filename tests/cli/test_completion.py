"""The completion scripts: kept in step with the app, and tried in the real shells.

PowerShell is the exception: neither Debian nor a package index has it, so its script is only read.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.docs import COMPLETIONS
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from tests.support.programs import require
from tests.support.terminal import Terminal
from trustgate.cli import app
from trustgate.cli.completion import FILES, Shell, script
from trustgate.cli.completion.tree import Node, read_tree

#: Typed, and what it is completed to. A name with blanks and signs comes out quoted, as the shell wants it.
CASES = [
    ("trustgate ten", "trustgate tenant"),
    ("trustgate tenant sus", "trustgate tenant suspend"),
    ("trustgate tenant add --pl", "trustgate tenant add --plan"),
    ("trustgate tenant add x --plan gr", "trustgate tenant add x --plan growth"),
    ("trustgate tenant add x --plan=gr", "trustgate tenant add x --plan=growth"),
    ("trustgate tenant show ac", "trustgate tenant show acme"),
    ("trustgate tenant show Zo", "trustgate tenant show Zoë & Söhne"),
    ("trustgate --home {home} tenant suspend ac", "trustgate --home {home} tenant suspend acme"),
    ("trustgate plan set tea", "trustgate plan set team"),
    ("trustgate plan add x --on-disconnect dr", "trustgate plan add x --on-disconnect drain"),
    ("trustgate passport show llama3.1:8", "trustgate passport show llama3.1:8b"),
    ("trustgate receipt verify {home}/trustgate.duckdb.l", "trustgate receipt verify {home}/trustgate.duckdb.lock"),
    # Nothing begins like this: it stays as it is, without a message.
    ("trustgate tenant show nobody", "trustgate tenant show nobody"),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A home with names to complete, and no server."""
    home = Gateway(tmp_path_factory.mktemp("completion") / "home")
    for name in ("acme", "Zoë & Söhne"):
        home.add_tenant(name)
    home.cli("plan", "add", "team")
    home.cli("passport", "add", "llama3.1:8b")
    return home


@pytest.fixture(scope="module")
def environment(filled: Gateway, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where ``trustgate`` is a program on the PATH, and its home is ``filled``."""
    programs = tmp_path_factory.mktemp("bin")
    program = programs / "trustgate"
    # At a prompt no values are better than late ones; here they are waited for, however busy the machine is.
    patient = "import trustgate.cli.completion as c; c._TIMEOUT_S = 600; from trustgate.__main__ import main; main()"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{patient}" "$@"\n')
    program.chmod(0o755)
    return clean_environment(
        {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "TRUSTGATE_HOME": str(filled.home),
            "HOME": str(programs),
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "PS1": "> ",
        }
    )


# in step


@pytest.mark.parametrize("shell", get_args(Shell))
def test_the_scripts_in_the_repository_are_those_of_the_app(shell: Shell) -> None:
    assert (COMPLETIONS / FILES[shell]).read_text() == script(shell), "run: python tests/docs.py"


def test_the_command_prints_the_script(filled: Gateway) -> None:
    assert filled.cli("completion", "bash").stdout == script("bash")


def test_every_command_and_option_is_in_the_tree() -> None:
    tree = {node.path: node for node in read_tree(app)}
    assert [name for name, _ in tree["trustgate"].commands][:2] == ["demo", "init"]
    assert "trustgate completion values" not in tree, "it is hidden"
    plan = next(option for option in tree["trustgate tenant add"].options if "--plan" in option.names)
    assert plan.value is not None
    assert plan.value.kind == "plan"
    assert [value.kind for value in tree["trustgate key create"].arguments] == ["tenant"]


# in the shells


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_at_a_prompt(shell: str, filled: Gateway, environment: dict[str, str], tmp_path: Path) -> None:
    if shell == "bash":
        command = [require("bash"), "--norc", "--noprofile", "-i"]
        setup = f"source {COMPLETIONS / FILES['bash']}"
    else:
        command = [require("zsh"), "-f", "-i"]
        setup = f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -D; unset zle_bracketed_paste"
    with Terminal(command, environment, tmp_path) as terminal:
        # The quotes keep what is typed from looking like what is printed.
        terminal.type(f"{setup}; echo rea'dy'\n")
        terminal.wait_for("ready\r\n")
        for number, (typed, completed) in enumerate(CASES):
            # Completed, then made the argument of echo: Ctrl-A is the start of the line, Ctrl-E its end.
            terminal.type(f"{typed.format(home=filled.home)}\t\x01echo {number}: \x05 en'd'\n")
            terminal.wait_for("end\r\n")
            shown = terminal.before.rpartition(f"\n{number}: ")[2].strip()
            assert shown == completed.format(home=filled.home), typed


def test_completion_in_fish(filled: Gateway, environment: dict[str, str]) -> None:
    lines = [typed.format(home=filled.home) for typed, _ in CASES]
    asked = f"source {COMPLETIONS / FILES['fish']}; for line in $argv; complete -C $line; echo; end"
    done = subprocess.run(
        [require("fish"), "--no-config", "-c", asked, *lines],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * len(lines),
        check=True,
    )
    assert done.stderr == ""
    answers = [
        [line.partition("\t")[0] for line in answer.splitlines()] for answer in done.stdout.rstrip().split("\n\n")
    ]
    for (typed, completed), answer in zip(CASES, [*answers, []], strict=True):
        # fish answers with the last word alone. The last case has no answer.
        last = typed.rpartition(" ")[0] + " "
        assert answer == ([] if typed == completed else [completed.removeprefix(last).format(home=filled.home)]), typed


# what the program is asked


def _values(home: Gateway, kind: str) -> list[str]:
    return home.cli("completion", "values", kind).stdout.splitlines()


def test_values_come_from_the_file_or_from_the_server(filled: Gateway, either_home: Gateway) -> None:
    assert _values(filled, "tenant") == ["acme\ton pro", "Zoë & Söhne\ton pro"]
    either_home.add_tenant("somebody")
    assert _values(either_home, "tenant") == ["somebody\ton pro"]
    assert {line.partition("\t")[0] for line in _values(either_home, "plan")} >= {"free", "pro"}
    assert len(_values(either_home, "key")) == 1


def test_what_fails_is_silent_and_makes_nothing(home: Gateway) -> None:
    for kind in ("tenant", "no such kind"):
        asked = home.cli("completion", "values", kind)
        assert (asked.stdout, asked.stderr) == ("", "")
    assert not home.home.exists()
    home.home.mkdir()
    (home.home / "trustgate.duckdb").write_text("this is no database")
    asked = home.cli("completion", "values", "tenant")
    assert (asked.stdout, asked.stderr) == ("", "")


def test_nobody_waits_long_for_a_server_that_does_not_answer(home: Gateway) -> None:
    home.home.mkdir()
    (home.home / "trustgate.duckdb").touch()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home.home / "admin.sock"))
        silent.listen()
        began = time.monotonic()
        asked = home.cli("completion", "values", "tenant")
        assert (asked.stdout, asked.stderr) == ("", "")
        assert time.monotonic() - began < 20, "five seconds, and the start of Python on a busy machine"


# PowerShell


@pytest.fixture(scope="module")
def powershell() -> str:
    return script("powershell")


def test_the_powershell_script_is_balanced(powershell: str) -> None:
    bare = re.sub(r"""'(?:[^'\n]|'')*'|"[^"\n]*"|#.*""", "", powershell)
    assert not set("'\"") & set(bare)
    pairs, open_ = {")": "(", "]": "[", "}": "{"}, []
    for sign in bare:
        if sign in pairs.values():
            open_.append(sign)
        elif sign in pairs:
            assert open_.pop() == pairs[sign]
    assert open_ == []


def test_the_powershell_script_has_the_whole_app(powershell: str) -> None:
    entries = _powershell_tables(powershell)
    for node in read_tree(app):
        assert {name for name, _ in node.commands} == {e.split("|")[0] for e in entries["commands"].get(node.path, [])}
        found = {tuple(entry.split("|", 2)) for entry in entries["options"][node.path]}
        assert found == set(_expected_options(node))


def _expected_options(node: Node) -> Iterator[tuple[str, str, str]]:
    for option in node.options:
        kind = "" if option.value is None else option.value.kind
        words = "" if option.value is None or kind != "words" else f":{' '.join(option.value.words)}"
        yield from ((name, kind + words, option.help) for name in option.names)


def _powershell_tables(text: str) -> dict[str, dict[str, list[str]]]:
    """``$name = @{ 'key' = @( 'entry', … ) … }`` as dictionaries, read as PowerShell would."""
    string = r"'((?:[^']|'')*)'"
    tables: dict[str, Any] = {}
    for name, body in re.findall(r"\$(commands|options) = @\{\n(.*?)\n    \}\n", text, re.DOTALL):
        tables[name] = {
            key.replace("''", "'"): [entry.replace("''", "'") for entry in re.findall(string, entries)]
            for key, entries in re.findall(rf"{string} = @\((.*?)\n        \)", body, re.DOTALL)
        }
    return tables
