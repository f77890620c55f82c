"""The contract of a ``Store``. ``open_store_factory`` is what another implementation has to replace to run it."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.entries import FIRST_US, make_credit, make_entries, make_entry, receipts
from tests.support.stores import NAME, new_store
from trustgate.errors import TrustGateError, Unavailable
from trustgate.receipts.receipt import canonical
from trustgate.settings import PostgresAddress
from trustgate.store import (
    ExportFilter,
    NoticeDelivery,
    NotificationChange,
    OpenCondition,
    ReceiptFilter,
    Store,
    StoredTile,
    UsageFilter,
    UsageRow,
    exports,
    migrations,
    open_store,
)
from trustgate.store import entries as entries_module
from trustgate.store.queries import UsageGroup
from trustgate.store.rows import RecordTable
from trustgate.types import (
    COUNTED,
    Alias,
    Anchor,
    AnchorAttempt,
    ApiKey,
    Entry,
    Fallback,
    Finish,
    Limits,
    LogName,
    Passport,
    Plan,
    Prices,
    Receipt,
    Scope,
    Tenant,
)

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture(params=["duckdb", "postgres"])
def open_store_factory(tmp_path: Path, request: pytest.FixtureRequest) -> OpenStore:
    """Opens the test's one database: a new one the first time, the same one again after it was closed."""
    path = tmp_path / NAME
    if request.param == "duckdb":
        return lambda: open_store(path) if path.exists() else new_store(tmp_path)
    address = PostgresAddress(request.getfixturevalue("postgres").clean())
    return lambda: open_store(path, address)


@pytest.fixture
async def store(open_store_factory: OpenStore) -> AsyncIterator[Store]:
    opened = await open_store_factory()
    yield opened
    await opened.close()


async def reopen(store: Store, open_store_factory: OpenStore) -> Store:
    await store.close()
    return await open_store_factory()


# a new store


async def test_a_new_store_has_plans_and_passports(store: Store) -> None:
    state = await store.load_state()

    plans = {plan.name: plan for plan in state.plans}
    assert {name: plan.limits.requests_per_day for name, plan in plans.items()} == {
        "free": 1_000,
        "pro": 50_000,
        "growth": 500_000,
        "internal": None,
    }
    assert "streaming" not in plans["free"].scope.features
    assert "tools" in plans["free"].scope.features
    assert plans["pro"].scope == Scope()
    passports = {passport.slug: passport for passport in state.passports}
    assert set(passports) == {"*", "trustgate/echo"}
    assert passports["*"].base_url is None
    assert passports["trustgate/echo"].base_url == "builtin:echo"
    assert not state.tenants
    assert not state.keys
    assert not state.aliases


async def test_a_new_store_has_no_entries(store: Store) -> None:
    assert await store.last_seq() == 0
    assert await store.load_heads() == []
    assert await store.window_usage(0) == []
    assert await store.entries(ReceiptFilter()) == []
    assert await store.usage(UsageFilter()) == []


async def test_the_id_stays_and_the_seeds_come_once(store: Store, open_store_factory: OpenStore) -> None:
    store_id, free = store.store_id, next(plan for plan in (await store.load_state()).plans if plan.name == "free")
    await store.remove(free)

    store = await reopen(store, open_store_factory)

    assert store.store_id == store_id
    assert "free" not in {plan.name for plan in (await store.load_state()).plans}
    await store.close()


