"""The JSON-RPC client of one Solana node: validates every response, and never guesses.

Owns the calls that anchors and payments need, and the forms of their answers; failures of a node are the two errors of
``trustgate.net.jsonrpc``. What the answers say is not trusted here either; that is up to the caller.

Keys, messages and transactions are solders'. The client of the package ``solana`` is not used, for reasons that were
all reproduced with 0.39: an error of the codes -32002 and -32005 without ``data`` ends in a Rust panic, which is a
BaseException; codes it does not know come back as a bare number; an HTTP status is hidden in ``__cause__``; it reads
answers of any size, and it asks again by itself after a broken connection, where sending twice must be a decision.

Source of the methods: Solana documentation, "RPC HTTP methods".
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from trustgate.net.jsonrpc import MAX_ANSWER_BYTES, JsonRpc
from trustgate.solana.clusters import Cluster

__all__ = [
    "MAX_ANSWER_BYTES",
    "AccountInfo",
    "Blockhash",
    "Commitment",
    "EpochInfo",
    "LandedTransaction",
    "Mention",
    "RpcClient",
    "SignatureStatus",
    "Simulation",
    "TokenAmount",
]

Commitment = Literal["processed", "confirmed", "finalized"]

#: Signatures in a page of an address's history; the most a node gives.
PAGE_SIGNATURES: Final = 1_000
_TIMEOUT_S: Final = 15.0

_U64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Base58 = Annotated[str, Meta(pattern="^[1-9A-HJ-NP-Za-km-z]{32,88}$")]


class _Context(Struct):
    slot: _U64


class EpochInfo(Struct, frozen=True, rename="camel"):
    #: The slot of the block that was asked about, and how many blocks there are up to it.
    absolute_slot: _U64
    block_height: _U64


class Blockhash(Struct, frozen=True, rename="camel"):
    blockhash: _Base58
    last_valid_block_height: _U64


class _BlockhashAnswer(Struct):
    context: _Context
    value: Blockhash


class _ValidAnswer(Struct):
    context: _Context
    value: bool


class TokenAmount(Struct, frozen=True):
    context: _Context
    value: _U64


class AccountInfo(Struct, frozen=True):
    """What is at an address. ``owner`` is the program that it belongs to."""

    owner: str
    lamports: int
    data: bytes


class _AccountInfo(Struct, rename="camel"):
    owner: _Base58
    lamports: _U64
    data: Annotated[tuple[str, ...], Meta(min_length=2, max_length=2)]


class _AccountAnswer(Struct):
    context: _Context
    value: _AccountInfo | None


class _PriorityFee(Struct, rename="camel"):
    prioritization_fee: _U64


class Simulation(Struct, frozen=True, rename="camel"):
    #: None if it would succeed.
    err: Any = None
    units_consumed: _U64 | None = None


class _SimulationAnswer(Struct):
    context: _Context
    value: Simulation


class SignatureStatus(Struct, frozen=True, rename="camel"):
    """A node's report on a transaction. ``confirmations`` is None once it is final."""

    slot: _U64
    confirmations: _U64 | None = None
    err: Any = None
    confirmation_status: Commitment | None = None

    def has_reached(self, commitment: Commitment) -> bool:
        order = ("processed", "confirmed", "finalized")
        reached = self.confirmation_status or ("finalized" if self.confirmations is None else "processed")
        return order.index(reached) >= order.index(commitment)


class SignatureStatuses(Struct, frozen=True):
    """``value`` has one item: None where the node knows no such transaction as of the slot of ``context``."""

    context: _Context
    value: Annotated[tuple[SignatureStatus | None, ...], Meta(min_length=1, max_length=1)]

    @property
    def slot(self) -> int:
        return self.context.slot

    @property
    def status(self) -> SignatureStatus | None:
        return self.value[0]


class Mention(Struct, frozen=True, rename="camel"):
    """A transaction that names an address. Any party can make one: who signed it is to be looked up."""

    signature: _Base58
    slot: _U64
    err: Any = None
    confirmation_status: Commitment | None = None
    #: Seconds since the epoch; None where the node does not know.
    block_time: int | None = None


class _Meta(Struct, rename="camel"):
    err: Any = None
    fee: _U64 = 0


class _TransactionAnswer(Struct, rename="camel"):
    slot: _U64
    transaction: Annotated[tuple[str, ...], Meta(min_length=2, max_length=2)]
    meta: _Meta
    block_time: int | None = None


#: Unions are no ``type`` to mypy.
_TIME_OR_NONE: Final[Any] = int | None
_TRANSACTION_OR_NONE: Final[Any] = _TransactionAnswer | None


class LandedTransaction(Struct, frozen=True):
    """A transaction in a block: its wire bytes, and what came of it. ``err`` is None if it succeeded."""

    raw: bytes
    slot: int
    err: Any
    fee_lamports: int
    #: Seconds since the epoch, as the validators' clocks have it; None where the node does not know.
    block_time_s: int | None


