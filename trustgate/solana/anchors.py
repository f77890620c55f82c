"""Anchoring: one transaction for the log's state, never two, whatever crashes and whatever the node does.

Owns the state machine. What it does is recorded before it is done:

    look at the chain          refuse what contradicts it; take up own anchors that the book has forgotten
    record planned             size, root and note
    record the attempt         signature, bytes, last block height that takes it; then send
    wait                       the same bytes again while nobody knows them; see ``fate``
    record anchored            or failed, or expired: then look at the chain, and sign anew

So at any moment there is at most one signed transaction that may still land, it is in the book, and a new one is signed
only once the old one can never land. Whoever calls holds a lock that keeps a second process away from the book.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from msgspec.structs import replace

from trustgate.errors import AnchorPending, AnchorRefused, ChainError, FundsMissing, RpcRejected, RpcUnavailable
from trustgate.errors import VerificationFailed
from trustgate.ids import MICROSECONDS_PER_SECOND, new_id, now_us
from trustgate.solana.clusters import (
    check_genesis,
    check_money,
    cluster_name,
    explorer_url,
    funding_hint,
    is_public,
)
from trustgate.solana.fate import Fate, look
from trustgate.solana.history import Post, read_history
from trustgate.solana.keypair import PayerKey
from trustgate.solana.memo import Fee, check_note_size, estimate, sign_memo
from trustgate.solana.patience import Patience, Timing
from trustgate.solana.transaction import read_transaction
from trustgate.types import Anchor, AnchorAttempt

if TYPE_CHECKING:
    from trustgate.solana.rpc import RpcClient

#: A blockhash is good for so many blocks (Solana: MAX_PROCESSING_AGE).
BLOCKHASH_AGE_BLOCKS: Final = 150
#: Transactions that land and fail cost their fee: after so many a person should look.
_MOST_FAILURES: Final = 3
_AIRDROP_LAMPORTS: Final = 1_000_000_000
_LAMPORTS_PER_SOL: Final = 1_000_000_000

Settled = Literal["confirmed", "finalized"]


class LogState(Protocol):
    """What a checkpoint says (``receipts.checkpoint.Checkpoint``)."""

    @property
    def size(self) -> int: ...
    @property
    def root(self) -> bytes: ...


class Target(NamedTuple):
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
        """All of them, the oldest first."""
        ...

    async def put(self, anchor: Anchor, /) -> None:
        """Add or replace it, by its id; it is durable when this returns."""
        ...


class Progress(NamedTuple):
    """Where a flush is: ``text`` is a sentence for people, without a full stop."""

    stage: Literal["looking", "funding", "sending", "waiting", "trouble"]
    text: str


class FlushResult(NamedTuple):
    """``anchored``: the state stands on the chain, and the book did not know that before."""

    anchored: bool
    dry_run: bool
    tree_size: int
    #: 64 hexadecimal digits.
    root: str
    #: Hash of the genesis block, and the cluster's name.
    genesis: str
    cluster: str
    fee_payer: str
    #: Of the last anchor; for a dry run an estimate.
    fee_lamports: int = 0
    signature: str = ""
    slot: int = 0
    explorer: str = ""
    #: Every anchor that this flush has settled: posted, or found on the chain.
    anchors: tuple[Anchor, ...] = ()


def silent(_: Progress) -> None:
    """Nobody watches."""


class Anchorer:
    """Flushes to one book, one at a time."""

    def __init__(self, book: AnchorBook, *, timing: Timing | None = None, now: Callable[[], int] = now_us) -> None:
        """``now`` gives the time in microseconds, for the records."""
        self._book = book
        self._timing = timing or Timing()
        self._now = now
        self._one_at_a_time = asyncio.Lock()

    async def flush(
        self,
        rpc: RpcClient,
        key: PayerKey,
        target: Target,
        *,
        max_fee_lamports: int,
        commitment: Settled = "finalized",
        allow_mainnet: bool = False,
        dry_run: bool = False,
        progress: Callable[[Progress], None] = silent,
    ) -> FlushResult:
        """Bring the log's state onto the chain, and say how it stands there. Interrupted, the next flush goes on.

        An anchor that was begun is finished first, even if the log has grown since; then the present state follows.
        ``dry_run`` looks, simulates and checks the funds, and neither records nor sends anything. Raises
        ``AnchorRefused`` (the chain knows more, or other; real money without ``allow_mainnet``; a fee above the limit),
        ``FundsMissing``, ``AnchorPending`` (sent, and the time is up), ``RpcUnavailable`` (nothing is under way, and the
        time is up), ``RpcRejected``, and what the book raises.
        """
        async with self._one_at_a_time:
            terms = _Terms(max_fee_lamports, commitment, allow_mainnet, dry_run)
            return await _Flush(self._book, rpc, key, target, terms, self._timing, self._now, progress).run()


class _Terms(NamedTuple):
    max_fee_lamports: int
    commitment: Settled
    allow_mainnet: bool
    dry_run: bool


class _Flush:
    def __init__(
        self,
        book: AnchorBook,
        rpc: RpcClient,
        key: PayerKey,
        target: Target,
        terms: _Terms,
        timing: Timing,
        now: Callable[[], int],
        progress: Callable[[Progress], None],
    ) -> None:
        self._book = book
        self._rpc = rpc
        self._key = key
        self._target = target
        self._terms = terms
        self._now = now
        self._progress = progress
        self._patience = Patience(timing, self._trouble)
        self._problem = ""
        self._genesis = ""
        #: What the book has of this chain, by id.
        self._anchors: dict[str, Anchor] = {}
        self._settled: list[Anchor] = []
        self._failures = 0
        self._airdropped = False

    async def run(self) -> FlushResult:
        self._say("looking", f"Asking {self._rpc.cluster.host} what it knows")
        self._genesis = await self._patience.ask(self._rpc.genesis_hash)
        check_genesis(self._rpc.cluster, self._genesis)
        check_money(self._rpc.cluster, self._genesis, allow_mainnet=self._terms.allow_mainnet)
        check_note_size(self._target.note)
        self._anchors = {anchor.id: anchor for anchor in await self._book.anchors() if anchor.genesis == self._genesis}

        while True:
            plan = self._planned()
            if plan is not None and not self._terms.dry_run and _may_land(plan):
                if self._is_own(plan):
                    await self._check_against_log(plan.tree_size, bytes.fromhex(plan.root), "The book")
                await self._watch(plan)
                continue
            if self._settled and plan is None and self._standing() == self._target.tree_size:
                break  # the chain was looked at before this anchor was signed
            await self._take_up_forgotten()
            plan = self._next_plan()
            if plan is None:
                break
            fee = await self._estimate(plan)
            if self._terms.dry_run:
                return self._estimated(plan, fee)
            await self._sign(plan, fee)
        return self._result()

    # what the book and the chain know

    def _planned(self) -> Anchor | None:
        """What was begun, the oldest first; one that may still land before others."""
        planned = [anchor for anchor in self._anchors.values() if anchor.state == "planned"]
        return next((anchor for anchor in planned if _may_land(anchor)), planned[0] if planned else None)

    def _newest(self) -> Anchor | None:
        """The largest state of this log that the book has on this chain."""
        anchored = [anchor for anchor in self._anchors.values() if anchor.state == "anchored"]
        anchored.sort(key=lambda anchor: anchor.tree_size, reverse=True)
        return next((anchor for anchor in anchored if self._is_own(anchor)), None)

    def _standing(self) -> int:
        newest = self._newest()
        return 0 if newest is None else newest.tree_size

    def _is_own(self, anchor: Anchor) -> bool:
        """Whether it is of this log, and not of one that had another name or key."""
        return self._read(anchor.note.encode()) is not None

    def _read(self, note: bytes) -> LogState | None:
        if note.partition(b"\n")[0] != self._target.origin.encode():
            return None
        try:
            return self._target.open_note(note)
        except VerificationFailed:
            return None

    async def _check_against_log(self, size: int, root: bytes, who: str) -> None:
        """Raises ``AnchorRefused`` unless the log has been in this state."""
        if size > self._target.tree_size:
            raise AnchorRefused(
                f"{who} has an anchor of {size} receipts of {self._target.origin}; the log here has only "
                f"{self._target.tree_size}.",
                hint="Receipts are missing here: was an older copy of the database put back? Anchor from the home folder "
                "that has them all.",
            )
        if await self._target.root_at(size) != root:
            raise AnchorRefused(
                f"{who} has an anchor of {self._target.origin} whose first {size} receipts are not those of the log here.",
                hint="Two histories have been written under one name. Find out which is the true one; the other must go on "
                "under a new name.",
            )

    async def _take_up_forgotten(self) -> None:
        """Record own anchors that the chain has and the book has not. Raises ``AnchorRefused`` for contradictions."""
        newest = self._newest()
        if newest is not None:
            await self._check_against_log(newest.tree_size, bytes.fromhex(newest.root), "The book")
        payers = {anchor.fee_payer for anchor in self._anchors.values()} | {self._key.address}
        for payer in sorted(payers):
            for post in await self._forgotten(payer):
                state = self._read(post.memos[0]) if len(post.memos) == 1 else None
                if state is None:
                    continue
                await self._check_against_log(state.size, state.root, "The chain")
                if not any(
                    anchor.state == "anchored" and anchor.tree_size == state.size and self._is_own(anchor)
                    for anchor in self._anchors.values()
                ):
                    await self._adopt(post, state)

    async def _forgotten(self, payer: str) -> list[Post]:
        """What the address has posted and the book has not, once the chain cannot forget it any more."""
        anchored = [
            anchor for anchor in self._anchors.values() if anchor.state == "anchored" and anchor.fee_payer == payer
        ]
        known = {anchor.signature for anchor in anchored}
        last = max(anchored, key=lambda anchor: anchor.slot, default=None)
        while True:
            history = await read_history(
                self._rpc,
                payer,
                "confirmed",
                self._patience,
                until=None if last is None else last.signature,
                known=known,
                min_slot=0 if last is None else last.slot,
            )
            unsettled = [post for post in history.posts if not post.is_final and self._read(post.memos[0]) is not None]
            if not unsettled:
                return list(history.posts)
            self._say("waiting", f"An anchor that is not in the book, {unsettled[0].signature}, is not final yet")
            if self._patience.is_over:
                raise RpcUnavailable(
                    f"An anchor that is not in the book, {unsettled[0].signature}, is not final yet.",
                    hint="Run trustgate anchor flush again.",
                )
            await self._patience.pause(self._patience.timing.poll_s)

    async def _adopt(self, post: Post, state: LogState) -> None:
        """Record a found anchor: as the end of what was begun, if that is this state or one that it overtook."""
        plan = self._planned()
        if plan is None or (self._is_own(plan) and plan.tree_size > state.size):
            plan = self._blank(state, post.memos[0])
        raw = post.transaction.raw
        height = max((attempt.last_valid_block_height for attempt in plan.attempts), default=0)
        others = tuple(attempt for attempt in plan.attempts if attempt.signature != post.signature)
        found = AnchorAttempt(
            signature=post.signature,
            transaction=raw,
            last_valid_block_height=height,
            created_us=self._now(),
            outcome="final",
            detail="found on the chain",
        )
        await self._record_settled(
            replace(
                plan,
                tree_size=state.size,
                root=state.root.hex(),
                note=post.memos[0].decode(),
                fee_payer=post.transaction.fee_payer,
                attempts=(*others, found),
            ),
            signature=post.signature,
            slot=post.slot,
            fee_lamports=post.fee_lamports,
            block_time_s=post.block_time_s,
        )

    # from a plan to an anchor

    def _next_plan(self) -> Anchor | None:
        """What to post now: what was begun, else the log's state; None where it stands on the chain already."""
        standing = self._standing()
        plan = self._planned()
        if plan is not None and self._is_own(plan) and standing < plan.tree_size <= self._target.tree_size:
            return plan
        if self._target.tree_size <= standing:
            return None
        blank = self._blank(self._target_state(), self._target.note)
        # What was begun under another name of the log, or was overtaken, and cannot land: its place is taken.
        return blank if plan is None else replace(blank, id=plan.id, attempts=plan.attempts)

    def _target_state(self) -> LogState:
        return _State(self._target.tree_size, self._target.root)

    def _blank(self, state: LogState, note: bytes) -> Anchor:
        now = self._now()
        return Anchor(
            id=new_id("anchor", now),
            genesis=self._genesis,
            fee_payer=self._key.address,
            tree_size=state.size,
            root=state.root.hex(),
            note=note.decode(),
            created_us=now,
        )

    async def _estimate(self, plan: Anchor) -> Fee:
        """The fee, for which there is money. Raises ``FundsMissing``."""
        await self._check_against_log(plan.tree_size, bytes.fromhex(plan.root), "The book")
        self._say("looking", "Asking what a transaction costs")
        rent = await self._patience.ask(self._rpc.rent_minimum)
        address = self._key.address
        held = await self._patience.ask(lambda: self._rpc.balance(address))
        most = self._terms.max_fee_lamports
        if held < rent + min(most, 5_000):
            held = await self._fund(held, rent + most)
        fee = await self._patience.ask(lambda: estimate(self._rpc, address, plan.note.encode(), max_fee_lamports=most))
        if held < rent + fee.lamports:
            held = await self._fund(held, rent + fee.lamports)
        return fee