async def test_two_stores_have_two_ids(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = await open_store(folder / "trustgate.duckdb")
    assert other.store_id != store.store_id
    await other.close()


# what an operator sets up

LIMITS = Limits(requests_per_minute=0, tokens_per_day=2**53, cost_nano_usd_per_month=1, parallel_requests=3)
SCOPE = Scope(models=("openai/*", "modèle"), endpoints=("chat",), features=())
RECORDS = (
    Tenant(id="tenant_1", name="Ünïcode'; DROP TABLE tenants; --", plan="pro", status="suspended", created_us=1),
    ApiKey(
        id="key_1",
        tenant_id="tenant_1",
        name="default",
        secret_sha256="ab" * 32,
        redacted="tgk_Ab…9xYz",
        limits=LIMITS,
        scope=SCOPE,
        created_us=2,
        expires_us=3,
        revoked_us=4,
    ),
    Plan(name="own", limits=LIMITS, scope=SCOPE, on_disconnect="drain", created_us=5),
    Passport(
        id="passport_1",
        slug="openai/gpt-4o",
        api_model_id="gpt-4o",
        provider="openai",
        format="gguf",
        base_url="http://localhost:1/v1",
        credential_env="OPENAI_API_KEY",
        credential_file="/run/key",
        context_length=128_000,
        max_output_tokens=4096,
        capabilities=("chat", "vision"),
        prices=Prices(input_pico_usd=150_000, cached_input_pico_usd=0, output_pico_usd=600_000, call_nano_usd=1),
        status="deprecated",
        default_parameters={"temperature": 0.5, "stop": ["\n"], "metadata": {"a": None}},
        fallbacks=(Fallback(passport="passport_2", weight=3), Fallback(passport="passport_3")),
        created_us=6,
    ),
    Alias(name="gpt-4o", target="openai/gpt-4o"),
)
MINIMAL = (
    Tenant(id="tenant_1", name="", plan="pro"),
    ApiKey(id="key_1", tenant_id="tenant_1", name="", secret_sha256="", redacted=""),
    Plan(name="own"),
    Passport(id="passport_1", slug="s", api_model_id="m"),
    Alias(name="gpt-4o", target=""),
)


@pytest.mark.parametrize("records", [RECORDS, MINIMAL], ids=["every member", "defaults"])
async def test_records_come_back_equal(store: Store, open_store_factory: OpenStore, records: tuple[Any, ...]) -> None:
    await store.put(*records)
    store = await reopen(store, open_store_factory)

    state = await store.load_state()

    assert state.tenants == (records[0],)
    assert state.keys == (records[1],)
    assert records[2] in state.plans
    assert records[3] in state.passports
    assert state.aliases == (records[4],)
    await store.close()


async def test_a_record_replaces_the_older_one(store: Store) -> None:
    await store.put(*RECORDS)
    await store.put(*MINIMAL, *MINIMAL)

    state = await store.load_state()

    assert state.tenants == (MINIMAL[0],)
    assert state.keys == (MINIMAL[1],)
    assert [plan for plan in state.plans if plan.name == "own"] == [MINIMAL[2]]
    assert [passport for passport in state.passports if passport.id == "passport_1"] == [MINIMAL[3]]
    assert state.aliases == (MINIMAL[4],)


async def test_many_records_are_put_at_once_and_of_two_with_one_identity_the_later_counts(store: Store) -> None:
    older = [Tenant(id=f"tenant_{number}", name=f"older {number}", plan="pro") for number in range(120)]
    newer = [msgspec.structs.replace(tenant, name=f"newer {number}") for number, tenant in enumerate(older)]
    await store.put(*(tenant for pair in zip(older, newer, strict=True) for tenant in pair), RECORDS[4])

    state = await store.load_state()

    assert sorted(state.tenants, key=lambda tenant: tenant.id) == sorted(newer, key=lambda tenant: tenant.id)
    assert state.aliases == (RECORDS[4],)


async def test_records_are_put_together_or_not_at_all(store: Store) -> None:
    unfit = Tenant(id="tenant_2", name=None, plan="pro")  # type: ignore[arg-type]

    with pytest.raises(TrustGateError):
        await store.put(Tenant(id="tenant_1", name="a", plan="pro"), unfit)

    assert (await store.load_state()).tenants == ()
    await store.put(RECORDS[0])
    assert (await store.load_state()).tenants == (RECORDS[0],)


async def test_plans_and_aliases_can_be_removed(store: Store) -> None:
    plan, alias = Plan(name="own"), Alias(name="a", target="b")
    await store.put(plan, alias)

    await store.remove(plan, alias)

    state = await store.load_state()
    assert "own" not in {plan.name for plan in state.plans}
    assert state.aliases == ()


# entries


async def test_entries_come_back_equal(store: Store, open_store_factory: OpenStore) -> None:
    entries = make_entries(1, 123)
    await store.append_entries(entries[:1])
    await store.append_entries(entries[1:])
    store = await reopen(store, open_store_factory)

    assert await store.last_seq() == 123
    assert await store.entries(ReceiptFilter(limit=1000)) == entries[::-1]
    await store.close()


def test_any_receipt_keeps_its_canonical_bytes(open_store_factory: OpenStore) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(_open(open_store_factory))

        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(receipts(), min_size=1, max_size=5), st.binary(min_size=32, max_size=32))
        def check(drawn: list[Receipt], secret: bytes) -> None:
            seq = runner.run(store.last_seq())
            entries = [Entry(seq=seq + i, receipt=receipt, secret=secret) for i, receipt in enumerate(drawn, 1)]
            runner.run(store.append_entries(entries))
            kept = runner.run(store.entries(ReceiptFilter(limit=len(drawn))))[::-1]
            assert kept == entries
            assert [canonical(entry.receipt) for entry in kept] == [canonical(receipt) for receipt in drawn]

        try:
            check()
        finally:
            runner.run(store.close())


