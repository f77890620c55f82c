"""Measures the peers with wrk in interleaved rounds, prints one table and writes one JSON file.

Absolute numbers wander with the machine; every peer is measured in every round, and the ratios to the reference are
taken within a round, so these are what to trust. Run by ``python3 tests/bench``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.peers import PEERS, REFERENCE, Peer, Running, start_server
from tests.bench.servers import STREAM_CHUNKS

MODEL = "gpt-4o-mini"
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Say something friendly, and take your time to say it well. " * 4},
]


@dataclass(frozen=True)
class Load:
    """One way of asking: how many connections, streamed or not."""

    connections: int
    stream: bool

    @property
    def name(self) -> str:
        return f"{'streams' if self.stream else 'plain'} c={self.connections}"

    @property
    def body(self) -> str:
        return json.dumps({"model": MODEL, "messages": MESSAGES, "stream": self.stream})


LOADS = (Load(1, False), Load(8, False), Load(32, False), Load(16, True))


@dataclass(frozen=True)
class Sample:
    """What wrk saw in one round: answers a second, latency in ms, requests that did not end in 200."""

    rps: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True)
class Startup:
    ready_after_s: float
    idle_rss_mib: float
    loaded_rss_mib: float


Samples = dict[tuple[Load, str], list[Sample]]

_WRK_DONE = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def main() -> int:
    """Measure. Exit code 1 when wrk is missing or a request failed: then the numbers mean nothing."""
    options = _parse()
    console = Console()
    if shutil.which("wrk") is None:
        console.print("The benchmark needs wrk, an HTTP load generator: apt-get install wrk (or brew install wrk).")
        return 1
    peers = [peer for peer in PEERS if peer.name in options.peers]
    with tempfile.TemporaryDirectory(prefix="trustgate-bench-") as folder, contextlib.ExitStack() as stack:
        running = dict(_start_all(peers, Path(folder), stack))
        idle = _settled_rss(running)
        samples = _measure(running, options.rounds, options.seconds, Path(folder), console)
        startups = {
            name: Startup(server.ready_after_s, idle[name], server.rss_mib()) for name, server in running.items()
        }
    console.print(_table(peers, samples, startups, options))
    _write(options, samples, startups)
    failed = sum(sample.errors for series in samples.values() for sample in series)
    if failed:
        console.print(f"[red]{failed} requests failed: these numbers mean nothing[/red]")
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 tests/bench", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--seconds", type=int, default=5, help="how long one measurement takes (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round of a second each: does it work at all")
    parser.add_argument("--peers", nargs="+", default=names, choices=names, help="whom to measure (default: all)")
    parser.add_argument("--json", type=Path, help="where the numbers go (default: bench.json among the environments)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    return options


def _start_all(peers: Sequence[Peer], folder: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, Running]]:
    upstream = start_server("upstream", folder)
    stack.callback(upstream.stop)
    for peer in peers:
        own = folder / peer.name
        own.mkdir()
        server = peer.start(upstream.url, own)
        stack.callback(server.stop)
        _check(peer, server)
        yield peer.name, server


def _check(peer: Peer, server: Running) -> None:
    """One request of each kind, looked at: a fast wrong answer is no result."""
    for stream in (False, True):
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions",
            data=Load(1, stream).body.encode(),
            headers={"content-type": "application/json", **server.headers},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        right = text.endswith("data: [DONE]\n\n") and text.count(" word") == STREAM_CHUNKS
        assert right if stream else json.loads(text)["choices"], f"{peer.name} answered {text[-500:]!r}"


def _settled_rss(running: dict[str, Running]) -> dict[str, float]:
    time.sleep(1)  # what a start leaves behind is freed or not by now; nothing announces that
    return {name: server.rss_mib() for name, server in running.items()}


def _measure(running: dict[str, Running], rounds: int, seconds: int, folder: Path, console: Console) -> Samples:
    samples: Samples = defaultdict(list)
    with console.status("measuring") as status:
        for number in range(1, rounds + 1):
            for load in LOADS:
                # Another one goes first each round, so that none always runs on the warmest machine.
                names = list(running)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    status.update(f"round {number} of {rounds}: {load.name}, {name}")
                    samples[load, name].append(_wrk(running[name], load, seconds, folder))
    return samples


def _wrk(server: Running, load: Load, seconds: int, folder: Path) -> Sample:
    headers = {"content-type": "application/json", **server.headers}
    lines = ['wrk.method = "POST"', f"wrk.body = [==[{load.body}]==]"]
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    script = folder / "wrk.lua"
    script.write_text("\n".join([*lines, _WRK_DONE]))
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    url = f"{server.url}/v1/chat/completions"
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    found = [line.split()[1:] for line in said.splitlines() if line.startswith("RESULT ")]
    assert found, f"wrk said {said!r}"
    requests, duration_us, p50_ms, p99_ms, errors = (float(value) for value in found[0])
    return Sample(requests / duration_us * 1e6, p50_ms, p99_ms, int(errors))


def _ratios(samples: Samples, load: Load, name: str) -> list[float]:
    """Answers a second against the reference's, round by round; empty when the reference was not measured."""
    pairs = zip(samples[load, name], samples.get((load, REFERENCE), []), strict=False)
    return [mine.rps / reference.rps for mine, reference in pairs]


def _table(peers: Sequence[Peer], samples: Samples, startups: dict[str, Startup], options: argparse.Namespace) -> Table:
    table = Table(
        title=f"{options.rounds} rounds of {options.seconds} s, medians (lowest to highest); a stream has "
        f"{STREAM_CHUNKS} chunks\nPython {platform.python_version()}, {os.cpu_count()} cores"
    )
    for column in ("load", "who", "a second", "p50 ms", "p99 ms", f"÷ {REFERENCE}", "errors"):
        table.add_column(column, justify="left" if column in ("load", "who") else "right")
    for load in LOADS:
        for peer in peers:
            series = samples[load, peer.name]
            table.add_row(
                load.name if peer is peers[0] else "",
                peer.name,
                _spread([sample.rps for sample in series], ".0f"),
                _spread([sample.p50_ms for sample in series], ".2f"),
                _spread([sample.p99_ms for sample in series], ".2f"),
                _spread(_ratios(samples, load, peer.name), ".2f"),
                str(sum(sample.errors for sample in series)),
            )
        table.add_section()
    table.caption = "\n".join(
        f"{name}: ready after {startup.ready_after_s:.2f} s, {startup.idle_rss_mib:.0f} MiB idle, "
        f"{startup.loaded_rss_mib:.0f} MiB after the load"
        for name, startup in startups.items()
    )
    return table


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def _write(options: argparse.Namespace, samples: Samples, startups: dict[str, Startup]) -> None:
    from tests.environments import venvs_folder

    path = options.json or venvs_folder() / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = [
        {
            "load": load.name,
            "peer": name,
            "samples": [asdict(sample) for sample in series],
            "ratios": _ratios(samples, load, name),
        }
        for (load, name), series in samples.items()
    ]
    document = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "stream_chunks": STREAM_CHUNKS,
        "reference": REFERENCE,
        "startup": {name: asdict(startup) for name, startup in startups.items()},
        "results": results,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"numbers: {path}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
