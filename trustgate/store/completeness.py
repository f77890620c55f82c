"""Whether the database has all that was acknowledged, when it is opened.

Owns the comparison of the database with what stands beside it: the operators' journal (``store.changes``), whose
changes the database may lack and then gets, and the mark (``store.marks``), which knows the last change and the number
of transactions with payments. Absence is no fresh start: what cannot be put back, or cannot be told, is named, and the
database is not opened until it is there again or the operator has accepted that it is lost.

    database lacks    journal has it    then
    changes           yes               they are put back, and that is told
    changes           no                refused
    payments          –                 refused
    nothing           missing, damaged  the journal is begun anew from the database, and that is told
    cannot be told    missing           refused
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trustgate.errors import HomeUnusable, StoreDamaged, StoreIncomplete
from trustgate.ids import iso_us, now_us
from trustgate.store.changes import MOST_BYTES, Change, ChangeJournal, FoundChanges, read_changes
from trustgate.store.marks import Mark, Marked
from trustgate.store.queries import Kept
from trustgate.store.sql import SqlConnection

#: Puts a change into the database, within the caller's transaction; of a whole journal's first change also what that
#: does not name is removed.
Apply = Callable[[SqlConnection, Change, bool], None]


class StoredProgress(NamedTuple):
    """How far the database is: the last change, transactions with payments, and when it last wrote either."""

    changes: int
    payments: int
    at_us: int


class Completed(NamedTuple):
    """The journal and the mark, open, and what is worth telling of how they were found."""

    journal: ChangeJournal
    mark: Mark
    payments: int
    notes: tuple[str, ...]


def progress(connection: SqlConnection) -> StoredProgress:
    rows = connection.execute("SELECT changes, payments, at_us FROM progress").fetchall()
    if len(rows) != 1:
        raise StoreDamaged("The database has lost a row that is always there.", hint="Put back a copy of the database.")
    return StoredProgress(*rows[0])


class Completion:
    """One opening of one database. ``run`` once, on the writer thread, before anything else is done."""

    def __init__(
        self,
        connection: SqlConnection,
        path: Path,
        store_id: str,
        *,
        apply: Apply,
        everything: Callable[[SqlConnection], tuple[Kept, ...]],
        in_transaction: Callable[[SqlConnection, Callable[[SqlConnection], None]], None],
        accept_loss: bool,
        is_copy: bool,
    ) -> None:
        """``path``: of the database; ``everything``: what a journal begins with; ``is_copy``: it is one that has been
        found whole, so that nothing stands beside it yet.
        """
        self._connection = connection
        self._path = path
        self._changes_path = path.with_name(path.name + ".changes")
        self._store_id = store_id
        self._apply = apply
        self._everything = everything
        self._in_transaction = in_transaction
        self._accept_loss = accept_loss
        self._is_copy = is_copy
        self._notes: list[str] = []
        self._lost: list[str] = []

    def run(self) -> Completed:
        """Raises StoreIncomplete, StoreDamaged, StoreTooNew, HomeUnusable; nothing is left open then."""
        try:
            mark = Mark(self._path.with_name(self._path.name + ".mark"))
            try:
                journal, payments = self._complete(read_changes(self._changes_path), mark.found)
                mark.write(journal.number, payments)
            except BaseException:
                mark.close()
                raise
        except OSError as error:
            raise HomeUnusable(
                f"{error.filename or self._changes_path} cannot be used: {error.strerror or error}.",
                hint="Give it to the user who runs TrustGate, or make room on its disk.",
            ) from error
        return Completed(journal, mark, payments, tuple(self._notes))

    def _complete(self, found: FoundChanges | None, marked: Marked | None) -> tuple[ChangeJournal, int]:
        if found is not None and found.store_id not in ("", self._store_id):
            raise StoreDamaged(
                f"{self._changes_path} belongs to another database than {self._path.name}.",
                hint="Put the files that belong together into one folder.",
            )
        has = progress(self._connection)
        journaled = 0 if found is None else found.last
        known = max(has.changes, journaled, marked.numbers[0] if marked else 0)
        payments = max(has.payments, marked.numbers[1] if marked else 0)
        self._check(has, found, marked, known)
        if found is not None and found.changes and journaled > has.changes:
            self._put_back(found, has)
        if known > 0 and marked is None and not self._is_copy:
            self._notes.append(
                f"The mark {self._path.name}.mark was missing and is made anew"
                + ("; whether the last payments are in the database cannot be told." if has.payments else ".")
            )
        if found is None or found.damage or journaled < known or self._lost or found.end > MOST_BYTES:
            if known > 0 and (found is None or found.damage or journaled < known):
                self._put_away(found)
            return self._begin(known, payments), payments
        return ChangeJournal.go_on(self._changes_path, found), payments

    def _check(self, has: StoredProgress, found: FoundChanges | None, marked: Marked | None, known: int) -> None:
        reached = max(has.changes, 0 if found is None else found.last)
        if marked is None and found is None and has.changes and not self._is_copy:
            self._lose(
                f"{self._changes_path.name} and {self._path.name}.mark are missing, so that it cannot be told whether "
                "the database has every change"
            )
        if reached < known:
            self._lose(f"changes {reached + 1} to {known} of what operators decide are missing (keys, plans, tenants)")
        if marked is not None and marked.numbers[1] > has.payments:
            self._lose(f"the last {marked.numbers[1] - has.payments} writes of payments are missing")
        if self._lost and not self._accept_loss:
            until = f" and {iso_us(marked.at_us)}" if marked is not None else ""
            since = f" What is missing was written between {iso_us(has.at_us)}{until}." if has.at_us else ""
            raise StoreIncomplete(f"The database {self._path} lacks what it has had: {'; '.join(self._lost)}.{since}")

    def _lose(self, what: str) -> None:
        self._lost.append(what)
        if self._accept_loss:
            self._notes.append(f"Accepted as lost: {what}.")

    def _put_back(self, found: FoundChanges, has: StoredProgress) -> None:
        missing = [change for change in found.changes if change.number > has.changes]

        def put_back(connection: SqlConnection) -> None:
            for change in missing:
                self._apply(connection, change, change.number == found.after + 1)

        self._in_transaction(self._connection, put_back)
        self._notes.append(
            f"The database lacked what operators had decided since {iso_us(missing[0].at_us)} (changes "
            f"{missing[0].number} to {missing[-1].number}): it was put back from {self._changes_path.name}."
        )

    def _put_away(self, found: FoundChanges | None) -> None:
        if found is None:
            if not self._is_copy:
                self._notes.append(f"{self._changes_path.name} was missing; it is begun anew from the database.")
            return
        aside = self._changes_path.with_name(f"{self._changes_path.name}.damaged-{now_us()}")
        self._changes_path.rename(aside)
        damage = found.damage or f"it ends at change {found.last}"
        self._notes.append(
            f"{self._changes_path.name} was damaged ({damage}); it is begun anew from the database, and is kept as "
            f"{aside.name}."
        )

    def _begin(self, after: int, payments: int) -> ChangeJournal:
        """Begin a journal, whose first change is everything that the database has. Returns it, open."""
        journal = ChangeJournal.begin(self._changes_path, self._store_id, after)
        try:
            change = journal.append(self._everything(self._connection), accepted="; ".join(self._lost))

            def count(connection: SqlConnection) -> None:
                connection.execute(
                    "UPDATE progress SET changes = ?, payments = ?, at_us = ?", [change.number, payments, change.at_us]
                )

            self._in_transaction(self._connection, count)
        except BaseException:
            journal.close()
            raise
        return journal
