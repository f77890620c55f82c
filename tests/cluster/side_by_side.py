"""Several gateways that serve one Postgres, on homes of their own, and clients that ask them at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, Process, clean_environment, free_port, wait_until

#: Long enough that a machine under load renews in time.
LEASE_S = 5


class Neighbour:
    """One of the gateways."""

    def __init__(self, folder: Path, name: str, url: str, upstream: str, environment: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.gateway = Gateway(folder / name, environment={"TRUSTGATE_STORE_URL": url})
        self._folder, self._upstream = folder, upstream
        self._environment = clean_environment(
            {
                "TRUSTGATE_STORE_URL": url,
                "TRUSTGATE_STORE_LEASE_S": str(LEASE_S),
                "PYTHONPATH": str(ROOT),
                **environment,
            }
        )
        self._process: Process | None = None

    def start(self) -> Self:
        program = [sys.executable, str(ROOT / "tests/cluster/serve_several.py"), "--home", str(self.gateway.home)]
        command = [*program, "serve", "--port", str(self.port), "--upstream", self._upstream]
        log = self._folder / f"{self.name}.log"
        self._process = Process(self.name, command, self._folder, self._environment, log)
        return self

    def wait(self) -> None:
        process = self._process
        assert process is not None
        process.wait_until(lambda: "ready at " in process.stdout, PATIENCE_S)

    def kill(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGKILL)
        self._process.wait()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.signal(number)

    def close(self) -> None:
        if self._process is not None and self._process.exit_code is None:
            self._process.signal(signal.SIGTERM)
            self._process.wait()
        log = self._folder / f"{self.name}.log"
        assert "Traceback" not in log.read_text(), log.read_text()[-4000:]


class SideBySide:
    """So many gateways; the first one's command line."""

    def __init__(self, folder: Path, url: str, count: int, upstream: str, environment: dict[str, str]) -> None:
        self.url = url
        self.neighbours = [
            Neighbour(folder, f"gateway{number}", url, upstream, environment) for number in range(1, count + 1)
        ]
        first = self.neighbours[0]
        first.start().wait()
        for other in self.neighbours[1:]:
            other.gateway.home.mkdir(mode=0o700)
            shutil.copy(first.gateway.home / "log.key", other.gateway.home)
            other.start()
        for other in self.neighbours[1:]:
            other.wait()
        self.gateway = first.gateway

    def close(self) -> None:
        for each in self.neighbours:
            each.close()

    def ask(self, key: str, asks: int, *, connections: int = 60, body: bytes | None = None, **more: str) -> Answers:
        """Ask all of them, ``connections`` at a time. Gives what was answered."""
        return asyncio.run(self._ask(key, asks, connections, chat() if body is None else body, more))

    async def _ask(self, key: str, asks: int, connections: int, body: bytes, headers: dict[str, str]) -> Answers:
        answers = Answers()
        left = iter(range(asks))
        ports = [each.port for each in self.neighbours]
        await asyncio.gather(
            *(_client(ports[turn % len(ports)], key, left, body, headers, answers) for turn in range(connections))
        )
        return answers

    def balance(self, tenant: str) -> Any:
        """What the first says of a tenant's balance."""
        return self.gateway.cli_json("tenant", "credit", tenant)

    def books(self) -> None:
        """Check that ``doctor --books`` of a gateway that serves finds nothing."""
        found = self.gateway.cli("doctor", "--books", check=False)
        assert found.returncode == 0, found.stdout

    def settle(self, condition: Any, what: str) -> None:
        wait_until(condition, what)


class Answers:
    """What clients were answered."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.receipts: list[str] = []
        self.bodies: list[bytes] = []


def chat(**members: Any) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return json.dumps({"model": "echo", "messages": messages, "max_tokens": 10, **members}).encode()


async def _client(port: int, key: str, left: Any, body: bytes, headers: dict[str, str], answers: Answers) -> None:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in left:
            writer.write(head + body)
            async with asyncio.timeout(PATIENCE_S):
                status, fields, content = await _answer(reader)
            answers.statuses[status] += 1
            answers.bodies.append(content)
            if status == 200:
                answers.receipts.append(fields["x-trustgate-receipt"])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    lines: Sequence[str] = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), fields, await reader.readexactly(int(fields["content-length"]))
