"""``python3 tests/bench hostile``: how late the gateway's event loop is while bodies are read that cost a lot.

Each of the shapes that the tests know is sent over and over, by one client, for some seconds. Told are the lags that
the gateway measured itself meanwhile (``trustgate_event_loop_lag_seconds`` of ``/metrics``), and how long ``/health``
took at worst. ``--answers`` has the upstream send such documents instead. No goal is judged: a lag is the
machine's too, where others use it.
"""

from __future__ import annotations

import argparse
import http.client
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.bench.peers import Running, start_gateway
from tests.support.hostile import CHAT, HOSTILE, MIB
from tests.support.upstream import Reply, Upstream

_USAGE: Final = b'],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}'
_TOKEN: Final = b',{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}'
#: Answers to chats: how they begin, what is repeated, how they end.
ANSWERS: Final = {
    "one text": (b'{"choices":[{"message":{"role":"assistant","content":"', b"a, B.1 ", b'"}}' + _USAGE),
    "log probabilities": (
        b'{"choices":[{"message":{"role":"assistant","content":"a"},"logprobs":{"content":[{}',
        _TOKEN,
        b"]}}" + _USAGE,
    ),
    "objects": (b'{"choices":[{"message":{"content":"a"}},{}', b",{}", _USAGE),
    "numbers": (b'{"choices":[{"message":{"content":"a"}}],"a":[1', b",1", _USAGE),
    "nesting": (b'{"choices":', b"[", b""),
}
_BUCKET: Final = re.compile(r'trustgate_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\d+)')
_FRESH_S: Final = 1.1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each shape")
    parser.add_argument("--mib", type=int, default=32, help="the size of the large ones, MiB")
    parser.add_argument("--answers", action="store_true", help="what the LLM server answers, not what clients send")
    options = parser.parse_args()
    upstream = Upstream().start()
    with tempfile.TemporaryDirectory() as name:
        gateway = start_gateway(upstream.url, Path(name) / "home")
        try:
            measured = _measure(gateway, upstream, options)
        finally:
            gateway.stop()
            upstream.stop()
    _show(measured)
    return 0


Lags = dict[str, int]


def _measure(gateway: Running, upstream: Upstream, options: argparse.Namespace) -> list[tuple[str, int, Lags, float]]:
    """Returns, for nothing and for each shape: how often it was sent, the lags, and how long ``/health`` took at worst,
    seconds.
    """
    size = options.mib * MIB
    chat = b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"}]}'
    rows = []
    names = ["nothing", *(ANSWERS if options.answers else HOSTILE)]
    for name in names:
        path, body = CHAT, chat
        upstream.default = Reply.body(b'{"choices":[{"message":{"content":"a"}}' + _USAGE)
        if name in ANSWERS and options.answers:
            before, unit, after = ANSWERS[name]
            upstream.default = Reply.body(before + unit * (size // len(unit)) + after)
        elif name in HOSTILE:
            path, body = HOSTILE[name].path, HOSTILE[name].body(size)
        time.sleep(_FRESH_S)
        before_lags = _lags(gateway)
        sent, health_s = _send(gateway, path, body, options.seconds, idle=name == "nothing")
        time.sleep(_FRESH_S)
        rows.append((name, sent, {le: count - before_lags[le] for le, count in _lags(gateway).items()}, health_s))
    return rows


def _send(gateway: Running, path: str, body: bytes, seconds: float, *, idle: bool) -> tuple[int, float]:
    """Returns how often it was sent in that time, once at least, and how long ``/health`` took at worst, seconds."""
    place = gateway.url.removeprefix("http://")
    is_over = threading.Event()
    took = [0.0]

    def ask() -> None:
        client = http.client.HTTPConnection(place, timeout=60)
        while not is_over.wait(0.005):
            began = time.monotonic()
            client.request("GET", "/health")
            client.getresponse().read()
            took.append(time.monotonic() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    sent, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        if idle:
            time.sleep(seconds)
            continue
        client = http.client.HTTPConnection(place, timeout=120)
        try:
            client.request("POST", path, body, {"content-type": "application/json", **gateway.headers})
            client.getresponse().read()
        except OSError:
            pass  # refused before it was sent
        finally:
            client.close()
        sent += 1
    is_over.set()
    asking.join()
    return sent, max(took)


def _lags(gateway: Running) -> Lags:
    """Returns how many lags were at most so long, by the bound in seconds."""
    client = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=60)
    client.request("GET", "/metrics")
    found = {le: int(count) for le, count in _BUCKET.findall(client.getresponse().read().decode())}
    client.close()
    assert found, "/metrics has no lags"
    return found


def _show(measured: list[tuple[str, int, Lags, float]]) -> None:
    bounds = [*measured[0][2]]
    shown = [f"{float(le) * 1000:g}" if le != "+Inf" else "more" for le in bounds]
    table = Table("", "sent", *shown, "/health at worst, ms", title="lags of the event loop, by how many ms at most")
    for name, sent, lags, health_s in measured:
        counts = [lags[le] for le in bounds]
        apart = [count - before for before, count in zip([0, *counts], counts, strict=False)]
        table.add_row(name, str(sent), *(str(count or "") for count in apart), f"{health_s * 1000:.0f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
