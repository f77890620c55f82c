"""When the gateway anchors: on command, and on a schedule while it serves.

Owns the one flush at a time, the schedule with its backoff, and the reports of both. It never touches the request
path: a chain that fails is a ``problem`` that ``anchor status``, ``doctor`` and ``/metrics`` show.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from trustgate.errors import AnchorsChanged, TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.receipts.archive import Archive
from trustgate.settings import Settings
from trustgate.solana.reports import AnchorAudit, FlushOutcome
from trustgate.store import Store
from trustgate.types import Anchor

if TYPE_CHECKING:
    from trustgate.solana.anchors import AnchorBook, Anchorer, AnchorTarget, FlushResult
    from trustgate.solana.rpc import RpcClient

_logger = logging.getLogger("trustgate.anchor")

_LOOK_EVERY_S = 1.0
#: How many times a flush is begun where other processes record anchors meanwhile.
_DISTURBED_MOST = 20
_BACKOFF_FIRST_S = 30.0
_BACKOFF_LAST_S = 3600.0
#: A local chain that is started for one command moves quicker than a real one, so that commands do not wait for
#: finality.
_LOCAL_SLOT_MS = 50


class FlushOrder(NamedTuple):
    """How to anchor; the settings, unless a command overrides them."""

    rpc: str
    keypair: Path
    commitment: Literal["confirmed", "finalized"]
    max_fee_lamports: int
    mainnet: bool
    dry_run: bool = False


class Anchoring:
    def __init__(self, settings: Settings, store: Store, archive: Callable[[], Awaitable[Archive]]) -> None:
        """``archive`` gives the log with everything that was acknowledged."""
        self._settings = settings
        self._store = store
        #: Where flushes read and record anchors; a ``SharedAnchorBook`` where several processes may anchor.
        self.book: AnchorBook = store
        self._archive = archive
        self._anchorer: Anchorer | None = None
        #: Failed tries of the schedule in a row, and what the last one said.
        self.failures = 0
        self.problem = ""
        #: The anchor that covers most of the log: on the chain of the settings once that has been asked, until then on
        #: any; and when anything was anchored there last.
        self.last: Anchor | None = None
        self.anchored_us = 0
        self._genesis: str | None = None
        #: In the event loop's time.
        self._try_again_at = 0.0

    def apply_settings(self, settings: Settings) -> None:
        """Go by these from now on."""
        if settings.anchor.rpc != self._settings.anchor.rpc:
            self._genesis = None
        if settings.anchor != self._settings.anchor:
            self.failures, self.problem = 0, ""
            self._try_again_at = 0.0
        self._settings = settings

    @property
    def anchored_size(self) -> int:
        """How far the log is anchored, receipts."""
        return 0 if self.last is None else self.last.tree_size

    async def load(self) -> None:
        """Look up how far the log is anchored."""
        anchored = [
            anchor
            for anchor in await self._store.anchors()
            if anchor.state == "anchored" and self._genesis in (None, anchor.genesis)
        ]
        self.anchored_us = max((anchor.anchored_us for anchor in anchored), default=0)
        self.last = max(anchored, key=lambda anchor: (anchor.tree_size, anchor.anchored_us), default=None)

    def order(self) -> FlushOrder:
        """Returns what the settings say."""
        anchor = self._settings.anchor
        return FlushOrder(
            rpc=anchor.rpc,
            keypair=self._settings.anchor_keypair,
            commitment=anchor.commitment,
            max_fee_lamports=anchor.max_fee_lamports,
            mainnet=anchor.mainnet,
        )

    def schedule(self) -> str:
        """Returns the schedule as a sentence; "" for none."""
        anchor = self._settings.anchor
        when = [f"every {anchor.every}"] if anchor.every else []
        when += [f"after {anchor.after_receipts:,} receipts"] if anchor.after_receipts else []
        return f"{', '.join(when)}, to {anchor.rpc}" if when else ""

    def late_s(self, tree_size: int, since_us: int) -> float:
        """Returns for how long an anchor has been due by the time of the schedule, seconds; 0 where none is.

        Args:
            tree_size: receipts in the log now.
            since_us: when this server began; it is not late for what came before.
        """
        every_s = self._settings.anchor.every_s
        if every_s is None or tree_size <= self.anchored_size:
            return 0.0
        passed_us = now_us() - max(self.anchored_us, since_us)
        return max(0.0, passed_us / MICROSECONDS_PER_SECOND - every_s)

    def pubkey(self) -> str | None:
        """Returns the address of the settings' key; None where there is no such file. Raises ``SettingsError``."""
        from trustgate.solana.keypair import load_keypair

        path = self._settings.anchor_keypair
        return load_keypair(path).address if path.exists() else None

    # on command

    async def flush(self, order: FlushOrder, report: Callable[[str], None]) -> FlushOutcome:
        """Anchor the log as it is now. ``report`` receives each step. Raises what ``Anchorer.flush`` raises."""
        from trustgate.solana.anchors import Anchorer, FlushProgress
        from trustgate.solana.keypair import load_keypair

        key = load_keypair(order.keypair)
        if self._anchorer is None:
            self._anchorer = Anchorer(self.book)

        anchorer = self._anchorer

        def progress(at: FlushProgress) -> None:
            report(at.text)

        async with open_rpc(order.rpc, self._settings.localnet_folder) as rpc:
            result = await self._until_undisturbed(
                lambda target: anchorer.flush(
                    rpc,
                    key,
                    target,
                    max_fee_lamports=order.max_fee_lamports,
                    commitment=order.commitment,
                    allow_mainnet=order.mainnet,
                    dry_run=order.dry_run,
                    progress=progress,
                ),
                report,
            )
        if order.rpc == self._settings.anchor.rpc:
            self._genesis = result.genesis
        await self.load()
        return _outcome(result)

    async def _until_undisturbed(
        self, flush: Callable[[AnchorTarget], Awaitable[FlushResult]], report: Callable[[str], None]
    ) -> FlushResult:
        """Flush, and begin anew from the recorded anchors where another process has recorded one meanwhile.

        Raises AnchorsChanged after ``_DISTURBED_MOST`` times, and what ``flush`` raises.
        """
        left = _DISTURBED_MOST
        while True:
            try:
                return await flush(await self._target())
            except AnchorsChanged as error:
                left -= 1
                if not left:
                    raise
                report(error.message.rstrip("."))
                # A random pause, so that two processes do not begin anew in step.
                await asyncio.sleep(random.uniform(0, _LOOK_EVERY_S))  # noqa: S311 - no secret

    async def verify(self, rpc: str, keypair: Path) -> AnchorAudit:
        """Check every anchor of the key's address from chain data. Raises ``ChainError``, ``SettingsError``."""
        from trustgate.solana.keypair import load_keypair
        from trustgate.solana.verify import verify_chain

        address = load_keypair(keypair).address
        target = await self._target()
        async with open_rpc(rpc, self._settings.localnet_folder) as client:
            audit = await verify_chain(client, address, target)
        return AnchorAudit(
            network=audit.cluster,
            address=address,
            origin=target.origin,
            vkey=(await self._archive()).vkey,
            findings=audit.findings,
            other_memos=audit.other_memos,
        )

    async def _target(self) -> AnchorTarget:
        from trustgate.receipts.checkpoint import open_checkpoint
        from trustgate.receipts.note import VerifierKey
        from trustgate.solana.anchors import AnchorTarget

        archive = await self._archive()
        note = await archive.renewed()
        verifier = VerifierKey.parse(archive.vkey)
        checkpoint = open_checkpoint(note, verifier)
        return AnchorTarget(
            tree_size=checkpoint.size,
            root=checkpoint.root,
            note=note,
            origin=archive.origin,
            open_note=lambda data: open_checkpoint(data, verifier),
            root_at=archive.tree.root_at,
        )

    # on a schedule

    async def run(self) -> None:
        """For ever: anchor whenever the settings say so; after a failure, more and more slowly."""
        await self.load()
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if not self.schedule() or loop.time() < self._try_again_at or not await self._is_due():
                continue
            try:
                outcome = await self.flush(self.order(), _unheard)
            except TrustGateError as error:
                self.failures += 1
                self.problem = error.message
                wait_s = min(_BACKOFF_FIRST_S * 2 ** (self.failures - 1), _BACKOFF_LAST_S)
                self._try_again_at = loop.time() + wait_s
                _logger.warning("not anchored (%s); next try in %.0f s", error.message, wait_s)
            else:
                self.failures, self.problem = 0, ""
                if outcome.anchored:
                    _logger.info("anchored %d receipts on %s", outcome.tree_size, outcome.network)

    async def _is_due(self) -> bool:
        every_s, after_receipts = self._settings.anchor.every_s, self._settings.anchor.after_receipts
        waiting = (await self._archive()).tree.size - self.anchored_size
        if self._genesis is None:
            return True  # what stands on that chain is not known yet
        if waiting <= 0:
            return False
        if after_receipts and waiting >= after_receipts:
            return True
        return every_s is not None and now_us() - self.anchored_us >= every_s * MICROSECONDS_PER_SECOND


