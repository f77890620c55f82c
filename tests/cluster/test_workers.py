"""Several workers on one port: started, replaced, reloaded and stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.processes import Process, clean_environment, wait_until
from tests.support.service_manager import Manager

CHAT = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}


class Workers:
    """A supervisor with its workers: on one Postgres, or each with a copy of the same home."""

    def __init__(self, home: Path, count: int, url: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.home, self.url = home, url
        command = [sys.executable, str(ROOT / "tests/cluster/own_homes.py"), str(home), str(count), "serve"]
        if url:
            command = [sys.executable, "-m", "trustgate", "--home", str(home), "serve", "--workers", str(count)]
        self.environment = {"TRUSTGATE_STORE_URL": url} if url else {}
        environment = clean_environment({"PYTHONPATH": str(ROOT), **self.environment, **(environment or {})})
        self.process = Process("the workers", command, home, environment, home / "log")

    def wait_ready(self) -> str:
        self.process.wait_until(lambda: "ready at " in self.process.stdout)
        ready = re.search(r"ready at (http://\S+)", self.process.stdout)
        assert ready is not None
        return ready[1]

    def pids(self) -> list[int]:
        """The processes of the workers, the oldest first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(map(int, children.split()))


@pytest.fixture
def start(make_gateway: GatewayFactory, tmp_path: Path) -> Iterator[Callable[..., tuple[Workers, str]]]:
    with contextlib.ExitStack() as stack:

        def run(count: int, **environment: str) -> tuple[Workers, str]:
            one = Gateway(tmp_path / "one")
            key = one.add_tenant()
            home = tmp_path / "workers"
            home.mkdir()
            (home / "trustgate.toml").write_text(
                'serve = {port = 0, shutdown_grace_s = 5.0}\nupstream = {url = "builtin:echo"}\n'
            )
            for number in range(1, count + 1):
                shutil.copytree(one.home, home / str(number))
            workers = Workers(home, count, environment=environment)

            def end() -> None:
                workers.process.signal(signal.SIGKILL)
                workers.process.wait()

            stack.callback(end)
            return workers, key

        yield run


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def shared(postgres: Postgres | GivenPostgres, tmp_path: Path) -> Iterator[tuple[Workers, str]]:
    """Two workers on one Postgres."""
    url = postgres.clean()
    gateway = Gateway(tmp_path / "home", environment={"TRUSTGATE_STORE_URL": url})
    key = gateway.add_tenant(plan="internal")
    config = 'serve = {port = 0, shutdown_grace_s = 5.0, stop_delay_s = 0.5}\nupstream = {url = "builtin:echo"}\n'
    (gateway.home / "trustgate.toml").write_text(config)
    workers = Workers(gateway.home, 2, url)
    yield workers, key
    workers.process.signal(signal.SIGKILL)
    workers.process.wait()


class Asking:
    """Sends requests until it is stopped, on a new connection each time or on one that is kept while the server does.

    Every failure is kept.
    """

    def __init__(self, address: str, key: str, *, keeps: bool = False, path: str = "/v1/chat/completions") -> None:
        self._keeps = keeps
        self._path = path
        self.count = 0
        self.failures: list[object] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(address, key))

    def _ask(self, address: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        while not self._end.is_set():
            try:
                if self._path == "/health":
                    connection.request("GET", self._path)
                else:
                    connection.request("POST", self._path, json.dumps(CHAT), headers)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 200:
                    self.failures.append(said)
            except (http.client.HTTPException, OSError) as error:
                self.failures.append(error)
                connection.close()
            if not self._keeps:
                connection.close()
            self.count += 1
        connection.close()

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)


def are_sums(live: dict[str, Any]) -> bool:
    """Whether both workers have answered something, and all of them together is their sum."""
    rates = [worker["requests_per_s"] for worker in live["workers"]]
    return len(rates) == 2 and min(rates) > 0 and abs(sum(rates) - live["all"]["requests_per_s"]) < 0.01


