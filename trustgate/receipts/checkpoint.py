"""The checkpoint: which log, how many leaves, which root; as text, and as a signed note.

Owns the text. The log's name is both the first line and the name of the key that signs: a checkpoint of another log is
refused even where its signature holds.

Source: C2SP tlog-checkpoint. Further lines (extensions) are allowed and mean nothing here; none is written.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from trustgate.errors import HomeUnusable, VerificationFailed
from trustgate.receipts.logkey import LogKey
from trustgate.receipts.merkle import HASH_BYTES, MAX_SIZE
from trustgate.receipts.note import VerifierKey, decode_base64, encode_base64, is_note_text, parse_note, verify_note

_DECIMAL: Final = re.compile("0|[1-9][0-9]{0,18}")


class Checkpoint(msgspec.Struct, frozen=True):
    #: The name of the log.
    origin: str
    #: How many leaves its tree has.
    size: int
    #: 32 bytes.
    root: bytes


def checkpoint_text(checkpoint: Checkpoint) -> str:
    """Returns what is signed. Raises ``ValueError`` for a checkpoint that no log can have."""
    text = f"{checkpoint.origin}\n{checkpoint.size}\n{encode_base64(checkpoint.root)}\n"
    try:
        again = parse_checkpoint(text)
    except VerificationFailed as error:
        raise ValueError(error.message) from None
    if again != checkpoint:
        raise ValueError("the origin of a checkpoint is one line")
    return text


def parse_checkpoint(text: str) -> Checkpoint:
    """Returns the checkpoint in a note's text. Raises ``VerificationFailed`` if it has none."""
    if not is_note_text(text):
        raise VerificationFailed("The checkpoint holds control characters, or does not end with a newline.")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise VerificationFailed("A checkpoint has at least three lines, origin, size and root, and no empty ones.")
    size = parse_decimal(lines[1])
    if size is None:
        raise VerificationFailed("The size in the checkpoint's second line is not a whole number from 0 to 2^63 - 1.")
    root = decode_base64(lines[2])
    if root is None or len(root) != HASH_BYTES:
        raise VerificationFailed(f"The root in the checkpoint's third line is not {HASH_BYTES} bytes in Base64.")
    return Checkpoint(lines[0], size, root)


def sign_checkpoint(checkpoint: Checkpoint, log_key: LogKey) -> bytes:
    """Returns the signed note. Raises ``ValueError`` for a checkpoint of a log with another name than the key's."""
    if checkpoint.origin != log_key.name:
        raise ValueError(f"the key of {log_key.name} does not sign for {checkpoint.origin}")
    return log_key.sign(checkpoint_text(checkpoint))


def open_checkpoint(data: bytes, key: VerifierKey) -> Checkpoint:
    """Returns the checkpoint in a signed note, its signature checked.

    Raises ``VerificationFailed`` unless it is one of the log that the key is named for, signed with that key.
    """
    note = parse_note(data)
    verify_note(note, key)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != key.name:
        raise VerificationFailed(f"The checkpoint is of the log {checkpoint.origin}, not of {key.name}.")
    return checkpoint


def reopen_checkpoint(data: bytes, key: LogKey) -> Checkpoint:
    """Returns the checkpoint in a note of the key's own. Raises ``VerificationFailed`` as ``open_checkpoint`` does."""
    text = parse_note(data).text
    if key.has_signed(text, data):
        checkpoint = parse_checkpoint(text)
        if checkpoint.origin == key.name:
            return checkpoint
    # Signatures were added to it, or it is wrong: the full check decides.
    return open_checkpoint(data, key.verifier)


def parse_decimal(text: str) -> int | None:
    """Returns a size or an index: ASCII digits without leading zeros, from 0 to 2^63 - 1. None for anything else."""
    if _DECIMAL.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= MAX_SIZE else None


def unwritable_checkpoint(error: OSError) -> HomeUnusable:
    """Returns the error for a checkpoint that cannot be kept in the home folder."""
    return HomeUnusable(
        f"The log's checkpoint cannot be written: {error.strerror or error}.",
        hint="Free some space on the disk of the home folder, and check who owns the file checkpoint.",
    )
