"""A real PgBouncer between: one session for a connection works, anything else is refused with what to do."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from tests.cluster.side_by_side import SideBySide
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import Process, clean_environment, free_port
from tests.support.programs import require
from trustgate.errors import StoreUnusable, Unavailable
from trustgate.settings import PostgresAddress
from trustgate.store.postgres.connecting import connect


@contextmanager
def pgbouncer(url: str, mode: str, database: str = "", *, pool_size: int = 40) -> Iterator[str]:
    """The address of a pooler in front of the server at ``url``, in this mode. ``database``: not the URL's own."""
    program, server = require("pgbouncer"), urlsplit(url)
    folder = Path(tempfile.mkdtemp(prefix="tgbouncer"))
    port = free_port()
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.hostname} port={server.port} user={server.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {folder}\n"
        f"auth_type = any\npool_mode = {mode}\ndefault_pool_size = {pool_size}\n"
        f"query_wait_timeout = 1\npidfile = {folder}/pid\n"
    )
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:  # it refuses to run as root
        as_user = ("-u", "nobody")
        shutil.chown(folder, "nobody")
    command = [program, *as_user, str(folder / "pgbouncer.ini")]
    process = Process("pgbouncer", command, folder, clean_environment(), folder / "log")
    address = f"postgresql://{server.username}@127.0.0.1:{port}/{database or server.path.lstrip('/')}"
    try:
        process.wait_until(lambda: "process up" in process.stderr)
        yield address
    finally:
        process.signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_that_mixes_sessions_is_refused_with_what_to_do(
    mode: str, postgres: Postgres | GivenPostgres
) -> None:
    with pgbouncer(postgres.url, mode) as address:
        with pytest.raises(StoreUnusable, match="gives each transaction another session") as found:
            await connect(PostgresAddress(address), "test")
        assert "pool_mode = session" in str(found.value.hint)
        with pytest.raises(StoreUnusable, match="search_path") as found:
            await connect(PostgresAddress(f"{address}?search_path=other"), "test")
        assert "ALTER ROLE" in str(found.value.hint)


async def test_a_pooler_with_too_few_connections_is_named(postgres: Postgres | GivenPostgres) -> None:
    with pgbouncer(postgres.url, "session", pool_size=1) as address:
        first = await asyncpg.connect(address)
        await first.execute("SELECT 1")
        with pytest.raises(Unavailable, match="gives no connection") as found:
            await connect(PostgresAddress(address), "test")
        assert "default_pool_size" in str(found.value.hint)
        await first.close()


@pytest.mark.slow
def test_gateways_serve_together_through_a_pooler_that_gives_each_connection_a_session(
    postgres: Postgres | GivenPostgres, tmp_path: Path
) -> None:
    name = f"pooled_{uuid4().hex[:8]}"
    run_sql(postgres.url, f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    try:
        with pgbouncer(postgres.url, "session", name) as address:
            two = SideBySide(tmp_path, address, 2, "builtin:echo", {})
            try:
                two.gateway.cli("plan", "add", "twenty", "--requests-per-day", "20")
                key = two.gateway.add_tenant("pooled", plan="twenty")
                assert two.ask(key, 60, "trustgate/echo").ended() == Counter({200: 20, 429: 40})
                two.gateway.cli("tenant", "suspend", "pooled")
                assert two.ask(key, 10, "trustgate/echo").ended() == Counter({401: 10})
                # Of one that is killed the pooler ends the sessions, and with them its locks.
                two.neighbours[1].kill()
                two.neighbours[1].start().wait()
                two.books()
            finally:
                two.close()
    finally:
        run_sql(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")
