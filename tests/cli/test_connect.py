"""Configurations of client programs: in the form that each reads, merged into files, undone, and tried."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import yaml

from tests.support.gateway import Gateway
from tests.support.processes import clean_environment, wait_until
from tests.support.programs import require
from trustgate.admin.new_file import new_file
from trustgate.cli.connect import _described
from trustgate.cli.connecting.clients import CLIENTS, ClientName, ClientTarget
from trustgate.cli.connecting.merging import document_text, merge_file, merged_text, undo_file
from trustgate.cli.connecting.trying import try_client
from trustgate.errors import Conflict, OperatorError

TARGET = ClientTarget("http://127.0.0.1:4010", "trustgate/echo", "TRUSTGATE_KEY")
PARSERS: dict[str, Any] = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}

#: A stand-in for a client's program: it reads its configuration as the real one does, and asks as that says.
PROGRAM = """#!{python}
import json, os, pathlib, subprocess, sys, urllib.request
settings = json.loads((pathlib.Path(os.environ["CLAUDE_CONFIG_DIR"]) / "settings.json").read_text())
key = subprocess.run(settings["apiKeyHelper"], shell=True, capture_output=True, text=True, check=True).stdout.strip()
body = {{"model": settings["env"]["ANTHROPIC_MODEL"], "max_tokens": 99,
        "messages": [{{"role": "user", "content": sys.argv[-1]}}]}}
request = urllib.request.Request(settings["env"]["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(),
                                 {{"authorization": "Bearer " + key, "content-type": "application/json"}})
answer = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(request))
print("the program says", answer["content"][0]["text"], key)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Path, str]]:
    """A running gateway, the user's home folder, and a key, which is in the variable TRUSTGATE_KEY as well."""
    folder = tmp_path_factory.mktemp("connect")
    user, programs = folder / "user", folder / "programs"
    user.mkdir()
    programs.mkdir()
    gateway = Gateway(folder / "home", upstream="builtin:echo")
    key = gateway.add_tenant("acme", plan="internal")
    gateway = Gateway(
        folder / "home",
        upstream="builtin:echo",
        environment={"HOME": str(user), "MY_KEY": key, "PATH": f"{programs}:/usr/bin:/bin"},
    )
    gateway.start()
    yield gateway, user, key
    gateway.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_configuration_names_the_gateway_the_model_and_the_variable(name: str) -> None:
    client = CLIENTS[name]
    shown = _described(client, ClientTarget("http://gate.example", "gpt-4o", "MY_KEY"), client.path and client.path())
    if shown["file"] is None:
        assert shown["variables"] or shown["example"]
    else:
        document = json.dumps(PARSERS[shown["format"]](shown["content"]))
        assert "http://gate.example" in document
        assert "gpt-4o" in document
    # The key comes from the variable: named by the configuration, or handed on to the one the program reads.
    assert "MY_KEY" in json.dumps(shown["exports"] if client.key_variable else [shown["content"], shown["example"]])


def test_the_configuration_is_that_of_this_gateway_and_has_no_key(place: tuple[Gateway, Path, str]) -> None:
    gateway, user, key = place
    shown = gateway.cli_json("connect", "opencode", "--key-variable", "MY_KEY")
    assert (shown["address"], shown["model"], shown["key_variable"]) == (gateway.base_url, "trustgate/echo", "MY_KEY")
    assert shown["file"] == str(user / ".config" / "opencode" / "opencode.json")
    assert key not in json.dumps(shown)
    plain = gateway.cli("connect", "open-webui").stdout
    assert "export OPENAI_API_KEY=…" in plain
    assert f"export OPENAI_API_BASE_URL={gateway.api_url}" in plain


