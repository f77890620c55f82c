"""What every command keeps to: one JSON document on stdout, failures on stderr; and how it looks on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A home with a running server, a tenant with a difficult name, and one answered request."""
    gateway = Gateway(tmp_path_factory.mktemp("output") / "home", upstream="builtin:echo").start()
    secret = gateway.add_tenant("Zoë [red]日本[/red]")
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(
        f"{gateway.api_url}/chat/completions", json=body, headers={"authorization": f"Bearer {secret}"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    yield gateway
    gateway.close()


@pytest.mark.parametrize(
    "command",
    [
        ("tenant", "list"),
        ("key", "list"),
        ("plan", "list"),
        ("plan", "show", "pro"),
        ("passport", "list"),
        ("passport", "show", "trustgate/echo"),
        ("passport", "alias", "--list"),
        ("usage",),
        ("receipt", "list"),
        ("doctor",),
        ("version",),
    ],
    ids=" ".join,
)
def test_json_is_one_document_and_nothing_else(served: Gateway, command: tuple[str, ...]) -> None:
    result = served.cli(*command, "--json")
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stderr == ""


def test_a_second_server_on_the_same_home_is_refused_with_what_to_do(served: Gateway) -> None:
    refused = served.cli("serve", check=False)
    assert refused.returncode == 6
    assert "is in use by process" in refused.stderr
    assert "commands go through it. To start it anew, stop it first." in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("tenant", "show", "nobody"), 4, "There is no tenant 'nobody'"),
        (("tenant", "add", "x", "--plan", "gold"), 4, "There is no plan 'gold'"),
        (("key", "create", "nobody"), 4, "There is no tenant 'nobody'"),
        (("key", "revoke", "key_0"), 4, "There is no key 'key_0'"),
        (("plan", "add", "pro"), 5, "already"),
        (("plan", "set", "nope", "--max-tokens", "1"), 4, "There is no plan 'nope'"),
        (("plan", "set", "pro"), 2, "No change was given"),
        (("plan", "set", "pro", "--features", "telepathy"), 2, "telepathy"),
        (("passport", "show", "nope"), 4, "There is no passport 'nope'"),
        (("passport", "set", "trustgate/echo"), 2, "No change was given"),
        (("passport", "add", "m", "--credential-env", "sk-not-a-name"), 2, "name of an environment variable"),
        (("passport", "alias"), 2, "--list or --remove is missing"),
        (("receipt", "show", "rcpt_0"), 4, "There is no receipt 'rcpt_0'"),
        (("usage", "--tenant", "nobody"), 4, "There is no tenant 'nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refusal_is_text_on_stderr_with_its_exit_code(
    served: Gateway, command: tuple[str, ...], code: int, said: str
) -> None:
    result = served.cli(*command, "--json", check=False)
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr


def on_terminal(gateway: Gateway, columns: int, *arguments: str, **environment: str) -> str:
    """What the command writes to a terminal of that width. It must succeed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "trustgate", "--home", str(gateway.home), *arguments]
    variables = clean_environment({"TERM": "xterm-256color", **environment})
    variables = {name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=variables)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux tells so that the other side is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait(PATIENCE_S) == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def test_a_wide_terminal_gets_a_table(served: Gateway) -> None:
    lines = _COLORS.sub("", on_terminal(served, 200, "tenant", "list")).splitlines()
    assert re.fullmatch(r"Name +Plan +Status +Created \(UTC\) +Id", lines[0].strip())
    assert "Zoë [red]日本[/red]" in lines[1]


def test_a_program_that_wants_json_sees_no_spinner_even_on_a_terminal(served: Gateway, tmp_path: Path) -> None:
    models = tmp_path / "config.yaml"
    models.write_text("model_list:\n  - model_name: sheep\n    litellm_params:\n      model: openai/sheep\n")
    assert "Importing models" not in on_terminal(served, 200, "passport", "import", str(models), "--json")
    assert "Importing models" in on_terminal(served, 200, "passport", "import", str(models))
    assert served.cli("passport", "import", str(models)).stderr == ""


def test_on_a_narrow_terminal_ids_are_whole(served: Gateway) -> None:
    [tenant] = served.cli_json("tenant", "list")["tenants"]
    shown = _COLORS.sub("", on_terminal(served, 30, "tenant", "list"))
    assert tenant["id"] in shown
    assert tenant["name"] in shown
    [receipt] = served.cli_json("receipt", "list")["receipts"]
    shown = _COLORS.sub("", on_terminal(served, 30, "receipt", "show", receipt["receipt"]["id"]))
    for value in (receipt["receipt"]["id"], receipt["leaf_hash"], receipt["receipt"]["policy_hash"]):
        assert value in shown


def test_colors_are_for_terminals_that_want_them(served: Gateway) -> None:
    assert _COLORS.search(on_terminal(served, 100, "tenant", "list"))
    assert "\x1b[3" not in on_terminal(served, 100, "tenant", "list", NO_COLOR="1")
    assert "\x1b" not in served.cli("tenant", "list").stdout


def test_the_first_steps_are_ready_to_paste(served: Gateway) -> None:
    shown = served.cli("tenant", "add", "newcomer").stdout
    [key] = served.cli_json("key", "list", "newcomer")["keys"]
    secrets = set(re.findall(r"tgk_[0-9A-Za-z]{38}", shown))
    assert len(secrets) == 1
    assert key["id"] in shown
    assert f"{served.api_url}/chat/completions" in shown
    command = shown[shown.index("curl ") : shown.index("With the OpenAI SDK")]
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert json.loads(ran.stdout)["choices"][0]["message"]["content"] == "Hello"


def test_the_books_for_people(served: Gateway) -> None:
    receipt = served.cli_json("receipt", "list")["receipts"][-1]
    listed = served.cli("receipt", "list", "--since", "1h").stdout
    assert receipt["receipt"]["id"] in listed
    assert "Zoë [red]日本[/red]" in listed
    detail = served.cli_json("receipt", "show", receipt["receipt"]["id"])
    assert re.fullmatch(r"[0-9a-f]{64}", detail["secret"])
    assert detail["receipt"] == receipt["receipt"]
    for by, group in (("tenant", "Zoë [red]日本[/red]"), ("key", "] tgk_"), ("model", "trustgate/echo")):
        assert group in served.cli("usage", "--by", by).stdout
    total = served.cli_json("usage", "--tenant", "Zoë [red]日本[/red]")["total"]
    assert total["requests"] == 1
    assert total["prompt_tokens"] == receipt["receipt"]["prompt_tokens"]