async def _open(open_store_factory: OpenStore) -> Store:
    return await open_store_factory()


@pytest.mark.parametrize("seqs", [[2], [1, 3], [1, 1], [1, 2, 2], [0, 1]])
async def test_a_gap_is_refused_and_nothing_kept(store: Store, seqs: list[int]) -> None:
    with pytest.raises(TrustGateError, match="does not continue the log"):
        await store.append_entries([make_entry(seq) for seq in seqs])

    assert await store.last_seq() == 0
    assert await store.entries(ReceiptFilter()) == []


async def test_an_entry_is_not_taken_twice(store: Store) -> None:
    await store.append_entries(make_entries(1, 3))
    with pytest.raises(TrustGateError, match="4 is next"):
        await store.append_entries(make_entries(3, 2))
    assert await store.last_seq() == 3


@pytest.mark.parametrize("bad", [{"price_hash": "AB" * 32}, {"tprev": "ab cd"}, {"policy_hash": "x"}, {"tseq": 2**63}])
async def test_a_receipt_that_would_come_back_changed_is_set_aside(
    store: Store, open_store_factory: OpenStore, bad: dict[str, Any]
) -> None:
    entries = [*make_entries(1, 60), make_entry(61, **bad)]
    await store.append_entries(entries)

    store = await reopen(store, open_store_factory)

    assert await store.entries(ReceiptFilter(limit=100, oldest_first=True)) == entries
    assert [aside.entry for aside in store.set_aside] == entries[60:]
    await store.close()


async def test_entries_bring_the_tiles_they_complete(store: Store, open_store_factory: OpenStore) -> None:
    tiles = [StoredTile(0, 0, b"a" * 8192), StoredTile(0, 1, b"b" * 8192), StoredTile(1, 0, b"c" * 8192)]
    await store.append_entries(make_entries(1, 3), tiles[:1])
    await store.append_entries((), tiles[1:])

    store = await reopen(store, open_store_factory)

    assert [await store.tile_count(level) for level in (0, 1, 2)] == [2, 1, 0]
    assert await store.tiles(0, [1, 0, 7]) == {0: b"a" * 8192, 1: b"b" * 8192}
    assert await store.tiles(1, [0]) == {0: b"c" * 8192}
    assert await store.tiles(1, []) == {}
    assert await store.last_seq() == 3
    await store.close()


async def test_refused_entries_leave_no_tile(store: Store) -> None:
    with pytest.raises(TrustGateError, match="does not continue"):
        await store.append_entries([make_entry(2)], [StoredTile(0, 0, b"a" * 8192)])
    assert await store.tile_count(0) == 0


async def test_anchors_and_names_come_back_in_their_order(store: Store, open_store_factory: OpenStore) -> None:
    attempt = AnchorAttempt(signature="5" * 88, transaction=b"\x00\xff", last_valid_block_height=9, created_us=4)
    planned = Anchor(
        id="anchor_2",
        genesis="G",
        fee_payer="F",
        tree_size=2**53 - 1,
        root="ab" * 32,
        note="origin\n1\n",
        created_us=3,
        attempts=(attempt,),
    )
    first = msgspec.structs.replace(planned, id="anchor_1", tree_size=1, attempts=())
    anchored = msgspec.structs.replace(planned, state="anchored", signature="5" * 88, slot=7, fee_lamports=5000)
    names = [LogName(vkey="z+1+a", created_us=1), LogName(vkey="a+1+a", created_us=2)]
    await store.put(planned, *reversed(names))
    await store.put(first, anchored)

    store = await reopen(store, open_store_factory)

    assert await store.anchors() == [first, anchored]
    assert await store.log_names() == names
    await store.close()


async def test_no_entries_are_no_work(store: Store) -> None:
    await store.append_entries([])
    assert await store.last_seq() == 0


