"""The sequencer: gives receipts their places in the log, once their tenants' chains have them.

Every process links receipts to their tenants' chains when it closes requests (``cluster.books``); they then wait in a
table. The one that holds the role takes them from there, in an order that keeps every chain's, and appends them to the
store with the tiles that they complete.

Owns that each is appended once. A receipt that is in the store already, because the last sequencer died between its
append and its removal here, is known by its number in its tenant's chain. A sequencer that was stopped and wakes up has
lost its role; until it has noticed, the store refuses a second entry of the same place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from trustgate.cluster.database import DatabaseSession
from trustgate.cluster.roles import RoleLost, Tenure, check_tenure
from trustgate.errors import StoreDamaged, TrustGateError
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.segment import decode_entry
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.types import Entry

_logger = logging.getLogger("trustgate.cluster")

_MOST = 4_000
#: Between two looks where nothing waits, and at most where they fail.
_PAUSE_S = 0.1
_RETRY_LAST_S = 10.0

_WAITING = "SELECT n, entry FROM waiting_receipts ORDER BY n LIMIT $1"
_TAKEN = "DELETE FROM waiting_receipts WHERE n = ANY($1::bigint[])"


class Sequencer:
    """The holder of the role, from one taking to its loss."""

    def __init__(
        self, session: DatabaseSession, store: Store, tree: Tree, heads: dict[str, int], tenure: Tenure
    ) -> None:
        """Use ``begin``."""
        self._session = session
        self._store = store
        self._tenure = tenure
        #: The tree of all that the store has.
        self.tree = tree
        #: Of each tenant the number of its last receipt in the store.
        self._heads = heads
        #: Is called when the log has grown.
        self.on_growth: Callable[[], None] | None = None

    @classmethod
    async def begin(cls, session: DatabaseSession, store: Store, tenure: Tenure) -> Sequencer:
        """Go on where the log ends.

        Args:
            session: a connection for this alone.
            store: as it is now: opened, or brought up to date, after the role was taken.
            tenure: the role.
        """
        heads = {head.tenant_id: head.entry.receipt.tseq for head in await store.load_heads()}
        return cls(session, store, await Tree.open(store), heads, tenure)

    async def run(self) -> None:
        """Take what waits, for ever; a database or a store that fails is asked again, more and more slowly.

        Raises:
            RoleLost: the role is another's.
        """
        retry_s = _PAUSE_S
        while True:
            try:
                taken = await self.take()
                retry_s = _PAUSE_S
            except RoleLost:
                raise
            except TrustGateError as error:
                _logger.error("receipts wait for their places in the log: %s", error.message)
                retry_s = min(2 * retry_s, _RETRY_LAST_S)
                taken = 0
            if taken < _MOST:
                await asyncio.sleep(retry_s)

    async def take(self) -> int:
        """Append what waits, up to some thousands.

        Returns:
            How many waited.

        Raises:
            RoleLost: the role is another's.
            StoreDamaged: a tenant's chain has a gap.
            TrustGateError: the database or the store failed; nothing is lost.
        """
        async with self._session.use() as connection, connection.transaction():
            # Until the transaction ends the role is kept.
            await check_tenure(connection, self._tenure)
            rows = await connection.fetch(_WAITING, _MOST)
            if rows:
                await self._append([decode_entry(row["entry"]) for row in rows])
                await connection.execute(_TAKEN, [row["n"] for row in rows])
        return len(rows)

    async def _append(self, waiting: list[Entry]) -> None:
        heads: dict[str, int] = {}
        last_seq = self.tree.size
        entries: list[Entry] = []
        for entry in waiting:
            tenant, tseq = entry.receipt.tenant, entry.receipt.tseq
            head = heads.get(tenant) or self._heads.get(tenant, 0)
            if tseq <= head:
                continue  # the store has it
            if tseq != head + 1:
                raise StoreDamaged(
                    f"The receipts {head + 1} to {tseq - 1} of tenant {tenant} are missing from the database.",
                    hint="Put back a copy of the database.",
                )
            heads[tenant] = tseq
            last_seq += 1
            entries.append(msgspec.structs.replace(entry, seq=last_seq))
        if entries:
            grown, tiles = await self.tree.extended([leaf_hash(entry.receipt) for entry in entries])
            await self._store.append_entries(entries, tiles)
            self.tree.adopt(grown)
            self._heads |= heads
            if self.on_growth is not None:
                self.on_growth()
