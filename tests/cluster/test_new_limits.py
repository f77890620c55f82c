"""Limits that come while requests run: their row has what receipts say, and what is held, whatever came first."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from tests.cluster.bookkeeping import Bookkeeper, bookkeepers, bury, drawer_of, make_caller
from tests.support.entries import make_receipt
from tests.support.postgres import GivenPostgres, Postgres
from trustgate.access.directory import Caller, Directory
from trustgate.access.quota import Ask, Quota
from trustgate.cluster.holds import SharedHold, SharedSlot, Use
from trustgate.cluster.rows import quota_key
from trustgate.cluster.rows_anew import quotas_anew
from trustgate.server.missing_rows import MissingRows, waiting_receipts
from trustgate.store import State
from trustgate.types import Limits

#: It limits how many run at once: each request enters before it is opened.
_PLAN = Limits(parallel_requests=50)
_KEY = Limits(tokens_per_day=10**9, requests_per_day=10**6)
_ASK, _USE = Ask(1_000, 100), Use(7, 3)
_REPLACE = (
    "INSERT INTO shared_state (key, state) VALUES ($1, $2::text::jsonb)"
    " ON CONFLICT (key) DO UPDATE SET state = excluded.state"
)

#: When the limit of a key comes in the life of its request, what makes the row, and how the request ends.
_MOMENTS = ("before it enters", "once it has entered", "once it is admitted")
_MAKERS = ("its process", "another process", "another process that has the limit first", "its close", "the command")
_ENDS = ("used", "given back", "taken for dead", "taken for dead, given back")


class LimitedTogether:
    """Two processes that keep books together, each with what it knows of limits."""

    def __init__(self, keepers: list[Bookkeeper]) -> None:
        self.keepers = keepers
        self.directories: list[Directory] = []
        plan = make_caller(plan=_PLAN).plan
        for keeper in keepers:
            directory = Directory(State(plans=(plan,), tenants=(), keys=(), passports=(), aliases=()))
            unused = cast("Any", None)
            made = MissingRows(unused, directory, unused, keeper.counters.quota, keeper.clock, lambda _: None)
            keeper.books.directory, keeper.books.restore = directory, made.restore
            self.directories.append(directory)

    def add(self, name: str) -> Caller:
        """Returns a new caller whose key has no limits."""
        caller = make_caller(f"ten_{name}", key_id=f"key_{name}", plan=_PLAN)
        for directory in self.directories:
            directory.put(caller.tenant)
            directory.put(caller.key)
        return caller

    def set_limits(self, caller: Caller, limits: Limits, *, at: tuple[int, ...] = (0, 1)) -> Caller:
        """Set the limits of a caller's key. Returns the caller as it is then."""
        key = msgspec.structs.replace(caller.key, limits=limits)
        for number in at:
            self.directories[number].put(key)
        return msgspec.structs.replace(caller, key=key)

    async def count_anew(self, caller: Caller) -> None:
        """Write the row of a caller's key anew, as the command does that has set its limits."""
        subject = caller.key.account_id
        async with self.keepers[0].own.use() as connection, connection.transaction():
            await connection.execute("LOCK TABLE shared_state IN EXCLUSIVE MODE")
            at_us = self.keepers[0].clock()
            counted = Quota(lambda: at_us)
            counted.begin(at_us)
            for receipt in await waiting_receipts(connection):
                if receipt.key == subject:
                    use = receipt.prompt_tokens + receipt.completion_tokens, receipt.cost_nano_usd
                    for window in range(3):
                        counted.restore(window, subject, 1, *use)
            query = "SELECT key, state::text AS state FROM shared_state WHERE key = $1"
            found = {row["key"]: row["state"] for row in await connection.fetch(query, quota_key(subject))}
            for key, state in quotas_anew(counted, [subject], found, at_us).items():
                await connection.execute(_REPLACE, key, state)

    async def enter(self, caller: Caller, at: int) -> SharedSlot | None:
        return await self.keepers[at].books.enter(caller)

    async def open(self, caller: Caller, slot: SharedSlot | None, at: int) -> SharedHold:
        return await self.keepers[at].books.open(caller, drawer_of(caller), _ASK, slot)

    async def begin(self, caller: Caller, at: int) -> SharedHold:
        return await self.open(caller, await self.enter(caller, at), at)

    async def end(self, hold: SharedHold, use: Use | None, at: int) -> None:
        receipt = None
        if use is not None:
            receipt = make_receipt(
                tenant=hold.caller.tenant.id,
                key=hold.caller.key.id,
                created_us=self.keepers[at].clock(),
                prompt_tokens=use.tokens,
                completion_tokens=0,
                cost_nano_usd=use.billed_nano_usd,
            )
        await self.keepers[at].books.close(hold=hold, use=use, receipt=receipt, secret=bytes(32))

    async def figures(self, subject: str) -> tuple[list[int], int]:
        """Returns what a row has: requests, tokens and cost of the day, and how many run."""
        async with self.keepers[0].own.use() as connection:
            state = await connection.fetchval("SELECT state::text FROM shared_state WHERE key = $1", quota_key(subject))
        if state is None:
            return [0, 0, 0], 0
        _, used, _, parallel = json.loads(state)["figures"]
        return used[1], parallel

    async def check(self, caller: Caller, case: object, *, of_key: bool = True) -> None:
        """Check that both rows of a caller have what its receipts have, and nothing more.

        ``of_key``: whether its key has limits; otherwise its row, if it has one, is old.
        """
        async with self.keepers[0].own.use() as connection:
            mine = [each for each in await waiting_receipts(connection) if each.key == caller.key.id]
        used = [len(mine), sum(each.prompt_tokens for each in mine), sum(each.cost_nano_usd for each in mine)]
        for subject in (caller.tenant.id, *[caller.key.account_id] * of_key):
            found = await self.figures(subject)
            assert found == (used, 0), f"{case}, {subject}: {found}, by receipts {used}"


