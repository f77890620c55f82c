"""``python3 tests/bench frames``: what the gateway adds to the way of one frame of a stream.

An upstream writes the time into each frame that it sends, at a steady pace; a client notes when it has the frame. The
same streams are read from the upstream directly and through the gateway, in turns; the difference is what is added.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench.peers import PEERS
from tests.environments import ROOT
from tests.support.processes import Process, clean_environment, free_port, wait_until

FRAMES = 100
_PACE_S = 0.01
_STAMP = re.compile(rb'"content":"(\d+)"')
_BODY = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench frames", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64], help="how many at the same time")
    parser.add_argument("--quick", action="store_true", help="one round of one stream")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream is not None:
        uvloop.run(_serve(options.upstream))
        return 0
    if options.quick:
        options.rounds, options.streams = 1, [1]
    with tempfile.TemporaryDirectory() as name:
        table = _measure(Path(name), options.rounds, options.streams)
    Console().print(table)
    return 0


def _measure(folder: Path, rounds: int, streams: list[int]) -> Table:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.frames", "--upstream", str(port)]
    upstream = Process("upstream", command, ROOT, clean_environment(), folder / "upstream.log")
    try:
        wait_until(lambda: _is_open(port), "the upstream")
        (start,) = (peer.start for peer in PEERS if peer.name == "trustgate")
        gateway = start(f"http://127.0.0.1:{port}", folder)
        try:
            table = Table("streams", "way", "frames", "p50 ms", "p99 ms", title=f"a frame every {_PACE_S * 1000:g} ms")
            for count in streams:
                direct: list[float] = []
                through: list[float] = []
                for _ in range(rounds):
                    direct += uvloop.run(_read(port, {}, count))
                    through += uvloop.run(_read(int(gateway.url.rpartition(":")[2]), gateway.headers, count))
                for way, delays in (("direct", direct), ("gateway", through)):
                    table.add_row(str(count), way, str(len(delays)), *(f"{one:.3f}" for one in _quantiles(delays)))
                added = (mine - other for mine, other in zip(_quantiles(through), _quantiles(direct), strict=True))
                table.add_row("", "added", "", *(f"{one:+.3f}" for one in added), end_section=True)
            return table
        finally:
            gateway.stop()
    finally:
        upstream.signal(9)
        upstream.wait()


def _quantiles(delays: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, milliseconds."""
    return statistics.median(delays), statistics.quantiles(delays, n=100)[98]


async def _read(port: int, headers: Mapping[str, str], count: int) -> list[float]:
    """The delays of the frames of ``count`` streams at the same time, milliseconds."""
    return [
        delay for delays in await asyncio.gather(*(_stream(port, headers) for _ in range(count))) for delay in delays
    ]


async def _stream(port: int, headers: Mapping[str, str]) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(_BODY).encode()
    further = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{further}content-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    delays = []
    while chunk := await reader.read(65536):
        now_ns = time.monotonic_ns()
        delays += [(now_ns - int(found[1])) / 1e6 for found in _STAMP.finditer(chunk)]
    writer.close()
    assert len(delays) == FRAMES, f"{len(delays)} frames came, not {FRAMES}"
    return delays


# the upstream


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    send: Callable[[bytes], None] = lambda data: writer.write(b"%x\r\n%b\r\n" % (len(data), data))  # noqa: E731
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(
                b'HTTP/1.1 200 OK\r\ncontent-length: 27\r\nconnection: close\r\n\r\n{"object":"list","data":[]}'
            )
            return
        length = re.search(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n")
        writer.write(b"connection: close\r\n\r\n")
        for _ in range(FRAMES):
            send(_frame(f'{{"content":"{time.monotonic_ns()}"}}', "null"))
            await asyncio.sleep(_PACE_S)
        send(_frame("{}", '"stop"') + b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def _frame(delta: str, finish_reason: str) -> bytes:
    choice = f'{{"index":0,"delta":{delta},"finish_reason":{finish_reason}}}'
    about = '"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini"'
    return f'data: {{{about},"choices":[{choice}]}}\n\n'.encode()


def _is_open(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    raise SystemExit(main())
