"""Measures what it costs that a tenant pays: requests of one gateway that owe nothing, that the balance pays, and that
bring a payment each, in the same rounds; and the first byte of a paid stream on a local Solana.

The first part has a facilitator that takes every payment at once, so that what is seen is the gateway's own: ledger,
journal, two calls to the facilitator. The second has the embedded one, and real token transfers. Absolute numbers
wander with the machine; compare what was taken in one run. Run by ``python3 tests/bench paid``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import platform
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from tests.bench.load import Load, Sample
from tests.bench.peers import MODEL, start_server
from tests.bench.servers import Upstream
from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.market import MODEL as PAID_MODEL
from tests.support.market import Buyer, TokenMarket, token_market
from tests.support.payments import payment_of
from tests.support.processes import Process, clean_environment, free_port
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.facilitators.embedded import EmbeddedFacilitator
from trustgate.settings import PaymentSettings, Settings

LOADS = (Load(1, False), Load(8, False), Load(32, False), Load(16, True))
UNPAID, BALANCE, PAYMENT = "owes nothing", "by balance", "by payment"
PAYER = "0x" + "11" * 20
TO = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
#: More than any machine does: payments that are made ahead, a second.
_MOST_RPS = 3_000

_WRK_DONE = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_WRK_PAYMENTS = """
local payments, number = {}, 0
for line in io.lines(%s) do payments[#payments + 1] = line end
request = function()
  number = number + 1
  wrk.headers["payment-signature"] = payments[number]
  return wrk.format(nil, nil, nil, (string.gsub(wrk.body, '"user": "0"', '"user": "' .. number .. '"')))
end
"""


class Waits(NamedTuple):
    """Seconds, one for each try."""

    unpaid: list[float]
    paid: list[float]
    settles: list[float]


def main() -> int:
    """Measure. Exit code 1 when wrk is missing or a request failed: then the numbers mean nothing."""
    options = _parse()
    if options.facilitator:
        asyncio.run(_serve_facilitator(options.facilitator))
        return 0
    console = Console()
    if shutil.which("wrk") is None:
        console.print("The benchmark needs wrk, an HTTP load generator: apt-get install wrk (or brew install wrk).")
        return 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="trustgate-bench-") as name:
        folder = Path(name)
        upstream = start_server("upstream", folder)
        try:
            samples, call_ms = _measure(upstream.url, folder, options)
            waits = _first_bytes(upstream.url, folder / "chain", options.streams)
        finally:
            upstream.stop()
    console.print(_table(samples, options))
    console.print(f"one call to the facilitator, by itself: p50 {call_ms:.2f} ms; a payment makes two")
    console.print(_said_of(waits))
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load average {load:.1f} at the start")
    failed = sum(sample.errors for series in samples.values() for sample in series)
    if failed:
        console.print(f"[red]{failed} requests failed: these numbers mean nothing[/red]")
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 tests/bench paid", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--seconds", type=int, default=5, help="how long one measurement takes (default: 5)")
    parser.add_argument("--streams", type=int, default=20, help="how many streams to pay on the chain (default: 20)")
    parser.add_argument("--quick", action="store_true", help="one round of a second each: does it work at all")
    parser.add_argument("--facilitator", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.streams = 1, 1, 2
    return options


class _Facilitator(Upstream):
    """Finds every payment valid and settles it on the spot."""

    kinds = b'{"kinds":[{"x402Version":2,"scheme":"exact","network":"eip155:84532"}],"extensions":[],"signers":{}}'

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < self._length(head):
            return
        self._received = b""
        answer = self.kinds
        if head.startswith(b"POST"):
            found = {"isValid": True, "success": True, "payer": PAYER, "network": "eip155:84532"}
            answer = json.dumps({**found, "transaction": f"0x{hashlib.sha256(body).hexdigest()}"}).encode()
        kind = b"content-type: application/json"
        self.transport.write(b"HTTP/1.1 200 OK\r\n%s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(answer), answer))


async def _serve_facilitator(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Facilitator, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


# requests a second, beside a facilitator that takes no time

Samples = dict[tuple[Load, str], list[Sample]]


def _measure(upstream: str, folder: Path, options: argparse.Namespace) -> tuple[Samples, float]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.paid", "--facilitator", str(port)]
    facilitator = Process("the facilitator", command, ROOT, clean_environment(), folder / "facilitator.log")
    facilitator.wait_until(lambda: "ready" in facilitator.stdout)
    settles = f"http://127.0.0.1:{port}"
    gateway = Gateway(folder / "home", upstream=f"{upstream}/v1", forked=False).start()
    samples: Samples = defaultdict(list)
    try:
        gateway.cli(
            "passport", "add", MODEL, "--base-url", f"{upstream}/v1", "--input-price", "1", "--output-price", "2"
        )
        headers = {kind: _tenant(gateway, kind, settles) for kind in (UNPAID, BALANCE, PAYMENT)}
        for number in range(options.rounds):
            for load in LOADS:
                kinds = list(headers)
                for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                    seconds = options.seconds
                    payments = _payments(gateway, headers[kind], load, seconds) if kind == PAYMENT else None
                    url = f"{gateway.base_url}/v1/chat/completions"
                    samples[load, kind].append(_wrk(url, load, seconds, headers[kind], folder, payments))
        call = _wrk(f"{settles}/settle", LOADS[0], options.seconds, {}, folder, None)
        checked = gateway.cli("doctor", "--books", check=False).stdout
        assert "The books balance." in checked, checked
    finally:
        gateway.close()
        facilitator.signal(signal.SIGKILL)
        facilitator.wait()
    return samples, call.p50_ms


def _tenant(gateway: Gateway, kind: str, facilitator: str) -> dict[str, str]:
    name = kind.replace(" ", "-")
    secret = gateway.add_tenant(name, plan="internal")
    if kind != UNPAID:
        # A price that no payment of these leaves a balance from which the next could be paid.
        terms = ("--network", "base-sepolia", "--pay-to", TO, "--facilitator", facilitator, "--price", "0.001")
        gateway.cli("payment", "set", name, *terms, "--decimals", "6", check=True)
    if kind == BALANCE:
        gateway.cli("tenant", "credit", name, "--add", "100000")
    return {"authorization": f"Bearer {secret}"}


def _payments(gateway: Gateway, headers: Mapping[str, str], load: Load, seconds: int) -> list[str]:
    """So many payments that were not presented yet, as their header has them."""
    asked = httpx.post(f"{gateway.api_url}/chat/completions", content=load.body, headers=headers, timeout=30)
    required = json.loads(base64.b64decode(asked.headers["payment-required"]))
    now = int(time.time())
    made = []
    for _ in range((seconds + 1) * _MOST_RPS):
        authorization = {
            "from": PAYER,
            "to": TO,
            "value": required["accepts"][0]["amount"],
            "validAfter": str(now - 600),
            "validBefore": str(now + 3600),
            "nonce": f"0x{secrets.token_hex(32)}",
        }
        payload = {
            "x402Version": 2,
            "payload": {"signature": "0x" + "22" * 65, "authorization": authorization},
            "accepted": required["accepts"][0],
        }
        made.append(base64.b64encode(json.dumps(payload).encode()).decode())
    return made


def _wrk(
    url: str, load: Load, seconds: int, headers: Mapping[str, str], folder: Path, payments: list[str] | None
) -> Sample:
    # A second payment for a request whose first one is being settled is refused: with payments no two are the same.
    body = json.dumps({**json.loads(load.body), "user": "0"})
    lines = ['wrk.method = "POST"', f"wrk.body = [==[{body}]==]"]
    sent = {"content-type": "application/json", **headers}
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in sent.items()]
    if payments is not None:
        listed = folder / "payments.txt"
        listed.write_text("\n".join(payments))
        lines.append(_WRK_PAYMENTS % json.dumps(str(listed)))
    script = folder / "paid.lua"
    script.write_text("\n".join([*lines, _WRK_DONE]))
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line.split()[1:] for line in said.splitlines() if line.startswith("RESULT ")]
    assert found, f"wrk said {said!r}"
    requests, duration_us, p50_ms, p99_ms, errors = (float(value) for value in found[0])
    assert payments is None or requests < len(payments), "the payments ran out"
    return Sample(requests / duration_us * 1e6, p50_ms, p99_ms, int(errors))


# the first byte of a stream, on a local chain


def _first_bytes(upstream: str, folder: Path, count: int) -> Waits:
    folder.mkdir()
    with token_market(folder, f"{upstream}/v1") as place:
        free = place.gateway.add_tenant("free", plan="internal")
        waits = Waits([], [], [])
        body = {**json.loads(Load(1, True).body), "model": PAID_MODEL, "max_tokens": 16}
        with httpx.Client(base_url=place.gateway.base_url, timeout=60) as http:
            for buyer in place.buyers(count):
                waits.unpaid.append(_first_byte(http, body, {"authorization": f"Bearer {free}"}))
                # Made ahead: a client signs in its own time.
                headers = {"authorization": f"Bearer {buyer.key}"}
                asked = http.post("/v1/chat/completions", json=body, headers=headers)
                required = json.loads(base64.b64decode(asked.headers["payment-required"]))["accepts"][0]
                payload = place.sign(buyer, required)
                headers["payment-signature"] = base64.b64encode(json.dumps(payload).encode()).decode()
                waits.paid.append(_first_byte(http, body, headers))
                waits.settles.append(_settle(place, buyer, required))
    return waits


def _first_byte(http: httpx.Client, body: dict[str, Any], headers: Mapping[str, str]) -> float:
    began = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200, response.read()
        for _ in response.iter_raw():
            took = time.perf_counter() - began
            break
    return took


def _settle(place: TokenMarket, buyer: Buyer, required: dict[str, Any]) -> float:
    """The embedded facilitator by itself, on the same chain: verify and settle of one payment as large."""
    payment = payment_of(place.sign(buyer, required), required)

    async def run() -> float:
        settings = Settings(home=place.gateway.home, payment=PaymentSettings(solana_devnet_rpc=place.rpc_url))
        nodes = Nodes(settings)
        facilitator = EmbeddedFacilitator(settings, nodes)
        try:
            await facilitator.prepare()
            await nodes.solana(payment.offer.network)
            began = time.perf_counter()
            assert (await facilitator.verify(payment)).valid
            settled = await facilitator.settle(payment, _note)
            took = time.perf_counter() - began
        finally:
            await facilitator.close()
            await nodes.close()
        assert settled.outcome == "settled", settled
        return took

    return asyncio.run(run())


async def _note(transaction: str) -> None:
    del transaction


# what was found


def _table(samples: Samples, options: argparse.Namespace) -> Table:
    table = Table(title=f"{options.rounds} rounds of {options.seconds} s, medians (lowest to highest)")
    for column in ("load", "request", "a second", "p50 ms", "p99 ms", f"÷ {UNPAID}", "errors"):
        table.add_column(column, justify="left" if column in ("load", "request") else "right")
    for load in LOADS:
        for kind in (UNPAID, BALANCE, PAYMENT):
            series = samples[load, kind]
            ratios = [mine.rps / free.rps for mine, free in zip(series, samples[load, UNPAID], strict=True)]
            table.add_row(
                load.name if kind == UNPAID else "",
                kind,
                _spread([sample.rps for sample in series], ".0f"),
                _spread([sample.p50_ms for sample in series], ".2f"),
                _spread([sample.p99_ms for sample in series], ".2f"),
                _spread(ratios, ".2f"),
                str(sum(sample.errors for sample in series)),
            )
        table.add_section()
    return table


def _said_of(waits: Waits) -> str:
    unpaid, paid, settles = (_spread([1000 * seconds for seconds in series], ".0f") for series in waits)
    more = [1000 * (after - before) for after, before in zip(waits.paid, waits.unpaid, strict=True)]
    return (
        f"first byte of a stream on a local chain, {len(more)} times, ms: unpaid {unpaid}, paid {paid}, so "
        f"{_spread(more, '.0f')} more; verify and settle by themselves {settles}"
    )


def _spread(values: Sequence[float], form: str) -> str:
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    raise SystemExit(main())
