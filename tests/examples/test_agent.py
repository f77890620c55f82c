"""The agents that pay: the commands of their README, run, on a local Solana whose tokens move."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import environments
from tests.support.gateway import Gateway
from tests.support.processes import Process, clean_environment
from tests.support.programs import require_node_modules
from trustgate.formats.spl_token import associated_account

pytestmark = pytest.mark.clients

EXAMPLE = environments.ROOT / "examples" / "agent"
#: A slot is shorter than in life, and a blockhash still lives for half a minute.
_SLOT_MS = 200
_CHAIN = "http://127.0.0.1:8899"
_GATEWAY = "http://127.0.0.1:4010"


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[str]:
    """The chain and the key of the README's first block; gives the chain's URL."""
    home = tmp_path / "home"
    keygen, localnet = blocks()[0].splitlines()
    assert "payment keygen --json" in keygen
    done = subprocess.run(
        [sys.executable, "-m", "trustgate", "--home", home, "payment", "keygen", "--json"],
        capture_output=True,
        check=True,
        env=clean_environment(),
    )
    command = shlex.split(localnet.replace("$FACILITATOR", json.loads(done.stdout)["pubkey"]))
    assert command[:2] == ["trustgate", "localnet"]
    command = [sys.executable, "-m", "trustgate", "--home", str(home), *command[1:]]
    process = Process(
        "the chain",
        [*command, "--port", "0", "--slot-ms", str(_SLOT_MS)],
        tmp_path,
        clean_environment(),
        tmp_path / "chain.log",
    )
    process.wait_until(lambda: "ready at" in process.stdout)
    ready = re.search(r"ready at (\S+)", process.stdout)
    assert ready is not None
    yield ready[1]
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.fixture
def gateway(tmp_path: Path, chain: str) -> Iterator[Gateway]:
    """The gateway of the second block."""
    assert blocks()[1] == f"TRUSTGATE_PAYMENT_SOLANA_DEVNET_RPC={_CHAIN} trustgate serve\n"
    served = Gateway(tmp_path / "home", environment={"TRUSTGATE_PAYMENT_SOLANA_DEVNET_RPC": chain}).start()
    yield served
    served.close()


def test_the_readme_of_the_agents(gateway: Gateway, chain: str, tmp_path: Path) -> None:
    money, python, node, found, seen = blocks()[2:]
    # Installing is done: the tests' environments have all of it.
    assert python.startswith("pip install ")
    assert node.startswith("cd examples/agent && npm install ")
    node = re.sub(r"^cd .*&& node agent.ts", f"node {shlex.quote(str(compiled(tmp_path)))}", node)
    script = "\n".join(["set -eu", money, python.partition("\n")[2], node, found, seen, 'echo "$SELLER $AGENT_TOKEN"'])
    script = script.replace(_CHAIN, chain).replace(_GATEWAY, gateway.base_url).replace(".venv/bin/python", "python")
    script = script.replace("play_money.py", f"play_money.py {shlex.quote(str(tmp_path))}")

    done = run(script, gateway, chain, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stderr
    paid = re.findall(r"^paid 0\.01 USD in transaction (\w+)$", told, re.MULTILINE)
    assert len(paid) == 4, told
    assert len(re.findall(r"^receipt rcpt_\w+$", told, re.MULTILINE)) == 3
    # The agent that was given the address alone.
    assert f"found trustgate/echo (of 1) at {gateway.base_url}/v1/chat/completions for about 0.01 USD" in told
    assert re.search(r"^receipt rcpt_\w+ says 0\.01 USD$", told, re.MULTILINE)
    assert "What do you sell?" in done.stdout
    assert told.count("credit left: 0 USD") == 2
    assert done.stdout.count("Hello!") >= 2, done.stdout
    assert "And once more." in done.stdout
    assert "The books balance." in done.stdout
    ledger = gateway.cli_json("payment", "list")["payments"]
    assert {payment["transaction"] for payment in ledger} == set(paid)
    assert {payment["state"] for payment in ledger} == {"delivered"}
    seller, mint = done.stdout.split()[-2:]
    assert units(chain, associated_account(seller, mint)) == 40_000


def compiled(folder: Path) -> Path:
    """The agent in JavaScript, as Node makes it by leaving out the types; they are checked on the way."""
    node = require_node_modules()
    shutil.copy(EXAMPLE / "agent.ts", folder)
    (folder / "node_modules").symlink_to(node / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    options = ["--strict", "--erasableSyntaxOnly", "--skipLibCheck", "--target", "es2023", "--module", "nodenext"]
    compiler = str(node / "node_modules" / "typescript" / "bin" / "tsc")
    command = ["node", compiler, *options, "--types", "node", "agent.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "agent.js"


def run(script: str, gateway: Gateway, chain: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """By a shell at the top of the checkout, where ``trustgate`` and ``python`` are those of this environment."""
    programs = folder / "bin"
    programs.mkdir()
    for name, command in (("trustgate", f"{sys.executable} -m trustgate"), ("python", sys.executable)):
        shim = programs / name
        shim.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        shim.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {"TRUSTGATE_HOME": str(gateway.home), "PATH": path, "SOLANA_RPC_URL": chain}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=environments.ROOT,
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def units(chain: str, account: str) -> int:
    """What a token account holds, atomic units."""
    call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "getTokenAccountBalance"}
    call["params"] = [account, {"commitment": "confirmed"}]
    return int(httpx.post(chain, json=call, timeout=30).json()["result"]["value"]["amount"])