@contextlib.asynccontextmanager
async def two_processes(url: str) -> AsyncIterator[LimitedTogether]:
    async with bookkeepers(url, 2) as keepers:
        yield LimitedTogether(keepers)


@pytest.fixture
def url(postgres: Postgres | GivenPostgres) -> str:
    return postgres.clean()


async def _live(both: LimitedTogether, name: str, moment: str, maker: str, end: str) -> None:
    """One request of a key without limits, at the first process, while its key gets one."""
    caller = both.add(name)
    # A receipt of before: the row is made of it.
    await both.end(await both.begin(caller, 0), _USE, 0)

    async def limit() -> SharedHold | None:
        """The limit comes, and its row is made."""
        if maker == "another process that has the limit first":
            # The command waits for the other, and counts anew then.
            limited = both.set_limits(caller, _KEY, at=(1,))
            return await both.begin(limited, 1)
        limited = both.set_limits(caller, _KEY)
        if maker == "the command":
            await both.count_anew(limited)
        if maker in ("its process", "another process"):
            return await both.begin(limited, _MAKERS.index(maker))
        return None

    of_other: SharedHold | None = None
    if moment == _MOMENTS[0]:
        of_other = await limit()
    slot = await both.enter(caller, 0)
    if moment == _MOMENTS[1]:
        of_other = await limit()
    hold = await both.open(caller, slot, 0)
    if moment == _MOMENTS[2]:
        of_other = await limit()
    if end.startswith("taken for dead"):
        await bury(both.keepers[1], both.keepers[0])
        await both.keepers[0].join()
    use = None if end.endswith("given back") else _USE
    await both.end(hold, use, 0)
    if of_other is not None:
        of_second = of_other.grant.node_id == both.keepers[1].node_id
        await both.end(of_other, _USE, int(of_second))
    limited = both.set_limits(caller, _KEY)
    if maker == "another process that has the limit first":
        await both.count_anew(limited)
    await both.end(await both.begin(limited, 1), _USE, 1)
    await both.check(caller, (moment, maker, end))


@pytest.mark.parametrize("maker", _MAKERS)
async def test_a_limit_that_comes_at_any_moment_of_a_request_counts_what_receipts_have(maker: str, url: str) -> None:
    async with two_processes(url) as both:
        for number, (moment, end) in enumerate(itertools.product(_MOMENTS, _ENDS)):
            async with asyncio.timeout(60):
                await _live(both, str(number), moment, maker, end)


async def test_a_row_that_is_missing_is_made_without_a_look_at_every_key(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10,000 keys that begin at once each would look at all."""

    def keys(_: Directory) -> None:
        raise AssertionError("all keys were looked at")

    async with two_processes(url) as both:
        caller = both.set_limits(both.add("one"), _KEY)
        monkeypatch.setattr(Directory, "keys", keys)
        await both.end(await both.begin(caller, 0), _USE, 0)
        await both.check(caller, "its first request")