class RpcClient(JsonRpc):
    """One node of a cluster."""

    def __init__(
        self, cluster: Cluster, *, timeout_s: float = _TIMEOUT_S, hint: str = "use another node: --rpc URL"
    ) -> None:
        super().__init__(cluster.url, timeout_s=timeout_s, kind="a Solana", hint=hint)
        self.cluster = cluster

    # the cluster

    async def genesis_hash(self) -> str:
        """Returns the hash of the genesis block, base58: which cluster this is."""
        return await self.call("getGenesisHash", [], _Base58)

    async def epoch_info(self, commitment: Commitment) -> EpochInfo:
        return await self.call("getEpochInfo", [{"commitment": commitment}], EpochInfo)

    async def latest_blockhash(self) -> Blockhash:
        """Returns the latest confirmed one. A finalized one is some 13 s older, of the 60 to 90 that it is good for."""
        answer = await self.call("getLatestBlockhash", [{"commitment": "confirmed"}], _BlockhashAnswer)
        return answer.value

    async def is_blockhash_valid(self, blockhash: str, commitment: Commitment, *, min_slot: int) -> bool:
        """Returns whether a transaction with it may land in the next block after the newest of that commitment.

        False for a hash that is too old, and for one that is newer than that block.
        """
        options = {"commitment": commitment, "minContextSlot": min_slot}
        answer = await self.call("isBlockhashValid", [blockhash, options], _ValidAnswer)
        if answer.context.slot < min_slot:
            raise self.unavailable("answered isBlockhashValid for an old block: it lags behind")
        return answer.value

    async def block_time(self, slot: int) -> int | None:
        """When the block of this slot was made, seconds since the epoch; None where the node does not know."""
        answer: int | None = await self.call("getBlockTime", [slot], _TIME_OR_NONE)
        return answer

    async def prioritization_fees(self) -> list[int]:
        """Returns what the cheapest transaction of each recent block paid, micro-lamports a compute unit."""
        answer = await self.call("getRecentPrioritizationFees", [], list[_PriorityFee])
        return [fee.prioritization_fee for fee in answer]

    # accounts

    async def balance(self, address: str) -> int:
        """Lamports."""
        return (await self.call("getBalance", [address, {"commitment": "confirmed"}], TokenAmount)).value

    async def account(self, address: str) -> AccountInfo | None:
        """Returns what is there as of the latest confirmed block; None for nothing."""
        options = {"commitment": "confirmed", "encoding": "base64"}
        found = (await self.call("getAccountInfo", [address, options], _AccountAnswer)).value
        if found is None:
            return None
        data = _decoded(*found.data)
        if data is None:
            raise self.unavailable("sent an invalid account for getAccountInfo")
        return AccountInfo(owner=found.owner, lamports=found.lamports, data=data)

    async def rent_minimum(self) -> int:
        """Lamports that must stay on an account without data, such as a fee payer's."""
        return await self.call("getMinimumBalanceForRentExemption", [0], _U64)

    async def request_airdrop(self, address: str, lamports: int) -> str:
        """Ask a test chain for lamports; gives the signature of the transfer."""
        return await self.call("requestAirdrop", [address, lamports, {"commitment": "confirmed"}], _Base58)

    # transactions

    async def simulate(self, raw: bytes, *, replace_blockhash: bool = True) -> Simulation:
        """Returns what a transaction would do, signed or not.

        With its blockhash replaced, it need not have a good one; else that it has none is an error in the answer.
        """
        options = {
            "encoding": "base64",
            "sigVerify": False,
            "replaceRecentBlockhash": replace_blockhash,
            "commitment": "confirmed",
        }
        return (await self.call("simulateTransaction", [_base64(raw), options], _SimulationAnswer)).value

    async def send(self, raw: bytes, *, preflight: bool) -> str:
        """Hand over a signed transaction; returns the signature that the node reports.

        The node does not send it again by itself. Acceptance does not mean that it will land, and a refusal does not
        mean that it will not.
        """
        options = {
            "encoding": "base64",
            "skipPreflight": not preflight,
            "preflightCommitment": "confirmed",
            "maxRetries": 0,
        }
        return await self.call("sendTransaction", [_base64(raw), options], _Base58)

    async def signature_status(self, signature: str) -> SignatureStatuses:
        """Returns what the node knows of a transaction, however old."""
        params = [[signature], {"searchTransactionHistory": True}]
        return await self.call("getSignatureStatuses", params, SignatureStatuses)

    async def mentions(
        self,
        address: str,
        commitment: Commitment,
        *,
        before: str | None = None,
        until: str | None = None,
        min_slot: int = 0,
    ) -> list[Mention]:
        """Returns a page of the transactions that name an address, the newest first.

        ``before`` and ``until`` are signatures, neither part of the page. A node that has not yet seen ``min_slot``
        is refused (``RpcUnavailable``).
        """
        options: dict[str, Any] = {"commitment": commitment, "limit": PAGE_SIGNATURES, "minContextSlot": min_slot}
        options |= {name: value for name, value in (("before", before), ("until", until)) if value is not None}
        return await self.call("getSignaturesForAddress", [address, options], list[Mention])

    async def transaction(self, signature: str, commitment: Commitment) -> LandedTransaction | None:
        """Returns the transaction of this signature; None where the node has none."""
        options = {"encoding": "base64", "commitment": commitment, "maxSupportedTransactionVersion": 0}
        answer: _TransactionAnswer | None = await self.call(
            "getTransaction", [signature, options], _TRANSACTION_OR_NONE
        )
        if answer is None:
            return None
        raw = _decoded(*answer.transaction)
        if not raw:
            raise self.unavailable("sent an invalid transaction for getTransaction")
        return LandedTransaction(
            raw=raw,
            slot=answer.slot,
            err=answer.meta.err,
            fee_lamports=answer.meta.fee,
            block_time_s=answer.block_time,
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str, encoding: str) -> bytes | None:
    """Returns the bytes of what a node gives with its encoding; None if it is not the one that was asked for."""
    try:
        return base64.b64decode(text, validate=True) if encoding == "base64" else None
    except ValueError:
        return None
