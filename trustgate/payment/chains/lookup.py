"""Looking up a payment of unknown outcome on its chain.

"It did not move" is accepted only when it no longer can, and a look made after that finds nothing. Until then it is
``unknown``, however long that takes.

    Solana  found by its signature where that was recorded, else in the history of the account that the tokens come
            from, by its message: the fee payer's signature is not known, and can be any. It can no longer land when
            its blockhash is too old for the newest finalized block. A node answers "not valid" for a hash that is newer
            than that block, too; so the block must have been made some time after the payment arrived, hash and all.
    EVM     the token knows whether an authorization was used. That alone is not a payment: its payer may have cancelled
            it, or used its nonce otherwise. So the transaction must be there, with the transfer in its log. It can no
            longer land when a block was made after its last second.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trustgate.errors import RpcUnavailable
from trustgate.formats.solana_transaction import SIGNATURE_BYTES, Transaction, b58decode, b58encode
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.interfaces import Settlement
from trustgate.payment.payment_key import (
    Authorization,
    authorization_of,
    inner_of,
    payer_of,
    token_source,
    transaction_of,
)
from trustgate.types import Payment

if TYPE_CHECKING:
    from trustgate.payment.chains.evm import Block, EvmReceipt, EvmRpc
    from trustgate.solana.rpc import RpcClient

#: By how much the clocks of a chain and of this machine may differ, seconds.
_CLOCKS_S: Final = 30
#: A payment cannot have been sent before it arrived; seconds, for the clocks and for payments that arrive late.
_BEFORE_S: Final = 300
#: Between two looks that must both find nothing.
_SECOND_LOOK_S: Final = 1.0
_SYSTEM_PROGRAM: Final = "1" * 32
_ADVANCE_NONCE: Final = b"\4\0\0\0"
#: Blocks asked for at a time, and how often; public nodes give no more at once.
_LOG_BLOCKS: Final = 1_000
_LOG_PAGES: Final = 50


class Chains:
    """The ``Chain`` of every network that the settings name a node for."""

    def __init__(self, nodes: Nodes, *, clocks_s: int = _CLOCKS_S, second_look_s: float = _SECOND_LOOK_S) -> None:
        self._nodes = nodes
        self._clocks_s = clocks_s
        self._second_look_s = second_look_s
        #: When payments that were looked at and have no end yet were made, at the latest, seconds since the epoch.
        self._made_s: dict[str, int] = {}

    async def outcome(self, payment: Payment) -> Settlement:
        """``settled`` and ``failed`` are final, ``unknown`` is "not yet". Raises ``ChainError`` when it cannot say."""
        payload = inner_of(payment.payload)
        payment = msgspec.structs.replace(payment, payer=payment.payer or payer_of(payload))
        look = self._on_solana if payment.offer.network.startswith("solana:") else self._on_evm
        settlement = await look(payment, payload)
        if settlement.outcome != "unknown":
            self._made_s.pop(payment.id, None)
        return settlement

    def _made_by_s(self, payment: Payment, chain_s: int | None = None) -> int:
        """Returns when the payment was made, at the latest: it bounds what is searched, and when it is too old to land.

        The clock may have run ahead when it was recorded, by hours: it was made before every later look at it. Of what
        this machine's clock and the chain's (``chain_s``, where it is known) say at a look, the later counts: the one
        may have been set back, the node of the other may lag.
        """
        made_s = self._made_s.get(payment.id, min(payment.created_us, payment.updated_us) // MICROSECONDS_PER_SECOND)
        if chain_s is not None:
            made_s = self._made_s[payment.id] = min(made_s, max(chain_s, now_us() // MICROSECONDS_PER_SECOND))
        return made_s

    async def close(self) -> None:
        """The caller closes the nodes."""

    # Solana

    async def _on_solana(self, payment: Payment, payload: dict[str, Any]) -> Settlement:
        transaction = transaction_of(payload)
        if transaction is None:
            return _unknown(payment, "the payload holds no transaction to look for")
        rpc = await self._nodes.solana(payment.offer.network)
        for last in (False, True):
            expired_since = await self._expired_since(rpc, payment, transaction)
            found = await self._look(rpc, payment, transaction, min_slot=expired_since or 0)
            if found is not None:
                return found
            if expired_since is None:
                return _unknown(payment, "it has not landed, but still may")
            if not last:
                await asyncio.sleep(self._second_look_s)
        return Settlement("failed", reason="the payment expired before it reached the chain", payer=payment.payer)

    async def _expired_since(self, rpc: RpcClient, payment: Payment, transaction: Transaction) -> int | None:
        """Returns the finalized slot from which on it can no longer land; None while it can."""
        first = transaction.instructions[0] if transaction.instructions else None
        if first is not None and first.program == _SYSTEM_PROGRAM and first.data == _ADVANCE_NONCE:
            self._made_by_s(payment, 0)
            return None  # a durable nonce does not age
        tip = await rpc.epoch_info("finalized")
        tip_s = await rpc.block_time(tip.absolute_slot)
        if tip_s is None or tip_s < self._made_by_s(payment, tip_s) + self._clocks_s:
            return None
        blockhash = b58encode(transaction.blockhash)
        valid = await rpc.is_blockhash_valid(blockhash, "finalized", min_slot=tip.absolute_slot)
        return None if valid else tip.absolute_slot

    async def _look(
        self, rpc: RpcClient, payment: Payment, transaction: Transaction, *, min_slot: int
    ) -> Settlement | None:
        """Returns what became of it; None where the node knows nothing of it as of ``min_slot``."""
        from trustgate.solana.history import find_message
        from trustgate.solana.transaction_status import look_closer

        signature: str | None = payment.transaction if _is_signature(payment.transaction) else None
        answer = None if signature is None else await rpc.signature_status(signature)
        if answer is None or answer.status is None:
            source = token_source(transaction)
            since_s = self._made_by_s(payment) - _BEFORE_S
            found = await find_message(
                rpc, source or transaction.fee_payer, transaction.message, since_s=since_s, min_slot=min_slot
            )
            if found is None:
                if answer is not None and answer.slot < min_slot:
                    raise RpcUnavailable(f"The RPC node {rpc.host} reports an older state than before.")
                return None
            signature, answer = found, await rpc.signature_status(found)
            if answer.status is None:
                raise RpcUnavailable(f"The RPC node {rpc.host} lists the transaction {found}, but does not return it.")
        assert signature is not None, "it was recorded, or found"
        assert answer.status is not None, "it is known"
        landing = await look_closer(rpc, signature, transaction.message, "confirmed", answer.status)
        if landing.state == "landed":
            return Settlement("settled", transaction=signature, payer=payment.payer)
        if landing.state == "failed":
            return Settlement("failed", transaction=signature, payer=payment.payer, reason=landing.detail)
        return Settlement("unknown", transaction=signature, payer=payment.payer, reason=landing.detail)

    # EVM

    async def _on_evm(self, payment: Payment, payload: dict[str, Any]) -> Settlement:
        signed = authorization_of(payload)
        if signed is None:
            return _unknown(payment, "the payload holds no authorization to look for")
        rpc = await self._nodes.evm(payment.offer.network)
        if payment.transaction.startswith("0x"):
            receipt = await rpc.receipt(payment.transaction)
            if receipt is not None and _pays(receipt, payment, signed):
                return Settlement("settled", transaction=receipt.transaction, payer=signed.payer)
        if signed.method != "eip3009":
            return _unknown(payment, "only its transaction could show that, which is not known")
        latest = await rpc.block()
        if not await rpc.authorization_state(payment.offer.asset, signed.payer, signed.nonce, latest.number):
            if 0 < signed.valid_before_s < latest.timestamp_s - self._clocks_s:
                return Settlement("failed", reason="the authorization expired unused", payer=signed.payer)
            return _unknown(payment, "the authorization is not used yet, but still may be")
        return await self._used(rpc, payment, signed, latest)

    async def _used(self, rpc: EvmRpc, payment: Payment, signed: Authorization, latest: Block) -> Settlement:
        """Returns the outcome of an authorization that was used or cancelled, by the transaction that did it."""
        from trustgate.payment.chains.evm import AUTHORIZATION_CANCELED, AUTHORIZATION_USED, word

        topics: list[str | list[str] | None] = [
            [AUTHORIZATION_USED, AUTHORIZATION_CANCELED],
            f"0x{word(signed.payer)}",
            f"0x{word(signed.nonce)}",
        ]
        since_s = self._made_by_s(payment, latest.timestamp_s) - _BEFORE_S
        last = latest.number
        for _ in range(_LOG_PAGES):
            first = max(0, last - _LOG_BLOCKS + 1)
            for log in await rpc.logs(payment.offer.asset, topics, first, last):
                receipt = await rpc.receipt(log.transaction_hash)
                if receipt is None:
                    raise RpcUnavailable(f"The RPC node {rpc.host} lists a transaction, but does not return it.")
                if _pays(receipt, payment, signed):
                    return Settlement("settled", transaction=receipt.transaction, payer=signed.payer)
                return Settlement(
                    "failed", reason="the payer cancelled it, or used its nonce otherwise", payer=signed.payer
                )
            if first == 0 or (await rpc.block(first)).timestamp_s < since_s:
                break
            last = first - 1
        return _unknown(payment, "the authorization was used by a transaction that is not found")


def _pays(receipt: EvmReceipt, payment: Payment, signed: Authorization) -> bool:
    """Returns whether this transaction used the authorization, and moved the amount from its payer to the receiver."""
    from trustgate.payment.chains.evm import AUTHORIZATION_USED, TRANSFER, word

    if not receipt.succeeded:
        return False
    events = [
        (tuple(topic.lower() for topic in log.topics), log.data)
        for log in receipt.logs
        if log.address.lower() == payment.offer.asset.lower()
    ]
    used = (AUTHORIZATION_USED, f"0x{word(signed.payer)}", f"0x{word(signed.nonce)}")
    moved = (TRANSFER, f"0x{word(signed.payer)}", f"0x{word(payment.offer.pay_to)}")
    was_used = signed.method != "eip3009" or any(topics == used for topics, _ in events)
    return was_used and any(
        topics == moved and int(data, 16) == int(payment.amount) for topics, data in events if len(data) > len("0x")
    )


def _is_signature(text: str) -> bool:
    try:
        return len(b58decode(text)) == SIGNATURE_BYTES
    except ValueError:
        return False


def _unknown(payment: Payment, reason: str) -> Settlement:
    return Settlement("unknown", transaction=payment.transaction, payer=payment.payer, reason=reason)
