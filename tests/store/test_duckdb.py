"""What is DuckDB's in the store: locks, damage, full disks, migrations, and ``kill -9``."""

from __future__ import annotations

import asyncio
import lzma
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from msgspec.structs import replace

import trustgate
from tests.support.disks import fill, tiny_disk
from tests.support.entries import make_entries, make_entry
from trustgate.errors import (
    HomeUnusable,
    OperatorError,
    StoreDamaged,
    StoreLocked,
    StoreTooNew,
    Unavailable,
)
from trustgate.models.prices import price_hash
from trustgate.store import PaymentFilter, ReceiptFilter, UsageFilter, archiving, engine, migrations, open_store
from trustgate.store.duckdb import DuckDBStore
from trustgate.store.queries import ArchiveFile, BudgetUseFilter
from trustgate.store.rows import (
    ALIASES,
    ANCHORS,
    BUDGETS,
    CREDIT_NOTES,
    END_USERS,
    ENTRY_COLUMNS,
    KEYS,
    LOG_NAMES,
    PASSPORTS,
    PAYMENT_TERMS,
    PAYMENTS,
    PLANS,
    PROFILES,
    SUBSCRIBERS,
    TENANTS,
)
from trustgate.store.sql import DuckDBDialect
from trustgate.types import Pool, ProfileRules

ROOT = Path(trustgate.__file__).parents[1]
PATIENCE_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trustgate.duckdb"


