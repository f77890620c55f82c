"""Feeds: exports and backups, by every way to the control plane; and backups that are not what they should be."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.admin.conftest import Plane
from tests.admin.test_routes import Broken
from tests.support.disks import tiny_disk
from tests.support.entries import FIRST_US, make_entries, make_entry
from trustgate.admin.backupfile import unpack
from trustgate.admin.commands import Admin, Feed, TenantAdd
from trustgate.admin.local import FEEDS
from trustgate.admin.log_commands import Backup, Compact, ReceiptsExport, UsageExport
from trustgate.admin.routes import FEED_PATH, admin_routes
from trustgate.errors import (
    Conflict,
    HomeUnusable,
    NotFound,
    PermissionDenied,
    StoreDamaged,
    StoreTooNew,
    TrustGateError,
)
from trustgate.store import exports
from trustgate.store.exports import RECEIPT_COLUMNS, USAGE_COLUMNS, write_table
from trustgate.types import (
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    Receipt,
)

_DAY_US = 86_400_000_000
#: What a receipt of version 2 has besides.
_PAID: dict[str, Any] = {
    "charged_nano_usd": 5,
    "credited_nano_usd": 7,
    **{name: f'{name} "é' for name in RECEIPT_PAYMENT_MEMBERS[2:]},
}


def _receipt(row: dict[str, Any]) -> Receipt:
    return msgspec.convert({name: value for name, value in row.items() if value is not None}, Receipt)


async def _lines(admin: Admin, command: Feed[Any]) -> tuple[list[dict[str, Any]], Any]:
    pieces: list[bytes] = []

    async def write(data: bytes) -> None:
        pieces.append(data)

    result = await admin.feed(command, write)
    return [json.loads(line) for line in b"".join(pieces).splitlines()], result


def test_every_feed_has_a_handler() -> None:
    assert set(FEEDS) == set(Feed.__subclasses__())


async def test_receipts_come_whole_in_order_and_filtered(admin: Admin, plane: Plane) -> None:
    acme = (await admin.execute(TenantAdd(name="acme"))).tenant
    entries = [
        make_entry(seq, tenant=acme.id if seq % 3 == 0 else "ten_other", model='a "quoted"\n名')
        for seq in range(1, 4501)
    ]
    entries[5] = make_entry(6, tenant=acme.id, v=2, **_PAID)
    await plane.store.append_entries(entries[:-1])
    plane.acknowledged.append(entries[-1])

    rows, result = await _lines(admin, ReceiptsExport())
    assert result.rows == len(rows) == 4500, "what was only acknowledged is in it"
    assert list(rows[0]) == list(RECEIPT_COLUMNS)
    assert [_receipt(row) for row in rows] == [entry.receipt for entry in entries]
    assert [row["seq"] for row in rows] == [entry.seq for entry in entries]

    since, until = entries[100].receipt.created_us, entries[200].receipt.created_us
    own, _ = await _lines(admin, ReceiptsExport(tenant="acme", since_us=since, until_us=until))
    assert [row["seq"] for row in own] == [seq for seq in range(101, 201) if seq % 3 == 0]
    none, result = await _lines(admin, ReceiptsExport(since_us=since, until_us=since))
    assert (none, result.rows) == ([], 0)


async def test_usage_adds_up_by_day(admin: Admin, plane: Plane) -> None:
    acme = (await admin.execute(TenantAdd(name="acme"))).tenant
    days = (FIRST_US, FIRST_US + _DAY_US, FIRST_US + 9 * _DAY_US)
    entries = [
        make_entry(seq, tenant=acme.id, created_us=days[seq % 3], finish=finish, usage_source=source)
        for seq, (finish, source) in enumerate(
            [("complete", "provider"), ("refused", "provider"), ("upstream_error", "provider"), ("cut", "estimate")]
            * 3,
            1,
        )
    ]
    plane.acknowledged += entries
    rows, result = await _lines(admin, UsageExport())
    assert result.rows == len(rows) == 3
    assert [row["day"] for row in rows] == ["2026-02-02", "2026-02-03", "2026-02-11"]
    assert list(rows[0]) == list(USAGE_COLUMNS)
    assert {row["tenant_name"] for row in rows} == {"acme"}
    totals = {name: sum(row[name] for row in rows) for name in ("requests", "refused", "failed", "estimated")}
    assert totals == {"requests": 6, "refused": 3, "failed": 3, "estimated": 3}
    assert sum(row["cost_nano_usd"] for row in rows) == 6 * entries[0].receipt.cost_nano_usd
    assert (await _lines(admin, UsageExport(tenant=acme.id, since_us=days[2])))[1].rows == 1


async def test_usage_of_many_keys_comes_in_pages_whole_and_in_order(
    admin: Admin, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day of more groups than fit into the database's memory at once: each is in one page, and in no other."""
    monkeypatch.setattr(exports, "_PAGE_GROUPS", 4)
    entries = [
        make_entry(seq, tenant=f"ten_{seq % 3}", key=f"key_{seq % 5}", model=f"model-{seq % 7}", created_us=FIRST_US)
        for seq in range(1, 210)
    ]
    await plane.store.append_entries(entries)
    rows, result = await _lines(admin, UsageExport())
    groups = [(row["tenant"], row["key"], row["model"]) for row in rows]
    assert result.rows == len(groups) == len(set(groups)) == 105
    assert groups == sorted(groups)
    assert sum(row["requests"] for row in rows) == 209
    own, _ = await _lines(admin, UsageExport(since_us=FIRST_US, until_us=FIRST_US + 1))
    assert own == rows