@contextlib.asynccontextmanager
async def open_rpc(text: str, localnet_folder: Path) -> AsyncIterator[RpcClient]:
    """A client of the node that is meant: a cluster's name or a URL. ``local`` is the chain kept in the folder.

    It is started for as long as the client is open, unless it runs already. Raises ``SettingsError``.
    """
    from trustgate.solana.clusters import LOCAL, Cluster, find_cluster
    from trustgate.solana.rpc import RpcClient

    cluster = find_cluster(text)
    async with contextlib.AsyncExitStack() as stack:
        if cluster.name == LOCAL:
            from trustgate.localnet import find_or_start

            local = find_or_start(localnet_folder, slot_ms=_LOCAL_SLOT_MS)
            cluster = Cluster(LOCAL, await stack.enter_async_context(local))
        yield await stack.enter_async_context(RpcClient(cluster))


def _outcome(result: FlushResult) -> FlushOutcome:
    return FlushOutcome(
        anchored=result.anchored,
        dry_run=result.dry_run,
        tree_size=result.tree_size,
        root=result.root,
        network=result.cluster,
        fee_lamports=result.fee_lamports,
        fee_payer=result.fee_payer,
        signature=result.signature,
        slot=result.slot,
        explorer=result.explorer,
    )


def _unheard(_: str) -> None:
    """The schedule's progress is not shown; its end is logged."""