def program(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python program that may import ours, its output to be read line by line."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def in_child(path: Path, *statements: str, crash: bool = False) -> None:
    """Run SQL on the database in another process: one that opened it here would drop our lock on closing it."""
    code = "import duckdb, os, sys\nc = duckdb.connect(sys.argv[1])\nfor s in sys.argv[2:]: c.execute(s)\n"
    code += "os._exit(0)" if crash else "c.close()"
    subprocess.run([sys.executable, "-c", code, str(path), *statements], check=True, timeout=PATIENCE_S)


async def make_store(path: Path, entries: int = 0) -> None:
    store = await open_store(path)
    await store.append_entries(make_entries(1, entries))
    await store.close()


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        await asyncio.sleep(0.01)


# locks

HOLD = """
import asyncio, sys
from pathlib import Path
from trustgate.store import open_store
async def main():
    store = await open_store(Path(sys.argv[1]))
    print("open", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""
HOLD_WITH_DUCKDB = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("code", [HOLD, HOLD_WITH_DUCKDB], ids=["trustgate", "another program"])
async def test_a_second_process_is_told_who_holds_the_database(path: Path, code: str) -> None:
    await make_store(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"

        with pytest.raises(StoreLocked) as refusal:
            await open_store(path)

        assert f"process {holder.pid} ({Path(sys.executable).name} -c" in refusal.value.message
        assert str(path) in refusal.value.message
        assert refusal.value.hint
        holder.kill()
    await make_store(path)  # a lock dies with its process


async def test_a_second_store_in_this_process_is_refused_too(path: Path) -> None:
    store = await open_store(path)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        await open_store(path)
    await store.append_entries(make_entries(1, 1))
    await store.close()
    await make_store(path)


async def test_a_failed_open_gives_the_lock_back(path: Path) -> None:
    path.write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(StoreDamaged):
            await open_store(path)


# files that are not as they should be


@pytest.mark.parametrize("content", [b"", b"x", b"garbage" * 10_000], ids=["empty", "a byte", "garbage"])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match="is damaged") as refusal:
        await open_store(path)
    assert refusal.value.hint
    assert path.read_bytes() == content


async def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    in_child(path, "CREATE TABLE meta (a INTEGER)", "CREATE TABLE theirs (a INTEGER)")
    before = path.read_bytes()
    with pytest.raises(StoreDamaged, match=r"not .* TrustGate's"):
        await open_store(path)
    assert path.read_bytes() == before


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    await make_store(path, 3)
    in_child(path, "UPDATE meta SET schema_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match="schema is 99"):
        await open_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("offset", [20, 4096 + 20, 8192 + 20, 12288 + 200])
async def test_a_flipped_byte_in_the_file_is_noticed(path: Path, offset: int) -> None:
    await make_store(path, 10)
    flip(path, offset)
    with pytest.raises(StoreDamaged):
        await open_store(path)


async def test_a_flipped_byte_in_the_write_ahead_log_is_noticed(path: Path) -> None:
    await make_store(path)
    in_child(path, *[f"INSERT INTO aliases VALUES ('a-rather-long-alias-{i}', 'x')" for i in range(9)], crash=True)
    wal = path.with_name(path.name + ".wal")
    flip(wal, wal.read_bytes().index(b"a-rather-long-alias-4"))
    with pytest.raises(StoreDamaged):
        await open_store(path)


async def test_a_missing_database_beside_its_write_ahead_log_is_noticed(path: Path) -> None:
    """DuckDB would make an empty database and delete the log."""
    await make_store(path)
    in_child(path, "INSERT INTO aliases VALUES ('a', 'b')", crash=True)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreDamaged, match="write-ahead log"):
        await open_store(path)
    path.with_name("elsewhere").rename(path)
    store = await open_store(path)
    assert [alias.name for alias in (await store.load_state()).aliases] == ["a"]
    await store.close()


async def test_missing_receipts_are_noticed(path: Path) -> None:
    await make_store(path, 10)
    in_child(path, "DELETE FROM receipts WHERE seq = 5")
    with pytest.raises(StoreDamaged, match="9 receipts, but the last one is number 10"):
        await open_store(path)


async def test_a_row_that_cannot_be_read_is_damage(path: Path) -> None:
    await make_store(path)
    in_child(path, "UPDATE plans SET limits = '{\"requests_per_day\": \"many\"}' WHERE name = 'pro'")
    store = await open_store(path)
    with pytest.raises(StoreDamaged, match="table plans"):
        await store.load_state()
    await store.close()


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


# folders that are not as they should be


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match=r"missing cannot be used: No such file or directory") as refusal:
        await open_store(tmp_path / "missing" / "trustgate.duckdb")
    assert refusal.value.hint


async def test_a_file_for_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeUnusable, match="Not a directory"):
        await open_store(tmp_path / "file" / "trustgate.duckdb")


async def test_a_folder_for_a_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OperatorError):
        await open_store(path)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing can be made, by root neither."""
    folder = tmp_path / "unwritable"
    if os.geteuid() == 0:
        with tiny_disk(folder, 4096, ",ro"):
            yield folder
    else:
        folder.mkdir(mode=0o500)
        yield folder


async def test_an_unwritable_folder_is_named(unwritable: Path) -> None:
    with pytest.raises(HomeUnusable, match="unwritable cannot be used"):
        await open_store(unwritable / "trustgate.duckdb")


# making and migrating


async def test_only_the_owner_may_read_the_database(path: Path) -> None:
    await make_store(path)
    for name in ("trustgate.duckdb", "trustgate.duckdb.lock"):
        assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600


async def test_a_making_that_was_cut_off_is_begun_anew(path: Path) -> None:
    path.with_name("trustgate.duckdb.new").write_bytes(b"half a database")
    await make_store(path, 1)
    assert not path.with_name("trustgate.duckdb.new").exists()


async def test_every_member_has_its_column(path: Path) -> None:
    await make_store(path)
    with duckdb.connect(path, read_only=True) as connection:
        found: dict[str, set[str]] = {}
        for table, column in connection.execute("SELECT table_name, column_name FROM duckdb_columns()").fetchall():
            found.setdefault(table, set()).add(column)
    tables = (TENANTS, KEYS, PLANS, PASSPORTS, ALIASES, ANCHORS, LOG_NAMES, PAYMENT_TERMS, PAYMENTS, BUDGETS, END_USERS)
    for table in (*tables, CREDIT_NOTES, SUBSCRIBERS, PROFILES):
        assert found[table.table] == set(table.kind.__struct_fields__)
    assert found["receipts"] == set(ENTRY_COLUMNS)


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("version", range(1, migrations.LATEST + 1))
async def test_a_file_of_every_schema_there_was_opens_with_all_it_had(path: Path, version: int) -> None:
    path.write_bytes(lzma.decompress((FIXTURES / f"schema-{version}.duckdb.xz").read_bytes()))

    store = await open_store(path)

    assert store.info.schema_version == migrations.LATEST
    state = await store.load_state()
    assert [(tenant.name, tenant.plan) for tenant in state.tenants] == [("Zoë", "pro")]
    assert state.keys[0].limits.requests_per_day == 5
    assert state.keys[0].scope.models == ("gpt-*",)
    assert [alias.target for alias in state.aliases] == ["trustgate/echo"]
    entries = await store.entries(ReceiptFilter(oldest_first=True, until_seq=700, limit=1_000))
    expected = make_entries(1, 700)  # but for their ids, which are random
    assert [entry.seq for entry in entries] == list(range(1, 701))
    assert [entry.receipt.request_commitment for entry in entries] == [
        entry.receipt.request_commitment for entry in expected
    ]
    assert [entry.secret for entry in entries] == [entry.secret for entry in expected]
    if version >= 3:
        ((terms,), (payment,)) = state.payment_terms, await store.payments(PaymentFilter())
        assert (terms.mode, terms.price_nano_usd, terms.offers) == ("prepaid", 10_000_000, (payment.offer,))
        assert (payment.state, payment.identifier, payment.amount) == (
            "delivered",
            "mine-0123456789abcdef",
            "1" + "0" * 24,
        )
        assert payment.node == ("" if version < 13 else "node_first")
        paid = await store.payment_receipt(payment)
        assert paid is not None
        assert (paid.seq, paid.receipt.v, paid.receipt.charged_nano_usd) == (701, 2, 5)
        assert (paid.receipt.credited_nano_usd, paid.receipt.payment_payer) == (2**53, "0x2")
        assert terms.keyless_key_id == ("" if version < 7 else state.keys[0].id)
    if version >= 4:
        (aside,) = store.set_aside
        assert (aside.entry.seq, aside.entry.receipt.cost_nano_usd, aside.counted.cost_nano_usd) == (702, 2**63, 0)
    echo = next(passport for passport in state.passports if passport.slug == "trustgate/echo")
    assert echo.prices.free
    notes = await store.credit_notes(state.tenants[0].id)
    if version < 8:
        assert (state.tenants[0].price_factor_ppm, state.tenants[0].removed_us, notes) == (None, None, [])
    else:
        assert state.tenants[0].price_factor_ppm == 1_500_000
        assert state.payment_terms[0].contact == "billing@example.com"
        assert [(note.reference, note.corrects) for note in notes] == [("invoice 7", (1, 2))]
    pro = next(plan for plan in state.plans if plan.name == "pro")
    if version < 5:
        assert (pro.price_factor_ppm, pro.unpriced_models) == (1_000_000, "refuse")
    else:
        assert (pro.price_factor_ppm, pro.unpriced_models) == (1_200_000, "allow")
        (change,) = await store.price_changes(passport_id=next(p.id for p in state.passports if p.slug == "*"))
        assert change.price_hash == price_hash(change.prices) and change.prices.conditional
        assert await store.price_changes(price_hash=change.price_hash) == [change]
        assert [kept.as_of for kept in state.price_lists] == ["2026-11-01"]
        priced = await store.entries(ReceiptFilter(oldest_first=True, after_seq=702, until_seq=704))
        assert [(entry.receipt.v, entry.receipt.billed_nano_usd) for entry in priced] == [(3, 13_580), (4, 13_580)]
    if version < 11:
        assert (pro.own_keys, len(state.keys), state.keys[0].made_by, state.keys[0].revoked_by) == (0, 1, "", "")
    else:
        assert (pro.own_keys, state.keys[1].made_by, state.keys[1].revoked_by) == (2, *[state.keys[0].id] * 2)
    if version < 6:
        assert (state.keys[0].origin_id, state.budgets, state.pseudonym_key) == ("", (), None)
    else:
        ((budget,), (end_user,)) = state.budgets, state.end_users
        assert (budget.tenants, budget.models, budget.hard) == ((state.tenants[0].id,), ("gpt-*",), False)
        assert (end_user.blocked, end_user.amounts) == (True, {budget.id: 7})
        assert state.pseudonym_key is not None and state.keys[0].account_id == "key_first"
        named = await store.entries(ReceiptFilter(oldest_first=True, after_seq=704))
        assert [entry.receipt for entry in named] == [
            replace(make_entry(seq, v=seq - 700).receipt, id=entry.receipt.id)
            for seq, entry in zip(range(705, 707 if version < 14 else 711), named, strict=True)
        ]
    notifications = await store.load_notifications()
    if version < 10:
        assert (state.subscribers, notifications.conditions, notifications.deliveries) == ((), (), ())
    else:
        ((subscriber,), (condition,), (delivery,)) = state.subscribers, *msgspec.structs.astuple(notifications)
        assert (subscriber.kinds, subscriber.url, subscriber.is_private) == (("disk",), "https://example.com/", True)
        assert (condition.identity, delivery.subscriber_id, delivery.attempts) == ("disk:home", subscriber.id, 2)
    star = next(passport for passport in state.passports if passport.slug == "*")
    if version < 12:
        assert (state.profiles, star.pool) == ((), Pool())
    else:
        (profile,) = state.profiles
        rules = ProfileRules(names={"gpt-4": "trustgate/echo"}, caps={"max_tokens": 50}, providers=("openai",))
        assert (profile.id, profile.rules) == (f"tenant:{state.tenants[0].id}", rules)
        assert star.pool == Pool(weight=3, choice="tenant", requests_per_minute=5)
    await store.close()


def _another_schema(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE later (id VARCHAR)")


async def test_an_older_database_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_store(path, 5)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, _another_schema))
    monkeypatch.setattr(migrations, "LATEST", migrations.LATEST + 1)

    store = await open_store(path)

    assert store.info.schema_version == migrations.LATEST
    assert await store.last_seq() == 5
    await store.close()
    await make_store(path)  # and not migrated again


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: duckdb.DuckDBPyConnection) -> None:
        _another_schema(connection)
        raise ArithmeticError

    await make_store(path, 5)
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
        newer.setattr(migrations, "LATEST", migrations.LATEST + 1)
        with pytest.raises(ArithmeticError):
            await open_store(path)

    store = await open_store(path)
    assert store.info.schema_version == migrations.LATEST
    assert await store.last_seq() == 5
    await store.close()
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'later'").fetchall() == []


