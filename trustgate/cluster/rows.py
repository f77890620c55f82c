"""The rows in which several processes count together, and how each is taken into memory and written back.

A row is what one subject has used and holds: of quotas, of a budget, of its balance; or the end of a tenant's chain of
receipts. Besides the figures that all share it has how much of them each node holds, so that what a node without a
lease held can be given back. The figures are decided on by the counters in memory (``access.quota``,
``access.budgets``, ``payment.balance``): a row's are put in place of theirs while it is locked, and theirs are written
back.

Owns the keys. Rows are locked in the order of their keys (bytes), all that a transaction needs at once.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from trustgate.access.budget_counter import BudgetCounter, CountState
from trustgate.access.budget_reach import reach_of
from trustgate.access.budgets import Budgets
from trustgate.access.quota import Hold, Quota
from trustgate.access.quota_counter import CounterState
from trustgate.access.spans import Span
from trustgate.errors import HomeUnusable
from trustgate.payment.balance import Balances, BalanceState
from trustgate.receipts.receipt import FIRST_TPREV
from trustgate.types import Budget

S = TypeVar("S")

#: The lane of the row that has the number of a home's last committed draft.
DRAFTS = "drafts"


class QuotaShare(msgspec.Struct, array_like=True):
    """What a node holds of a subject: of each window requests, tokens and cost; and its requests in flight."""

    held: list[list[int]]
    parallel: int = 0

    @classmethod
    def none(cls) -> QuotaShare:
        return cls([[0, 0, 0], [0, 0, 0], [0, 0, 0]])


class Shared(msgspec.Struct, Generic[S]):
    """A row's content: the figures, and by node id its share in what is held."""

    figures: Any
    nodes: dict[str, S] = {}


class _QuotaContent(Shared[QuotaShare]):
    figures: CounterState


_encode_json = msgspec.json.Encoder().encode
_decode_quota = msgspec.json.Decoder(_QuotaContent).decode


class BudgetContent(Shared[dict[int, int]]):
    """The content of a budget's row; of a node: what it holds, by the beginning of the cell (microseconds UTC)."""

    figures: CountState
    #: Whose it is; "": its callers' together.
    tenant: str = ""


class BalanceContent(Shared[int]):
    """The content of a balance's row; of a node: what it holds, nano-USD."""

    figures: BalanceState


class Row(Protocol):
    """A row that a transaction has locked, or is about to lock."""

    key: str

    def take_in(self, content: str, at_us: int) -> None:
        """Put the row's figures into memory. ``at_us``: the database's time, microseconds UTC."""
        ...

    def content(self) -> bytes:
        """Returns what memory has, to be written."""
        ...


def add_rows(rows: dict[str, Any], more: Iterable[Row]) -> None:
    """Add rows, by their keys; those that are there already stay."""
    for row in more:
        rows.setdefault(row.key, row)


