"""The Merkle tree of RFC 6962: hashes, roots, and proofs of inclusion and consistency. Pure; imports nothing of ours.

A leaf is SHA-256(0x00 ‖ data), a node SHA-256(0x01 ‖ left ‖ right). Every proof is described first as *which* complete
subtrees its hashes are made of (``inclusion_path``, ``consistency_path``), so that the tree's storage can fetch them,
and then computed (``build_proof``). A hash over leaves whose number is not a power of two is *bagged* from the complete
subtrees that they fall into, from the right.

Source: RFC 6962 section 2.1; the verification is that of RFC 9162 sections 2.1.3.2 and 2.1.4.2, said with the bits of
index and size instead of shifting them step by step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
#: The root of the tree without leaves: SHA-256 of nothing.
EMPTY_ROOT: Final = hashlib.sha256().digest()
#: Sizes are 64-bit integers with a sign wherever they are exchanged.
MAX_SIZE: Final = 2**63 - 1

_NODE: Final = b"\x01"


class InvalidProof(ValueError):
    """The proof does not show what it should. The message names where it fails."""


class Subtree(NamedTuple):
    """The complete subtree over the leaves from ``index << level`` up to ``(index + 1) << level``, without the last."""

    level: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which means nothing here


def hash_children(left: bytes, right: bytes) -> bytes:
    """Returns the hash of an inner node, 32 bytes."""
    return hashlib.sha256(_NODE + left + right).digest()


def hash_pairs(hashes: Sequence[bytes]) -> list[bytes]:
    """Returns the nodes over each two neighbours. Where the number is odd, the last is left out."""
    sha256 = hashlib.sha256
    return [sha256(_NODE + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=False)]


def bag(hashes: Sequence[bytes]) -> bytes:
    """Returns the hash over subtrees that lie side by side, the larger first, folded from the right. Of none:
    EMPTY_ROOT.
    """
    if not hashes:
        return EMPTY_ROOT
    node = hashes[-1]
    for left in hashes[-2::-1]:
        node = hash_children(left, node)
    return node


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """Returns the root over these leaf hashes, 32 bytes each. Costs a hash a leaf."""
    nodes = list(leaf_hashes)
    while len(nodes) > 1:
        above = hash_pairs(nodes)
        if len(nodes) % 2:
            above.append(nodes[-1])
        nodes = above
    return nodes[0] if nodes else EMPTY_ROOT


# What a hash is made of.


def subtrees(start: int, end: int) -> tuple[Subtree, ...]:
    """Returns the largest complete subtrees over the leaves from ``start`` up to ``end``, without it, left to right.

    ``subtrees(0, size)`` are the peaks of a tree: bagged, they are its root. Raises ``ValueError`` for no such range.
    """
    if not 0 <= start <= end <= MAX_SIZE:
        raise ValueError(f"there is no range of leaves from {start} to {end}")
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, _trailing_zeros(start))
        found.append(Subtree(level, start >> level))
        start += 1 << level
    return tuple(found)


def inclusion_path(index: int, size: int) -> tuple[tuple[Subtree, ...], ...]:
    """For each hash of the inclusion proof of leaf ``index`` in the tree of ``size``: what it is bagged from.

    Source: RFC 6962 section 2.1.1. Raises ``ValueError`` unless the tree has that leaf.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    return tuple(_siblings(Subtree(0, index), size))


def consistency_path(old_size: int, size: int) -> tuple[tuple[Subtree, ...], ...]:
    """For each hash of the consistency proof between trees of two sizes: what it is bagged from.

    It proves that the larger begins with the smaller. No hash is needed between equal sizes, nor from the empty tree,
    which every tree begins with. Source: RFC 6962 section 2.1.2. Raises ``ValueError`` unless ``old_size`` is at most
    ``size``.
    """
    if not 0 <= old_size <= size <= MAX_SIZE:
        raise ValueError(f"a tree of {old_size} leaves is not a prefix of one of {size}")
    if old_size in (0, size):
        return ()
    seed = _last_peak(old_size)
    path = _siblings(seed, size)
    # The only peak of the old tree is its root, which the verifier has.
    return tuple(path) if seed.index == 0 else ((seed,), *path)


def build_proof(path: Iterable[Iterable[Subtree]], hash_of: Callable[[Subtree], bytes]) -> tuple[bytes, ...]:
    """Returns the hashes of a proof, from what they are made of and the hashes of that."""
    return tuple(bag([hash_of(subtree) for subtree in subtrees]) for subtrees in path)


