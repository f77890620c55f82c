"""Anchoring: one transaction for a state of the log, never two, whatever crashes and whatever the node does.

Owns the state machine. What it does is recorded before it is done:

    look at the chain     refuse what contradicts the log; take up own anchors that the database lacks
    record planned        size, root and note
    record the attempt    signature, bytes, the last block height that takes it; then send
    wait                  look what became of it (``transaction_status``); the same bytes again while it is unknown
    record anchored       or failed, or expired: then look at the chain again, and sign anew

So there is never more than one signed transaction that may still land, it is in the database before it leaves the
process, and another is signed only when it can never land. Every failure in between only delays. The caller keeps other
processes away from the database (the store's lock does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec.structs import replace

from trustgate.errors import AnchorPending, ChainError, FundsMissing, RpcRejected, RpcUnavailable
from trustgate.formats.solana_transaction import read_transaction
from trustgate.ids import now_us
from trustgate.net.retry_budget import RetryBudget, RetryTiming
from trustgate.solana.clusters import check_genesis, check_money, cluster_name, explorer_url, funding_hint, is_public
from trustgate.solana.keypair import PayerKey
from trustgate.solana.log_status import AnchorBook, AnchoringStatus, AnchorTarget, LogState, open_attempt
from trustgate.solana.memo import BASE_FEE_LAMPORTS, Fee, check_fee_limit, check_note_size, estimate, sign_memo
from trustgate.solana.transaction_status import TransactionStatus, look
from trustgate.types import Anchor, AnchorAttempt

if TYPE_CHECKING:
    from trustgate.solana.rpc import Blockhash, RpcClient

__all__ = [
    "AnchorBook",
    "AnchorTarget",
    "Anchorer",
    "FlushProgress",
    "FlushResult",
    "LogState",
    "RetryTiming",
    "Settled",
]

#: A blockhash is good for so many blocks (Solana: MAX_PROCESSING_AGE).
BLOCKHASH_AGE_BLOCKS: Final = 150
#: How often in a row a transaction must be found to have expired: one answer may be wrong.
_GONE_LOOKS: Final = 2
#: A transaction that lands and fails costs its fee: after so many in one flush a person should look.
_MOST_FAILURES: Final = 3
_LAMPORTS_PER_SOL: Final = 1_000_000_000

#: How long a node may take to answer at all.
_FIRST_ANSWER_S: Final = 15.0

Settled = Literal["confirmed", "finalized"]


class FlushProgress(NamedTuple):
    """Where a flush is. ``text`` is for people, a sentence without its full stop."""

    stage: Literal["looking", "funding", "sending", "waiting", "trouble"]
    text: str


class FlushResult(NamedTuple):
    """``anchored``: something was posted, by this flush or by one that did not get to record it."""

    anchored: bool
    dry_run: bool
    #: The log's state on the chain: leaves, and the root in 64 hexadecimal digits. Of a dry run: what would be posted.
    tree_size: int
    root: str
    #: Hash of the genesis block, and what the cluster is called.
    genesis: str
    cluster: str
    fee_payer: str
    #: Of the transaction that carries the state; of a dry run an estimate.
    fee_lamports: int = 0
    #: "" and 0 where there is no transaction.
    signature: str = ""
    slot: int = 0
    explorer: str = ""
    #: Every anchor that this flush has recorded as settled, in that order.
    anchors: tuple[Anchor, ...] = ()


def ignore(_: FlushProgress) -> None:
    """Take no notice of progress."""


class Anchorer:
    """Flushes to one book, one at a time."""

    def __init__(self, book: AnchorBook, *, timing: RetryTiming | None = None, now: Callable[[], int] = now_us) -> None:
        """``now`` gives the time in microseconds UTC, for the records."""
        self._book = book
        self._timing = RetryTiming() if timing is None else timing
        self._now = now
        self._one_at_a_time = asyncio.Lock()

    async def flush(
        self,
        rpc: RpcClient,
        key: PayerKey,
        target: AnchorTarget,
        *,
        max_fee_lamports: int,
        commitment: Settled = "finalized",
        allow_mainnet: bool = False,
        dry_run: bool = False,
        progress: Callable[[FlushProgress], None] = ignore,
    ) -> FlushResult:
        """Bring the log's state onto the chain, and say how it stands there. Interrupted, the next flush goes on.

        What was begun is finished first, even if the log has grown since; then its present state follows. ``dry_run``
        looks, checks the funds and simulates, but records and sends nothing. Raises ``AnchorRefused`` (the chain
        contradicts the log; real money without ``allow_mainnet``; a fee above the limit), ``FundsMissing``,
        ``AnchorPending`` (a transaction is under way, and the time is up), ``RpcUnavailable`` (none is, and the time is
        up), ``RpcRejected``, and what the book raises.
        """
        terms = _Terms(max_fee_lamports, commitment, allow_mainnet, dry_run)
        async with self._one_at_a_time:
            check_note_size(target.note)
            check_fee_limit(max_fee_lamports)
            flush = _Flush(rpc, key, target, terms, self._timing, self._now, progress)
            return await flush.run(self._book)


class _Terms(NamedTuple):
    max_fee_lamports: int
    commitment: Settled
    allow_mainnet: bool
    dry_run: bool


class _Flush:
    """One flush, from looking to the end."""

    _genesis: str
    _log_status: AnchoringStatus

    def __init__(
        self,
        rpc: RpcClient,
        key: PayerKey,
        target: AnchorTarget,
        terms: _Terms,
        timing: RetryTiming,
        now: Callable[[], int],
        progress: Callable[[FlushProgress], None],
    ) -> None:
        self._rpc = rpc
        self._key = key
        self._target = target
        self._terms = terms
        self._now = now
        self._progress = progress
        self._retry_budget = RetryBudget(timing, self._trouble)
        #: What went wrong last, for the message when the time is up.
        self._problem = ""
        self._sent_at = float("-inf")
        self._failures = 0

    async def run(self, book: AnchorBook) -> FlushResult:
        self._say("looking", f"Reading the anchors on the chain from {self._rpc.cluster.host}")
        # Nothing is under way yet that would be worth a long wait: a wrong address should be reported soon.
        timing = self._retry_budget.timing
        first = RetryBudget(timing._replace(timeout_s=min(timing.timeout_s, _FIRST_ANSWER_S)), self._trouble)
        self._genesis = await first.ask(self._rpc.genesis_hash)
        check_genesis(self._rpc.cluster, self._genesis)
        check_money(self._rpc.cluster, self._genesis, allow_mainnet=self._terms.allow_mainnet)
        self._log_status = log_status = await AnchoringStatus.load(book, self._target, self._genesis, self._now)
        await log_status.check_book()
        while True:
            if not self._terms.dry_run and (anchor := log_status.under_way()) is not None:
                await self._settle(anchor)
                continue
            if (
                log_status.settled
                and log_status.planned() is None
                and log_status.anchored_size == self._target.tree_size
            ):
                return self._result()
            await log_status.take_up_forgotten(
                self._rpc, self._key.address, self._retry_budget, self._wait, record=not self._terms.dry_run
            )
            plan = log_status.next_plan(self._key.address)
            if plan is None:
                return self._result()
            fee = await self._estimate(plan)
            if self._terms.dry_run:
                return self._forecast(plan, fee)
            await self._post(plan, fee)

    # what it costs

    async def _estimate(self, plan: Anchor) -> Fee:
        """Returns the fee, for which there is money. Raises ``FundsMissing``."""
        self._say("looking", "Reading the fee of a transaction")
        kept = await self._retry_budget.ask(self._rpc.rent_minimum)
        await self._fund(kept, BASE_FEE_LAMPORTS)
        fee = await self._retry_budget.ask(
            lambda: estimate(
                self._rpc, self._key.address, plan.note.encode(), max_fee_lamports=self._terms.max_fee_lamports
            )
        )
        await self._fund(kept, fee.lamports)
        return fee

    async def _fund(self, kept: int, fee: int) -> None:
        """See to it that the address can pay the fee, and then still holds ``kept`` lamports, as every account must."""
        address = self._key.address
        held = await self._retry_budget.ask(lambda: self._rpc.balance(address))
        if held < kept + fee and not is_public(self._genesis) and not self._terms.dry_run:
            held = await self._airdropped(kept + fee)
        if held < kept + fee:
            missing = kept + fee - held
            raise FundsMissing(
                f"{address} lacks {missing:,} lamports ({missing / _LAMPORTS_PER_SOL:.9f} SOL): it holds {held:,}, an "
                f"anchor costs {fee:,}, and {kept:,} must stay on every account.",
                hint=funding_hint(address, self._genesis, self._rpc.cluster.url),
            )

    async def _airdropped(self, needed: int) -> int:
        """Ask a private chain for coins; what the address holds then, lamports."""
        address = self._key.address
        self._say("funding", f"Requesting 1 SOL from the local chain for {address}")
        try:
            await self._retry_budget.ask(lambda: self._rpc.request_airdrop(address, _LAMPORTS_PER_SOL))
        except RpcRejected as error:
            self._trouble(error)
            return await self._retry_budget.ask(lambda: self._rpc.balance(address))
        while True:
            held = await self._retry_budget.ask(lambda: self._rpc.balance(address))
            if held >= needed or self._retry_budget.is_over:
                return held
            await self._wait("The coins have not arrived yet")

    # one transaction

    async def _post(self, plan: Anchor, fee: Fee) -> None:
        """Sign a transaction, record it, and send it for the first time."""
        await self._log_status.save(plan)
        self._say("sending", f"Anchoring {plan.tree_size:,} receipts for {fee.lamports:,} lamports")
        blockhash = await self._retry_budget.ask(self._blockhash)
        raw = sign_memo(self._key, plan.note.encode(), blockhash.blockhash, fee)
        attempt = AnchorAttempt(
            signature=read_transaction(raw).signature,
            transaction=raw,
            last_valid_block_height=blockhash.last_valid_block_height,
            created_us=self._now(),
        )
        await self._log_status.save_attempt(plan, attempt)
        await self._send(attempt, preflight=True)

    async def _blockhash(self) -> Blockhash:
        """Returns a confirmed blockhash, and the height past which it cannot be good any more, whatever the node
        reports.
        """
        found = await self._rpc.latest_blockhash()
        height = (await self._rpc.epoch_info("confirmed")).block_height
        latest = height + BLOCKHASH_AGE_BLOCKS
        if not height < found.last_valid_block_height <= latest + BLOCKHASH_AGE_BLOCKS:
            raise RpcUnavailable(
                f"The RPC node {self._rpc.cluster.host} gives a blockhash that is good up to block "
                f"{found.last_valid_block_height}, at block {height}.",
                hint="It lags behind. Try again later, or use another: --rpc URL.",
            )
        return replace(found, last_valid_block_height=max(found.last_valid_block_height, latest))

    async def _send(self, attempt: AnchorAttempt, *, preflight: bool) -> None:
        """Hand the bytes over. That this fails proves nothing: what became of them is looked up."""
        self._sent_at = self._retry_budget.now
        try:
            await self._rpc.send(attempt.transaction, preflight=preflight)
        except (RpcUnavailable, RpcRejected) as error:
            self._trouble(error)

    async def _settle(self, anchor: Anchor) -> None:
        """Wait for the anchor's transaction, and record what became of it. Raises ``AnchorPending``."""
        attempt = open_attempt(anchor)
        assert attempt is not None, "it is under way"
        last = self._log_status.last_of(read_transaction(attempt.transaction).fee_payer)
        gone = 0
        while True:
            pause_s = self._retry_budget.timing.poll_s
            try:
                status = await look(
                    self._rpc, attempt, self._terms.commitment, after=None if last is None else last.signature
                )
            except (RpcUnavailable, RpcRejected) as error:
                self._trouble(error)
                gone = 0
                pause_s = max(pause_s, getattr(error, "retry_after_s", None) or 0.0)
            else:
                gone = gone + 1 if status.state == "gone" else 0
                if status.state in ("landed", "failed") or gone == _GONE_LOOKS:
                    await self._record(anchor, attempt, status)
                    return
                self._say("waiting", f"The transaction is {status.detail}")
                if (
                    status.state == "missing"
                    and self._retry_budget.now - self._sent_at >= self._retry_budget.timing.resend_s
                ):
                    await self._send(attempt, preflight=False)
            if self._retry_budget.is_over:
                raise self._pending(anchor, attempt)
            await self._retry_budget.pause(pause_s)

    async def _record(self, anchor: Anchor, attempt: AnchorAttempt, status: TransactionStatus) -> None:
        if status.state == "landed":
            assert status.landed is not None, "what landed was shown"
            await self._log_status.save_landed(
                anchor,
                attempt,
                slot=status.landed.slot,
                fee_lamports=status.landed.fee_lamports,
                block_time_s=status.landed.block_time_s,
            )
            return
        outcome: Literal["failed", "expired"] = "failed" if status.state == "failed" else "expired"
        await self._log_status.save_attempt(anchor, replace(attempt, outcome=outcome, detail=status.detail))
        self._trouble_text(f"The transaction {attempt.signature}: {status.detail}")
        self._failures += status.state == "failed"
        if self._failures == _MOST_FAILURES:
            raise RpcRejected(
                f"{self._failures} transactions in a row landed and failed; of the last, {attempt.signature}: "
                f"{status.detail}.",
                hint="Each has cost its fee. Look at it in an explorer before the next flush.",
            )

    # what is said

    def _result(self) -> FlushResult:
        newest = self._log_status.newest()
        if newest is None:
            return self._report(self._target.tree_size, self._target.root.hex())
        return self._report(newest.tree_size, newest.root)._replace(
            anchored=bool(self._log_status.settled),
            fee_payer=newest.fee_payer,
            fee_lamports=newest.fee_lamports,
            signature=newest.signature,
            slot=newest.slot,
            explorer=explorer_url(newest.signature, self._genesis, self._rpc.cluster.url),
            anchors=tuple(self._log_status.settled),
        )

    def _forecast(self, plan: Anchor, fee: Fee) -> FlushResult:
        return self._report(plan.tree_size, plan.root)._replace(fee_lamports=fee.lamports)

    def _report(self, tree_size: int, root: str) -> FlushResult:
        return FlushResult(
            anchored=False,
            dry_run=self._terms.dry_run,
            tree_size=tree_size,
            root=root,
            genesis=self._genesis,
            cluster=cluster_name(self._genesis),
            fee_payer=self._key.address,
        )

    def _pending(self, anchor: Anchor, attempt: AnchorAttempt) -> AnchorPending:
        problem = f" The last problem: {self._problem}" if self._problem else ""
        return AnchorPending(
            f"The anchor of {anchor.tree_size:,} receipts is sent, but not {self._terms.commitment} within "
            f"{self._retry_budget.timing.timeout_s:g} s (transaction {attempt.signature}).{problem}",
            hint="Run trustgate anchor flush again: it continues with this transaction and does not post a second one.",
        )

    def _say(self, stage: Literal["looking", "funding", "sending", "waiting", "trouble"], text: str) -> None:
        self._progress(FlushProgress(stage, text))

    async def _wait(self, why: str) -> None:
        self._say("waiting", why)
        await self._retry_budget.pause(self._retry_budget.timing.poll_s)

    def _trouble(self, error: ChainError) -> None:
        self._trouble_text(error.message)

    def _trouble_text(self, text: str) -> None:
        self._problem = text
        self._say("trouble", text.rstrip("."))
