"""The tree: published vectors, an independent library, every small proof there is, and damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pymerkle  # type: ignore[import-untyped]  # it has none
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.receipts.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    InvalidProof,
    Subtree,
    bag,
    build_proof,
    consistency_path,
    hash_children,
    inclusion_path,
    root_of,
    subtrees,
    verify_consistency,
    verify_inclusion,
)
from trustgate.receipts.receipt import leaf_hash_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "rfc6962.json").read_text())
#: All proofs are checked for trees up to this size.
MOST = 300


class Forest:
    """The trees over the first leaves of a row: every subtree's hash is computed once."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = [leaf_hash_of(leaf) for leaf in leaves]
        self.hash_of: Callable[[Subtree], bytes] = cache(self._hash_of)
        self.roots = [bag([self.hash_of(peak) for peak in subtrees(0, size)]) for size in range(len(leaves) + 1)]

    def _hash_of(self, subtree: Subtree) -> bytes:
        if subtree.level == 0:
            return self.leaves[subtree.index]
        level, index = subtree.level - 1, 2 * subtree.index
        return hash_children(self.hash_of(Subtree(level, index)), self.hash_of(Subtree(level, index + 1)))

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        return build_proof(inclusion_path(index, size), self.hash_of)

    def consistency(self, old_size: int, size: int) -> tuple[bytes, ...]:
        return build_proof(consistency_path(old_size, size), self.hash_of)


FOREST = Forest([number.to_bytes(2, "big") for number in range(MOST)])

# Published vectors.


def test_the_published_tree_of_eight_leaves() -> None:
    leaves = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
    published = Forest(leaves)

    assert [found.hex() for found in published.leaves] == VECTORS["leaf_hashes"]
    assert [found.hex() for found in published.roots] == VECTORS["roots"]
    assert [root_of(published.leaves[:size]).hex() for size in range(9)] == VECTORS["roots"]
    for case in VECTORS["inclusion"]:
        index, size = case["index"], case["size"]
        proof = [bytes.fromhex(found) for found in case["hashes"]]
        assert list(published.inclusion(index, size)) == proof
        verify_inclusion(published.leaves[index], index, size, proof, published.roots[size])
    for case in VECTORS["consistency"]:
        old_size, size = case["old_size"], case["size"]
        proof = [bytes.fromhex(found) for found in case["hashes"]]
        assert list(published.consistency(old_size, size)) == proof
        verify_consistency(old_size, published.roots[old_size], size, published.roots[size], proof)


def test_the_example_of_rfc_6962() -> None:
    """Section 2.1.3: a tree of seven leaves, whose hashes are named a to l by the RFC."""
    names = dict(zip("abcdefj", [Subtree(0, index) for index in range(7)], strict=True))
    names |= {"g": Subtree(1, 0), "h": Subtree(1, 1), "i": Subtree(1, 2), "k": Subtree(2, 0)}

    def named(expected: str) -> tuple[tuple[Subtree, ...], ...]:
        # l is the hash over i and j.
        return tuple((names["i"], names["j"]) if name == "l" else (names[name],) for name in expected)

    assert inclusion_path(0, 7) == named("bhl")
    assert inclusion_path(3, 7) == named("cgl")
    assert inclusion_path(4, 7) == named("fjk")
    assert inclusion_path(6, 7) == named("ik")
    assert consistency_path(3, 7) == named("cdgl")
    assert consistency_path(4, 7) == named("l")
    assert consistency_path(6, 7) == named("ijk")


def test_the_published_digest_over_all_subtrees() -> None:
    """Every subtree [start, end) of a larger tree, and every inclusion proof in it."""
    wanted = VECTORS["all_subtrees"]
    forest = Forest([bytes([number]) for number in range(wanted["leaves"])])
    hashes, proofs = hashlib.sha256(), hashlib.sha256()
    for end in range(wanted["leaves"] + 1):
        for start in range(end + 1):
            if start % (1 << max(end - start - 1, 0).bit_length()) and start != end:
                continue  # no such subtree
            hashes.update(f"[{start}, {end}) {bag([forest.hash_of(s) for s in subtrees(start, end)]).hex()}\n".encode())
            for index in range(start, end):
                moved = [
                    [Subtree(s.level, s.index + (start >> s.level)) for s in group]
                    for group in inclusion_path(index - start, end - start)
                ]
                line = [f"{index} [{start}, {end})", *(found.hex() for found in build_proof(moved, forest.hash_of))]
                proofs.update(f"{' '.join(line)}\n".encode())

    assert hashes.hexdigest() == wanted["hashes_sha256"]
    assert proofs.hexdigest() == wanted["inclusion_proofs_sha256"]


# Every small proof, against an independent library.


