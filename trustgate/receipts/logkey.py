"""The log's own key: it signs checkpoints, and nothing else. It is another than the one that pays for anchors.

Owns the file, which holds one line: ``PRIVATE+KEY+name+hash+base64(type ‖ seed)``. A reader of the file can sign for
the log, so it is made with mode 0600 and never shown.

Source of the form: Go's sumdb ``note`` package, which C2SP signed-note describes the public side of.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from trustgate.errors import Conflict, HomeUnusable
from trustgate.formats.durable import create_durably
from trustgate.formats.ed25519 import signer
from trustgate.receipts.note import (
    ED25519,
    KEY_BYTES,
    Signature,
    VerifierKey,
    decode_base64,
    encode_base64,
    format_note,
    is_key_name,
)

__all__ = ["LogKey", "create_log_key", "load_log_key"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "PRIVATE+KEY+"
_MAX_FILE_BYTES: Final = 4096


class LogKey:
    """A key with its name. Its secret shows in no representation."""

    __slots__ = ("_seed", "_signer", "verifier")

    def __init__(self, name: str, seed: bytes) -> None:
        """The key that follows from a seed of 32 bytes. Raises ``ValueError`` for a name or seed that cannot be."""
        self._seed = seed
        self._signer = signer(seed)
        #: What others check signatures with.
        self.verifier = VerifierKey(name, self._signer.public_key)

    @classmethod
    def generate(cls, name: str) -> LogKey:
        """Returns a new key. Raises ``ValueError`` for a name that no key can have."""
        return cls(name, secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> LogKey:
        """Returns the key in the form of the file, without a newline. Raises ``ValueError``, which does not repeat
        it.
        """
        name, _, rest = text.removeprefix(_PREFIX).partition("+")
        key_hash, _, encoded = rest.partition("+")
        material = decode_base64(encoded)
        if not text.startswith(_PREFIX) or material is None or not is_key_name(name):
            raise ValueError("it is not a private key in the form PRIVATE+KEY+name+hash+base64")
        if material[:1] != ED25519 or len(material) != 1 + KEY_BYTES:
            raise ValueError("it is not an Ed25519 key")
        key = cls(name, material[1:])
        if key.verifier.key_hash.hex() != key_hash:
            raise ValueError("its hash is not that of its name and key")
        return key

    @property
    def name(self) -> str:
        """The log's name: the origin of its checkpoints."""
        return self.verifier.name

    def sign(self, text: str) -> bytes:
        """Returns the signed note of this text. Raises ``ValueError`` for a text that no note can have."""
        signature = self._signer.sign(text.encode())
        return format_note(text, (Signature(self.name, self.verifier.key_hash, signature),))

    def has_signed(self, text: str, note: bytes) -> bool:
        """Returns whether the note is this key's own of this text: the signer need not verify, since an Ed25519
        signature is deterministic.
        """
        return hmac.compare_digest(self.sign(text), note)

    def secret_text(self) -> str:
        """Returns the form of the file. A secret."""
        return f"{_PREFIX}{self.name}+{self.verifier.key_hash.hex()}+{encode_base64(ED25519 + self._seed)}"

    def __repr__(self) -> str:
        return f"LogKey({str(self.verifier)!r})"


def load_log_key(path: Path) -> LogKey:
    """Read the key. Raises ``HomeUnusable`` if the file cannot be read, or holds no key."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise HomeUnusable(
            f"The log's key {path} cannot be read: {error.strerror or error}.",
            hint="Make the user who runs TrustGate its owner, or put it back from your backup.",
        ) from error
    try:
        key = LogKey.parse(data[:_MAX_FILE_BYTES].decode("utf-8-sig", "replace").removesuffix("\n").removesuffix("\r"))
    except ValueError as error:
        raise HomeUnusable(f"The log's key {path} is damaged: {error}.", hint="Put it back from your backup.") from None
    if mode & 0o077:
        logger.warning("The log's key %s can be used by others on this machine: chmod 600 it.", path)
    return key


def create_log_key(path: Path, name: str) -> LogKey:
    """Make a key and its file, with mode 0600. Afterwards it is on the disk; a crash leaves a whole file or none.

    Raises ``Conflict`` rather than overwrite a file, ``HomeUnusable`` if it cannot be written, ``ValueError`` for a
    name that no key can have.
    """
    key = LogKey.generate(name)
    try:
        create_durably(path, f"{key.secret_text()}\n".encode("ascii"))
    except FileExistsError:
        raise Conflict(f"{path} already exists and is not overwritten.", hint="Move it away to make another.") from None
    except OSError as error:
        raise HomeUnusable(
            f"The log's key {path} cannot be written: {error.strerror or error}.",
            hint="Free some space on the disk of the home folder, and check who owns it.",
        ) from error
    return key
