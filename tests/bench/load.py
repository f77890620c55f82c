"""Load: wrk for requests as fast as they go, and a client of our own for many slow streams, which wrk cannot time.

``python -m tests.bench.load URL STREAMS CHUNKS KEY`` opens that many streams and prints one JSON line: how many were
complete, and how long after its sending each chunk was here.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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

    ``at_once``: the most that had begun and not ended at the same time. The percentiles are of the chunks that came
    while all were under way, ``whole_p99_ms`` of all: to open a thousand connections at once is another load.
    ``cpu_us``: what the server used of processors for each chunk, microseconds, beginnings and ends included. Where the
    chunks of a second take it nearly a second, the delays are those of a queue that hardly empties, and they wander.
    """

    streams: int
    complete: int
    at_once: int
    p50_ms: float
    p99_ms: float
    whole_p99_ms: float
    cpu_us: float = 0.0


def slow_streams(server: Running, streams: int, chunks: int) -> Slow:
    key = server.headers.get("authorization", "")
    command = [sys.executable, "-m", "tests.bench.load", server.url, str(streams), str(chunks), key]
    before_s = server.cpu_s()
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    cpu_us = (server.cpu_s() - before_s) / (streams * chunks) * 1e6
    return replace(Slow(**json.loads(said)), cpu_us=cpu_us)


class _Stream(asyncio.Protocol):
    """One stream of the client: notes when each chunk has come, and how long it was under way.

    A chunk holds the time of its sending by the monotonic clock, which all processes share: ``<<nanoseconds>>``. What
    this costs is taken from the server's processors, and so it is little.
    """

    def __init__(
        self,
        request: bytes,
        came_ns: array[int],
        took_ns: array[int],
        ended: asyncio.Future[bool],
        begun: Callable[[], object],
    ) -> None:
        self._request = request
        self._begun: Callable[[], object] | None = begun
        self._came_ns, self._took_ns = came_ns, took_ns
        self._ended = ended
        #: A chunk that is cut in two.
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if self._begun is not None:
            self._begun()
            self._begun = None
        if self._tail:
            data, self._tail = self._tail + data, b""
        at = data.find(b"<<")
        while at >= 0 and (end := data.find(b">>", at)) > 0:
            self._came_ns.append(now_ns)
            self._took_ns.append(now_ns - int(data[at + 2 : end]))
            at = data.find(b"<<", end)
        if at >= 0 or data[-2:] != b"\r\n":
            self._tail = data[max(at, data.rfind(b">>") + 2) :]
        if data.find(b"[DONE]", -64) >= 0:
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
    came_ns, took_ns = array("q"), array("q")
    endings = [loop.create_future() for _ in range(streams)]
    running = at_once = last_begun_ns = first_ended_ns = 0

    def begun(ended: asyncio.Future[bool]) -> None:
        nonlocal running, at_once, last_begun_ns
        running += 1
        at_once = max(at_once, running)
        last_begun_ns = time.monotonic_ns()
        ended.add_done_callback(over)

    def over(_: asyncio.Future[bool]) -> None:
        nonlocal running, first_ended_ns
        running -= 1
        first_ended_ns = first_ended_ns or time.monotonic_ns()

    transports = []
    for ended in endings:
        transport, _ = await loop.create_connection(
            lambda ended=ended: _Stream(request, came_ns, took_ns, ended, partial(begun, ended)),  # type: ignore[misc]
            place.hostname or "127.0.0.1",
            place.port or 80,
        )
        transports.append(transport)
    complete = sum(await asyncio.wait_for(asyncio.gather(*endings), 240))
    for transport in transports:
        transport.close()
    assert len(took_ns) >= complete * chunks * 0.9, f"only {len(took_ns)} chunks were seen"
    amid = [took for came, took in zip(came_ns, took_ns, strict=True) if last_begun_ns < came < first_ended_ns]
    # Where the first had ended before the last began, there is no such time.
    p50_ms, p99_ms = _percentiles(amid or took_ns)
    return Slow(streams, complete, at_once, p50_ms, p99_ms, _percentiles(took_ns)[1])


def _percentiles(took_ns: Sequence[int]) -> tuple[float, float]:
    """Returns the median and the 99th percentile, milliseconds."""
    ordered = sorted(took_ns)
    p50_ms, p99_ms = (ordered[int(len(ordered) * share)] / 1e6 for share in (0.5, 0.99))
    return p50_ms, p99_ms


if __name__ == "__main__":
    import uvloop

    result = uvloop.run(_ask_slowly(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    print(json.dumps(asdict(result)))
