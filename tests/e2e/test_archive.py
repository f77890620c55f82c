"""Old receipts in Parquet files: every command finds them, with and without a server, whatever happens to the files."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from tests.support.old_receipts import fill
from tests.support.processes import PATIENCE_S, clean_environment
from trustgate.ids import new_id
from trustgate.store import open_store
from trustgate.types import CreditNote

_ECHO = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}
COUNT = 1_100
#: Receipts of before 2026-02-03, to the end of a tile.
MOVED = 1_024
ROOT = Path(__file__).resolve().parents[2]


class Old(Gateway):
    """A home with receipts of February, of two tenants, and what commands said of them before anything was moved."""

    ids: list[str]
    secret: str


@pytest.fixture
def old(make_gateway: GatewayFactory) -> Old:
    gateway: Any = make_gateway(upstream="builtin:echo")
    added = [gateway.cli_json("tenant", "add", name, "--plan", "internal") for name in ("acme", "ducks")]
    gateway.ids = fill(gateway.home, COUNT, [(one["tenant"]["id"], one["key"]["id"]) for one in added])
    gateway.secret = added[0]["key"]["secret"]
    return gateway  # type: ignore[no-any-return]


def said(gateway: Old) -> list[str]:
    """All that commands tell of old receipts."""
    return [
        gateway.cli(*command).stdout
        for command in (
            *(("usage", "--by", by, "--json") for by in ("day", "model", "key", "tenant")),
            ("receipt", "list", "--limit", "1100", "--json"),
            ("receipt", "list", "--tenant", "ducks", "--limit", "7", "--json"),
            ("receipt", "show", gateway.ids[3], "--json"),
            ("export", "receipts"),
            ("export", "usage"),
        )
    ]


def archive(gateway: Gateway, *more: str) -> Any:
    return gateway.cli_json("archive", "--before", "2026-08", *more)


@pytest.mark.parametrize("served", [False, True], ids=["without-a-server", "with-a-server"])
def test_archived_receipts_are_found_by_every_command(old: Old, served: bool, tmp_path: Path) -> None:
    before, bundle = said(old), old.cli("receipt", "export", old.ids[3]).stdout
    if served:
        old.start()
    assert old.cli_json("archive", "--before", "2026-08", "--dry-run")["receipts"] == MOVED
    assert said(old) == before and not (old.home / "archive").exists(), "a dry run moves nothing"

    first = old.cli_json("archive", "--before", "2026-02-02T09:00")
    assert 0 < first["receipts"] < MOVED
    made = archive(old)

    assert first["receipts"] + made["receipts"] == made["last_seq"] == MOVED
    assert "do not fill a tile" in made["kept"]
    for path in (old.home / "archive").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, "they hold what opens commitments"
    assert stat.S_IMODE((old.home / "archive").stat().st_mode) == 0o700
    assert said(old) == before
    assert archive(old)["receipts"] == 0, "nothing is moved twice"
    exported = old.cli("receipt", "export", old.ids[3]).stdout
    (tmp_path / "bundle").write_text(exported)
    assert old.cli_json("receipt", "verify", str(tmp_path / "bundle"))
    if not served:
        assert exported == bundle
    assert [found["problem"] for found in old.cli_json("archive")["archives"]] == ["", ""]
    assert old.cli_json("doctor", "--books")["ok"]
    refused = old.cli("archive", "--before", "today", check=False)
    assert (refused.returncode, "running limits" in refused.stderr) == (2, True)
    if served:
        with httpx.Client(headers={"authorization": f"Bearer {old.secret}"}, trust_env=False, timeout=30) as client:
            mine = client.get(f"{old.api_url}/receipts/{old.ids[1]}")
            assert mine.status_code == 200, mine.text
            assert client.post(f"{old.api_url}/chat/completions", json=_ECHO).status_code == 200
        assert old.cli_json("doctor", "--books")["ok"]
        old.kill()
        assert old.cli_json("doctor", "--books")["ok"], "the chain of the tenant goes on after its archived receipts"


def test_the_database_shrinks(old: Old) -> None:
    fill(old.home, 30_000, [("ten_1", "key_1")])
    before = (old.home / "trustgate.duckdb").stat().st_size
    made = archive(old)
    assert made["receipts"] > 30_000
    assert made["after_bytes"] < before / 2
    assert old.cli_json("doctor", "--books")["ok"]


async def _note_credit(old: Old) -> None:
    """Keep the note of a credit whose receipt is the first one: it will be in an archive file."""
    store = await open_store(old.home / "trustgate.duckdb")
    try:
        entry = await store.entry(old.ids[0])
        assert entry is not None
        note = CreditNote(
            id=new_id("credit"),
            tenant_id=entry.receipt.tenant,
            reference="old",
            receipt_id=entry.receipt.id,
            credited_nano_usd=2_000_000_000,
            created_us=entry.receipt.created_us,
        )
        await store.put(note)
    finally:
        await store.close()


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_file_that_is_missing_or_damaged_is_named_and_the_rest_works(old: Old, damage: str) -> None:
    asyncio.run(_note_credit(old))
    archive(old)
    (path,) = (old.home / "archive").iterdir()
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:20_000] + bytes([data[20_000] ^ 1]) + data[20_001:])
    old.start()

    for command in (("usage",), ("receipt", "show", old.ids[0]), ("export", "receipts"), ("backup", "-")):
        refused = old.cli(*command, check=False)
        assert refused.returncode == 1
        assert path.name in refused.stderr and ("missing" in refused.stderr or "damaged" in refused.stderr)
    assert old.cli("archive", check=False).returncode == 1
    assert len(old.cli_json("receipt", "list", "--limit", "50")["receipts"]) == 50, "which are in the database"
    assert old.cli_json("receipt", "show", old.ids[-1])["seq"] == COUNT
    with httpx.Client(headers={"authorization": f"Bearer {old.secret}"}, trust_env=False, timeout=30) as client:
        assert client.post(f"{old.api_url}/chat/completions", json=_ECHO).status_code == 200
        asked = client.get(f"{old.api_url}/receipts/{old.ids[1]}")
        assert (asked.status_code, asked.json()["error"]["code"]) == (503, "archive_unavailable")
        assert str(old.home) not in asked.text
        checks = json.loads(old.cli("doctor", "--json", check=False).stdout)["checks"]
        found = [check["status"] for check in checks if check["name"] == "archive"]
        assert found == (["ok"] if damage == "flipped" else ["fail"]), "doctor compares sizes; archive reads them"
    audit = json.loads(old.cli("doctor", "--books", "--json", check=False).stdout)
    assert [difference["record"] for difference in audit["differences"]] == [f"archive file {path}"]
    old.cli("payment", "set", "ducks", "--mode", "prepaid")
    added = [old.cli_json("tenant", "credit", "ducks", "--add", "2", "--reference", name) for name in ("old", "new")]
    assert [(one["balance_nano_usd"], one["repeated"]) for one in added] == [(0, True), (2_000_000_000, False)]

    path.write_bytes(data)
    assert old.cli_json("doctor", "--books")["ok"], "it is back"
    assert old.cli_json("receipt", "show", old.ids[0])["seq"] == 1


def test_backups_hold_archive_files_or_name_them(old: Old, make_gateway: GatewayFactory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "files"
    first = old.cli_json("archive", "--before", "2026-02-02T09:00", "--to", str(elsewhere))
    archive(old)
    before = said(old)
    names = sorted(path.name for path in (*elsewhere.iterdir(), *(old.home / "archive").iterdir()))
    assert len(names) == 2 and first["files"][0]["folder"] == str(elsewhere)
    whole, small = tmp_path / "whole.tar", tmp_path / "small.tar"
    assert old.cli_json("backup", str(whole))["archives"] == 2
    assert old.cli_json("backup", str(small), "--without-archives")["archives_left_out"] == 2
    assert small.stat().st_size < whole.stat().st_size
    shutil.rmtree(elsewhere)

    for backup, missing in ((whole, []), (small, names)):
        other: Any = make_gateway(upstream="builtin:echo")
        other.ids = old.ids
        done = other.cli_json("restore", str(backup))
        assert sorted(done["archives_missing"]) == missing
        if missing:
            assert other.cli("usage", check=False).returncode == 1
            with_them = tmp_path / "unpacked"
            shutil.unpack_archive(whole, with_them)
            shutil.copytree(with_them / "trustgate-backup" / "archive", other.home / "archive")
        assert said(other) == before
        assert other.cli_json("doctor", "--books")["ok"]
        for path in (other.home / "archive").iterdir():
            assert missing or stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.slow
def test_killed_at_every_step_it_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.archive_kills", str(tmp_path / "kills")]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = done.stdout.splitlines()
    assert steps[-1].endswith(" steps") and int(steps[-1].split()[0]) >= 20, done.stdout
    assert {"after rename", "after _move", "after in_transaction", "after _rewrite"} <= set(steps)


def test_an_audit_without_a_server_names_the_file_where_it_is(old: Old) -> None:
    """It works on a copy of the home, in a folder that is gone when the report is read."""
    archive(old)
    (path,) = (old.home / "archive").iterdir()
    path.write_bytes(path.read_bytes()[:-1])

    audit = json.loads(old.cli("doctor", "--books", "--json", check=False).stdout)

    named = [found["record"] for found in audit["differences"] if found["record"].startswith("archive file")]
    assert named == [f"archive file {path}"]