# hardening


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY tenants TO '/tmp/trustgate-tenants.csv'",
        "ATTACH '/tmp/trustgate-other.duckdb'",
        "SET enable_external_access = true",
        "SET memory_limit = '10GB'",
        "INSTALL httpfs",
        "FROM statement",  # a local variable
    ],
)
async def test_sql_reaches_nothing_but_the_database(path: Path, statement: str) -> None:
    opened = engine.Engine.open(path)
    with pytest.raises(Unavailable) as refusal:
        await opened.run(lambda connection: connection.execute(statement))
    assert isinstance(refusal.value.__cause__, duckdb.Error)
    await opened.close()


# checkpoints and full disks


async def test_an_idle_store_checkpoints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "IDLE_S", 0.02)
    monkeypatch.setattr(engine, "IDLE_CHECKPOINT_BYTES", 1)
    opened = engine.Engine.open(path)
    await opened.run(lambda connection: connection.execute("INSERT INTO aliases VALUES ('a', 'b')").fetchall())

    await eventually(lambda: opened.wal_bytes == 0)

    await opened.close()


async def test_a_small_log_or_a_full_disk_is_not_checkpointed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk a checkpoint kills the database instance."""
    monkeypatch.setattr(engine, "IDLE_S", 0.02)
    looked: list[int] = []

    def no_space(folder: Path) -> Any:
        looked.append(1)
        return type("Usage", (), {"free": 0})

    monkeypatch.setattr(shutil, "disk_usage", no_space)
    opened = engine.Engine.open(path)
    for threshold in (engine.IDLE_CHECKPOINT_BYTES, 1):
        monkeypatch.setattr(engine, "IDLE_CHECKPOINT_BYTES", threshold)
        await opened.run(lambda connection: connection.execute("INSERT INTO aliases VALUES (uuid(), 'b')").fetchall())
    await eventually(lambda: bool(looked))

    assert len(looked) == 1
    assert opened.wal_bytes > 0
    await opened.close()


async def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    """The commit fails with a clear error, what is there stays readable, and freed space is enough to go on."""
    with tiny_disk(tmp_path / "disk", 3_000_000) as disk:
        store = await open_store(disk / "trustgate.duckdb")
        await store.append_entries(make_entries(1, 100))
        filler = fill(disk)
        for _ in range(3):
            with pytest.raises(Unavailable) as refusal:
                await store.append_entries(make_entries(101, 1000))
            assert refusal.value.code == "storage_full"
            assert await store.last_seq() == 100
            assert len(await store.entries(ReceiptFilter(limit=1000))) == 100
        filler.unlink()

        await store.append_entries(make_entries(101, 1000))
        store_id = store.store_id
        await store.close()

        store = await open_store(disk / "trustgate.duckdb")
        assert (store.store_id, await store.last_seq()) == (store_id, 1100)
        await store.close()


async def test_a_checkpoint_on_a_full_disk_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is durable and the instance dead: the batch must be neither lost, nor doubled, nor refused."""
    monkeypatch.setattr(engine, "CHECKPOINT_THRESHOLD", "1MB")
    with tiny_disk(tmp_path / "disk", 5_000_000) as disk:
        store = await open_store(disk / "trustgate.duckdb")
        assert isinstance(store, DuckDBStore)
        reconnects: list[int] = []
        connect = engine._connect

        def counted(path: Path, allowed: Collection[Path] = (), **options: Any) -> duckdb.DuckDBPyConnection:
            reconnects.append(1)
            return connect(path, allowed, **options)

        monkeypatch.setattr(engine, "_connect", counted)
        committed = 0

        async def append_until_refused() -> None:
            nonlocal committed
            while committed < 100_000:
                await store.append_entries(make_entries(committed + 1, 500))
                committed += 500

        with pytest.raises(Unavailable) as refusal:
            await append_until_refused()
        assert refusal.value.code == "storage_full"
        assert reconnects, "no checkpoint has failed"
        assert await store.last_seq() == committed

        await store.close()
        store = await open_store(disk / "trustgate.duckdb")
        assert await store.last_seq() == committed
        assert [entry.seq for entry in await store.entries(ReceiptFilter(limit=3))] == [
            committed,
            committed - 1,
            committed - 2,
        ]
        await store.close()


