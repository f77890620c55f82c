"""The history of an address: the memos of the transactions that it paid for, and one transaction among others.

Any party can make a transaction that names an address, so what counts is who paid; the signatures are checked here,
over the bytes that the node gave. A memo is read from the instruction, never from logs, whose form changes. A memo's
content is for the caller to judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

from trustgate.errors import RpcRejected, RpcUnavailable, VerificationFailed
from trustgate.formats.solana_transaction import SIGNATURE_BYTES, Transaction, b58encode, read_transaction
from trustgate.net.retry_budget import RetryBudget

if TYPE_CHECKING:
    from trustgate.solana.rpc import Commitment, Mention, RpcClient

#: The history is not read further back than this; at an anchor a minute it is two years.
_MOST_MENTIONS: Final = 1_000_000
#: Transactions looked through for one.
_MOST_READ: Final = 2_000
#: Transactions asked for at a time. Public nodes answer some four a second.
_AT_A_TIME: Final = 4
#: What a node answers for a transaction of a version that was not asked for.
_VERSION_UNSUPPORTED: Final = -32015


class Post(NamedTuple):
    """A transaction that the address paid for, and that succeeded."""

    transaction: Transaction
    slot: int
    fee_lamports: int
    #: Seconds since the epoch; None where the node does not know.
    block_time_s: int | None
    #: False while the chain can still drop it.
    is_final: bool

    @property
    def signature(self) -> str:
        return self.transaction.signature

    @property
    def memos(self) -> tuple[bytes, ...]:
        return self.transaction.memos


class History(NamedTuple):
    #: Oldest first, those with a memo.
    posts: tuple[Post, ...]
    #: Transactions of the address that landed with an error, and did nothing but cost their fee.
    failed: int


async def read_history(
    rpc: RpcClient,
    address: str,
    commitment: Commitment,
    retry_budget: RetryBudget,
    *,
    until: str | None = None,
    min_slot: int = 0,
) -> History:
    """Returns what ``address`` has posted after the transaction ``until``; None: all of it.

    Raises ``RpcUnavailable``, also for transactions that do not hold together: they are the node's invention.
    """
    mentions = [
        mention async for page in _pages(rpc, address, commitment, retry_budget, until, min_slot) for mention in page
    ]
    mentions.reverse()
    posts: list[Post] = []
    failed = 0
    for start in range(0, len(mentions), _AT_A_TIME):
        some = mentions[start : start + _AT_A_TIME]
        found = await asyncio.gather(
            *(_read(rpc, address, mention, commitment, retry_budget) for mention in some), return_exceptions=True
        )
        for mention, post in zip(some, found, strict=True):
            if isinstance(post, BaseException):
                raise post
            if post is not None and mention.err is not None:
                failed += 1
            elif post is not None and post.memos:
                posts.append(post)
    return History(tuple(posts), failed)


async def find_mention(rpc: RpcClient, address: str, signature: str, *, min_slot: int, until: str | None) -> bool:
    """Returns whether the history of an address, as of ``min_slot`` or later, has a transaction, final or not.

    It is read back to the transaction ``until``, which is known to be older. Raises ``RpcUnavailable`` at the first
    page that does not come: an answer of half the history is none.
    """
    async for page in _pages(rpc, address, "confirmed", None, until, min_slot):
        if any(mention.signature == signature for mention in page):
            return True
    return False


async def find_message(rpc: RpcClient, address: str, message: bytes, *, since_s: int, min_slot: int) -> str | None:
    """Returns the signature of the transaction with this message in the history of an address, as of ``min_slot`` or
    later.

    None where there is none since then (seconds since the epoch). Raises ``RpcUnavailable``, also where more happened
    at the address than can be looked through.
    """
    seen = 0
    async for page in _pages(rpc, address, "confirmed", None, None, min_slot):
        recent = [mention for mention in page if mention.block_time is None or mention.block_time >= since_s]
        seen += len(recent)
        if seen > _MOST_READ:
            raise RpcUnavailable(f"More than {_MOST_READ} transactions of {address} would have to be read.")
        for start in range(0, len(recent), _AT_A_TIME):
            some = [mention.signature for mention in recent[start : start + _AT_A_TIME]]
            for signature, found in zip(some, await asyncio.gather(*(_message(rpc, s) for s in some)), strict=True):
                if found == message:
                    return signature
        if len(recent) < len(page):
            return None
    return None


async def _message(rpc: RpcClient, signature: str) -> bytes | None:
    """Returns what was signed; None for a transaction of a kind that no payment is."""
    try:
        landed = await rpc.transaction(signature, "confirmed")
        if landed is None:
            raise RpcUnavailable(f"The RPC node {rpc.cluster.host} lists {signature}, but does not return it.")
        # The first signature stands after a count of one byte.
        if b58encode(landed.raw[1 : 1 + SIGNATURE_BYTES]) != signature:
            raise RpcUnavailable(f"The RPC node {rpc.cluster.host} lists {signature}, but returns another transaction.")
        return read_transaction(landed.raw).message
    except RpcRejected as error:
        if error.rpc_code == _VERSION_UNSUPPORTED:
            return None
        raise
    except VerificationFailed:
        return None


async def _pages(
    rpc: RpcClient,
    address: str,
    commitment: Commitment,
    retry_budget: RetryBudget | None,
    until: str | None,
    min_slot: int,
) -> AsyncIterator[list[Mention]]:
    """Returns the history page by page, newest first."""
    seen = 0
    last: Mention | None = None
    while True:
        before = None if last is None else last.signature

        async def ask(before: str | None = before) -> list[Mention]:
            return await rpc.mentions(address, commitment, before=before, until=until, min_slot=min_slot)

        page = await (ask() if retry_budget is None else retry_budget.ask(ask))
        if not page:
            return
        # A node that gives the same page again, or a later one, would be asked for ever.
        if last is not None and (page[0].slot > last.slot or any(m.signature == last.signature for m in page)):
            raise RpcUnavailable(f"The RPC node {rpc.cluster.host} gives the history of {address} out of order.")
        yield page
        seen += len(page)
        if seen > _MOST_MENTIONS:
            raise RpcUnavailable(
                f"The history of {address} has more than {_MOST_MENTIONS:,} transactions.",
                hint="Others flood the address. Anchor with another key: trustgate anchor keygen --keypair FILE.",
            )
        last = page[-1]


async def _read(
    rpc: RpcClient, address: str, mention: Mention, commitment: Commitment, retry_budget: RetryBudget
) -> Post | None:
    """Returns the transaction; None where another paid for it."""

    async def ask() -> Post | None:
        try:
            landed = await rpc.transaction(mention.signature, commitment)
        except RpcRejected as error:
            if error.rpc_code == _VERSION_UNSUPPORTED:
                return None
            raise
        if landed is None:
            raise _unfit(rpc, mention, "does not return it: a node that keeps the whole history is needed")
        if (landed.err is None) != (mention.err is None):
            raise _unfit(rpc, mention, "contradicts itself on whether it failed")
        # The first signature stands after a count of one byte.
        if b58encode(landed.raw[1 : 1 + SIGNATURE_BYTES]) != mention.signature:
            raise _unfit(rpc, mention, "returns another transaction")
        try:
            transaction = read_transaction(landed.raw)
        except VerificationFailed:
            return None  # of a kind that this program does not sign: any party may name the address in one
        if transaction.fee_payer != address:
            return None
        try:
            transaction.verify_signatures()
        except VerificationFailed:
            raise _unfit(rpc, mention, "returns it with an invalid signature") from None
        return Post(
            transaction=transaction,
            slot=landed.slot,
            fee_lamports=landed.fee_lamports,
            block_time_s=landed.block_time_s,
            is_final=mention.confirmation_status in (None, "finalized"),
        )

    return await retry_budget.ask(ask)


def _unfit(rpc: RpcClient, mention: Mention, what: str) -> RpcUnavailable:
    return RpcUnavailable(
        f"The RPC node {rpc.cluster.host} lists the transaction {mention.signature}, but {what}.",
        hint="Use another node: --rpc URL.",
    )
