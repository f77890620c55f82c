"""``python3 tests/bench soak``: what grows over many requests of every kind: memory, descriptors, disk, time.

Rounds of wrk send answers, streams, wrong keys, damaged bodies and unknown paths, in turns; between them clients leave
streams that have begun. After each round the gateway's resident memory, its open descriptors, the size of its home and
its CPU (user and system, all threads) are read. Exit code 1 when its memory grew by more than ``--allow-mib`` after the
first tenth of the requests, in which caches fill, or descriptors were left open. Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.peers import PEERS, Running, start_server

_CONNECTIONS = 16
_ROUND_S = 5
_LEAVERS = 20
_HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello, who are you?"}]}

_SCRIPT = """
local kinds = {
  {"POST", "/v1/chat/completions", key, plain},
  {"POST", "/v1/chat/completions", key, streamed},
  {"POST", "/v1/chat/completions", key, plain},
  {"POST", "/v1/chat/completions", key, string.sub(plain, 1, -5)},
  {"POST", "/v1/chat/completions", "Bearer sk-nobody", plain},
  {"POST", "/v1/chat/completions", key, plain},
  {"POST", "/v1/nothing", key, plain},
  {"GET", "/v1/models", key, nil},
}
local turn = 0
request = function()
  turn = turn + 1
  local kind = kinds[turn % #kinds + 1]
  local headers = {["content-type"] = "application/json", ["authorization"] = kind[3]}
  return wrk.format(kind[1], kind[2], headers, kind[4])
end
done = function(summary)
  io.write("RESULT ", summary.requests, " ", summary.errors.connect + summary.errors.timeout, "\\n")
end
"""


@dataclass(frozen=True)
class Reading:
    requests: int
    rss_mib: float
    descriptors: int
    home_mib: float
    cpu_s: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--allow-mib", type=float, default=32.0, help="how much growth is taken for none")
    parser.add_argument("--quick", action="store_true", help="a smoke of some 2,000 requests; growth is not judged")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 1
    wanted = 2_000 if options.quick else options.requests
    with tempfile.TemporaryDirectory() as name:
        readings, failed = _soak(Path(name), wanted, 1 if options.quick else _ROUND_S)
    settled = next(reading for reading in readings if reading.requests >= wanted / 10)
    growth_mib = readings[-1].rss_mib - settled.rss_mib
    left_open = readings[-1].descriptors - settled.descriptors
    columns = ("requests", "resident memory, MiB", "descriptors", "home, bytes a request", "CPU, µs a request")
    table = Table(*columns, title=f"memory after the first tenth: {growth_mib:+.1f} MiB")
    shown = _some(readings)
    for before, reading in pairwise(shown):
        sent = reading.requests - before.requests
        table.add_row(
            f"{reading.requests:,}",
            f"{reading.rss_mib:.1f}",
            str(reading.descriptors),
            f"{(reading.home_mib - before.home_mib) * 2**20 / sent:,.0f}",
            f"{(reading.cpu_s - before.cpu_s) * 1e6 / sent:,.0f}",
        )
    Console().print(table)
    if failed:
        print(f"{failed} connections failed or timed out", file=sys.stderr)
    if options.quick:
        return 1 if failed else 0
    return 1 if failed or growth_mib > options.allow_mib or left_open > _LEAVERS else 0


def _soak(folder: Path, wanted: int, round_s: int) -> tuple[list[Reading], int]:
    """Readings from before the first request to the last, and how many connections failed."""
    upstream = start_server("upstream", folder)
    try:
        (start,) = (peer.start for peer in PEERS if peer.name == "trustgate")
        gateway = start(upstream.url, folder)
        try:
            readings = [_read(0, gateway, folder)]
            failed = 0
            while readings[-1].requests < wanted:
                sent, lost = _round(gateway, folder, round_s)
                for _ in range(_LEAVERS):
                    _leave_a_stream(gateway)
                readings.append(_read(readings[-1].requests + sent + _LEAVERS, gateway, folder))
                failed += lost
            return readings, failed
        finally:
            gateway.stop()
    finally:
        upstream.stop()


def _read(requests: int, gateway: Running, folder: Path) -> Reading:
    (database,) = folder.rglob("trustgate.duckdb")
    sizes = (path.stat().st_size for path in database.parent.rglob("*") if path.is_file())
    descriptors = sum(1 for _ in Path(f"/proc/{gateway.pid}/fd").iterdir())
    return Reading(requests, gateway.rss_mib(), descriptors, sum(sizes) / 2**20, gateway.cpu_s())


def _round(gateway: Running, folder: Path, seconds: int) -> tuple[int, int]:
    values = {
        "key": gateway.headers["authorization"],
        "plain": json.dumps(_HELLO),
        "streamed": json.dumps({**_HELLO, "stream": True}),
    }
    script = folder / "soak.lua"
    script.write_text("".join(f"local {name} = [==[{value}]==]\n" for name, value in values.items()) + _SCRIPT)
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), gateway.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line.split()[1:] for line in said.splitlines() if line.startswith("RESULT ")]
    assert found, f"wrk said {said!r}"
    return int(found[0][0]), int(found[0][1])


def _leave_a_stream(gateway: Running) -> None:
    """Read the beginning of a stream, and close."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    body = json.dumps({**_HELLO, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: {gateway.headers['authorization']}\r\n"
    )
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        connection.recv(100)


def _some(readings: list[Reading]) -> list[Reading]:
    """Some ten of them, the first and the last among them."""
    step = max(1, len(readings) // 10)
    return [*readings[:-1:step], readings[-1]]


if __name__ == "__main__":
    raise SystemExit(main())
