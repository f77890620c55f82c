"""One proof that many leaves are in the log's tree: the hashes of all that lies between them.

The root over a range of leaves is defined by halving it (RFC 6962 section 2.1): the left part has the largest power of
two of leaves that is smaller than the whole. Going down that way, left before right, a range without any of the leaves
that are to be proven is not entered: its root is the proof's next hash. A single leaf that is to be proven is its own
hash. So a proof is a list of hashes in the order of this walk, and its checker walks the same way, takes a hash where
it does not enter, and arrives at the root. Of k leaves in a tree of n it has some k·log2(n/k) hashes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from trustgate.receipts.merkle import HASH_BYTES, InvalidProof, hash_children


def uncovered(indices: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Returns the ranges of leaves, first and one past the last, whose roots are the proof, in its order.

    ``indices`` of the leaves that are to be proven rise. Raises ``ValueError`` unless a tree of ``size`` has them.
    """
    _check(indices, size)
    found: list[tuple[int, int]] = []

    def walk(start: int, end: int, first: int, last: int) -> None:
        if first == last:
            found.append((start, end))
        elif end - start > 1:
            middle = start + _left(end - start)
            split = bisect_left(indices, middle, first, last)
            walk(start, middle, first, split)
            walk(middle, end, split, last)

    walk(0, size, 0, len(indices))
    return found


def batch_root(indices: Sequence[int], leaves: Sequence[bytes], size: int, proof: Sequence[bytes]) -> bytes:
    """Returns the root of a tree of ``size`` leaves that has these leaf hashes at these places and, for the rest, the
    proof's hashes.

    Raises ``InvalidProof`` for places that no such tree has, and unless the proof has exactly the hashes it needs.
    """
    try:
        _check(indices, size)
    except ValueError as error:
        raise InvalidProof(str(error)) from None
    if any(len(found) != HASH_BYTES for found in (*leaves, *proof)) or len(leaves) != len(indices):
        raise InvalidProof("a hash has another length, or a leaf has no place")
    given = iter(proof)

    def walk(start: int, end: int, first: int, last: int) -> bytes:
        if first == last:
            found = next(given, None)
            if found is None:
                raise InvalidProof("the proof has too few hashes")
            return found
        if end - start == 1:
            return leaves[first]
        middle = start + _left(end - start)
        split = bisect_left(indices, middle, first, last)
        left = walk(start, middle, first, split)
        return hash_children(left, walk(middle, end, split, last))

    root = walk(0, size, 0, len(indices))
    if next(given, None) is not None:
        raise InvalidProof("the proof has more hashes than it needs")
    return root


def _left(count: int) -> int:
    """Returns how many of so many leaves, two at least, are in the left half."""
    return 1 << ((count - 1).bit_length() - 1)


def _check(indices: Sequence[int], size: int) -> None:
    if not indices or indices[0] < 0 or indices[-1] >= size:
        raise ValueError(f"a tree of {size} leaves does not have these")
    if any(later <= earlier for earlier, later in pairwise(indices)):
        raise ValueError("the places do not rise")
