"""Settings that change while the gateway serves: SIGHUP and ``trustgate reload``, on a real server."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import msgspec
import pytest

from tests.conftest import GatewayFactory
from tests.docs import SETTINGS
from tests.gateway.conftest import SignUp, Tenant
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment, wait_until
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta
from trustgate.server.reload import RELOADED, adopted, differences, is_reloaded
from trustgate.settings import AnchorSettings, JournalSettings, ServeSettings, Settings, describe


def _settings(gateway: Gateway, text: str) -> None:
    (gateway.home / "trustgate.toml").write_text(text)


@pytest.fixture
def gateway(make_gateway: GatewayFactory, upstream: Upstream) -> Gateway:
    """Its upstream is in the file, where it can be changed."""
    made: Gateway = make_gateway()
    made.home.mkdir()
    _settings(made, f'[upstream]\nurl = "{upstream.api_url}"\n')
    return made.start()


@pytest.fixture
def tenant(gateway: Gateway, sign_up: SignUp) -> Tenant:
    return sign_up(gateway)


def test_what_is_reloaded_holds_from_the_next_request_on(gateway: Gateway, upstream: Upstream, tenant: Tenant) -> None:
    assert tenant.chat().status_code == 200
    other = Upstream().start()
    try:
        _settings(
            gateway,
            f'[upstream]\nurl = "{other.api_url}"\nforward_headers = ["x-allowed"]\n'
            "[serve]\nmax_body_bytes = 2000\nport = 1\n[journal]\nsync_ms = 77\n"
            '[anchor]\nevery = "7h"\n[log]\nlevel = "warning"\n',
        )
        done = gateway.cli_json("reload")
        assert set(done["changed"]) == {
            *("upstream.url", "upstream.forward_headers", "serve.max_body_bytes", "anchor.every", "log.level"),
        }
        assert done["restart"] == ["journal.sync_ms"], "a flag goes before the file: the port is as it was"

        before = _asked(upstream)
        answer = tenant.http.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
            headers={"x-allowed": "yes"},
        )
        assert answer.status_code == 200
        assert _asked(upstream) == before, "the old upstream is not asked any more"
        assert [request.header("x-allowed") for request in other.requests if request.method == "POST"] == ["yes"]
        assert tenant.chat(user="x" * 3000).status_code == 413
        assert gateway.cli_json("anchor", "status")["schedule"].startswith("every 7h")
        assert gateway.cli_json("reload") == {"changed": [], "restart": ["journal.sync_ms"], "replacing": []}
    finally:
        other.stop()


def _asked(upstream: Upstream) -> int:
    return len([request for request in upstream.requests if request.method == "POST"])


_BAD_FILES = {
    "serve.port": "[serve]\nmax_body_bytes = 2000\nport = 70000\n",
    "line 1": "[serve\n",
    "Did you mean max_body_bytes": "[serve]\nmax_bodybytes = 2000\n",
    "NO_SUCH_VARIABLE is not set": '[serve]\nmax_body_bytes = 2000\n[upstream]\nkey_env = "NO_SUCH_VARIABLE"\n',
}


def test_a_bad_file_is_refused_whole(gateway: Gateway, tenant: Tenant) -> None:
    for says, text in _BAD_FILES.items():
        _settings(gateway, text)
        refused = gateway.cli("reload", check=False)
        assert refused.returncode == 2
        assert says in refused.stderr
    gateway.process.signal(signal.SIGHUP)
    wait_until(lambda: "the settings stay as they are" in gateway.logs(), "the log's word on the bad file")
    assert tenant.chat(user="x" * 3000).status_code == 200, "nothing of it holds"


def test_a_hangup_reloads_and_a_running_stream_goes_on(gateway: Gateway, upstream: Upstream, tenant: Tenant) -> None:
    gate = Gate()
    upstream.script(Reply.sse([delta("a"), gate, delta("b"), DONE]))
    with tenant.stream() as answer:
        lines = answer.iter_lines()
        assert next(lines)
        gate.wait_reached()
        _settings(
            gateway, f'[upstream]\nurl = "{upstream.api_url}"\nretries = 0\n[serve]\nmax_concurrent_requests = 1\n'
        )
        gateway.process.signal(signal.SIGHUP)
        wait_until(lambda: "settings reloaded" in gateway.logs(), "the reload")
        assert tenant.chat().json()["error"]["code"] == "overloaded"
        gate.open()
        assert "data: [DONE]" in list(lines)
    assert tenant.chat().status_code == 200


def test_the_end_of_its_terminal_is_the_servers_end(tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trustgate", "--home", str(tmp_path / "home"), "serve", "--port", "0"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean_environment(), "TRUSTGATE_UPSTREAM_URL": "builtin:echo"},
        start_new_session=True,
        # The terminal is to control the session; no other thread runs here.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(theirs)
    said = b""

    def wait_for(words: bytes) -> None:
        nonlocal said
        while words not in said:
            assert select.select([terminal], [], [], PATIENCE_S)[0], said
            said += os.read(terminal, 65536)

    try:
        wait_for(b"is ready")
        process.send_signal(signal.SIGHUP)
        wait_for(b"settings reloaded")
        os.close(terminal)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_without_a_server_there_is_nothing_to_reload(tmp_path: Path) -> None:
    refused = Gateway(tmp_path / "home").cli("reload", check=False)
    assert (refused.returncode, "No server runs" in refused.stderr) == (5, True)


def test_every_reloaded_name_is_a_setting_and_the_table_marks_it() -> None:
    names = [setting.name for setting in describe()]
    sections = {name.partition(".")[0] for name in names}
    for name in RELOADED:
        assert name in names or (name.endswith(".*") and name.removesuffix(".*") in sections), name
    table = SETTINGS.read_text()
    for name in names:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert row.endswith("↻ |") == is_reloaded(name), name


def test_only_what_may_change_is_adopted() -> None:
    old = Settings(home=Path("/h"))
    new = Settings(
        home=Path("/h"),
        serve=ServeSettings(port=5, max_body_bytes=4096),
        journal=JournalSettings(sync_ms=7),
        anchor=AnchorSettings(every="1h"),
    )
    assert differences(old, new) == ["serve.port", "serve.max_body_bytes", "journal.sync_ms", "anchor.every"]
    held = adopted(old, new)
    assert held.serve == msgspec.structs.replace(old.serve, max_body_bytes=4096)
    assert (held.journal, held.anchor) == (old.journal, new.anchor)
