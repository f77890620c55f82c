"""examples/deploy/two-machines, "Many receipts": the table of receipts in parts, as the page makes it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.environments import ROOT
from tests.support.entries import make_entries
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from trustgate.errors import StoreDamaged
from trustgate.settings import PostgresAddress
from trustgate.store import ReceiptFilter, Store, UsageFilter, open_store

_PAGE = ROOT / "examples" / "deploy" / "two-machines" / "README.md"


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.schema()


def page_sql() -> str:
    [block] = re.findall(r"```sql\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    return str(block)


def indexes(url: str, table: str) -> list[Any]:
    """What a table's indexes are of, without their names and places."""
    found = run_sql(url, f"SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '{table}'::regclass")
    return sorted(re.sub(r"INDEX \S+ ON (ONLY )?\S+ ", "", text) for (text,) in found)


async def test_a_store_whose_receipts_lie_in_parts_is_the_same(url: str, tmp_path: Path) -> None:
    async def look(store: Store) -> Any:
        everything = ReceiptFilter(oldest_first=True, limit=100)
        one = ReceiptFilter(tenant_id=entries[0].receipt.tenant, limit=5)
        usage = await store.usage(UsageFilter(by="key"))
        return (
            await store.entries(everything),
            await store.entries(one),
            usage,
            await store.entry(entries[-1].receipt.id),
        )

    address, entries = PostgresAddress(url), make_entries(1, 60)
    store = await open_store(tmp_path / "trustgate.duckdb", address)
    await store.append_entries(entries[:40])
    before, has = await look(store), await asyncio.to_thread(indexes, url, "receipts")
    await store.close()
    await asyncio.to_thread(run_sql, url, page_sql())
    store = await open_store(tmp_path / "trustgate.duckdb", address)
    assert await look(store) == before
    await store.append_entries(entries[40:])
    assert (await store.entries(ReceiptFilter(oldest_first=True, limit=100))) == entries
    assert await store.last_seq() == 60
    await store.close()
    # A later migration reaches every part; each receipt is in the part of its number.
    await asyncio.to_thread(run_sql, url, "ALTER TABLE receipts ADD COLUMN of_tomorrow BIGINT")
    parts = "SELECT tableoid::regclass::text, count(*) FROM receipts GROUP BY 1 ORDER BY 1"
    assert await asyncio.to_thread(run_sql, url, parts) == [("receipts_1", 20), ("receipts_first", 40)]
    for table in ("receipts", "receipts_first", "receipts_40"):
        assert await asyncio.to_thread(indexes, url, table) == has
    # None of them may be missing.
    await asyncio.to_thread(run_sql, url, "ALTER TABLE receipts DETACH PARTITION receipts_first")
    with pytest.raises(StoreDamaged):
        await open_store(tmp_path / "trustgate.duckdb", address)
