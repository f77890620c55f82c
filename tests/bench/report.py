"""What was measured, as a table, as JSON, and as the page of the benchmark."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tests.bench.goals import Measured, results
from tests.bench.peers import PEERS
from tests.bench.servers import STREAM_CHUNKS

#: The run that the page shows.
PUBLISHED = Path(__file__).resolve().parent / "results.json"
_SHOWN = ("hypercorn", "starlette", "httpx", "aiohttp", "uvloop", "msgspec", "duckdb")


def document(measured: Measured, *, rounds: int, seconds: int, peers: dict[str, str]) -> dict[str, Any]:
    """All of it, for JSON. ``peers``: versions of those that are not Python packages of the tests."""
    versions = {name: importlib.metadata.version(name) for name in _SHOWN}
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        },
        "versions": {"python": _python(), **versions, **peers},
        "rounds": rounds,
        "seconds": seconds,
        "stream_chunks": STREAM_CHUNKS,
        "goals": [result.as_json() for result in results(measured)],
        "missing": measured.missing,
        "samples": [
            {"load": load.name, "peer": peer, "rounds": {number: asdict(sample) for number, sample in series.items()}}
            for (load, peer), series in measured.samples.items()
        ],
        "slow_streams": {name: [asdict(slow) for slow in rounds] for name, rounds in measured.slow.items()},
        "ready_s": measured.ready_s,
        "rss_mb": measured.rss_mb,
        "command_s": measured.command_s,
        "installed_mb": measured.installed_mb,
    }


def _python() -> str:
    """The interpreter's version, and whether it is the system's: one that was built by hand may lack optimisations."""
    whose = "the system's build" if sys.base_prefix == "/usr" else "not the system's build"
    return f"{platform.python_version()} ({whose})"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def tables(found: dict[str, Any]) -> Group:
    """For the terminal: the goals, and below them every load and peer."""
    goals = Table(title=_title(found))
    for column in ("measure", "goal", "value", "lowest to highest", ""):
        goals.add_column(column, justify="left" if column in ("measure", "") else "right")
    colours = {"met": "green", "not met": "red", "not measured": "yellow"}
    for goal in found["goals"]:
        name = goal["measure"] + (f"\n  {goal['note']}" if goal["note"] else "")
        verdict = Text(goal["verdict"], style=colours[goal["verdict"]])
        goals.add_row(name, goal["goal"], goal["middle"], goal["spread"], verdict)
    loads = Table(title="Each load and peer: medians (lowest to highest)")
    for column in ("load", "who", "a second", "p50 ms", "p99 ms", "CPU µs", "errors"):
        loads.add_column(column, justify="left" if column in ("load", "who") else "right")
    for load, peer, series in _series(found):
        spread = (
            f"{_middle(series, 'rps'):.0f} ({min(s['rps'] for s in series):.0f} to {max(s['rps'] for s in series):.0f})"
        )
        errors = str(sum(sample["errors"] for sample in series))
        figures = (
            f"{_middle(series, name):.{digits}f}" for name, digits in (("p50_ms", 2), ("p99_ms", 2), ("cpu_us", 0))
        )
        loads.add_row(load, peer, spread, *figures, errors)
    missing = [Text(f"not run: {what}: {why}", style="yellow") for what, why in found["missing"].items()]
    return Group(goals, loads, *missing)


def _title(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return (
        f"{found['rounds']} rounds of {found['seconds']} s; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; Python {found['versions']['python']}"
    )


def _series(found: dict[str, Any]) -> list[tuple[str, str, list[dict[str, float]]]]:
    return [(each["load"], each["peer"], list(each["rounds"].values())) for each in found["samples"]]


def _middle(series: list[dict[str, float]], name: str) -> float:
    return statistics.median(sample.get(name, 0.0) for sample in series)


def markdown(found: dict[str, Any]) -> str:
    """Returns the page's tables: the goals, then the requests per second of each peer."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    machine = found["machine"]
    shape = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB ({machine['system']})"
    how = f"{found['rounds']} interleaved rounds of {found['seconds']} s, medians"
    lines = [
        f"On {shape}, with the load generator and the upstream on the same cores: {how}. {versions}.",
        "",
        "| measure | goal | value | lowest to highest | |",
        "|---|---|---|---|---|",
    ]
    for goal in found["goals"]:
        note = f" ({goal['note']})" if goal["note"] else ""
        lines.append(
            f"| {goal['measure']}{note} | {goal['goal']} | {goal['middle']} | {goal['spread']} | {goal['verdict']} |"
        )
    loads = list(dict.fromkeys(load for load, _, _ in _series(found)))
    middles = {(load, peer): _middle(series, "rps") for load, peer, series in _series(found)}
    lines += ["", "| answers a second | " + " | ".join(loads) + " |", "|---|" + "---|" * len(loads)]
    what = {peer.name: f"{peer.name}: {peer.what}" for peer in PEERS}
    for name in dict.fromkeys(peer for _, peer, _ in _series(found)):
        cells = [f"{middles[load, name]:,.0f}" if (load, name) in middles else "–" for load in loads]
        lines.append(f"| {what.get(name, name)} | " + " | ".join(cells) + " |")
    cpu = {(load, peer): _middle(series, "cpu_us") for load, peer, series in _series(found)}
    if any(cpu.values()):
        lines += ["", "| CPU an answer, µs | " + " | ".join(loads) + " |", "|---|" + "---|" * len(loads)]
        for name in dict.fromkeys(peer for _, peer in cpu):
            cells = [f"{cpu[load, name]:,.0f}" if cpu.get((load, name)) else "–" for load in loads]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"Not run: {name}: {why}." for name, why in found["missing"].items())]
    return "\n".join(lines).rstrip() + "\n"


def published() -> str:
    """Returns the page's tables for the run that was published last; "" if there is none."""
    if not PUBLISHED.is_file():
        return ""
    return markdown(json.loads(PUBLISHED.read_text()))