async def test_a_feed_of_nobody_is_refused(admin: Admin) -> None:
    for command in (ReceiptsExport(tenant="nobody"), UsageExport(tenant="nobody")):
        with pytest.raises(NotFound, match="There is no tenant"):
            await _lines(admin, command)


async def test_a_backup_never_travels_over_a_network(
    admin: Admin, plane: Plane, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await plane.store.append_entries(make_entries(1, 300))
    file = tmp_path / "backup.tar"
    with file.open("wb") as target:

        async def write(data: bytes) -> None:
            target.write(data)

        if request.node.callspec.params["admin"] == "network":
            with pytest.raises(PermissionDenied, match="own machine"):
                await admin.feed(Backup(), write)
            return
        made = await admin.feed(Backup(), write)
    assert made.size_bytes == file.stat().st_size
    (tmp_path / "out").mkdir()
    manifest = unpack(file, tmp_path / "out", lambda done, total: None)
    assert (manifest.last_seq, manifest.store_id) == (300, plane.store.store_id)
    with tarfile.open(file) as archive:
        assert {member.mode for member in archive} == {0o600}


async def test_one_copy_at_a_time(plane: Plane) -> None:
    async with plane.context.copying:
        with pytest.raises(Conflict, match="already"):
            await plane.admin.execute(Compact())


async def test_a_fault_in_the_middle_of_a_feed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from starlette.applications import Starlette

    app = Starlette(routes=admin_routes(Broken(), key=None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        answer = await client.post(FEED_PATH, content=msgspec.json.encode(ReceiptsExport()))
    assert answer.content.startswith(b"\0\0\0\4some\0\0\0\0")
    outcome = json.loads(answer.content[12:])
    assert outcome["kind"] == "TrustGateError"
    assert "detail" not in answer.text
    assert "ZeroDivisionError" in caplog.text


# the file


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup of an empty log."""
    import asyncio

    folder = tmp_path_factory.mktemp("good")

    async def make() -> bytes:
        plane = await Plane.open(folder)
        pieces: list[bytes] = []

        async def write(data: bytes) -> None:
            pieces.append(data)

        await plane.admin.feed(Backup(), write)
        await plane.admin.close()
        return b"".join(pieces)

    return asyncio.run(make())


def _refusal(folder: Path, data: bytes) -> TrustGateError:
    folder.mkdir(exist_ok=True)
    file = folder / "bad.tar"
    file.write_bytes(data)
    out = folder / "out"
    out.mkdir()
    with pytest.raises(TrustGateError) as refused:
        unpack(file, out, lambda done, total: None)
    return refused.value


def test_what_is_no_backup_is_refused(good: bytes, tmp_path: Path) -> None:
    cases = {
        "no tar": (b"hello" * 1000, StoreDamaged, "not a backup"),
        "empty": (b"", StoreDamaged, "not a backup"),
        "path": (good.replace(b'"name": "log.key"', b'"name": "../.key"'), StoreDamaged, "do not belong"),
        "member": (good.replace(b"trustgate-backup/log.key", b"trustgate-backup/log.kex"), StoreDamaged, ""),
        "newer": (good.replace(b'"format": 1', b'"format": 3'), StoreTooNew, "newer TrustGate"),
    }
    for name, (data, kind, said) in cases.items():
        assert data != good, name
        refused = _refusal(tmp_path / name, data)
        assert isinstance(refused, kind), name
        assert said in refused.message, name


@given(st.data())
def test_no_damage_goes_unnoticed(good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One flipped bit in what a file holds, or a cut anywhere before the last file's end."""
    with_content = good.rstrip(b"\0")
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(with_content) - 1))]
    else:
        # Inside the database, which is the last file and nearly all of it.
        position = data.draw(st.integers(len(with_content) - 100_000, len(with_content) - 1))
        bad = good[:position] + bytes([good[position] ^ (1 << data.draw(st.integers(0, 7)))]) + good[position + 1 :]
    assert isinstance(_refusal(tmp_path_factory.mktemp("bad"), bad), StoreDamaged)


