"""What requests hold of rows that several processes count in, from when they are opened to when they are closed.

Each hold is kept as it was taken, with the node and the batch that took it: the database may have lost that batch, or
have given back all that the node held. ``cluster.operations`` takes and settles holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller
from trustgate.access.quota import Hold, ParallelSlot, Quota, Rate
from trustgate.cluster.rows import BalanceRow, BudgetRow, QuotaRow
from trustgate.payment.balance import BalanceHold, Balances

#: Returns the ids of a caller's tenant and key that are counted in rows.
FindSubjects = Callable[[Caller], tuple[str, ...]]


class Grant(NamedTuple):
    """Who holds something, and since which batch of its opens."""

    node_id: str
    number: int


class SharedCounters(msgspec.Struct, frozen=True):
    """The counters in memory that decide, and what a crash of the database has forgotten of what they granted."""

    quota: Quota
    budgets: Budgets
    balances: Balances
    #: By node: the batches of opens after the first number and up to the second are gone.
    forgotten: dict[str, list[tuple[int, int]]] = {}

    def holds(self, grant: Grant, rows: Sequence[QuotaRow | BudgetRow | BalanceRow]) -> bool:
        """Returns whether a grant is still held in its rows."""
        node_id = grant.node_id
        for after, up_to in self.forgotten.get(node_id, ()):
            if after < grant.number <= up_to:
                return False
        for row in rows:  # noqa: SIM110 - a generator costs each request more than this
            if not row.has(node_id):
                return False
        return True


class SharedSlot(msgspec.Struct, frozen=True, eq=False):
    """A parallel request that is counted in rows."""

    grant: Grant
    subjects: tuple[str, ...]
    #: Its counters are those of ``both``.
    inner: ParallelSlot
    #: The ids of its tenant and its key.
    both: tuple[str, str]


class SharedHold(msgspec.Struct, frozen=True, eq=False):
    """What a request holds, and in which subjects' rows."""

    grant: Grant
    caller: Caller
    drawer: Drawer
    subjects: tuple[str, ...]
    hold: Hold
    slot: SharedSlot | None

    @property
    def rates(self) -> tuple[Rate | None, Rate | None]:
        """The tightest limits on requests and on tokens, for the response's headers."""
        return self.hold.rates


class SharedMoney(msgspec.Struct, frozen=True, eq=False):
    """What is held of a tenant's balance."""

    grant: Grant
    tenant_id: str
    hold: BalanceHold


class UnheldMoney(msgspec.Struct, frozen=True):
    """What a request is charged of a balance of which nothing is held in a row until it is closed."""

    tenant_id: str
    #: Its worst case, nano-USD, which what it has paid covers; None: it is charged whatever there is.
    amount: int | None


class Late(msgspec.Struct, frozen=True):
    """Who used what counts without a hold."""

    drawer: Drawer
    caller: Caller


class Use(msgspec.Struct, frozen=True):
    """What a request used, and is charged of its balance."""

    tokens: int
    billed_nano_usd: int
    charged_nano_usd: int = 0


class Draft(NamedTuple):
    """A receipt in a process's journal that has no place in its tenant's chain yet."""

    #: The home whose journal it is in, and its number there.
    home_id: str
    number: int
    #: The life of the home that closes it (``rows.DraftsRow``); "": none.
    life: str = ""