@pytest.fixture(scope="module")
def oracle() -> pymerkle.InmemoryTree:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for number in range(MOST):
        tree.append_entry(number.to_bytes(2, "big"))
    return tree


def test_every_root(oracle: pymerkle.InmemoryTree) -> None:
    for size in range(MOST + 1):
        assert oracle.get_root(size) == FOREST.roots[size] == root_of(FOREST.leaves[:size])


def test_every_inclusion_proof(oracle: pymerkle.InmemoryTree) -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = FOREST.inclusion(index, size)
            verify_inclusion(FOREST.leaves[index], index, size, proof, FOREST.roots[size])
            # Theirs counts from 1, and begins with the leaf itself.
            theirs = oracle.prove_inclusion(index + 1, size)
            assert theirs.path == [FOREST.leaves[index], *proof]


def test_every_consistency_proof(oracle: pymerkle.InmemoryTree) -> None:
    for size in range(1, MOST + 1):
        for old_size in range(1, size + 1):
            proof = FOREST.consistency(old_size, size)
            verify_consistency(old_size, FOREST.roots[old_size], size, FOREST.roots[size], proof)
            assert in_order_of_the_rfc(oracle.prove_consistency(old_size, size)) == list(proof)


def in_order_of_the_rfc(theirs: pymerkle.ConsistencyProof) -> list[bytes]:
    """Their proof begins with the first new leaf and climbs to the old tree's last peak.

    The RFC's begins with that peak, unless it is the old root, and has what stands to the right of it as one hash.
    """
    if 0 not in theirs.subset:
        return []  # equal sizes
    peak = theirs.subset.index(1)
    right = theirs.path[0]
    for sibling in theirs.path[1:peak]:
        right = hash_children(right, sibling)
    only_peak = theirs.subset.count(1) == 1
    return [*([] if only_peak else [theirs.path[peak]]), right, *theirs.path[peak + 1 :]]


@pytest.mark.parametrize("size", [1, 2, 7, 8, 255, 256, 257, 299])
def test_their_verifier_takes_our_proofs(oracle: pymerkle.InmemoryTree, size: int) -> None:
    for index in range(0, size, 7):
        theirs = oracle.prove_inclusion(index + 1, size)
        theirs.path = [FOREST.leaves[index], *FOREST.inclusion(index, size)]
        pymerkle.verify_inclusion(FOREST.leaves[index], FOREST.roots[size], theirs, index=index + 1, size=size)


# The shape of proofs in trees too large to build.


def spans(groups: tuple[tuple[Subtree, ...], ...]) -> list[tuple[int, int]]:
    """The range of leaves of each group, whose subtrees must lie side by side, the larger first."""
    found = []
    for group in groups:
        ranges = [(s.index << s.level, (s.index + 1) << s.level) for s in group]
        assert all(left[1] == right[0] for left, right in pairwise(ranges))
        assert [s.level for s in group] == sorted({s.level for s in group}, reverse=True)
        found.append((ranges[0][0], ranges[-1][1]))
    return found


def split(size: int) -> int:
    """The largest power of two below the size: k of RFC 6962."""
    return 1 << (size - 1).bit_length() - 1


def rfc_path(index: int, start: int, end: int) -> list[tuple[int, int]]:
    """PATH of RFC 6962 section 2.1.1, as ranges of leaves."""
    if end - start == 1:
        return []
    middle = start + split(end - start)
    if index < middle:
        return [*rfc_path(index, start, middle), (middle, end)]
    return [*rfc_path(index, middle, end), (start, middle)]


def rfc_subproof(old_end: int, start: int, end: int, known: bool) -> list[tuple[int, int]]:
    """SUBPROOF of RFC 6962 section 2.1.2, as ranges of leaves."""
    if old_end == end:
        return [] if known else [(start, end)]
    middle = start + split(end - start)
    if old_end <= middle:
        return [*rfc_subproof(old_end, start, middle, known), (middle, end)]
    return [*rfc_subproof(old_end, middle, end, False), (start, middle)]


@given(st.data(), st.integers(0, 62))
def test_proofs_in_large_trees_have_the_shape_of_the_rfc(data: st.DataObject, bits: int) -> None:
    size = data.draw(st.integers(1, min(2 << bits, MAX_SIZE)))
    index = data.draw(st.integers(0, size - 1))
    assert spans(inclusion_path(index, size)) == rfc_path(index, 0, size)
    assert spans(consistency_path(index + 1, size)) == rfc_subproof(index + 1, 0, size, True)


