"""What a request does to rows that several processes count in: enter, open, hold money, close.

Each is decided by the counters in memory, once the rows are locked and taken in. What was taken (``cluster.holds``) is
settled on copies, so that a transaction that is done again begins anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from trustgate.access.budget_reach import Drawer
from trustgate.access.directory import Caller
from trustgate.access.quota import Ask, Hold, ParallelSlot, Quota
from trustgate.cluster.batches import Batch, RowsChanged
from trustgate.cluster.claimed_budgets import check_rows, claimed_parts, claimed_rows, count_use
from trustgate.cluster.counted_once import charging_nothing, credited_as, is_of_balance, without_credit
from trustgate.cluster.holds import (
    Draft,
    FindSubjects,
    Grant,
    Late,
    SharedCounters,
    SharedHold,
    SharedMoney,
    SharedSlot,
    UnheldMoney,
    Use,
)
from trustgate.cluster.lasting_work import EndedWork, SettleWork
from trustgate.cluster.linked_receipts import LinkedReceipt
from trustgate.cluster.rows import (
    DRAFTS,
    BalanceRow,
    BudgetRow,
    DraftsRow,
    HeadRow,
    OnceRow,
    QuotaRow,
    RecordedRow,
    Row,
    add_rows,
    balance_key,
    budget_key,
    credited_key,
    done_key,
    head_key,
    quota_key,
    recorded_key,
)
from trustgate.receipts.bounds import fixed
from trustgate.receipts.receipt import leaf_hash_of
from trustgate.receipts.segment import encode_entry
from trustgate.types import Entry, Receipt

#: That of a request whose parallel slot counts elsewhere.
_NO_SLOT = ParallelSlot(())


class Enter:
    """Take one of the parallel requests of a caller."""

    def __init__(self, counters: SharedCounters, caller: Caller, find_subjects: FindSubjects) -> None:
        """``find_subjects``: as for ``Open``."""
        self._quota = counters.quota
        self._caller = caller
        self._find_subjects = find_subjects
        self._subjects: tuple[str, ...] = ()

    def add_rows(self, rows: dict[str, Any]) -> None:
        self._subjects = self._find_subjects(self._caller)
        _add_quotas(rows, self._quota, self._subjects)

    def apply(self, batch: Batch) -> SharedSlot:
        caller, both = self._caller, _both_subjects(self._caller)
        if self._subjects != self._find_subjects(caller):
            raise RowsChanged
        inner = self._quota.enter(caller.tenant, caller.plan, caller.key)
        for subject in self._subjects:
            batch.rows[quota_key(subject)].enter(batch.node_id, 1)
        for counter in self._quota.counters_of(_of_others(both, self._subjects, batch)):
            counter.parallel -= 1
        return SharedSlot(Grant(batch.node_id, batch.number), self._subjects, inner, both)


class Open:
    """Hold a request's worst case on its quota and its budgets."""

    def __init__(
        self,
        counters: SharedCounters,
        caller: Caller,
        drawer: Drawer,
        ask: Ask,
        find_subjects: FindSubjects,
        slot: SharedSlot | None,
    ) -> None:
        """``find_subjects``: is called when the batch is sent, for the subjects that are counted in rows then."""
        self._counters = counters
        self._caller = caller
        self._drawer = drawer
        self._ask = ask
        self._find_subjects = find_subjects
        self._subjects: tuple[str, ...] = ()
        self._slot = slot

    def add_rows(self, rows: dict[str, Any]) -> None:
        budgets = self._counters.budgets
        self._subjects = self._find_subjects(self._caller)
        _add_quotas(rows, self._counters.quota, self._subjects)
        add_rows(rows, (BudgetRow(counter) for counter in budgets.counters_of(self._drawer, budgets.clock())))

    def apply(self, batch: Batch) -> SharedHold:
        budgets, caller, ask, at_us = self._counters.budgets, self._caller, self._ask, batch.at_us
        check_rows(budgets, self._drawer, batch)
        if self._subjects != self._find_subjects(caller):
            raise RowsChanged
        claim = budgets.claim(self._drawer, ask.tokens, ask.cost_nano_usd, at_us)
        # Not its slot, which counts already: its counters may have been forgotten since, for a row that was made.
        quota = self._counters.quota
        hold = quota.reserve(caller.tenant, caller.plan, caller.key, ask, at_us, _NO_SLOT, claim)
        # Budgets that come meanwhile count what is used of it when it is settled.
        budgets.held.discard(claim)
        for subject in self._subjects:
            batch.rows[quota_key(subject)].hold(batch.node_id, hold)
        if others := _of_others(_both_subjects(caller), self._subjects, batch):
            for other in quota.counters_of(others):
                other.add(-1, -ask.tokens, -ask.cost_nano_usd)
        for counter, start_us, amount in claim.parts():
            batch.rows[budget_key(counter.of.budget, counter.subject)].hold(batch.node_id, start_us, amount)
        grant = Grant(batch.node_id, batch.number)
        return SharedHold(grant, caller, self._drawer, self._subjects, hold, self._slot)