class QuotaRow:
    """A tenant's or a key's use in the windows, and its requests in flight."""

    def __init__(self, quota: Quota, subject_id: str) -> None:
        self.key = quota_key(subject_id)
        self.subject_id = self._subject_id = subject_id
        self._quota = quota
        self._nodes: dict[str, QuotaShare] = {}
        #: By node, changes of what it holds in every window, which are not in ``_nodes`` yet: requests, tokens, cost.
        self._changes: dict[str, list[int]] = {}

    def take_in(self, content: str, at_us: int) -> None:
        found = _decode_quota(content)
        self._changes.clear()
        runs = self._quota.take_in(self._subject_id, found.figures, at_us)
        self._nodes = found.nodes
        for share in self._nodes.values():
            share.held = [held if live else [0, 0, 0] for held, live in zip(share.held, runs, strict=True)]

    def content(self) -> bytes:
        self._add_changes()
        return _encode_json(_QuotaContent(self._quota.state(self._subject_id), self._nodes))

    def count_anew(self, used: list[list[int]]) -> None:
        """Set what is used, by window: what the receipts have, and what is held, which stays so."""
        self._add_changes()
        state = self._quota.state(self._subject_id)
        for window, figures in enumerate(state.used):
            held = [state.lasting[window], *(share.held[window] for share in self._nodes.values())]
            figures[:] = [of + sum(each) for of, *each in zip(used[window], *held, strict=True)]

    def has(self, node_id: str) -> bool:
        """Returns whether what the node holds is held still."""
        return node_id in self._nodes

    def hold(self, node_id: str, hold: Hold) -> None:
        """Note that the node holds what was just taken."""
        if node_id not in self._nodes:
            self._nodes[node_id] = QuotaShare.none()
        self._change(node_id, hold, 1)

    def let_go(self, node_id: str, hold: Hold) -> None:
        """Note that the node holds it no more."""
        starts = self._quota.starts
        if hold.starts == starts:
            self._change(node_id, hold, -1)
            return
        for held, start, now in zip(self._nodes[node_id].held, hold.starts, starts, strict=True):
            if start == now:
                _add(held, hold, -1)

    def _change(self, node_id: str, hold: Hold, times: int) -> None:
        """Note a change in every window. A batch has many, and writes their sum."""
        change = self._changes.get(node_id)
        if change is None:
            change = self._changes[node_id] = [0, 0, 0]
        _add(change, hold, times)

    def _add_changes(self) -> None:
        for node_id, change in self._changes.items():
            for held in self._nodes[node_id].held:
                held[:] = map(sum, zip(held, change, strict=True))
        self._changes.clear()

    def enter(self, node_id: str, requests: int) -> None:
        """Note a change in the node's requests in flight."""
        self._nodes.setdefault(node_id, QuotaShare.none()).parallel += requests


def _add(held: list[int], hold: Hold, times: int) -> None:
    held[0] += times
    held[1] += times * hold.ask.tokens
    held[2] += times * hold.ask.cost_nano_usd


class BudgetRow:
    """What one subject has used of one budget. A node's share is by the cell that it is held in."""

    def __init__(self, counter: BudgetCounter) -> None:
        self.key = budget_key(counter.of.budget, counter.subject)
        self.counter = counter
        self._nodes: dict[str, dict[int, int]] = {}

    def take_in(self, content: str, at_us: int) -> None:
        found = msgspec.json.decode(content, type=BudgetContent)
        self.counter.take_in(found.figures)
        self.counter.turn(at_us)
        self._nodes = found.nodes

    def content(self) -> bytes:
        figures = self.counter.state()
        cells = {start for start, _, _ in figures.cells}
        shares = {
            node_id: {start: held for start, held in share.items() if start in cells}
            for node_id, share in self._nodes.items()
        }
        return msgspec.json.encode(BudgetContent(figures, shares, self.counter.tenant_id))

    def has(self, node_id: str) -> bool:
        """Returns whether what the node holds is held still."""
        return node_id in self._nodes

    def hold(self, node_id: str, start_us: int, amount: int) -> None:
        """Note a change in what the node holds of a cell."""
        share = self._nodes.setdefault(node_id, {})
        share[start_us] = share.get(start_us, 0) + amount

    def let_go(self, node_id: str, start_us: int, amount: int) -> None:
        """Give back what the node holds of a cell; if the row was written anew since, no more than is held there."""
        share = self._nodes[node_id]
        amount = min(amount, share.get(start_us, 0))
        share[start_us] = share.get(start_us, 0) - amount
        self.counter.let_go(start_us, amount)


class BalanceRow:
    """A tenant's balance, and what of it is held."""

    def __init__(self, balances: Balances, tenant_id: str) -> None:
        self.key = balance_key(tenant_id)
        self._balances = balances
        self._tenant_id = tenant_id
        self._nodes: dict[str, int] = {}

    def take_in(self, content: str, at_us: int) -> None:
        found = msgspec.json.decode(content, type=BalanceContent)
        self._balances.take_in(self._tenant_id, found.figures)
        self._nodes = found.nodes

    def content(self) -> bytes:
        return msgspec.json.encode(BalanceContent(self._balances.state(self._tenant_id), self._nodes))

    def has(self, node_id: str) -> bool:
        """Returns whether what the node holds is held still."""
        return node_id in self._nodes

    def hold(self, node_id: str, amount: int) -> None:
        """Note a change in what the node holds, nano-USD."""
        self._nodes[node_id] = self._nodes.get(node_id, 0) + amount


