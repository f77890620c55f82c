"""Small slips of operators and of the files they bring: each is taken, or refused with the way out."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.entries import make_entry
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.cli import render
from trustgate.receipts.logkey import LogKey, load_log_key
from trustgate.settings.environment import read_secret_file
from trustgate.solana.keypair import PayerKey, load_keypair
from trustgate.store.exports import RECEIPT_COLUMNS, write_table

_BOM = b"\xef\xbb\xbf"
#: What a spreadsheet runs (OWASP, "CSV Injection").
_FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1")


def test_home_after_the_command_explains_itself(home: Gateway) -> None:
    refused = home.cli("tenant", "list", "--home", "elsewhere", check=False)
    assert refused.returncode == 2
    assert "--home stands before the command" in refused.stderr
    assert "trustgate --home DIR tenant list" in refused.stderr


@pytest.mark.parametrize("name", ["out", "out.xlsx", "out.csv.gz", "out.json"])
def test_the_format_of_an_export_is_not_guessed(home: Gateway, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    home.make_home()
    refused = home.cli("export", "usage", "--output", str(file), check=False)
    assert refused.returncode == 2
    assert "does not show the format" in refused.stderr
    assert not file.exists()
    home.cli("export", "usage", "--output", str(file), "--format", "jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("formula", _FORMULAS)
def test_no_cell_of_an_exported_table_is_a_formula(tmp_path: Path, formula: str) -> None:
    """A client names the model: what it writes there must not run in its operator's spreadsheet."""
    receipt = render.plain(make_entry(1).receipt)
    lines = tmp_path / "lines.jsonl"
    names = {"model": formula, "upstream_model": "a=b", "passport": f'a;{formula};"{formula}'}
    lines.write_bytes(render.json_text({"seq": 1, **receipt, **names}).encode())
    write_table(lines, tmp_path / "table.csv", RECEIPT_COLUMNS, "csv")
    [row] = csv.DictReader(io.StringIO((tmp_path / "table.csv").read_bytes().decode(), newline=""))
    assert row["model"] == f"'{formula}"
    assert row["upstream_model"] == "a=b"
    # Where commas are decimal, a cell begins after each semicolon.
    assert row["passport"] == f"a;'{formula};\"'{formula}"
    assert row["seq"] == "1"
    assert (row["id"], row["prompt_tokens"]) == (receipt["id"], str(receipt["prompt_tokens"]))


def test_a_name_forges_neither_rows_nor_colours(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\n2026-01-01  forged\x1b[31m\x9b31m\u202e\u2028\rb"
    render.table(["Model", "Id"], [(hostile, "1"), ("plain", "2")], empty="")
    render.card([("Model", hostile)])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4, out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", out)


def test_a_message_carries_no_control_code(home: Gateway) -> None:
    home.make_home()
    refused = home.cli("tenant", "show", "x\x1b[2J\x9b31m\u202e", check=False)
    assert refused.returncode == 4
    assert not re.search(r"[\x1b\x9b\u202e]", refused.stderr)


def test_a_file_may_begin_with_a_byte_order_mark(home: Gateway, tmp_path: Path) -> None:
    home.make_home()
    (home.home / "trustgate.toml").write_bytes(_BOM + b"[serve]\nport = 4711\n")
    assert "4711" in home.cli("config", "show").stdout

    secret = tmp_path / "credential"
    secret.write_bytes(_BOM + b"sk-0123456789\r\n")
    assert read_secret_file(secret) == "sk-0123456789"

    payer, payer_file = PayerKey.generate(), tmp_path / "payer.json"
    payer_file.write_bytes(_BOM + payer.secret_text().encode())
    assert load_keypair(payer_file).address == payer.address

    key, key_file = LogKey.generate("example.com/log"), tmp_path / "log.key"
    key_file.write_bytes(_BOM + key.secret_text().encode() + b"\r\n")
    assert load_log_key(key_file).verifier == key.verifier


def test_everything_in_a_home_is_its_owners_alone(make_gateway: GatewayFactory) -> None:
    umask = os.umask(0)
    try:
        gateway = make_gateway(upstream="builtin:echo").start()
    finally:
        os.umask(umask)
    secret = gateway.add_tenant()
    asked = httpx.post(
        f"{gateway.api_url}/chat/completions",
        headers={"authorization": f"Bearer {secret}"},
        json={"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hi"}]},
        trust_env=False,
    )
    assert asked.status_code == 200
    gateway.cli("anchor", "keygen")
    open_to_others = [
        f"{stat.S_IMODE(path.stat().st_mode):o} {path.name}"
        for path in (gateway.home, *gateway.home.rglob("*"))
        if path.lstat().st_mode & 0o077
    ]
    assert open_to_others == []
    assert any(path.name.endswith(".wal") for path in gateway.home.iterdir())


def test_the_second_interrupt_stops_at_once(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(upstream="builtin:echo").start()
    secret = gateway.add_tenant()
    host, _, port = gateway.base_url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        # Half a body: the request would be waited for.
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"expect: 100-continue\r\n"
            b"authorization: Bearer " + secret.encode() + b"\r\ncontent-length: 100\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        process = gateway.process
        process.signal(signal.SIGINT)
        process.wait_until(lambda: "Ctrl-C again stops at once" in gateway.logs())
        assert process.exit_code is None
        assert gateway.stop(number=signal.SIGINT) == 130
    assert "Stopped at once" in gateway.logs()
    gateway.start()
    assert gateway.cli("doctor", "--books").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_server_whose_log_is_on_a_full_disk_serves_and_stops_as_it_should(home: Gateway) -> None:
    command = [sys.executable, "-m", "trustgate", "--home", str(home.home), "serve", "--port", "0"]
    with Path("/dev/full").open("wb") as full:
        server = subprocess.Popen(
            [*command, "--upstream", "builtin:echo"], env=clean_environment(), stdout=subprocess.PIPE, stderr=full
        )
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline().startswith(b"TrustGate is ready at")
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_S) == 0


def test_many_commands_without_a_server_take_turns(home: Gateway) -> None:
    home.make_home()
    # How long one may have the database is for people to choose: here it takes as long as the machine is busy.
    patient = (
        f"import trustgate.admin.server_state as c; c._LOCK_TIMEOUT_S = c._TURNS_TIMEOUT_S = {PATIENCE_S}; "
        "from trustgate.__main__ import main; main()"
    )
    command = [sys.executable, "-c", patient, "--home", str(home.home), "tenant", "add"]
    running = [
        subprocess.Popen([*command, f"t{n}"], env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(8)
    ]
    for process in running:
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    assert len(home.cli_json("tenant", "list")["tenants"]) == 8


@pytest.mark.parametrize("noun", ["tenant", "plan", "budget", "passport"])
@pytest.mark.parametrize("name", [".", ".."])
def test_no_name_is_of_dots_alone(home: Gateway, noun: str, name: str) -> None:
    options = {"budget": ["--usd", "1", "--per", "day", "--everyone"]}.get(noun, [])
    refused = home.cli(noun, "add", name, *options, check=False)
    assert refused.returncode == 2
    assert "dots alone" in refused.stderr
