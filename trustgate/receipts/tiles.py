"""Tiles: how the tree's hashes are cut up to be stored and published, and the right border that grows.

Owns the addresses and contents of tiles, and ``Edge``. A tile of level *l* is up to 256 neighbouring hashes of height
8·*l*; level 0 has the leaf hashes, level 1 the roots of the full tiles of level 0, and so on. What lies between is
hashed again when needed. A full tile never changes.

Source: C2SP tlog-tiles. Hashes only: entries are not published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from trustgate.receipts.merkle import HASH_BYTES, MAX_SIZE, Subtree, bag, hash_pairs

TILE_WIDTH: Final = 256
#: The levels of the tree from one level of tiles to the next: 2⁸ hashes are a tile.
TILE_HEIGHT: Final = 8

_PATH: Final = re.compile(r"(0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_MAX_LEVEL: Final = 63


class TileId(NamedTuple):
    level: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which means nothing here


class Tile(NamedTuple):
    id: TileId
    #: 32 bytes each, left to right.
    hashes: bytes


# Addresses.


def tile_path(tile: TileId, width: int = TILE_WIDTH) -> str:
    """Returns the path of a tile of so many hashes, under a log's prefix: ``tile/0/x001/x234/067``,
    ``tile/0/001.p/17``.

    Raises ``ValueError`` for a tile that cannot be.
    """
    if not (0 <= tile.level <= _MAX_LEVEL and 0 <= tile.index <= MAX_SIZE and 1 <= width <= TILE_WIDTH):
        raise ValueError(f"there is no tile {tile.index} of level {tile.level} with {width} hashes")
    path = f"{tile.index % 1000:03}"
    rest = tile.index // 1000
    while rest:
        path = f"x{rest % 1000:03}/{path}"
        rest //= 1000
    return f"tile/{tile.level}/{path}" + ("" if width == TILE_WIDTH else f".p/{width}")


def parse_tile_path(path: str) -> tuple[TileId, int]:
    """Returns the tile, and its width, at a path without its first element: ``0/x001/x234/067`` or ``0/001.p/17``.

    Raises ``ValueError`` for anything that ``tile_path`` would not write.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise ValueError("not the path of a tile")
    tile = TileId(int(found[1]), int(found[2].replace("x", "").replace("/", "")))
    width = TILE_WIDTH if found[3] is None else int(found[3])
    # A full tile with a width, or an index with more digits than it needs, would be a second address of one thing.
    if tile_path(tile, width) != f"tile/{path}":
        raise ValueError("not the path of a tile")
    return tile, width


