"""Load: wrk for requests as fast as they go, and a client of our own for many slow streams, which wrk cannot time.

``python -m tests.bench.load URL STREAMS CHUNKS KEY`` opens that many streams and prints one JSON line: how many were
complete, and how long after its sending each chunk was here.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from tests.bench.peers import MODEL, Running
from tests.environments import ROOT

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


@dataclass(frozen=True)
class Sample:
    """What wrk saw in one round: answers a second, latency in ms, requests that did not end in 200.

    ``cpu_us``: what the server used of processors for each answer, microseconds; 0: not known.
    """

    rps: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float = 0.0


_WRK_DONE = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(server: Running, load: Load, seconds: int, folder: Path) -> Sample:
    """Ask as fast as it answers, for so many seconds."""
    headers = {"content-type": "application/json", **server.headers}
    lines = ['wrk.method = "POST"', f"wrk.body = [==[{load.body}]==]"]
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    script = folder / "wrk.lua"
    script.write_text("\n".join([*lines, _WRK_DONE]))
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    url = f"{server.url}/v1/chat/completions"
    before_s = server.cpu_s()
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    used_s = server.cpu_s() - before_s
    found = [line.split()[1:] for line in said.splitlines() if line.startswith("RESULT ")]
    assert found, f"wrk said {said!r}"
    requests, duration_us, p50_ms, p99_ms, errors = (float(value) for value in found[0])
    return Sample(requests / duration_us * 1e6, p50_ms, p99_ms, int(errors), used_s / max(requests, 1) * 1e6)


# ------------------------------------------------------------------------------------------------ slow streams


@dataclass(frozen=True)
class Slow:
    """Of many slow streams at once: complete ones, and the chunks' delays from the upstream's hand to the client's.

    ``at_once``: the most that had begun and not ended at the same time.
    """

    streams: int
    complete: int
    at_once: int
    p50_ms: float
    p99_ms: float


def slow_streams(server: Running, streams: int, chunks: int) -> Slow:
    key = server.headers.get("authorization", "")
    command = [sys.executable, "-m", "tests.bench.load", server.url, str(streams), str(chunks), key]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    return Slow(**json.loads(said))


#: When a chunk was sent: the monotonic clock, nanoseconds, which all processes share.
_STAMP = re.compile(rb"<<(\d+)>>")


class _Stream(asyncio.Protocol):
    """One stream of the client: notes when each chunk, which holds the time of its sending, has come."""

    def __init__(
        self, request: bytes, delays_ms: list[float], ended: asyncio.Future[bool], begun: Callable[[], object]
    ) -> None:
        self._request = request
        self._begun: Callable[[], object] | None = begun
        self._delays_ms = delays_ms
        self._ended = ended
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if self._begun is not None:
            self._begun()
            self._begun = None
        data = self._tail + data
        end = 0
        for stamp in _STAMP.finditer(data):
            self._delays_ms.append((now_ns - int(stamp[1])) / 1e6)
            end = stamp.end()
        # A stamp, or the last word, may be cut in two.
        self._tail = data[max(end, len(data) - 40) :]
        if b"[DONE]" in data:
            self._end(complete=True)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(complete=False)

    def _end(self, *, complete: bool) -> None:
        if not self._ended.done():
            self._ended.set_result(complete)


async def _ask_slowly(url: str, streams: int, chunks: int, key: str) -> Slow:
    loop = asyncio.get_running_loop()
    place = urlsplit(url)
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True, "seed": chunks, "user": "slow"}).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (key.encode() or b"none", len(body), body)
    )
    delays_ms: list[float] = []
    endings = [loop.create_future() for _ in range(streams)]
    running = at_once = 0

    def begun(ended: asyncio.Future[bool]) -> None:
        nonlocal running, at_once
        running += 1
        at_once = max(at_once, running)
        ended.add_done_callback(over)

    def over(_: asyncio.Future[bool]) -> None:
        nonlocal running
        running -= 1

    transports = []
    for ended in endings:
        transport, _ = await loop.create_connection(
            lambda ended=ended: _Stream(request, delays_ms, ended, partial(begun, ended)),  # type: ignore[misc]
            place.hostname or "127.0.0.1",
            place.port or 80,
        )
        transports.append(transport)
    complete = sum(await asyncio.wait_for(asyncio.gather(*endings), 240))
    for transport in transports:
        transport.close()
    delays_ms.sort()
    assert len(delays_ms) >= complete * chunks * 0.9, f"only {len(delays_ms)} chunks were seen"
    p50_ms, p99_ms = (delays_ms[int(len(delays_ms) * share)] for share in (0.5, 0.99))
    return Slow(streams, complete, at_once, p50_ms, p99_ms)


if __name__ == "__main__":
    import uvloop

    result = uvloop.run(_ask_slowly(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    print(json.dumps(result.__dict__))
