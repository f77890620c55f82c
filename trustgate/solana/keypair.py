"""The key that pays for anchors: keypair files of the Solana CLI, as they are.

Owns the file: a JSON array of 64 numbers, the Ed25519 seed and then the public key. A reader of the file can spend what
the address holds and post under its name, so it is made with mode 0600, and no error, log line or representation holds
a byte of it. Source of the form: Solana documentation, "File System Wallets using the CLI".
"""

from __future__ import annotations

import codecs
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from trustgate.errors import Conflict, HomeUnusable, SettingsError
from trustgate.formats.durable import create_durably

if TYPE_CHECKING:
    from solders.keypair import Keypair
    from solders.pubkey import Pubkey

__all__ = ["PayerKey", "create_keypair", "load_keypair"]

logger = logging.getLogger(__name__)

KEYPAIR_BYTES: Final = 64
SEED_BYTES: Final = 32
#: 64 numbers, with room for blanks and line ends.
_MAX_FILE_BYTES: Final = 4096
_KEYGEN_HINT: Final = "Make one with `trustgate anchor keygen`, or name a keypair file of the Solana CLI."


class PayerKey:
    """A keypair whose secret shows in no representation (that of solders' own does)."""

    __slots__ = ("_keypair", "address")

    def __init__(self, keypair: Keypair) -> None:
        self._keypair = keypair
        #: Base58.
        self.address = str(keypair.pubkey())

    @classmethod
    def generate(cls) -> PayerKey:
        return cls.from_seed(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> PayerKey:
        """Returns the keypair that follows from a seed of 32 bytes."""
        from solders.keypair import Keypair

        return cls(Keypair.from_seed(seed))

    def pubkey(self) -> Pubkey:
        return self._keypair.pubkey()

    def sign(self, message: bytes) -> bytes:
        """Returns the Ed25519 signature of these bytes, 64 bytes."""
        return bytes(self._keypair.sign_message(message))

    def secret_text(self) -> str:
        """Returns the form of the file. A secret."""
        return f"[{','.join(str(byte) for byte in bytes(self._keypair))}]"

    def __repr__(self) -> str:
        return f"PayerKey({self.address!r})"


def load_keypair(path: Path) -> PayerKey:
    """Read a keypair file. Raises ``SettingsError`` if it cannot be read or holds no keypair.

    A file that others on the machine can read is used, with a warning: the Solana CLI takes it too.
    """
    try:
        # Not blocking: a named pipe would otherwise wait for a writer for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES + 1) if stat.S_ISREG(mode) else None
    except FileNotFoundError:
        raise SettingsError(f"There is no keypair file {path}.", hint=_KEYGEN_HINT) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "that is not a valid path"
        raise SettingsError(f"The keypair file {path} cannot be read: {why}.", hint=_KEYGEN_HINT) from None
    if data is None:
        raise SettingsError(f"The keypair file {path} is not a file.", hint=_KEYGEN_HINT)
    key = _parse(path, data.removeprefix(codecs.BOM_UTF8))
    if mode & 0o077:
        logger.warning("The keypair file %s can be used by others on this machine: chmod 600 it.", path)
    return key


def create_keypair(path: Path) -> PayerKey:
    """Make a keypair and its file, mode 0600. Afterwards it is on the disk; a crash leaves a whole file or none.

    Raises ``Conflict`` rather than overwrite a file, ``HomeUnusable`` if it cannot be written.
    """
    key = PayerKey.generate()
    try:
        create_durably(path, key.secret_text().encode("ascii"))
    except FileExistsError:
        raise Conflict(
            f"{path} already exists and is not overwritten.",
            hint="Move it away to make another key, or name another file.",
        ) from None
    except OSError as error:
        raise HomeUnusable(
            f"The keypair file {path} cannot be written: {error.strerror or error}.",
            hint="Free some space on its disk, and check that its folder exists and belongs to you.",
        ) from None
    return key


def _parse(path: Path, data: bytes) -> PayerKey:
    """Returns the keypair that a file's bytes are. Raises ``SettingsError``, which shows nothing of them but their
    number.
    """
    from solders.keypair import Keypair

    def refused(why: str) -> SettingsError:
        return SettingsError(
            f"{path} is not a keypair file: {why}.",
            hint=f"It holds a JSON array of {KEYPAIR_BYTES} numbers from 0 to 255. {_KEYGEN_HINT}",
        )

    if len(data) > _MAX_FILE_BYTES:
        raise refused(f"it is larger than {_MAX_FILE_BYTES} bytes")
    try:
        numbers = msgspec.json.decode(data, type=list[int])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refused("it is not a JSON array of whole numbers") from None
    if len(numbers) != KEYPAIR_BYTES:
        raise refused(f"it holds {len(numbers)} numbers, not {KEYPAIR_BYTES}")
    if not all(0 <= number <= 255 for number in numbers):
        raise refused("a number in it is not from 0 to 255")
    try:
        return PayerKey(Keypair.from_bytes(bytes(numbers)))
    except ValueError:
        raise refused("its public half does not belong to its secret half") from None
