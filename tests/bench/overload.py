"""``python3 tests/bench overload``: what the gateway does when more is asked of it than it can serve.

First its peak: as many clients as it has slots for a tenant, each with one request after the other. Then three times as
much, in three ways: a closed loop (three times the clients; one that is refused waits a moment and sends again), an
open loop (three times the requests a second, sent at their time whatever has become of those before), and a crowd of
clients that open a connection for each request and come again at once whatever they got; beside that stands the peak
of such clients, as a connection is work too. The peak is measured before and after each, and their mean taken: over
some hundred thousand requests it falls by a tenth by itself. Printed for each: goodput (answers a second) beside the
peak, how long refusals and ``/health`` took, memory; at last, whether the peak is reached again.

How long they took is measured by a client of its own that asks a few times a second and does nothing else: what sends
thousands of requests a second is late itself, and would tell of its own queue. Exit code 1 when a goal is missed;
``--quick`` judges none but that it answers and refuses.

What has no room waits for a moment, and where its client had an answer just before for longer, so that refusals take
no more than their share of the loop's time (``http.refusals``); an open loop sends at once on connections that have
just become free. Requests that found none of them free count as unsent: the gateway never had them.

What the gateway, the upstream and the load use of processors stands beside it: where they share the cores (they do
without ``--pin``), an answer fewer may be one that the load's own work has left no time for.

``python -m tests.bench.overload --load JSON`` is the client, a process of its own; it prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench import cores
from tests.bench.load import Load
from tests.bench.peers import Running, start_gateway, start_server
from tests.environments import ROOT

#: The gateway's slots, few so that they are full soon; and how many of them one tenant gets.
_SLOTS: Final = 40
_TENANT_SLOTS: Final = _SLOTS * 4 // 5
_TIMES: Final = 3
#: The clients with a connection for each request.
_CROWD: Final = 800
#: By a part's name: the parts beside it whose goodput is its peak.
_PEAKS: Final = {"closed loop": "peak", "open loop": "peak", "crowd": "reconnecting"}
#: How long a client waits that was refused, and how often ``/health`` is asked, seconds.
_PAUSE_S: Final = 0.1
_HEALTH_EVERY_S: Final = 0.02
#: The client that measures: its connections, and how long each waits after an answer, seconds.
_PROBES: Final = 6
_PROBE_PAUSE_S: Final = 0.04
#: An open loop opens at most so many connections; what finds none free is counted as not sent.
_MOST_CONNECTIONS: Final = 400

GOODPUT_LEAST, REFUSAL_P99_MOST_MS, HEALTH_P99_MOST_MS = 0.9, 50.0, 250.0


class Plan(msgspec.Struct, frozen=True):
    """What a client does: ``clients`` in a closed loop, or ``rate`` requests a second in an open one; or it probes."""

    url: str
    authorization: str
    seconds: float
    clients: int = 0
    rate: float = 0.0
    probes: bool = False
    #: Each request gets a connection of its own; there is no pause after a refusal.
    reconnects: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What came of it: answers a second, refusals a second, latencies in milliseconds."""

    answered_rps: float
    refused_rps: float
    answered_p99_ms: float
    refused_p99_ms: float
    health_p99_ms: float
    #: Neither answered nor refused with 503: there must be none.
    failed: int
    unsent: int
    #: What the client itself used of processors, seconds.
    cpu_s: float


# the client


