"""Checking the anchors of a log from chain data, without trust in what the log has recorded of them.

Owns what it means that the anchors of a log are in order: every transaction of the address that claims to carry a
checkpoint of the log does carry one, signed by the log; each covers more than the one before; and the log itself has
that root. That a chain has exactly the transaction of a bundle is checked here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trustgate.errors import RpcUnavailable, VerificationFailed
from trustgate.formats.solana_transaction import Transaction, read_transaction
from trustgate.net.retry_budget import RetryBudget, RetryTiming
from trustgate.solana.clusters import check_genesis, cluster_name
from trustgate.solana.history import Post, read_history
from trustgate.solana.log_status import AnchorTarget, LogState
from trustgate.solana.reports import AnchorFinding

if TYPE_CHECKING:
    from trustgate.solana.rpc import RpcClient

#: How long a node may take for all of it; a public one answers some four calls a second.
_TIMEOUT_S = 3600.0
#: How long to look for one transaction.
_FIND_TIMEOUT_S = 30.0


class ChainAudit(NamedTuple):
    """Every anchor of a log by one address, the oldest first.

    Of an invalid checkpoint, ``tree_size`` is 0 and ``root`` empty.
    """

    #: Hash of the genesis block, and what the cluster is called.
    genesis: str
    cluster: str
    findings: tuple[AnchorFinding, ...]
    #: Transactions of the address with memos that do not claim to be of this log.
    other_memos: int
    #: Transactions of the address that landed and failed: they prove nothing, and contradict nothing.
    failed: int


async def verify_chain(
    rpc: RpcClient, address: str, log: AnchorTarget, *, timing: RetryTiming | None = None
) -> ChainAudit:
    """Check every finalized anchor of the log that ``address`` has paid for.

    What does not hold is in the answer, not raised. Raises ``RpcUnavailable``, ``RpcRejected``, and ``AnchorRefused``
    where the node is not of the cluster that it is named as.
    """
    # A node that cannot be reached at all is not waited for as long as one that stops to answer amid a long history.
    begin = RetryBudget(RetryTiming(timeout_s=_FIND_TIMEOUT_S) if timing is None else timing, _ignore)
    genesis = await begin.ask(rpc.genesis_hash)
    check_genesis(rpc.cluster, genesis)
    retry_budget = RetryBudget(RetryTiming(timeout_s=_TIMEOUT_S) if timing is None else timing, _ignore)
    history = await read_history(rpc, address, "finalized", retry_budget)
    claims = [post for post in history.posts if any(_claims(memo, log.origin) for memo in post.memos)]
    findings: list[AnchorFinding] = []
    largest = 0
    roots: dict[int, bytes] = {}
    for post in claims:
        try:
            state = _read(post, log)
        except VerificationFailed as error:
            findings.append(_finding(post, 0, "", error.message))
            continue
        problem = _order_problem(state, largest, roots) or await _log_problem(state, log)
        findings.append(_finding(post, state.size, state.root.hex(), problem))
        roots.setdefault(state.size, state.root)
        largest = max(largest, state.size)
    return ChainAudit(
        genesis=genesis,
        cluster=cluster_name(genesis),
        findings=tuple(findings),
        other_memos=len(history.posts) - len(claims),
        failed=history.failed,
    )


async def verify_on_chain(rpc: RpcClient, transaction: Transaction, *, timing: RetryTiming | None = None) -> str:
    """Ask a cluster for a transaction; returns a sentence on where it stands.

    Raises ``VerificationFailed`` unless the cluster has finalized just this transaction, to the byte of what was
    signed, and it succeeded; ``ChainError`` where the cluster cannot be asked.
    """
    retry_budget = RetryBudget(RetryTiming(timeout_s=_FIND_TIMEOUT_S) if timing is None else timing, _ignore)
    genesis = await retry_budget.ask(rpc.genesis_hash)
    check_genesis(rpc.cluster, genesis)
    cluster = cluster_name(genesis)
    where = f"a private chain, at {rpc.cluster.host}" if cluster == "local" else cluster
    signature = transaction.signature
    landed = await retry_budget.ask(lambda: rpc.transaction(signature, "finalized"))
    if landed is None:
        raise VerificationFailed(
            f"The transaction {signature} is not on {where}, or not finalized there.",
            hint="Ask the cluster that the anchor is on, and a node that keeps the whole history: --rpc URL.",
        )
    try:
        shown = read_transaction(landed.raw)
        if (shown.signature, shown.message) != (signature, transaction.message):
            raise VerificationFailed("it is another")
    except VerificationFailed as error:
        raise VerificationFailed(
            f"The transaction {signature} on {where} is not the one of the bundle: {error.message}"
        ) from None
    if landed.err is not None:
        raise VerificationFailed(f"The transaction {signature} landed on {where} and failed, so it posted nothing.")
    return f"Finalized on {where} in slot {landed.slot}, to the byte."


def _read(post: Post, log: AnchorTarget) -> LogState:
    """Returns the log's state in the post. Raises ``VerificationFailed`` where it is invalid."""
    if len(post.memos) != 1:
        raise VerificationFailed(f"It carries {len(post.memos)} memos, and an anchor carries one.")
    try:
        return log.open_note(post.memos[0])
    except VerificationFailed as error:
        raise VerificationFailed(f"Its memo names {log.origin}, but is not of that log: {error.message}") from None


def _finding(post: Post, size: int, root: str, problem: str) -> AnchorFinding:
    return AnchorFinding(signature=post.signature, slot=post.slot, tree_size=size, root=root, problem=problem)


def _order_problem(state: LogState, largest: int, roots: dict[int, bytes]) -> str:
    """Returns what is wrong with a state after those before it; "" for nothing."""
    if roots.get(state.size, state.root) != state.root:
        return f"An earlier anchor has another root for the same {state.size} receipts: the log was rewritten."
    if state.size in roots:
        return f"An earlier anchor has the same {state.size} receipts already."
    if state.size < largest:
        return f"An earlier anchor has {largest} receipts already: the log has become shorter."
    return ""


async def _log_problem(state: LogState, log: AnchorTarget) -> str:
    """Returns what is wrong with a state, for the log here; "" for nothing."""
    if state.size > log.tree_size:
        return f"It has {state.size} receipts, but the log here only {log.tree_size}."
    if await log.root_at(state.size) != state.root:
        return f"The first {state.size} receipts of the log here have another root."
    return ""


def _claims(memo: bytes, origin: str) -> bool:
    """Returns whether a memo begins as a checkpoint of the log does."""
    return memo.partition(b"\n")[0] == origin.encode()


def _ignore(_: RpcUnavailable) -> None:
    """Take no notice: it is asked again, and raised when the time is up."""
