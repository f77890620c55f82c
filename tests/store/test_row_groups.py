"""Receipts that come without a pause are written in row groups that are nearly full, and none is written twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.entries import make_entries
from trustgate.store import ReceiptFilter, engine, open_store
from trustgate.store.duckdb import DuckDBStore

_GROUP_ROWS = 2_048


def _groups(connection: Any) -> list[int]:
    """Returns how many receipts each row group in the file has, in order."""
    found = connection.execute(
        """SELECT sum(count) FROM pragma_storage_info('receipts')
           WHERE column_name = 'seq' AND segment_type <> 'VALIDITY' AND persistent
           GROUP BY row_group_id ORDER BY row_group_id"""
    )
    return [int(rows) for (rows,) in found.fetchall()]


async def test_row_groups_are_as_full_as_batches_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ROW_GROUP_ROWS", _GROUP_ROWS)
    store = await open_store(tmp_path / "trustgate.duckdb")
    assert isinstance(store, DuckDBStore)

    for first in range(1, 7_501, 500):
        await store.append_entries(make_entries(first, 500))

    assert await store._engine.run(_groups) == [2_000, 2_000, 2_000]
    page = await store.entries(ReceiptFilter(oldest_first=True, limit=10_000))
    assert [entry.seq for entry in page] == list(range(1, 7_501))
    await store.close()


async def test_a_pause_begins_a_row_group_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pause has had written into the file counts no more for the next row group."""
    monkeypatch.setattr(engine, "ROW_GROUP_ROWS", _GROUP_ROWS)
    monkeypatch.setattr(engine, "IDLE_CHECKPOINT_BYTES", 1)
    monkeypatch.setattr(engine.Engine, "idle_s", 0.01)
    loop, paused = asyncio.get_running_loop(), asyncio.Event()
    idle = engine.Engine._idle

    def pause(database: engine.Engine) -> None:
        idle(database)
        loop.call_soon_threadsafe(paused.set)

    monkeypatch.setattr(engine.Engine, "_idle", pause)
    store = await open_store(tmp_path / "trustgate.duckdb")
    assert isinstance(store, DuckDBStore)
    await store.append_entries(make_entries(1, 1_500))
    paused.clear()
    await store._engine.run(_groups)
    await asyncio.wait_for(paused.wait(), 60)
    assert store._database.wal_bytes == 0
    monkeypatch.setattr(engine, "IDLE_CHECKPOINT_BYTES", 2**62)

    await store.append_entries(make_entries(1_501, 1_500))
    assert store._database.wal_bytes > 0, "1,500 and 1,500 are more than a row group has, but half is in the file"
    await store.append_entries(make_entries(3_001, 600))

    assert sum(await store._engine.run(_groups)) == 3_000
    await store.close()


async def test_a_file_with_larger_row_groups_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of earlier versions, and those that ``compact`` has written, have row groups of 122,880 rows."""
    path = tmp_path / "trustgate.duckdb"
    monkeypatch.setattr(engine, "ROW_GROUP_ROWS", 122_880)
    store = await open_store(path)
    await store.append_entries(make_entries(1, 5_000))
    await store.close()
    with duckdb.connect(path) as connection:
        assert _groups(connection) == [5_000]
    monkeypatch.setattr(engine, "ROW_GROUP_ROWS", _GROUP_ROWS)

    store = await open_store(path)
    assert isinstance(store, DuckDBStore)
    for first in range(5_001, 10_001, 1_000):
        await store.append_entries(make_entries(first, 1_000))

    groups = await store._engine.run(_groups)
    assert sum(groups) == 9_000
    assert await store.last_seq() == 10_000
    assert len(await store.entries(ReceiptFilter(limit=20_000))) == 10_000
    await store.close()