# kill -9

COMMIT_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from tests.support.entries import make_entries
from trustgate.store import open_store
async def main():
    store = await open_store(Path(sys.argv[1]))
    while True:
        first = await store.last_seq() + 1
        await store.append_entries(make_entries(first, 1 + first % 70))
        sys.stdout.write(f"{await store.last_seq()}\\n")  # in one piece, also where the environment has no buffer
        sys.stdout.flush()
asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_to_kill_9(path: Path) -> None:
    chance = random.Random(os.getpid())
    for _ in range(4):
        with program(COMMIT_FOR_EVER, path) as committing:
            assert committing.stdout is not None
            acknowledged = int(committing.stdout.readline())
            await asyncio.sleep(chance.random() * 0.5)
            committing.send_signal(signal.SIGKILL)
            for line in committing.stdout:
                acknowledged = int(line) if line.endswith("\n") else acknowledged

        store = await open_store(path)
        last_seq = await store.last_seq()
        kept = await store.entries(ReceiptFilter(limit=1_000_000))
        await store.close()

        assert last_seq >= acknowledged > 0
        assert [entry.seq for entry in kept] == list(range(last_seq, 0, -1))


@pytest.mark.parametrize(
    ("file_mib", "limit_mib"),
    [(None, 16), (0, 16), (24, 24), (48, 48), (500, 64), (1_024, 64), (2_048, 128), (8_192, 512), (100_000, 512)],
)
def test_memory_goes_with_the_size_of_the_file(tmp_path: Path, file_mib: int | None, limit_mib: int) -> None:
    path = tmp_path / "database"
    if file_mib is not None:
        with path.open("wb") as file:
            file.truncate(file_mib << 20)  # a hole, not bytes
    assert engine.memory_limit_bytes(path) == limit_mib << 20


