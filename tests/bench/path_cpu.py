"""``python -m tests.bench.path_cpu``: the CPU of a request, without sockets, a load generator or an upstream around it.

The gateway runs in this process with its store, its journal and its upkeep. In place of sockets its connections have
transports that give it the next request as soon as an answer is written, and in place of an upstream one that answers
as soon as it is asked. What is counted is the event loop's thread, best of many short spells, and the whole process on
average: both are steady on a machine that others use, where requests a second are not. Calls of functions are counted
besides, which depend on no machine at all. The floor (``tests.bench.floor``) is measured in the same way beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import uvloop

from tests.bench import floor
from tests.bench.load import MESSAGES
from tests.bench.peers import MODEL
from tests.bench.servers import Upstream
from trustgate.admin.commands import Admin, TenantAdd
from trustgate.errors import TrustGateError
from trustgate.http import listener
from trustgate.http.door import Door
from trustgate.http.http1 import Connection
from trustgate.models.upstream import transport as upstream_transport
from trustgate.models.upstream.protocol import UpstreamProtocol
from trustgate.server import serve
from trustgate.server.run import run_loop
from trustgate.settings import load_settings
from trustgate.types import Receipt

#: How the head of the floor's streams ends, which looks like the end of a body.
_HEAD_OF_STREAM = b"rcpt_0\r\n\r\n"
_TURNS_APART = 2
#: Requests in a spell, whose shortest time counts: a few milliseconds, in which others seldom disturb.
_SPELL = 40


class Line:
    """A transport to a peer that answers at once: what is written goes to ``hear``, a piece at a time."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        # Whether a kept connection is still open is asked of the system.
        self._socket, self._other = socket.socketpair()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else ("127.0.0.1", 1) if name.endswith("name") else default

    def write(self, data: bytes) -> None:
        self._hear(data)

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    def resume_reading(self) -> None:
        """As above."""

    def close(self) -> None:
        self._socket.close()
        self._other.close()

    abort = close


