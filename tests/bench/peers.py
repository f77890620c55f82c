"""Who is measured. A peer knows how to start one server in front of the upstream and how to speak to it.

To add one, write a function that gives a ``Running`` and put a ``Peer`` into ``PEERS``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.bench import installed
from tests.environments import ROOT, find_litellm
from tests.support.gateway import Gateway
from tests.support.processes import Process, clean_environment, free_port

MODEL = "gpt-4o-mini"
#: LiteLLM imports some 2,000 modules before it listens.
_START_S = 180.0


class CannotRun(Exception):
    """A peer that is not here; the message says why."""


@dataclass(frozen=True)
class Running:
    """A started server: where its chat endpoint's ``/v1`` is, what to send along, and how to end it."""

    url: str
    pid: int
    #: From the start of the process to its first answer (the gateway: its ready line), seconds.
    ready_after_s: float
    stop: Callable[[], None]
    headers: Mapping[str, str] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """What the process, with all of its threads, has used of processors, user and system, seconds; from /proc."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory now, MiB, from /proc."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"process {self.pid} has no resident memory")


@dataclass(frozen=True)
class Peer:
    name: str
    what: str
    #: Takes the upstream's address and a folder of its own. Raises ``CannotRun``.
    start: Callable[[str, Path], Running]


def start_server(name: str, folder: Path, upstream: str = "") -> Running:
    """Start one of tests.bench.servers and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.servers", name, "--port", str(port), "--upstream", upstream]
    return _start(name, command, ROOT, {}, folder, port)


def _start(
    name: str,
    command: list[str],
    cwd: Path,
    environment: Mapping[str, str],
    folder: Path,
    port: int,
    headers: Mapping[str, str] | None = None,
    path: str = "",
) -> Running:
    process = Process(name, command, cwd, clean_environment(environment), folder / f"{name}.log")
    url = f"http://127.0.0.1:{port}"
    process.wait_until(lambda: _answers(url + path), _START_S)
    return Running(url, process.pid, time.monotonic() - process.started_at, lambda: _end(process), headers or {})


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _end(process: Process) -> None:
    if process.exit_code is None:
        process.signal(signal.SIGKILL)
    process.wait()


def start_gateway(upstream: str, home: Path) -> Running:
    """TrustGate on a home folder, new or kept, with a tenant of the benchmark's own."""
    gateway = Gateway(home, upstream=f"{upstream}/v1", forked=False)
    gateway.start(timeout_s=_START_S)
    secret = gateway.add_tenant(f"bench-{secrets.token_hex(8)}", plan="internal")
    headers = {"authorization": f"Bearer {secret}"}
    return Running(gateway.base_url, gateway.process.pid, gateway.ready_after_s, gateway.close, headers)


def _start_litellm(upstream: str, folder: Path) -> Running:
    python = find_litellm()
    if python is None or not python.exists():
        raise CannotRun("it is not installed (python3 tests --install-only does it)")
    key = "sk-benchmark-of-the-gateway-7d1f"
    model = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "sk-bench"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(python.with_name("litellm")), "--config", str(folder / "config.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}
    headers = {"authorization": f"Bearer {key}"}
    return _start("litellm", command, folder, environment, folder, port, headers, "/health/readiness")


def _start_portkey(upstream: str, folder: Path) -> Running:
    program = installed.portkey_program()
    if program is None:
        raise CannotRun("it is not installed (npm, of Node.js, installs it)")
    node = shutil.which("node")
    if node is None:
        raise CannotRun("Node.js is missing")
    port = free_port()
    command = [node, str(program), f"--port={port}", "--headless"]
    headers = {
        "authorization": "Bearer sk-bench",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
    }
    return _start("portkey", command, program.parent.parent, {}, folder, port, headers)


def _start_floor(upstream: str, folder: Path) -> Running:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.floor", "--port", str(port), "--upstream", upstream]
    return _start("floor", command, ROOT, {}, folder, port)


def _program(name: str) -> str:
    """Where a server's program lies. Raises ``CannotRun``."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise CannotRun(f"it is not installed (apt-get install {name})")
    return found


def _start_nginx(upstream: str, folder: Path) -> Running:
    """One process: what it costs is seen in one place."""
    program, port = _program("nginx"), free_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log crit;"
        "events { worker_connections 4096; }"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
        "keepalive_requests 1000000;"
        f"upstream llm {{ server {upstream.removeprefix('http://')}; keepalive 256; keepalive_requests 1000000; }}"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://llm; proxy_buffering off;"
        'proxy_http_version 1.1; proxy_set_header connection ""; } } }'
    )
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return _start("nginx", command, folder, {}, folder, port, path="/v1/models")


def _start_haproxy(upstream: str, folder: Path) -> Running:
    program, port = _program("haproxy"), free_port()
    (folder / "haproxy.cfg").write_text(
        "global\n nbthread 1\n maxconn 8192\n"
        "defaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n"
        " option http-keep-alive\n http-reuse always\n"
        f"listen llm\n bind 127.0.0.1:{port}\n server llm {upstream.removeprefix('http://')}\n"
    )
    return _start("haproxy", [program, "-f", str(folder / "haproxy.cfg")], folder, {}, folder, port, path="/v1/models")


def _server(name: str) -> Callable[[str, Path], Running]:
    return lambda upstream, folder: start_server(name, folder, upstream)


PEERS = (
    Peer("raw", "plain ASGI and the transport alone: the limit", _server("raw")),
    Peer("bare", "Starlette route and httpx client on aiohttp's transport", _server("bare")),
    Peer("httpx", "the same on httpx's default transport", _server("httpx")),
    Peer("trustgate", "the whole path, receipts and log", lambda upstream, to: start_gateway(upstream, to / "home")),
    Peer("floor", "the path's work on raw protocols, without its checks: the floor in Python", _start_floor),
    Peer("nginx", "nginx as a proxy, one process, connections kept", _start_nginx),
    Peer("haproxy", "HAProxy, one thread, connections kept", _start_haproxy),
    Peer("litellm", "LiteLLM's proxy, 1 worker, a master key alone", _start_litellm),
    Peer("portkey", "Portkey's gateway, no keys, no quota", _start_portkey),
)
#: Ratios are against this peer, in the same round.
REFERENCE = "bare"


def check(peer: str, server: Running, body: str, *, stream: bool, chunks: int) -> str | None:
    """One request, looked at, since a fast wrong answer is no result. What is wrong with it; None if nothing."""
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions",
        data=body.encode(),
        headers={"content-type": "application/json", **server.headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{peer} answers with status {error.code}"
    right = text.strip().endswith("data: [DONE]") and text.count(" word") == chunks
    if right if stream else bool(json.loads(text)["choices"]):
        return None
    return f"{peer} answers {text[-200:]!r}"
