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

from trustgate.access.budget_reach import Drawer
from trustgate.access.directory import Caller
from trustgate.cluster.books import Books
from trustgate.cluster.database import DatabaseConnection, DatabaseSession
from trustgate.cluster.holds import Draft
from trustgate.cluster.lasting_work import EndedWork
from trustgate.cluster.rows import DRAFTS, HomeTaken, decode_drafts, done_key, encode_drafts
from trustgate.formats.durable import write_durably
from trustgate.ids import new_id
from trustgate.receipts.diverged import set_aside_drafts
from trustgate.receipts.journal import Journal
from trustgate.receipts.receipt import balance_change
from trustgate.tasks import Deferred
from trustgate.types import Entry, Receipt

_logger = logging.getLogger("trustgate.cluster")

_CLOSED_UP_TO = "SELECT state::text FROM shared_state WHERE key = $1"
_FIRST_LIFE = "INSERT INTO shared_state (key, state) VALUES ($1, $2::text::jsonb) ON CONFLICT (key) DO NOTHING"
_NEXT_LIFE = "UPDATE shared_state SET state = $2::text::jsonb WHERE key = $1 AND state = $3::text::jsonb"


def home_id(drafts: Path) -> str:
    """Returns the id of a process's journal, made with it: under it the database has how far the journal is closed."""
    path = drafts.with_suffix(".id")
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = new_id("home")
        path.write_text(made)
        return made


async def part_from_copy(connection: DatabaseConnection, drafts: Path) -> bool:
    """Give a home a new id where another process has used a copy of the home, with its id, since.

    What the home's journal has is put aside, to be recorded by the receipts' ids (``receipts.diverged``).

    Args:
        connection: To the database.
        drafts: The folder of the home's journal, which no process uses now.

    Returns:
        Whether another process has.
    """
    path = drafts.with_suffix(".id")
    if not path.exists():
        return False
    own_id = home_id(drafts)
    found = await connection.fetchval(_CLOSED_UP_TO, done_key(own_id, DRAFTS))
    life = "" if found is None else decode_drafts(found)[1]
    if not life or life in _own_lives(drafts):
        return False
    await asyncio.to_thread(set_aside_drafts, drafts, own_id)
    path.unlink()
    _lives_path(drafts).unlink(missing_ok=True)
    _logger.warning(
        "%s: another process has gone on with a copy of this home, so this one goes on as a home of its own, and puts "
        "on record what waits in its journal",
        drafts.parent,
    )
    return True


def _lives_path(drafts: Path) -> Path:
    return drafts.with_suffix(".life")


def _own_lives(drafts: Path) -> list[str]:
    """Returns the last two lives of the home: the last one has not begun where a start was killed before that."""
    try:
        return _lives_path(drafts).read_text().split()
    except FileNotFoundError:
        return []


class Drafts:
    """The journal of one home, and what of it is yet to be closed."""

    def __init__(self, books: Books, journal: Journal, home_id: str, closed: int, life: str) -> None:
        """Use ``open``. ``closed``: how many of the home's drafts are closed."""
        self._books = books
        self._home_id = home_id
        self._life = life
        self._closed = closed
        self.journal = journal

    @classmethod
    async def open(
        cls, books: Books, session: DatabaseSession, folder: Path, *, home_id: str, segment_bytes: int
    ) -> Self:
        """Open a home's journal, and begin a new life of the home: from now on only this process closes its drafts.

        Args:
            books: where drafts are closed.
            session: any connection.
            folder: the journal's.
            home_id: the home's own, and no other's.
            segment_bytes: see ``Journal.open``.

        Raises HomeTaken, and what ``Journal.open`` raises, among others where the journal lacks what was appended to
        it.
        """
        key, life = done_key(home_id, DRAFTS), new_id("life")
        async with session.use() as connection:
            found = await connection.fetchval(_CLOSED_UP_TO, key)
            closed, before = (0, "") if found is None else decode_drafts(found)
            # The file first: a life that has begun and is in no file would be taken for another process's.
            await asyncio.to_thread(write_durably, _lives_path(folder), f"{before} {life}".encode())
            journal = Journal.open(folder, store_id=home_id, last_seq=closed, segment_bytes=segment_bytes)
            try:
                await _begin_life(connection, key, found, encode_drafts(closed, life).decode())
            except BaseException:
                journal.close()
                raise
        return cls(books, journal, home_id, closed, life)

    async def check_life(self, connection: DatabaseConnection) -> None:
        """Raises HomeTaken: another process has gone on with a copy of this home."""
        found = await connection.fetchval(_CLOSED_UP_TO, done_key(self._home_id, DRAFTS))
        if found is not None and decode_drafts(found)[1] != self._life:
            raise HomeTaken("Another process has gone on with a copy of this home.")

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
                Draft(self._home_id, entry.seq, self._life),
                who=who(entry.receipt),
                credit_nano_usd=balance_change(entry.receipt)[1],
                work=EndedWork.of_mark(entry.receipt.tprev),
                on_commit=partial(self.journal.release, entry.seq),
            )
            for entry in self.journal.replay(self._closed)
        ]
        for each in left:
            await each
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
    ) -> Deferred[Receipt | None]:
        """Journal a receipt and close its request.

        Args:
            receipt: Without its place in its tenant's chain.
            secret: The receipt's.
            work: Work upstream that the receipt charges. The journal keeps that with the receipt.
            on_commit: Is called once it is committed.
            settled: As for ``Books.close``.

        Returns:
            As ``Books.close``.

        Raises:
            Unavailable: it could not be journaled (``Journal.check_room`` was not asked, or the disk failed).
        """
        mark, number = "" if work is None else work.mark, self.journal.last_seq + 1
        if receipt.tseq or receipt.tprev != mark:
            receipt = msgspec.structs.replace(receipt, tseq=0, tprev=mark)
        self.journal.append(Entry(seq=number, receipt=receipt, secret=secret))
        release = partial(self.journal.release, number)
        return self._books.close(
            receipt=receipt,
            secret=secret,
            draft=Draft(self._home_id, number, self._life),
            work=work,
            on_commit=release if on_commit is None else _each(release, on_commit),
            **settled,
        )


def _each(*calls: Callable[[], None]) -> Callable[[], None]:
    def call_each() -> None:
        for call in calls:
            call()

    return call_each


async def _begin_life(connection: DatabaseConnection, key: str, before: str | None, content: str) -> None:
    """Write a home's row, if it is as it was read. Raises HomeTaken where another process has changed it since."""
    if before is None:
        done = await connection.execute(_FIRST_LIFE, key, content)
    else:
        done = await connection.execute(_NEXT_LIFE, key, content, before)
    if done.rpartition(" ")[2] != "1":
        raise HomeTaken("Another process begins with this home, or with a copy of it, at the same time.")
