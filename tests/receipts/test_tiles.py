"""Tiles and the right border: addresses, growth in any batches, proofs and roots read back from tiles."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reached import reached, reaches
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
    verify_consistency,
    verify_inclusion,
)
from trustgate.receipts.tiles import (
    TILE_WIDTH,
    Edge,
    Tile,
    TileId,
    hash_in_tiles,
    parse_tile_path,
    tile_path,
    tile_widths,
    tiles_for,
)

#: The example of C2SP tlog-tiles: three levels, and a partial tile on each.
SIZE = 70_000
LEAVES = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(SIZE)]

# Addresses.


@pytest.mark.parametrize(
    ("tile", "width", "path"),
    [
        (TileId(0, 0), 256, "tile/0/000"),
        (TileId(0, 999), 256, "tile/0/999"),
        (TileId(0, 1000), 256, "tile/0/x001/000"),
        (TileId(0, 1_234_067), 256, "tile/0/x001/x234/067"),  # the specification's
        (TileId(2, 1234), 17, "tile/2/x001/234.p/17"),
        (TileId(63, 5), 255, "tile/63/005.p/255"),
    ],
)
def test_the_path_of_a_tile(tile: TileId, width: int, path: str) -> None:
    assert tile_path(tile, width) == path
    assert parse_tile_path(path.removeprefix("tile/")) == (tile, width)


@given(st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_every_tile_has_one_path(level: int, index: int, width: int) -> None:
    path = tile_path(TileId(level, index), width)
    assert parse_tile_path(path.removeprefix("tile/")) == (TileId(level, index), width)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "0",
            "0/",
            "/0/000",
            "0/000/",
            "0/0",
            "0/00",
            "0/0000",
            "00/000",
            "64/000",
            "-1/000",
            "100/000",
            "+1/000",
        ),
        *("0/x000/000", "0/000/000", "0/x001", "0/001/x000", "0/x01/000", "0/X001/000", "0/x001x001/000"),
        *(
            "0/000.p",
            "0/000.p/",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/1.p/1",
            "0/000.p/1000",
            "0/000.P/1",
        ),
        *("0/000\n", " 0/000", "0/000 ", "0/\u0660\u0660\u0660", "\u0661/000", "0/\u00b2\u00b2\u00b2", "entries/000"),
        *(
            "tile/0/000",
            "0/../000",
            "0/%30%30%30",
            "0/x009/x223/x372/x036/x854/x775/808",
            "0/" + "x001/" * 99 + "000",
        ),
    ],
)
def test_other_paths_are_no_tiles(path: str) -> None:
    with pytest.raises(ValueError, match=r"not the path of a tile|there is no tile"):
        parse_tile_path(path)


@reaches(0.2)
@given(
    st.integers(0, 63),
    st.integers(0, 10**9),
    st.integers(1, 256),
    st.one_of(st.just(""), st.sampled_from(["0", "x", "/", ".p", "9", "\u0660"])),
    st.data(),
)
def test_a_path_is_read_exactly_or_refused(level: int, index: int, width: int, piece: str, data: st.DataObject) -> None:
    valid = tile_path(TileId(level, index), width).removeprefix("tile/")
    at = data.draw(st.integers(0, len(valid)))
    path = valid[:at] + piece + valid[at:]
    try:
        tile, read_width = parse_tile_path(path)
    except ValueError:
        assert path != valid
        return
    reached()
    assert tile_path(tile, read_width) == f"tile/{path}"


@pytest.mark.parametrize(
    ("tile", "width"),
    [(TileId(64, 0), 1), (TileId(-1, 0), 1), (TileId(0, -1), 1), (TileId(0, 0), 0), (TileId(0, 0), 257)],
)
def test_a_tile_that_cannot_be_has_no_path(tile: TileId, width: int) -> None:
    with pytest.raises(ValueError, match="there is no tile"):
        tile_path(tile, width)


def test_the_widths_of_the_specifications_examples() -> None:
    assert tile_widths(70_000) == ((0, 273, 112), (1, 1, 17), (2, 0, 1))
    assert tile_widths(256) == ((0, 1, 0), (1, 0, 1))
    assert tile_widths(0) == ()


# Growth.


def naive_tiles(leaves: list[bytes]) -> dict[TileId, bytes]:
    """All tiles over the leaves, partial ones too, straight from the definition of tlog-tiles."""
    tiles = {}
    level, row = 0, leaves
    while row:
        for start in range(0, len(row), TILE_WIDTH):
            tiles[TileId(level, start // TILE_WIDTH)] = b"".join(row[start : start + TILE_WIDTH])
        # A partial tile is not hashed into the level above.
        full = len(row) - len(row) % TILE_WIDTH
        row = [root_of(row[start : start + TILE_WIDTH]) for start in range(0, full, TILE_WIDTH)]
        level += 1
    return tiles


def tiles_of(edge: Edge, full: list[Tile]) -> dict[TileId, bytes]:
    """The full tiles that an edge has given back, and its partial ones."""
    tiles = dict(full)
    assert len(tiles) == len(full)
    for level, count, width in tile_widths(edge.size):
        assert len(edge.partial(level)) == width * HASH_BYTES
        if width:
            tiles[TileId(level, count)] = edge.partial(level)
    return tiles


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(250, 260), st.integers(0, 700)), max_size=8))
def test_an_edge_grown_in_any_batches_is_the_tree(batches: list[int]) -> None:
    edge, full = Edge(), []
    for batch in batches:
        full += edge.append(LEAVES[edge.size : edge.size + batch])
        assert edge.root() == root_of(LEAVES[: edge.size])

    assert edge.size == sum(batches)
    assert tiles_of(edge, full) == naive_tiles(LEAVES[: edge.size])
    assert edge.partial(7) == edge.partial(-1) == b""


@pytest.mark.parametrize("batch", [SIZE, 1000, 64])
def test_three_levels_of_tiles(batch: int) -> None:
    edge, full = Edge(), []
    for start in range(0, SIZE, batch):
        full += edge.append(LEAVES[start : start + batch])

    assert edge.root() == root_of(LEAVES)
    assert tiles_of(edge, full) == naive_tiles(LEAVES)


def test_tiles_come_after_those_they_are_made_of() -> None:
    tiles = Edge().append(LEAVES)
    assert [tile.id for tile in tiles] == [*(TileId(0, index) for index in range(273)), TileId(1, 0)]
    assert {len(tile.hashes) for tile in tiles} == {TILE_WIDTH * HASH_BYTES}


@given(st.integers(0, 2000), st.integers(0, 600))
def test_an_edge_resumed_goes_on_where_it_was(size: int, more: int) -> None:
    edge = Edge()
    edge.append(LEAVES[:size])
    resumed = Edge.resume(size, {level: edge.partial(level) for level, _, width in tile_widths(size) if width})

    assert (resumed.size, resumed.root()) == (size, root_of(LEAVES[:size]))
    assert resumed.append(LEAVES[size : size + more]) == edge.append(LEAVES[size : size + more])
    assert resumed.root() == edge.root() == root_of(LEAVES[: size + more])
    assert [resumed.partial(level) for level in range(3)] == [edge.partial(level) for level in range(3)]


def test_an_edge_resumed_with_three_levels() -> None:
    tiles = naive_tiles(LEAVES)
    edge = Edge.resume(SIZE, {0: tiles[TileId(0, 273)], 1: tiles[TileId(1, 1)], 2: tiles[TileId(2, 0)]})
    assert edge.root() == root_of(LEAVES)
    assert Edge.resume(0, {}).root() == EMPTY_ROOT


@pytest.mark.parametrize(
    ("size", "partials", "message"),
    [
        (3, {}, r"level 0 has 0 bytes; in a tree of 3 leaves it has 96"),
        (3, {0: b"x" * 64}, "level 0 has 64 bytes"),
        (3, {0: b"x" * 128}, "level 0 has 128 bytes"),
        (3, {0: b"x" * 95}, "level 0 has 95 bytes"),
        (3, {0: b"x" * 96, 1: b"x" * 32}, "level 1 has 32 bytes; in a tree of 3 leaves it has 0"),
        (256, {}, "level 1 has 0 bytes; in a tree of 256 leaves it has 32"),
        (256, {0: b"x" * 8192, 1: b"x" * 32}, "level 0 has 8192 bytes"),
        (0, {-1: b"x" * 32}, "level -1 has 32 bytes"),
        (-1, {}, "no tree of -1 leaves"),
        (2**63, {}, "no tree of 9223372036854775808 leaves"),
    ],
)
def test_an_edge_is_not_resumed_from_what_does_not_fit(size: int, partials: dict[int, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edge.resume(size, partials)


def test_a_copy_is_another_edge() -> None:
    edge = Edge()
    edge.append(LEAVES[:300])
    copy = edge.copy()
    partial, root = edge.partial(0), edge.root()
    copy.append(LEAVES[300:600])

    assert (edge.size, edge.root(), edge.partial(0)) == (300, root, partial)
    assert (copy.size, copy.root()) == (600, root_of(LEAVES[:600]))


@pytest.mark.parametrize("bad", [b"", b"x" * 31, b"x" * 33])
def test_what_is_no_hash_changes_nothing(bad: bytes) -> None:
    edge = Edge()
    edge.append(LEAVES[:10])
    with pytest.raises(ValueError, match="32 bytes"):
        edge.append([LEAVES[10], bad])
    assert (edge.size, edge.root(), edge.partial(0)) == (10, root_of(LEAVES[:10]), b"".join(LEAVES[:10]))


# Reading.


def test_roots_and_proofs_of_every_time_are_read_from_tiles() -> None:
    """Of any earlier size too: from the tiles that the tree has now, and from those it had then."""
    now = naive_tiles(LEAVES)
    chance = random.Random(4)
    sizes = [1, 255, 256, 257, 65_535, 65_536, 65_537, SIZE, *(chance.randrange(1, SIZE) for _ in range(12))]
    for size in sizes:
        leaves = LEAVES[:size]
        root = root_of(leaves)
        then = naive_tiles(leaves)
        for tiles in (now, then):
            peaks = subtrees(0, size)
            needed = {tile: tiles[tile] for tile in tiles_for((peaks,))}
            assert bag([hash_in_tiles(peak, needed) for peak in peaks]) == root
            for index in {0, size - 1, chance.randrange(size)}:
                proof = proof_from(inclusion_path(index, size), tiles)
                verify_inclusion(leaves[index], index, size, proof, root)
                old_size = index + 1
                proof = proof_from(consistency_path(old_size, size), tiles)
                verify_consistency(old_size, root_of(leaves[:old_size]), size, root, proof)


def proof_from(path: tuple[tuple[Subtree, ...], ...], tiles: dict[TileId, bytes]) -> tuple[bytes, ...]:
    needed = {tile: tiles[tile] for tile in tiles_for(path)}
    # One tile a level, and where a proof crosses the border, another.
    assert len(needed) <= 2 * 3
    return build_proof(path, lambda subtree: hash_in_tiles(subtree, needed))


@given(st.integers(0, 7), st.integers(1, 255))
def test_a_hash_beyond_a_partial_tile_is_an_error(level: int, width: int) -> None:
    leaves = LEAVES[:width]
    tiles = {TileId(0, 0): b"".join(leaves)}
    for index in range(TILE_WIDTH >> level):
        end = (index + 1) << level
        if end <= len(leaves):
            assert hash_in_tiles(Subtree(level, index), tiles) == root_of(leaves[index << level : end])
        else:
            with pytest.raises(ValueError, match=f"tile 0 of level 0 has {len(leaves)} hashes; .* needs {end}"):
                hash_in_tiles(Subtree(level, index), tiles)


def test_a_missing_tile_is_an_error() -> None:
    assert tiles_for([[Subtree(8, 0), Subtree(7, 1)], [Subtree(0, 300)]]) == {TileId(1, 0), TileId(0, 0), TileId(0, 1)}
    with pytest.raises(KeyError):
        hash_in_tiles(Subtree(8, 0), {TileId(0, 0): b"".join(LEAVES[:256])})