async def test_duckdb_takes_the_limit_and_another_once_it_is_idle_and_the_file_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    assert isinstance(store, DuckDBStore)
    of_engine = store._engine
    assert isinstance(of_engine, engine.Engine)

    async def limit() -> str:
        found = await of_engine.run(
            lambda connection: connection.execute("SELECT current_setting('memory_limit')").fetchone()
        )
        assert found is not None
        return str(found[0])

    assert await limit() == "16.0 MiB"
    await store.append_entries(make_entries(1, 100))
    steps = (
        (31, "16.0 MiB"),
        (32, "32.0 MiB"),
        (63, "32.0 MiB"),
        (64, "64.0 MiB"),
        (127, "64.0 MiB"),
        (128, "128.0 MiB"),
    )
    for grown_mib, expected in steps:
        monkeypatch.setattr(engine, "memory_limit_bytes", lambda path, mib=grown_mib: mib << 20)
        await of_engine._submit(of_engine._idle)
        assert await limit() == expected
    assert len(await store.entries(ReceiptFilter(limit=200))) == 100
    await store.close()


async def test_work_that_wants_more_memory_gets_it_where_the_limit_is_a_small_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    assert isinstance(store, DuckDBStore)
    of_engine = store._engine
    assert isinstance(of_engine, engine.Engine)
    done = []

    def gather(connection: duckdb.DuckDBPyConnection, half_mib: int) -> int:
        done.append(half_mib)
        found = connection.execute(f"SELECT length(list(i)) FROM range({half_mib} * 65536) AS t(i)").fetchone()
        assert found is not None
        return int(found[0]) // 65536

    await store.append_entries(make_entries(1, 10))
    monkeypatch.setattr(engine, "memory_limit_bytes", lambda path: 33 << 20)
    assert await of_engine.run(gather, 24) == 24
    assert done == [24, 24], "with 32 MB, then with 64"
    assert await of_engine.run(gather, 24) == 24
    assert done == [24] * 3, "it keeps what it got"
    await of_engine._submit(of_engine._idle)
    assert len(await store.entries(ReceiptFilter(limit=200))) == 10
    done.clear()
    with pytest.raises(Unavailable, match="OutOfMemory"):
        await of_engine.run(gather, 512)
    assert done == [512], "there is no more to be had"
    await store.append_entries(make_entries(11, 10))
    await store.close()