@pytest.mark.parametrize("rows", [1, 2, 1_000])  # three tenants: a page each, two pages, one
async def test_heads_are_each_tenants_last_entry(store: Store, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(entries_module, "_ROWS", rows)
    entries = [make_entry(seq, tenant=f"tenant_{seq % 3}") for seq in range(1, 12)]
    await store.append_entries(entries)

    heads = {head.tenant_id: head.entry for head in await store.load_heads()}

    assert heads == {"tenant_0": entries[8], "tenant_1": entries[9], "tenant_2": entries[10]}


async def test_usage_is_cut_into_pages_of_whole_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_PAGE_GROUPS", 4)
    await store.append_entries(
        [make_entry(seq, tenant=f"ten_{seq % 3}", key=f"key_{seq % 5}", model=f"m-{seq % 7}") for seq in range(1, 210)]
    )
    everything = ExportFilter()

    pages = await store.usage_pages(everything)

    assert len(pages) == 3 * 5 + 1, "a key's seven models are more than a page has, so each page ends with a key"
    found = [await store.export_usage(page) for page in pages]
    assert [page.rows for page in found] == [7] * 15 + [0]
    assert b"".join(page.text for page in found) == (await store.export_usage(everything)).text
    assert await store.usage_pages(ExportFilter(tenant_id="nobody")) == [ExportFilter(tenant_id="nobody")]


async def test_an_entry_is_found_by_its_receipts_id(store: Store) -> None:
    entries = make_entries(1, 50)
    twin = make_entry(51, created_us=entries[6].receipt.created_us)  # of the same microsecond
    await store.append_entries([*entries, twin])

    assert await store.entry(entries[6].receipt.id) == entries[6]
    assert await store.entry(twin.receipt.id) == twin


@pytest.mark.parametrize("receipt_id", ["", "rcpt_", "x" * 37, "rcpt_" + "f" * 32, "' OR 1=1 --", "rcpt_" + "0" * 33])
async def test_an_id_of_nothing_finds_nothing(store: Store, receipt_id: str) -> None:
    await store.append_entries(make_entries(1, 3))
    assert await store.entry(receipt_id) is None


# sums and lists, against the same computed in Python


@pytest.fixture
def mixed() -> list[Entry]:
    """Entries of four tenants, two keys each, over five days, with every ending; not quite in the order of time."""
    chance = random.Random(7)
    return [
        make_entry(
            seq,
            created_us=FIRST_US + seq * 2_000_000_000 + chance.randrange(3_000_000_000),
            tenant=f"tenant_{(tenant := chance.randrange(4))}",
            key=f"key_{tenant}_{chance.randrange(2)}",
            model=chance.choice(["gpt-4o", "openai/gpt-4o", "trustgate/echo"]),
            **_ending(chance),
            usage_source=chance.choice(["provider", "estimate"]),
            prompt_tokens=chance.randrange(1000),
            cached_tokens=chance.randrange(100),
            completion_tokens=chance.randrange(1000),
            reasoning_tokens=chance.randrange(100),
            cost_nano_usd=chance.randrange(2**40),
        )
        for seq in range(1, 201)
    ]


def _ending(chance: random.Random) -> dict[str, Any]:
    """How a request ended, and what the version of its receipt knows of its price."""
    finish = chance.choice(get_args(Finish))
    version = 2 if finish == "credited" else chance.choice([1, 2, 3, 4])
    priced = {} if version < 3 else {"price_known": chance.random() < 0.5}
    return {"finish": finish, "v": version, **priced}


MIDDLE_US = FIRST_US + 200 * 1_000_000_000


@pytest.mark.parametrize("by", get_args(UsageGroup))
@pytest.mark.parametrize(
    "window",
    [{}, {"tenant_id": "tenant_2"}, {"since_us": MIDDLE_US}, {"until_us": MIDDLE_US, "tenant_id": "tenant_1"}],
    ids=["all", "a tenant", "since", "until"],
)
async def test_usage_adds_up(store: Store, mixed: list[Entry], by: UsageGroup, window: dict[str, Any]) -> None:
    await store.append_entries(mixed)
    query = UsageFilter(by=by, **window)

    assert await store.usage(query) == expected_usage(mixed, query)


def expected_usage(entries: list[Entry], query: UsageFilter) -> list[UsageRow]:
    groups: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(UsageRow.__struct_fields__[1:], 0))
    for receipt in (entry.receipt for entry in entries):
        if query.tenant_id not in (None, receipt.tenant) or receipt.finish == "credited":
            continue
        if not (query.since_us or 0) <= receipt.created_us < (query.until_us or 2**63):
            continue
        at = datetime.fromtimestamp(receipt.created_us / 1e6, UTC)
        times = {"day": f"{at:%Y-%m-%d}", "hour": f"{at:%Y-%m-%d %H}:00"}
        row = groups[times.get(query.by) or getattr(receipt, query.by) or ""]
        row["refused"] += receipt.finish == "refused"
        row["failed"] += receipt.finish == "upstream_error"
        if receipt.finish in COUNTED:
            row["requests"] += 1
            row["estimated"] += receipt.usage_source == "estimate"
            row["unpriced"] += receipt.price_known is False
            row["billed_nano_usd"] += (
                receipt.billed_nano_usd if isinstance(receipt.billed_nano_usd, int) else receipt.cost_nano_usd
            )
            for member in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd"):
                row[member] += getattr(receipt, member)
    return [UsageRow(group=group, **groups[group]) for group in sorted(groups)]


