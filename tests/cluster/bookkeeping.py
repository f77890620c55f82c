"""Processes that keep books together, for tests: each with counters, connections and a node's row of its own.

Several in one event loop meet each other in the database as processes do. ``python -m tests.cluster.bookkeeping`` is
one as a process: it reads orders as lines of JSON and answers each with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.entries import make_receipt
from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller
from trustgate.access.quota import Ask, Quota
from trustgate.cluster import nodes
from trustgate.cluster.batches import DatabaseClock
from trustgate.cluster.books import Books, give_back
from trustgate.cluster.changes import KnownChanges
from trustgate.cluster.connections import closing_session, opening_session
from trustgate.cluster.drafts import Drafts
from trustgate.cluster.holds import SharedCounters, SharedHold, Use
from trustgate.errors import RateLimited, Unavailable
from trustgate.payment.balance import Balances
from trustgate.receipts.segment import decode_entry
from trustgate.settings import PostgresAddress
from trustgate.store.postgres import connecting
from trustgate.types import ApiKey, Budget, Limits, Plan, Receipt, Tenant

NO_LIMITS = Limits()
ASK_NOTHING = Ask(0, 0)
_TIMEOUT_S = 20.0
_LEASE_S = 600.0
#: How many statements wait for a lock of the table; read after a pause, so that a loop of it spins no core.
WAITING_FOR_ROWS = """SELECT count(*) FROM pg_sleep(0.02), pg_locks
    WHERE NOT granted AND relation = 'shared_state'::regclass"""


def make_caller(
    tenant_id: str = "ten_1", *, key_id: str = "", plan: Limits = NO_LIMITS, key: Limits = NO_LIMITS
) -> Caller:
    """Returns a caller with these limits."""
    key_id = key_id or f"key_of_{tenant_id}"
    return Caller(
        ApiKey(id=key_id, tenant_id=tenant_id, name="k", secret_sha256="", redacted="", limits=key),
        Tenant(id=tenant_id, name=tenant_id, plan="p"),
        Plan(name="p", limits=plan),
        "",
        None,
        True,
        False,
    )


def shared_budget(unit: Any, amount: int, **members: Any) -> Budget:
    """Returns a budget of everyone's."""
    return Budget(id="bud_1", name="shared", unit=unit, amount=amount, span="total", everyone=True, **members)


async def ask_all(keepers: list[Bookkeeper], asks: int, caller: Any, ask: Ask = ASK_NOTHING) -> list[SharedHold]:
    """Ask all at once, of each in turn. Gives what was admitted."""
    found = await asyncio.gather(*(keepers[number % len(keepers)].ask(caller, ask) for number in range(asks)))
    return [hold for hold in found if hold is not None]


class Bookkeeper:
    """A process that keeps books with others."""

    def __init__(self, url: str, budgets: list[Budget], *, is_fenced: bool = False) -> None:
        """``is_fenced``: whether it decides by operators' changes, which it may be behind (``KnownChanges``)."""
        self.clock = DatabaseClock()
        self.counters = SharedCounters(Quota(self.clock), Budgets(self.clock, forgets_early=False), Balances())
        for budget in budgets:
            self.counters.budgets.put(budget)
        self.node_id = ""
        #: Of the last of the operators' changes that it has.
        self.last_change = 0
        address = PostgresAddress(url)
        self.opening, self.closing, self.own = (
            opening_session(address, _LEASE_S),
            closing_session(address, _LEASE_S),
            closing_session(address, _LEASE_S),
        )
        known_changes = self._known_changes if is_fenced else None
        self.books = Books(
            self.counters, self.clock, self.opening, self.closing, self._as_node, known_changes=known_changes
        )
        #: Set where another process has gone on with its journal's home: it closes nothing more.
        self.taken = asyncio.Event()
        self.books.closing.on_taken = self.taken.set

    def _as_node(self) -> str:
        if not self.node_id:
            raise Unavailable("This process has no lease.")
        return self.node_id

    def _known_changes(self) -> KnownChanges | None:
        return KnownChanges(self.node_id, self.last_change) if self.node_id else None

    async def join(self, lease_s: float = _LEASE_S) -> None:
        """Become a node, another one each time."""
        async with self.own.use() as connection:
            self.node_id, self.last_change = await nodes.join(connection, nodes.Identity("h", 1, "v", "a"), lease_s)

    async def ask(self, caller: Caller, ask: Ask = ASK_NOTHING, **drawer: Any) -> SharedHold | None:
        """Open a request; None where it is refused."""
        try:
            return await self.books.open(caller, drawer_of(caller, **drawer), ask)
        except RateLimited:
            return None

    async def close(self, hold: SharedHold, use: Use | None) -> Receipt | None:
        """End it, with a receipt where anything was used."""
        receipt = make_receipt(tenant=hold.caller.tenant.id, tseq=0, tprev="") if use is not None else None
        return await self.books.close(hold=hold, use=use, receipt=receipt, secret=bytes(32))

    async def end(self) -> None:
        for session in (self.opening, self.closing, self.own):
            await session.close()


