"""The sequencer: gives receipts their places in the log, once their tenants' chains have them, and signs what it makes.

Every process links receipts to their tenants' chains when it closes requests (``cluster.books``); they then wait in a
table. The one that holds the role takes them from there, in an order that keeps every chain's, and appends them to the
store with the tiles that they complete. It shows all processes how far it is in one row (``cluster.following``), and
signs checkpoints of that.

Owns that each is appended once. A receipt that is in the store already, because the last sequencer was killed between
its append and its removal here, is recognised by its number in its tenant's chain. A sequencer that was stopped and
continues has lost its role; until it notices that, the store refuses a second entry of the same place, and the row a
second checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from trustgate.cluster.changes import trim
from trustgate.cluster.database import DatabaseAway, DatabaseConnection, DatabaseSession
from trustgate.cluster.following import log_name_of, show_edge
from trustgate.cluster.linked_receipts import LinkedReceipts
from trustgate.cluster.roles import RoleLost, Tenure, check_tenure
from trustgate.errors import StoreDamaged, TrustGateError, VerificationFailed
from trustgate.formats.durable import write_durably
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.receipts.checkpoint import Checkpoint, reopen_checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.segment import decode_entry
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.tasks import wait_at_most
from trustgate.types import Entry

T = TypeVar("T")
U = TypeVar("U")

_logger = logging.getLogger("trustgate.cluster")

_MOST = 4_000
#: Receipts that are decoded, or hashed, before the event loop gets its turn.
_SLICE = 32
#: The pause where nothing waits, and the longest after failures.
_PAUSE_S = 0.1
_RETRY_LAST_S = 10.0
_TRIM_EVERY_S = 3_600.0
_CHANGES_KEPT_US = 86_400 * MICROSECONDS_PER_SECOND

#: They are removed once the transaction is committed, after they were appended.
_TAKE = (
    "WITH taken AS (DELETE FROM waiting_receipts WHERE n IN (SELECT n FROM waiting_receipts ORDER BY n LIMIT $1)"
    " RETURNING n, receipt_id, entry) SELECT receipt_id, entry FROM taken ORDER BY n"
)
_SIGNED = "SELECT size, signed_size, signed_us, wanted FROM log_state"
_SIGN = "UPDATE log_state SET signed_size = $1, note = $2, signed_us = $3 WHERE signed_size = $4 RETURNING 1"


class Signing(NamedTuple):
    """How checkpoints are signed."""

    key: LogKey
    #: Where a checkpoint is on the disk before it is shown.
    file: Path
    #: Returns how often at most, where none is waited for; seconds.
    every_s: Callable[[], float]


class Sequencer:
    """The holder of the role, from one taking to its loss."""

    def __init__(
        self,
        session: DatabaseSession,
        store: Store,
        tree: Tree,
        heads: dict[str, int],
        tenure: Tenure | None,
        signing: Signing | None,
        linked: LinkedReceipts | None,
    ) -> None:
        """Use ``begin``."""
        self._session = session
        self._linked = linked
        self._signing = signing
        #: The store may have more than is in memory: an append has failed, or its end was not seen.
        self._is_stale = False
        self._trim_at_s = 0.0
        #: The last checkpoint has the log's former name.
        self._is_renamed = False
        self._store = store
        self._tenure = tenure
        #: The tree of all that the store has.
        self.tree = tree
        #: Of each tenant the number of its last receipt in the store.
        self._heads = heads
        #: Set when receipts, or a checkpoint, are waited for.
        self.wakeup = asyncio.Event()

    @classmethod
    async def begin(
        cls,
        session: DatabaseSession,
        store: Store,
        tenure: Tenure | None,
        signing: Signing | None = None,
        linked: LinkedReceipts | None = None,
    ) -> Sequencer:
        """Go on where the log ends.

        Args:
            session: a connection for this alone.
            store: as it is now: opened, or brought up to date, after the role was taken.
            tenure: the role; None: no other process has the database open.
            signing: how checkpoints are signed; None: they are not.
            linked: what this process has linked itself; None: all is read from the database.

        Raises:
            StoreDamaged: the log does not continue the checkpoint that was signed last.
            TrustGateError: the database or the store failed.
        """
        sequencer = cls(session, store, await Tree.open(store), await _last_numbers(store), tenure, signing, linked)
        await sequencer._check_signed()
        async with session.use() as connection, connection.transaction():
            await sequencer._check(connection)
            await show_edge(connection, sequencer.tree.edge)
        return sequencer

    async def run(self) -> None:
        """Take what waits and sign, for ever; what fails is tried again, more and more slowly.

        Raises:
            RoleLost: the role is another's.
        """
        retry_s = _PAUSE_S
        while True:
            try:
                taken = await self.take()
                await self.sign()
                await self._trim()
                retry_s = _PAUSE_S
            except RoleLost:
                raise
            except (TrustGateError, OSError) as error:
                why = error.why if isinstance(error, DatabaseAway) else error
                _logger.error("receipts wait for their places in the log: %s", why)
                retry_s = min(2 * retry_s, _RETRY_LAST_S)
                taken = 0
            if taken < _MOST:
                await wait_at_most(self.wakeup, retry_s)
                self.wakeup.clear()

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
            await self._check(connection)
            rows = await connection.fetch(_TAKE, _MOST)
            if rows:
                await self._append(await _by_turns(self._found, rows))
                await show_edge(connection, self.tree.edge)
        return len(rows)

    async def sign(self) -> bool:
        """Sign what is shown, where a checkpoint is waited for or due.

        Returns:
            Whether it did.

        Raises:
            RoleLost: the role is another's.
            OSError: the checkpoint cannot be brought to the disk; the last one stays what is shown.
            TrustGateError: the database failed.
        """
        if self._signing is None:
            return False
        async with self._session.use() as connection, connection.transaction():
            await self._check(connection)
            row = await connection.fetchrow(_SIGNED)
            if row is None or not self._is_due(row["size"], row["signed_size"], row["signed_us"], row["wanted"]):
                return False
            # All processes go by the row, so this is what they can prove of.
            checkpoint = Checkpoint(self._signing.key.name, row["size"], await self.tree.root_at(row["size"]))
            note, at_us = sign_checkpoint(checkpoint, self._signing.key), now_us()
            await asyncio.to_thread(write_durably, self._signing.file, note)
            await connection.execute(_SIGN, checkpoint.size, note, at_us, row["signed_size"])
        self._is_renamed = False
        return True

    async def _trim(self) -> None:
        """Delete changes of operators that are old and taken in by all, once in a while."""
        if time.monotonic() < self._trim_at_s:
            return
        self._trim_at_s = time.monotonic() + _TRIM_EVERY_S
        async with self._session.use() as connection:
            await trim(connection, now_us() - _CHANGES_KEPT_US)

    def _is_due(self, size: int, signed_size: int, signed_us: int, wanted: int) -> bool:
        assert self._signing is not None
        if not signed_us or self._is_renamed:
            return True
        # Signed later than now: by a process whose clock is ahead, which holds up no checkpoint here.
        is_late = not 0 <= now_us() - signed_us < self._signing.every_s() * MICROSECONDS_PER_SECOND
        return size > signed_size and (wanted > signed_size or is_late)

    async def _check(self, connection: DatabaseConnection) -> None:
        if self._tenure is not None:
            await check_tenure(connection, self._tenure)

    async def _check_signed(self) -> None:
        if self._signing is None:
            return
        async with self._session.use() as connection:
            note = await connection.fetchval("SELECT note FROM log_state")
        self._is_renamed = bool(note)
        if not note or log_name_of(bytes(note)) != self._signing.key.name:
            return
        self._is_renamed = False
        try:
            signed = reopen_checkpoint(bytes(note), self._signing.key)
        except VerificationFailed as error:
            raise StoreDamaged(f"The last checkpoint is not signed with the log's key: {error.message}") from None
        if signed.size > self.tree.size or await self.tree.root_at(signed.size) != signed.root:
            raise StoreDamaged(
                f"The database's {self.tree.size} receipts do not continue the signed checkpoint of {signed.size}.",
                hint="Put back a copy of the database that has them.",
            )

    def _found(self, row: Mapping[str, Any]) -> tuple[Entry, bytes]:
        """Returns the entry of a row, without its place, and its leaf hash; b"": it is not known yet."""
        linked = None if self._linked is None else self._linked.take(row["receipt_id"])
        return (decode_entry(row["entry"]), b"") if linked is None else linked[:2]

    async def _append(self, waiting: list[tuple[Entry, bytes]]) -> None:
        if self._is_stale:
            self._heads, self.tree = await _last_numbers(self._store), await Tree.open(self._store)
            self._is_stale = False
        heads: dict[str, int] = {}
        last_seq = self.tree.size
        entries: list[tuple[Entry, bytes]] = []
        for entry, leaf in waiting:
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
            entries.append((msgspec.structs.replace(entry, seq=last_seq), leaf))
        if entries:
            leaves = await _by_turns(lambda found: found[1] or leaf_hash(found[0].receipt), entries)
            grown, tiles = await self.tree.extended(leaves)
            # Of a sequencer that was stopped the role may be another's: then the store has more than is in memory.
            self._is_stale = True
            await self._store.append_entries([entry for entry, _ in entries], tiles)
            self._is_stale = False
            self.tree.adopt(grown)
            self._heads |= heads


async def _last_numbers(store: Store) -> dict[str, int]:
    """Returns of each tenant the number of its last receipt in the store."""
    return {head.tenant_id: head.entry.receipt.tseq for head in await store.load_heads()}


async def place_waiting(session: DatabaseSession, store: Store) -> None:
    """Give every receipt its place that several processes have left waiting; none of them has the database open now.

    Raises:
        StoreDamaged: a tenant's chain has a gap.
        TrustGateError: the database or the store failed.
    """
    async with session.use() as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM waiting_receipts)"):
            return
    sequencer = await Sequencer.begin(session, store, None)
    while await sequencer.take():
        pass


async def _by_turns(of: Callable[[T], U], found: Sequence[T]) -> list[U]:
    """Returns what a function returns for each; after every ``_SLICE`` of them the event loop gets its turn."""
    made: list[U] = []
    for start in range(0, len(found), _SLICE):
        made += map(of, found[start : start + _SLICE])
        await asyncio.sleep(0)
    return made
