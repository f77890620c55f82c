"""The log of receipts: gives each its place, makes it durable, and hands it to the store behind the response.

``append`` is the only thing a request does here, and it waits for nothing: the entry is written to the journal
(one system call) and queued; from then on it survives the process. A task integrates the queue into the store in
batches, with the tiles of the tree that they complete, releases the journal, and tries again for as long as the store
fails. Recovery runs the same road: what the journal holds beyond the store is integrated before the first request is
served.

Owns the order (``seq`` without gaps) and each tenant's chain (``tseq``, ``tprev``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from trustgate.deadlines import Deadlines
from trustgate.errors import TrustGateError, Unavailable
from trustgate.receipts.bounds import fixed
from trustgate.receipts.journal import Journal
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash, leaf_hash_of
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.tasks import Deferred
from trustgate.types import Entry, Receipt

_logger = logging.getLogger("trustgate.receipts")

_BATCH_ENTRIES = 4_000
#: Between an entry and its integration: so long where few come, and up to the longer pause while many do. A commit
#: costs the same for one and for thousands.
_BATCH_PAUSE_S = 0.1
_BUSY_PAUSE_S = 0.5
#: So many in a short pause are many.
_BUSY_ENTRIES = 50
#: How long the end of an answer waits for its receipt's commit; the receipt is in the journal then.
_COMMIT_PATIENCE_S = 5.0
_RETRY_SOON_S = 0.25
_RETRY_FIRST_S = 1.0
_RETRY_LAST_S = 30.0
#: Entries the store may lag behind before new requests are refused (about a kilobyte of memory each).
_PENDING_MOST = 200_000


class Log:
    def __init__(
        self, store: Store, journal: Journal, tree: Tree, *, last_seq: int, heads: dict[str, tuple[int, str]]
    ) -> None:
        """Use ``recover``."""
        self._store = store
        self._journal = journal
        self._tree = tree
        self._last_seq = last_seq
        #: Of each tenant: the number and the leaf hash (hex) of its last receipt.
        self._heads = heads
        #: What the store does not have yet, each with its leaf hash.
        self._pending: deque[tuple[Entry, bytes]] = deque()
        self._work = asyncio.Event()
        #: There is a batch of the largest size.
        self._full = asyncio.Event()
        self._dirty = asyncio.Event()
        #: Whether ``_end_turn`` is to be called.
        self._is_turn_noted = False
        #: The running one, of the first entry: asking for it costs a system call in Python 3.11.
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The batch under way.
        self._batch: asyncio.Task[None] | None = None
        #: Is shown every receipt as it is written; must be quick, and must not fail.
        self.on_append: Callable[[Receipt], None] | None = None
        #: Why entries are not durable or not integrated, while that lasts.
        self.fault: str | None = None
        #: Whether answers wait until their receipts are committed: another machine may have to go on from the database.
        self.commits_first = False
        #: What waits for the commit of an entry, by its number; the oldest first.
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()
        self._late = Deadlines(_COMMIT_PATIENCE_S)

    @classmethod
    async def recover(cls, store: Store, journal: Journal, tree: Tree) -> Log:
        """Bring the store, and the tree of what it has, up to the journal and go on from there.

        Raises ``StoreDamaged`` when the two do not fit together: then something was lost, and serving on would
        hide it.
        """
        last_seq = await store.last_seq()
        first_seq = last_seq + 1
        batch: list[tuple[Entry, bytes]] = []
        for entry in journal.replay(last_seq):
            batch.append((entry, leaf_hash(entry.receipt)))
            last_seq = entry.seq
            if len(batch) == _BATCH_ENTRIES:
                await _integrate(store, tree, batch)
                batch = []
        await _integrate(store, tree, batch)
        if last_seq >= first_seq:
            _logger.info("recovered %d receipts from the journal", last_seq - first_seq + 1)
        journal.release(last_seq)
        heads = {
            head.tenant_id: (head.entry.receipt.tseq, leaf_hash(head.entry.receipt).hex())
            for head in await store.load_heads()
        }
        return cls(store, journal, tree, last_seq=last_seq, heads=heads)

    @property
    def last_seq(self) -> int:
        return self._last_seq

    @property
    def pending(self) -> int:
        """Entries that are in the journal and not yet in the store."""
        return len(self._pending)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was amiss with the journal when it was opened and could be mended, for people."""
        return self._journal.notes

    # the request path

    def check_room(self, in_flight: int) -> None:
        """Raise ``Unavailable`` (503 ``storage_full``) unless ``in_flight`` more receipts could surely be kept."""
        if self.fault is not None and len(self._pending) >= _PENDING_MOST:
            raise Unavailable(
                "The gateway cannot record requests right now.", code="storage_full", headers={"retry-after": "30"}
            )
        try:
            self._journal.check_room(in_flight)
        except Unavailable:
            # Wake the upkeep: it finds out whether there is room again.
            self._dirty.set()
            raise

    def link(self, tenant_id: str) -> tuple[int, str]:
        """``tseq`` and ``tprev`` of the tenant's next receipt. No await may stand between this and ``append``."""
        tseq, tprev = self._heads.get(tenant_id, (0, FIRST_TPREV))
        return tseq + 1, tprev

    def append(self, receipt: Receipt, secret: bytes) -> Entry:
        """Give the receipt its place. When this returns, the entry survives the death of the process.

        Members that are out of range are brought into it (``bounds.fixed``): the entry has the receipt as it is.
        """
        receipt, form = fixed(receipt)
        entry = Entry(seq=self._last_seq + 1, receipt=receipt, secret=secret)
        try:
            self._journal.append(entry, marks=False)
        except (OSError, TrustGateError) as error:
            # The answer is already made: keep the entry in memory, say so, and let check_room refuse what follows.
            self.fault = f"the journal cannot be written: {error}"
            _logger.error("%s", self.fault)
        leaf = leaf_hash_of(form)
        self._last_seq = entry.seq
        self._heads[receipt.tenant] = (receipt.tseq, leaf.hex())
        self._pending.append((entry, leaf))
        if not self._is_turn_noted:
            self._is_turn_noted = True
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self._end_turn)
        if self.on_append is not None:
            self.on_append(receipt)
        return entry

    def _end_turn(self) -> None:
        """Do what is done once for all entries of a turn of the event loop."""
        self._is_turn_noted = False
        self._journal.mark()
        self._work.set()
        if len(self._pending) >= _BATCH_ENTRIES:
            self._full.set()
        self._dirty.set()

    def committed(self, entry: Entry) -> Deferred[Any] | None:
        """Returns what ends when the entry is committed in the store, or the store is away; None: nothing waits.

        A store that is away is waited for ``_COMMIT_PATIENCE_S`` seconds by the first, and by those that follow not at
        all: the journal has their receipts.
        """
        if not self.commits_first or self.fault is not None:
            return None
        if not self._waiting:
            self._late.set(self._wait_no_longer)
        committed: Deferred[None] = Deferred(asyncio.get_running_loop())
        self._waiting.append((entry.seq, committed))
        return committed

    def _let_go(self, last_seq: int | None = None) -> None:
        """End the waiting for entries up to ``last_seq``; None: for all."""
        waiting = self._waiting
        while waiting and (last_seq is None or waiting[0][0] <= last_seq):
            waiting.popleft()[1].succeed(None)
        self._late.discard(self._wait_no_longer)
        if waiting:
            self._late.set(self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        self.fault = "the database does not answer"
        _logger.error("receipts wait in the journal: %s", self.fault)
        self._let_go()

    # behind the response

    async def flush(self) -> None:
        """Integrate everything appended so far. Raises what the store raises."""
        target = self._last_seq
        while self._pending and self._pending[0][0].seq <= target:
            await self._integrate()

    async def run(self) -> None:
        """Integrate for ever, in batches; a failing store is tried again, more and more slowly."""
        retry_s = _RETRY_FIRST_S
        while True:
            await self._work.wait()
            # Where the store commits first, batches form while a commit is under way.
            if not self.commits_first:
                await self._wait_for_more(_BATCH_PAUSE_S)
                if len(self._pending) >= _BUSY_ENTRIES:
                    await self._wait_for_more(_BUSY_PAUSE_S - _BATCH_PAUSE_S)
            try:
                await self._integrate()
                retry_s = _RETRY_FIRST_S
            except TrustGateError as error:
                self.fault = error.message
                _logger.error("receipts wait in the journal: %s (next try in %.0f s)", error.message, retry_s)
                self._let_go()
                # What waits in the journal here is unknown to other machines: soon it must not.
                retry_s = _RETRY_SOON_S if self.commits_first else retry_s
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _RETRY_LAST_S)

    async def _wait_for_more(self, pause_s: float) -> None:
        """Let entries gather, for so long at most.

        A full batch waits for nothing: pauses would bound what is integrated in a second, and the rest would wait in
        memory, of which an entry takes more than a kilobyte.
        """
        if len(self._pending) < _BATCH_ENTRIES:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._full.wait()

    async def _integrate(self) -> None:
        """Integrate a batch, or wait for the one under way. Raises what the store raises.

        The store commits a batch whether or not its caller is cancelled (a stop waits for a bounded time), and would
        refuse it a second time. So a cancelled caller leaves it under way, and the next one waits for that.
        """
        if self._batch is None or self._batch.done():
            self._batch = asyncio.create_task(self._integrate_batch())
        await asyncio.shield(self._batch)

    async def _integrate_batch(self) -> None:
        batch = [self._pending[index] for index in range(min(len(self._pending), _BATCH_ENTRIES))]
        if batch:
            await _integrate(self._store, self._tree, batch)
            for _ in batch:
                self._pending.popleft()
            self._journal.release(batch[-1][0].seq)
            self.fault = None
            self._let_go(batch[-1][0].seq)
        if not self._pending:
            self._work.clear()

    async def sync_journal(self, every_s: float) -> None:
        """For ever: bring what was journaled to the disk itself, and prepare room ahead, in a thread."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(every_s)
            try:
                await asyncio.to_thread(self._journal.maintain)
            except (OSError, TrustGateError) as error:
                self.fault = f"the journal cannot be kept up: {error}"
                _logger.error("%s", self.fault)
                self._dirty.set()
                await asyncio.sleep(_RETRY_FIRST_S)


async def _integrate(store: Store, tree: Tree, batch: Sequence[tuple[Entry, bytes]]) -> None:
    """Commit entries and the tiles they complete; then the tree has them."""
    grown, tiles = await tree.extended([leaf for _, leaf in batch])
    await store.append_entries([entry for entry, _ in batch], tiles)
    tree.adopt(grown)