# tables


def test_tables_hold_what_the_lines_say(tmp_path: Path) -> None:
    others = (*RECEIPT_PRICE_MEMBERS, *RECEIPT_PAYMENT_MEMBERS, *RECEIPT_END_USER_MEMBERS, *RECEIPT_WORK_MEMBERS)
    none = dict.fromkeys(others)
    rows = [{"seq": entry.seq, **msgspec.to_builtins(entry.receipt), **none} for entry in make_entries(1, 50)]
    rows[3] |= _PAID
    rows[7]["model"] = '=1+1, "名"\n'
    lines = tmp_path / "it's lines.jsonl"
    lines.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    write_table(lines, tmp_path / "a.csv", RECEIPT_COLUMNS, "csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    # An apostrophe before what a spreadsheet would run.
    assert read[7]["model"] == f"'{rows[7]['model']}"
    assert [row["model"].removeprefix("'") for row in read] == [row["model"] for row in rows]
    assert [int(row["created_us"]) for row in read] == [row["created_us"] for row in rows]
    write_table(lines, tmp_path / "a.parquet", RECEIPT_COLUMNS, "parquet")
    found = duckdb.connect().execute("SELECT * FROM read_parquet(?)", [str(tmp_path / "a.parquet")])
    names = [column[0] for column in found.description or ()]
    assert [dict(zip(names, row, strict=True)) for row in found.fetchall()] == rows
    lines.write_bytes(b"")
    write_table(lines, tmp_path / "none.csv", USAGE_COLUMNS, "csv")
    assert (tmp_path / "none.csv").read_text().strip() == ",".join(USAGE_COLUMNS)
    with pytest.raises(TrustGateError, match="cannot be written"):
        write_table(lines, tmp_path / "nowhere" / "a.csv", USAGE_COLUMNS, "csv")


# a disk that is full


def test_a_table_for_which_there_is_no_room_is_refused_in_words(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    rows = (msgspec.json.encode({"day": f"{n:x}" * 9, "requests": n}) + b"\n" for n in range(100_000))
    lines.write_bytes(b"".join(rows))
    for kind in ("csv", "parquet"):
        with tiny_disk(tmp_path / "disk", 64 * 1024) as disk, pytest.raises(TrustGateError) as caught:
            write_table(lines, disk / "table", USAGE_COLUMNS, kind)
        assert caught.value.message == f"{tmp_path}/disk/table cannot be written: No space left on device."


def test_a_backup_for_which_there_is_no_room_is_not_blamed_itself(good: bytes, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    backup.write_bytes(good)
    with tiny_disk(tmp_path / "disk", 64 * 1024) as disk, pytest.raises(HomeUnusable) as caught:
        unpack(backup, disk, lambda done, total: None)
    assert f"{tmp_path}/disk/trustgate.duckdb cannot be written: No space left on device." in caught.value.message
    assert caught.value.hint == "Free some space on its disk."
    with pytest.raises(TrustGateError, match=f"{tmp_path}/none.tar cannot be read: No such file"):
        unpack(tmp_path / "none.tar", tmp_path, lambda done, total: None)
