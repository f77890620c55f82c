"""The examples that talk to a gateway, run as their readers would: with two variables and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.environments import ROOT, find_clients
from tests.support.gateway import Gateway
from tests.support.processes import clean_environment
from tests.support.programs import require_node_modules
from tests.support.upstream import Reply, Upstream

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def echoing(make_module_gateway: GatewayFactory) -> Gateway:
    """A gateway without an LLM server."""
    return make_module_gateway(upstream="builtin:echo").start()


@pytest.fixture(scope="module")
def variables(echoing: Gateway) -> dict[str, str]:
    return {"OPENAI_BASE_URL": echoing.api_url, "OPENAI_API_KEY": echoing.add_tenant("reader")}


def _run(command: list[str | Path], folder: Path, variables: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def _check(said: str, echoing: Gateway, *, answer: str, stream: str) -> None:
    lines = dict(line.split(":", 1) for line in said.splitlines())
    assert lines["answer"].strip() == answer
    assert int(lines["tokens"]) > 0
    assert lines["stream"].strip().startswith(stream)
    # The receipt it names is one, of this request.
    receipt = echoing.cli_json("receipt", "show", lines["receipt"].strip())["receipt"]
    assert receipt["model"] == "trustgate/echo"


def test_openai_python(echoing: Gateway, variables: dict[str, str], tmp_path: Path) -> None:
    said = _run([sys.executable, EXAMPLES / "openai-python" / "chat.py"], tmp_path, variables)
    _check(said, echoing, answer="Hello from Python!", stream="Hello, word by word! (")
    assert "refused: 401 invalid_api_key" in said


@pytest.mark.clients
def test_openai_typescript(echoing: Gateway, variables: dict[str, str], tmp_path: Path) -> None:
    node = require_node_modules()
    # The Node of the tests may be older than the first that reads TypeScript; without types the file is JavaScript.
    shutil.copy(EXAMPLES / "openai-typescript" / "chat.ts", tmp_path / "chat.mjs")
    (tmp_path / "node_modules").symlink_to(node / "node_modules")
    said = _run(["node", "chat.mjs"], tmp_path, variables)
    _check(said, echoing, answer="Hello from TypeScript!", stream="Hello, word by word! (")
    assert "refused: 401 invalid_api_key" in said


def test_the_lock_of_the_typescript_example_names_no_registry() -> None:
    folder = EXAMPLES / "openai-typescript"
    lock = json.loads((folder / "package-lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == json.loads((folder / "package.json").read_text())["dependencies"]
    assert "resolved" not in (folder / "package-lock.json").read_text()


@pytest.mark.clients
def test_langchain(echoing: Gateway, variables: dict[str, str], tmp_path: Path) -> None:
    python = find_clients()
    assert python is not None, "the clients are missing: python3 tests --install-only"
    said = _run([python, EXAMPLES / "langchain" / "chat.py"], tmp_path, variables)
    _check(said, echoing, answer="Hello from LangChain, Ada!", stream="Hello from LangChain, Grace!")


def test_litellm_configuration(echoing: Gateway) -> None:
    made = echoing.cli_json("passport", "import", str(EXAMPLES / "litellm" / "config.yaml"))
    assert made["added"] == ["gpt-4o-mini", "claude-sonnet", "offline"]
    prices = echoing.cli_json("passport", "show", "claude-sonnet")["passport"]["prices"]
    assert (prices["input_pico_usd"], prices["output_pico_usd"]) == (3_000_000, 15_000_000)


def test_selling_a_local_model(make_gateway: GatewayFactory, upstream: Upstream, tmp_path: Path) -> None:
    gateway = make_gateway(upstream="builtin:echo").start()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "trustgate").write_text(f'#!/bin/sh\nexec {sys.executable} -m trustgate "$@"\n')
    (programs / "trustgate").chmod(0o755)
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "TRUSTGATE_HOME": str(gateway.home),
        "LLM_URL": upstream.api_url,
    }
    sell = [EXAMPLES / "local-model" / "sell.sh"]
    said = [_run([*sell, name], tmp_path, variables) for name in ("first-customer", "second-customer")]
    keys = [re.search(r"tgk_\w+", text) for text in said]
    assert keys[0] is not None
    assert keys[1] is not None
    client = httpx.Client(base_url=gateway.api_url, headers={"authorization": f"Bearer {keys[0][0]}"})
    with client:
        assert [model["id"] for model in client.get("/models").json()["data"]] == ["local"]
        usage = {"prompt_tokens": 10_000, "completion_tokens": 5_000, "total_tokens": 15_000}
        upstream.script(Reply.chat("Hello!", usage=usage))
        body = {"model": "local", "messages": [{"role": "user", "content": "Hello"}]}
        assert client.post("/chat/completions", json=body).status_code == 200
        assert client.post("/chat/completions", json={**body, "model": "another"}).status_code == 403
    assert upstream.requests[-1].json()["model"] == "llama3.2:3b"
    total = gateway.cli_json("usage", "--by", "tenant")["total"]
    assert total["cost_nano_usd"] == 1_500_000, "10,000 at $0.05 a million and 5,000 at $0.20 a million"
