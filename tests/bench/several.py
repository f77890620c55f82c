"""``python3 tests/bench several``: one process on DuckDB, one on Postgres, two workers on Postgres, in one run.

Prints requests a second at 32 connections, latency at one connection (median and 99th percentile), and the CPU time of
gateway and database for each request, which does not depend on what else the machine does. A tenant without limits and
one with a quota are measured apart: only the second is admitted by the database. ``--pin`` keeps each process of the
gateway on one core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.cores import pin
from tests.bench.load import Load, wrk
from tests.bench.peers import Running, start_server
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started and that live."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def family_cpu_s(pid: int) -> float:
    """Returns the CPU time of a process, its living children and those that have ended, seconds."""
    used = 0
    for each in (pid, *children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        used += sum(int(field) for field in fields[11:15])
    return used * _TICK_S


@dataclass(frozen=True)
class Family(Running):
    """A gateway of one process, or of several under one supervisor."""

    def cpu_s(self) -> float:
        return family_cpu_s(self.pid)


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    name: str
    on_postgres: bool
    workers: int
    #: Requests a day of the tenant; None: nothing limits it.
    quota: int | None


SETUPS = [
    Setup(f"{name}, {'a quota' if quota else 'no limit'}", on_postgres, workers, quota)
    for quota in (None, 10**9)
    for name, on_postgres, workers in (
        ("one process, DuckDB", False, 1),
        ("one process, Postgres", True, 1),
        ("two workers, Postgres", True, 2),
    )
]


def start(setup: Setup, upstream: str, folder: Path, postgres: Postgres, *, pinned: bool) -> Family:
    """Start the gateway with a tenant of the setup's own."""
    environment: Mapping[str, str] = {"TRUSTGATE_STORE_URL": postgres.schema()} if setup.on_postgres else {}
    arguments = [] if setup.workers == 1 else ["--workers", str(setup.workers)]
    gateway = Gateway(folder, upstream=f"{upstream}/v1", arguments=arguments, environment=environment, forked=False)
    if setup.quota is not None:
        gateway.cli("plan", "add", "bounded", "--requests-per-day", str(setup.quota))
    secret = gateway.add_tenant("bench", plan="internal" if setup.quota is None else "bounded")
    gateway.start(timeout_s=120)
    pid = gateway.process.pid
    if pinned:
        cores = sorted(os.sched_getaffinity(0))
        for index, each in enumerate(children(pid) if setup.workers > 1 else [pid]):
            pin(each, frozenset((cores[index % len(cores)],)))
    headers = {"authorization": f"Bearer {secret}"}
    return Family(gateway.base_url, pid, gateway.ready_after_s, gateway.close, headers)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench several", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--pin", action="store_true", help="each process of the gateway on one core")
    options = parser.parse_args()
    table = Table(
        *(
            "setup",
            "requests/s c=32",
            "p50 ms c=1",
            "p99 ms c=1",
            "CPU us a request",
            "Postgres us a request",
            "errors",
        ),
        title=f"{os.cpu_count()} cores, {options.seconds} s each",
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = Postgres().start()
        stack.callback(postgres.close)
        upstream = start_server("upstream", folder)
        stack.callback(upstream.stop)
        for index, setup in enumerate(SETUPS):
            gateway = start(setup, upstream.url, folder / f"home{index}", postgres, pinned=options.pin)
            try:
                wrk(gateway, Load(8, stream=False), 2, folder)
                before_s = family_cpu_s(postgres.pid)
                busy = wrk(gateway, Load(32, stream=False), options.seconds, folder)
                postgres_s = family_cpu_s(postgres.pid) - before_s
                alone = wrk(gateway, Load(1, stream=False), options.seconds, folder)
            finally:
                gateway.stop()
            postgres_us = postgres_s / max(1.0, busy.rps * options.seconds) * 1e6
            cells = (busy.rps, alone.p50_ms, alone.p99_ms, busy.cpu_us, postgres_us)
            table.add_row(setup.name, *(f"{cell:,.2f}" for cell in cells), str(busy.errors + alone.errors))
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
