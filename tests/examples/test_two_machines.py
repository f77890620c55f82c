"""examples/deploy/two-machines: two gateways that serve, or one that waits, and a proxy in front of both."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.side_by_side import LEASE_S
from tests.conftest import GatewayFactory
from tests.environments import ROOT
from tests.examples.test_deploy import certificate_files, replaced
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres
from tests.support.processes import Process, clean_environment, free_port, wait_until
from tests.support.programs import require

FOLDER = ROOT / "examples" / "deploy" / "two-machines"
CHAT = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
FIRST, SECOND = "10.0.0.11:4010", "10.0.0.12:4010"


class Proxy:
    """A proxy in front of two gateways."""

    def __init__(self, command: list[str], folder: Path, address: str) -> None:
        self.address = address
        environment = clean_environment({"HOME": str(folder)})
        self.process = Process(Path(command[0]).name, command, folder, environment, folder / "proxy.log")

    def ask(self, key: str) -> httpx.Response:
        with self.client(key) as client:
            return client.post("/v1/chat/completions", json=CHAT)

    def client(self, key: str) -> httpx.Client:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, verify=context)


def caddy(folder: Path, ports: tuple[int, int]) -> tuple[list[str], str]:
    address = f"http://127.0.0.1:{free_port()}"
    changes = {"gateway.example.com": address, FIRST: f"127.0.0.1:{ports[0]}", SECOND: f"127.0.0.1:{ports[1]}"}
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + replaced((FOLDER / "Caddyfile").read_text(), changes))
    return [require("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], address


def nginx(folder: Path, ports: tuple[int, int]) -> tuple[list[str], str]:
    port = free_port()
    certificate, key = certificate_files(folder)
    changes = {
        FIRST: f"127.0.0.1:{ports[0]}",
        SECOND: f"127.0.0.1:{ports[1]}",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/letsencrypt/live/gateway.example.com/fullchain.pem": str(certificate),
        "/etc/letsencrypt/live/gateway.example.com/privkey.pem": str(key),
    }
    (folder / "site.conf").write_text(replaced((FOLDER / "nginx.conf").read_text(), changes))
    folders = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi"))
    folders += "".join(f"{name}_temp_path {folder}/{name};" for name in ("uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {folders} include {folder}/site.conf; }}\n"
    )
    return [require("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")], (
        f"https://127.0.0.1:{port}"
    )


@pytest.fixture
def machines(make_gateway: GatewayFactory, postgres: Postgres) -> tuple[Gateway, Gateway]:
    environment = {"TRUSTGATE_STORE_URL": postgres.clean(), "TRUSTGATE_STORE_LEASE_S": "1"}
    options = {"upstream": "builtin:echo", "arguments": ["--wait"], "environment": environment}
    return make_gateway(**options), make_gateway(**options)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.mark.slow
def test_when_one_machine_dies_the_other_goes_on_behind_the_same_address(
    machines: tuple[Gateway, Gateway], pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    first, second = machines
    key = first.add_tenant()
    first.start()
    (second.home).mkdir(mode=0o700)
    (second.home / "log.key").write_bytes((first.home / "log.key").read_bytes())
    ports = (int(first.base_url.rpartition(":")[2]), free_port())
    waiting = pool.submit(second.start, "--port", str(ports[1]))
    proxies = []
    for make in (caddy, nginx):
        folder = tmp_path / make.__name__
        folder.mkdir()
        command, address = make(folder, ports)
        proxies.append(Proxy(command, folder, address))
    try:
        for proxy in proxies:
            proxy.process.wait_until(partial(_answers, proxy, key))
        first.kill()
        for proxy in proxies:
            proxy.process.wait_until(partial(_answers, proxy, key))
        waiting.result()
        usage = second.cli_json("usage")["total"]["requests"]
        # The one that was killed waits now, and takes its turn again.
        back = pool.submit(first.start)
        wait_until(lambda: "waiting: " in first.logs(), "the first to wait")
        assert second.stop() == 0
        back.result()
        proxies[0].process.wait_until(partial(_answers, proxies[0], key))
        assert first.cli_json("usage")["total"]["requests"] == usage + 1
        assert first.cli("doctor", "--books").returncode == 0
    finally:
        for proxy in proxies:
            proxy.process.signal(signal.SIGTERM)
            proxy.process.wait()


class Caller:
    """A client that asks a proxy again and again, and keeps when each request began and how it ended."""

    def __init__(self, proxy: Proxy, key: str) -> None:
        self._proxy, self._key = proxy, key
        self._end = threading.Event()
        #: When it began, and its status; 0 where the connection ended.
        self.answers: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._proxy.client(self._key) as client:
            while not self._end.is_set():
                began = time.monotonic()
                try:
                    status = client.post("/v1/chat/completions", json=CHAT).status_code
                except httpx.TransportError:
                    status = 0
                self.answers.append((began, status))

    def has(self, count: int) -> bool:
        return len(self.answers) >= count

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.mark.slow
def test_of_two_that_serve_one_stops_or_dies_and_no_request_that_begins_afterwards_is_lost(
    make_gateway: GatewayFactory, postgres: Postgres, tmp_path: Path
) -> None:
    environment = {"TRUSTGATE_STORE_URL": postgres.clean(), "TRUSTGATE_STORE_LEASE_S": str(LEASE_S)}
    # Caddy looks twice a second.
    environment["TRUSTGATE_SERVE_STOP_DELAY_S"] = "3"
    first, second = (make_gateway(upstream="builtin:echo", environment=environment) for _ in range(2))
    key = first.add_tenant(plan="internal")
    first.start()
    second.home.mkdir(mode=0o700)
    (second.home / "log.key").write_bytes((first.home / "log.key").read_bytes())
    second.start()
    ports = tuple(int(each.base_url.rpartition(":")[2]) for each in (first, second))
    proxies = []
    for make in (caddy, nginx):
        folder = tmp_path / make.__name__
        folder.mkdir()
        command, address = make(folder, (ports[0], ports[1]))
        proxies.append(Proxy(command, folder, address))
    callers: list[Caller] = []
    try:
        for proxy in proxies:
            proxy.process.wait_until(partial(_answers, proxy, key))
        callers += [Caller(proxy, key) for proxy in proxies for _ in range(3)]
        for caller in callers:
            wait_until(partial(caller.has, 20), "answers")
        # At a stop what runs ends first, and what comes is given to the other: none is lost, behind Caddy neither.
        assert first.stop() == 0
        for caller in callers:
            wait_until(partial(caller.has, len(caller.answers) + 20), "answers of the other")
        stopped = time.monotonic()
        first.start()
        second.kill()
        killed = time.monotonic()
        for caller in callers:
            wait_until(partial(_is_served, caller, len(caller.answers) + 30), "answers of the first")
    finally:
        for caller in callers:
            caller.end()
        for proxy in proxies:
            proxy.process.signal(signal.SIGTERM)
            proxy.process.wait()
    for caller in callers:
        assert {status for began, status in caller.answers if began < stopped} == {200}
    for caller in callers[3:]:
        # Behind nginx what ran at the machine that was killed, or came to it as it was being killed, is lost, no more.
        lost = [(round(began - killed, 3), status) for began, status in caller.answers if status != 200]
        assert all(began_s < 0 for began_s, _ in lost), lost
    assert first.cli("doctor", "--books").returncode == 0


def _is_served(caller: Caller, count: int) -> bool:
    """So many answers, the last ones good: how many fail before depends on how fast they fail."""
    return caller.has(count) and all(status == 200 for _, status in caller.answers[-5:])


def _answers(proxy: Proxy, key: str) -> bool:
    try:
        return proxy.ask(key).status_code == 200
    except httpx.TransportError:
        return False


def test_the_units_part_is_one(tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    here = tmp_path / "trustgate"
    here.write_text("#!/bin/sh\n")
    here.chmod(0o755)
    unit = tmp_path / "trustgate.service"
    unit.write_text((FOLDER.parent / "trustgate.service").read_text().replace("/usr/local/bin/trustgate", str(here)))
    part = tmp_path / "trustgate.service.d"
    part.mkdir()
    text = (FOLDER / "trustgate.conf").read_text().replace("/usr/local/bin/trustgate", str(here))
    (part / "two-machines.conf").write_text(text)
    verified = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_compose_file_names_what_there_is() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert set(compose["services"]) == {"postgres", "one", "two", "proxy"}
    built = compose["services"]["one"]["build"]
    assert (FOLDER / built["context"] / built["dockerfile"]).exists()
    assert (FOLDER / built["context"] / "pyproject.toml").exists()
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    assert {volume.partition(":")[0] for volume in mounted} == set(compose["volumes"])