def _siblings(node: Subtree, size: int) -> list[tuple[Subtree, ...]]:
    """Returns what stands beside the way from a complete subtree up to the root, from below."""
    level, index = node
    rejoined = _rejoined(index, (size - 1) >> level)
    found: list[tuple[Subtree, ...]] = []
    for _ in range(rejoined - 1):
        found.append((Subtree(level, index ^ 1),))
        level, index = level + 1, index >> 1
    if rejoined:
        # Where the way joins that of the last leaf: the sibling is whatever is left on the right.
        found.append(subtrees((index + 1) << level, size))
        level, index = level + 1, index >> 1
    while index:
        if index % 2:
            found.append((Subtree(level, index - 1),))
        level, index = level + 1, index >> 1
    return found


def _rejoined(index: int, last: int) -> int:
    """Returns how many levels up the way of a node to the root joins that of the last node of its level."""
    return (index ^ last).bit_length()


def _last_peak(size: int) -> Subtree:
    """Returns the smallest of the complete subtrees that a tree of ``size`` is bagged from."""
    level = _trailing_zeros(size)
    return Subtree(level, (size >> level) - 1)


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


# Verifying.


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the tree of ``size`` leaves with this root has this leaf at ``index``.

    Source: RFC 9162 section 2.1.3.2. Raises ``InvalidProof`` if that is not shown, and for an index, a size or hashes
    that no tree has.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise InvalidProof(f"a tree of {size} leaves has no leaf {index}")
    _check_hashes((leaf_hash, root, *proof))
    inner = _rejoined(index, size - 1)
    _check_length(proof, inner + (index >> inner).bit_count())
    node = _climb_border(_climb(leaf_hash, index, proof[:inner]), proof[inner:])
    if node != root:
        raise InvalidProof(f"the proof leads to the root {node.hex()}, not to {root.hex()}")


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``size`` with ``root`` begins with the tree of ``old_size`` with ``old_root``.

    Source: RFC 9162 section 2.1.4.2; beyond it, the empty tree is a beginning of every tree, which needs no proof (as
    in C2SP tlog-witness). Raises ``InvalidProof`` if that is not shown, and for sizes or hashes that no tree has.
    """
    if not 0 <= old_size <= size <= MAX_SIZE:
        raise InvalidProof(f"a tree of {old_size} leaves is not a prefix of one of {size}")
    _check_hashes((old_root, root, *proof))
    for count, claimed in ((old_size, old_root), (size, root)):
        if count == 0 and claimed != EMPTY_ROOT:
            raise InvalidProof(f"a tree without leaves has the root {EMPTY_ROOT.hex()}, not {claimed.hex()}")
    if old_size in (0, size):
        _check_length(proof, 0)
        if old_size == size and old_root != root:
            raise InvalidProof(f"two trees of {size} leaves have different roots: {old_root.hex()} and {root.hex()}")
        return
    level, index = _last_peak(old_size)
    inner = _rejoined(index, (size - 1) >> level)
    _check_length(proof, bool(index) + inner + (index >> inner).bit_count())
    seed, proof = (proof[0], proof[1:]) if index else (old_root, proof)
    # The old tree ends with the seed: whatever stands to the right of the way up from there is new.
    lefts = [sibling for height, sibling in enumerate(proof[:inner]) if index >> height & 1]
    old = _climb_border(_climb_border(seed, lefts), proof[inner:])
    if old != old_root:
        raise InvalidProof(f"the proof leads to the old root {old.hex()}, not to {old_root.hex()}")
    new = _climb_border(_climb(seed, index, proof[:inner]), proof[inner:])
    if new != root:
        raise InvalidProof(f"the proof leads to the root {new.hex()}, not to {root.hex()}")


def _climb(node: bytes, index: int, siblings: Sequence[bytes]) -> bytes:
    """Returns the way up from the node with this index, whose bits say on which side the siblings are."""
    for sibling in siblings:
        node = hash_children(sibling, node) if index & 1 else hash_children(node, sibling)
        index >>= 1
    return node


def _climb_border(node: bytes, siblings: Sequence[bytes]) -> bytes:
    """Returns the way up along the right border: every sibling is on the left."""
    for sibling in siblings:
        node = hash_children(sibling, node)
    return node


def _check_hashes(hashes: Iterable[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise InvalidProof(f"a hash has {HASH_BYTES} bytes, not {len(value)}")


def _check_length(proof: Sequence[bytes], expected: int) -> None:
    if len(proof) != expected:
        raise InvalidProof(f"the proof has {len(proof)} hashes, where {expected} are needed")
