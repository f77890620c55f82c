"""The store on Postgres where it is a network away: sessions that are cut, refused and taken by others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.entries import make_entries
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from trustgate.errors import OperatorError, StoreLocked, StoreTooNew, StoreUnusable
from trustgate.settings import PostgresAddress
from trustgate.store import ReceiptFilter, Store, open_store
from trustgate.types import Tenant

_CUT = """SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE application_name LIKE 'trustgate %' AND pid <> pg_backend_pid()"""


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


def _open(url: str, home: Path) -> asyncio.Future[Store]:
    return asyncio.ensure_future(open_store(home / "trustgate.duckdb", PostgresAddress(url)))


async def test_sessions_that_are_cut_are_opened_again(url: str, tmp_path: Path) -> None:
    store = await _open(url, tmp_path)
    entries = make_entries(1, 3)
    await store.append_entries(entries[:1])

    for tenant in (Tenant(id="tenant_1", name="a", plan="pro"), Tenant(id="tenant_2", name="b", plan="pro")):
        (cut,) = await asyncio.to_thread(run_sql, url, _CUT)
        assert cut[0] >= 1
        await store.put(tenant)
    await asyncio.to_thread(run_sql, url, _CUT)
    # Whether the append was carried out is not known at first; it is looked up, and done once.
    await store.append_entries(entries[1:])

    assert [tenant.name for tenant in (await store.load_state()).tenants] == ["a", "b"]
    assert await store.entries(ReceiptFilter(oldest_first=True)) == entries
    await store.close()


async def test_one_gateway_has_the_database(url: str, tmp_path: Path) -> None:
    store = await _open(url, tmp_path)
    with pytest.raises(StoreLocked, match="is in use by process"):
        await _open(url, tmp_path)
    await store.close()
    await (await _open(url, tmp_path)).close()


async def test_a_newer_schema_is_left_alone(url: str, tmp_path: Path) -> None:
    for table, column in (("meta", "schema_version"), ("postgres_schema", "step")):
        await asyncio.to_thread(run_sql, url, f"UPDATE {table} SET {column} = {column} + 1")
        with pytest.raises(StoreTooNew):
            await _open(url, tmp_path)
        await asyncio.to_thread(run_sql, url, f"UPDATE {table} SET {column} = {column} - 1")


async def test_what_is_no_database_of_ours_is_refused(postgres: Postgres | GivenPostgres, tmp_path: Path) -> None:
    url = await asyncio.to_thread(postgres.schema)
    await asyncio.to_thread(run_sql, url, "CREATE TABLE theirs (a int)")
    with pytest.raises(OperatorError, match="tables of another program"):
        await _open(url, tmp_path)
    with pytest.raises(StoreUnusable, match=r"schema that .* names does not exist"):
        await _open(f"{postgres.url}?search_path=nowhere", tmp_path)
    with pytest.raises(StoreUnusable, match="has no database"):
        await _open(postgres.url.rpartition("/")[0] + "/nowhere", tmp_path)
