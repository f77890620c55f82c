"""The JSON-RPC calls to an EVM chain that show the outcome of an authorization (EIP-3009).

Owns the calls and the words of the ABI that they need; nothing is encoded here beyond addresses and 32-byte words, so
that no library of 40 packages is needed for it. Sources: Ethereum JSON-RPC specification (EIP-1474, execution-apis),
EIP-3009, ERC-20, EIP-5267. The selectors and topics are checked by a test against their signatures.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta, Struct

from trustgate.errors import RpcRejected
from trustgate.net.jsonrpc import JsonRpc

#: keccak256 of the signature, the first four bytes: of functions.
AUTHORIZATION_STATE: Final = "0xe94a0102"  # authorizationState(address,bytes32)
DECIMALS: Final = "0x313ce567"  # decimals()
NAME: Final = "0x06fdde03"  # name()
VERSION: Final = "0x54fd4d50"  # version()
#: The same whole: of events.
AUTHORIZATION_USED: Final = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
AUTHORIZATION_CANCELED: Final = "0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81"
TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"

_TIMEOUT_S: Final = 15.0
_MOST_TEXT_BYTES: Final = 128

_Hex = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]*$")]
_Quantity = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{1,64}$")]


class EventLog(Struct, frozen=True, rename="camel"):
    address: _Hex
    topics: tuple[_Hex, ...]
    data: _Hex
    transaction_hash: _Hex = "0x"


class _Receipt(Struct, rename="camel"):
    transaction_hash: _Hex
    status: _Quantity
    logs: tuple[EventLog, ...]


class _Block(Struct):
    number: _Quantity
    timestamp: _Quantity


_RECEIPT_OR_NONE: Final[Any] = _Receipt | None
_BLOCK_OR_NONE: Final[Any] = _Block | None


class EvmReceipt(NamedTuple):
    transaction: str
    succeeded: bool
    logs: tuple[EventLog, ...]


class Block(NamedTuple):
    number: int
    #: Seconds since the epoch.
    timestamp_s: int


class EvmRpc(JsonRpc):
    """One node of an EVM chain. Every method raises ``RpcUnavailable`` or ``RpcRejected``."""

    def __init__(self, url: str, *, timeout_s: float = _TIMEOUT_S, hint: str) -> None:
        super().__init__(url, timeout_s=timeout_s, kind="an Ethereum", hint=hint)

    async def chain_id(self) -> int:
        return int(await self.call("eth_chainId", [], _Quantity), 16)

    async def block(self, number: int | None = None) -> Block:
        """Returns the block of this number, or the latest."""
        tag = "latest" if number is None else hex(number)
        found: _Block | None = await self.call("eth_getBlockByNumber", [tag, False], _BLOCK_OR_NONE)
        if found is None:
            raise self.unavailable(f"does not have the block {tag}")
        return Block(int(found.number, 16), int(found.timestamp, 16))

    async def receipt(self, transaction: str) -> EvmReceipt | None:
        """None where the node knows no such transaction in a block."""
        found: _Receipt | None = await self.call("eth_getTransactionReceipt", [transaction], _RECEIPT_OR_NONE)
        if found is None:
            return None
        if found.transaction_hash.lower() != transaction.lower():
            raise self.unavailable("shows the receipt of another transaction")
        return EvmReceipt(transaction, int(found.status, 16) == 1, found.logs)

    async def logs(
        self, address: str, topics: list[str | list[str] | None], first: int, last: int
    ) -> tuple[EventLog, ...]:
        """Returns the events of a contract in the blocks from ``first`` to ``last``."""
        asked = {"address": address, "topics": topics, "fromBlock": hex(first), "toBlock": hex(last)}
        return await self.call("eth_getLogs", [asked], tuple[EventLog, ...])

    async def has_code(self, address: str) -> bool:
        return len(await self.call("eth_getCode", [address, "latest"], _Hex)) > len("0x")

    async def authorization_state(self, token: str, payer: str, nonce: str, block: int | None) -> bool:
        """Returns whether the authorization was used or cancelled, as of a block, or of the latest."""
        tag = "latest" if block is None else hex(block)
        answer = await self._ask(token, AUTHORIZATION_STATE + word(payer) + word(nonce), tag)
        if len(answer) != len("0x") + 64:
            raise RpcRejected(f"{token} does not know authorizations (EIP-3009).")
        return int(answer, 16) != 0

    async def decimals(self, token: str) -> int | None:
        """None where the contract does not say."""
        answer = await self._ask(token, DECIMALS)
        value = int(answer, 16) if len(answer) == len("0x") + 64 else 256
        return value if value < 256 else None

    async def text(self, token: str, selector: str) -> str | None:
        """Returns the result of ``name()`` or ``version()``; None where the contract does not."""
        digits = (await self._ask(token, selector))[2:]
        answer = b"" if len(digits) % 2 else bytes.fromhex(digits)
        size = int.from_bytes(answer[32:64]) if len(answer) >= 96 else 0
        if not 0 < size <= min(_MOST_TEXT_BYTES, len(answer) - 64) or int.from_bytes(answer[:32]) != 32:
            return None
        try:
            return answer[64 : 64 + size].decode()
        except UnicodeDecodeError:
            return None

    async def _ask(self, to: str, data: str, block: str = "latest") -> str:
        return await self.call("eth_call", [{"to": to, "data": data}, block], _Hex)


def word(value: str) -> str:
    """Returns an address or a nonce as 32 bytes in hexadecimal, without 0x."""
    return value.lower().removeprefix("0x").rjust(64, "0")
