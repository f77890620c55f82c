"""The status of a signed transaction, on which anchors and payments depend.

A node may lag, may be wrong, may be several nodes behind one address. So "it did not land" is accepted only when
nothing else is possible: the *finalized* height is past the last block that could take it, and a look made *after*
that, by a node that is as far, finds it neither by its signature nor in the history of the address that paid. And "it
landed" is accepted when the node returns it, byte for byte. Everything in between means: wait, and send the same bytes
again. Signing anew on any lesser doubt posts twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from trustgate.errors import RpcUnavailable, VerificationFailed
from trustgate.formats.solana_transaction import read_transaction
from trustgate.solana.history import find_mention
from trustgate.types import AnchorAttempt

if TYPE_CHECKING:
    from trustgate.solana.rpc import Commitment, LandedTransaction, RpcClient, SignatureStatus


class TransactionStatus(NamedTuple):
    """``missing``: its status is unknown, and it may still land. ``seen``: in a block that is not settled enough yet.
    ``landed``: done. ``failed``: in a finalized block, with an error. ``gone``: it did not land, and it never will.
    """

    state: Literal["missing", "seen", "landed", "failed", "gone"]
    #: Of landed and failed ones.
    landed: LandedTransaction | None = None
    #: For people.
    detail: str = ""


async def look(
    rpc: RpcClient, attempt: AnchorAttempt, commitment: Commitment, *, after: str | None = None
) -> TransactionStatus:
    """Returns what has become of it by now. ``after`` is an older transaction of the same fee payer, if one is known.

    Raises ``RpcUnavailable``, also where the node contradicts itself."""
    tip = await rpc.epoch_info("finalized")
    answer = await rpc.signature_status(attempt.signature)
    status = answer.status
    own = read_transaction(attempt.transaction)
    if status is not None:
        return await look_closer(rpc, attempt.signature, own.message, commitment, status)
    if tip.block_height <= attempt.last_valid_block_height:
        left = attempt.last_valid_block_height - tip.block_height
        return TransactionStatus("missing", detail=f"not in a block yet; it can be for {left} blocks more")
    if answer.slot < tip.absolute_slot:
        raise _contradiction(rpc, "reports an older state than before: it lags behind")
    if await find_mention(rpc, own.fee_payer, attempt.signature, min_slot=tip.absolute_slot, until=after):
        raise _contradiction(rpc, "lists the transaction in the history of its address, but does not know its status")
    return TransactionStatus("gone", detail=f"its blockhash expired at block {attempt.last_valid_block_height}")


async def look_closer(
    rpc: RpcClient, signature: str, message: bytes, commitment: Commitment, status: SignatureStatus
) -> TransactionStatus:
    """Returns what has become of a transaction that a node knows: ``seen``, ``landed`` or ``failed``.

    ``message`` is what was signed. Raises ``RpcUnavailable`` where the node contradicts itself.
    """
    needed: Commitment = commitment if status.err is None else "finalized"
    if not status.has_reached(needed):
        reached = status.confirmation_status or "processed"
        return TransactionStatus("seen", detail=f"{reached} in slot {status.slot}, waiting until it is {needed}")
    landed = await rpc.transaction(signature, needed)
    if landed is None:
        raise _contradiction(rpc, f"reports the transaction as {needed}, but does not return it")
    if not _is_same(landed.raw, signature, message):
        raise _contradiction(rpc, "returns another transaction for this signature")
    if (landed.err is None) != (status.err is None):
        raise _contradiction(rpc, "contradicts itself on whether the transaction failed")
    if landed.err is not None:
        return TransactionStatus("failed", landed, f"it failed: {str(landed.err)[:200]}")
    return TransactionStatus("landed", landed, f"{needed} in slot {landed.slot}")


def _is_same(raw: bytes, signature: str, message: bytes) -> bool:
    """Returns whether these are the bytes that were signed."""
    try:
        shown = read_transaction(raw)
    except VerificationFailed:
        return False
    return (shown.signature, shown.message) == (signature, message)


def _contradiction(rpc: RpcClient, what: str) -> RpcUnavailable:
    return RpcUnavailable(
        f"The RPC node {rpc.cluster.host} {what}.", hint="Try again later, or use another: --rpc URL."
    )
