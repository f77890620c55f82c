"""Who is measured. A peer knows how to start one server in front of the upstream and how to speak to it.

To add one, write a function that gives a ``Running`` and put a ``Peer`` into ``PEERS``.
"""

from __future__ import annotations

import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.processes import Process, clean_environment, free_port


@dataclass(frozen=True)
class Running:
    """A started server: where its chat endpoint's ``/v1`` is, what to send along, and how to end it."""

    url: str
    pid: int
    #: From the start of the process to its first answer (the gateway: its ready line), seconds.
    ready_after_s: float
    stop: Callable[[], None]
    headers: Mapping[str, str] = field(default_factory=dict)

    def rss_mib(self) -> float:
        """Resident memory now, MiB, from /proc."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"process {self.pid} has no resident memory")


@dataclass(frozen=True)
class Peer:
    name: str
    what: str
    #: Takes the upstream's address and a folder of its own.
    start: Callable[[str, Path], Running]


def start_server(name: str, folder: Path, upstream: str = "") -> Running:
    """Start one of tests.bench.servers and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.servers", name, "--port", str(port), "--upstream", upstream]
    process = Process(name, command, ROOT, clean_environment(), folder / f"{name}.log")
    url = f"http://127.0.0.1:{port}"
    process.wait_until(lambda: _answers(url))
    return Running(url, process.pid, time.monotonic() - process.started_at, lambda: _end(process))


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _end(process: Process) -> None:
    process.signal(signal.SIGKILL)
    process.wait()


def _start_gateway(upstream: str, folder: Path) -> Running:
    gateway = Gateway(folder / "home", upstream=f"{upstream}/v1")
    gateway.start()
    secret = gateway.add_tenant("bench", plan="internal")
    headers = {"authorization": f"Bearer {secret}"}
    return Running(gateway.base_url, gateway.process.pid, gateway.ready_after_s, gateway.close, headers)


PEERS = (
    Peer("raw", "plain ASGI and the transport alone: the limit", lambda url, to: start_server("raw", to, url)),
    Peer("bare", "Starlette route and httpx client, no features", lambda url, to: start_server("bare", to, url)),
    Peer("trustgate", "the whole path: keys, quotas, metering, receipts", _start_gateway),
)
#: Ratios are against this peer, in the same round.
REFERENCE = "bare"
