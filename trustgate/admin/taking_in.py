"""What operators change, in the memory of every process that serves one database.

A change is made durable by one process and taken in by all, that one included, in the order of the changes' numbers
(``cluster.member``); so two commands at two processes leave the same everywhere. Owns what a change does to memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import msgspec

from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.admin.context import move
from trustgate.cluster.changes import Announced
from trustgate.models.catalog import Catalog
from trustgate.notify.subscribers import Subscribers
from trustgate.store import Kept, State, Store
from trustgate.store.changes import Change
from trustgate.types import (
    Alias,
    Anchor,
    ApiKey,
    Budget,
    CreditNote,
    EndUser,
    LogName,
    Passport,
    Plan,
    PriceChange,
    PriceList,
    Subscriber,
    Tenant,
)

_decode = msgspec.json.Decoder(Change).decode

#: Records that change which limits count whose requests.
_LIMITS = Tenant | ApiKey | Plan | Budget
#: How long a change of those waits for the batch under way, seconds: a fraction of a lease.
_PASS_ON_S = 0.5


class TakenIn(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one process, which changes are taken into."""

    directory: Directory
    catalog: Catalog
    subscribers: Subscribers
    budgets: Budgets
    #: Ends the running requests of keys that died.
    cut: Callable[[Collection[str]], None]
    #: Called with the budgets that are new or count others than before, when memory has them.
    on_budgets: Callable[[Sequence[Budget]], None] = lambda _: None
    #: Waits until nothing more is counted by the limits from before the change.
    pass_on: Callable[[], Awaitable[None]] | None = None
    #: Called when an anchor was changed.
    on_anchor: Callable[[], None] = lambda: None


class SharedMemory:
    """``cluster.member.Memory`` of a server. What comes before the server's parts are there waits for them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._memory: TakenIn | None = None
        self._early: list[Announced] = []

    def attach(self, memory: TakenIn) -> None:
        """Take changes into this from now on; it has been filled after the process had joined."""
        self._memory = memory
        early, self._early = self._early, []
        for change in early:
            _apply(memory, _decode(change.body))

    async def load(self) -> None:
        """Take in everything that there is: the process has lost its lease, and may have missed any change."""
        if self._memory is not None:
            _replace(self._memory, await self._store.load_state())

    async def take_in(self, found: Sequence[Announced]) -> None:
        """Take in changes, in their order. From one to the next nothing else runs."""
        if self._memory is None:
            self._early += found
            return
        changes = [_decode(change.body) for change in found]
        for change in changes:
            _apply(self._memory, change)
        if self._memory.pass_on is not None and any(isinstance(each, _LIMITS) for c in changes for each in c.put):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PASS_ON_S):
                    await self._memory.pass_on()


def _apply(memory: TakenIn, change: Change) -> None:
    _put(memory, change.put)
    for record in change.removed:
        if isinstance(record, Alias):
            memory.catalog.remove(record)
        else:
            memory.directory.remove(record)


def _put(memory: TakenIn, records: Sequence[Kept]) -> None:
    models = [record for record in records if isinstance(record, Passport | Alias)]
    if models:
        memory.catalog.put(*models)
    anew: list[Budget] = []
    for record in records:
        if isinstance(record, PriceList):
            memory.catalog.use(record)
        elif isinstance(record, Subscriber):
            memory.subscribers.put(record)
        elif isinstance(record, Anchor):
            memory.on_anchor()
        elif not isinstance(record, Passport | Alias | PriceChange | LogName | CreditNote):
            if isinstance(record, Tenant):
                move(memory.budgets, memory.directory, record)
            memory.directory.put(record)
        if isinstance(record, EndUser):
            memory.budgets.put_end_user(record)
        elif isinstance(record, Budget) and memory.budgets.put(record):
            anew.append(record)
    if anew:
        memory.on_budgets(anew)
    dead = set(_dead_keys(memory.directory, records))
    if dead:
        memory.cut(dead)


def _dead_keys(directory: Directory, records: Iterable[Kept]) -> Iterable[str]:
    """Yields the keys that a change has ended."""
    for record in records:
        if isinstance(record, ApiKey) and record.revoked_us is not None:
            yield record.id
        elif isinstance(record, Tenant) and record.status != "active":
            yield from (key.id for key in directory.keys_of(record.id))


def _replace(memory: TakenIn, state: State) -> None:
    """Bring memory to what is there: records are never removed, but for plans and aliases."""
    directory, catalog = memory.directory, memory.catalog
    plans, aliases = {plan.name for plan in state.plans}, {alias.name for alias in state.aliases}
    records: list[Kept] = [*state.plans, *state.tenants, *state.keys, *state.payment_terms, *state.profiles]
    records += [*state.budgets, *state.end_users, *state.passports, *state.aliases, *state.subscribers]
    records += [] if state.pseudonym_key is None else [state.pseudonym_key]
    known = catalog.price_lists
    records += [price_list for price_list in state.price_lists if price_list not in known]
    _put(memory, records)
    for plan in [plan for plan in directory.plans() if plan.name not in plans]:
        directory.remove(plan)
    for alias in [alias for alias in catalog.aliases() if alias.name not in aliases]:
        catalog.remove(alias)
