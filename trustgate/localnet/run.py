"""Starting a local chain in this process, or finding the one that a folder already runs.

Owns the order: lock, replay, listen, publish the address, and all of it back at the end. LiteSVM and the HTTP server
are imported when a chain starts: who only finds one does not wait for them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trustgate.errors import InvalidRequest, OperatorError, RpcUnavailable, StoreLocked
from trustgate.formats.solana_transaction import KEY_BYTES, b58decode, b58encode

if TYPE_CHECKING:
    from trustgate.localnet.chain import HistoryEntry, LocalChain

DEFAULT_SLOT_MS = 400
DEFAULT_FINALITY_SLOTS = 32

_TIMEOUT_S = 10.0
_POLL_S = 0.05
_CONNECT_S = 1.0


class Localnet:
    """A chain that runs in this process."""

    def __init__(self, url: str, chain: LocalChain) -> None:
        self.url = url
        self.chain = chain

    @property
    def genesis(self) -> str:
        """The genesis hash, base58: what identifies this chain."""
        return self.chain.genesis

    @property
    def slot(self) -> int:
        return self.chain.slot

    def airdrop(self, address: str, lamports: int) -> str:
        """Put lamports on an address (base58); gives the signature. Raises InvalidRequest."""
        from trustgate.localnet.faults import RpcError
        from trustgate.localnet.methods import call

        try:
            return str(call(self.chain, "requestAirdrop", [address, lamports]))
        except RpcError as error:
            raise InvalidRequest(
                f"{lamports} lamports cannot be put on {address!r}: {error.message}.",
                hint="An address is 32 bytes in base58; `solana address` or `trustgate anchor keygen` shows one.",
            ) from None

    def advance(self, slots: int = 1) -> None:
        """Move on by hand."""
        self.chain.advance(slots)


@asynccontextmanager
async def running_localnet(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    folder: Path | None = None,
    slot_ms: int = DEFAULT_SLOT_MS,
    finality_slots: int = DEFAULT_FINALITY_SLOTS,
    genesis: str | None = None,
    listener: Callable[[HistoryEntry], None] | None = None,
) -> AsyncIterator[Localnet]:
    """Run a local chain within the block.

    ``port`` 0: the system chooses. ``folder`` None: the chain is discarded at the end. ``slot_ms`` 0: it moves only by
    ``advance``. ``genesis``: the genesis hash of a new chain, to pose as a public cluster before clients that ask for
    one; by default a random one, which no other chain has. ``listener`` receives every transaction that lands.

    Raises StoreLocked (another process runs the folder's chain), StoreDamaged, StoreTooNew, HomeUnusable, OperatorError
    (the port is taken; the folder's chain has another genesis hash).
    """
    from trustgate.localnet.chain import LocalChain
    from trustgate.localnet.http import listening
    from trustgate.localnet.ledger import ChainLedger

    if slot_ms < 0 or finality_slots < 1:
        raise ValueError("slot_ms is 0 or more, finality_slots 1 or more")
    fresh = _checked(genesis) if genesis is not None else b58encode(os.urandom(KEY_BYTES))
    async with AsyncExitStack() as stack:
        ledger = None
        if folder is not None:
            ledger = ChainLedger.lock(folder)
            stack.callback(ledger.close)
        chain = LocalChain.open(
            ledger=ledger,
            genesis=fresh,
            slot_ms=slot_ms,
            finality_slots=finality_slots,
            created_us=time.time_ns() // 1_000,
        )
        if genesis not in (None, chain.genesis):
            raise OperatorError(
                f"The local chain in {folder} has the genesis hash {chain.genesis}, not {genesis}.",
                hint="Use another folder for a chain with that one.",
            )
        chain.listener = listener
        url = await stack.enter_async_context(listening(chain, host, port))
        if ledger is not None:
            ledger.publish(url)
        yield Localnet(url, chain)


@asynccontextmanager
async def find_or_start(folder: Path, *, slot_ms: int = DEFAULT_SLOT_MS) -> AsyncIterator[str]:
    """The URL of the folder's chain: run by another process if one does so, else by this one, within the block.

    Raises what ``running_localnet`` raises but StoreLocked; RpcUnavailable if the process that holds the folder does
    not answer.
    """
    async with AsyncExitStack() as stack:
        yield await _entered(stack, folder, slot_ms)


async def find_running(folder: Path) -> str | None:
    """Returns the URL of the folder's chain if a process runs it; None where there is no answer. Starts nothing."""
    from trustgate.localnet.ledger import read_address

    url = read_address(folder)
    if url is None:
        return None
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), _CONNECT_S)
    except (OSError, ValueError, TimeoutError):
        return None
    writer.close()
    return url


async def _entered(stack: AsyncExitStack, folder: Path, slot_ms: int) -> str:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            net = await stack.enter_async_context(running_localnet(folder=folder, slot_ms=slot_ms))
            return net.url
        except StoreLocked:
            url = await find_running(folder)
        if url is not None:
            return url
        if time.monotonic() > deadline:
            raise RpcUnavailable(
                f"A process holds the local chain in {folder}, but does not answer.",
                hint="Stop it, or wait until it is ready.",
            )
        await asyncio.sleep(_POLL_S)


def _checked(genesis: str) -> str:
    try:
        if len(b58decode(genesis)) == KEY_BYTES:
            return genesis
    except ValueError:
        pass
    raise OperatorError(f"{genesis!r} is not a genesis hash: that is {KEY_BYTES} bytes in base58.")