def test_what_each_program_reads() -> None:
    """The members that the programs themselves were seen to need."""

    def document(name: str) -> dict[str, Any]:
        client = CLIENTS[name]
        assert client.document is not None
        made: dict[str, Any] = PARSERS[client.format](document_text(client.format, client.document(TARGET)))
        return made

    codex = document("codex")
    assert codex["model_providers"][codex["model_provider"]] == {
        "name": "TrustGate",
        "base_url": "http://127.0.0.1:4010/v1",
        "env_key": "TRUSTGATE_KEY",
        "wire_api": "responses",
    }
    claude = document("claude-code")
    assert claude["apiKeyHelper"] == "printenv TRUSTGATE_KEY"
    assert claude["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4010"
    opencode = document("opencode")
    provider, _, model = opencode["model"].partition("/")
    assert model in opencode["provider"][provider]["models"]
    assert opencode["provider"][provider]["options"]["apiKey"] == "{env:TRUSTGATE_KEY}"
    assert document("aider")["model"] == "openai/trustgate/echo"
    cline = document("cline")
    assert cline["providers"][cline["lastUsedProvider"]]["settings"]["baseUrl"] == "http://127.0.0.1:4010/v1"
    assert document("continue")["models"][0]["apiKey"] == "${{ secrets.TRUSTGATE_KEY }}"
    assert document("litellm")["model_list"][0]["litellm_params"]["api_key"] == "os.environ/TRUSTGATE_KEY"


# Merging

MERGES = {
    "toml": (
        """# mine
model = "gpt-5"  # the old one

[model_providers.other]
name = "Other"

[model_providers.trustgate]
name = "Old"
extra = 1 # kept

[tui]
theme = "dark"
""",
        "codex",
    ),
    "json": ('{\n    "theme": "dark",\n    "env": {"OTHER": "1", "ANTHROPIC_MODEL": "opus"}\n}\n', "claude-code"),
    "yaml": ("# mine\nmodel: gpt-5\ndark-mode: true # kept\n", "aider"),
    "yaml list": ("# mine\nmodels:\n  - name: Mine\n    model: x # kept\n\nrules:\n  - be kind\n", "continue"),
    "yaml anew": ("models: [{name: TrustGate, model: old}, {name: Mine}]\n", "continue"),
}


@pytest.mark.parametrize("case", MERGES)
def test_what_is_there_stays_and_can_be_put_back(tmp_path: Path, case: str) -> None:
    text, name = MERGES[case]
    client = CLIENTS[name]
    assert client.document is not None
    file = tmp_path / "file"
    file.write_text(text)
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    change = merge_file(link, client.format, client.document(TARGET))
    assert change.changed
    made, parse = file.read_text(), PARSERS[client.format]
    for line in text.splitlines():
        if "#" in line and "old" not in line:
            assert line in made.splitlines()
    old, new = parse(text), parse(made)
    for member in old.keys() - client.document(TARGET).keys():
        assert new[member] == old[member]
    assert json.dumps(new).count("127.0.0.1:4010") == 1
    if case == "toml":
        assert 'changed model (it was "gpt-5")' in change.changes
        assert (new["model_providers"]["other"], new["tui"]) == ({"name": "Other"}, {"theme": "dark"})
        assert new["model_providers"]["trustgate"]["extra"] == 1
    if case == "json":
        assert new["env"]["OTHER"] == "1"
        assert made.startswith('{\n    "theme"')
    if "list" in case or "anew" in case:
        assert sorted(each["name"] for each in new["models"]) == ["Mine", "TrustGate"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not merge_file(link, client.format, client.document(TARGET)).changed
    undo_file(link)
    assert (file.read_text(), link.is_symlink(), stat.S_IMODE(file.stat().st_mode)) == (text, True, 0o640)
    with pytest.raises(Conflict, match="no earlier content"):
        undo_file(link)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("claude-code", '{\n  // mine\n  "theme": "dark"\n}\n'),
        ("claude-code", "[1]"),
        ("codex", "model = "),
        ("codex", 'model_providers = { trustgate = { name = "inline" } }\n'),
        ("codex", 'model = """\nseveral\nlines"""\n'),
        ("aider", "model: [unclosed"),
        ("continue", "# mine\nmodels: [{name: Mine}]\n"),
        ("continue", "# mine\nmodels:\n  - name: TrustGate\n    model: old\n"),
        ("continue", "# mine\nmodels: []\n"),
        ("continue", "x: &x\n  y: *x\n"),
        ("aider", '# mine\n"model": old\n'),
        ("aider", "model: one\nmodel: two\n"),
        ("claude-code", '{"env": {"A": "1"}, "env": {"B": "2"}}'),
        ("claude-code", r'{"half": "\ud800"}'),
        ("claude-code", '{"huge": 1e999}'),
    ],
)
def test_a_file_that_would_lose_something_is_left_alone(tmp_path: Path, name: str, text: str) -> None:
    client = CLIENTS[name]
    assert client.document is not None
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(Conflict) as refused:
        merge_file(file, client.format, client.document(TARGET))
    assert "by hand" in (refused.value.hint or "")
    assert (file.read_text(), list(tmp_path.iterdir())) == (text, [file])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("claude-code", '{"env": {"ANTHROPIC_AUTH_TOKEN": "sk-ant-other"}}'),
        ("aider", "openai-api-key: sk-other\n"),
        ("cline", '{"providers": {"openai-compatible": {"settings": {"apiKey": "sk-other"}}}}'),
    ],
    ids=["claude-code", "aider", "cline"],
)
def test_the_key_of_another_server_is_not_sent_here(tmp_path: Path, name: str, text: str) -> None:
    client = CLIENTS[name]
    assert client.document is not None
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(Conflict, match="would be sent to this gateway") as refused:
        merge_file(file, client.format, client.document(TARGET), client.own_keys)
    assert "sk-" not in refused.value.message
    assert file.read_text() == text


