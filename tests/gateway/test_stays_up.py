"""What happens around the server does not end it: stderr that takes nothing, an early SIGHUP, a wrong clock."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.support.entries import make_entry
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.http.tls import Certificate
from trustgate.store import open_store

_ECHO = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, str]:
    """A home with a tenant, and the secret of its key."""
    gateway = Gateway(tmp_path / "home")
    return gateway.home, gateway.add_tenant()


@contextmanager
def _serve(
    home: Path, stderr: IO[bytes] | int, environment: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "trustgate", "--home", str(home), "serve", "--port", "0"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=stdout, stderr=stderr, env=clean_environment(environment), cwd=root
    ) as server:
        try:
            yield server
        finally:
            server.kill()  # of a test that failed; else it has ended


def _address(server: subprocess.Popen[bytes]) -> str:
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], PATIENCE_S)
    assert ready, "it is not ready"
    words = server.stdout.readline().decode().split()
    assert "ready" in words, words
    return words[words.index("at") + 1]


@pytest.fixture(params=["full", "closed"])
def deaf(request: pytest.FixtureRequest) -> Iterator[IO[bytes]]:
    """A stderr that takes nothing: of a full disk, or a pipe that is not read any more."""
    if request.param == "full":
        with Path("/dev/full").open("wb", buffering=0) as full:
            yield full
        return
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe:
        yield pipe


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_stderr_that_takes_nothing_stops_nothing(home: tuple[Path, str], deaf: IO[bytes], form: str) -> None:
    folder, key = home
    log = {"TRUSTGATE_LOG_REQUESTS": "true", "TRUSTGATE_LOG_LEVEL": "debug", "TRUSTGATE_LOG_FORMAT": form}
    with _serve(folder, deaf, log) as server:
        address = _address(server)
        with httpx.Client(headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as client:
            deadline = time.monotonic() + 1.5  # several times the pause between two writes of lines
            while time.monotonic() < deadline:
                assert client.post(f"{address}/v1/chat/completions", json=_ECHO).status_code == 200
        server.terminate()
        assert server.wait(PATIENCE_S) == 0


def test_a_stdout_that_nobody_reads_stops_nothing(home: tuple[Path, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with _serve(home[0], subprocess.PIPE, stdout=write) as server:
        os.close(write)
        deadline = time.monotonic() + PATIENCE_S
        while not _answers(home[0] / "admin.sock"):
            assert time.monotonic() < deadline
            assert server.poll() is None
        server.terminate()
        said = server.communicate(timeout=PATIENCE_S)[1].decode()
        assert (server.returncode, "Error" in said) == (0, False), said


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def test_a_hangup_while_it_starts_does_not_end_it(home: tuple[Path, str], tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, _serve(home[0], log, {"TRUSTGATE_LOG_LEVEL": "info"}) as server:
        mask = f"/proc/{server.pid}/status"
        deadline = time.monotonic() + PATIENCE_S
        while not _catches_hangup(Path(mask)):  # the interpreter itself takes a moment before any program's code runs
            assert time.monotonic() < deadline
            assert server.poll() is None
        for _ in range(20):
            server.send_signal(signal.SIGHUP)
        _address(server)
        while "settings reloaded" not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline
        server.terminate()
        assert server.wait(PATIENCE_S) == 0


def _catches_hangup(status: Path) -> bool:
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << signal.SIGHUP - 1)


def test_a_certificate_that_could_not_be_read_once_is_taken_later(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    _make_certificate(certificate, key, "first")
    held = Certificate(certificate, key)
    before = _subject(held)
    _make_certificate(certificate, key, "second")
    kept = key.read_bytes()
    stamp = key.stat()
    key.write_bytes(b"x" * len(kept))
    os.utime(key, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    held.look()
    assert _subject(held) == before
    key.write_bytes(kept)
    os.utime(key, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    held.look()

    assert _subject(held) != before, "nothing that can be seen from outside has changed, and it is readable now"


def _make_certificate(certificate: Path, key: Path, name: str) -> None:
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}")
    command = ["openssl", "req", "-x509", *made, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


def _subject(held: Certificate) -> bytes:
    """The certificate that a client gets."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = held.context.wrap_bio(to_server, to_client, server_side=True)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    client = trusting.wrap_bio(to_client, to_server)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def test_receipts_of_the_future_do_not_count_in_todays_windows(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    try:
        now = make_entry(1).receipt.created_us
        await store.append_entries([make_entry(1), make_entry(2, created_us=now + 365 * 86_400_000_000)])

        (used,) = await store.window_usage(now - 1, now + 60_000_000)
    finally:
        await store.close()

    assert used.requests == 1
