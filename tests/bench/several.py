"""``python3 tests/bench several``: one process on DuckDB, one on Postgres, two workers on Postgres, in one run.

Prints requests a second at 32 connections, latency at one connection (median and 99th percentile), and the CPU time of
gateway and database for each request, which does not depend on what else the machine does. A tenant without limits and
one with a quota are measured apart: only the second is admitted by the database. ``--pin`` keeps each process of the
gateway on one core, and all else off it where there is but one. ``--share PERCENT`` limits each to that part of a core,
and compares one, two and three on Postgres by what each brings: load, upstream and database then have room on a machine
of few cores, too.

Each measurement has a database server of its own: of one that goes on, the vacuum and the writing of what the
measurement before has left would be counted with the next.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.cores import pin
from tests.bench.load import Load, Sample, wrk
from tests.bench.peers import Running, start_server
from tests.bench.shares import Shares, SharesMissing
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
        # One that ends now is counted with those that have ended, by its parent.
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            used += sum(int(field) for field in fields[11:15])
    return used * _TICK_S


@dataclass(frozen=True)
class Family(Running):
    """A gateway of one process, or of several under one supervisor."""

    def cpu_s(self) -> float:
        return family_cpu_s(self.pid)

    def processes(self) -> list[int]:
        """Returns those that serve."""
        return children(self.pid) or [self.pid]


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


class Comparison:
    """One run: the upstream that all measurements share."""

    def __init__(self, stack: ExitStack, *, seconds: int, connections: int) -> None:
        """
        Args:
            stack: ends what this starts.
            seconds: of each measurement.
            connections: that ask at once.
        """
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._upstream = start_server("upstream", self._folder)
        stack.callback(self._upstream.stop)
        self._seconds = seconds
        self._load = Load(connections, stream=False)

    def of_stores(self, *, pinned: bool) -> Table:
        """Returns one process on DuckDB, one on Postgres and two on Postgres, each with what it can."""
        heads = ("p50 ms c=1", "p99 ms c=1", "CPU us a request", "Postgres us a request", "errors")
        table = self._table("setup", *heads)
        for setup in SETUPS:
            with self._started(setup, pinned=pinned) as (gateway, postgres):
                busy, postgres_us = self._measure(gateway, postgres)
                alone = wrk(gateway, Load(1, stream=False), self._seconds, self._folder)
            cells = (busy.rps, alone.p50_ms, alone.p99_ms, busy.cpu_us, postgres_us)
            table.add_row(setup.name, *(f"{cell:,.2f}" for cell in cells), str(busy.errors + alone.errors))
        return table

    def of_counts(self, shares: Shares, processes: int) -> Table:
        """Returns one process on Postgres and more, up to so many, each limited to its share of a core."""
        heads = ("÷ one", "p50 ms", "CPU us a request", "Postgres us a request", "share used up", "errors")
        table = self._table("processes", *heads)
        for quota in (None, 10**9):
            one_rps = 0.0
            for count in range(1, processes + 1):
                setup = Setup(f"{count}, {'a quota' if quota else 'no limit'}", True, count, quota)
                try:
                    with self._started(setup, pinned=False) as (gateway, postgres):
                        for pid in gateway.processes():
                            shares.limit(pid)
                        busy, postgres_us = self._measure(gateway, postgres)
                        used_up = " ".join(f"{bounded / max(1, ran):.0%}" for ran, bounded in shares.bounded())
                finally:
                    shares.release()
                one_rps = one_rps or busy.rps
                cells = (f"{busy.rps / max(1.0, one_rps):.2f}", f"{busy.p50_ms:.1f}", f"{busy.cpu_us:.0f}")
                more = (f"{postgres_us:.0f}", used_up, str(busy.errors))
                table.add_row(setup.name, f"{busy.rps:,.0f}", *cells, *more)
        return table

    def _table(self, first: str, *heads: str) -> Table:
        rate = f"requests/s c={self._load.connections}"
        return Table(first, rate, *heads, title=f"{os.cpu_count()} cores, {self._seconds} s each")

    @contextmanager
    def _started(self, setup: Setup, *, pinned: bool) -> Iterator[tuple[Family, Postgres]]:
        """A gateway with a tenant of the setup's own, and a database server of its own, for the block.

        ``pinned``: each process of the gateway on one core; load, upstream and database on those that are left, if any.
        """
        cores = sorted(os.sched_getaffinity(0))
        gateways, rest = cores[: setup.workers], frozenset(cores[setup.workers :] or cores)
        postgres = Postgres()
        try:
            if pinned:
                pin(os.getpid(), rest)
                pin(self._upstream.pid, rest)
            # What it starts inherits its cores.
            postgres.start()
            gateway = self._start(setup, postgres)
            try:
                for index, pid in enumerate(gateway.processes()):
                    pin(pid, frozenset((gateways[index % len(gateways)],)) if pinned else frozenset(cores))
                yield gateway, postgres
            finally:
                gateway.stop()
        finally:
            pin(os.getpid(), frozenset(cores))
            postgres.close()

    def _start(self, setup: Setup, postgres: Postgres) -> Family:
        environment = {"TRUSTGATE_STORE_URL": postgres.schema()} if setup.on_postgres else {}
        arguments = [] if setup.workers == 1 else ["--workers", str(setup.workers)]
        home = Path(tempfile.mkdtemp(dir=self._folder))
        gateway = Gateway(
            home, upstream=f"{self._upstream.url}/v1", arguments=arguments, environment=environment, forked=False
        )
        if setup.quota is not None:
            gateway.cli("plan", "add", "bounded", "--requests-per-day", str(setup.quota))
        secret = gateway.add_tenant("bench", plan="internal" if setup.quota is None else "bounded")
        gateway.start(timeout_s=120)
        headers = {"authorization": f"Bearer {secret}"}
        return Family(gateway.base_url, gateway.process.pid, gateway.ready_after_s, gateway.close, headers)

    def _measure(self, gateway: Family, postgres: Postgres) -> tuple[Sample, float]:
        """Returns what all connections get, and the CPU time of the database for a request, microseconds."""
        wrk(gateway, Load(8, stream=False), 2, self._folder)
        # What the start and the measurement before have written is not to be written during this one.
        os.sync()
        before_s = family_cpu_s(postgres.pid)
        busy = wrk(gateway, self._load, self._seconds, self._folder)
        used_s = family_cpu_s(postgres.pid) - before_s
        return busy, used_s / max(1.0, busy.rps * self._seconds) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench several", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--connections", type=int, default=32, help="that ask at once")
    parser.add_argument(
        "--pin", action="store_true", help="each process of the gateway on one core, all else on the others"
    )
    parser.add_argument(
        "--share", type=int, metavar="PERCENT", help="each process of the gateway limited to this part of a core"
    )
    parser.add_argument("--processes", type=int, default=3, metavar="N", help="with --share: up to so many")
    options = parser.parse_args()
    with ExitStack() as stack:
        shares = None
        if options.share is not None:
            try:
                shares = stack.enter_context(Shares.open(options.share))
            except SharesMissing as error:
                raise SystemExit(f"--share: {error}. Without it, see the CPU time of a request.") from None
        comparison = Comparison(stack, seconds=options.seconds, connections=options.connections)
        if shares is None:
            table = comparison.of_stores(pinned=options.pin)
        else:
            table = comparison.of_counts(shares, options.processes)
            table.title = f"{options.share} % of a core for each process, {table.title}"
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