@given(st.integers(0, MAX_SIZE), st.integers(0, MAX_SIZE))
def test_subtrees_fill_a_range_with_as_few_as_possible(one: int, other: int) -> None:
    start, end = sorted((one, other))
    at = start
    found = subtrees(start, end)
    for subtree in found:
        assert subtree.index << subtree.level == at
        at += 1 << subtree.level
    assert at == end
    joinable = [(a, b) for a, b in pairwise(found) if a.level == b.level and a.index % 2 == 0]
    assert joinable == []


# Damage.


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ (1 << bit % (8 * len(value)))).to_bytes(len(value), "big")


def damaged(data: st.DataObject, proof: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Another proof: a bit flipped, a hash dropped, doubled, added, cut or lengthened, or two swapped."""
    hashes = list(proof)
    at = data.draw(st.integers(0, max(0, len(hashes) - 1)), label="at")
    kinds = ["add"] + (["flip", "drop", "double", "cut", "lengthen"] if hashes else [])
    kinds += ["swap"] if len(hashes) > 1 else []
    match data.draw(st.sampled_from(kinds), label="damage"):
        case "flip":
            hashes[at] = flipped(hashes[at], data.draw(st.integers(0, 255)))
        case "drop":
            del hashes[at]
        case "double":
            hashes.insert(at, hashes[at])
        case "cut":
            hashes[at] = hashes[at][:-1]
        case "lengthen":
            hashes[at] += b"\0"
        case "swap":
            other = data.draw(st.integers(0, len(hashes) - 1).filter(lambda chosen: chosen != at))
            hashes[at], hashes[other] = hashes[other], hashes[at]
        case "add":
            added = data.draw(st.sampled_from([bytes(32), EMPTY_ROOT, b"", FOREST.roots[MOST]]))
            hashes.insert(data.draw(st.integers(0, len(hashes))), added)
    return tuple(hashes)


@st.composite
def inclusions(draw: st.DrawFn) -> tuple[int, int]:
    """An index and the size of a tree that has it."""
    size = draw(st.integers(1, MOST))
    return draw(st.integers(0, size - 1)), size


@given(inclusions(), st.data())
def test_a_damaged_inclusion_proof_is_refused(case: tuple[int, int], data: st.DataObject) -> None:
    index, size = case
    proof = damaged(data, FOREST.inclusion(index, size))
    with pytest.raises(InvalidProof):
        verify_inclusion(FOREST.leaves[index], index, size, proof, FOREST.roots[size])


@given(inclusions(), inclusions(), st.integers(0, 255))
def test_a_proof_of_something_else_is_refused(case: tuple[int, int], other: tuple[int, int], bit: int) -> None:
    index, size = case
    proof = FOREST.inclusion(index, size)
    leaf, root = FOREST.leaves[index], FOREST.roots[size]
    lies = [(flipped(leaf, bit), index, size, root), (leaf, index, size, flipped(root, bit))]
    if other[0] != index:
        lies.append((FOREST.leaves[other[0]], index, size, root))
        lies.append((leaf, other[0], size, root))
    if other[1] != size:
        lies.append((leaf, index, other[1], FOREST.roots[other[1]]))
        lies.append((leaf, index, size, FOREST.roots[other[1]]))
    if other[1] > index and len(inclusion_path(index, other[1])) != len(proof):
        lies.append((leaf, index, other[1], root))
    for lie in lies:
        with pytest.raises(InvalidProof):
            verify_inclusion(*lie[:3], proof, lie[3])


@given(inclusions(), st.data())
def test_a_damaged_consistency_proof_is_refused(case: tuple[int, int], data: st.DataObject) -> None:
    old_size, size = case[0] + 1, case[1]
    proof = damaged(data, FOREST.consistency(old_size, size))
    with pytest.raises(InvalidProof):
        verify_consistency(old_size, FOREST.roots[old_size], size, FOREST.roots[size], proof)


@given(inclusions(), st.integers(0, MOST), st.integers(0, 255))
def test_a_consistency_proof_of_something_else_is_refused(case: tuple[int, int], other: int, bit: int) -> None:
    old_size, size = case[0] + 1, case[1]
    proof = FOREST.consistency(old_size, size)
    old_root, root = FOREST.roots[old_size], FOREST.roots[size]
    lies = [
        (old_size, flipped(old_root, bit), size, root),
        (old_size, old_root, size, flipped(root, bit)),
        (0, old_root, size, root),
    ]
    if other != old_size:
        lies.append((old_size, FOREST.roots[other], size, root))
        # From a tree without leaves, and between equal sizes, no proof is needed: there an empty one is none too many.
        if (proof or other not in (0, size)) and other <= size:
            lies.append((other, FOREST.roots[other], size, root))
    if other != size:
        lies.append((old_size, old_root, size, FOREST.roots[other]))
        if (proof or other != old_size) and other >= old_size:
            lies.append((old_size, old_root, other, FOREST.roots[other]))
        if other >= old_size and len(consistency_path(old_size, other)) != len(proof):
            lies.append((old_size, old_root, other, root))
    for lie in lies:
        with pytest.raises(InvalidProof):
            verify_consistency(*lie, proof)


def test_hashes_of_other_lengths_are_refused_where_they_join_to_the_same() -> None:
    """A node is hashed over two hashes without a seam: a byte moved from one to the other would not show."""
    leaf, (sibling, *rest) = FOREST.leaves[0], FOREST.inclusion(0, 8)
    with pytest.raises(InvalidProof, match="a hash has 32 bytes, not 33"):
        verify_inclusion(leaf + sibling[:1], 0, 8, [sibling[1:], *rest], FOREST.roots[8])
    old_root, (sibling, *rest) = FOREST.roots[4], FOREST.consistency(4, 8)
    with pytest.raises(InvalidProof, match="a hash has 32 bytes, not 33"):
        verify_consistency(4, old_root + sibling[:1], 8, FOREST.roots[8], [sibling[1:], *rest])


#: Bits of index and size decide the shape of a proof, so that neighbours of powers of two matter.
numbers = st.one_of(st.integers(-2, 70), st.integers(-(2**70), 2**70))
hostile_hashes = st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40))


@given(hostile_hashes, numbers, numbers, st.lists(hostile_hashes, max_size=8), hostile_hashes)
def test_garbage_is_refused_and_nothing_worse(
    one: bytes, number: int, size: int, proof: list[bytes], other: bytes
) -> None:
    with pytest.raises(InvalidProof):
        verify_inclusion(one, number, size, [*proof, other], other)
    with pytest.raises(InvalidProof):
        verify_consistency(number, one, size, other + b"!", proof)


@pytest.mark.parametrize("size", [1, 2, 6, 7, 8, 13])
def test_no_beginning_of_a_proof_is_enough(size: int) -> None:
    for index in range(size):
        proof = FOREST.inclusion(index, size)
        for kept in range(len(proof)):
            with pytest.raises(InvalidProof, match=f"the proof has {kept} hashes, where {len(proof)} are needed"):
                verify_inclusion(FOREST.leaves[index], index, size, proof[:kept], FOREST.roots[size])
        old_size = index + 1
        proof = FOREST.consistency(old_size, size)
        for kept in range(len(proof)):
            with pytest.raises(InvalidProof, match=f"the proof has {kept} hashes, where {len(proof)} are needed"):
                verify_consistency(old_size, FOREST.roots[old_size], size, FOREST.roots[size], proof[:kept])


# Bounds.


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 4), (0, -1), (0, MAX_SIZE + 1)])
def test_a_leaf_that_the_tree_lacks(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        inclusion_path(index, size)
    with pytest.raises(InvalidProof, match="has no leaf"):
        verify_inclusion(EMPTY_ROOT, index, size, [], EMPTY_ROOT)


@pytest.mark.parametrize(("old_size", "size"), [(1, 0), (-1, 1), (-2, -1), (5, 4), (1, MAX_SIZE + 1)])
def test_a_beginning_that_is_none(old_size: int, size: int) -> None:
    with pytest.raises(ValueError, match="is not a prefix"):
        consistency_path(old_size, size)
    with pytest.raises(InvalidProof, match="is not a prefix"):
        verify_consistency(old_size, EMPTY_ROOT, size, EMPTY_ROOT, [])
    with pytest.raises(ValueError, match="no range"):
        subtrees(old_size, size)


def test_the_largest_tree_can_be_spoken_of() -> None:
    assert len(inclusion_path(0, MAX_SIZE)) == len(inclusion_path(MAX_SIZE - 1, MAX_SIZE)) + 1 == 63
    assert len(subtrees(0, MAX_SIZE)) == 63


def test_every_tree_begins_with_the_empty_one() -> None:
    verify_consistency(0, EMPTY_ROOT, 3, FOREST.roots[3], [])
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    assert consistency_path(0, 3) == consistency_path(3, 3) == ()
    with pytest.raises(InvalidProof, match="1 hashes, where 0 are needed"):
        verify_consistency(0, EMPTY_ROOT, 3, FOREST.roots[3], [EMPTY_ROOT])
    with pytest.raises(InvalidProof, match="without leaves has the root e3b0"):
        verify_consistency(0, FOREST.roots[3], 0, FOREST.roots[3], [])


def test_two_roots_for_one_size_are_a_fork() -> None:
    with pytest.raises(InvalidProof, match="two trees of 3 leaves have different roots"):
        verify_consistency(3, FOREST.roots[3], 3, FOREST.roots[4], [])