class _Head(msgspec.Struct, array_like=True):
    tseq: int = 0
    tprev: str = FIRST_TPREV


class HeadRow:
    """The end of a tenant's chain: the number and the leaf hash (hex) of its last receipt."""

    def __init__(self, tenant_id: str) -> None:
        self.key = head_key(tenant_id)
        self._head = _Head()

    def take_in(self, content: str, at_us: int) -> None:
        self._head = msgspec.json.decode(content, type=_Head)

    def content(self) -> bytes:
        return msgspec.json.encode(self._head)

    def link(self) -> tuple[int, str]:
        """Returns ``tseq`` and ``tprev`` of the tenant's next receipt."""
        return self._head.tseq + 1, self._head.tprev

    def advance(self, tseq: int, leaf_hash: str) -> None:
        """The receipt of this number and hash is the last."""
        self._head = _Head(tseq, leaf_hash)


class DoneRow:
    """How far a lane of one node has come: the number of its last operation, or batch, that is committed.

    Where a connection is lost while a transaction commits, this shows whether it did.
    """

    def __init__(self, node_id: str, lane: str) -> None:
        self.key = done_key(node_id, lane)
        self.node_id = node_id
        self.lane = lane
        self.last = 0

    def take_in(self, content: str, at_us: int) -> None:
        self.last = msgspec.json.decode(content, type=int)

    def content(self) -> bytes:
        return msgspec.json.encode(self.last)


class HomeTaken(HomeUnusable):
    """Another process has used a copy of this home, under its journal's id: this process may close no drafts any more.

    What waits in its journal is not recorded under the numbers that it has there.
    """

    code = "home_taken"


class DraftsRow:
    """How far the journal of a home is closed, and which life of the home may close more of it.

    A life lasts from one process's start in the home to the next one's (``cluster.drafts``), and is a fencing token: a
    process that starts in a copy of the home ends the life in the original, which then closes nothing more.
    """

    def __init__(self, home_id: str, life: str) -> None:
        """``life``: "" for a journal written by a version without lives."""
        self.key = done_key(home_id, DRAFTS)
        self._life = life
        self.last = 0

    def take_in(self, content: str, at_us: int) -> None:
        """Take the row in. Raises ``HomeTaken`` where it is another life's."""
        self.last, life = decode_drafts(content)
        if life != self._life:
            raise HomeTaken("Another process has gone on with a copy of this home.")

    def content(self) -> bytes:
        return encode_drafts(self.last, self._life)


def decode_drafts(content: str) -> tuple[int, str]:
    """Returns how far a home's journal is closed, and the home's life ("": none)."""
    found = msgspec.json.decode(content, type=int | tuple[int, str])
    return (found, "") if isinstance(found, int) else found


def encode_drafts(last: int, life: str) -> bytes:
    """Returns the content of the row of a home's journal."""
    return msgspec.json.encode((last, life) if life else last)


def given_back(key: str, content: str, node_ids: Iterable[str]) -> bytes:
    """Returns a row's content without what nodes hold that are gone."""
    if key.startswith("quota/"):
        quota = msgspec.json.decode(content, type=_QuotaContent)
        for share in _removed(quota.nodes, node_ids):
            for used, held in zip(quota.figures.used, share.held, strict=True):
                used[:] = [figure - part for figure, part in zip(used, held, strict=True)]
            quota.figures.parallel -= share.parallel
        return msgspec.json.encode(quota)
    if key.startswith("budget/"):
        budget = msgspec.json.decode(content, type=BudgetContent)
        for cells in _removed(budget.nodes, node_ids):
            budget.figures.cells = [
                (start, used, held - cells.get(start, 0)) for start, used, held in budget.figures.cells
            ]
        return msgspec.json.encode(budget)
    balance = msgspec.json.decode(content, type=BalanceContent)
    balance.figures.held -= sum(_removed(balance.nodes, node_ids))
    return msgspec.json.encode(balance)


