"""The proof that travels: its form, and the whole chain of checks from a leaf to a signed checkpoint."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reached import reached, reaches
from trustgate.errors import VerificationFailed
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.merkle import InvalidProof, Subtree, build_proof, inclusion_path, root_of, verify_inclusion
from trustgate.receipts.proof import InclusionProof, format_proof, parse_proof

#: The hashes and checkpoint of the example in C2SP tlog-proof, whose signatures are shortened there.
HASHES = [
    "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=",
    "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=",
    "EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=",
    "RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=",
    "AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=",
]
CHECKPOINT = (
    "example.com/fancylog\n109482\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n"
    "— example.com/fancylog hI2DJw==\n— witness1.example mJirIklj\n"
)
EXAMPLE = "\n".join(["c2sp.org/tlog-proof@v1", "index 73894", *HASHES, "", CHECKPOINT])

KEY = LogKey.generate("example.com/log")
LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(7)]
SIGNED = sign_checkpoint(Checkpoint(KEY.name, 7, root_of(LEAVES)), KEY)


def prove(index: int, extra: bytes = b"") -> bytes:
    def hash_of(subtree: Subtree) -> bytes:
        return root_of(LEAVES[subtree.index << subtree.level : (subtree.index + 1) << subtree.level])

    return format_proof(InclusionProof(index, build_proof(inclusion_path(index, 7), hash_of), SIGNED, extra))


def check(data: bytes, leaf: bytes) -> InclusionProof:
    """Everything that a stranger checks."""
    proof = parse_proof(data)
    checkpoint = open_checkpoint(proof.checkpoint, KEY.verifier)
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return proof


def test_the_specifications_example() -> None:
    proof = parse_proof(EXAMPLE.encode())
    assert proof == InclusionProof(73894, tuple(base64.b64decode(found) for found in HASHES), CHECKPOINT.encode())
    assert format_proof(proof) == EXAMPLE.encode()


def test_extra_data_stand_in_the_second_line() -> None:
    with_extra = EXAMPLE.replace("index", "extra bm90IGF1dGhlbnRpY2F0ZWQ=\nindex")
    proof = parse_proof(with_extra.encode())
    assert proof.extra == b"not authenticated"
    assert format_proof(proof) == with_extra.encode()


@pytest.mark.parametrize("index", range(7))
def test_from_the_leaf_to_the_signature(index: int) -> None:
    proof = check(prove(index, extra=b"anything"), LEAVES[index])
    assert proof.extra == b"anything"
    with pytest.raises(InvalidProof):
        check(prove(index), LEAVES[index - 1])


def test_the_proof_of_the_only_leaf_has_no_hashes() -> None:
    checkpoint = sign_checkpoint(Checkpoint(KEY.name, 1, LEAVES[0]), KEY)
    data = format_proof(InclusionProof(0, (), checkpoint))
    assert data == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + checkpoint
    check(data, LEAVES[0])


# Hostile proofs.

GOOD = prove(2)
HEAD, _, BELOW = GOOD.partition(b"\n\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its first line is not"),
        (BELOW, "its first line is not"),
        (b"\n" + GOOD, "its first line is not"),
        (GOOD.replace(b"@v1", b"@v2"), "its first line is not"),
        (GOOD.replace(b"\n", b"\r\n"), "its first line is not"),
        (b"\xef\xbb\xbf" + GOOD, "its first line is not"),
        (b"c2sp.org/tlog-proof@v1\n\n" + BELOW, "does not say the index"),
        (HEAD, "has no checkpoint"),
        (HEAD + b"\n", "has no checkpoint"),
        (HEAD + b"\n\n", "has no checkpoint"),
        (HEAD + b"\n" + BELOW, "not a hash"),
        (GOOD.replace(b"index 2", b"index"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index "), "does not say the index"),
        (GOOD.replace(b"index 2", b"Index 2"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index  2"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index 02"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index -2"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index 2 "), "does not say the index"),
        (GOOD.replace(b"index 2", b"index \xd9\xa2"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index 9223372036854775807"), "does not say the index"),
        (GOOD.replace(b"index 2", b"index " + b"9" * 5000), "does not say the index"),
        (GOOD.replace(b"index 2\n", b""), "does not say the index"),
        (GOOD.replace(b"index 2", b"index 2\nindex 2"), "not a hash"),
        (GOOD.replace(b"index 2", b"index 2\nextra AAAA"), "not a hash"),
        (GOOD.replace(b"index 2", b"extra AAAA\nextra AAAA\nindex 2"), "does not say the index"),
        (GOOD.replace(b"index 2", b"extra \nindex 2"), "extra data"),
        (GOOD.replace(b"index 2", b"extra AAA\nindex 2"), "extra data"),
        (GOOD.replace(b"index 2", b"extra AAB=\nindex 2"), "extra data"),
        (GOOD.replace(b"index 2", b"extra \xff\nindex 2"), "extra data"),
        (GOOD.replace(b"index 2", b"extra " + base64.b64encode(bytes(65537)) + b"\nindex 2"), "extra data"),
        (GOOD.replace(b"index 2", b"extra " + b"A" * 2**18 + b"\nindex 2"), "longer than"),
        (GOOD.replace(b"index 2\n", b"index 2\n" + (b"A" * 43 + b"=\n") * 63), "more than 63 hashes"),
        (GOOD.replace(b"index 2\n", b"index 2\nAAAA\n"), "not a hash"),
        (GOOD.replace(b"index 2\n", b"index 2\n" + b"A" * 42 + b"B=\n"), "not a hash"),
        (GOOD + b"x" * 2**20, "longer than"),
    ],
)
def test_what_is_no_proof(data: bytes, message: str) -> None:
    with pytest.raises(VerificationFailed, match=message):
        parse_proof(data)


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_a_proof_with_any_bit_flipped_is_refused(bit: int) -> None:
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationFailed, InvalidProof)):
        check(bytes(data), LEAVES[2])


@reaches(0.2)
@given(st.integers(0, len(GOOD)), st.sampled_from([b"", b"", b"\n", b"0", b"\x00", b" ", b"=", b"A"]))
def test_what_is_read_would_be_written_so(at: int, piece: bytes) -> None:
    data = GOOD[:at] + piece + GOOD[at:]
    try:
        proof = parse_proof(data)
    except VerificationFailed:
        assert data != GOOD
        return
    reached()
    assert format_proof(proof) == data


proofs = st.builds(
    InclusionProof,
    st.integers(0, 2**63 - 2),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    st.binary(min_size=1),
    st.binary(),
)


@given(proofs)
def test_what_is_written_is_read_back(proof: InclusionProof) -> None:
    assert parse_proof(format_proof(proof)) == proof


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        (InclusionProof(-1, (), SIGNED), "no leaf -1"),
        (InclusionProof(2**63 - 1, (), SIGNED), "no leaf"),
        (InclusionProof(0, (b"x" * 31,), SIGNED), "at most 63 hashes of 32 bytes"),
        (InclusionProof(0, (bytes(32),) * 64, SIGNED), "at most 63 hashes of 32 bytes"),
        (InclusionProof(0, (), b""), "has a checkpoint"),
        (InclusionProof(0, (), b"x" * (2**20 + 1)), "has a checkpoint"),
        (InclusionProof(0, (), SIGNED, bytes(65537)), "at most 65536 bytes"),
    ],
)
def test_what_no_proof_has_is_not_written(proof: InclusionProof, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        format_proof(proof)
