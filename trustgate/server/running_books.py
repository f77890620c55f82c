"""What commands need of a running server's books: its log, its payments, and what several processes count."""

from __future__ import annotations

from typing import Protocol

from trustgate.access.directory import Directory
from trustgate.admin.audit import BooksSnapshot
from trustgate.payment.balance import Balances
from trustgate.payment.service import PaymentService
from trustgate.receipts.archive import Archive
from trustgate.receipts.log import Log
from trustgate.receipts.tree import Tree


class SharedCounts(Protocol):
    """What several processes count together."""

    async def refresh_counts(self, *subject_ids: str) -> None:
        """Have in memory what all have counted of these tenants and keys; of none: on budgets."""
        ...

    async def counted(self, directory: Directory) -> BooksSnapshot:
        """Returns what all have counted at one moment."""
        ...


class RunningBooks:
    """The running server's log, payments and counts, as ``admin.context.LogAccess``. Its commands do not close them."""

    def __init__(self, log: Log, archive: Archive, payments: PaymentService) -> None:
        self._log = log
        self._archive = archive
        self._payments = payments
        #: What several processes count together; None: this one counts alone.
        self.shared: SharedCounts | None = None

    async def flush(self) -> None:
        await self._log.flush()

    async def archive(self) -> Archive:
        await self._log.flush()
        return self._archive

    async def tree(self) -> Tree:
        await self._log.flush()
        return self._archive.tree

    async def payment_service(self) -> PaymentService:
        await self._payments.balances.refresh()
        return self._payments

    async def refresh_counts(self) -> None:
        if self.shared is not None:
            await self.shared.refresh_counts()

    async def counted(self, directory: Directory) -> BooksSnapshot | None:
        return None if self.shared is None else await self.shared.counted(directory)

    async def balances(self) -> Balances:
        balances = self._payments.balances
        await balances.refresh()
        return balances

    async def close(self) -> None:
        """Nothing: the server goes on."""
