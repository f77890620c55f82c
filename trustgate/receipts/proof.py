"""The proof that travels: a leaf's index, its inclusion proof, and the signed checkpoint that it leads to.

Owns the format alone. Nothing in a proof counts before the checkpoint's signature was checked
(``receipts.checkpoint``) and the hashes lead from the leaf to its root (``receipts.merkle``); ``extra`` not even then.

Source: C2SP tlog-proof, version 1. Files of this format are named ``.tlog-proof``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trustgate.errors import VerificationFailed
from trustgate.receipts.checkpoint import parse_decimal
from trustgate.receipts.merkle import HASH_BYTES, MAX_SIZE
from trustgate.receipts.note import MAX_NOTE_BYTES, decode_base64, encode_base64

_HEADER: Final = "c2sp.org/tlog-proof@v1"
#: No tree of 2^63 leaves needs more.
_MAX_HASHES: Final = 63
_MAX_EXTRA_BYTES: Final = 64 * 1024
#: What may stand above the checkpoint: the lines of the limits above.
_MAX_HEAD_BYTES: Final = 128 * 1024


class InclusionProof(msgspec.Struct, frozen=True):
    #: Of the leaf, from 0.
    index: int
    #: 32 bytes each, from the leaf's sibling upwards.
    hashes: tuple[bytes, ...]
    #: The signed note, byte for byte.
    checkpoint: bytes
    #: What the application adds. Not authenticated. Empty: there is none.
    extra: bytes = b""


def format_proof(proof: InclusionProof) -> bytes:
    """Returns the proof as it travels. Raises ``ValueError`` for an index, hashes or extra data that no proof can
    have.
    """
    if not 0 <= proof.index < MAX_SIZE:
        raise ValueError(f"there is no leaf {proof.index}")
    if len(proof.hashes) > _MAX_HASHES or any(len(found) != HASH_BYTES for found in proof.hashes):
        raise ValueError(f"a proof has at most {_MAX_HASHES} hashes of {HASH_BYTES} bytes")
    if len(proof.extra) > _MAX_EXTRA_BYTES:
        raise ValueError(f"the extra data of a proof has at most {_MAX_EXTRA_BYTES} bytes")
    if not 0 < len(proof.checkpoint) <= MAX_NOTE_BYTES:
        raise ValueError("a proof has a checkpoint")
    lines = [_HEADER]
    if proof.extra:
        lines.append(f"extra {encode_base64(proof.extra)}")
    lines.append(f"index {proof.index}")
    lines += [encode_base64(found) for found in proof.hashes]
    return "\n".join(lines).encode() + b"\n\n" + proof.checkpoint


def parse_proof(data: bytes) -> InclusionProof:
    """Take a proof apart. Checks nothing but the form, and nothing of the checkpoint.

    Raises ``VerificationFailed`` for anything that ``format_proof`` would not write.
    """
    head, blank, checkpoint = data.partition(b"\n\n")
    if len(head) > _MAX_HEAD_BYTES or len(checkpoint) > MAX_NOTE_BYTES:
        raise VerificationFailed("The proof is longer than a proof can be.")
    lines = head.decode("ascii", "replace").split("\n")
    if lines.pop(0) != _HEADER:
        raise VerificationFailed(f"This is not a proof of inclusion: its first line is not {_HEADER}.")
    if not blank or not checkpoint:
        raise VerificationFailed("The proof has no checkpoint: one stands below an empty line.")
    extra = _parse_extra(lines.pop(0)) if lines and lines[0].startswith("extra ") else b""
    index = parse_decimal(lines.pop(0).removeprefix("index ")) if lines and lines[0].startswith("index ") else None
    if index is None or index >= MAX_SIZE:
        raise VerificationFailed("The proof does not say the index of its leaf, as a whole number from 0 on.")
    if len(lines) > _MAX_HASHES:
        raise VerificationFailed(f"The proof has more than {_MAX_HASHES} hashes, which no tree needs.")
    return InclusionProof(index, tuple(_parse_hash(line) for line in lines), checkpoint, extra)


def _parse_extra(line: str) -> bytes:
    extra = decode_base64(line.removeprefix("extra "))
    if not extra or len(extra) > _MAX_EXTRA_BYTES:
        raise VerificationFailed(f"The extra data of the proof is not 1 to {_MAX_EXTRA_BYTES} bytes in Base64.")
    return extra


def _parse_hash(line: str) -> bytes:
    found = decode_base64(line)
    if found is None or len(found) != HASH_BYTES:
        raise VerificationFailed(f"A line of the proof is not a hash of {HASH_BYTES} bytes in Base64.")
    return found
