"""A real gateway: ``trustgate serve`` as a process of its own, and the command line beside it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

from tests.support import nursery
from tests.support.processes import PATIENCE_S, Process, clean_environment
from trustgate.store import open_store

_READY = re.compile(r"ready at (https?://\S+)")
_COMMAND = (sys.executable, "-m", "trustgate")


class Gateway:
    """One home folder and, while it runs, the server on it. It can be stopped, killed and started again.

    ``upstream`` is the base URL of the LLM server, with its ``/v1``; without one the settings decide.
    """

    def __init__(
        self,
        home: Path,
        *,
        upstream: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        forked: bool = True,
    ) -> None:
        """``forked``: its processes come out of the nursery. Where start or memory are measured, they must not."""
        self.home = home
        self.log_path = home.with_name(f"{home.name}.log")
        self._arguments = [*(() if upstream is None else ("--upstream", upstream)), *arguments]
        self._environment = clean_environment(environment)
        self._is_forked = forked and nursery.can_start(environment or {})
        self._process: Process | None = None
        self._address: str | None = None
        #: Seconds from the start of the process to its ready line, of the last start.
        self.ready_after_s = 0.0

    def start(self, *arguments: str, timeout_s: float = PATIENCE_S) -> Self:
        """Start the server and wait for its ready line. A second start listens on the first one's port again."""
        assert self._process is None, "the gateway runs already"
        port = "0" if self._address is None else self._address.rpartition(":")[2]
        command = ["--home", str(self.home), "serve", "--port", port, *self._arguments, *arguments]
        if not self._is_forked:
            command = [*_COMMAND, *command]
        process = Process(
            "the gateway", command, self.home.parent, self._environment, self.log_path, forked=self._is_forked
        )
        process.wait_until(lambda: _READY.search(process.stdout) is not None, timeout_s)
        self.ready_after_s = time.monotonic() - process.started_at
        ready = _READY.search(process.stdout)
        assert ready is not None
        self._address = ready[1].rstrip("/.")
        self._process = process
        return self

    def stop(self, timeout_s: float = PATIENCE_S, number: int = signal.SIGTERM) -> int:
        """SIGTERM, or another signal; gives the exit code."""
        return self._end(number, timeout_s)

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL, PATIENCE_S)

    def close(self) -> None:
        """End it if it runs, and fail if it ever wrote a traceback or did not end well."""
        exit_code = 0 if self._process is None else self.stop()
        log = self.logs()
        assert "Traceback (most recent call last)" not in log, f"the gateway logged a traceback\n{log[-8000:]}"
        assert exit_code == 0, f"the gateway ended with exit code {exit_code}\n{log[-8000:]}"

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:PORT``, known from the first start on."""
        assert self._address is not None, "the gateway has not been started"
        return self._address

    @property
    def api_url(self) -> str:
        """What an OpenAI client takes as base_url."""
        return f"{self.base_url}/v1"

    @property
    def is_running(self) -> bool:
        """It was started, and neither stopped nor killed by us, nor ended by itself."""
        return self._process is not None and self._process.exit_code is None

    @property
    def is_started(self) -> bool:
        """It was started, and neither stopped nor killed by us; it may have ended by itself."""
        return self._process is not None

    @property
    def process(self) -> Process:
        assert self._process is not None, "the gateway does not run"
        return self._process

    def logs(self) -> str:
        """All that this home's servers wrote to stderr."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def cli(
        self, *arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run ``trustgate --home HOME arguments…``. Raises AssertionError with its output if it fails and ``check``."""
        result = self._run(["--home", str(self.home), *arguments], stdin, timeout_s)
        said = f"trustgate {' '.join(arguments)}: exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert "Traceback (most recent call last)" not in result.stderr, said
        assert not check or result.returncode == 0, said
        return result

    def begin_cli(self, *arguments: str, stdout: IO[bytes], stderr: IO[bytes], stdin: IO[bytes]) -> nursery.Child:
        """Start ``trustgate --home HOME arguments…``; to be killed by the caller."""
        folder, environment = self.home.parent, self._environment
        return nursery.start(
            ["--home", str(self.home), *arguments],
            folder=folder,
            environment=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def _run(self, command: list[str], stdin: str | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
        with TemporaryFile() as said, TemporaryFile() as complained, TemporaryFile() as given:
            given.write((stdin or "").encode())
            given.seek(0)
            folder, environment = self.home.parent, self._environment
            child = nursery.start(
                command, folder=folder, environment=environment, stdin=given, stdout=said, stderr=complained
            )
            try:
                exit_code = child.wait(timeout_s)
            finally:
                child.kill()
            for file in (said, complained):
                file.seek(0)
            return subprocess.CompletedProcess(command, exit_code, said.read().decode(), complained.read().decode())

    def cli_json(self, *arguments: str) -> Any:
        """The one JSON document that the command prints with ``--json``."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def make_home(self) -> Self:
        """The home with its database, as the first command that adds something makes it."""

        async def make() -> None:
            await (await open_store(self.home / "trustgate.duckdb")).close()

        self.home.mkdir(mode=0o700, parents=True)
        asyncio.run(make())
        return self

    def add_tenant(self, name: str = "acme", *, plan: str | None = None) -> str:
        """Add a tenant; gives the secret of its first key."""
        chosen = () if plan is None else ("--plan", plan)
        secret: str = self.cli_json("tenant", "add", name, *chosen)["key"]["secret"]
        return secret

    def _end(self, number: int, timeout_s: float) -> int:
        process, self._process = self.process, None
        process.signal(number)
        return process.wait(timeout_s)
