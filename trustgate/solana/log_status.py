"""The log's anchors on one chain: those in the database, and those on the chain that the database lacks.

Owns the records of one chain while a flush works on them, and the refusal to add to a chain that contradicts the log.
The book forgets when a database is put back from an older copy: what was posted since is then found by its fee payer
and by the log's own signature on the note, and taken up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec.structs import replace

from trustgate.errors import AnchorRefused, RpcUnavailable, VerificationFailed
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id
from trustgate.net.retry_budget import RetryBudget
from trustgate.solana.history import Post, read_history
from trustgate.types import Anchor, AnchorAttempt

if TYPE_CHECKING:
    from trustgate.solana.rpc import RpcClient


class LogState(Protocol):
    """The content of a checkpoint (``receipts.checkpoint.Checkpoint``)."""

    @property
    def size(self) -> int: ...

    @property
    def root(self) -> bytes: ...


class AnchorTarget(NamedTuple):
    """The log as it is now."""

    tree_size: int
    #: 32 bytes.
    root: bytes
    #: The signed checkpoint of just this state.
    note: bytes
    #: The log's name, the first line of its checkpoints.
    origin: str
    #: Reads a signed note. Raises ``VerificationFailed`` unless it is a checkpoint signed with the log's key.
    open_note: Callable[[bytes], LogState]
    #: The root that the log had when it had so many leaves, at most ``tree_size``.
    root_at: Callable[[int], Awaitable[bytes]]


class AnchorBook(Protocol):
    """Where anchors are kept (``store.Store``)."""

    async def anchors(self) -> list[Anchor]:
        """Returns all of them, the oldest first."""
        ...

    async def put(self, anchor: Anchor, /) -> None:
        """Add or replace it, by its id; it is durable when this returns."""
        ...


class AnchoringStatus:
    """The anchors of one chain. Use ``load``."""

    def __init__(self, book: AnchorBook, target: AnchorTarget, genesis: str, now: Callable[[], int]) -> None:
        self._book = book
        self._target = target
        self._genesis = genesis
        self._now = now
        self._anchors: dict[str, Anchor] = {}
        self._read: dict[bytes, LogState | None] = {}
        #: What was settled since ``load``, in that order.
        self.settled: list[Anchor] = []

    @classmethod
    async def load(
        cls, book: AnchorBook, target: AnchorTarget, genesis: str, now: Callable[[], int]
    ) -> AnchoringStatus:
        """``now`` gives the time in microseconds, for the records."""
        status = cls(book, target, genesis, now)
        status._anchors = {anchor.id: anchor for anchor in await book.anchors() if anchor.genesis == genesis}
        return status

    # what there is

    def under_way(self) -> Anchor | None:
        """Returns the anchor with a transaction that may still land."""
        return next((anchor for anchor in self._anchors.values() if open_attempt(anchor) is not None), None)

    def planned(self) -> Anchor | None:
        """Returns what was begun and is not settled."""
        return next((anchor for anchor in self._anchors.values() if anchor.state == "planned"), None)

    def newest(self) -> Anchor | None:
        """Returns the largest state of this log that stands on the chain."""
        anchored = [anchor for anchor in self._anchors.values() if anchor.state == "anchored"]
        anchored.sort(key=lambda anchor: anchor.tree_size, reverse=True)
        return next((anchor for anchor in anchored if self.is_own(anchor)), None)

    @property
    def anchored_size(self) -> int:
        newest = self.newest()
        return 0 if newest is None else newest.tree_size

    def last_of(self, payer: str) -> Anchor | None:
        """Returns the last anchor that this address has paid for."""
        paid = [a for a in self._anchors.values() if a.state == "anchored" and a.fee_payer == payer]
        return max(paid, key=lambda anchor: anchor.slot, default=None)

    def is_own(self, anchor: Anchor) -> bool:
        """Returns whether it is of this log, and not of one that had another name or key."""
        return self._state_of(anchor.note.encode()) is not None

    def next_plan(self, payer: str) -> Anchor | None:
        """Returns what to post now: what was begun, else the log's state; None where it stands on the chain already.

        Nothing may be under way.
        """
        plan = self.planned()
        if plan is not None and self.is_own(plan) and plan.tree_size > self.anchored_size:
            return replace(plan, fee_payer=payer)
        if self._target.tree_size <= self.anchored_size:
            return None
        # What was begun under another name of the log, or was overtaken, will never land: its record is used again.
        target = self._target
        return self._record_of(target.tree_size, target.root, target.note, payer, plan)

    # records

    async def save(self, anchor: Anchor) -> None:
        """Durable when this returns."""
        await self._book.put(anchor)
        self._anchors[anchor.id] = anchor
        if anchor.state == "anchored":
            self.settled.append(anchor)

    async def save_attempt(self, anchor: Anchor, attempt: AnchorAttempt) -> Anchor:
        """Add the attempt to the anchor, or replace the one of its signature."""
        kept = tuple(known for known in anchor.attempts if known.signature != attempt.signature)
        anchor = replace(anchor, attempts=(*kept, attempt))
        await self.save(anchor)
        return anchor

    async def save_landed(
        self, anchor: Anchor, attempt: AnchorAttempt, *, slot: int, fee_lamports: int, block_time_s: int | None
    ) -> None:
        """Record that the anchor stands on the chain, by this attempt."""
        kept = tuple(known for known in anchor.attempts if known.signature != attempt.signature)
        await self.save(
            replace(
                anchor,
                state="anchored",
                attempts=(*kept, replace(attempt, outcome="final")),
                signature=attempt.signature,
                slot=slot,
                fee_lamports=fee_lamports,
                anchored_us=self._now() if block_time_s is None else block_time_s * MICROSECONDS_PER_SECOND,
            )
        )

    # the book against the log, and against the chain

    async def check_against_log(self, state: LogState, where: str) -> None:
        """Raises ``AnchorRefused`` unless the log has been in this state. ``where`` begins the message."""
        size = state.size
        if size > self._target.tree_size:
            raise AnchorRefused(
                f"{where} an anchor of {size} receipts of {self._target.origin}, but the log here has only "
                f"{self._target.tree_size}.",
                hint="Receipts are missing here, as after restoring an older copy of the database. Anchor from the "
                "home folder that has them all.",
            )
        if await self._target.root_at(size) != state.root:
            raise AnchorRefused(
                f"{where} an anchor of {self._target.origin} whose first {size} receipts are not those of the log "
                "here.",
                hint="Two logs use one name. Find out which one is right; the other can only continue under another "
                "name.",
            )

    async def check_book(self) -> None:
        """Raises ``AnchorRefused`` unless the log continues what was begun, and the newest that is anchored."""
        for anchor in (self.planned(), self.newest()):
            if anchor is not None and (state := self._state_of(anchor.note.encode())) is not None:
                await self.check_against_log(state, "The database has")

    async def take_up_forgotten(
        self,
        rpc: RpcClient,
        payer: str,
        retry_budget: RetryBudget,
        wait: Callable[[str], Awaitable[None]],
        *,
        record: bool,
    ) -> None:
        """Find what the chain has and the book has not. Nothing may be under way.

        ``wait`` is awaited, with a sentence, while the chain could still drop something that was found. ``record``:
        keep it. Raises ``AnchorRefused`` where the chain contradicts the log.
        """
        payers = {anchor.fee_payer for anchor in self._anchors.values()} | {payer}
        for address in sorted(payers):
            for post, state in await self._own_posts(rpc, address, retry_budget, wait):
                await self.check_against_log(state, "The chain has")
                if state.size not in self._own_sizes():
                    await self._take_up(post, state, record=record)

    async def _own_posts(
        self, rpc: RpcClient, address: str, retry_budget: RetryBudget, wait: Callable[[str], Awaitable[None]]
    ) -> list[tuple[Post, LogState]]:
        """Returns what the address has posted of this log since its last anchor in the book, oldest first."""
        last = self.last_of(address)
        while True:
            history = await read_history(
                rpc,
                address,
                "confirmed",
                retry_budget,
                until=None if last is None else last.signature,
                min_slot=0 if last is None else last.slot,
            )
            # A transaction of ours has one memo; nothing else is taken for one.
            single = [post for post in history.posts if len(post.memos) == 1]
            own = [(post, state) for post in single if (state := self._state_of(post.memos[0])) is not None]
            unsettled = next((post for post, _ in own if not post.is_final), None)
            if unsettled is None:
                return own
            what = f"The anchor {unsettled.signature}, which is not in the database, is not final yet"
            if retry_budget.is_over:
                raise RpcUnavailable(f"{what}.", hint="Run trustgate anchor flush again.")
            await wait(what)

    async def _take_up(self, post: Post, state: LogState, *, record: bool) -> None:
        plan = self.planned()
        if plan is not None and self.is_own(plan) and plan.tree_size > state.size:
            plan = None
        payer = post.transaction.fee_payer
        anchor = self._record_of(state.size, state.root, post.memos[0], payer, plan)
        if not record:
            self._anchors[anchor.id] = replace(anchor, state="anchored", signature=post.signature, slot=post.slot)
            return
        attempt = AnchorAttempt(
            signature=post.signature,
            transaction=post.transaction.raw,
            last_valid_block_height=0,
            created_us=self._now(),
            detail="found on the chain",
        )
        await self.save_landed(
            anchor, attempt, slot=post.slot, fee_lamports=post.fee_lamports, block_time_s=post.block_time_s
        )

    def _own_sizes(self) -> set[int]:
        return {a.tree_size for a in self._anchors.values() if a.state == "anchored" and self.is_own(a)}

    def _state_of(self, note: bytes) -> LogState | None:
        """Returns the log's state in the note; None if it is not signed by it."""
        if note not in self._read:
            try:
                named = note.partition(b"\n")[0] == self._target.origin.encode()
                self._read[note] = self._target.open_note(note) if named else None
            except VerificationFailed:
                self._read[note] = None
        return self._read[note]

    def _record_of(self, size: int, root: bytes, note: bytes, payer: str, plan: Anchor | None) -> Anchor:
        """Returns a planned anchor of this state: a new one, or in place of ``plan``."""
        now = self._now()
        return Anchor(
            id=new_id("anchor", now) if plan is None else plan.id,
            genesis=self._genesis,
            fee_payer=payer,
            tree_size=size,
            root=root.hex(),
            note=note.decode(),
            created_us=now if plan is None else plan.created_us,
            attempts=() if plan is None else plan.attempts,
        )


def open_attempt(anchor: Anchor) -> AnchorAttempt | None:
    """Returns the anchor's transaction that may still land, if there is one."""
    if anchor.state == "anchored":
        return None
    return next((attempt for attempt in anchor.attempts if attempt.outcome == "open"), None)
