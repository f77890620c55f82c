"""What requests hold and use where several processes count it: in the books that they keep together.

Owns which of a request's moments is which operation on the books (``cluster.books``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

from trustgate.access.directory import Caller
from trustgate.access.quota import Ask, ParallelSlot
from trustgate.cluster.books import limits_parallel
from trustgate.cluster.holds import SharedHold, SharedSlot, Use
from trustgate.cluster.lasting_work import EndedWork, LastingWork, work_key
from trustgate.cluster.shared_balances import SharedBalanceHold
from trustgate.cluster.shared_log import SharedLog
from trustgate.gateway.api.object_ids import Kind, ObjectId, StepReceipt
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.gateway.path.accounting import AccountEnd, Request
from trustgate.gateway.path.work_holds import WorkOwner
from trustgate.receipts.receipt import balance_change, billed_of
from trustgate.tasks import Deferred


class SharedEntry(ParallelSlot):
    """One of a caller's parallel requests. Given back by ``release``, unless the request's hold has it."""

    __slots__ = ("_log", "slot")

    def __init__(self, log: SharedLog, slot: SharedSlot | None) -> None:
        """``slot``: None where nothing limits them."""
        super().__init__(())
        self._log = log
        self.slot = slot

    def release(self) -> None:
        slot, self.slot = self.slot, None
        if slot is not None:
            _ = self._log.books.close(slot=slot)


class SharedKeeping:
    """See ``accounting.Keeping``."""

    def __init__(self, log: SharedLog, object_ids: SharedObjectIds) -> None:
        """``object_ids``: have to be written before an answer ends, too."""
        self._log = log
        self._books = log.books
        self._object_ids = object_ids

    def enter(self, caller: Caller) -> SharedEntry | Awaitable[SharedEntry]:
        return self._enter_limited(caller) if limits_parallel(caller) else SharedEntry(self._log, None)

    async def _enter_limited(self, caller: Caller) -> SharedEntry:
        return SharedEntry(self._log, await self._books.enter(caller))

    def open(self, request: Request, ask: Ask, slot: SharedEntry | None) -> SharedHold | Awaitable[SharedHold]:
        entered = None if slot is None else slot.slot
        held = self._books.open_at_once(request.caller, request.drawer, ask, entered)
        if held is None:
            return self._open_counted(request, ask, slot)
        if slot is not None:
            slot.slot = None
        return held

    async def _open_counted(self, request: Request, ask: Ask, slot: SharedEntry | None) -> SharedHold:
        held = await self._books.open(request.caller, request.drawer, ask, None if slot is None else slot.slot)
        if slot is not None:
            slot.slot = None
        return held

    def void(self, hold: SharedHold) -> None:
        _ = self._books.close(hold=hold)

    def close(self, outcome: AccountEnd) -> Deferred[Any] | None:
        request, receipt, hold, sale = outcome.request, outcome.receipt, outcome.hold, outcome.sale
        work = outcome.work
        charging = None if sale is None else sale.charging
        money = charging.money if isinstance(charging, SharedBalanceHold) else None
        use = None
        if outcome.counted:
            use = Use(receipt.prompt_tokens + receipt.completion_tokens, billed_of(receipt), balance_change(receipt)[0])
        # Work that was admitted before, and is charged now that it has ended.
        late = self._books.late(request.caller, request.drawer) if outcome.counted and hold is None else None
        settled: dict[str, Any] = {"hold": hold, "money": money, "use": use, "late": late}
        if work is not None:
            settled["work"] = EndedWork(_key_of(work, outcome.part), is_look=hold is None)
            settled["on_commit"] = partial(self._object_ids.settle, work)
        kept = self._log.kept(self._log.close(receipt, outcome.secret, **settled))
        written = self._object_ids.written()
        return kept if written is None else _after(written, kept)


#: Work that a process remembers to have held.
_HELD_MOST = 10_000


class SharedWorkHolds:
    """Holds in the rows that all processes count in. See ``work_holds.WorkHolds``."""

    begins_anew = False

    def __init__(self, log: SharedLog) -> None:
        self._books = log.books
        #: By work: what this process has held for it, and when that is committed. It is not written again.
        self._held: dict[tuple[Kind, str, str], tuple[tuple[int, LastingWork], Deferred[None]]] = {}

    def begin(self, handle: ObjectId, owner: WorkOwner) -> Deferred[None] | None:
        work = handle.work
        if work is None or owner.caller is None or owner.drawer is None:
            return None
        ask = Ask(work.prompt_tokens + work.completion_tokens, work.cost_nano_usd)
        money_nano_usd = ask.cost_nano_usd if owner.pays(handle.accepted) else 0
        work_now = self._books.work_of(_key_of(handle), owner.caller, owner.drawer, ask, money_nano_usd)
        # A budget that was made since holds it, too.
        wanted = self._books.budgets.generation, work_now
        held = self._held.get(handle.place)
        if held is not None and held[0] == wanted and held[1].error is None:
            return held[1]
        if len(self._held) >= _HELD_MOST:
            # It has work that other processes have charged, too. To hold it again changes nothing.
            self._held.clear()
        done = self._books.hold_work(work_now)
        self._held[handle.place] = wanted, done
        return done

    def end(self, handle: ObjectId, receipts: Sequence[StepReceipt]) -> None:
        """Do nothing in the rows: the receipt that charges the work gives it back, in its transaction."""
        self._held.pop(handle.place, None)


def _key_of(handle: ObjectId, part: int = 0) -> str:
    return work_key(*handle.place, part=part)


def _after(written: asyncio.Future[None], kept: Deferred[Any] | None) -> Deferred[Any]:
    """Returns what ends once both have."""
    both: Deferred[None] = Deferred(asyncio.get_running_loop())

    def end(_: object) -> None:
        if written.done() and (kept is None or kept.done()):
            both.succeed(None)

    written.add_done_callback(end)
    if kept is not None:
        kept.on_end(end)
    return both
