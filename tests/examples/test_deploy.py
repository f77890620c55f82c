"""examples/deploy: what can be run is run, what can be linted is linted."""

from __future__ import annotations

import ctypes
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.processes import Process, clean_environment, free_port
from tests.support.programs import require
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta

DEPLOY = ROOT / "examples" / "deploy"
#: prctl(2): what MemoryDenyWriteExecute does, as far as the kernel offers it without systemd.
_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


# a proxy in front


@pytest.fixture(scope="module")
def scripted() -> Iterator[Upstream]:
    server = Upstream().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def behind(make_module_gateway: GatewayFactory, scripted: Upstream) -> Gateway:
    """The gateway that the proxies stand in front of."""
    return make_module_gateway(upstream=scripted.api_url).start()


@pytest.fixture(scope="module")
def key(behind: Gateway) -> str:
    return behind.add_tenant("behind a proxy")


Start = Callable[[list[str], str], Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a proxy and waits until it answers at an address; ends it by SIGTERM."""
    running: list[Process] = []

    def run(command: list[str], address: str) -> Process:
        environment = clean_environment({"HOME": str(tmp_path)})
        process = Process(Path(command[0]).name, command, tmp_path, environment, tmp_path / "proxy.log")
        running.append(process)
        process.wait_until(lambda: _answers(address))
        return process

    yield run
    for process in running:
        process.signal(15)
        process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", verify=_any_certificate()).status_code == 200
    except httpx.TransportError:
        return False


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def replaced(text: str, changes: dict[str, str]) -> str:
    """The example with what belongs to a real machine replaced; each part has to be there, once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def check_stream(address: str, key: str, scripted: Upstream) -> None:
    """A stream's tokens come as they are made: the first is here before the second is."""
    gate = Gate()
    scripted.script(Reply.sse([delta("first"), gate, delta("second"), delta(None, finish_reason="stop"), DONE]))
    body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    with (
        httpx.Client(base_url=address, headers={"authorization": f"Bearer {key}"}, verify=_any_certificate()) as client,
        client.stream("POST", "/v1/chat/completions", json=body, timeout=20) as response,
    ):
        assert response.status_code == 200
        lines = response.iter_lines()
        assert "first" in next(lines)
        gate.wait_reached()
        gate.open()
        rest = list(lines)
    assert any("second" in line for line in rest)
    assert rest[-2:] == ["data: [DONE]", ""]
    with httpx.Client(base_url=address, verify=_any_certificate()) as client:
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"


def test_nginx(behind: Gateway, key: str, scripted: Upstream, start: Start, tmp_path: Path) -> None:
    port = free_port()
    certificate, certificate_key = certificate_files(tmp_path)
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        {
            "server 127.0.0.1:4010;": f"server {behind.base_url.removeprefix('http://')};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            "/etc/letsencrypt/live/gateway.example.com/fullchain.pem": str(certificate),
            "/etc/letsencrypt/live/gateway.example.com/privkey.pem": str(certificate_key),
        },
    )
    (tmp_path / "site.conf").write_text(site)
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; {user} pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {folders} include {tmp_path}/site.conf; }}\n"
    )
    command = [require("nginx"), "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr, tested.stderr
    start(command, f"https://127.0.0.1:{port}")
    check_stream(f"https://127.0.0.1:{port}", key, scripted)


def certificate_files(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *(require("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=gateway.example.com", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_caddy(behind: Gateway, key: str, scripted: Upstream, start: Start, tmp_path: Path) -> None:
    example = (DEPLOY / "Caddyfile").read_text()
    caddy = require("caddy")
    environment = clean_environment({"HOME": str(tmp_path)})
    valid = subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert valid.returncode == 0, valid.stderr
    assert "not formatted" not in valid.stderr, valid.stderr
    # Certificates are Caddy's own business, and need a name that the world can reach.
    address = f"http://127.0.0.1:{free_port()}"
    changes = {"gateway.example.com": address, "127.0.0.1:4010": behind.base_url.removeprefix("http://")}
    (tmp_path / "Caddyfile").write_text("{\n\tadmin off\n}\n" + replaced(example, changes))
    start([caddy, "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")], address)
    check_stream(address, key, scripted)


# systemd


def test_the_unit(tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    unit = tmp_path / "trustgate.service"
    here = tmp_path / "trustgate"
    here.write_text("#!/bin/sh\n")
    here.chmod(0o755)
    changes = {"ExecStart=/usr/local/bin/trustgate serve": f"ExecStart={here} serve"}
    unit.write_text(replaced((DEPLOY / "trustgate.service").read_text(), changes))
    verified = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    # In tenths: 0 is locked in, 100 is open.
    secure = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=20", str(unit)], capture_output=True, text=True, check=False
    )
    assert secure.returncode == 0, secure.stdout[-2000:]


def test_the_gateway_serves_without_memory_that_is_both_written_and_run(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute of the unit: no library on the request path makes code as it runs."""
    assert "MemoryDenyWriteExecute=yes" in (DEPLOY / "trustgate.service").read_text()
    launcher = tmp_path / "launch.py"
    launcher.write_text(
        "import ctypes, os, sys\n"
        f"if ctypes.CDLL(None).prctl({_PR_SET_MDWE}, {_PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0):\n"
        "    sys.exit('this kernel (before 6.3) cannot')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'trustgate', *sys.argv[1:]])\n"
    )
    if ctypes.CDLL(None).prctl(_PR_SET_MDWE + 1, 0, 0, 0, 0) < 0:  # PR_GET_MDWE
        pytest.skip("the kernel is older than 6.3 and has no such ban")
    home = Gateway(tmp_path / "home")
    key = home.add_tenant()
    command = [sys.executable, str(launcher), "--home", str(home.home), "serve", "--port", "0"]
    server = Process(
        "the gateway", [*command, "--upstream", "builtin:echo"], tmp_path, clean_environment(), tmp_path / "log"
    )
    server.wait_until(lambda: "ready at " in server.stdout)
    ready = re.search(r"ready at (http://\S+)", server.stdout)
    assert ready is not None
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
    answer = httpx.post(f"{ready[1]}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    server.signal(15)
    assert server.wait() == 0


# Docker


def test_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run(
        [hadolint, "--failure-threshold", "info", str(DEPLOY / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
    text = (DEPLOY / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source


# backups


def test_the_cron_file_calls_the_script_that_is_here() -> None:
    lines = [line for line in (DEPLOY / "backup.cron").read_text().splitlines() if re.match(r"[0-9*]", line)]
    assert len(lines) == 1
    minute, hour, *_, user, command, folder, days = lines[0].split()
    assert (minute.isdigit(), hour.isdigit(), user) == (True, True, "trustgate")
    assert Path(command).name == "backup.sh"
    assert os.access(DEPLOY / "backup.sh", os.X_OK)
    assert (folder, days) == ("/var/backups/trustgate", "30")


def test_the_backup_script(make_gateway: GatewayFactory, tmp_path: Path) -> None:
    gateway = make_gateway(upstream="builtin:echo").start()
    gateway.add_tenant("kept")
    programs, folder = tmp_path / "bin", tmp_path / "backups"
    programs.mkdir()
    shim = programs / "trustgate"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m trustgate "$@"\n')
    shim.chmod(0o755)
    environment = {"TRUSTGATE_HOME": str(gateway.home), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def run(home: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEPLOY / "backup.sh", folder, "30"],
            env=clean_environment({**environment, "TRUSTGATE_HOME": str(home)}),
            capture_output=True,
            text=True,
            check=False,
        )

    folder.mkdir()
    old, recent, other = (folder / name for name in ("trustgate-1.backup", "trustgate-2.backup", "mine.txt"))
    for file, age_days in ((old, 40), (recent, 3), (other, 40)):
        file.write_text("x")
        os.utime(file, (file.stat().st_mtime - age_days * 86400,) * 2)
    # A backup that fails takes no older one away, and leaves nothing behind.
    unusable = tmp_path / "file"
    unusable.write_text("no folder")
    assert run(unusable).returncode != 0
    assert {path.name for path in folder.iterdir()} == {old.name, recent.name, other.name}
    done = run(gateway.home)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in folder.iterdir()} - {recent.name, other.name}
    assert len(made) == 1
    assert old.name not in made
    assert (folder / made.pop()).stat().st_mode & 0o077 == 0