def test_it_is_put_back_byte_by_byte_and_lines_end_as_before(tmp_path: Path) -> None:
    document = CLIENTS["codex"].document
    assert document is not None
    file = tmp_path / "config [1].toml"
    first = b"\xef\xbb\xbf# mine\r\n\r\n[tui]\r\nx = 1\r\n"
    file.write_bytes(first)
    merge_file(file, "toml", document(TARGET))
    second = file.read_bytes()
    assert b"\n" not in second.replace(b"\r\n", b"")
    merge_file(file, "toml", document(ClientTarget(TARGET.origin, "other", TARGET.variable)))
    undo_file(file)
    assert file.read_bytes() == second
    undo_file(file)
    assert file.read_bytes() == first


def test_what_others_have_written_since_is_not_undone(tmp_path: Path) -> None:
    document = CLIENTS["codex"].document
    assert document is not None
    file = tmp_path / "config.toml"
    merge_file(file, "toml", document(TARGET))
    with file.open("a") as more:
        more.write("[projects.x]\ntrust_level = 'trusted'\n")
    with pytest.raises(Conflict, match="changed since"):
        undo_file(file)
    assert "trust_level" in file.read_text()


@pytest.mark.parametrize("kind", ["pipe", "link to itself", "folder"])
def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path, kind: str) -> None:
    document = CLIENTS["codex"].document
    assert document is not None
    place = tmp_path / "config.toml"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(place)
    before = place.lstat()
    with pytest.raises(OperatorError):
        merge_file(place, "toml", document(TARGET))
    if kind == "pipe":
        with pytest.raises(OperatorError, match="not a file"), new_file(place, force=True):
            pass
    assert (place.lstat(), list(tmp_path.iterdir())) == (before, [place])


def test_opencodes_file_with_comments_goes_before_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = CLIENTS["opencode"].path
    assert path is not None
    assert path() == tmp_path / "opencode" / "opencode.json"
    (tmp_path / "opencode").mkdir()
    (tmp_path / "opencode" / "opencode.jsonc").write_text("{}")
    assert path() == tmp_path / "opencode" / "opencode.jsonc"


def test_an_empty_file_gets_what_a_new_one_has(tmp_path: Path) -> None:
    for client in CLIENTS.values():
        if client.document is not None:
            alone = document_text(client.format, client.document(TARGET))
            assert merged_text("\n", client.format, client.document(TARGET), tmp_path).split() == alone.split()


def test_a_file_is_written_and_removed_again(place: tuple[Gateway, Path, str]) -> None:
    gateway, user, _ = place
    file = user / ".codex" / "config.toml"
    written = gateway.cli_json("connect", "codex", "--write")["written"]
    assert (written["path"], written["is_new"]) == (str(file.resolve()), True)
    assert tomllib.loads(file.read_text())["model_provider"] == "trustgate"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "has it already" in gateway.cli("connect", "codex", "--write").stdout
    assert "removed" in gateway.cli("connect", "codex", "--undo").stdout
    assert list(file.parent.iterdir()) == []


# Trying


def test_the_same_request_is_made_where_the_program_is_missing(place: tuple[Gateway, Path, str]) -> None:
    gateway, _, key = place
    for name in ("codex", "anthropic", "curl"):
        tried = gateway.cli("connect", name, "--check", "--key-stdin", "--json", stdin=f"{key}\n")
        check = json.loads(tried.stdout)["check"]
        assert (check["is_program"], check["answer"]) == (False, "Reply with one word: ready")
    wrong = gateway.cli("connect", "codex", "--check", "--key-stdin", stdin="tgk_wrong\n", check=False)
    assert wrong.returncode == 1
    assert "answered 401" in wrong.stderr
    away = gateway.cli(
        "connect", "codex", "--check", "--key-variable", "MY_KEY", "--url", "http://127.0.0.1:9", check=False
    )
    assert "trustgate serve" in away.stderr


