"""What every command handler works with: the store, the state in memory, and the order in which both change.

A change is made durable first and then shown to the request path, so what a caller meets is never lost by a crash.
"""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.admin.background_work import Watched
from trustgate.admin.commands import Reloaded, ServerStatus
from trustgate.admin.consoling import ConsoleLink
from trustgate.admin.flushing import Flushing
from trustgate.admin.log_commands import ArchiveReport
from trustgate.admin.money import BooksReport, Reconciled
from trustgate.errors import Conflict
from trustgate.ids import new_id, now_us
from trustgate.models.catalog import Catalog
from trustgate.notify.subscribers import Subscribers
from trustgate.settings import Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import NoticeDelivery, Store
from trustgate.types import (
    Alias,
    ApiKey,
    Budget,
    EndUser,
    Passport,
    Plan,
    PriceChange,
    PriceList,
    PseudonymKey,
    Record,
    Subscriber,
    Tenant,
)

if TYPE_CHECKING:
    from trustgate.admin.audit import BooksSnapshot
    from trustgate.observe.live_stats import LiveStats
    from trustgate.payment.balance import Balances
    from trustgate.payment.service import PaymentService
    from trustgate.receipts.archive import Archive
    from trustgate.receipts.tree import Tree


class LogAccess(Protocol):
    """The log of receipts, as far as commands need it."""

    async def flush(self) -> None:
        """Bring everything that was acknowledged into the store."""
        ...

    async def archive(self) -> Archive:
        """Returns the log with everything that was acknowledged. Raises ``StoreDamaged`` where it is other than it has
        said.
        """
        ...

    async def tree(self) -> Tree:
        """Returns the tree over everything that was acknowledged."""
        ...

    async def payment_service(self) -> PaymentService:
        """Returns the payment room, over the log with everything that was acknowledged; what is appended there is
        kept.
        """
        ...

    async def refresh_counts(self) -> None:
        """Have in memory where budgets stand, whichever process has counted it. Raises ``Unavailable``."""
        ...

    async def counted(self, directory: Directory) -> BooksSnapshot | None:
        """Returns what several processes had counted at one moment, when all their receipts had their places.

        None: one process counts, in memory. Raises ``Unavailable``.
        """
        ...

    async def balances(self) -> Balances:
        """Returns what tenants have; to look at, not to change: that is the payment service's."""
        ...

    async def close(self) -> None: ...