async def test_usage_of_an_exact_window(store: Store) -> None:
    """since <= created < until."""
    await store.append_entries(make_entries(1, 10))
    since_us, until_us = FIRST_US + 3_000_000, FIRST_US + 6_000_000

    (row,) = await store.usage(UsageFilter(by="tenant", since_us=since_us, until_us=until_us))

    assert row.requests == 3


@pytest.mark.parametrize("by", get_args(UsageGroup))
async def test_money_that_comes_onto_a_balance_is_no_request(store: Store, by: UsageGroup) -> None:
    """Its receipt adds to no sum, uses up no quota, and no model, key or day is shown for it alone."""
    requests = [make_entry(1, v=2), make_entry(2, v=2, finish="refused", status=402)]
    await store.append_entries(requests)
    query = UsageFilter(by=by)
    before, quotas = await store.usage(query), await store.window_usage(0)
    a_day_later_us = FIRST_US + 86_400_000_000

    added = [make_credit(3), make_credit(4, key=""), make_credit(5, created_us=a_day_later_us), make_credit(6)]
    await store.append_entries(
        [Entry(seq=seq, receipt=credit, secret=bytes(32)) for seq, credit in enumerate(added, 3)]
    )

    assert await store.usage(query) == before
    assert await store.window_usage(0) == quotas
    assert [(row.requests, row.refused, row.failed) for row in before] == [(1, 1, 0)]
    assert [row.requests for row in quotas] == [1]
    assert len(await store.entries(ReceiptFilter())) == 6


async def test_window_usage_is_what_counts_against_quotas(store: Store, mixed: list[Entry]) -> None:
    await store.append_entries(mixed)

    rows = await store.window_usage(MIDDLE_US)

    expected: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for receipt in (entry.receipt for entry in mixed):
        if receipt.created_us >= MIDDLE_US and receipt.finish in COUNTED:
            sums = expected[receipt.tenant, receipt.key]
            sums[0] += 1
            sums[1] += receipt.prompt_tokens + receipt.completion_tokens
            sums[2] += receipt.billed_nano_usd if isinstance(receipt.billed_nano_usd, int) else receipt.cost_nano_usd
    assert {(row.tenant_id, row.key_id): [row.requests, row.tokens, row.cost_nano_usd] for row in rows} == expected


@pytest.mark.parametrize(
    "query",
    [
        ReceiptFilter(),
        ReceiptFilter(limit=7),
        ReceiptFilter(limit=0),
        ReceiptFilter(limit=-1),
        ReceiptFilter(tenant_id="tenant_3", limit=500),
        ReceiptFilter(key_id="key_1_1", limit=500),
        ReceiptFilter(since_us=MIDDLE_US, tenant_id="tenant_0", limit=500),
        ReceiptFilter(before_seq=100, limit=10),
        ReceiptFilter(tenant_id="nobody"),
        ReceiptFilter(oldest_first=True, limit=9),
        ReceiptFilter(oldest_first=True, after_seq=40, tenant_id="tenant_1", limit=10),
        ReceiptFilter(after_seq=40, before_seq=44),
    ],
)
async def test_entries_are_listed_in_either_order(store: Store, mixed: list[Entry], query: ReceiptFilter) -> None:
    await store.append_entries(mixed)

    expected = [
        entry
        for entry in (mixed if query.oldest_first else reversed(mixed))
        if query.tenant_id in (None, entry.receipt.tenant)
        and query.key_id in (None, entry.receipt.key)
        and entry.receipt.created_us >= (query.since_us or 0)
        and (query.after_seq or 0) < entry.seq < (query.before_seq or 2**63)
    ]
    assert await store.entries(query) == expected[: max(query.limit, 0)]


