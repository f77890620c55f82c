"""Measures the goals: every peer in every round, one after another, then one table, JSON, and what could not be run.

Absolute numbers wander with the machine; the ratios are taken within a round. Run by ``python3 tests/bench``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.bench import cores, installed, report
from tests.bench.goals import BELOW, BIG, C1, C8, C32, DIRECT, FLOOR, OURS, STREAMS, Measured
from tests.bench.load import Load, slow_streams, wrk
from tests.bench.peers import PEERS, CannotRun, Peer, Running, check, start_gateway, start_server
from tests.bench.servers import STREAM_CHUNKS
from tests.environments import MAIN_LOCK, find_litellm, venvs_folder
from tests.support.gateway import Gateway
from tests.support.processes import clean_environment

#: Which peers each load is put on.
_PLAN: dict[Load, tuple[str, ...]] = {
    C1: (DIRECT, "raw", "bare", OURS, *BELOW),
    C8: ("raw", "bare", "httpx", OURS, *BELOW, "litellm", "portkey"),
    C32: ("raw", "bare", "httpx", OURS, BIG, *BELOW, "litellm", "portkey"),
    STREAMS: ("raw", "bare", "httpx", OURS, *BELOW, "litellm", "portkey"),
}
#: Peers that answer some forty times a second are watched for longer, so that there is something to count.
_SLOW_PEERS = ("litellm",)
_SLOW_PEERS_S = 8
#: After so many requests memory is looked at again.
_REQUESTS = 100_000
_MB_PER_MIB = 2**20 / 10**6
_OF_QUICK = ("raw", "bare", OURS, FLOOR)


def main() -> int:
    """Measure. Exit code 1 when wrk is missing or a request failed: then the numbers mean nothing."""
    options = _parse()
    console = Console(width=None if sys.stdout.isatty() else 140)
    if shutil.which("wrk") is None:
        console.print("The benchmark needs wrk, an HTTP load generator: apt-get install wrk (or brew install wrk).")
        return 1
    with tempfile.TemporaryDirectory(prefix="trustgate-bench-") as folder, contextlib.ExitStack() as stack:
        bench = Bench(options, Path(folder), stack, console)
        bench.run()
    versions = {"litellm": _litellm_version(), "portkey": installed.PORTKEY_VERSION}
    peers = {name: version for name, version in versions.items() if name in bench.servers and version}
    found = report.document(bench.measured, rounds=options.rounds, seconds=options.seconds, peers=peers)
    console.print(report.tables(found))
    path = options.json or venvs_folder() / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"numbers: {path}")
    failed = sum(sample.errors for series in bench.measured.samples.values() for sample in series.values())
    if failed:
        console.print(f"[red]{failed} requests failed: these numbers mean nothing[/red]")
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 tests/bench",
        description=__doc__,
        epilog="python3 tests/bench receipts: makes the home folder with 10 million receipts, once (it takes minutes)."
        " python3 tests/bench publish FILE: shows the numbers of a run in examples/reference. "
        "python3 tests/bench log: measures the tree over the receipts.",
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="how long one measurement takes (default: 3)")
    parser.add_argument("--streams", type=int, default=1000, help="how many slow streams at once (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="one round of a second each: does it work at all")
    parser.add_argument("--peers", nargs="+", default=names, choices=names, help="whom to measure (default: all)")
    cores.add_option(parser)
    parser.add_argument("--json", type=Path, help="where the numbers go (default: bench.json among the environments)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.streams, options.peers = 1, 1, 50, list(_OF_QUICK)
    return options


class Bench:
    """One run: what is started once, and what is measured on it."""

    def __init__(
        self, options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack, console: Console
    ) -> None:
        self._options = options
        self._folder = folder
        self._stack = stack
        self._console = console
        self._cores = cores.wanted(options)
        self.measured = Measured()
        self.servers: dict[str, Running] = {}
        #: Streams of these cannot be measured.
        self._no_streams: set[str] = set()

    def run(self) -> None:
        with self._console.status("starting") as status:
            tell: Callable[[str], None] = status.update
            upstream = start_server("upstream", self._folder)
            self._stack.callback(upstream.stop)
            self.servers[DIRECT] = upstream
            if self._cores is not None:
                cores.pin(upstream.pid, self._cores.upstream)
            for peer in PEERS:
                if peer.name in self._options.peers:
                    tell(f"starting {peer.name}")
                    self._start(peer, upstream)
            if OURS in self.servers:
                self._idle_memory()
            if not self._options.quick:
                tell("starting the gateway on 10 million receipts")
                self._start_big(upstream)
            self._rounds(tell)
            if OURS in self.servers:
                self._loaded_memory(tell)
                self._slow(tell)
                tell("starts and commands")
                self._starts_and_commands(upstream)
            if not self._options.quick:
                tell("installed sizes")
                self._sizes()

    def _start(self, peer: Peer, upstream: Running) -> None:
        own = self._folder / peer.name
        own.mkdir()
        try:
            server = peer.start(upstream.url, own)
        except CannotRun as reason:
            self.measured.missing[peer.name] = str(reason)
            return
        self._stack.callback(server.stop)
        self.servers[peer.name] = server
        self._pin(server)
        for load in (C1, STREAMS):
            wrong = check(peer.name, server, load.body, stream=load.stream, chunks=STREAM_CHUNKS)
            if wrong is None:
                continue
            # Our own programs must work; what is wrong with the others is told.
            assert peer.name not in (*_OF_QUICK, "httpx"), wrong
            if load.stream:
                self._no_streams.add(peer.name)
                self.measured.missing[f"{peer.name}, streams"] = wrong
            else:
                del self.servers[peer.name]
                self.measured.missing[peer.name] = wrong
                return

    def _pin(self, server: Running) -> None:
        if self._cores is not None:
            cores.pin(server.pid, self._cores.server)

    def _start_big(self, upstream: Running) -> None:
        home = installed.big_home()
        if not home.is_dir():
            self.measured.missing[BIG] = "its home folder is not made yet (python3 tests/bench receipts does it)"
            return
        ready_s = []
        for last in (False, False, True):
            server = start_gateway(upstream.url, home)
            ready_s.append(server.ready_after_s)
            if not last:
                server.stop()
        self._stack.callback(server.stop)
        self.servers[BIG] = server
        self._pin(server)
        self.measured.ready_s[BIG] = ready_s
        gateway = ("--home", str(home))
        commands = (*gateway, "usage", "--by", "tenant", "--since", "month", "--json")
        whole = _timed(commands, 5)
        # What the command takes without a query, with a database as large.
        without = statistics.median(_timed((*gateway, "plan", "list", "--json"), 5))
        self.measured.command_s["usage"] = [max(0.0, seconds - without) for seconds in whole]

    def _rounds(self, tell: Callable[[str], None]) -> None:
        rounds, seconds = self._options.rounds, self._options.seconds
        for number in range(1, rounds + 1):
            for load, planned in _PLAN.items():
                names = [
                    name for name in planned if name in self.servers and not (load.stream and name in self._no_streams)
                ]
                # Another one goes first each round, so that none always runs on the warmest machine.
                first = number % max(len(names), 1)
                for name in names[first:] + names[:first]:
                    tell(f"round {number} of {rounds}: {load.name}, {name}")
                    long_enough = max(seconds, _SLOW_PEERS_S) if name in _SLOW_PEERS else seconds
                    sample = wrk(self.servers[name], load, long_enough, self._folder)
                    self.measured.samples.setdefault((load, name), {})[number] = sample

    def _idle_memory(self) -> None:
        time.sleep(1)  # what a start leaves behind is freed or not by now; nothing announces that
        self.measured.rss_mb["idle"] = [self.servers[OURS].rss_mib() * _MB_PER_MIB]

    def _loaded_memory(self, tell: Callable[[str], None]) -> None:
        server = self.servers[OURS]
        most = 1 if self._options.quick else 100
        for _ in range(most):
            answered = _receipts(server)
            if answered >= _REQUESTS:
                break
            tell(f"{answered:,} of {_REQUESTS:,} requests")
            wrk(server, C32, 1 if self._options.quick else 5, self._folder)
        self.measured.rss_mb["loaded"] = [server.rss_mib() * _MB_PER_MIB]

    def _slow(self, tell: Callable[[str], None]) -> None:
        chunks = 20 if self._options.quick else 200
        names = [name for name in (DIRECT, "bare", "raw", FLOOR, OURS) if name in self.servers]
        for number in range(1, self._options.rounds + 1):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                tell(f"slow streams, round {number} of {self._options.rounds}: {name}")
                seen = slow_streams(self.servers[name], self._options.streams, chunks)
                self.measured.slow.setdefault(name, []).append(seen)

    def _starts_and_commands(self, upstream: Running) -> None:
        times = 1 if self._options.quick else 7
        home = self._folder / "commands"
        gateway = Gateway(home, upstream=f"{upstream.url}/v1", forked=False)
        ready_s = []
        for _ in range(times):
            gateway.start()
            ready_s.append(gateway.ready_after_s)
            gateway.stop()
        self.measured.ready_s[OURS] = ready_s[1:] or ready_s  # the first start makes the database
        gateway.start()
        self._stack.callback(gateway.close)
        gateway.add_tenant("acme")
        self.measured.command_s["--help"] = _timed(("--help",), times)
        self.measured.command_s["tenant list"] = _timed(("--home", str(home), "tenant", "list"), times)

    def _sizes(self) -> None:
        self.measured.installed_mb[OURS] = _installed_mb(Path(sys.executable), _locked(MAIN_LOCK)) + _size_mb(
            Path(__file__).resolve().parent.parent.parent / "trustgate"
        )
        litellm = find_litellm()
        if litellm is None:
            self.measured.missing["installed size"] = "LiteLLM is not installed"
        else:
            self.measured.installed_mb["litellm"] = _installed_mb(litellm, None)


def _receipts(server: Running) -> int:
    import httpx

    for line in httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines():
        if line.startswith("trustgate_receipts_total "):
            return int(line.split()[1])
    raise AssertionError("the gateway does not tell how many receipts there are")


def _timed(arguments: tuple[str, ...], times: int) -> list[float]:
    """How long ``trustgate ARGUMENTS`` takes, start of Python included, seconds."""
    taken = []
    program = Path(sys.executable).with_name("trustgate")
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(
            [str(program), *arguments], env=clean_environment(), stdout=subprocess.DEVNULL, check=True, timeout=120
        )
        taken.append(time.perf_counter() - began)
    return taken


def _locked(lock: Path) -> list[str]:
    return [line.split("==")[0] for line in lock.read_text().splitlines() if "==" in line and line[:1].isalnum()]


#: What a distribution takes up on disk, bytes, by its own list of files. Runs in the Python that it is installed in.
_COUNT = """
import importlib.metadata, sys
names = set(sys.argv[1:])
total = 0
for each in importlib.metadata.distributions():
    name = each.metadata["name"]
    if names and name.lower().replace("_", "-") not in names or name in ("pip", "setuptools", "trustgate"):
        continue
    for file in each.files or ():
        path = each.locate_file(file)
        total += path.stat().st_size if path.is_file() else 0
print(total)
"""


def _installed_mb(python: Path, names: list[str] | None) -> float:
    wanted = [name.partition("[")[0].lower().replace("_", "-") for name in names or ()]
    command = [str(python), "-c", _COUNT, *wanted]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1e6


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.py")) / 1e6


def _litellm_version() -> str | None:
    python = find_litellm()
    if python is None:
        return None
    code = "import importlib.metadata; print(importlib.metadata.version('litellm'))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
