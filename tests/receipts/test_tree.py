"""The tree over a real database: grown in batches, resumed, proven against the receipts alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.entries import make_entries
from trustgate.errors import StoreDamaged
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.merkle import EMPTY_ROOT, root_of, verify_consistency, verify_inclusion
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.tiles import TileId
from trustgate.receipts.tree import Tree
from trustgate.store import Store, StoredTile, open_store
from trustgate.types import Entry

#: More than two levels of tiles would need 16 million receipts; one and a bit shows every seam.
COUNT = 256 * 3 + 17


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "trustgate.duckdb")
    yield opened
    await opened.close()


async def grow(store: Store, tree: Tree, entries: list[Entry]) -> None:
    grown, tiles = await tree.extended([leaf_hash(entry.receipt) for entry in entries])
    await store.append_entries(entries, tiles)
    tree.adopt(grown)


async def test_an_empty_tree(store: Store) -> None:
    tree = await Tree.open(store)
    assert (tree.size, tree.root) == (0, EMPTY_ROOT)
    assert await tree.root_at(0) == EMPTY_ROOT


async def test_a_tree_grown_in_any_batches_is_that_of_its_receipts(store: Store) -> None:
    entries = make_entries(1, COUNT)
    leaves = [leaf_hash(entry.receipt) for entry in entries]
    tree = await Tree.open(store)
    chance = random.Random(1)
    while tree.size < COUNT:
        batch = entries[tree.size : tree.size + chance.choice([1, 2, 63, 64, 200, 300])]
        await grow(store, tree, batch)
        assert tree.root == root_of(leaves[: tree.size])

    for again in (tree, await Tree.open(store)):
        assert (again.size, again.root) == (COUNT, root_of(leaves))
        for size in [1, 255, 256, 257, 511, 512, 700, COUNT]:
            root = await again.root_at(size)
            assert root == root_of(leaves[:size])
            index = chance.randrange(size)
            verify_inclusion(leaves[index], index, size, await again.inclusion(index, size), root)
            verify_consistency(size, root, COUNT, again.root, await again.consistency(size, COUNT))


async def test_a_database_from_before_the_tree_gets_its_tiles(store: Store) -> None:
    entries = make_entries(1, COUNT)
    await store.append_entries(entries)

    tree = await Tree.open(store)

    assert tree.root == root_of([leaf_hash(entry.receipt) for entry in entries])
    assert await store.tile_count(0) == COUNT // 256
    assert await tree.tile(TileId(0, 1), 256) == b"".join(leaf_hash(entry.receipt) for entry in entries[256:512])


async def test_tiles_reach_as_far_as_the_tree(store: Store) -> None:
    entries = make_entries(1, 300)
    tree = await Tree.open(store)
    await grow(store, tree, entries)
    leaves = b"".join(leaf_hash(entry.receipt) for entry in entries)

    assert await tree.tile(TileId(0, 0), 256) == leaves[: 256 * 32]
    assert await tree.tile(TileId(0, 1), 44) == leaves[256 * 32 :]
    assert await tree.tile(TileId(0, 1), 1) == leaves[256 * 32 : 257 * 32]
    assert await tree.tile(TileId(1, 0), 1) == root_of([leaf_hash(entry.receipt) for entry in entries[:256]])
    for tile, width in [((0, 1), 45), ((0, 2), 1), ((1, 0), 2), ((2, 0), 1), ((0, -1), 1), ((-1, 0), 1)]:
        assert await tree.tile(TileId(*tile), width) is None


async def test_more_leaves_than_there_are_cannot_be_proven(store: Store) -> None:
    tree = await Tree.open(store)
    await grow(store, tree, make_entries(1, 3))
    with pytest.raises(ValueError, match="3 leaves, not 4"):
        await tree.root_at(4)
    with pytest.raises(ValueError, match="3 leaves, not 4"):
        await tree.inclusion(0, 4)
    with pytest.raises(ValueError, match="3 leaves, not 4"):
        await tree.consistency(2, 4)


async def test_a_missing_tile_is_damage(store: Store) -> None:
    await store.append_entries(make_entries(1, 520), [StoredTile(0, 1, b"x" * 8192)])
    with pytest.raises(StoreDamaged, match="tiles of level 0"):
        await Tree.open(store)


@pytest.mark.parametrize(
    ("full", "above", "lacking"),
    [(300, 1, ""), (256, 1, ""), (300, 0, "level 1, number 0"), (300, 2, "level 0, number 300")],
)
async def test_a_tree_goes_on_from_its_tiles_alone_on_every_level(
    store: Store, full: int, above: int, lacking: str
) -> None:
    """Receipts that are archived are not in the database."""
    leaves = [hashlib.sha256(b"%d" % number).digest() for number in range(256 * full)]
    rows = [leaves[start : start + 256] for start in range(0, len(leaves), 256)]
    roots = [root_of(row) for row in rows[:256]]
    tiles = [StoredTile(0, number, b"".join(row)) for number, row in enumerate(rows)]
    await store.append_entries((), [*tiles, *(StoredTile(1, number, b"".join(roots)) for number in range(above))])
    if lacking:
        with pytest.raises(StoreDamaged, match=lacking):
            await Tree.open(store)
        return

    tree = await Tree.open(store)

    assert (tree.size, tree.root) == (len(leaves), root_of(leaves))


async def test_what_the_journal_holds_beyond_the_store_is_in_the_tree(tmp_path: Path, store: Store) -> None:
    entries = make_entries(1, 1500)
    await store.append_entries(entries[:300])
    journal = Journal.open(tmp_path / "journal", store_id=store.store_id, last_seq=300)
    for entry in entries[300:]:
        journal.append(entry)
    tree = await Tree.open(store)

    await Log.recover(store, journal, tree)

    assert tree.size == await store.last_seq() == 1500
    assert tree.root == root_of([leaf_hash(entry.receipt) for entry in entries])
    assert (await Tree.open(store)).root == tree.root
    journal.close()