class OtherProcesses(Protocol):
    """The processes that serve the same database beside this one."""

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Let no other process carry out a command meanwhile, and have their changes in memory. Raises Unavailable."""
        ...

    async def settle(self) -> None:
        """Take every change into memory, and wait until all processes have, or serve no more. Raises Unavailable."""
        ...

    async def note_count(self) -> str:
        """Note that everything is to be counted anew unless ``count_anew`` follows. Raises Unavailable.

        Where this process ends in between, or loses the database, another process does it.

        Returns:
            The note.
        """
        ...

    async def put_noted(self, note: str, *records: Record | PriceChange | PriceList | PseudonymKey) -> None:
        """Store records that are to be counted anew, while the note of that is there.

        Raises ``Conflict`` where it is not: another command has counted, which should have waited for this one.
        """
        ...

    async def count_anew(self, budgets: Sequence[Budget], subjects: Collection[str], note: str) -> None:
        """Count anew from the receipts, for all processes, and strike out the note. Raises Unavailable.

        Args:
            budgets: The budgets to count.
            subjects: The tenants and keys whose quotas to count.
            note: Of ``note_count``.
        """
        ...


class ConsoleDoor(Protocol):
    """The console of a running server: links to it, and its sessions."""

    def open(self) -> ConsoleLink:
        """Make a link. Raises ``Conflict`` where the settings leave no address that it could lead to."""
        ...

    def end_all(self) -> int:
        """Returns how many sessions it has ended."""
        ...


class AdminContext:
    def __init__(
        self,
        store: Store,
        directory: Directory,
        catalog: Catalog,
        *,
        books: LogAccess,
        anchoring: Anchoring,
        settings: Settings,
        subscribers: Subscribers,
        quota: Quota | None = None,
        budgets: Budgets | None = None,
        on_keys_revoked: Callable[[Collection[str]], None] | None = None,
        before_passports: Callable[[Sequence[Passport]], Awaitable[None]] | None = None,
        status: Callable[[], Awaitable[ServerStatus]] | None = None,
        reload: Callable[[], Awaitable[Reloaded]] | None = None,
        pulse: Callable[[], Awaitable[LiveStats]] | None = None,
        deliveries: Callable[[], Sequence[NoticeDelivery]] | None = None,
        console: ConsoleDoor | None = None,
        others: OtherProcesses | None = None,
    ) -> None:
        """``quota``, ``budgets`` and what stands after it are the running server's; without one there is none of it."""
        self.store = store
        self.settings = settings
        #: Called with passports before requests find them.
        self._before_passports = before_passports
        self.directory = directory
        self.catalog = catalog
        self.status = status
        self.reload = reload
        self.pulse = pulse
        self.subscribers = subscribers
        self.deliveries = deliveries
        self.console = console
        #: None: this process alone has the database.
        self.others = others
        self.anchoring = anchoring
        self.flushing = Flushing(anchoring)
        #: The database is copied or rewritten by one command at a time.
        self.copying = asyncio.Lock()
        self.quota = quota
        self.budgets = budgets
        self.books = books
        self.reconciling: Watched[tuple[Reconciled, ...]] = Watched(_busy_reconciling)
        self.auditing: Watched[BooksReport] = Watched(_busy_auditing)
        self.archiving: Watched[ArchiveReport] = Watched(_busy_archiving)
        self._on_keys_revoked = on_keys_revoked

    def tenant(self, ref: str) -> Tenant:
        """Returns the tenant of this id or name, however its letters are composed. Raises ``NotFound``."""
        return self.directory.tenant(unicodedata.normalize("NFC", ref))

    def living_tenant(self, ref: str) -> Tenant:
        """As ``tenant``. Raises ``Conflict`` where it was removed, too."""
        tenant = self.tenant(ref)
        if tenant.status == "removed":
            raise Conflict(f"The tenant {tenant.name!r} was removed.", hint=f"trustgate tenant restore {tenant.id}")
        return tenant

    async def keep(self, *records: Record | PriceChange | PriceList | PseudonymKey) -> None:
        passports = [record for record in records if isinstance(record, Passport)]
        if passports and self._before_passports is not None:
            await self._before_passports(passports)
        if self.directory.pseudonym_key is None and any(_names_end_users(record) for record in records):
            records = (*records, new_pseudonym_key())
        budgets = self.budgets
        moved = () if budgets is None else self._budgets_of_moved(records)
        if self.others is not None:
            await self._keep_with(self.others, moved, *records)
            return
        counts_anew = budgets is not None and (bool(moved) or any(isinstance(record, Budget) for record in records))
        service = await self.books.payment_service() if counts_anew else None
        await self.store.put(*records)
        models = [record for record in records if isinstance(record, Passport | Alias)]
        if models:
            self.catalog.put(*models)
        for record in records:
            if isinstance(record, PriceList):
                self.catalog.use(record)
            elif isinstance(record, Subscriber):
                self.subscribers.put(record)
            elif not isinstance(record, Passport | Alias | PriceChange):
                if budgets is not None and isinstance(record, Tenant):
                    move(budgets, self.directory, record)
                self.directory.put(record)
            if budgets is not None and isinstance(record, EndUser):
                budgets.put_end_user(record)
        if budgets is not None and service is not None:
            # From here to the reading of the log's end nothing awaits: later receipts count by themselves.
            anew = [record for record in records if isinstance(record, Budget) and budgets.put(record)]
            for budget in moved:
                budgets.forget_counts(budget.id)
            if anew or moved:
                await self._rebuild(budgets, [*anew, *moved], service.log.last_seq)

    async def _keep_with(
        self,
        others: OtherProcesses,
        moved: Sequence[Budget],
        *records: Record | PriceChange | PriceList | PseudonymKey,
    ) -> None:
        """Store records, have every process take them in, and count anew what they limit.

        ``moved``: see ``_budgets_of_moved``.
        """
        known: set[str] = set()
        if any(isinstance(record, Tenant | ApiKey | Plan) for record in records):
            # A subject with limits is counted already, and a new one has used nothing.
            known = self.directory.subjects() - self.directory.limited()
        budgets = [record for record in records if isinstance(record, Budget) and record.removed_us is None]
        if not (budgets or moved or known):
            await self.store.put(*records)
            await others.settle()
            return
        note = await others.note_count()
        await others.put_noted(note, *records)
        await others.settle()
        await others.count_anew([*budgets, *moved], known & self.directory.limited(), note)

    def _budgets_of_moved(
        self, records: Sequence[Record | PriceChange | PriceList | PseudonymKey]
    ) -> tuple[Budget, ...]:
        """Returns the budgets of plans, where tenants come onto another plan: what they count is another's."""
        plan_of = self.directory.plan_name_of
        moves = [(plan_of(record.id), record.plan) for record in records if isinstance(record, Tenant)]
        plans = {plan for before, after in moves if before and before != after for plan in (before, after)}
        return tuple(budget for budget in self.directory.budgets() if plans & set(budget.plans)) if plans else ()

    async def _rebuild(self, budgets: Budgets, wanted: list[Budget], until_seq: int) -> None:
        from trustgate.admin.budget_counts import rebuild

        await self.books.flush()
        await rebuild(
            budgets,
            wanted,
            store=self.store,
            directory=self.directory,
            catalog=self.catalog,
            at_us=now_us(),
            until_seq=until_seq,
            counts_ahead=True,
        )

    async def forget(self, record: Plan | Alias) -> None:
        await self.store.remove(record)
        if self.others is not None:
            await self.others.settle()
            return
        if isinstance(record, Alias):
            self.catalog.remove(record)
        else:
            self.directory.remove(record)

    def cut(self, key_ids: Collection[str]) -> None:
        """End the running requests of keys that died."""
        if self._on_keys_revoked is not None:
            self._on_keys_revoked(key_ids)

    async def flush(self) -> None:
        await self.books.flush()

    async def archive(self) -> Archive:
        return await self.books.archive()

    async def end(self) -> None:
        """Break off what takes long and can be begun anew."""
        await self.flushing.end()
        await self.reconciling.end()
        await self.auditing.end()
        await self.archiving.end()

    async def close(self) -> None:
        """Closes the store, too."""
        await self.end()
        try:
            await self.books.close()
        finally:
            await self.store.close()


def move(budgets: Budgets, directory: Directory, tenant: Tenant) -> None:
    """Have a tenant's requests draw on its new plan's budgets, if it comes onto another plan.

    Args:
        budgets: Those of this process.
        directory: Still without the change.
        tenant: As it is from now on.
    """
    if directory.plan_name_of(tenant.id) not in ("", tenant.plan):
        budgets.move(tenant.id, tenant.plan)


def new_pseudonym_key() -> PseudonymKey:
    """Returns a new secret for end users' pseudonyms."""
    at_us = now_us()
    return PseudonymKey(id=new_id("pseudonyms", at_us), secret=secrets.token_bytes(32), created_us=at_us)


def _names_end_users(record: object) -> bool:
    return isinstance(record, ApiKey | Plan) and bool(record.scope.end_users)


def _busy_reconciling() -> Conflict:
    return Conflict(
        "A reconciliation of payments is already running.", hint="trustgate payment list", code="reconcile_running"
    )


def _busy_auditing() -> Conflict:
    return Conflict("Another audit is running.", hint="Try again when it has finished.", code="audit_running")


def _busy_archiving() -> Conflict:
    return Conflict(
        "Receipts are being archived already.", hint="Wait until that has finished.", code="archive_running"
    )
