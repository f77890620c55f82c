"""The tree over the receipts: it grows behind the response, and proofs are read from it.

Leaf ``i`` is the receipt with ``seq`` ``i + 1``. Owns the right border of the tree in memory (32 bytes for each hash of
an unfinished tile, of which there is one a level) and a small cache of full tiles. The full tiles themselves are the
store's: they are committed together with the entries that complete them, so after a crash the border is what the full
tiles and the last, at most 255, receipts make it. A database of a time before there was a tree gets its tiles the same
way, from its receipts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from trustgate.errors import StoreDamaged
from trustgate.receipts.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    Subtree,
    bag,
    build_proof,
    consistency_path,
    inclusion_path,
    root_of,
    subtrees,
)
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.tiles import TILE_WIDTH, Edge, TileId, hash_in_tiles, tiles_for
from trustgate.store import ReceiptFilter, Store, StoredTile

#: Leaves hashed into the tree before the event loop gets its turn (some 0.2 ms).
_SLICE_LEAVES = 64
#: How many receipts are read at a time.
_BATCH_ENTRIES = 2_048
#: Full tiles kept in memory, 8 KiB each.
_CACHED_TILES = 512


class Tree:
    def __init__(self, store: Store, edge: Edge) -> None:
        """Use ``open``."""
        self._store = store
        self._edge = edge
        self._cache: dict[TileId, bytes] = {}

    @classmethod
    async def open(cls, store: Store) -> Tree:
        """Returns the tree of all that the store has. Raises ``StoreDamaged`` where its tiles do not fit together."""
        tree = cls(store, await _resume(store, await store.tile_count(0)))
        last_seq = await store.last_seq()
        while tree.size < last_seq:
            until_seq = tree.size + _BATCH_ENTRIES
            page = ReceiptFilter(after_seq=tree.size, until_seq=until_seq, oldest_first=True, limit=_BATCH_ENTRIES)
            entries = await store.entries(page)
            grown, tiles = await tree.extended([leaf_hash(entry.receipt) for entry in entries])
            await store.append_entries((), tiles)
            tree.adopt(grown)
        return tree

    @property
    def edge(self) -> Edge:
        """Its right border; not to be changed."""
        return self._edge

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._edge.size

    @property
    def root(self) -> bytes:
        return self._edge.root()

    # growing

    async def extended(self, leaf_hashes: Sequence[bytes]) -> tuple[Edge, list[StoredTile]]:
        """Returns what the border would be with further leaves, and the tiles that they complete. Changes nothing."""
        edge = self._edge.copy()
        tiles: list[StoredTile] = []
        for start in range(0, len(leaf_hashes), _SLICE_LEAVES):
            completed = edge.append(leaf_hashes[start : start + _SLICE_LEAVES])
            tiles += [StoredTile(tile.id.level, tile.id.index, tile.hashes) for tile in completed]
            await asyncio.sleep(0)
        return edge, tiles

    def adopt(self, edge: Edge) -> None:
        """Go on from a border of ``extended``, whose leaves and tiles the store has."""
        self._edge = edge

    # proving; a size is at most ``size``, an index below it

    async def root_at(self, size: int) -> bytes:
        """Returns the root that the tree had when it had ``size`` leaves. Raises ``ValueError`` for more than there
        are.
        """
        self._check_size(size)
        if size == 0:
            return EMPTY_ROOT
        peaks = subtrees(0, size)
        tiles = await self._load((peaks,))
        return bag([hash_in_tiles(peak, tiles) for peak in peaks])

    async def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Returns the inclusion proof of leaf ``index`` in the tree of ``size`` (RFC 6962 section 2.1.1)."""
        self._check_size(size)
        return await self._proof(inclusion_path(index, size))

    async def consistency(self, old_size: int, size: int) -> tuple[bytes, ...]:
        """Returns the proof that the tree of ``old_size`` is a beginning of that of ``size`` (RFC 6962 section
        2.1.2).
        """
        self._check_size(size)
        return await self._proof(consistency_path(old_size, size))

    async def range_roots(self, ranges: Iterable[tuple[int, int]]) -> tuple[bytes, ...]:
        """Returns the root over each range of leaves, the first and one past the last, within the tree."""
        return await self._proof([subtrees(start, end) for start, end in ranges])

    async def tile(self, tile: TileId, width: int) -> bytes | None:
        """Returns the first ``width`` hashes of a tile; None where there are not as many yet."""
        if tile.level < 0 or tile.index < 0 or self.size >> (8 * tile.level) < tile.index * TILE_WIDTH + width:
            return None
        return (await self._load_tiles({tile}))[tile][: width * HASH_BYTES]

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, not {size}")

    async def _proof(self, path: Sequence[Sequence[Subtree]]) -> tuple[bytes, ...]:
        tiles = await self._load(path)
        return build_proof(path, lambda subtree: hash_in_tiles(subtree, tiles))

    async def _load(self, path: Iterable[Iterable[Subtree]]) -> dict[TileId, bytes]:
        return await self._load_tiles(tiles_for(path))

    async def _load_tiles(self, wanted: Iterable[TileId]) -> dict[TileId, bytes]:
        tiles: dict[TileId, bytes] = {}
        missing: dict[int, list[int]] = {}
        edge = self._edge  # what it holds stays what it is, even when the tree grows meanwhile
        for tile in wanted:
            if tile.index == edge.size >> (8 * (tile.level + 1)):
                tiles[tile] = edge.partial(tile.level)
            elif tile in self._cache:
                tiles[tile] = self._cache[tile]
            else:
                missing.setdefault(tile.level, []).append(tile.index)
        for level, positions in missing.items():
            found = await self._store.tiles(level, positions)
            for position in positions:
                if len(found.get(position, b"")) != TILE_WIDTH * HASH_BYTES:
                    raise _damaged(level, position)
                tiles[TileId(level, position)] = self._keep(TileId(level, position), found[position])
        return tiles

    def _keep(self, tile: TileId, hashes: bytes) -> bytes:
        if len(self._cache) >= _CACHED_TILES:
            del self._cache[next(iter(self._cache))]
        self._cache[tile] = hashes
        return hashes


async def _resume(store: Store, full: int) -> Edge:
    """Returns the border of the tree whose level 0 has ``full`` full tiles and nothing more."""
    size = full * TILE_WIDTH
    partials: dict[int, bytes] = {}
    level, below = 1, full
    while below:
        first = below - below % TILE_WIDTH
        positions = list(range(first, below))
        found = await store.tiles(level - 1, positions)
        above, expected = await store.tile_count(level), below // TILE_WIDTH
        # The store has looked that no number is lacking among those of a level.
        if above < expected:
            raise _damaged(level, above)
        if above > expected:
            raise _damaged(level - 1, below)
        partials[level] = b"".join(root_of(_hashes(found[position])) for position in positions)
        level, below = level + 1, below // TILE_WIDTH
    return Edge.resume(size, partials)


def _hashes(tile: bytes) -> list[bytes]:
    return [tile[start : start + HASH_BYTES] for start in range(0, len(tile), HASH_BYTES)]


def _damaged(level: int, position: int) -> StoreDamaged:
    return StoreDamaged(
        f"The tree over the receipts lacks a tile (level {level}, number {position}).",
        hint="Put back a copy of the database.",
    )