def _removed(shares: dict[str, S], node_ids: Iterable[str]) -> list[S]:
    return [shares.pop(node_id) for node_id in node_ids if node_id in shares]


class OnceRow:
    """The row of something that is done once: whether a payment was credited to its tenant's balance."""

    def __init__(self, payment_id: str) -> None:
        """``payment_id``: or the id of the receipt of an operator's credit."""
        self.key = credited_key(payment_id)
        self.id = payment_id
        self.is_done = False

    def take_in(self, content: str, at_us: int) -> None:
        self.is_done = msgspec.json.decode(content, type=bool)

    def content(self) -> bytes:
        return msgspec.json.encode(self.is_done)


class RecordedRow(OnceRow):
    """The row with whether a receipt that was left in a journal is on record. A copy of that journal has it, too."""

    def __init__(self, receipt_id: str) -> None:
        self.key = recorded_key(receipt_id)
        self.id = receipt_id
        self.is_done = False


def quota_key(subject_id: str) -> str:
    """Returns the key of a tenant's or key's use."""
    return f"quota/{subject_id}"


def budget_key(budget: Budget, subject: str) -> str:
    """Returns the key of a subject's use of a budget: another one where the budget counts other use than before."""
    return f"budget/{budget.id}/{reach_digest(budget)}/{subject}"


def look_at_budget(budgets: Budgets, key: str, content: str, at_us: int) -> None:
    """Take a budget's row into memory, where what it counts is what the budget counts now."""
    _, budget_id, digest, subject = key.split("/", 3)
    budget = budgets.find(budget_id)
    if budget is None or reach_digest(budget) != digest:
        return
    found = msgspec.json.decode(content, type=BudgetContent)
    counter = budgets.counter_of(budget_id, subject, found.tenant, at_us)
    if counter is not None:
        counter.take_in(found.figures)
        counter.turn(at_us)


def budget_ends(content: str, span: Span) -> int | None:
    """Returns when the last use that a budget's row has ends to count, microseconds UTC; 0 where it has none.

    None: it has none, and a process may hold something of a time that has ended.
    """
    found = msgspec.json.decode(content, type=BudgetContent)
    if not found.figures.cells and found.nodes:
        return None
    return max((span.end(start) for start, _, _ in found.figures.cells), default=0)


@functools.lru_cache(maxsize=4_096)
def reach_digest(budget: Budget) -> str:
    """Returns a short digest of what a budget counts: another one where it counts other use than before."""
    # Compared by value: msgspec leaves out a default only where it is the same object, and a budget that was read from
    # the database has another (equal) tuple than one that came with a command.
    reach = reach_of(budget)
    members = {
        field.name: value
        for field in msgspec.structs.fields(Budget)
        if (value := getattr(reach, field.name)) != field.default
    }
    return hashlib.sha256(msgspec.json.encode(members, order="sorted")).hexdigest()[:8]


def balance_key(tenant_id: str) -> str:
    """Returns the key of a tenant's balance."""
    return f"balance/{tenant_id}"


def head_key(tenant_id: str) -> str:
    """Returns the key of the end of a tenant's chain."""
    return f"head/{tenant_id}"


def credited_key(payment_id: str) -> str:
    """Returns the key of whether a payment was credited to its tenant's balance."""
    return f"credited/{payment_id}"


def recorded_key(receipt_id: str) -> str:
    """Returns the key of the row with whether a receipt that was left in a journal is on record."""
    return f"recorded/{receipt_id}"


def done_key(node_id: str, lane: str) -> str:
    """Returns the key of how far a lane of a node has come."""
    return f"done/{node_id}/{lane}"
