"""The transaction that carries a signed checkpoint: three instructions in a version 0 message, and what it costs.

    1  set the compute-unit limit    what a simulation used × 1.1 + 500
    2  set the compute-unit price    the 75th percentile of what recent blocks took, capped by what it may cost
    3  memo                          the note, verbatim

The fee payer is the only signer, and the memo names no accounts: that it was paid for and signed by this key is shown
by the transaction itself. Source: Solana documentation, "Fees" and "Compute Budget"; SPL Memo (the program of version 2
and later, which explorers and nodes know).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from trustgate.errors import AnchorRefused, RpcRejected, RpcUnavailable
from trustgate.formats.solana_transaction import MAX_TRANSACTION_BYTES, b58decode
from trustgate.solana.keypair import PayerKey

if TYPE_CHECKING:
    from solders.message import MessageV0
    from solders.pubkey import Pubkey

    from trustgate.solana.rpc import RpcClient

#: The longest note that fits into a transaction.
MAX_NOTE_BYTES: Final = 1008
#: What a transaction costs for its one signature.
BASE_FEE_LAMPORTS: Final = 5_000
MICRO_LAMPORTS_PER_LAMPORT: Final = 1_000_000

_MEMO_PROGRAM: Final = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
_MOST_COMPUTE_UNITS: Final = 1_400_000
_SPARE_COMPUTE_UNITS: Final = 500


class Fee(NamedTuple):
    """What a transaction asks of the cluster, and what that costs in all."""

    compute_unit_limit: int
    compute_unit_price_micro_lamports: int
    lamports: int


def check_note_size(note: bytes) -> None:
    """Raises ``AnchorRefused`` for a note that no transaction can carry."""
    if not 0 < len(note) <= MAX_NOTE_BYTES:
        raise AnchorRefused(
            f"The signed checkpoint has {len(note)} bytes, and a transaction carries at most {MAX_NOTE_BYTES}.",
            hint="It holds the log's name twice: set a shorter one (receipts.origin).",
        )


def check_fee_limit(max_fee_lamports: int) -> None:
    """Raises ``AnchorRefused`` for a limit that no transaction stays within."""
    if max_fee_lamports < BASE_FEE_LAMPORTS:
        raise AnchorRefused(
            f"A transaction costs {BASE_FEE_LAMPORTS:,} lamports at least, and {max_fee_lamports:,} are allowed.",
            hint=f"Allow more: --max-fee {2 * BASE_FEE_LAMPORTS}.",
        )


async def estimate(rpc: RpcClient, address: str, note: bytes, *, max_fee_lamports: int) -> Fee:
    """Returns what it takes to post ``note``, paid by ``address``, at present.

    Asks for a simulation of a transaction that cannot be sent: it has no signature and no blockhash. Raises
    ``AnchorRefused`` where the fee cannot stay within ``max_fee_lamports``, and what the client raises.
    """
    check_note_size(note)
    check_fee_limit(max_fee_lamports)
    probe = Fee(_MOST_COMPUTE_UNITS, 0, BASE_FEE_LAMPORTS)
    simulated = await rpc.simulate(_unsigned(_message(address, note, bytes(32), probe)))
    if simulated.err is not None:
        rejected = RpcRejected(
            f"The transaction would fail: {str(simulated.err)[:200]}.",
            hint="Check that the fee payer holds SOL, and that this is the intended cluster.",
        )
        rejected.data = simulated.err
        raise rejected
    if not simulated.units_consumed:
        raise RpcUnavailable(
            f"The RPC node {rpc.cluster.host} does not report how many compute units the transaction would use.",
            hint="Use another: --rpc URL.",
        )
    return price(simulated.units_consumed, await rpc.prioritization_fees(), max_fee_lamports)


def price(compute_units: int, recent: Sequence[int], max_fee_lamports: int) -> Fee:
    """Returns the limit, price and fee of a transaction that uses ``compute_units``.

    ``recent`` is what recent blocks took, micro-lamports a compute unit: the 75th percentile of it is offered. The fee
    is never above ``max_fee_lamports``, which is at least the base fee.
    """
    limit = min(compute_units + -(-compute_units // 10) + _SPARE_COMPUTE_UNITS, _MOST_COMPUTE_UNITS)
    offered = sorted(recent)[(len(recent) * 3 - 1) // 4] if recent else 0
    affordable = (max_fee_lamports - BASE_FEE_LAMPORTS) * MICRO_LAMPORTS_PER_LAMPORT // limit
    unit_price = min(offered, affordable)
    return Fee(limit, unit_price, BASE_FEE_LAMPORTS - (-limit * unit_price // MICRO_LAMPORTS_PER_LAMPORT))


def sign_memo(key: PayerKey, note: bytes, blockhash: str, fee: Fee) -> bytes:
    """Returns the transaction, signed, as it goes over the wire. Raises ``AnchorRefused`` for a note that is too
    long.
    """
    from solders.message import to_bytes_versioned
    from solders.signature import Signature
    from solders.transaction import VersionedTransaction

    check_note_size(note)
    message = _message(key.address, note, b58decode(blockhash), fee)
    signature = Signature.from_bytes(key.sign(to_bytes_versioned(message)))
    raw = bytes(VersionedTransaction.populate(message, [signature]))
    assert len(raw) <= MAX_TRANSACTION_BYTES, "a note of the greatest size fits"
    return raw


def _message(address: str, note: bytes, blockhash: bytes, fee: Fee) -> MessageV0:
    from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
    from solders.hash import Hash
    from solders.instruction import Instruction
    from solders.message import MessageV0

    instructions = [
        set_compute_unit_limit(fee.compute_unit_limit),
        set_compute_unit_price(fee.compute_unit_price_micro_lamports),
        Instruction(_pubkey(_MEMO_PROGRAM), note, []),
    ]
    return MessageV0.try_compile(_pubkey(address), instructions, [], Hash(blockhash))


def _unsigned(message: MessageV0) -> bytes:
    from solders.signature import Signature
    from solders.transaction import VersionedTransaction

    return bytes(VersionedTransaction.populate(message, [Signature.default()]))


def _pubkey(address: str) -> Pubkey:
    from solders.pubkey import Pubkey

    return Pubkey.from_string(address)
