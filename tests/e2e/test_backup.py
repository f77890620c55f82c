"""Backups of a gateway that serves, put back into real homes: nothing acknowledged before it is lost, no log forks."""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway
from trustgate.receipts.checkpoint import open_checkpoint
from trustgate.receipts.note import VerifierKey

_ECHO = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]}


class Load:
    """Clients that ask without a pause until they are told to stop; knows every receipt that was acknowledged."""

    def __init__(self, gateway: Gateway, key: str, clients: int = 3) -> None:
        self._url = f"{gateway.api_url}/chat/completions"
        self._headers = {"authorization": f"Bearer {key}"}
        self._ended = threading.Event()
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        with httpx.Client(headers=self._headers, timeout=60, trust_env=False) as client:
            while not self._ended.is_set():
                answer = client.post(self._url, json=_ECHO)
                if answer.status_code == 200:
                    self.acknowledged.append(answer.headers["x-trustgate-receipt"])
                else:
                    self.refused.append(answer.text)


def ask(gateway: Gateway, key: str, count: int = 1) -> list[str]:
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=60, trust_env=False) as client:
        answers = [client.post(f"{gateway.api_url}/chat/completions", json=_ECHO) for _ in range(count)]
    assert {answer.status_code for answer in answers} <= {200}
    return [answer.headers["x-trustgate-receipt"] for answer in answers]


def receipts(gateway: Gateway) -> list[str]:
    listed = gateway.cli_json("receipt", "list", "--limit", "10000")["receipts"]
    return [detail["receipt"]["id"] for detail in reversed(listed)]


@pytest.fixture
def served(make_gateway: GatewayFactory) -> Gateway:
    gateway: Gateway = make_gateway(upstream="builtin:echo").start()
    return gateway


@pytest.fixture
def key(served: Gateway) -> str:
    return served.add_tenant(plan="internal")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Gateway]:
    """Another home, empty."""
    gateway = Gateway(tmp_path / "elsewhere", upstream="builtin:echo")
    yield gateway
    gateway.close()


