"""``trustgate top`` on a running gateway: its numbers, and its screen in terminals of any width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.entries import FIRST_US, make_receipt
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.observe.live_stats import in_window, load_of, loads_by

_LONG = "Zoë & Söhne GmbH, a tenant with a rather long name 日本"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that has just answered seven requests of two tenants and refused one."""
    gateway = Gateway(tmp_path_factory.mktemp("top") / "home", upstream="builtin:echo").start()
    for name, count in (("acme", 5), (_LONG, 2)):
        headers = {"authorization": f"Bearer {gateway.add_tenant(name)}"}
        for _ in range(count):
            body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
            answer = httpx.post(f"{gateway.api_url}/chat/completions", json=body, headers=headers, trust_env=False)
            assert answer.status_code == 200
    httpx.post(f"{gateway.api_url}/chat/completions", headers={"authorization": "Bearer none"}, trust_env=False)
    yield gateway
    gateway.close()


def test_the_numbers_for_scripts(busy: Gateway) -> None:
    pulse = busy.cli_json("top", "--once")
    assert pulse["receipts"] == 7
    assert (pulse["in_flight"], pulse["in_flight_limit"]) == (0, 1250)
    assert {(up["name"], up["healthy"]) for up in pulse["upstreams"]} == {("builtin:echo", True)}
    assert pulse["address"] == busy.base_url
    assert pulse["window_s"] <= 10


def test_the_screen_fits_any_terminal_and_ends_with_ctrl_c(busy: Gateway) -> None:
    for columns in (24, 60, 200):
        shown, exit_code = _in_terminal(busy, columns)
        assert exit_code == 130, shown
        assert "requests/s" in shown
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", shown).splitlines()
        assert max(map(len, lines)) <= columns, columns


def test_without_a_server_there_is_nothing_to_see(tmp_path: Path) -> None:
    refused = Gateway(tmp_path / "home").cli("top", check=False)
    assert (refused.returncode, "No server runs" in refused.stderr) == (5, True)


def _in_terminal(gateway: Gateway, columns: int) -> tuple[str, int]:
    """What ``top`` wrote to a terminal that is so wide until it was interrupted, and its exit code."""
    # The test's own terminal, or what pytest's processes are told of one, would speak louder than this one.
    variables = {name: value for name, value in clean_environment().items() if name not in ("COLUMNS", "LINES")}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "trustgate", "--home", str(gateway.home), "top", "--every", "0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**variables, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + PATIENCE_S
    try:
        interrupted = False
        while time.monotonic() < deadline and select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # on Linux: the other end is closed
                break
            shown += piece
            if b"Model" in shown and not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
        return shown.decode(errors="replace"), process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


# the arithmetic


def test_quantiles_are_values_that_occurred() -> None:
    receipts = [make_receipt(number, latency_total_ms=number, latency_first_ms=1) for number in range(1, 101)]
    load = load_of("all", receipts, 10.0)
    assert (load.total_p50_ms, load.total_p99_ms, load.first_p99_ms) == (50, 99, 1)
    assert (load.requests_per_s, load.tokens_per_s) == (10.0, 1500.0)
    assert load_of("none", [], 10.0).total_p99_ms == 0
    one = load_of("one", receipts[:1], 1.0)
    assert (one.total_p50_ms, one.total_p99_ms) == (1, 1)


def test_only_what_ended_within_the_window_counts() -> None:
    receipts = [make_receipt(n, created_us=FIRST_US + n * 1_000_000, latency_total_ms=500) for n in range(20)]
    now_us = FIRST_US + 20_000_000
    recent, window_s = in_window(receipts, now_us, 10.0)
    assert (len(recent), window_s) == (10, 10.0)
    # Where the receipts at hand do not reach back so far, rates are of the time they cover.
    recent, window_s = in_window(receipts[-3:], now_us, 10.0)
    assert (len(recent), window_s) == (3, 2.5)
    assert in_window([], now_us, 10.0) == ([], 10.0)


def test_the_busiest_come_first_and_failures_are_shares() -> None:
    receipts = [make_receipt(n, tenant=f"t{n % 3}", finish="refused" if n % 3 == 0 else "complete") for n in range(8)]
    busiest = loads_by(receipts, 1.0, lambda receipt: receipt.tenant, 2)
    assert [(load.name, load.failed) for load in busiest] == [("t0", 1.0), ("t1", 0.0)]