def drawer_of(caller: Caller, end_user: str | None = None) -> Drawer:
    return Drawer(caller.tenant.id, caller.key.account_id, caller.plan.name, ("m",), end_user)


#: Who asks in processes that are killed.
WORKER = make_caller("ten_1", plan=Limits(requests_per_day=10**6, tokens_per_day=10**9))
#: As small as a journal's segment may be, so that some are begun and deleted.
SEGMENT_BYTES = 64 * 1024


async def bury(keeper: Bookkeeper, dead: Bookkeeper) -> None:
    """Take a process for dead, and give back what it held."""
    async with keeper.own.use() as connection:
        await connection.execute(
            "UPDATE nodes SET lease_until = now() - interval '1 s' WHERE node_id = $1", dead.node_id
        )
        assert await nodes.bury(connection, give_back) == [dead.node_id]


async def stored_receipts(url: str) -> dict[str, list[Receipt]]:
    """Returns the receipts that wait for their places in the log, by tenant, in their order."""
    connection = await connecting.connect(PostgresAddress(url), "test")
    try:
        rows = await connection.fetch("SELECT entry FROM waiting_receipts ORDER BY n")
    finally:
        await connection.close()
    chains: dict[str, list[Receipt]] = {}
    for row in rows:
        receipt = decode_entry(row["entry"]).receipt
        chains.setdefault(receipt.tenant, []).append(receipt)
    return chains


@contextlib.asynccontextmanager
async def bookkeepers(
    url: str, count: int, *budgets: Budget, is_fenced: bool = False
) -> AsyncIterator[list[Bookkeeper]]:
    """So many processes that keep books together. ``is_fenced``: as ``Bookkeeper`` has it."""
    found = [Bookkeeper(url, list(budgets), is_fenced=is_fenced) for _ in range(count)]
    tasks = [asyncio.ensure_future(each.books.run()) for each in found]
    try:
        for each in found:
            await each.join()
        yield found
        for each in found:
            if not each.taken.is_set():
                await asyncio.wait_for(each.books.closing.flush(), _TIMEOUT_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in found:
            await each.end()


async def _ask_many(keeper: Bookkeeper, order: dict[str, Any]) -> dict[str, int]:
    """Open ``asks`` requests at once; those that are admitted use ``tokens`` and ``cost`` and end."""
    caller = make_caller(order["tenant"], plan=Limits(**order["limits"]))
    ask, use = Ask(order["tokens"], order["cost"]), Use(order["tokens"], order["cost"])

    async def one() -> int:
        hold = await keeper.ask(caller, ask)
        if hold is None:
            return 0
        await keeper.close(hold, use)
        return 1

    return {"admitted": sum(await asyncio.gather(*(one() for _ in range(order["asks"]))))}


async def _work_for_ever(keeper: Bookkeeper, home: Path) -> None:
    """Open and close requests, eight at once, with receipts that are journaled in ``home``; name each that is kept.

    What the process before has left there is closed first.
    """
    drafts = await Drafts.open(
        keeper.books, keeper.own, home / "journal", home_id=home.name, segment_bytes=SEGMENT_BYTES
    )
    print(json.dumps({"left": await drafts.recover(lambda receipt: (WORKER, drawer_of(WORKER)))}), flush=True)

    async def work() -> None:
        while True:
            try:
                hold = await keeper.ask(WORKER, Ask(100, 10))
            except Unavailable:  # the database is away
                await asyncio.sleep(0.01)
                continue
            assert hold is not None
            receipt = make_receipt(
                tenant=WORKER.tenant.id, tseq=0, tprev="", prompt_tokens=5, completion_tokens=2, cost_nano_usd=3
            )
            await drafts.close(receipt, bytes(32), hold=hold, use=Use(7, 3))
            print(json.dumps({"kept": receipt.id}), flush=True)

    await asyncio.gather(*(work() for _ in range(8)))


async def _main(url: str, home: str = "") -> None:
    keeper = Bookkeeper(url, [])
    await keeper.join()
    running = asyncio.ensure_future(keeper.books.run())
    if home:
        print(json.dumps({"node": keeper.node_id}), flush=True)
        await _work_for_ever(keeper, Path(home))
    loop = asyncio.get_running_loop()
    print(json.dumps({"node": keeper.node_id}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await _ask_many(keeper, json.loads(line))), flush=True)
    running.cancel()
    await keeper.end()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