def tile_widths(size: int) -> tuple[tuple[int, int, int], ...]:
    """For each level of tiles of a tree: the level, how many tiles are full, the width of the unfinished one (or 0)."""
    found = []
    level, count = 0, size
    while count:
        found.append((level, count // TILE_WIDTH, count % TILE_WIDTH))
        level, count = level + 1, count // TILE_WIDTH
    return tuple(found)


# Reading subtrees.


def tiles_for(path: Iterable[Iterable[Subtree]]) -> frozenset[TileId]:
    """Returns the tiles that the hashes of these subtrees are in. For a root, give ``(subtrees(0, size),)``."""
    return frozenset(_home(subtree)[0] for group in path for subtree in group)


def hash_in_tiles(subtree: Subtree, tiles: Mapping[TileId, bytes]) -> bytes:
    """Returns the hash of a subtree, from the tile that ``tiles_for`` names. That may be as narrow as the tree it is
    of.

    Raises ``KeyError`` if the tile is missing, ``ValueError`` if it does not reach as far as the subtree.
    """
    tile, first, count = _home(subtree)
    hashes = tiles[tile]
    end = (first + count) * HASH_BYTES
    if end > len(hashes):
        raise ValueError(
            f"tile {tile.index} of level {tile.level} has {len(hashes) // HASH_BYTES} hashes; the subtree "
            f"{subtree.index} of level {subtree.level} needs {first + count}"
        )
    return _fold(_split(hashes[first * HASH_BYTES : end]))


def _home(subtree: Subtree) -> tuple[TileId, int, int]:
    """Returns the tile that a subtree is in, its first hash there, and how many it spans."""
    level, height = divmod(subtree.level, TILE_HEIGHT)
    index, first = divmod(subtree.index << height, TILE_WIDTH)
    return TileId(level, index), first, 1 << height


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]


def _fold(nodes: list[bytes]) -> bytes:
    """Returns the root over a number of hashes that is a power of two."""
    while len(nodes) > 1:
        nodes = hash_pairs(nodes)
    return nodes[0]


# Growing.


class Edge:
    """The right border of a tree: all that is needed to append to it, and for its root.

    Owns the unfinished tile of each level (at most 8 KiB each), and the root of each complete subtree in it that no
    larger one holds. Give a copy away, or append to one, rather than to something that others look at.
    """

    def __init__(self) -> None:
        """The border of the tree without leaves."""
        self._size = 0
        #: By level of tiles.
        self._partials: list[bytes] = []
        #: By height: the peak of that height, where bit ``height`` of the size is set. 1,000,000 leaves have 7.
        self._peaks: list[bytes | None] = []

    @classmethod
    def resume(cls, size: int, partials: Mapping[int, bytes]) -> Edge:
        """Returns the border of a tree of ``size`` leaves, from the unfinished tile of each level that has one.

        Their width follows from the size (``tile_widths``); a level whose tile has no hashes may be left out. Raises
        ``ValueError`` if they do not fit the size.
        """
        if not 0 <= size <= MAX_SIZE:
            raise ValueError(f"there is no tree of {size} leaves")
        edge = cls()
        edge._size = size
        expected = {level: width for level, _, width in tile_widths(size)}
        for level in expected.keys() | partials.keys():
            width, found = expected.get(level, 0), len(partials.get(level, b""))
            if found != width * HASH_BYTES:
                raise ValueError(
                    f"the unfinished tile of level {level} has {found} bytes; in a tree of {size} leaves it has "
                    f"{width * HASH_BYTES}"
                )
        for level in sorted(expected):
            hashes = partials.get(level, b"")
            edge._partials.append(bytes(hashes))
            edge._peaks += _peaks_in(_split(hashes))
        return edge

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self._size

    def root(self) -> bytes:
        """Returns the root of the tree, 32 bytes. Costs a hash for each one in the binary form of the size."""
        return bag([peak for peak in reversed(self._peaks) if peak is not None])

    def append(self, leaf_hashes: Sequence[bytes]) -> list[Tile]:
        """Add leaves; gives back the tiles that are full now, of every level, the lower levels first.

        Costs a hash a leaf, so that it pays to append many at once. Raises ``ValueError``, having changed nothing,
        unless each has 32 bytes.
        """
        if not set(map(len, leaf_hashes)) <= {HASH_BYTES}:
            raise ValueError(f"a leaf hash has {HASH_BYTES} bytes")
        tiles: list[Tile] = []
        nodes, height = list(leaf_hashes), 0
        while nodes:
            if height == len(self._peaks):
                self._peaks.append(None)
            if height % TILE_HEIGHT == 0:
                tiles += self._store(height // TILE_HEIGHT, nodes)
            waiting = self._peaks[height]
            if waiting is not None:
                nodes.insert(0, waiting)
            self._peaks[height] = nodes[-1] if len(nodes) % 2 else None
            nodes, height = hash_pairs(nodes), height + 1
        self._size += len(leaf_hashes)
        return tiles

    def partial(self, level: int) -> bytes:
        """Returns the hashes of the unfinished tile of a level; none where the last tile is full, or above the tree."""
        return self._partials[level] if 0 <= level < len(self._partials) else b""

    def copy(self) -> Edge:
        """Another border of the same tree. Cheap: the hashes are shared."""
        edge = Edge()
        edge._size, edge._partials, edge._peaks = self._size, list(self._partials), list(self._peaks)
        return edge

    def _store(self, level: int, hashes: Sequence[bytes]) -> list[Tile]:
        """Add hashes to a level's unfinished tile; gives back those that are full now."""
        if level == len(self._partials):
            self._partials.append(b"")
        done = (self._size >> (TILE_HEIGHT * level)) // TILE_WIDTH
        joined = b"".join((self._partials[level], *hashes))
        full, step = len(joined) // (TILE_WIDTH * HASH_BYTES), TILE_WIDTH * HASH_BYTES
        self._partials[level] = joined[full * step :]
        return [Tile(TileId(level, done + n), joined[n * step : (n + 1) * step]) for n in range(full)]


def _peaks_in(hashes: list[bytes]) -> list[bytes | None]:
    """Returns the peaks of heights 0 to 7 over the hashes of an unfinished tile."""
    peaks: list[bytes | None] = [None] * TILE_HEIGHT
    start = 0
    for height in reversed(range(TILE_HEIGHT)):
        if len(hashes) >> height & 1:
            peaks[height] = _fold(hashes[start : start + (1 << height)])
            start += 1 << height
    return peaks
