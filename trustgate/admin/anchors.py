"""The commands that anchor the log and report its anchors.

A flush may take a minute, and its caller wants to see progress: it runs as a task of its own (``flushing``), and each
command of the same flush reports its progress.
"""

from __future__ import annotations

from pathlib import Path

from trustgate.admin.context import AdminContext
from trustgate.admin.log_commands import (
    AnchorFlush,
    AnchorKey,
    AnchorKeygen,
    AnchorList,
    AnchorStatus,
    AnchorVerify,
    FlushState,
    LogStatus,
)
from trustgate.solana.anchoring import FlushOrder
from trustgate.solana.reports import AnchorAudit
from trustgate.types import Anchor


async def anchor_flush(context: AdminContext, command: AnchorFlush) -> FlushState:
    return await context.flushing.advance(command.flush, _order(context, command))


def _order(context: AdminContext, command: AnchorFlush) -> FlushOrder:
    """Returns the settings, overridden by the command."""
    order = context.anchoring.order()
    return FlushOrder(
        rpc=command.rpc or order.rpc,
        keypair=order.keypair if command.keypair is None else Path(command.keypair),
        commitment=command.commitment or order.commitment,
        max_fee_lamports=order.max_fee_lamports if command.max_fee_lamports is None else command.max_fee_lamports,
        mainnet=command.mainnet or (order.mainnet and command.rpc is None),
        dry_run=command.dry_run,
    )


async def anchor_list(context: AdminContext, command: AnchorList) -> tuple[Anchor, ...]:
    return tuple(await context.store.anchors())


async def anchor_status(context: AdminContext, command: AnchorStatus) -> LogStatus:
    archive = await context.archive()
    anchoring = context.anchoring
    await anchoring.load()
    return LogStatus(
        origin=archive.origin,
        vkey=archive.vkey,
        tree_size=archive.tree.size,
        root=archive.tree.root.hex(),
        pubkey=anchoring.pubkey(),
        anchored_size=anchoring.anchored_size,
        anchored_us=anchoring.anchored_us,
        planned=tuple(anchor for anchor in await context.store.anchors() if anchor.state == "planned"),
        schedule=anchoring.schedule(),
        problem=anchoring.problem,
    )


async def anchor_verify(context: AdminContext, command: AnchorVerify) -> AnchorAudit:
    order = context.anchoring.order()
    keypair = order.keypair if command.keypair is None else Path(command.keypair)
    return await context.anchoring.verify(command.rpc or order.rpc, keypair)


async def anchor_keygen(context: AdminContext, command: AnchorKeygen) -> AnchorKey:
    from trustgate.solana.keypair import create_keypair

    path = context.anchoring.order().keypair if command.keypair is None else Path(command.keypair)
    return AnchorKey(pubkey=create_keypair(path).address, path=str(path))
