"""The help of the program and its groups of commands, and what a word that is no command leads to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trustgate.cli import run
from trustgate.cli.commands import _OTHER_WORDS, SECTIONS, TABLE
from trustgate.formats.likeness import did_you_mean


def test_every_command_stands_under_one_heading(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for heading, section in SECTIONS.items():
        begin = lines.index(f"{heading}:") + 1
        listed = lines[begin : lines.index("", begin)]
        assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == list(section)
    names = [name for section in SECTIONS.values() for name in section]
    assert len(names) == len(TABLE) == len(set(names))


def test_a_groups_help_cuts_no_sentence_off(capsys: pytest.CaptureFixture[str]) -> None:
    for name in TABLE:
        run([name, "--help"])
        listed = capsys.readouterr().out.partition("\nCommands:\n")[2]
        assert "..." not in listed, name
    run(["tenant", "--help"])
    assert "where it stands at its plan's limits." in " ".join(capsys.readouterr().out.split())


def test_other_words_lead_to_commands_that_exist() -> None:
    assert not _OTHER_WORDS.keys() & TABLE.keys()
    assert {meant.split()[0] for meant in _OTHER_WORDS.values()} <= TABLE.keys()


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("models", "No such command 'models'. Did you mean 'passport'?", "trustgate --help"),
        ("tenants list", "No such command 'tenants'. Did you mean 'tenant'?", "trustgate --help"),
        ("--json tenant list", "--json stands after the command.", "trustgate … --json"),
        ("tenant --json list", "--json stands after the command.", "trustgate tenant … --json"),
        ("usage --by dai", "is not one of 'day', 'hour'", "trustgate usage --help"),
        ("usage --by dai", "Did you mean 'day'?", "trustgate usage --help"),
        ("migrate --to postgresql://x", "--to must look like postgresql://", "trustgate migrate --to postgresql://"),
    ],
)
def test_a_slip_leads_to_what_was_meant(line: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 2
    said, tried = capsys.readouterr().err.splitlines()
    assert error in said
    assert tried.startswith(f"  Try: {hint}")


def test_a_name_that_is_alike_is_named() -> None:
    assert did_you_mean("acem", ["acme", "globex"], "trustgate tenant list") == (
        "Did you mean 'acme'? All of them: trustgate tenant list"
    )
    assert did_you_mean("initech", ["acme", "globex"], "trustgate tenant list") == "trustgate tenant list"
    # Looking through very many would hold up the server.
    assert did_you_mean("acem", ["acme"] * 1_001, "trustgate tenant list") == "trustgate tenant list"


@pytest.mark.parametrize("flag", ["--to", "--from"])
def test_a_move_without_the_driver_names_what_to_install(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("trustgate.store.postgres.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delenv("TRUSTGATE_STORE_URL", raising=False)
    code = run(["--home", str(tmp_path / "home"), "migrate", flag, "postgresql://user@127.0.0.1/name"])
    said, tried = capsys.readouterr().err.splitlines()
    assert code == 2
    assert said == "Error: A database on Postgres wants asyncpg. It is the extra postgres."
    assert "pip install" in tried