class HoldMoney:
    """Hold an amount of a tenant's balance. Gives None where less is free."""

    def __init__(self, counters: SharedCounters, tenant_id: str, amount: int) -> None:
        self._balances = counters.balances
        self._tenant_id = tenant_id
        self._amount = amount

    def add_rows(self, rows: dict[str, Any]) -> None:
        add_rows(rows, (BalanceRow(self._balances, self._tenant_id),))

    def apply(self, batch: Batch) -> SharedMoney | None:
        hold = self._balances.hold(self._tenant_id, self._amount)
        if hold is None:
            return None
        batch.rows[balance_key(self._tenant_id)].hold(batch.node_id, self._amount)
        return SharedMoney(Grant(batch.node_id, batch.number), self._tenant_id, hold)


def _of_others(both: tuple[str, str], subjects: tuple[str, ...], batch: Batch) -> list[str]:
    """Returns those of a caller's two subjects that a batch counts in rows, and an operation does not.

    Limits came, or went, while the caller's requests ran; the row is another operation's. What this one holds in memory
    is not in that row: neither taken nor given back there.
    """
    return [each for each in both if each not in subjects and quota_key(each) in batch.rows]


def _both_subjects(caller: Caller) -> tuple[str, str]:
    return caller.tenant.id, caller.key.account_id


def _add_quotas(rows: dict[str, Any], quota: Quota, subjects: Iterable[str]) -> None:
    for subject in subjects:
        key = quota_key(subject)
        if key not in rows:
            rows[key] = QuotaRow(quota, subject)


