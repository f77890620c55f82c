"""Receipts of one process until they are in the database: in its own journal first, closed in order, and once.

A receipt is in the journal before anything else is done with it, so neither a process that is killed nor a database
that is away loses one. It is a draft there: its number is that of the journal, and its place in its tenant's chain is
given when it is closed. How far a home's drafts are closed stands in a row that changes in the same transaction, so a
process that starts in the home of one that was killed closes what is left, and nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec

from trustgate.access.budgets import Drawer
from trustgate.access.directory import Caller
from trustgate.cluster.books import Books
from trustgate.cluster.database import DatabaseSession
from trustgate.cluster.lasting_work import EndedWork
from trustgate.cluster.operations import DRAFTS, Draft
from trustgate.cluster.rows import done_key
from trustgate.ids import new_id
from trustgate.receipts.journal import Journal
from trustgate.receipts.receipt import balance_change
from trustgate.types import Entry, Receipt

_logger = logging.getLogger("trustgate.cluster")


def home_id(drafts: Path) -> str:
    """Returns the id of a process's journal, made with it: under it the database has how far the journal is closed."""
    path = drafts.with_suffix(".id")
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = new_id("home")
        path.write_text(made)
        return made


class Drafts:
    """The journal of one home, and what of it is yet to be closed."""

    def __init__(self, books: Books, journal: Journal, home_id: str, closed: int) -> None:
        """Use ``open``. ``closed``: how many of the home's drafts are closed."""
        self._books = books
        self._home_id = home_id
        self._closed = closed
        self.journal = journal

    @classmethod
    async def open(
        cls, books: Books, session: DatabaseSession, folder: Path, *, home_id: str, segment_bytes: int
    ) -> Self:
        """Open a home's journal.

        Args:
            books: where drafts are closed.
            session: any connection.
            folder: the journal's.
            home_id: the home's own, and no other's.
            segment_bytes: see ``Journal.open``.

        Raises what ``Journal.open`` raises: among others where the journal lacks what was appended to it.
        """
        async with session.use() as connection:
            found = await connection.fetchval(
                "SELECT state::text FROM shared_state WHERE key = $1", done_key(home_id, DRAFTS)
            )
        closed = 0 if found is None else int(found)
        journal = Journal.open(folder, store_id=home_id, last_seq=closed, segment_bytes=segment_bytes)
        return cls(books, journal, home_id, closed)

    async def recover(self, who: Callable[[Receipt], tuple[Caller, Drawer] | None]) -> int:
        """Close what the process before left behind. Before the first request.

        Args:
            who: returns whose a receipt is, by the directory as it is now; None where tenant or key are gone.

        Returns:
            How many there were.
        """
        left = [
            self._books.close_late(
                entry.receipt,
                entry.secret,
                Draft(self._home_id, entry.seq),
                who=who(entry.receipt),
                credit_nano_usd=balance_change(entry.receipt)[1],
                work=EndedWork.of_mark(entry.receipt.tprev),
                on_commit=partial(self.journal.release, entry.seq),
            )
            for entry in self.journal.replay(self._closed)
        ]
        await asyncio.gather(*left)
        if left:
            _logger.info("closed %d receipts that the process before had left in its journal", len(left))
        return len(left)

    def close(
        self,
        receipt: Receipt,
        secret: bytes,
        *,
        work: EndedWork | None = None,
        on_commit: Callable[[], None] | None = None,
        **settled: Any,
    ) -> asyncio.Future[Receipt | None]:
        """Journal a receipt and close its request.

        Args:
            receipt: Without its place in its tenant's chain.
            secret: The receipt's.
            work: What goes on upstream, and it charges. The journal has that beside it.
            on_commit: Is called once it is committed.
            settled: As for ``Books.close``.

        Returns:
            As ``Books.close``.

        Raises:
            Unavailable: it could not be journaled (``Journal.check_room`` was not asked, or the disk failed).
        """
        mark = "" if work is None else work.mark
        draft = msgspec.structs.replace(receipt, tseq=0, tprev=mark)
        entry = Entry(seq=self.journal.last_seq + 1, receipt=draft, secret=secret)
        self.journal.append(entry)

        def committed() -> None:
            self.journal.release(entry.seq)
            if on_commit is not None:
                on_commit()

        return self._books.close(
            receipt=entry.receipt,
            secret=secret,
            draft=Draft(self._home_id, entry.seq),
            work=work,
            on_commit=committed,
            **settled,
        )
