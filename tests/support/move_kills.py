"""Moving a home to Postgres and back, killed before every one of its steps, and gone on with.

``python -m tests.support.move_kills FOLDER URL`` makes a home in the folder and, for each step, copies it, forks a
child that moves it and kills itself there, and forks another that moves it again and looks at what is there. It
prints the steps, and leaves with 1 where anything was lost, doubled or in the way.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg  # noqa: F401 - loaded once, for all children
import duckdb  # noqa: F401 - the same

from tests.support.forks import in_a_child
from tests.support.old_receipts import fill
from tests.support.postgres import new_schema
from trustgate.admin.moving import MovedDatabase, move_from_postgres, move_to_postgres
from trustgate.errors import OperatorError
from trustgate.settings import PostgresAddress, Settings
from trustgate.settings.sections import StoreSettings
from trustgate.store import ReceiptFilter, UsageFilter, moving, open_store
from trustgate.store.duckdb import DuckDBStore
from trustgate.store.postgres.store import PostgresStore
from trustgate.types import ApiKey, Tenant

#: Some whole tiles, and some receipts besides.
COUNT = 600
_TENANTS = (("ten_a", "key_a"), ("ten_b", "key_b"))
#: A kill before each of these.
_STEPS = (
    *((PostgresStore, name) for name in ("append_entries", "begin_arrival", "arrive", "end_arrival", "depart")),
    *((DuckDBStore, name) for name in ("append_entries", "be")),
    (moving, "_clear"),
    (Path, "rename"),
)
_RENAMED = frozenset(f"trustgate.duckdb{ending}" for ending in ("", ".moved", ".moved.changes"))
#: Of these some calls are a step.
_OF_MANY: dict[str, Callable[[Any], bool]] = {
    "_clear": lambda args: args[1] == "tenants",
    "append_entries": lambda args: bool(args[1]),
    "rename": lambda args: Path(args[1]).name in _RENAMED,
}


def _deadly(number: int) -> None:
    """Kill this process before the step of that number."""
    done = 0

    def wrap(of: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(of, name)

        def stepwise(*args: Any, **options: Any) -> Any:
            nonlocal done
            if name not in _OF_MANY or _OF_MANY[name](args):
                done += 1
                if done == number:
                    print(f"killed before {name}", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(of, name, stepwise)

    for of, name in _STEPS:
        wrap(of, name)


def _settings(home: Path, url: str | None) -> Settings:
    return Settings(home=home, store=StoreSettings(url=url))


async def look(home: Path, url: str | None) -> Any:
    """Everything that must stay what it is."""
    store = await open_store(home / "trustgate.duckdb", None if url is None else PostgresAddress(url))
    try:
        entries = await store.entries(ReceiptFilter(oldest_first=True, limit=10 * COUNT))
        assert [entry.seq for entry in entries] == list(range(1, COUNT + 1)), "each once, in order"
        tiles = [await store.tiles(level, range(await store.tile_count(level))) for level in (0, 1)]
        state = await store.load_state()
        return store.store_id, entries, tiles, state, await store.usage(UsageFilter(by="key")), await store.balances()
    finally:
        await store.close()


async def _refuses(home: Path, url: str | None) -> None:
    try:
        await look(home, url)
    except OperatorError:
        return
    raise AssertionError("what was moved away still serves")


def _move(home: Path, url: str, *, to: bool) -> MovedDatabase:
    move = move_to_postgres if to else move_from_postgres
    return asyncio.run(move(_settings(home, None), PostgresAddress(url), lambda done, total: None))


def main(folder: Path, server: str) -> int:
    moving._RECEIPTS = 400
    home = folder / "home"
    home.mkdir(parents=True)

    async def decide() -> None:
        store = await open_store(home / "trustgate.duckdb")
        await store.put(Tenant(id="ten_a", name="a", plan="pro"), Tenant(id="ten_b", name="b", plan="free"))
        await store.put(ApiKey(id="key_a", tenant_id="ten_a", name="", secret_sha256="", redacted="", revoked_us=1))
        await store.close()

    def prepare() -> None:
        fill(home, COUNT, _TENANTS)
        asyncio.run(decide())

    def killed(at: Path, url: str, step: int, *, to: bool) -> None:
        _deadly(step)
        _move(at, url, to=to)

    def gone_on_with(at: Path, url: str, *, to: bool) -> None:
        before = asyncio.run(look(home, None))
        _move(at, url, to=to)
        assert asyncio.run(look(at, url if to else None)) == before, "all that there was"
        asyncio.run(_refuses(at, None if to else url))

    if in_a_child(prepare):
        return 1
    for to in (True, False):
        step = 0
        while True:
            step += 1
            at = folder / f"{to}{step}"
            shutil.copytree(home, at)
            url = f"{server}?search_path={new_schema(server)}"
            if not to and in_a_child(partial(_move, at, url, to=True)):
                return 1
            status = in_a_child(partial(killed, at, url, step, to=to))
            if os.WIFEXITED(status):
                print(f"{step - 1} steps", flush=True)
                if os.WEXITSTATUS(status):
                    return 1
                break
            if in_a_child(partial(gone_on_with, at, url, to=to)):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
