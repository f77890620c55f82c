"""The published log: proofs of receipts, bundles, tiles, and the state to anchor.

Owns the joining of store, tree and publisher. It changes nothing but the checkpoint, which it renews when a proof asks
for a receipt that the last one does not cover.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from trustgate.receipts.bundle import Label, make_bundle
from trustgate.receipts.checkpoint import Checkpoint, unwritable_checkpoint
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.proof import InclusionProof, format_proof
from trustgate.receipts.receipt import salt
from trustgate.receipts.tiles import TileId
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.types import Anchor, Entry, LogName

LABELS: tuple[Label, ...] = ("request", "response")


class LogSigner(Protocol):
    """The last signed state of the log, and who renews it: a ``Publisher``, or another process through it."""

    checkpoint: Checkpoint
    #: The signed note of ``checkpoint``, and when it was signed.
    note: bytes
    signed_us: int
    #: What was amiss when it was opened and could be mended, for people.
    notes: tuple[str, ...]

    @property
    def verifier(self) -> VerifierKey: ...

    async def renew(self) -> bytes: ...


class Archive:
    def __init__(self, store: Store, tree: Tree, publisher: LogSigner) -> None:
        self._store = store
        self.tree = tree
        self._publisher = publisher

    @property
    def origin(self) -> str:
        return self._publisher.verifier.name

    @property
    def vkey(self) -> str:
        """The verifier key of the log (C2SP signed-note)."""
        return str(self._publisher.verifier)

    @property
    def checkpoint(self) -> bytes:
        """The signed checkpoint that is published now."""
        return self._publisher.note

    @property
    def checkpoint_size(self) -> int:
        return self._publisher.checkpoint.size

    @property
    def checkpoint_root(self) -> bytes:
        return self._publisher.checkpoint.root

    @property
    def signed_us(self) -> int:
        """When the checkpoint was signed."""
        return self._publisher.signed_us

    @property
    def notes(self) -> tuple[str, ...]:
        """What was amiss with the checkpoint when it was opened and could be mended, for people."""
        return self._publisher.notes

    async def names(self) -> list[LogName]:
        return await self._store.log_names()

    async def renewed(self) -> bytes:
        """Returns a signed checkpoint of everything the store has. Raises ``HomeUnusable`` where it cannot be kept."""
        try:
            return await self._publisher.renew()
        except OSError as error:
            raise unwritable_checkpoint(error) from error

    async def tile(self, tile: TileId, width: int) -> bytes | None:
        """Returns a tile as published: nothing beyond the last checkpoint. None where there is no such tile."""
        if self.checkpoint_size >> (8 * tile.level) < tile.index * 256 + width:
            return None
        return await self.tree.tile(tile, width)

    async def proof(self, entry: Entry) -> bytes:
        """Returns the receipt's inclusion in the published checkpoint, as a C2SP tlog-proof."""
        if entry.seq > self.checkpoint_size:
            await self.renewed()
        return await self._proof(entry, self.checkpoint_size, self.checkpoint)

    async def bundle(self, entry: Entry, disclose: Collection[Label]) -> bytes:
        """Returns the receipt with everything that is needed to verify it; see ``receipts.bundle``.

        The proof leads to the first anchor that covers the receipt, or, while none does, to the published checkpoint.
        """
        anchor = await self._anchor_of(entry)
        if anchor is None:
            proof, transaction = await self.proof(entry), None
        else:
            proof = await self._proof(entry, anchor.tree_size, anchor.note.encode())
            final = next(attempt for attempt in anchor.attempts if attempt.signature == anchor.signature)
            transaction = final.transaction
        salts = {label: salt(entry.secret, label) for label in LABELS if label in disclose}
        return make_bundle(receipt=entry.receipt, proof=proof, salts=salts, vkey=self.vkey, anchor=transaction)

    async def _proof(self, entry: Entry, size: int, note: bytes) -> bytes:
        index = entry.seq - 1
        hashes = await self.tree.inclusion(index, size)
        return format_proof(InclusionProof(index=index, hashes=hashes, checkpoint=note))

    async def _anchor_of(self, entry: Entry) -> Anchor | None:
        """Returns the smallest anchored state, under the log's present name, that has the receipt."""
        covering = [
            anchor
            for anchor in await self._store.anchors()
            if anchor.state == "anchored"
            and anchor.tree_size >= entry.seq
            and anchor.note.partition("\n")[0] == self.origin
        ]
        return min(covering, key=lambda anchor: anchor.tree_size, default=None)
