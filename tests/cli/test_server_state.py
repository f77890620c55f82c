"""Commands that come while the server of their home starts or stops."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.admin import server_state
from trustgate.admin.server_state import ServerStateFile
from trustgate.cli import context
from trustgate.errors import StoreLocked
from trustgate.settings import load_settings
from trustgate.store import hold_database

#: Starts a server on a home, and goes no further than to its database.
_HELD_UP = """
import asyncio, importlib, sys
from pathlib import Path
from trustgate.settings import load_settings
server = importlib.import_module("trustgate.server.run")
async def hold_up(*arguments):
    print("held up", flush=True)
    await asyncio.Event().wait()
server._build = hold_up
server.run(load_settings(Path(sys.argv[1]), {"serve.port": 0}))
"""


def test_a_command_waits_for_a_server_that_starts_and_goes_on_when_that_was_killed(
    make_gateway: GatewayFactory,
) -> None:
    gateway = make_gateway()
    gateway.add_tenant("acme")
    start = [sys.executable, "-c", _HELD_UP, str(gateway.home)]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "held up\n"
            command = [sys.executable, "-m", "trustgate", "--home", str(gateway.home), "tenant", "list"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
                assert waiting.stderr
                told = waiting.stderr.readline()
                server.kill()
                listed, _ = waiting.communicate()
        finally:
            server.kill()
    assert told == f"Waiting for it: The server of {gateway.home} is starting (process {server.pid}).\n"
    assert waiting.returncode == 0
    assert "acme" in listed
    assert (gateway.home / "server.state").exists(), "it was killed"
    assert "acme" in gateway.cli("tenant", "list").stdout


@pytest.mark.parametrize("ends", [False, True], ids=["and serves", "and can be stopped"])
def test_a_server_that_starts_while_a_command_has_the_database_waits_for_it(home: Gateway, *, ends: bool) -> None:
    home.make_home()
    # How long one may have the database is for people to choose: here it takes as long as the machine is busy.
    patient = (
        f"import trustgate.admin.server_state as s; s._LOCK_TIMEOUT_S = s._TURNS_TIMEOUT_S = {PATIENCE_S}; "
        "from trustgate.__main__ import main; main()"
    )
    start = [sys.executable, "-c", patient, "--home", str(home.home), "serve", "--port", "0"]
    path = home.home / "trustgate.duckdb"
    database = contextlib.ExitStack()
    database.enter_context(hold_database(path))
    with database, subprocess.Popen(start, env=clean_environment(), stdout=PIPE, stderr=PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stderr
            assert f"waiting: The database {path} is in use by process {os.getpid()}" in server.stderr.readline()
            if ends:
                server.send_signal(signal.SIGTERM)
            else:
                database.close()
                assert server.stdout.readline().startswith("TrustGate is ready at ")
                server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
            assert server.stdout.read() == ""
        finally:
            server.kill()


async def test_a_server_that_starts_leaves_the_word_of_one_that_stops(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=PIPE) as other:
        (tmp_path / "server.state").write_text(f"{other.pid} stopping")
        ServerStateFile(tmp_path).write("starting")
        assert (tmp_path / "server.state").read_text() == f"{other.pid} stopping"
        other.kill()
    ServerStateFile(tmp_path).write("starting")
    assert (tmp_path / "server.state").read_text() == f"{os.getpid()} starting"


@pytest.mark.parametrize("state", ["starting", "stopping"])
async def test_what_is_waited_for_in_vain_is_told(
    monkeypatch: pytest.MonkeyPatch, make_gateway: GatewayFactory, state: str
) -> None:
    gateway = make_gateway()
    gateway.add_tenant("acme")
    monkeypatch.setattr(server_state, "_CHANGE_TIMEOUT_S", 0.0)
    file = ServerStateFile(gateway.home)
    file.write("starting" if state == "starting" else "stopping")
    with hold_database(gateway.home / "trustgate.duckdb"), pytest.raises(StoreLocked, match=f"is {state}") as caught:
        await context.open_admin(load_settings(gateway.home))
    assert "Give the command again once" in (caught.value.hint or "")
    file.remove()
    assert list(gateway.home.glob("server.state*")) == []


async def test_what_another_process_has_written_stays(tmp_path: Path) -> None:
    (tmp_path / "server.state").write_text("1 starting")
    ServerStateFile(tmp_path).remove()
    assert (tmp_path / "server.state").exists()
