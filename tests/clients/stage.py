"""The stage on which clients are tried: a gateway in front of LiteLLM and of a scripted upstream, a tenant a client.

Owns running each client's program and collecting what it found. Models of LiteLLM are asked by their own names; what
its mocked models cannot do is asked of ``scripted``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests import environments
from tests.clients import persona
from tests.clients.clients import CLIENTS, Client
from tests.support.gateway import Gateway
from tests.support.litellm import LiteLLM
from tests.support.processes import clean_environment
from tests.support.programs import require, require_node_modules
from tests.support.upstream import Upstream

_PROGRAMS = Path(__file__).resolve().parent / "programs"
_TIMEOUT_S = 180.0

#: client → feature → None, or why it does not work.
Findings = Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True)
class Stage:
    gateway: Gateway
    upstream: Upstream
    folder: Path

    def find(self) -> Findings:
        """Run all programs, as many at a time as there are cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return dict(zip(CLIENTS, pool.map(self.run, CLIENTS), strict=True))

    def run(self, name: str) -> dict[str, str | None]:
        """One client's program, as a tenant of its own. Raises AssertionError when it reports nothing."""
        client = CLIENTS[name]
        folder = self.folder / tenant_of(name)
        folder.mkdir()
        given = {"origin": self.gateway.base_url, "wrong_key": "sk-nobody", **self._keys(name)}
        done = subprocess.run(
            _command(client, folder),
            cwd=environments.ROOT,
            env=clean_environment({"HOME": str(folder), "TMPDIR": str(folder), "NO_COLOR": "1"}),
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0 and done.stdout, f"{name}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        found: dict[str, str | None] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    def _keys(self, name: str) -> dict[str, str]:
        tenant = tenant_of(name)
        key = self.gateway.add_tenant(tenant, plan="internal")
        spent = self.gateway.cli_json("key", "create", tenant, "--requests-per-day", "1")["key"]["secret"]
        with httpx.Client(base_url=self.gateway.api_url, trust_env=False, timeout=60) as http:
            body = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}
            once = http.post("/chat/completions", json=body, headers={"authorization": f"Bearer {spent}"})
        assert once.status_code == 200, once.text
        return {"key": key, "spent_key": spent}


def tenant_of(client: str) -> str:
    """The name of a client's tenant: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", client.lower()).strip("-")


@contextmanager
def stage(folder: Path, litellm: LiteLLM) -> Iterator[Stage]:
    """A running stage. Fails at its end if the gateway or the upstream went wrong in between."""
    upstream = Upstream().start()
    upstream.default = persona.answer
    gateway = Gateway(
        folder / "home",
        upstream=litellm.api_url,
        arguments=("--upstream-key-env", "UPSTREAM_KEY"),
        environment={"UPSTREAM_KEY": litellm.master_key},
    )
    try:
        gateway.start()
        for model in ("scripted", persona.BREAKS_OFF, persona.ENDLESS):
            gateway.cli("passport", "add", model, "--base-url", upstream.api_url)
        yield Stage(gateway, upstream, folder)
    finally:
        gateway.close()
        upstream.stop()


def _command(client: Client, folder: Path) -> list[str]:
    if client.environment == "node":
        node = require_node_modules()
        # Node looks for packages beside the program's real place.
        for program in _PROGRAMS.glob("*.mjs"):
            shutil.copy(program, folder)
        (folder / "node_modules").symlink_to(node / "node_modules")
        return ["node", str(folder / f"{client.program}.mjs")]
    if client.program.startswith("curl"):
        require("curl")
    python: Any = {
        "tests": Path(sys.executable),
        "clients": environments.find_clients(),
        "litellm": environments.find_litellm(),
    }[client.environment]
    assert python is not None, _MISSING
    return [str(python), "-m", f"tests.clients.programs.{client.program}"]


_MISSING = (
    "The clients are not installed. `python3 tests` installs them by itself; to only install them run "
    "`python3 tests --install-only`, to leave their tests out run `python3 tests --no-litellm`."
)