def test_the_program_is_run_with_the_configuration_and_a_new_key(place: tuple[Gateway, Path, str]) -> None:
    gateway, user, _ = place
    program = gateway.home.parent / "programs" / "claude"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    try:
        done = gateway.cli_json("connect", "claude-code", "--check", "--new-key", "acme")
        assert done["check"]["by"] == str(program)
        assert done["check"]["answer"] == "the program says Reply with one word: ready …", "the key is not shown"
        assert done["key"]["secret"].startswith("tgk_")
        # What a program leaves behind is not waited for, and ends with it: it has the key.
        os.mkfifo(pipe := user / "pipe")
        with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as read:
            program.write_text(f"#!/bin/sh\nexec 3>{pipe}\nsleep 600 &\necho ready\n")
            tried = gateway.cli_json("connect", "claude-code", "--check", "--key-variable", "MY_KEY")
            assert tried["check"]["answer"] == "ready"
            wait_until(lambda: read.read() == b"", "nothing has it open any more", timeout_s=20)
        program.write_text(f"#!{sys.executable}\nprint('401')\n")
        failed = gateway.cli("connect", "claude-code", "--check", "--key-variable", "MY_KEY", check=False)
        assert (failed.returncode, "failed with exit code 0: 401" in failed.stderr) == (1, True)
    finally:
        program.unlink()
    assert not (user / ".claude").exists()


def test_a_new_key_is_shown_whatever_fails_after_it(place: tuple[Gateway, Path, str]) -> None:
    gateway, user, _ = place
    keys = len(gateway.cli_json("key", "list", "acme")["keys"])
    (user / "mine.json").write_text("// mine\n{}")
    at = ("--file", str(user / "mine.json"))
    refused = gateway.cli("connect", "claude-code", "--new-key", "acme", "--write", *at, check=False)
    assert "is not JSON" in refused.stderr
    assert len(gateway.cli_json("key", "list", "acme")["keys"]) == keys, "none was made"
    away = ("--url", "http://127.0.0.1:9")
    failed = gateway.cli("connect", "codex", "--new-key", "acme", "--check", "--json", *away, check=False)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["key"]["secret"].startswith("tgk_")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"output": [1]}', b"[" * 100_000, b'{"choices": []}'])
def test_what_answers_like_no_gateway_is_no_success(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(httpx, "post", lambda url, **given: httpx.Response(200, content=body))
    with pytest.raises(OperatorError, match="not as this API does"):
        try_client(CLIENTS["openai"], TARGET, "tgk_key")


def test_an_answer_that_repeats_the_key_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"choices": [{"message": {"content": "is it tgk_key"}}]}
    monkeypatch.setattr(httpx, "post", lambda url, **given: httpx.Response(200, json=said))
    assert try_client(CLIENTS["openai"], TARGET, "tgk_key").answer == "is it …"
    monkeypatch.setattr(
        httpx, "post", lambda url, **given: httpx.Response(401, json={"error": {"message": "no tgk_key"}})
    )
    with pytest.raises(OperatorError, match="no …"):
        try_client(CLIENTS["openai"], TARGET, "tgk_key")


def test_curls_command_works_and_has_no_key_among_its_arguments(place: tuple[Gateway, Path, str]) -> None:
    require("curl")
    gateway, _, key = place
    command = gateway.cli_json("connect", "curl", "--key-variable", "MY_KEY")["example"]
    done = subprocess.run(
        ["sh", "-c", command], env=clean_environment({"MY_KEY": key}), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "No client was named"),
        (("emacs",), "'emacs' is not one of 'codex',"),
        (("curl", "--write"), "by environment variables"),
        (("codex", "--undo", "--check"), "--undo stands alone"),
        (("codex", "--key-stdin"), "--key-stdin gives --check its key"),
        (("codex", "--check", "--key-stdin"), "There is no key on stdin"),
        (("codex", "--check", "--key-variable", "NOT_SET"), "NOT_SET is not set"),
        (("codex", "--check", "--key-variable", "NOT_SET"), "or have one made: --new-key TENANT"),
        (("codex", "--key-variable", "not a name"), "--key-variable"),
        (("codex", "--url", "ftp://x"), "--url"),
        (("codex", "--model", ""), "--model"),
        (("codex", "--model", "a\nb"), "--model"),
        (("codex", "--new-key", "nobody"), "nobody"),
    ],
)
def test_refusals(place: tuple[Gateway, Path, str], arguments: tuple[str, ...], message: str) -> None:
    refused = place[0].cli("connect", *arguments, check=False)
    assert refused.returncode in (1, 2, 4)
    assert message in refused.stderr


def test_the_list_has_every_client(place: tuple[Gateway, Path, str]) -> None:
    listed = place[0].cli_json("connect", "--list")["clients"]
    assert [each["client"] for each in listed] == list(CLIENTS) == list(get_args(ClientName))
    assert "codex" in place[0].cli("connect", "--list").stdout
