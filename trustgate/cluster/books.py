"""The books that several processes keep together: what is admitted, held, settled and put on record.

Two moments of a request touch them. It is *opened*: its worst case is held on quota, budgets and balance; that need not
outlive a crash of the database, for what is used is in receipts. It is *closed*: what it held is settled and its
receipt linked to its tenant's last, in one transaction, and only then may the end of its answer leave. A caller without
limits is opened in memory, without the database.

Owns the two lanes, one for each moment, which of them an open takes (under load that of the closes, in one batch with
them), and what is given back where no request waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trustgate.access.budget_reach import Drawer
from trustgate.access.directory import Caller, Directory
from trustgate.access.quota import Ask, ParallelSlot
from trustgate.cluster.batches import DatabaseClock, Operation, Restore
from trustgate.cluster.changes import KnownChanges
from trustgate.cluster.database import DatabaseConnection, DatabaseSession
from trustgate.cluster.holds import (
    Draft,
    Grant,
    Late,
    SharedCounters,
    SharedHold,
    SharedMoney,
    SharedSlot,
    UnheldMoney,
    Use,
)
from trustgate.cluster.lanes import BatchLane
from trustgate.cluster.lasting_work import EndedWork, HoldWork, LastingWork
from trustgate.cluster.operations import Close, Enter, HoldMoney, Open
from trustgate.cluster.row_states import RowStates
from trustgate.cluster.rows import (
    BalanceRow,
    QuotaRow,
    Row,
    balance_key,
    budget_key,
    done_key,
    given_back,
    look_at_budget,
    quota_key,
)
from trustgate.errors import TrustGateError
from trustgate.receipts.receipt import balance_change, billed_of
from trustgate.tasks import Deferred
from trustgate.types import COUNTED, Limits, Receipt

_HELD = "SELECT key, state::text AS state FROM shared_state WHERE state->'nodes' ?| $1::text[] ORDER BY key FOR UPDATE"
_WRITE = (
    "UPDATE shared_state s SET state = v.state FROM unnest($1::text[], $2::text[]::jsonb[]) AS v (key, state)"
    " WHERE s.key = v.key"
)
_BALANCE = "SELECT key, state::text AS state FROM shared_state WHERE key = $1"
_BALANCES = "SELECT key, state::text AS state FROM shared_state WHERE key >= 'balance/' AND key < 'balance0'"
_THESE = "SELECT key, state::text AS state FROM shared_state WHERE key = ANY($1::text[])"
_BUDGETS = "SELECT key, state::text AS state FROM shared_state WHERE key >= 'budget/' AND key < 'budget0'"

#: The lane of opens.
_OPENS = "open"
#: Callers of which it is remembered what limits count of them.
_CALLERS_MOST = 10_000
#: Rows that are taken in to be looked at without a pause: half a millisecond.
_LOOKED_AT_A_TURN = 200

_NOTHING_HELD = Grant("", 0)


class Books:
    """One process's part in the books."""

    def __init__(
        self,
        counters: SharedCounters,
        clock: DatabaseClock,
        opening: DatabaseSession,
        closing: DatabaseSession,
        node_id: Callable[[], str],
        *,
        looking: DatabaseSession | None = None,
        known_changes: Callable[[], KnownChanges | None] | None = None,
    ) -> None:
        """
        Args:
            counters: those in memory, which go by ``clock``.
            clock: the database's time.
            opening: a connection on which commits do not wait for the disk (``synchronous_commit = off``).
            closing: one on which they do.
            node_id: this process's id as a node. Raises TrustGateError where it is none at the moment.
            looking: one that reads what others have counted; None: ``opening``.
            known_changes: which of the operators' changes memory has; gives None where it may be behind. None: no
                operator changes anything.
        """
        self._counters = counters
        self.quota, self.budgets, self.balances = counters.quota, counters.budgets, counters.balances
        self._looking = opening if looking is None else looking
        self._node_id = node_id
        self._last_node_id = ""
        #: Of callers, by their address in memory, what limits count of them.
        self._limited: dict[int, tuple[Caller, tuple[str, ...]]] = {}
        #: Has the limits as they are now; None: those of a request's beginning hold to its end.
        self.directory: Directory | None = None
        #: Brings into memory what rows are to have that are missing; None: memory has it.
        self.restore: Restore | None = None
        states = RowStates()
        self.opening = BatchLane(
            _OPENS,
            opening,
            node_id,
            clock,
            persists=False,
            on_lost=self._undo,
            on_connect=self._look_back,
            restore=self._restore,
            states=states,
        )
        self.closing = BatchLane(
            "close",
            closing,
            self._known_node_id,
            clock,
            persists=True,
            on_lost=self._undo,
            on_connect=self._look_back,
            restore=self._restore,
            states=states,
            known_changes=known_changes,
        )

    async def run(self) -> None:
        """Carry out what requests need, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.opening.run())
            group.create_task(self.closing.run())

    async def enter(self, caller: Caller) -> SharedSlot | None:
        """Take one of the parallel requests of a caller; None where nothing limits them.

        Raises ``RateLimited`` (429), or ``Unavailable`` while the database is away.
        """
        if not limits_parallel(caller):
            return None
        slot: SharedSlot = await self._open(Enter(self._counters, caller, self._counting))
        return slot

    async def open(self, caller: Caller, drawer: Drawer, ask: Ask, slot: SharedSlot | None = None) -> SharedHold:
        """Hold the worst case of a request. Raises ``RateLimited``, or ``Unavailable`` while the database is away."""
        held = self.open_at_once(caller, drawer, ask, slot)
        if held is None:
            held = await self._open(Open(self._counters, caller, drawer, ask, self._counting, slot))
        return held

    def open_at_once(self, caller: Caller, drawer: Drawer, ask: Ask, slot: SharedSlot | None) -> SharedHold | None:
        """Hold the worst case of a request where no row counts it; None: the database has to admit it (``open``)."""
        counters = self._counters
        if self._counting(caller):
            return None
        budgets, at_us = counters.budgets, counters.budgets.clock()
        if budgets.counters_of(drawer, at_us):
            return None
        claim = budgets.claim(drawer, ask.tokens, ask.cost_nano_usd, at_us)
        unlimited = ParallelSlot(())
        hold = counters.quota.reserve(caller.tenant, caller.plan, caller.key, ask, at_us, unlimited, claim)
        # Budgets that are made meanwhile count what it used when it is settled.
        budgets.held.discard(claim)
        return SharedHold(_NOTHING_HELD, caller, drawer, (), hold, slot)

    async def hold_money(self, tenant_id: str, amount: int) -> SharedMoney | None:
        """Hold an amount of a tenant's balance, nano-USD; None where less is free."""
        money: SharedMoney | None = await self._open(HoldMoney(self._counters, tenant_id, amount))
        return money

    def close(
        self,
        *,
        hold: SharedHold | None = None,
        slot: SharedSlot | None = None,
        money: SharedMoney | UnheldMoney | None = None,
        use: Use | None = None,
        receipt: Receipt | None = None,
        secret: bytes = b"",
        credit_nano_usd: int = 0,
        draft: Draft | None = None,
        late: Late | None = None,
        work: EndedWork | None = None,
        on_commit: Callable[[], None] | None = None,
    ) -> Deferred[Receipt | None]:
        """Settle what a request holds and put its receipt on record, in one transaction.

        Args:
            hold: What ``open`` gave; its slot is given back with it.
            slot: What ``enter`` gave, of a request that was not opened.
            money: What ``hold_money`` gave, or what is charged without a hold.
            use: What was used; None: nothing, and everything is given back.
            receipt: Without its place in its tenant's chain.
            secret: The receipt's.
            credit_nano_usd: What the receipt adds to its tenant's balance; below zero: takes.
            draft: Where the receipt is until this is committed.
            late: Who used it, where nothing was held for it.
            work: Work upstream that the receipt charges, unless another receipt has.
            on_commit: Is called then.

        Returns:
            What has the receipt in its place once that is committed; or None once the database is away, when it
            will be committed later.
        """
        settled = Close(
            self._counters,
            hold=hold,
            slot=slot,
            money=money,
            use=use,
            receipt=receipt,
            secret=secret,
            credit_nano_usd=credit_nano_usd,
            draft=draft,
            late=late,
            work=work,
            find_subjects=self._counting,
        )
        return self.closing.submit(settled, on_commit)

    def close_late(
        self,
        receipt: Receipt,
        secret: bytes,
        draft: Draft | None,
        *,
        who: tuple[Caller, Drawer] | None,
        credit_nano_usd: int = 0,
        work: EndedWork | None = None,
        on_commit: Callable[[], None] | None = None,
    ) -> Deferred[Receipt | None]:
        """Put a receipt on record that a process left behind in its journal, unless a process has done so.

        What the process held was given back; what was used is charged.

        Args:
            receipt: Without its place in its tenant's chain.
            secret: The receipt's.
            draft: Its place in the journal of this home's id; None: it is in another journal.
            who: Who used it; None: tenant or key are gone, and what was used counts nowhere.
            credit_nano_usd: What it adds to its tenant's balance.
            work: Work upstream that the receipt charges, unless another receipt has.
            on_commit: Is called once it is committed.
        """
        use = Use(receipt.prompt_tokens + receipt.completion_tokens, billed_of(receipt))
        late = None if who is None else Late(who[1], who[0])
        settled = Close(
            self._counters,
            use=use if receipt.finish in COUNTED else None,
            receipt=receipt,
            secret=secret,
            credit_nano_usd=credit_nano_usd,
            draft=draft,
            late=late,
            # The receipt has been written with this charge.
            late_charge_nano_usd=balance_change(receipt)[0],
            work=work,
            find_subjects=self._counting,
            was_left=True,
        )
        return self.closing.submit(settled, on_commit)

    def work_of(self, key: str, caller: Caller, drawer: Drawer, ask: Ask, money_nano_usd: int) -> LastingWork:
        """Returns a caller's work that goes on upstream, with the subjects that count it now.

        Args:
            key: Of its row (``lasting_work.work_key``).
            caller: Whose it is.
            drawer: Who draws on budgets with it.
            ask: Its worst case.
            money_nano_usd: What is to be held of its tenant's balance, nano-USD.
        """
        return LastingWork(key, drawer, self._subjects(caller), ask, money_nano_usd)

    def hold_work(self, work: LastingWork) -> Deferred[None]:
        """Hold what work may still use, wherever it is not held yet; nothing for work that is settled.

        Returns:
            What ends once that is committed, or once the database is away: it is committed later then.
        """
        return self.closing.submit(HoldWork(self._counters, work))

    def forget_rows(self) -> None:
        """Forget which rows there are, and what was in them: they were removed."""
        for lane in (self.opening, self.closing):
            lane.forget_rows()

    async def refresh_balances(self, tenant_id: str | None = None) -> None:
        """Take in what others have counted on a tenant's balance; None: on every balance.

        Raises Unavailable: the database is away.
        """
        async with self._looking.use() as connection:
            if tenant_id is None:
                found = await connection.fetch(_BALANCES)
            else:
                found = await connection.fetch(_BALANCE, balance_key(tenant_id))
        for record in found:
            BalanceRow(self.balances, record["key"].partition("/")[2]).take_in(record["state"], 0)

    async def refresh_counts(self, *subject_ids: str) -> None:
        """Take in what others have counted of these tenants and keys; of none: on every budget.

        Raises Unavailable: the database is away.
        """
        keys = [quota_key(subject_id) for subject_id in subject_ids]
        for budget in self.budgets.budgets():
            keys += [budget_key(budget, subject) for subject in ("", *subject_ids)]
        async with self._looking.use() as connection:
            found = await (connection.fetch(_THESE, keys) if subject_ids else connection.fetch(_BUDGETS))
        at_us = self.budgets.clock()
        for number, record in enumerate(found, 1):
            if number % _LOOKED_AT_A_TURN == 0:
                await asyncio.sleep(0)  # other requests run
            kind, _, subject = record["key"].partition("/")
            if kind == "quota":
                QuotaRow(self.quota, subject).take_in(record["state"], at_us)
            else:
                look_at_budget(self.budgets, record["key"], record["state"], at_us)

    def late(self, caller: Caller, drawer: Drawer) -> Late:
        """Returns who used what is charged now without a hold."""
        return Late(drawer, caller)

    def _counting(self, caller: Caller) -> tuple[str, ...]:
        """Returns the ids of a caller's tenant and key that are counted in rows: those with limits now, or when its
        request began.
        """
        subjects, directory = self._subjects(caller), self.directory
        if directory is None or directory.is_current(caller):
            return subjects
        owner = directory.owner(caller.tenant.id, caller.key.id)
        if owner is None or owner.key.id != caller.key.id:
            return subjects
        return tuple(dict.fromkeys((*subjects, *self._subjects(owner))))

    def _subjects(self, caller: Caller) -> tuple[str, ...]:
        """Returns those of a caller's tenant and key that anything limits: they are counted in rows."""
        found = self._limited.get(id(caller))
        # A caller does not change: where anything of it does, another one takes its place.
        if found is not None and found[0] is caller:
            return found[1]
        tenant_id, key_id = caller.tenant.id, caller.key.account_id
        pairs = ((tenant_id, caller.plan.limits), (key_id, caller.key.limits))
        subjects = tuple(subject for subject, limits in pairs if self._is_limited(subject, limits))
        if len(self._limited) >= _CALLERS_MOST:
            self._limited.clear()
        self._limited[id(caller)] = caller, subjects
        return subjects

    def _is_limited(self, subject_id: str, limits: Limits) -> bool:
        return limits.parallel_requests is not None or self._counters.quota.has_limits(limits, subject_id)

    async def _open(self, operation: Operation) -> Any:
        if self.closing.fault is None and (self.closing.is_busy or self.closing.is_loaded):
            # A batch costs as much as some operations: under load opens and closes are in one.
            done = self.closing.submit(operation, persists=False)
        else:
            done = self.opening.submit(operation)
        try:
            return await done
        except asyncio.CancelledError:
            done.on_end(self._give_up)
            raise

    def _give_up(self, done: Deferred[Any]) -> None:
        """Give back what was granted to a request that is gone."""
        if done.result is not None:
            self._undo(done.result)

    def _known_node_id(self) -> str:
        """Returns this process's id as a node; the last one that it had, where it is none: what it began it may end."""
        with contextlib.suppress(TrustGateError):
            self._last_node_id = self._node_id()
        return self._last_node_id

    async def _restore(self, connection: DatabaseConnection, rows: Sequence[Row]) -> None:
        if self.restore is not None:
            await self.restore(connection, rows)

    async def _look_back(self, connection: DatabaseConnection) -> None:
        """Find the opens that a crash of the database has lost: what they granted is held nowhere any more.

        A commit that waited for the disk takes those before it to the disk with it, so it can only be the last ones.
        """
        node_id, committed = self._known_node_id(), self.opening.committed
        found = await connection.fetchval(
            "SELECT state::text FROM shared_state WHERE key = $1", done_key(node_id, _OPENS)
        )
        last = 0 if found is None else abs(int(found))
        gone = self._counters.forgotten.setdefault(node_id, [])
        after = max(last, gone[-1][1] if gone else 0)
        if after < committed:
            gone.append((after, committed))

    def _undo(self, granted: SharedSlot | SharedHold | SharedMoney | Receipt) -> None:
        """Give back what was granted to a request that was refused all the same, or is gone. A receipt stays."""
        hold = slot = money = None
        if isinstance(granted, Receipt):
            return
        if isinstance(granted, SharedHold):
            # Its slot is the request's to give back.
            hold = msgspec.structs.replace(granted, slot=None)
        elif isinstance(granted, SharedSlot):
            slot = granted
        else:
            money = granted
        _ = self.closing.submit(Close(self._counters, hold=hold, slot=slot, money=money))


def limits_parallel(caller: Caller) -> bool:
    """Returns whether anything limits how many requests a caller may have at once."""
    return caller.plan.limits.parallel_requests is not None or caller.key.limits.parallel_requests is not None


async def give_back(connection: DatabaseConnection, node_ids: Sequence[str]) -> None:
    """Give back what nodes held that are gone; within the transaction that buries them."""
    found = await connection.fetch(_HELD, list(node_ids))
    if found:
        contents = [given_back(record["key"], record["state"], node_ids).decode() for record in found]
        await connection.execute(_WRITE, [record["key"] for record in found], contents)