@pytest.mark.slow
def test_workers_are_replaced_reloaded_and_stopped_and_no_connection_is_refused(shared: tuple[Workers, str]) -> None:
    workers, key = shared
    address = workers.wait_ready()
    log = workers.process
    first = workers.pids()
    assert len(first) == 2
    assert httpx.get(f"{address}/health").status_code == 200
    # Another server of this home is refused, and takes no socket from this one.
    second_server = Gateway(workers.home, environment={"TRUSTGATE_STORE_URL": workers.url})
    refused = second_server.cli("serve", "--workers", "2", check=False)
    assert f"Another process serves with the home folder {workers.home}." in refused.stderr
    assert len(second_server.cli_json("node", "list")["nodes"]) == 2
    assert (workers.home / "admin.sock").exists()
    shown = 'process_start_time_seconds{worker="%d"}'
    wait_until(
        lambda: all(shown % number in httpx.get(f"{address}/metrics").text for number in (1, 2)), "both in the metrics"
    )
    with Asking(address, key) as asking:
        # Each shows the whole: rates of now, and each worker's.
        wait_until(lambda: are_sums(second_server.cli_json("top")), "both workers to have been asked")
        assert "Worker" in second_server.cli("top", "--once").stdout

        def doctor() -> list[str]:
            return second_server.cli("doctor", check=False).stdout.splitlines()

        told = "".join(doctor())
        assert f"2 workers ({first[0]}, {first[1]})" in told or f"2 workers ({first[1]}, {first[0]})" in told
        # One is stopped. What it has shown is old then: at once here, by the files' times.
        os.kill(first[0], signal.SIGSTOP)
        for number in (1, 2):
            os.utime(workers.home / "workers" / str(number) / "pulse.json", (0, 0))
        [found] = [line for line in doctor() if line.split()[1:2] == ["server"]]
        assert found.startswith("warn") and f"as 1 of 2 workers ({first[1]})" in found
        # One dies: the other goes on, and a new one takes its place.
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: "is ready (process" in log.stderr, "a new worker")
        assert "was ended by SIGKILL; it is replaced" in log.stderr
        second = workers.pids()
        assert (len(second), first[1] in second, first[0] in second) == (2, True, False)
        # A setting that a reload changes: the same processes go on.
        config = workers.home / "trustgate.toml"
        config.write_text(config.read_text() + "[anchor]\nevery = '1h'\n")
        assert second_server.cli_json("reload") == {"changed": ["anchor.every"], "restart": [], "replacing": []}
        wait_until(lambda: log.stderr.count("settings reloaded: changed anchor.every") == 2, "both to reload")
        assert workers.pids() == second
        # One that wants a restart: all are replaced, one after the other.
        config.write_text(config.read_text() + "[journal]\nsync_ms = 77\n")
        with contextlib.ExitStack() as stack:
            keeping = [stack.enter_context(Asking(address, key, keeps=True)) for _ in range(3)]
            # Health checks do not report a worker that is replaced: its machine goes on serving.
            keeping.append(stack.enter_context(Asking(address, key, path="/health")))
            wait_until(lambda: all(each.count > 5 for each in keeping), "answers on kept connections")
            done = second_server.cli_json("reload")
            assert done == {"changed": [], "restart": [], "replacing": ["journal.sync_ms"]}
            wait_until(lambda: not set(second) & set(workers.pids()) and len(workers.pids()) == 2, "two new workers")
            third = workers.pids()
            wait_until(lambda: log.stderr.count("is ready (process") == 3, "both to be ready")
        assert [failure for each in keeping for failure in each.failures] == []
        # A broken file changes nothing.
        config.write_text("serve = nonsense")
        log.signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in log.stderr, "the refusal")
        assert workers.pids() == third
        reached = asking.count
        wait_until(lambda: asking.count > reached + 5, "requests after all that")
    # What the killed worker had accepted is lost with it; all else was answered.
    assert len(asking.failures) <= 1, asking.failures
    assert (workers.home / "admin.sock").exists()
    log.signal(signal.SIGTERM)
    assert log.wait() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.slow