class Close:
    """Settle what a request holds, and link its receipt to its tenant's last.

    What is not held any more, because the node was taken for dead and it was given back, is charged without a hold.
    """

    def __init__(
        self,
        counters: SharedCounters,
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
        late_charge_nano_usd: int = 0,
        work: EndedWork | None = None,
        find_subjects: FindSubjects | None = None,
        was_left: bool = False,
    ) -> None:
        """
        Args:
            hold: Of an admitted request; its slot is given back with it.
            slot: Of one that entered and was not admitted.
            money: What it holds of its tenant's balance, or is charged without a hold.
            use: What it used; None: it was not served, and everything is given back.
            receipt: Without its place in the tenant's chain.
            secret: The receipt's.
            credit_nano_usd: What the receipt adds to its tenant's balance; below zero: takes.
            draft: Where the receipt is until this is committed. One that is committed is not closed again.
            late: Who used it, where the process that held for it is gone.
            late_charge_nano_usd: What is charged then, without a hold.
            work: Work upstream that the receipt charges, unless another receipt has.
            find_subjects: As for ``Open``; None: the subjects are those of the opening, and none of who is late.
            was_left: Whether the receipt was left in a journal. Then nothing is done if another process, with a copy of
                that journal, has put it on record.
        """
        self._find_subjects = find_subjects
        #: Subjects that are counted in rows now, and were not when it was opened, or for which nothing was held.
        self._later: tuple[str, ...] = ()
        self._counters = counters
        self._hold = hold
        self._slot = hold.slot if hold is not None else slot
        self._money = money
        self._use = use
        self._receipt = receipt
        self._secret = secret
        self._credit_nano_usd = credit_nano_usd
        self._draft = draft
        self._late = late
        #: The id under which the credit or refund of the receipt counts once (``credited_as``); "": it has none.
        is_change = credit_nano_usd > 0 or ((credit_nano_usd or late_charge_nano_usd) and is_of_balance(receipt))
        self._paid = credited_as(receipt) if is_change else ""
        self._late_charge_nano_usd = late_charge_nano_usd
        self._work = None if work is None else SettleWork(counters, work)
        #: The id of a receipt that was left in a journal; "": it was not.
        self._left = receipt.id if was_left and receipt is not None else ""
        #: Whether it needs rows that few need.
        self._needs_seldom = any((money, late, work, self._left, credit_nano_usd, late_charge_nano_usd))

    def add_rows(self, rows: dict[str, Any]) -> None:
        counters, held, receipt, draft = self._counters, self._hold, self._receipt, self._draft
        self._later = self._find_later()
        if held is not None:
            _add_quotas(rows, counters.quota, held.subjects)
            add_rows(rows, claimed_rows(counters.budgets, held.drawer, held.hold.claim))
        if self._slot is not None:
            _add_quotas(rows, counters.quota, self._slot.subjects)
        _add_quotas(rows, counters.quota, self._later)
        if receipt is not None and head_key(receipt.tenant) not in rows:
            add_rows(rows, (HeadRow(receipt.tenant),))
        if draft is not None and done_key(draft.home_id, DRAFTS) not in rows:
            add_rows(rows, (DraftsRow(draft.home_id, draft.life),))
        if self._needs_seldom:
            add_rows(rows, self._seldom_rows())

    def _seldom_rows(self) -> Iterator[Row]:
        """Yields the rows that few need."""
        balances = self._counters.balances
        if self._money is not None:
            yield BalanceRow(balances, self._money.tenant_id)
        if self._receipt is not None and self._paid:
            yield OnceRow(self._paid)
        if self._receipt is not None and (self._credit_nano_usd or self._late_charge_nano_usd):
            yield BalanceRow(balances, self._receipt.tenant)
        if self._late is not None:
            budgets = self._counters.budgets
            yield from map(BudgetRow, budgets.counters_of(self._late.drawer, budgets.clock()))
        if self._left:
            yield RecordedRow(self._left)
        if self._work is not None:
            yield from self._work.rows()

    def apply(self, batch: Batch) -> Receipt | None:
        """Returns the receipt with its place in its tenant's chain; None: no receipt is written."""
        late = self._late
        if self._use is not None:
            self._check_rows(batch)
        use, receipt = self._use, self._receipt
        credit, late_charge = self._credit_nano_usd, self._late_charge_nano_usd
        if self._draft is not None:
            row = batch.rows[done_key(self._draft.home_id, DRAFTS)]
            if row.last >= self._draft.number:
                return None
            row.last = self._draft.number
        if self._left:
            recorded = batch.rows[recorded_key(self._left)]
            if recorded.is_done:
                return None
            recorded.is_done = True
        if self._work is not None and not self._work.apply(batch):
            if self._work.ended.is_look:
                return None
            use, receipt = Use(0, 0), None if receipt is None else charging_nothing(receipt)
            credit, late_charge = max(credit, 0), 0
        self._settle_slot(batch)
        if late is not None and use is not None:
            self._charge_late(late, use, batch)
        if self._hold is not None:
            self._settle(self._hold, use, batch)
        if receipt is not None and self._paid:
            once = batch.rows[credited_key(self._paid)]
            if once.is_done:
                credit = 0
                receipt = without_credit(receipt)
                if receipt is None:
                    late_charge = 0
            once.is_done = True
        if self._receipt is not None and (change := credit - late_charge):
            self._counters.balances.change(self._receipt.tenant, change)
        charged = 0 if self._money is None else self._settle_money(self._money, use, batch)
        return None if receipt is None else self._link(receipt, charged, batch)

    def _settle_slot(self, batch: Batch) -> None:
        slot = self._slot
        if slot is None:
            return
        rows = [batch.rows[quota_key(subject)] for subject in slot.subjects]
        if self._counters.holds(slot.grant, rows):
            others = _of_others(slot.both, slot.subjects, batch)
            for subject, counter in zip(slot.both, slot.inner.subjects, strict=True):
                if subject in slot.subjects:
                    # The counter of now, which the row was taken into: that of then may have been forgotten.
                    [now] = self._counters.quota.counters_of((subject,))
                    now.parallel -= 1
                elif subject not in others:
                    counter.parallel -= 1
            for row in rows:
                row.enter(slot.grant.node_id, -1)

    def _settle(self, held: SharedHold, use: Use | None, batch: Batch) -> None:
        quota, node_id = self._counters.quota, held.grant.node_id
        # The counters of now: what was held in memory alone may have been counted anew since.
        both = _both_subjects(held.caller)
        others = _of_others(both, held.subjects, batch)
        counters = quota.counters_of([each for each in both if each not in others] if others else both)
        # Without its slot, which was given back above, or with all that its node held.
        hold, claim = Hold(held.hold.ask, counters, held.hold.starts, None), held.hold.claim
        rows = [batch.rows[quota_key(subject)] for subject in held.subjects]
        parts = claimed_parts(claim)
        if self._counters.holds(held.grant, [*rows, *map(batch.rows.__getitem__, parts)] if parts else rows):
            for row in rows:
                row.let_go(node_id, hold)
            for key, (start_us, amount) in parts.items():
                batch.rows[key].let_go(node_id, start_us, amount)
            if use is None:
                quota.void(hold)
                return
            if self._later:
                quota.charge(self._later, use.tokens, use.billed_nano_usd, batch.at_us)
            quota.post(hold, use.tokens, use.billed_nano_usd)
        elif use is not None:
            quota.charge(_both_subjects(held.caller), use.tokens, use.billed_nano_usd, batch.at_us)
        if use is not None and claim is not None:
            amounts = (1, use.tokens, use.billed_nano_usd)
            count_use(self._counters.budgets, held.drawer, claim, amounts, batch)

    def _find_later(self) -> tuple[str, ...]:
        """Returns the subjects that are counted in rows by the limits of now, and were not when it was opened."""
        held, late = self._hold, self._late
        if self._use is None or self._find_subjects is None:
            return ()
        if held is not None:
            subjects = self._find_subjects(held.caller)
            if subjects is held.subjects:  # as nearly always
                return ()
            return tuple(each for each in subjects if each not in held.subjects)
        return () if late is None else self._find_subjects(late.caller)

    def _check_rows(self, batch: Batch) -> None:
        """Raise RowsChanged where a limit or a budget that was set meanwhile counts it.

        While this waited for its rows, everything may have been counted anew for that, without this use.
        """
        if self._later != self._find_later():
            raise RowsChanged
        if self._hold is not None:
            check_rows(self._counters.budgets, self._hold.drawer, batch)
        if self._late is not None:
            check_rows(self._counters.budgets, self._late.drawer, batch)

    def _charge_late(self, late: Late, use: Use, batch: Batch) -> None:
        drawer, at_us = late.drawer, batch.at_us
        tokens, billed = use.tokens, use.billed_nano_usd
        self._counters.quota.charge((drawer.tenant_id, drawer.key_id), tokens, billed, at_us)
        self._counters.budgets.count(drawer, tokens, billed, at_us)

    def _settle_money(self, money: SharedMoney | UnheldMoney, use: Use | None, batch: Batch) -> int:
        charged = 0 if use is None else use.charged_nano_usd
        if isinstance(money, UnheldMoney):
            if money.amount is not None:
                return self._counters.balances.hold_at_least(money.tenant_id, money.amount).settle(charged)
            self._counters.balances.change(money.tenant_id, -charged)
            return charged
        row, hold = batch.rows[balance_key(money.tenant_id)], copy.copy(money.hold)
        if self._counters.holds(money.grant, (row,)):
            row.hold(money.grant.node_id, -hold.amount)
            return hold.settle(charged)
        self._counters.balances.change(money.tenant_id, -charged)
        return charged

    def _link(self, draft: Receipt, charged: int, batch: Batch) -> Receipt:
        head = batch.rows[head_key(draft.tenant)]
        tseq, tprev = head.link()
        members: dict[str, Any] = {} if self._money is None else {"charged_nano_usd": charged}
        receipt, form = fixed(msgspec.structs.replace(draft, tseq=tseq, tprev=tprev, **members))
        leaf = leaf_hash_of(form)
        head.advance(tseq, leaf.hex())
        entry = Entry(seq=0, receipt=receipt, secret=self._secret)
        batch.entries.append(LinkedReceipt(entry, leaf, encode_entry(entry)))
        return receipt
