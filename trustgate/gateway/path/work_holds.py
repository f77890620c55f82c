"""What batches and responses in the background may still use: held on quota, budgets and balance until their end.

Owns what is held in a process that counts alone. The holds are in memory, and taken anew at a start for all work that
is not settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller
from trustgate.access.quota import Ask, Hold, Quota
from trustgate.gateway.api.object_ids import AcceptedPrice, Charging, Kind, ObjectId, ObjectIds, StepReceipt
from trustgate.ids import now_us
from trustgate.payment.balance import BalanceHold, Balances
from trustgate.tasks import Deferred


class WorkOwner(NamedTuple):
    """The owner of work; ``caller`` is None where the tenant or the key is gone."""

    caller: Caller | None
    #: What the key's use is counted under (``ApiKey.account_id``).
    account_id: str
    drawer: Drawer | None

    def pays(self, accepted: AcceptedPrice | None) -> bool:
        """Returns whether it pays when the work has ended. With a price for each request, all is paid when it begins.

        ``accepted``: the work's; None: it has none, and what holds now counts.
        """
        terms = None if self.caller is None else self.caller.terms
        return terms is not None and (terms.price_nano_usd is None if accepted is None else accepted.is_owed)


class WorkHolds(Protocol):
    """Where what work may use is held."""

    #: Whether a process has to hold anew, at its start, what the process before it held.
    begins_anew: bool

    def begin(self, handle: ObjectId, owner: WorkOwner) -> Deferred[None] | None:
        """Hold what work may still use, wherever that is not held yet.

        Returns:
            What ends once it is held; None: it is held.
        """
        ...

    def end(self, handle: ObjectId, receipts: Sequence[StepReceipt]) -> None:
        """Give back what is held, once: the receipts that are written next charge the work.

        ``receipts``: all of the work's, as ``Charging.receipts``; none: it is charged already.
        """
        ...


class OwnWorkHolds:
    """Holds in the memory of this process, which counts alone."""

    begins_anew = True

    def __init__(self, handles: ObjectIds, quota: Quota, budgets: Budgets, balances: Balances) -> None:
        self._handles = handles
        self._quota = quota
        self._budgets = budgets
        self._balances = balances
        self._held: dict[tuple[Kind, str, str], tuple[Hold, BalanceHold | None]] = {}

    def begin(self, handle: ObjectId, owner: WorkOwner) -> None:
        work = handle.work
        if work is None or handle.place in self._held:
            return
        ask, at_us = Ask(work.prompt_tokens + work.completion_tokens, work.cost_nano_usd), now_us()
        claim = None
        if owner.drawer is not None:
            claim = self._budgets.claim_work(owner.drawer, ask.tokens, ask.cost_nano_usd, at_us)
        hold = self._quota.hold_work((handle.tenant, owner.account_id), ask, at_us, claim)
        money = self._balances.hold_at_least(handle.tenant, work.cost_nano_usd) if owner.pays(handle.accepted) else None
        self._held[handle.place] = (hold, money)

    def end(self, handle: ObjectId, receipts: Sequence[StepReceipt]) -> None:
        now = self._handles.current(handle)
        if now is not None:
            charging = Charging(now.owed, tuple(receipts)) if receipts and now.owed >= 0 else None
            accepted = None if charging is None else now.accepted
            self._handles.keep(msgspec.structs.replace(now, owed=-1, charging=charging, accepted=accepted))
        hold, money = self._held.pop(handle.place, (None, None))
        if hold is not None:
            self._quota.void(hold)
        if money is not None:
            money.settle(0)