class _Connection(asyncio.Protocol):
    """One connection; ``ask`` sends a request, ``on_answer`` is called with its status and how long it took."""

    def __init__(self, request: bytes, on_answer: Callable[[_Connection, int, float], None]) -> None:
        self._request = request
        self._on_answer = on_answer
        self._received = b""
        self._since: float | None = None
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        self._since = self._loop.time()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        self._received = b""
        self._end(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self._end(0)

    def _end(self, status: int) -> None:
        since, self._since = self._since, None
        if since is not None:
            self._on_answer(self, status, self._loop.time() - since)


class _Client:
    def __init__(self, plan: Plan) -> None:
        place = urlsplit(plan.url)
        body = Load(1, stream=False).body.encode()
        self._plan = plan
        self._place = (place.hostname or "127.0.0.1", place.port or 80)
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        ) % (plan.authorization.encode(), len(body), body)
        self._loop = asyncio.get_running_loop()
        self._took: dict[int, list[float]] = {200: [], 503: []}
        self._health: list[float] = []
        self._failed = self._unsent = self._opened = 0
        self._idle: deque[_Connection] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._stops = False

    async def run(self) -> Outcome:
        if self._plan.probes:
            health = await self._connect(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", self._on_health)
            health.ask()
            await self._closed(_PROBES)
        else:
            await (self._closed(self._plan.clients) if self._plan.clients else self._open())
        self._stops = True
        for task in self._opening:
            task.cancel()
        answered, refused = self._took[200], self._took[503]
        return Outcome(
            answered_rps=len(answered) / self._plan.seconds,
            refused_rps=len(refused) / self._plan.seconds,
            answered_p99_ms=_p99_ms(answered),
            refused_p99_ms=_p99_ms(refused),
            health_p99_ms=_p99_ms(self._health),
            failed=self._failed,
            unsent=self._unsent,
            cpu_s=time.process_time(),
        )

    async def _connect(self, request: bytes, on_answer: Callable[[_Connection, int, float], None]) -> _Connection:
        _, connection = await self._loop.create_connection(lambda: _Connection(request, on_answer), *self._place)
        return connection

    async def _closed(self, clients: int) -> None:
        for _ in range(clients):
            await self._ask_first()
        await asyncio.sleep(self._plan.seconds)

    async def _ask_first(self) -> None:
        (await self._connect(self._request, self._ask_again)).ask()

    def _ask_again(self, connection: _Connection, status: int, took_s: float) -> None:
        self._note(status, took_s)
        if not status or self._stops:
            return
        if self._plan.reconnects:
            connection.transport.close()
            task = self._loop.create_task(self._ask_first())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        elif self._plan.probes:
            self._loop.call_later(_PROBE_PAUSE_S, connection.ask)
        elif status == 200:
            connection.ask()
        else:
            self._loop.call_later(_PAUSE_S, connection.ask)

    async def _open(self) -> None:
        began = self._loop.time()
        sent = 0
        while (now := self._loop.time() - began) < self._plan.seconds:
            for _ in range(int(now * self._plan.rate) - sent):
                sent += 1
                if self._idle:
                    self._idle.pop().ask()
                elif self._opened < _MOST_CONNECTIONS:
                    self._opened += 1
                    task = asyncio.create_task(self._ask_on_new())
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
                else:
                    self._unsent += 1
            await asyncio.sleep(0.002)

    async def _ask_on_new(self) -> None:
        (await self._connect(self._request, self._set_free)).ask()

    def _set_free(self, connection: _Connection, status: int, took_s: float) -> None:
        self._note(status, took_s)
        if status:
            self._idle.append(connection)
        else:
            self._opened -= 1

    def _on_health(self, connection: _Connection, status: int, took_s: float) -> None:
        self._health.append(took_s)
        self._failed += status != 200
        if not self._stops:
            self._loop.call_later(_HEALTH_EVERY_S, connection.ask)

    def _note(self, status: int, took_s: float) -> None:
        if self._stops:
            return
        if status in self._took:
            self._took[status].append(took_s)
        else:
            self._failed += 1


def _p99_ms(took_s: list[float]) -> float:
    return sorted(took_s)[len(took_s) * 99 // 100] * 1000 if took_s else 0.0


# the measurement


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part")
    parser.add_argument("--quick", action="store_true", help="a smoke of a second each; no goal is judged")
    cores.add_option(parser)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load is not None:
        plan = msgspec.json.decode(options.load, type=Plan)
        print(msgspec.json.encode(uvloop.run(_ask(plan))).decode())
        return 0
    pinned = cores.wanted(options)
    with tempfile.TemporaryDirectory() as name:
        missed = _measure(Path(name), 1.0 if options.quick else options.seconds, pinned, judges=not options.quick)
    for goal in missed:
        print(f"missed: {goal}", file=sys.stderr)
    return 1 if missed else 0


async def _ask(plan: Plan) -> Outcome:
    return await _Client(plan).run()


def _measure(folder: Path, seconds: float, pinned: cores.Cores | None, *, judges: bool) -> list[str]:
    """Prints the table; gives what was missed."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "trustgate.toml").write_text(f"[serve]\nmax_concurrent_requests = {_SLOTS}\n")
    upstream = start_server("upstream", folder)
    try:
        gateway = start_gateway(upstream.url, home)
        try:
            if pinned is not None:
                cores.pin(gateway.pid, pinned.server)
                cores.pin(upstream.pid, pinned.upstream)
            rows = _parts(gateway, upstream, seconds)
        finally:
            gateway.stop()
    finally:
        upstream.stop()
    columns = ("", "answers/s", "refusals/s", "answer p99", "refusal p99", "/health p99", "failed", "unsent", "MiB")
    where = "unpinned" if pinned is None else "pinned"
    title = f"{_TIMES} × overload, {_SLOTS} slots, milliseconds, {where}; at last cores used by gateway, upstream, load"
    table = Table(*columns, "gw", "up", "load", "per core", title=title)
    for row in rows:
        outcome = row.outcome
        figures = (outcome.answered_rps, outcome.refused_rps, outcome.answered_p99_ms, outcome.refused_p99_ms)
        shown = [f"{figure:,.0f}" for figure in (*figures, outcome.health_p99_ms)]
        used = [*(f"{share:.2f}" for share in row.cores), f"{row.answered_per_core:,.0f}"]
        table.add_row(row.name, *shown, str(outcome.failed), str(outcome.unsent), f"{row.rss_mib:.0f}", *used)
    Console(width=140).print(table)
    print("of the peak: " + ", ".join(f"{name} {share:.2f}" for name, share in _shares(rows)))
    return [*_broken(rows), *(_missed(rows) if judges else ())]


class Row(NamedTuple):
    """What came of one part."""

    name: str
    outcome: Outcome
    rss_mib: float
    #: What gateway, upstream and load used of processors, cores.
    cores: tuple[float, float, float]

    @property
    def answered_per_core(self) -> float:
        """Answers for each second of a processor that the gateway used: steady where others use the machine too."""
        return self.outcome.answered_rps / self.cores[0] if self.cores[0] else 0.0


def _parts(gateway: Running, upstream: Running, seconds: float) -> list[Row]:
    def part(name: str, *, clients: int = 0, rate: float = 0.0, reconnects: bool = False) -> Row:
        plans = [
            Plan(gateway.url, gateway.headers["authorization"], seconds, clients, rate, reconnects=reconnects),
            Plan(gateway.url, gateway.headers["authorization"], seconds, probes=True),
        ]
        before_s = (gateway.cpu_s(), upstream.cpu_s())
        running = [subprocess.Popen(_load_command(plan), cwd=ROOT, stdout=subprocess.PIPE) for plan in plans]
        load, probe = (msgspec.json.decode(process.communicate(timeout=600)[0], type=Outcome) for process in running)
        together = msgspec.structs.replace(
            probe,
            answered_rps=load.answered_rps + probe.answered_rps,
            refused_rps=load.refused_rps + probe.refused_rps,
            answered_p99_ms=probe.answered_p99_ms,
            failed=load.failed + probe.failed,
            unsent=load.unsent,
        )
        used_s = (gateway.cpu_s() - before_s[0], upstream.cpu_s() - before_s[1], load.cpu_s + probe.cpu_s)
        return Row(name, together, gateway.rss_mib(), (used_s[0] / seconds, used_s[1] / seconds, used_s[2] / seconds))

    part("warm up", clients=_TENANT_SLOTS)
    peak = part("peak", clients=_TENANT_SLOTS)
    return [
        peak,
        part("closed loop", clients=_TIMES * _TENANT_SLOTS),
        part("peak", clients=_TENANT_SLOTS),
        part("open loop", rate=_TIMES * peak.outcome.answered_rps),
        part("peak", clients=_TENANT_SLOTS),
        part("reconnecting", clients=_TENANT_SLOTS, reconnects=True),
        part("crowd", clients=_CROWD, reconnects=True),
        part("reconnecting", clients=_TENANT_SLOTS, reconnects=True),
        part("peak", clients=_TENANT_SLOTS),
    ]


def _load_command(plan: Plan) -> list[str]:
    return [sys.executable, "-m", "tests.bench.overload", "--load", msgspec.json.encode(plan).decode()]


def _broken(rows: list[Row]) -> list[str]:
    """What must hold on any machine."""
    found = [f"{row.name}: {row.outcome.failed} requests failed" for row in rows if row.outcome.failed]
    found += [f"{row.name}: nothing was answered" for row in rows if not row.outcome.answered_rps]
    # Where a request waits for room instead, a loop may have no refusal; a crowd does.
    return found + ([] if any(row.outcome.refused_rps for row in rows) else ["nothing was refused"])


def _shares(rows: list[Row]) -> list[tuple[str, float]]:
    """Returns, for each part under overload, its goodput as a share of the peak's; at last the peak's own recovery."""
    shares = []
    for before, row, after in zip(rows, rows[1:], rows[2:], strict=False):
        if row.name in _PEAKS:
            assert before.name == after.name == _PEAKS[row.name]
            mean = (before.outcome.answered_rps + after.outcome.answered_rps) / 2
            shares.append((row.name, row.outcome.answered_rps / mean))
    peaks = [row.outcome.answered_rps for row in rows if row.name == "peak"]
    return [*shares, ("afterwards", peaks[-1] / peaks[-2])]


def _missed(rows: list[Row]) -> list[str]:
    peak_mib = rows[0].rss_mib
    found = [f"{name}: goodput is {share:.2f} of the peak" for name, share in _shares(rows) if share < GOODPUT_LEAST]
    for name, outcome, rss_mib, _ in rows[1:]:
        if outcome.refused_p99_ms > REFUSAL_P99_MOST_MS:
            found.append(f"{name}: refusals take {outcome.refused_p99_ms:.0f} ms, not {REFUSAL_P99_MOST_MS:.0f}")
        if outcome.health_p99_ms > HEALTH_P99_MOST_MS:
            found.append(f"{name}: /health takes {outcome.health_p99_ms:.0f} ms, not {HEALTH_P99_MOST_MS:.0f}")
        if rss_mib > peak_mib + 64:
            found.append(f"{name}: memory grew by {rss_mib - peak_mib:.0f} MiB")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