async def test_a_log_that_wants_more_memory_is_read_all_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    await store.append_entries(make_entries(1, 4000))
    copy = tmp_path / "killed" / path.name
    copy.parent.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copyfile(file, copy.parent / file.name)
    await store.close()
    monkeypatch.setattr(engine, "memory_limit_bytes", lambda path: 4 << 20)
    store = await open_store(copy)
    assert await store.last_seq() == 4000
    await store.close()


async def test_a_page_of_many_receipts_takes_little_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(path)
    await store.append_entries(make_entries(1, 4000))
    await store.close()
    for name in ("MEMORY_LEAST_BYTES", "MEMORY_WHOLE_BYTES"):
        monkeypatch.setattr(engine, name, 8 << 20)
    monkeypatch.setattr(engine, "memory_limit_bytes", lambda path: 8 << 20)
    store = await open_store(path)
    for oldest_first in (False, True):
        page = await store.entries(ReceiptFilter(limit=1000, oldest_first=oldest_first))
        assert [entry.seq for entry in page] == (list(range(1, 1001)) if oldest_first else list(range(4000, 3000, -1)))
    await store.close()


async def test_heads_of_archived_receipts_are_those_of_tenants_that_have_no_later_ones(path: Path) -> None:
    """A tenant's chain goes on from its last receipt, wherever that is."""
    store = await open_store(path)
    entries = [make_entry(seq, tenant="early" if seq < 100 else f"tenant_{seq % 2}") for seq in range(1, 301)]
    await store.append_entries(entries)
    assert await store.archive(256, None, {}) is not None

    heads = {head.tenant_id: head.entry for head in await store.load_heads()}

    assert heads == {"early": entries[98], "tenant_0": entries[299], "tenant_1": entries[298]}
    assert len(await store.load_heads()) == 3
    await store.close()


