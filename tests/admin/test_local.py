"""What holds only where the work is done: the order of store and memory, the lock, the journal of a killed server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.admin.conftest import Plane
from tests.support.entries import make_entry
from tests.support.processes import PATIENCE_S
from trustgate.admin.commands import KeyRevoke, Status, TenantAdd, TenantList
from trustgate.admin.local import open_local_admin
from trustgate.admin.log_commands import ReceiptList, UsageShow
from trustgate.errors import StoreLocked, Unavailable
from trustgate.receipts.journal import Journal
from trustgate.settings import load_settings
from trustgate.store import open_store
from trustgate.types import Record


async def test_what_is_not_durable_is_not_shown(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*records: Record) -> None:
        raise Unavailable("The disk is full.", code="storage_full")

    with monkeypatch.context() as broken:
        broken.setattr(plane.store, "put", full)
        with pytest.raises(Unavailable):
            await plane.admin.execute(TenantAdd(name="acme"))
    assert await plane.admin.execute(TenantList()) == ()
    await plane.admin.execute(TenantAdd(name="acme"))


async def test_a_change_is_finished_although_its_caller_goes_away(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = plane.store.put
    durable, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*records: Record) -> None:
        await put(*records)
        durable.set()
        await go_on.wait()

    monkeypatch.setattr(plane.store, "put", slow)
    caller = asyncio.ensure_future(plane.admin.execute(TenantAdd(name="acme")))
    await durable.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    (tenant,) = await plane.admin.execute(TenantList())
    assert tenant.name == "acme"


async def test_of_many_who_want_one_name_one_gets_it(plane: Plane) -> None:
    results = await asyncio.gather(
        *(plane.admin.execute(TenantAdd(name="acme")) for _ in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    (tenant,) = await plane.admin.execute(TenantList())
    assert tenant.name == "acme"


async def test_a_revocation_does_not_wait_for_somebody_reading_the_books(plane: Plane) -> None:
    made = await plane.admin.execute(TenantAdd(name="acme"))
    plane.slow = asyncio.Event()
    reading = asyncio.ensure_future(plane.admin.execute(UsageShow()))
    await plane.flushing.wait()
    async with asyncio.timeout(PATIENCE_S):
        await plane.admin.execute(KeyRevoke(key=made.key.id))
    assert not reading.done()
    plane.slow.set()
    assert await reading == ()


async def test_without_a_server_the_home_is_made_and_the_work_done_here(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "new" / "home")
    admin = await open_local_admin(settings)
    try:
        made = await admin.execute(TenantAdd(name="acme"))
        status = await admin.execute(Status())
        assert (status.address, status.last_seq) == ("", 0)
        with pytest.raises(StoreLocked):
            await open_local_admin(settings)
    finally:
        await admin.close()
    assert not settings.journal_folder.exists(), "a journal is the server's to make"
    admin = await open_local_admin(settings)
    try:
        assert await admin.execute(TenantList()) == (made.tenant,)
    finally:
        await admin.close()


async def test_what_a_killed_server_left_in_its_journal_is_in_the_books(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    store = await open_store(settings.database)
    journal = Journal.open(settings.journal_folder, store_id=store.store_id, last_seq=0)
    journal.append(make_entry(1))
    journal.append(make_entry(2))
    journal.close()
    await store.close()

    admin = await open_local_admin(settings)
    try:
        for _ in range(2):
            assert [detail.seq for detail in await admin.execute(ReceiptList())] == [2, 1]
        (row,) = await admin.execute(UsageShow())
        assert row.requests == 2
    finally:
        await admin.close()
