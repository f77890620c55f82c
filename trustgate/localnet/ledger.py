"""What a local chain keeps in its folder: the ledger, the lock and the address.

    ledger   JSON lines: the genesis record, then in order every beat of the clock and every transaction that landed
    lock     held (flock) by the process that runs the chain
    address  the URL where that process answers

A line is written by one ``write`` before its effect shows to any client, so what a client was told survives ``kill -9``
(power loss is another matter: nothing is synced). Only the last line can be torn; it is dropped. The chain's accounts
are not kept: they follow from the transactions, which are run again when the chain is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

import msgspec

from trustgate.errors import HomeUnusable, OperatorError, StoreDamaged, StoreLocked, StoreTooNew
from trustgate.localnet.clock import Beat

VERSION = 1


class Genesis(msgspec.Struct, frozen=True, tag_field="kind", tag="genesis"):
    """The first line: which chain this is. ``hash`` is its genesis hash, base58."""

    hash: str
    created_us: int
    version: int = VERSION


class StoredTransaction(msgspec.Struct, frozen=True, tag_field="kind", tag="transaction"):
    """A transaction, whole and signed, that landed in ``slot``; ``err`` is None if it succeeded."""

    slot: int
    transaction: bytes
    err: Any = None


Record = Genesis | Beat | StoredTransaction
_decoder = msgspec.json.Decoder(Record)


class ChainLedger:
    """The open folder of a chain. No other process can open it before ``close``."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self._file = -1
        self._end = 0

    @classmethod
    def lock(cls, folder: Path) -> ChainLedger:
        """Take the folder, making it if need be. Raises StoreLocked if another process has it, HomeUnusable."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(folder, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StoreLocked(
                f"Another process runs the local chain in {folder}{_at(read_address(folder))}.",
                hint="Use that one, or stop it first. --ephemeral starts a separate one that is discarded at the end.",
                code="localnet_locked",
            ) from None
        except OSError as error:
            os.close(lock)
            raise _unusable(folder, error) from None
        ledger = cls(folder, lock)
        try:
            # An address that is there was left by a process that was killed.
            (folder / "address").unlink(missing_ok=True)
            ledger._file = os.open(folder / "ledger", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            ledger.close()
            raise _unusable(folder, error) from None
        return ledger

    def read(self) -> list[Record]:
        """Every record there is; drops a torn last line. Raises StoreDamaged, StoreTooNew, HomeUnusable."""
        path = self.folder / "ledger"
        try:
            data = path.read_bytes()
            self._end = data.rfind(b"\n") + 1
            if self._end != len(data):
                os.ftruncate(self._file, self._end)
        except OSError as error:
            raise _unusable(self.folder, error) from None
        records: list[Record] = []
        for number, line in enumerate(data[: self._end].splitlines(), start=1):
            try:
                record = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                _refuse_newer(path, line)
                raise damaged(self.folder, f"line {number} of {path} cannot be read ({error})") from None
            if isinstance(record, Genesis) != (number == 1):
                raise damaged(self.folder, f"line {number} of {path} is out of place")
            if isinstance(record, Genesis) and record.version > VERSION:
                _refuse_newer(path, line)
            records.append(record)
        return records

    def write(self, record: Record) -> None:
        """Keep a record. Raises OperatorError, and then nothing was kept."""
        line = msgspec.json.encode(record) + b"\n"
        try:
            written = os.pwrite(self._file, line, self._end)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
        except OSError as error:
            with contextlib.suppress(OSError):  # what is behind the end will be overwritten, or dropped as torn
                os.ftruncate(self._file, self._end)
            raise OperatorError(f"The ledger in {self.folder} cannot be written: {error.strerror or error}.") from None
        self._end += len(line)

    def publish(self, url: str) -> None:
        """Say where the chain answers. Raises HomeUnusable."""
        fresh = self.folder / "address.new"
        try:
            fresh.write_text(f"{url}\n", encoding="ascii")
            fresh.rename(self.folder / "address")
        except OSError as error:
            raise _unusable(self.folder, error) from None

    def close(self) -> None:
        """Give the folder back. May be called twice."""
        with contextlib.suppress(OSError):
            (self.folder / "address").unlink(missing_ok=True)
        for descriptor in (self._file, self._lock):
            if descriptor != -1:
                os.close(descriptor)
        self._file = self._lock = -1


def read_address(folder: Path) -> str | None:
    """Returns where the chain of this folder answers; None if no process runs it."""
    try:
        return (folder / "address").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def damaged(folder: Path, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"The local chain in {folder} is damaged: {what}.",
        hint=f"Move {folder} away: the next start makes a new chain, and anchors on the old one stay there.",
    )


def _refuse_newer(path: Path, line: bytes) -> None:
    try:
        version = msgspec.json.decode(line)["version"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return
    if isinstance(version, int) and version > VERSION:
        raise StoreTooNew(
            f"{path} was written by a newer TrustGate (format {version}, this one reads {VERSION}).",
            hint="Use that TrustGate, or another folder.",
        )


def _at(address: str | None) -> str:
    return "" if address is None else f", at {address}"


def _unusable(folder: Path, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"The folder {folder} cannot be used: {error.strerror or error}.",
        hint="Make the user who runs TrustGate its owner, or choose another home with --home.",
    )
