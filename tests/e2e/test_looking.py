"""Commands that only look leave a home as it is: none is made, nothing is written, nothing is signed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import Gateway

_ECHO = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}


def state(home: Path) -> dict[str, tuple[str, int]]:
    """Every file of the home but the lock: its content and when it was changed."""
    return {
        str(path.relative_to(home)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.parametrize(
    "command",
    [
        *(("tenant", "list"), ("key", "list"), ("plan", "list"), ("passport", "list"), ("receipt", "list")),
        *(("usage",), ("anchor", "status"), ("anchor", "list"), ("payment", "list"), ("doctor", "--books")),
        *(("export", "receipts"), ("archive",), ("compact",), ("tenant", "show", "acme"), ("backup", "-")),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("exists", [False, True], ids=["no-folder", "empty-folder"])
def test_what_only_looks_makes_no_home(tmp_path: Path, command: tuple[str, ...], exists: bool) -> None:
    gateway = Gateway(tmp_path / "home")
    if exists:
        gateway.home.mkdir(mode=0o700)

    done = gateway.cli(*command, check=False)

    assert done.returncode == 1
    assert f"There is no database in {gateway.home}" in done.stderr and "trustgate serve" in done.stderr
    assert gateway.home.exists() == exists and not (exists and list(gateway.home.iterdir()))


def test_an_audit_without_a_server_leaves_everything_as_it_is(gateway: Gateway) -> None:
    """Although the server was killed, and its journal holds receipts that the database and the checkpoint lack."""
    with httpx.Client(headers={"authorization": f"Bearer {gateway.add_tenant()}"}, trust_env=False) as client:
        for _ in range(12):
            assert client.post(f"{gateway.api_url}/chat/completions", json=_ECHO).status_code == 200
    gateway.kill()
    before = state(gateway.home)

    report = gateway.cli_json("doctor", "--books")

    assert (report["ok"], report["receipts"]) == (True, 12)
    assert state(gateway.home) == before
    gateway.start()
    assert gateway.cli_json("doctor", "--books")["receipts"] == 12


def test_doctor_names_a_missing_file_of_ids_before_the_next_start(gateway: Gateway) -> None:
    with httpx.Client(headers={"authorization": f"Bearer {gateway.add_tenant()}"}, trust_env=False) as client:
        assert client.post(f"{gateway.api_url}/chat/completions", json=_ECHO).status_code == 200
    assert gateway.stop() == 0
    for is_missing in (False, True):
        if is_missing:
            (gateway.home / "handles.jsonl").unlink()
        checks = json.loads(gateway.cli("doctor", "--json", check=False).stdout)["checks"]
        told = [check for check in checks if "handles.jsonl" in check["message"]]
        assert [check["status"] for check in told] == ["warn"] * is_missing
        assert all("backup" in check["hint"] for check in told)


def test_what_killed_commands_have_left_is_removed_at_the_next_start(gateway: Gateway) -> None:
    assert gateway.stop() == 0
    left = [gateway.home / name for name in ("backup-x1.tmp", "audit-x2.tmp")]
    for folder in left:
        folder.mkdir()
        (folder / "trustgate.duckdb").write_bytes(b"half a copy")
    (gateway.home / "checkpoint.new").write_bytes(b"half")
    gateway.start()
    assert not any(path.exists() for path in (*left, gateway.home / "checkpoint.new"))
    assert json.loads(gateway.cli("doctor", "--json", check=False).stdout)["checks"]
