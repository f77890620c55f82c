"""What the log publishes of itself: its key, and the last checkpoint that it signed.

Owns two files of the home folder, ``log.key`` and ``checkpoint``, beside the database on purpose: a database that was
put back from an older copy is *noticed*, because the checkpoint knows more receipts than the copy has. A log that
continued from there would fork under one name, and every proof made after the copy would be worthless; so it is
refused, and the way out is another name.

A checkpoint is signed when what it covers is durable, and shown when it is itself on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

from trustgate.errors import HomeUnusable, SettingsError, StoreDamaged, VerificationFailed
from trustgate.formats.durable import write_durably
from trustgate.ids import now_us
from trustgate.receipts.checkpoint import Checkpoint, reopen_checkpoint, sign_checkpoint, unwritable_checkpoint
from trustgate.receipts.logkey import LogKey, create_log_key, load_log_key
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.tree import Tree
from trustgate.store import Store
from trustgate.types import LogName

_logger = logging.getLogger("trustgate.receipts")

_RETRY_S = 5.0


class Publisher:
    def __init__(self, path: Path, key: LogKey, tree: Tree) -> None:
        """Use ``open``."""
        self._path = path
        self._key = key
        self._tree = tree
        self._renewing = asyncio.Lock()
        #: Held, so that it is not collected while no caller waits for it.
        self._last_renewal: asyncio.Task[bytes] | None = None
        self.checkpoint = Checkpoint(key.name, 0, b"")
        #: The signed note of ``checkpoint``, and when it was signed.
        self.note = b""
        self.signed_us = 0
        #: What was amiss when it was opened and could be mended, for people.
        self.notes: tuple[str, ...] = ()

    @classmethod
    async def open(cls, store: Store, tree: Tree, *, key_file: Path, checkpoint_file: Path, origin: str) -> Publisher:
        """Check the log against what it has signed and anchored, and sign its present state.

        ``origin`` is the name for a log that has none yet; "" makes one up. Raises ``StoreDamaged`` when the log is
        shorter or other than it has said, ``SettingsError`` when its name is to change, ``HomeUnusable`` for files that
        cannot be read or written.
        """
        key = _load_key(key_file, checkpoint_file, origin)
        publisher = cls(checkpoint_file, key, tree)
        await publisher._check_signed()
        await check_anchored(store, tree)
        names = {name.vkey for name in await store.log_names()}
        if str(key.verifier) in names and not publisher.note and tree.size:
            publisher.notes = (f"The file {checkpoint_file.name} was missing; the log's state is signed anew.",)
            _logger.warning("%s", publisher.notes[0])
        if str(key.verifier) not in names:
            if names:
                _logger.warning("the log goes on under another name: %s", key.name)
            await store.put(LogName(vkey=str(key.verifier), created_us=now_us()))
        try:
            await publisher.renew()
        except OSError as error:
            raise unwritable_checkpoint(error) from error
        return publisher

    @property
    def verifier(self) -> VerifierKey:
        return self._key.verifier

    async def renew(self) -> bytes:
        """Sign the present state, if it is another than the last; gives back the signed note.

        Raises ``OSError`` when it cannot be written; the last one stays what is shown.
        """
        # A thread cannot be cancelled: who leaves while it writes must not let the next one write beside it.
        renewing = self._last_renewal = asyncio.create_task(self._renew())
        return await asyncio.shield(renewing)

    async def _renew(self) -> bytes:
        async with self._renewing:
            size, root = self._tree.size, self._tree.root
            if not self.note or size > self.checkpoint.size:
                checkpoint = Checkpoint(self._key.name, size, root)
                note = sign_checkpoint(checkpoint, self._key)
                signed_us = now_us()
                await asyncio.to_thread(write_durably, self._path, note)
                self.checkpoint, self.note, self.signed_us = checkpoint, note, signed_us
            return self.note

    async def run(self, every_s: Callable[[], float]) -> None:
        """For ever: sign the log's state, at most so often."""
        while True:
            await asyncio.sleep(every_s())
            try:
                await self.renew()
            except OSError as error:
                _logger.error("the log's checkpoint cannot be written: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _check_signed(self) -> None:
        """Take up the last checkpoint. Raises ``StoreDamaged`` unless the tree continues it."""
        try:
            note = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise HomeUnusable(
                f"The log's checkpoint {self._path} cannot be read: {error.strerror}.",
                hint=f"Give it to the user who runs TrustGate. See who owns it: ls -l {self._path}",
            ) from None
        try:
            checkpoint = reopen_checkpoint(note, self._key)
        except VerificationFailed as error:
            raise StoreDamaged(
                f"{self._path} is not a checkpoint signed with the log's key: {error.message}",
                hint=f"Put back the file, or the log.key, that belongs here. {self._other_name()}",
            ) from None
        if checkpoint.size > self._tree.size:
            raise StoreDamaged(
                f"The database ends at receipt {self._tree.size}, but the log has signed a checkpoint of "
                f"{checkpoint.size}: {checkpoint.size - self._tree.size} receipts are missing. The database was "
                "restored from an older copy, or cut short.",
                hint=f"Put back the newer database. {self._other_name()}",
            )
        if await self._tree.root_at(checkpoint.size) != checkpoint.root:
            raise StoreDamaged(
                f"The first {checkpoint.size} receipts of the database are not those whose checkpoint the log has "
                "signed: some were changed, or belong to another history.",
                hint=f"Put back the database that belongs to {self._path}. {self._other_name()}",
            )
        self.checkpoint, self.note = checkpoint, note
        # It was put there as soon as it was signed.
        self.signed_us = self._path.stat().st_mtime_ns // 1000

    def _other_name(self) -> str:
        folder = self._path.parent
        return (
            f"To continue as a log of another name, move log.key and checkpoint out of {folder}: proofs under the old "
            "name stay valid."
        )


def _load_key(key_file: Path, checkpoint_file: Path, origin: str) -> LogKey:
    if key_file.exists():
        key = load_log_key(key_file)
    elif checkpoint_file.exists():
        raise StoreDamaged(
            f"The log has signed a checkpoint, but its key {key_file} is missing.",
            hint="Put it back. To go on as a log of another name, with a new key, move the file checkpoint away too.",
        )
    else:
        key = create_log_key(key_file, origin or f"trustgate-{secrets.token_hex(8)}")
    if origin and key.name != origin:
        raise SettingsError(
            f"receipts.origin is {origin}, but the log is named {key.name}, and its checkpoints are signed so.",
            hint=f"Set origin to {key.name}. To go on under the new name, as another log, move log.key and checkpoint "
            f"out of {key_file.parent}.",
        )
    return key


async def check_anchored(store: Store, tree: Tree) -> None:
    """Raise ``StoreDamaged`` unless the log continues every state that was anchored."""
    for anchor in await store.anchors():
        if anchor.tree_size > tree.size or (await tree.root_at(anchor.tree_size)).hex() != anchor.root:
            raise StoreDamaged(
                f"The log's first {anchor.tree_size} receipts are not those that were anchored (anchor {anchor.id}).",
                hint="Put back the database that belongs to this home folder.",
            )