async def test_receipts_that_do_not_fit_into_memory_together_are_archived_in_smaller_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB's memory ends where it does, so it is stated here: a file of 1,024 can be written, one of 512 moved."""
    write, move = archiving._write, archiving._move

    def writing(connection: duckdb.DuckDBPyConnection, path: Path, first: int, last: int, about: Any) -> None:
        write(connection, path, first, last, about)
        if last - first >= 1_024:
            raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block of size 256.0 KiB")

    def moving(connection: duckdb.DuckDBPyConnection, file: ArchiveFile) -> None:
        move(connection, file)
        if file.last_seq - file.first_seq >= 512:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block of size 256.0 KiB")

    monkeypatch.setattr(archiving, "_write", writing)
    monkeypatch.setattr(archiving, "_move", moving)
    store = await open_store(path)
    entries = [make_entry(seq, tenant=f"tenant_{seq}", key=f"key_{seq}") for seq in range(1, 1_793)]
    await store.append_entries(entries)
    before = await store.usage(UsageFilter(by="key"))
    files = []
    while (file := await store.archive(1_792, None, {})) is not None:
        files.append(file)
    assert [(file.first_seq, file.last_seq) for file in files] == [
        *((1, 256), (257, 512), (513, 1_024), (1_025, 1_280), (1_281, 1_792)),
    ]
    assert sorted(each.name for each in (path.parent / "archive").iterdir()) == [file.name for file in files]
    assert await store.usage(UsageFilter(by="key")) == before
    assert {head.entry.seq for head in await store.load_heads()} == set(range(1, 1_793))
    monkeypatch.setattr(archiving, "TILE_RECEIPTS", 2_048)
    await store.append_entries([make_entry(seq) for seq in range(1_793, 4_097)])
    with pytest.raises(Unavailable, match="OutOfMemory"):
        await store.archive(4_096, None, {})
    assert await store.last_seq() == 4_096
    await store.close()


@pytest.mark.parametrize("memory_mb", [8, 64])
async def test_more_groups_than_fit_into_memory_are_added_up_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_mb: int
) -> None:
    """With 64 MB all groups fit; the sums are the same."""
    failures: list[int] = []
    part = DuckDBDialect.part

    def counted(dialect: DuckDBDialect, column: str, parts: int, number: int) -> str:
        failures.append(parts)
        return part(dialect, column, parts, number)

    monkeypatch.setattr(DuckDBDialect, "part", counted)
    store = await open_store(tmp_path / "trustgate.duckdb")
    users = [f"{number}-{'u' * 400}" for number in range(12_000)]
    for start in range(0, len(users), 4_000):
        entries = [
            make_entry(seq, v=5, end_user=users[seq - 1], tenant="tenant_1", key=f"key_{seq}")
            for seq in range(start + 1, start + 4_001)
        ]
        await store.append_entries(entries)
    await store.close()
    for name in ("MEMORY_LEAST_BYTES", "MEMORY_WHOLE_BYTES", "MEMORY_MOST_BYTES"):
        monkeypatch.setattr(engine, name, memory_mb * 1024 * 1024)
    store = await open_store(tmp_path / "trustgate.duckdb")
    everything = BudgetUseFilter(since_us=0, until_us=2**62, by_end_user=True)

    used = await store.budget_use(everything)
    usage = await store.usage(UsageFilter(by="end_user"))
    most = await store.end_users("tenant_1", 0, 5)
    windows = await store.window_usage(0)
    await store.close()

    assert sorted(each.end_user or "" for each in used) == sorted(users)
    assert {each.requests for each in used} == {1}
    assert [row.group for row in usage] == sorted(users)
    assert len(most) == 5
    assert sum(row.requests for row in windows) == len(users)
    assert bool(failures) == (memory_mb == 8)
