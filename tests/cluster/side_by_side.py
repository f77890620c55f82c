"""Several gateways that serve one Postgres, on homes of their own, and clients that ask them at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, Process, clean_environment, free_port

#: Long enough that a machine under load renews in time.
LEASE_S = 5


class Listening(Gateway):
    """The command line of a gateway, whose process is another's."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Neighbour:
    """One of the gateways."""

    def __init__(self, folder: Path, name: str, url: str, upstream: str, environment: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.gateway = Listening(folder / name, environment={"TRUSTGATE_STORE_URL": url})
        self.gateway.port = self.port
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
        program = [sys.executable, "-m", "trustgate", "--home", str(self.gateway.home)]
        command = [*program, "serve", "--port", str(self.port), "--upstream", self._upstream]
        self._process = Process(self.name, command, self._folder, self._environment, self._log)
        return self

    @property
    def _log(self) -> Path:
        return self._folder / f"{self.name}.log"

    def wait(self) -> None:
        process = self._process
        assert process is not None
        process.wait_until(lambda: "ready at " in process.stdout, PATIENCE_S)

    def exit_code(self, within_s: float = PATIENCE_S) -> int:
        """Wait until it has ended by itself."""
        assert self._process is not None
        return self._process.wait(within_s)

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def said(self) -> str:
        """What its process has written to stderr."""
        assert self._process is not None
        return self._process.stderr

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.signal(number)

    def close(self) -> None:
        if self._process is not None and self._process.exit_code is None:
            self._process.signal(signal.SIGTERM)
            self._process.wait()
        assert "Traceback" not in self._log.read_text(), self._log.read_text()[-4000:]


class Answers:
    """What clients were answered."""

    thread: threading.Thread

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()

    def ended(self) -> Counter[int]:
        """Wait for all, and give how many have got which status; 0: none, since their gateway was gone."""
        self.thread.join()
        return +self.statuses


class SideBySide:
    """So many gateways; the first one's command line."""

    def __init__(self, folder: Path, url: str, count: int, upstream: str, environment: dict[str, str]) -> None:
        self.begin(folder, [url] * count, upstream, environment)

    def begin(self, folder: Path, urls: list[str], upstream: str, environment: dict[str, str]) -> None:
        """Start a gateway for each of the ways to the database."""
        self.url = urls[0]
        self.neighbours = [
            Neighbour(folder, f"gateway{number}", url, upstream, environment) for number, url in enumerate(urls, 1)
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

    def ask(
        self, key: str, asks: int, model: str = "echo", *, of: Sequence[int] = (), connections: int = 60
    ) -> Answers:
        """Begin to ask all of them, or these, ``connections`` at a time. Gives what is answered."""
        answers = Answers()
        ports = [self.neighbours[number].port for number in of or range(len(self.neighbours))]
        left, body = iter(range(asks)), chat(model)

        async def run() -> None:
            await asyncio.gather(
                *(_client(ports[turn % len(ports)], key, left, body, answers) for turn in range(connections))
            )

        answers.thread = threading.Thread(target=lambda: asyncio.run(run()))
        answers.thread.start()
        return answers

    def balance(self, tenant: str) -> Any:
        """What the first says of a tenant's balance."""
        return self.gateway.cli_json("tenant", "credit", tenant)

    def books(self) -> None:
        """Check that ``doctor --books`` of a gateway that serves finds nothing."""
        found = self.gateway.cli("doctor", "--books", check=False)
        assert found.returncode == 0, found.stdout


def chat(model: str) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": 10}).encode()


async def _client(port: int, key: str, left: Iterator[int], body: bytes, answers: Answers) -> None:
    """Ask one gateway for as long as anything is left to ask; a gateway that is killed ends it."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in left:
            writer.write(head + body)
            async with asyncio.timeout(PATIENCE_S):
                answers.statuses[await _answer(reader)] += 1
    except (OSError, asyncio.IncompleteReadError):
        answers.statuses[0] += 1
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> int:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    await reader.readexactly(int(fields["content-length"]))
    return int(lines[0].split()[1])