def test_a_backup_under_load_has_all_that_was_acknowledged_before_it(
    served: Gateway, key: str, elsewhere: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    ask(served, key, 20)
    with Load(served, key) as load:
        while len(load.acknowledged) < 50:
            threading.Event().wait(0.01)
        before = list(load.acknowledged)
        made = served.cli_json("backup", str(file))
        after = len(load.acknowledged)
        while len(load.acknowledged) < after + 20:
            threading.Event().wait(0.01)
    assert not load.refused, "a backup refuses no request"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["last_seq"] >= 20 + len(before)
    served.kill()

    restored = elsewhere.cli_json("restore", str(file))
    assert restored["last_seq"] == made["last_seq"] == restored["backup_seq"]
    elsewhere.start()
    assert set(before) <= set(receipts(elsewhere)), "what was acknowledged before the backup began is in it"
    assert len(ask(elsewhere, key)) == 1, "the tenants' keys work"
    assert receipts(elsewhere)[: made["last_seq"]] == [entry["id"] for entry in exported(elsewhere)[: made["last_seq"]]]
    for name in ("receipts.csv", "receipts.parquet"):
        wrote = elsewhere.cli_json("export", "receipts", "--output", str(tmp_path / name))
        assert wrote["rows"] == len(receipts(elsewhere))
        assert (tmp_path / name).stat().st_size > 0
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    refused = elsewhere.cli("export", "usage", "--format", "parquet", check=False)
    assert (refused.returncode, "--output" in refused.stderr) == (2, True)
    assert elsewhere.cli("export", "usage", "--format", "csv").stdout.startswith("day,tenant,tenant_name,key,")
    keys = httpx.get(f"{elsewhere.base_url}/log/keys").json()
    assert keys["origin"] == made["origin"], "the log goes on under its name"


def exported(gateway: Gateway) -> list[dict[str, object]]:
    return [json.loads(line) for line in gateway.cli("export", "receipts").stdout.splitlines()]


def test_the_file_is_a_tar_of_plain_files(served: Gateway, key: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    ask(served, key, 3)
    made = served.cli_json("backup", str(file))
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path, filter="data")
        names = archive.getnames()
    assert names[0] == "trustgate-backup/manifest.json"
    folder = tmp_path / "trustgate-backup"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["last_seq"] == made["last_seq"] == 3
    checkpoint = open_checkpoint((folder / "checkpoint").read_bytes(), VerifierKey.parse(manifest["vkey"]))
    assert checkpoint.size == 3, "the checkpoint covers all that was acknowledged"
    assert not any("anchor" in name or "localnet" in name for name in names), "no key that holds money"
    assert not list(served.home.glob("backup-*.tmp")), "nothing is left behind"
    again = served.cli("backup", str(file), check=False)
    assert (again.returncode, "already exists" in again.stderr) == (5, True)
    served.cli("backup", str(file), "--force")


def test_an_older_backup_is_refused_and_a_journal_that_reaches_back_fills_it_in(
    served: Gateway, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    ids = ask(served, key, 5)
    served.cli("backup", str(file))
    refused = served.cli("restore", str(file), check=False)
    assert (refused.returncode, "Stop it first" in refused.stderr) == (5, True)
    ids += ask(served, key, 7)
    served.stop()

    # The journal still has the seven: the database alone is lost, as when its disk fails.
    (served.home / "trustgate.duckdb").write_bytes(b"\0" * 8192)
    dry = served.cli_json("restore", "--dry-run", str(file))
    assert (dry["backup_seq"], dry["last_seq"], dry["replaced"]) == (5, 12, "")
    restored = served.cli_json("restore", str(file))
    assert restored["last_seq"] == 12
    assert (Path(restored["replaced"]) / "trustgate.duckdb").exists(), "what was there is put aside"
    assert receipts(served) == ids

    # Without the journal seven receipts would be missing, and the log has signed for them.
    shutil.rmtree(served.home / "journal")
    before = sorted(path.name for path in served.home.iterdir())
    for flag in ((), ("--dry-run",)):
        forked = served.cli("restore", *flag, str(file), check=False)
        assert forked.returncode == 5
        assert "fork the log and lose 7 receipts" in forked.stderr
        assert "--new-log" in forked.stderr
    assert sorted(path.name for path in served.home.iterdir()) == before, "a refusal changes nothing"
    assert receipts(served) == ids

    # As a log of another name it may go on.
    origin = restored["origin"]
    new = served.cli_json("restore", "--new-log", str(file))
    assert new["origin"] != origin
    served.start()
    assert receipts(served) == ids[:5]
    assert ask(served, key)
    assert [name["vkey"].partition("+")[0] for name in httpx.get(f"{served.base_url}/log/keys").json()["keys"]] == [
        origin,
        new["origin"],
    ]


def test_a_home_of_another_log_is_left_alone(
    served: Gateway, key: str, make_gateway: GatewayFactory, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    ask(served, key)
    served.cli("backup", str(file))
    other = make_gateway(upstream="builtin:echo").start()
    ids = ask(other, other.add_tenant())
    other.stop()
    refused = other.cli("restore", str(file), check=False)
    assert (refused.returncode, "another" in refused.stderr) == (5, True)
    assert receipts(other) == ids


def test_offline_and_refused(make_gateway: GatewayFactory, elsewhere: Gateway, tmp_path: Path) -> None:
    home = make_gateway(upstream="builtin:echo")
    home.add_tenant()
    (home.home / "backup-killed.tmp").mkdir()
    good, bad = tmp_path / "backup.tar", tmp_path / "bad.tar"
    home.cli("backup", str(good))
    assert not list(home.home.glob("backup-*")), "what a killed backup left is gone, too"
    full = home.cli("backup", "/dev/full/x", check=False)
    assert (full.returncode, "cannot be written" in full.stderr) == (1, True)
    bad.write_bytes(good.read_bytes()[:100_000])
    refused = elsewhere.cli("restore", str(bad), check=False)
    assert (refused.returncode, "cannot be restored" in refused.stderr) == (1, True)
    assert list(elsewhere.home.iterdir()) == []
    said = elsewhere.cli("restore", str(good)).stderr
    assert "missing" not in said, "that nothing stands beside a backup's database is no loss"
    assert elsewhere.cli_json("tenant", "list") == home.cli_json("tenant", "list")


def test_compacting_while_it_serves_loses_nothing(served: Gateway, key: str) -> None:
    with Load(served, key) as load:
        while len(load.acknowledged) < 50:
            threading.Event().wait(0.01)
        done = served.cli_json("compact")
    assert not load.refused
    assert done["after_bytes"] <= done["before_bytes"]
    assert set(load.acknowledged) == set(receipts(served))
    served.stop()
    served.cli("compact")
    assert set(load.acknowledged) == set(receipts(served))