@pytest.mark.parametrize(
    ("pattern", "models"),
    [
        ("*", {"gpt-4o", "openai/gpt-4o", "trustgate/echo"}),
        ("gpt*", {"gpt-4o"}),
        ("*/*o", {"openai/gpt-4o", "trustgate/echo"}),
        ("[a-o]*", {"gpt-4o", "openai/gpt-4o"}),
        ("gpt-?o", {"gpt-4o"}),
        ("gpt.4o", set()),
        ("GPT-4o", set()),
    ],
)
async def test_entries_are_found_by_a_glob_of_their_model(
    store: Store, mixed: list[Entry], pattern: str, models: set[str]
) -> None:
    await store.append_entries(mixed)

    found = await store.entries(ReceiptFilter(model=pattern, limit=500))

    assert {entry.receipt.model for entry in found} == models


async def test_a_file_needs_nothing_of_postgres(tmp_path: Path) -> None:
    """The extra may be missing; and what is not loaded takes no time at the start."""
    program = f"""
import asyncio, pathlib, sys
from trustgate.store import open_store

async def main():
    await (await open_store(pathlib.Path({str(tmp_path / "a.duckdb")!r}))).close()

asyncio.run(main())
print("asyncpg" in sys.modules)
"""
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    said, _ = await done.communicate()
    assert said.split() == [b"False"]


# living together


async def test_very_many_notices_take_few_statements(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one a thousand take many seconds, in which no receipt is stored."""
    conditions = tuple(OpenCondition(identity=f"limit:{number}", notice=f"{number}") for number in range(1_000))
    deliveries = tuple(
        NoticeDelivery(
            id=f"msg_{number:04}", subscriber_id="sub_1", body="{}", message=f"{number}", created_us=1, next_us=2
        )
        for number in range(1_000)
    )
    statements = list[str]()
    put, delete = RecordTable.put, RecordTable.delete

    class Counted:
        """A connection that notes what is asked of it."""

        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, query: Any, parameters: object = None) -> Any:
            statements.append(query)
            return self._connection.execute(query, parameters)

    monkeypatch.setattr(RecordTable, "put", lambda table, to, records: put(table, Counted(to), records))
    monkeypatch.setattr(RecordTable, "delete", lambda table, of, some: delete(table, Counted(of), some))
    await store.change_notifications(NotificationChange(conditions=conditions, deliveries=deliveries))
    changed = msgspec.structs.replace(deliveries[7], state="delivered")
    # Of two with one identity the later counts.
    await store.change_notifications(NotificationChange(deliveries=(deliveries[7], changed)))
    kept = await store.load_notifications()
    assert kept.conditions == tuple(sorted(conditions, key=lambda each: each.identity))
    assert kept.deliveries == (*deliveries[:7], changed, *deliveries[8:])
    over, forgotten = (each.identity for each in conditions[:990]), (each.id for each in deliveries[5:])
    await store.change_notifications(NotificationChange(over=tuple(over), forgotten=tuple(forgotten)))
    kept = await store.load_notifications()
    assert (len(kept.conditions), kept.deliveries) == (10, deliveries[:5])
    assert len(statements) < 100


async def test_verbs_may_overlap(store: Store) -> None:
    batches = [make_entries(first, 20) for first in range(1, 201, 20)]

    await asyncio.gather(*(store.append_entries(batch) for batch in batches), store.put(*RECORDS), store.load_state())

    assert await store.last_seq() == 200
    assert len(await store.entries(ReceiptFilter(limit=1000))) == 200


async def test_a_cancelled_caller_leaves_the_store_whole(store: Store) -> None:
    tasks = [asyncio.create_task(store.append_entries(make_entries(1, 500))) for _ in range(2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    await store.load_state()  # runs after whatever was under way
    last_seq = await store.last_seq()

    assert last_seq in (0, 500)
    await store.append_entries(make_entries(last_seq + 1, 1))
    assert await store.last_seq() == last_seq + 1


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()

    with pytest.raises(Unavailable, match="closed"):
        await store.load_state()


async def test_closing_finishes_what_was_begun(store: Store, open_store_factory: OpenStore) -> None:
    append = asyncio.create_task(store.append_entries(make_entries(1, 300)))
    await asyncio.sleep(0)
    await store.close()
    await append

    store = await open_store_factory()
    assert await store.last_seq() == 300
    await store.close()


async def test_info_tells_what_the_store_takes_up(store: Store) -> None:
    before = store.info
    await store.append_entries(make_entries(1, 500))

    assert before.schema_version == store.info.schema_version == migrations.LATEST
    assert store.info.size_bytes > before.size_bytes > 0
