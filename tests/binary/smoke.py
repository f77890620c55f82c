"""The single file, tried as on a machine that has nothing: no Python on the PATH, an empty environment, a new home.

Standard library only: it runs beside the build. Raises AssertionError with what was said when something is not so.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

_READY = re.compile(r"ready at (http://\S+)")
#: Beside these only what stub.sh itself names; there is no Python among them.
_PATIENCE_S = 120


def smoke(binary: Path) -> None:
    """``version``, ``serve``, ``tenant add``, a request, ``anchor flush`` on the local Solana; prints what it took."""
    with tempfile.TemporaryDirectory() as folder:
        machine = _Machine(binary, Path(folder))
        print(f"binary: the first start, which unpacks: {machine.timed('version'):.2f} s")
        print(f"binary: version: {min(machine.timed('version') for _ in range(3)):.2f} s")
        assert machine.json("version")["executable"].startswith(str(machine.unpacked))
        machine.check_server()
        machine.check_demo()
        # A second user of the same file finds it unpacked; a broken unpacking is done anew.
        next(machine.unpacked.iterdir()).joinpath(".complete").unlink()
        stuck = machine.run("version", check=False)
        assert "is in the way" in stuck.stderr, stuck


class _Machine:
    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._home = folder / "gateway"
        self.unpacked = folder / "unpacked"
        self._environment = {"PATH": str(folder / "empty"), "TRUSTGATE_UNPACK_DIR": str(self.unpacked)}

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(self._binary), "--home", str(self._home), *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, cwd="/"
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def timed(self, *arguments: str) -> float:
        began = time.monotonic()
        self.run(*arguments)
        return time.monotonic() - began

    def check_server(self) -> None:
        began = time.monotonic()
        command = [str(self._binary), "--home", str(self._home), "serve", "--port", "0", "--upstream", "builtin:echo"]
        with subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True, cwd="/") as server:
            try:
                self._use(_address(server), began, server.pid)
            finally:
                server.send_signal(signal.SIGTERM)
                code = server.wait(_PATIENCE_S)
        assert code == 0, f"serve ended with exit code {code}"

    def check_demo(self) -> None:
        """All of it at once, the x402 SDK included."""
        began = time.monotonic()
        command = [str(self._binary), "demo", "--exit", "--json"]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        asked = {request["name"]: request["status"] for request in json.loads(done.stdout)["requests"]}
        assert asked["paid"] == 200, asked
        print(f"binary: the demo, with a payment: {time.monotonic() - began:.2f} s")

    def _use(self, address: str, began: float, pid: int) -> None:
        print(f"binary: serve is ready after {time.monotonic() - began:.2f} s")
        key = self.json("tenant", "add", "acme")["key"]["secret"]
        with urllib.request.urlopen(f"{address}/", timeout=30) as page:
            assert b"Check a receipt" in page.read(), "the page for people is not in the file"
        answer = _chat(address, key)
        assert answer["choices"][0]["message"]["content"], answer
        self.run("anchor", "keygen")
        flushed = self.run("anchor", "flush", "--rpc", "local").stdout
        assert self.json("anchor", "status")["anchored_size"] >= 1, flushed
        checks = self.json("doctor")["checks"]
        assert any(f"process {pid}" in check["message"] for check in checks), "the server is the process we started"
        print(f"binary: a request answered, anchored on the local Solana: {flushed.strip().splitlines()[0]}")


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := _READY.search(line):
            return found[1].rstrip("/.")
    raise AssertionError("the server ended before it was ready")


def _chat(address: str, key: str) -> Any:
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps({"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}).encode(),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