def test_one_link_opens_the_console_of_all_workers_and_signing_out_ends_it_at_all(shared: tuple[Workers, str]) -> None:
    workers, key = shared
    address = workers.wait_ready()
    gateway = Gateway(workers.home, environment=workers.environment)
    code = parse_qs(urlsplit(gateway.cli_json("console")["url"]).query)["code"][0]

    def send(path: str, cookie: str = "", form: dict[str, str] | None = None) -> httpx.Response:
        """On a connection of its own: the kernel chooses the worker."""
        headers = {"origin": address, "cookie": cookie}
        return httpx.request("GET" if form is None else "POST", f"{address}/console{path}", data=form, headers=headers)

    with ThreadPoolExecutor(8) as at_once:
        opened = list(at_once.map(lambda _: send("/open", form={"code": code}), range(8)))
    assert sorted(answer.status_code for answer in opened) == [303, *[401] * 7], "it works once, at one worker"
    cookie = next(answer for answer in opened if answer.status_code == 303).headers["set-cookie"].partition(";")[0]

    def seen_by_each(look: Callable[[], httpx.Response]) -> dict[str, httpx.Response]:
        """Look until both workers have shown their page."""
        found: dict[str, httpx.Response] = {}

        def look_again() -> bool:
            page = look()
            assert page.status_code == 200, page.text
            name = re.search(r'id="live-process">of all workers, by (worker \d of 2)<', page.text)
            assert name is not None
            found[name[1]] = page
            return len(found) == 2

        wait_until(look_again, "both to be asked")
        return found

    pages = seen_by_each(lambda: send("", cookie))
    tokens = {re.findall(r'name="form_token" value="([^"]+)"', page.text)[0] for page in pages.values()}
    assert len(tokens) == 1, "a form of one is taken by the other"
    # Numbers of the other one are about a second old.
    wait_until(lambda: all(f">Worker {each}<" in send("", cookie).text for each in (1, 2)), "each its row")
    # A request, at whichever worker: both show it.
    chat = httpx.post(f"{address}/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {key}"})
    receipt = chat.headers["x-trustgate-receipt"]
    for _ in range(8):
        assert f'data-id="{receipt}"' in send("/requests", cookie).text
    form = {"form_token": tokens.pop(), "form_id": "one", "name": "twice"}
    with ThreadPoolExecutor(8) as at_once:
        done = list(at_once.map(lambda _: send("/do/tenant.add", cookie, form).status_code, range(8)))
    assert sorted(done) == [200, *[409] * 7]
    # Work that one does is shown by both, and what it makes is given by both.
    began = send("/do/statement.make", cookie, {"form_token": form["form_token"], "tenant": "acme", "month": "this"})
    assert began.status_code == 303, began.text
    work = began.headers["location"].removeprefix("/console")
    wait_until(lambda: send(f"{work}/state", cookie).json()["done"], "the end of the work")
    for _ in range(8):
        page = send(work, cookie).text
        assert "statement.json" in page, page
    assert len({send(f"{work}/statement.json", cookie).content for _ in range(8)}) == 1
    # One that is put in the place of another knows the session as well.
    os.kill(workers.pids()[0], signal.SIGKILL)
    wait_until(lambda: "is ready (process" in workers.process.stderr, "a new worker")
    seen_by_each(lambda: send("", cookie))
    assert send("/logout", cookie, {"form_token": form["form_token"]}).status_code == 401
    assert {send("", cookie).status_code for _ in range(12)} == {401}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (workers.home / "console").rglob("*"))


def test_settings_that_change_while_workers_start_hold_at_all_of_them(
    start: Callable[..., tuple[Workers, str]],
) -> None:
    workers, _ = start(2)
    workers.process.wait_until(lambda: bool(workers.pids()))
    (first,) = workers.pids()
    config = workers.home / "trustgate.toml"
    config.write_text(config.read_text() + "[journal]\nsync_ms = 77\n")
    workers.process.signal(signal.SIGHUP)
    # Its successor, and the second worker's where that had started before, have the new file.
    workers.wait_ready()
    wait_until(lambda: f"replacing worker 1 (process {first})" in workers.process.stderr, "the first to be replaced")
    wait_until(lambda: workers.process.stderr.count("is ready (process") == 2, "both to be replaced")
    assert first not in workers.pids()