class Clients:
    """Connections that each ask again as soon as they are answered."""

    def __init__(self, connect: Callable[[], asyncio.Protocol], request: bytes, connections: int, ends: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._request, self._ends = request, ends
        self._left = 0
        self._under_way = 0
        self._done: asyncio.Future[None] | None = None
        self._ask = [self._open(connect()) for _ in range(connections)]

    def _open(self, protocol: asyncio.Protocol) -> Callable[[], None]:
        def ask() -> None:
            self._under_way += 1
            protocol.data_received(self._request)

        def hear(data: bytes) -> None:
            if data[:9] == b"HTTP/1.1 " and data[9:12] != b"200":
                raise SystemExit(f"answered with {data[:600]!r}")
            if data.endswith(self._ends) and not data.endswith(_HEAD_OF_STREAM):
                self._under_way -= 1
                if self._left:
                    self._left -= 1
                    self._loop.call_soon(ask)
                elif not self._under_way and self._done is not None:
                    self._done.set_result(None)

        protocol.connection_made(cast("asyncio.BaseTransport", Line(hear)))
        return ask

    async def send(self, count: int) -> None:
        """Send so many requests, and wait for their answers."""
        self._done = self._loop.create_future()
        self._left = count - len(self._ask)
        for ask in self._ask:
            self._loop.call_soon(ask)
        await self._done


def _upstream_lines(protocol: asyncio.Protocol, answer: list[bytes], *, apart: bool) -> Line:
    """``apart``: each piece of an answer comes some turns of the loop behind the one before, as a model's do."""
    loop = asyncio.get_running_loop()

    def hear_all(data: bytes) -> None:
        for piece in answer:
            loop.call_soon(protocol.data_received, piece)

    def hear(data: bytes) -> None:
        loop.call_soon(step, iter(answer), 0)

    def step(pieces: Iterator[bytes], turns: int) -> None:
        if turns:
            loop.call_soon(step, pieces, turns - 1)
        elif (piece := next(pieces, None)) is not None:
            protocol.data_received(piece)
            loop.call_soon(step, pieces, _TURNS_APART)

    return Line(hear if apart else hear_all)


class _Lease(upstream_transport._Lease):
    """A connection of the pool without a connector."""


class _Unconnected:
    def __init__(self, protocol: UpstreamProtocol) -> None:
        self.protocol = protocol

    def close(self) -> None:
        """Nothing is behind it."""

    release = close


class _Ready:
    """Hears that the gateway listens."""

    def __init__(self) -> None:
        self.admin: asyncio.Future[Admin] = asyncio.get_running_loop().create_future()

    def on_ready(self, address: str, admin: Admin) -> None:
        self.admin.set_result(admin)

    def on_receipt(self, receipt: Receipt) -> None:
        """Nothing to do."""

    def on_refusal(self, error: TrustGateError, endpoint: str, receipt_id: str) -> None:
        """Nothing to do."""


def _request(key: str, *, stream: bool) -> bytes:
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": stream}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )


def _answer(*, stream: bool) -> list[bytes]:
    return list(Upstream.streams[True]) if stream else [Upstream.answer]


class Figures:
    """What was measured of one server, microseconds a request."""

    def __init__(self) -> None:
        self.loop_us: list[float] = []
        self.process_us: list[float] = []
        #: Of the process, the part of its other threads: the store's, the journal's upkeep.
        self.others_us: list[float] = []
        self.calls = 0.0

    def shown(self, name: str) -> str:
        if not self.loop_us:
            return name
        best, middle = min(self.loop_us), statistics.median(self.loop_us)
        whole, others = statistics.median(self.process_us), statistics.median(self.others_us)
        return (
            f"{name:10} loop {best:7.2f} (median {middle:7.2f})  process {whole:7.1f}  others {others:6.1f}  "
            f"calls {self.calls:7.1f}"
        )


async def _measure(clients: Clients, options: argparse.Namespace) -> Figures:
    figures = Figures()
    spell = max(options.connections, _SPELL // (5 if options.stream else 1))
    await clients.send(20 * spell)
    if options.requests:
        await clients.send(options.requests)
        return figures
    for _ in range(options.rounds):
        began, loop_began, asked = time.process_time(), time.thread_time(), 0
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            before = time.thread_time()
            await clients.send(spell)
            figures.loop_us.append((time.thread_time() - before) / spell * 1e6)
            asked += spell
        process_s, loop_s = time.process_time() - began, time.thread_time() - loop_began
        figures.process_us.append(process_s / asked * 1e6)
        figures.others_us.append((process_s - loop_s) / asked * 1e6)
    profile = cProfile.Profile()
    profile.enable()
    await clients.send(spell)
    profile.disable()
    stats = pstats.Stats(profile)
    total: Any = stats
    figures.calls = total.total_calls / spell
    if options.profile:
        total.sort_stats(options.sort).print_stats(options.profile)
    return figures


def _no_connection(loop: asyncio.AbstractEventLoop, answer: list[bytes], *, apart: bool) -> Any:
    """Returns what stands in for ``Network._connect``: a connection to an upstream that answers at once."""

    async def connect(network: Any, host: Any) -> Any:
        protocol = UpstreamProtocol(loop)
        protocol.connection_made(cast("asyncio.BaseTransport", _upstream_lines(protocol, answer, apart=apart)))
        unconnected: Any = _Unconnected(protocol)
        return _Lease(unconnected, host)

    return connect


async def measure_gateway(home: Path, options: argparse.Namespace) -> Figures:
    """Measure the whole path."""
    loop = asyncio.get_running_loop()
    doors: list[Door] = []

    async def listen(app: Any, public: socket.socket, stop: asyncio.Event, **others: Any) -> None:
        doors.append(Door(app, lambda _: None, others["timeouts"], others.get("shed")))
        await stop.wait()

    network: Any = upstream_transport.Network
    network._connect = _no_connection(loop, _answer(stream=options.stream), apart=options.apart)
    of_listeners: Any = listener
    of_listeners.listen = listen
    settings = load_settings(
        home, {"serve.port": 0, "upstream.url": "http://127.0.0.1:1/v1", "upstream.health_interval_s": 3600}
    )
    ready, stop = _Ready(), asyncio.Event()
    serving = asyncio.ensure_future(serve(settings, stop=stop, observer=ready))
    # A server that cannot start ends the wait as well.
    serving.add_done_callback(lambda _: ready.admin.cancel() if not ready.admin.done() else None)
    admin = await ready.admin
    secret = (await admin.execute(TenantAdd(name="bench", plan="internal"))).secret
    await asyncio.sleep(0)
    # The public door is made first.
    request = _request(secret, stream=options.stream)
    clients = Clients(lambda: Connection(doors[0]), request, options.connections, _end(options))
    figures = await _measure(clients, options)
    stop.set()
    await serving
    return figures


def _end(options: argparse.Namespace) -> bytes:
    return b"0\r\n\r\n" if options.stream else b"}"


async def measure_floor(options: argparse.Namespace) -> Figures:
    """Measure the sketch."""
    server = floor.Floor("http://127.0.0.1:1")
    for _ in range(options.connections):
        upstream = floor._Upstream(server)
        line = _upstream_lines(upstream, _answer(stream=options.stream), apart=options.apart)
        upstream.connection_made(cast("asyncio.BaseTransport", line))
        server.idle.append(upstream)
    request = _request("sk-tg-0123456789abcdef0123456789abcdef0123456789abcdef", stream=options.stream)
    return await _measure(Clients(lambda: floor._Client(server), request, options.connections, _end(options)), options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a round takes (default: 2)")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--stream", action="store_true", help="streams of a hundred frames")
    parser.add_argument("--apart", action="store_true", help="each frame comes by itself")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="show the N functions that cost most")
    parser.add_argument("--requests", type=int, default=0, metavar="N", help="send N alone, for a tool that counts")
    parser.add_argument("--sort", default="tottime", help="by what they are sorted: tottime, ncalls, …")
    parser.add_argument("--floor", action="store_true", help="the floor too")
    options = parser.parse_args()
    if options.floor:
        print(uvloop.run(measure_floor(options)).shown("floor"))
    with tempfile.TemporaryDirectory(prefix="trustgate-bench-") as folder:
        print(run_loop(measure_gateway(Path(folder), options)).shown("trustgate"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
