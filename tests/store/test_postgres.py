"""The store on Postgres where it is a network away: sessions that are cut, refused and taken by others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.entries import make_entries
from tests.support.links import Link
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from trustgate.errors import OperatorError, SettingsError, StoreLocked, StoreTooNew, StoreUnusable, Unavailable
from trustgate.settings import PostgresAddress
from trustgate.store import ReceiptFilter, Store, open_store
from trustgate.store.entries import load_identity
from trustgate.store.postgres import connecting, session
from trustgate.store.postgres.connecting import connect
from trustgate.store.postgres.session import Writer
from trustgate.types import Tenant

_CUT = """SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE application_name LIKE 'trustgate %' AND pid <> pg_backend_pid()"""


_END_READERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'trustgate reader'"


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


async def test_a_network_that_swallows_everything_is_noticed_and_what_waited_fails_with_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Link.to(url) as link:
        address = PostgresAddress(link.over(url))
        store = await open_store(tmp_path / "none", address)
        await store.append_entries(make_entries(1, 3))
        monkeypatch.setattr(session, "_TIMEOUT_S", 0.5)
        monkeypatch.setattr(session, "_LONG_S", 0.2)
        monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 2.0)
        await store.entries(ReceiptFilter())
        await asyncio.to_thread(run_sql, url, _END_READERS)
        await store.entries(ReceiptFilter())  # over a connection with the times of now
        link.swallow()
        opened = link.opened
        looks = [store.entries(ReceiptFilter()) for _ in range(20)]
        found = await asyncio.gather(*looks, return_exceptions=True)
        assert [type(each) for each in found] == [Unavailable] * 20
        # Not each of them has tried in its turn.
        assert link.opened - opened < 10
        link.mend(late=False)
        assert len(await store.entries(ReceiptFilter())) == 3
        await store.close()


async def test_one_gateway_has_the_database(url: str, tmp_path: Path) -> None:
    store = await _open(url, tmp_path)
    with pytest.raises(StoreLocked, match="is in use by process"):
        await _open(url, tmp_path)
    await store.close()
    await (await _open(url, tmp_path)).close()


async def test_a_newer_schema_is_left_alone(url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(run_sql, url, "UPDATE postgres_schema SET oldest = oldest + 1")
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


async def test_another_gateways_session_is_not_ended_for_having_the_number_of_an_own_one(
    url: str, tmp_path: Path
) -> None:
    """After a restart of the database, numbers of its processes are given again: in a container the same ones."""
    sessions = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE application_name LIKE 'trustgate writer%'"
    store = await _open(url, tmp_path)
    ((pid, started),) = await asyncio.to_thread(run_sql, url, sessions)
    other = Writer(PostgresAddress(url))
    other.last_session = (pid, "2026-01-01 00:00:00+00")

    with pytest.raises(StoreLocked):
        await other.run(load_identity)

    assert await asyncio.to_thread(run_sql, url, sessions) == [(pid, started)]
    await asyncio.gather(other.close(), store.close())


async def test_a_database_that_is_not_in_utf8_is_refused(postgres: Postgres | GivenPostgres, tmp_path: Path) -> None:
    name = f"latin_{uuid4().hex[:8]}"
    create = f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    await asyncio.to_thread(run_sql, postgres.url, create)
    try:
        with pytest.raises(StoreUnusable, match="keeps text as LATIN1"):
            await _open(postgres.url.rpartition("/")[0] + f"/{name}", tmp_path)
    finally:
        await asyncio.to_thread(run_sql, postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_setting_that_the_server_does_not_know_is_named(
    postgres: Postgres | GivenPostgres, tmp_path: Path
) -> None:
    mark = "&" if "?" in postgres.url else "?"
    with pytest.raises(SettingsError, match="sslmod"):
        await _open(f"{postgres.url}{mark}sslmod=require", tmp_path)
    if isinstance(postgres, Postgres):  # which has no TLS
        with pytest.raises(Unavailable, match="rejected SSL"):
            await _open(f"{postgres.url}{mark}sslmode=require", tmp_path)


class _ThroughAPooler:
    """A connection as it is through a pooler, which has numbers of processes of its own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def get_server_pid(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_a_pooler_has_to_give_each_connection_a_session_of_its_own(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [await asyncpg.connect(url) for _ in range(2)]

    async def pooled_by_session(*_: object, **__: object) -> _ThroughAPooler:
        return _ThroughAPooler(sessions.pop())

    async def pooled_by_transaction(*_: object, **__: object) -> _ThroughAPooler:
        return _ThroughAPooler(shared)

    shared = await asyncpg.connect(url)
    monkeypatch.setattr(asyncpg, "connect", pooled_by_transaction)
    with pytest.raises(StoreUnusable, match="a pooler gives each transaction another session"):
        await connect(PostgresAddress(url), "test")
    monkeypatch.setattr(asyncpg, "connect", pooled_by_session)
    connection = await connect(PostgresAddress(url), "test", idle_in_transaction_session_timeout="5s")
    assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "5s"
    await connection.close()