def test_workers_stop_with_their_supervisor_and_what_stops_the_first_one_stops_the_start(
    start: Callable[..., tuple[Workers, str]],
) -> None:
    workers, _ = start(2)
    workers.wait_ready()
    pids = workers.pids()
    workers.process.signal(signal.SIGKILL)
    workers.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers to end")
    (workers.home / "2" / "trustgate.duckdb").write_bytes(b"no database")
    again = Workers(workers.home, 2)
    assert again.process.wait() != 0
    assert "ready at" not in again.process.stdout


def test_a_worker_that_gives_no_sign_of_life_is_killed_and_replaced_and_keeps_no_stop_from_ending(
    start: Callable[..., tuple[Workers, str]], manager: Manager, tmp_path: Path
) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
    # Time for a worker that a busy machine holds up; the one that is stopped here is held up for longer.
    workers, _ = start(2, TRUSTGATE_SERVE_WORKER_TIMEOUT_S="4", **told)
    log = workers.process
    address = workers.wait_ready()
    assert f"STATUS=Serving at {address} with 2 workers" in manager.wait_for("READY=1")
    manager.wait_for("WATCHDOG=1")
    stopped, other = workers.pids()
    os.kill(stopped, signal.SIGSTOP)
    killed = re.compile(rf"worker 1 \(process {stopped}\) has given no sign of life for \d+ s; it is killed")
    wait_until(lambda: killed.search(log.stderr) is not None, "the stopped worker to be noticed")
    wait_until(lambda: "worker 1 is ready" in log.stderr, "another in its place")
    assert f"worker 1 (process {stopped}) was ended by SIGKILL; it is replaced" in log.stderr
    assert other in workers.pids(), log.said()
    os.kill(other, signal.SIGSTOP)
    log.signal(signal.SIGTERM)
    # Two workers' time: that of requests (5 s), the rest of a stop (30 s), and a moment until one is killed.
    assert "EXTEND_TIMEOUT_USEC=40000000" in manager.wait_for("STOPPING=1")
    assert log.wait() == 1
    assert f"worker 2 (process {other}) has given no sign of life" in log.stderr


def test_a_worker_that_is_stopped_in_its_start_is_replaced_and_an_ignored_sigint_ends_all(
    start: Callable[..., tuple[Workers, str]],
) -> None:
    """As a script starts it: what such a shell does not wait for has SIGINT ignored from the start."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        workers, _ = start(2, TRUSTGATE_SERVE_WORKER_TIMEOUT_S="4")
    finally:
        signal.signal(signal.SIGINT, ignored)
    log = workers.process
    workers.wait_ready()
    first, second = workers.pids()
    os.kill(first, signal.SIGKILL)

    def third() -> int:
        return next((pid for pid in workers.pids() if pid not in (first, second)), 0)

    wait_until(lambda: third() != 0, "another to start in its place")
    os.kill(stopped := third(), signal.SIGSTOP)
    killed = re.compile(rf"worker 1 \(process {stopped}\) has given no sign of life for \d+ s( in its start)?; it is")
    wait_until(lambda: killed.search(log.stderr) is not None, "it to be noticed")
    wait_until(lambda: "worker 1 is ready" in log.stderr, "another in its place")
    assert second in workers.pids(), log.said()
    log.signal(signal.SIGINT)
    assert log.wait() == 0


def test_without_postgres_several_workers_are_refused_with_the_reason(tmp_path: Path) -> None:
    refused = Gateway(tmp_path / "home").cli("serve", "--workers", "2", check=False)
    assert refused.returncode == 2
    assert "one process at a time can open it" in refused.stderr
