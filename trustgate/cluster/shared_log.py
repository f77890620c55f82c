"""The log of receipts as a process among several sees it: what it appends is closed in the books.

A receipt goes to the process's own journal and to its tenant's chain (``cluster.books``), and is acknowledged once that
is committed. Its place in the log is given later, by whichever process is the sequencer. So what is read here is behind
what was appended; ``flush`` waits until it is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from trustgate.cluster.books import Books
from trustgate.cluster.database import RETRY_AFTER_S
from trustgate.cluster.drafts import Drafts
from trustgate.cluster.holds import Late, SharedHold, SharedMoney, UnheldMoney, Use
from trustgate.cluster.lasting_work import EndedWork
from trustgate.errors import TrustGateError, Unavailable
from trustgate.receipts.bounds import in_range
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import balance_change
from trustgate.receipts.tiles import Edge
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.tasks import Deferred
from trustgate.types import Entry, Receipt

_logger = logging.getLogger("trustgate.cluster")

#: Receipts that wait for the database before new requests are refused (about a kilobyte of memory each).
_PENDING_MOST = 200_000


class Following(Protocol):
    """What follows the log that the sequencer makes."""

    @property
    def last_seq(self) -> int:
        """The place of the last receipt that this process has seen."""
        ...

    async def flush(self) -> None:
        """Wait until every receipt that was closed before has its place, and this process has seen it.

        Raises TrustGateError: the database cannot be reached, or no process gives places now.
        """
        ...


class SharedLog(Log):
    """See ``receipts.log.Log``."""

    def __init__(self, store: Store, books: Books, drafts: Drafts, following: Following) -> None:
        """
        Args:
            store: the database that all have.
            books: where receipts are closed.
            drafts: this process's journal in front of them.
            following: the log as the sequencer makes it.
        """
        self._journal_fault: str | None = None
        self.books = books
        super().__init__(store, drafts.journal, Tree(store, Edge()), last_seq=0, heads={})
        self.commits_first = True
        self.drafts = drafts
        self._following = following
        self._last_close: Deferred[Receipt | None] | None = None

    @property
    def fault(self) -> str | None:
        """Why receipts are not kept as they should, while that lasts."""
        return self._journal_fault or self.books.closing.fault

    @fault.setter
    def fault(self, why: str | None) -> None:
        self._journal_fault = why

    @property
    def last_seq(self) -> int:
        return self._following.last_seq

    @property
    def pending(self) -> int:
        """Receipts of this process that are in its journal alone."""
        return self._journal.pending

    def check_room(self, in_flight: int) -> None:
        if self.fault is not None and self.pending >= _PENDING_MOST:
            raise Unavailable(
                "The gateway cannot record requests right now.", code="storage_full", headers={"retry-after": "30"}
            )
        super().check_room(in_flight)

    def link(self, tenant_id: str) -> tuple[int, str]:
        """Returns no place: it is given when the receipt is closed."""
        return 0, ""

    def append(self, receipt: Receipt, secret: bytes) -> Entry:
        """Close a receipt that belongs to no request, with what it adds to its tenant's balance."""
        receipt = in_range(receipt)
        _ = self.close(receipt, secret)
        return Entry(seq=0, receipt=receipt, secret=secret)

    def close(
        self,
        receipt: Receipt,
        secret: bytes,
        *,
        hold: SharedHold | None = None,
        money: SharedMoney | UnheldMoney | None = None,
        use: Use | None = None,
        late: Late | None = None,
        work: EndedWork | None = None,
        on_commit: Callable[[], None] | None = None,
    ) -> Deferred[Receipt | None]:
        """Journal a receipt and close its request.

        Args:
            receipt: without its place in its tenant's chain.
            secret: the receipt's.
            hold: what the request holds.
            money: what it holds of its tenant's balance, or is charged without a hold.
            use: what it used; None: it was not served.
            late: who used it, where nothing was held for it.
            work: work upstream that the receipt charges, unless another receipt has.
            on_commit: is called once it is committed.

        Returns:
            As ``Books.close``.
        """
        receipt = in_range(receipt)
        charged, credit = balance_change(receipt)
        if money is None:
            credit -= charged
        settled: dict[str, Any] = {
            "hold": hold,
            "money": money,
            "use": use,
            "late": late,
            "work": work,
            "credit_nano_usd": credit,
            "on_commit": on_commit,
        }
        try:
            done = self.drafts.close(receipt, secret, **settled)
            self._journal_fault = None
        except (OSError, TrustGateError) as error:
            # The answer is already made: what can be kept of it is what the database takes.
            self.fault = f"the journal cannot be written: {error}"
            _logger.error("%s", self.fault)
            done = self.books.close(receipt=receipt, secret=secret, **settled)
        self._last_close = done
        self._dirty.set()
        if self.on_append is not None:
            self.on_append(receipt)
        return done

    def committed(self, entry: Entry) -> Deferred[Any] | None:
        """See ``Log.committed``; of the entry that was appended last."""
        return None if self._last_close is None else self.kept(self._last_close)

    def kept(self, done: Deferred[Receipt | None]) -> Deferred[Any] | None:
        """Returns what ends once what ``close`` gave is committed, or the database is away; None: it is away now."""
        return None if self.fault is not None else done

    async def flush(self) -> None:
        """Wait until everything that was appended here has its place in the log, and this process has seen it.

        Raises TrustGateError: the database is away, or nothing gives places now.
        """
        if self._last_close is not None:
            await self._last_close
        if self.books.closing.fault is not None:
            raise Unavailable(
                "The newest receipts wait in the gateway's journal: its database is away.",
                code="store_unreachable",
                headers={"retry-after": RETRY_AFTER_S},
            )
        await self._following.flush()

    async def run(self) -> None:
        """Nothing, for ever: the books are kept, and places given, elsewhere."""
        await asyncio.Event().wait()
