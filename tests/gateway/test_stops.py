"""A stop ends: whatever hangs is given up in a stated time, and the process reports its state to what supervises it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.disks import fill, tiny_disk
from tests.support.facilitator import HANGS
from tests.support.gateway import Gateway
from tests.support.paying import Customer, Market, market_environment, market_surroundings
from tests.support.processes import PATIENCE_S, wait_until
from tests.support.service_manager import Manager
from tests.support.upstream import Reply
from trustgate.errors import Unavailable
from trustgate.server import stopping
from trustgate.server.overseer import Overseer, ServiceManager, overseer_of
from trustgate.server.stopping import Stopping
from trustgate.settings.environment import ServiceManagerAddress, service_manager


class Ended:
    """Takes the place of the end of the process."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._exit_code = -1

    def __call__(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._over.set()

    def wait(self) -> int:
        assert self._over.wait(PATIENCE_S), "the process was not ended"
        return self._exit_code


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    ended = Ended()
    monkeypatch.setattr("os._exit", ended)
    return ended


async def test_a_stop_that_does_not_end_is_ended_and_names_what_it_waits_for(
    ended: Ended, capfd: pytest.CaptureFixture[str]
) -> None:
    hanging = threading.Event()
    thread = threading.Thread(target=hanging.wait, name="the one that hangs")
    thread.start()
    stop = Stopping(0.05, ends_process=True, last_s=0.05)
    assert stop.within_s == pytest.approx(0.1)
    stop.begin()
    stop.begin()
    async with stop.step("the hanging thing"):
        assert await asyncio.to_thread(ended.wait) == 1
    hanging.set()
    thread.join()
    said = capfd.readouterr().err
    assert said.startswith("Stopped without waiting any longer for: the hanging thing (threads: ")
    assert "the one that hangs" in said


async def test_what_a_stop_waits_for_longer_than_a_moment_is_logged_once_with_its_time(
    ended: Ended, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "trustgate.server")
    monkeypatch.setattr(stopping, "_LOGGED_AFTER_S", 0.0)

    async def until_logged(*messages: str) -> None:
        await asyncio.to_thread(wait_until, lambda: len(caplog.messages) >= len(messages), "what is logged")
        assert caplog.messages == list(messages)
        caplog.clear()

    stop = Stopping(3600.0, ends_process=True)
    stop.begin()
    await until_logged("stopping: waiting for requests, for 3630 s at most")
    async with stop.step("the database", 1800.0):
        await until_logged("stopping: waiting for the database, for 1800 s at most")
    stop.name_step("the disk")
    await until_logged("stopping: waiting for the disk, for 3630 s at most")
    monkeypatch.setattr(stopping, "_LOGGED_AFTER_S", 1800.0)
    monkeypatch.setattr(stopping, "_THREADS_S", 0.0)
    stop.name_step("a moment")
    stop.closed()
    assert await asyncio.to_thread(ended.wait) == 0
    assert caplog.messages == []


async def test_once_all_is_closed_threads_keep_the_process_for_a_moment_and_it_has_stopped_well(
    ended: Ended, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_THREADS_S", 0.01)
    stop = Stopping(3600.0, ends_process=True)
    stop.begin()
    stop.closed()
    assert await asyncio.to_thread(ended.wait) == 0
    assert "threads that do not end" in capfd.readouterr().err


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trustgate-stop"]


def test_one_thread_watches_a_stop_that_ends_the_process_and_keeps_none_from_ending(
    ended: Ended, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = watchers()
    Stopping(3600.0).begin()
    Stopping(3600.0).closed()
    assert watchers() == before, "this one's process goes on"
    monkeypatch.setattr(stopping, "_THREADS_S", 3600.0)
    stop = Stopping(3600.0, ends_process=True)
    stop.begin()
    stop.begin()
    [watcher] = set(watchers()) - set(before)
    assert watcher.daemon
    stop.closed()
    assert stop._until_s > time.monotonic(), "threads have their time"
    monkeypatch.setattr(stopping, "_THREADS_S", 0.0)
    stop.closed()
    assert ended.wait() == 0
    watcher.join()
    assert "waiting any longer for: threads" in capfd.readouterr().err


def test_until_a_step_is_named_a_stop_waits_for_requests(ended: Ended, capfd: pytest.CaptureFixture[str]) -> None:
    Stopping(0.0, ends_process=True, last_s=0.0).begin()
    assert ended.wait() == 1
    assert "waiting any longer for: requests" in capfd.readouterr().err


async def test_a_step_is_given_up_after_its_time_and_the_next_one_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def late() -> None:
        raise TimeoutError("its own")

    async def fail() -> None:
        raise Unavailable("The disk is full.")

    stop = Stopping(0.0)
    stop.begin()
    await stop.close("the one before", 1.0, fail)
    assert caplog.messages == ["stopping: the one before: The disk is full."]
    caplog.clear()
    await stop.close("the first", 0.01, hang)
    assert caplog.messages == ["stopping: the first did not end in 0.01 s, and is not waited for any more"]
    caplog.clear()
    await stop.close("the second", 60.0, late)
    assert caplog.messages == ["stopping: the second: TimeoutError"]


def test_a_thread_that_never_returns_keeps_no_server_from_stopping(
    make_gateway: GatewayFactory, tmp_path: Path
) -> None:
    environment = {"TRUSTGATE_UPSTREAM_HEALTH_INTERVAL_S": "0.1"}
    gateway = make_gateway(upstream="builtin:echo", environment=environment).start()
    key = tmp_path / "key"
    key.write_text("sk-secret")
    gateway.cli(
        *("passport", "add", "held", "--base-url", "http://127.0.0.1:9/v1", "--api-model-id", "gpt-4o"),
        *("--credential-file", str(key)),
    )
    wait_until(lambda: "could not be reached" in gateway.logs(), "the first reading of the key")
    # A read from a pipe without a writer waits for ever.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.replace(key)
    reached: list[int] = []

    def is_read() -> bool:
        try:
            reached.append(os.open(key, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    wait_until(is_read, "the key to be read")
    try:
        assert gateway.stop() == 0
    finally:
        os.close(reached[0])
    assert "Stopped without waiting any longer for: threads that do not end" in gateway.logs()


def test_a_facilitator_that_hangs_keeps_no_server_from_stopping(make_gateway: GatewayFactory) -> None:
    """It does not answer a settlement for longer than a stop may take: the payment is looked up later."""
    with market_surroundings() as (upstream, facilitator, node):
        environment = {
            **market_environment(node),
            "TRUSTGATE_PAYMENT_SETTLE_TIMEOUT_S": "600",
            "TRUSTGATE_SERVE_SHUTDOWN_GRACE_S": "0.5",
        }
        gateway = make_gateway(upstream=upstream.api_url, environment=environment).start()
        market = Market(gateway, upstream, facilitator, node)
        customer = market.customer()
        paying = customer.pay(customer.chat())
        upstream.script(Reply.chat())
        facilitator.on_settle(HANGS)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, customer, paying)
            facilitator.wait_for_settles()
            assert gateway.stop() == 0, gateway.logs()
            assert "stopping: waiting for requests to end, for" in gateway.logs()
            assert asked.result() != 200, "what is not paid for is not delivered"
        gateway.start()
        market.reconcile()
        [payment] = market.payments(customer)
        assert payment.state in ("failed", "unknown", "reserved"), payment.state
        assert market.audit().differences == ()
        market.close()


def ask(customer: Customer, paying: dict[str, str]) -> int:
    """Returns the status; 0 where the connection was cut."""
    try:
        return customer.chat(paying).status_code
    except httpx.TransportError:
        return 0


def test_a_full_disk_keeps_no_server_from_stopping_and_nothing_acknowledged_is_lost(
    make_gateway: GatewayFactory, tmp_path: Path
) -> None:
    with tiny_disk(tmp_path / "disk", 48 * 2**20) as disk:
        environment = {"TRUSTGATE_SERVE_SHUTDOWN_GRACE_S": "0.5", "TRUSTGATE_JOURNAL_SEGMENT_BYTES": "1048576"}
        gateway = Gateway(disk / "home", upstream="builtin:echo", environment=environment)
        gateway.log_path = tmp_path / "log"  # which is not full
        gateway.start()
        headers = {"authorization": f"Bearer {gateway.add_tenant()}"}
        chat = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
        answered, refused = [], 0
        filler = fill(disk)
        for _ in range(40):
            answer = httpx.post(f"{gateway.api_url}/chat/completions", json=chat, headers=headers)
            if answer.status_code == 200:
                answered.append(answer.headers["x-trustgate-receipt"])
            else:
                refused += 1
        assert gateway.stop() == 0, gateway.logs()
        filler.unlink()
        gateway.start()
        listed = gateway.cli_json("receipt", "list", "--limit", "100")["receipts"]
        assert {each["receipt"]["id"] for each in listed} >= set(answered)
        gateway.cli("doctor", "--books")
        gateway.close()
    assert len(answered) + refused == 40 and answered


def test_a_stop_may_serve_for_a_while_and_have_proxies_find_out_meanwhile(make_gateway: GatewayFactory) -> None:
    environment = {"TRUSTGATE_SERVE_STOP_DELAY_S": "300"}
    gateway = make_gateway(upstream="builtin:echo", environment=environment).start()
    key = gateway.add_tenant()
    assert httpx.get(f"{gateway.base_url}/health").json() == {"status": "ok"}
    gateway.process.signal(signal.SIGTERM)
    wait_until(lambda: httpx.get(f"{gateway.base_url}/health").status_code == 503, "the stop")
    assert httpx.get(f"{gateway.base_url}/health").json() == {"status": "stopping"}
    assert httpx.get(f"{gateway.base_url}/ready").json()["checks"]["serving"] == "draining"
    chat = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.post(f"{gateway.api_url}/chat/completions", json=chat, headers=headers).status_code == 200
    assert gateway.stop(number=signal.SIGINT) == 130


# what looks after the process


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_systemd_is_told_of_the_start_of_life_of_a_reload_and_of_the_stop(
    make_gateway: GatewayFactory, manager: Manager, tmp_path: Path
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    gateway: Gateway = make_gateway(upstream="builtin:echo", environment=environment).start()
    assert f"STATUS=Serving at {gateway.base_url}" in manager.wait_for("READY=1")
    manager.wait_for("WATCHDOG=1")
    manager.wait_for("WATCHDOG=1")
    gateway.process.signal(signal.SIGHUP)
    assert manager.wait_for("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
    assert f"STATUS=Serving at {gateway.base_url}" in manager.wait_for("READY=1")
    assert gateway.stop() == 0
    assert "EXTEND_TIMEOUT_USEC=60000000" in manager.wait_for("STOPPING=1")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "relative"}, None),
        ({"NOTIFY_SOCKET": "/"}, None),
        ({"NOTIFY_SOCKET": "/run/it", "WATCHDOG_USEC": "soon"}, ("/run/it", 0.0, 0)),
        ({"NOTIFY_SOCKET": "@it", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "17"}, ("@it", 3.0, 17)),
    ],
    ids=["none", "relative", "no name", "no number", "all"],
)
def test_what_systemd_has_set_is_read(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: tuple[str, float, int] | None
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert service_manager() == found


def test_a_manager_that_reads_nothing_holds_up_no_sign_of_life(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(str(tmp_path / "unread"))
        told = overseer_of(ServiceManagerAddress(str(tmp_path / "unread"), 8.0, 0))
        for _ in range(1_000):
            told.beat()


def test_an_abstract_socket_is_written_to_and_one_that_is_gone_is_no_fault(manager: Manager) -> None:
    name = f"trustgate-test-{os.getpid()}"
    abstract = Manager(f"\0{name}")
    told = overseer_of(ServiceManagerAddress(f"@{name}", 8.0, os.getpid()))
    assert isinstance(told, ServiceManager)
    assert told.every_s == 4.0
    told.ready("Serving")
    assert abstract.wait_for("READY=1") == ["READY=1", "STATUS=Serving"]
    told.reloaded()
    assert abstract.wait_for("READY=1") == ["READY=1", "STATUS=Serving"]
    abstract.close()
    told.beat()
    overseer_of(ServiceManagerAddress("/gone", 8.0, 0)).reloaded()  # though it never was ready
    # The watchdog of another process is not for this one.
    assert overseer_of(ServiceManagerAddress("/gone", 8.0, os.getppid())).every_s == 0.0
    assert type(overseer_of(None)) is Overseer
