"""Rows of the books that are missing: what they are to have, out of the receipts.

A caller without limits has no row, and a new budget has none. Once all processes have taken a limit in, the first
request that it concerns makes the row; what was used before that is in receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trustgate.access.budget_counter import CountState
from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller, Directory
from trustgate.access.quota import Quota
from trustgate.admin.budget_counts import load as load_budgets
from trustgate.admin.budget_counts import rebuild
from trustgate.cluster.database import DatabaseConnection
from trustgate.cluster.rows import BudgetRow, OnceRow, QuotaRow, Row, head_key
from trustgate.models.catalog import Catalog
from trustgate.receipts.receipt import billed_of
from trustgate.receipts.segment import decode_entry
from trustgate.store import Store
from trustgate.store.entries import made_us
from trustgate.store.rows import BILLED, IS_COUNTED
from trustgate.types import COUNTED, Budget, Receipt

_HAS_RECEIPTS = "SELECT EXISTS (SELECT 1 FROM shared_state WHERE key = $1)"
_WAITING = "SELECT entry FROM waiting_receipts ORDER BY n"
_USED = f"""SELECT count(*) AS requests, coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens,
    coalesce(sum({BILLED}), 0)::bigint AS cost FROM receipts
    WHERE tenant = $1 AND created_us >= $2 AND {IS_COUNTED} AND ($3::text[] IS NULL OR "key" = ANY($3::text[]))"""  # noqa: S608 - constants

_ON_RECORD = """SELECT receipt_id FROM waiting_receipts WHERE receipt_id = ANY($1::text[])
    UNION ALL SELECT id FROM receipts WHERE id = ANY($1::text[]) AND created_us BETWEEN $2 AND $3"""

_CREDITED = "SELECT payment FROM receipts WHERE payment = ANY($1::text[]) AND credited_nano_usd > 0"

#: Whose a receipt is; None: tenant or key are gone.
FindOwner = Callable[[Receipt], tuple[Caller, Drawer] | None]


class MissingRows:
    """Counts in memory what rows that are missing are to be made with (``cluster.batches.Restore``)."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        catalog: Catalog,
        quota: Quota,
        clock: Callable[[], int],
        who: FindOwner,
    ) -> None:
        """
        Args:
            store: has the receipts with places.
            directory: of the server.
            catalog: of the server.
            quota: the counters in memory, which rows are made of.
            clock: the time that all go by, microseconds UTC.
            who: finds whose a receipt is.
        """
        self._store = store
        self._directory = directory
        self._catalog = catalog
        self._quota = quota
        self._clock = clock
        self._who = who
        #: What budgets had counted when a row of them was first missing: later use makes rows.
        self._budgets: dict[Budget, dict[str, CountState]] = {}

    async def restore(self, connection: DatabaseConnection, rows: Sequence[Row]) -> None:
        """Bring into memory what missing rows are to have.

        All is read first: a request that ends meanwhile settles in memory what it has held there, which is no longer
        there once the rows' figures are.
        """
        await restore_done_once(connection, [row for row in rows if isinstance(row, OnceRow)])
        used = {
            row.subject_id: await self._used(connection, row.subject_id) for row in rows if isinstance(row, QuotaRow)
        }
        counts = [(row, await self._counts(connection, row)) for row in rows if isinstance(row, BudgetRow)]
        for subject_id, uses in used.items():
            self._quota.forget(subject_id)
            for window, use in uses:
                self._quota.restore(window, subject_id, *use)
        for row, count in counts:
            row.counter.take_in(count)

    async def _used(self, connection: DatabaseConnection, subject_id: str) -> list[tuple[int, tuple[int, int, int]]]:
        """Returns what a subject has used, each with its window."""
        found: list[tuple[int, tuple[int, int, int]]] = []
        keys = self._directory.keys_of_account(subject_id)
        tenant_id, key_ids = (keys[0].tenant_id, [key.id for key in keys]) if keys else (subject_id, None)
        if not await connection.fetchval(_HAS_RECEIPTS, head_key(tenant_id)):
            return found
        # First those that wait: one that gets its place meanwhile counts twice rather than not at all.
        waiting = [
            receipt
            for receipt in await _waiting(connection)
            if receipt.tenant == tenant_id and (key_ids is None or receipt.key in key_ids)
        ]
        windows = self._quota.begin(self._clock())
        for window, since_us in enumerate(windows.starts):
            used = await connection.fetchrow(_USED, tenant_id, since_us, key_ids)
            assert used is not None, "a sum has a row"
            found.append((window, (used["requests"], used["tokens"], used["cost"])))
            found += [(window, _use(receipt)) for receipt in waiting if receipt.created_us >= since_us]
        return found

    async def _counts(self, connection: DatabaseConnection, row: BudgetRow) -> CountState:
        """Returns what a budget's row is to have."""
        budget = row.counter.of.budget
        counts = self._budgets.get(budget)
        if counts is None:
            counted = Budgets(self._clock)
            load_budgets(counted, self._directory, [budget])
            waiting, at_us = await _waiting(connection), self._clock()
            await rebuild(
                counted, [budget], store=self._store, directory=self._directory, catalog=self._catalog, at_us=at_us
            )
            for receipt in waiting:
                owner = self._who(receipt)
                if owner is not None:
                    counted.restore(budget.id, owner[1], _use(receipt), receipt.created_us)
            counts = self._budgets[budget] = {counter.subject: counter.state() for counter in counted.counters()}
        return counts.get(row.counter.subject) or CountState([])


async def restore_done_once(connection: DatabaseConnection, rows: Sequence[OnceRow]) -> None:
    """Note which receipts are on record, and which payments are credited, by those of processes that served alone.

    Or of so long ago that the rows were removed (``cluster.old_rows``).
    """
    receipts, payments = set[str](), set[str]()
    for row in rows:
        (receipts if row.id.startswith("rcpt_") else payments).add(row.id)
    done = set[str]()
    if receipts:
        made = [made_us(receipt_id) or 0 for receipt_id in receipts]
        # The time in an id is in milliseconds: up to one of them is missing.
        found = await connection.fetch(_ON_RECORD, list(receipts), min(made), max(made) + 1000)
        done = {record["receipt_id"] for record in found}
    if payments:
        done |= {record["payment"] for record in await connection.fetch(_CREDITED, list(payments))}
    for row in rows:
        row.is_done = row.id in done


async def waiting_receipts(connection: DatabaseConnection) -> list[Receipt]:
    """Returns the receipts that have no places in the log yet, in their order."""
    return [decode_entry(row["entry"]).receipt for row in await connection.fetch(_WAITING)]


async def _waiting(connection: DatabaseConnection) -> list[Receipt]:
    """Returns those of them that count."""
    return [receipt for receipt in await waiting_receipts(connection) if receipt.finish in COUNTED]


def _use(receipt: Receipt) -> tuple[int, int, int]:
    return 1, receipt.prompt_tokens + receipt.completion_tokens, billed_of(receipt)
