"""The backup file: a plain tar archive, readable without this program.

    trustgate-backup/manifest.json     what follows: sizes, SHA-256 digests, the log's name and its last receipt
    trustgate-backup/<name> …          the files of the home folder, as named in it

Owns the format and the reading of what may be anything: nothing is used before its digest is checked, and no name leads
out of the folder that the files are put into.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from trustgate.errors import HomeUnusable, OperatorError, StoreDamaged, StoreTooNew, disk_hint

#: 1: no archive files; 2: with them, or naming them.
FORMATS = (1, 2)
FOLDER = "trustgate-backup"
MANIFEST = "manifest.json"

DATABASE, LOG_KEY, CHECKPOINT = "trustgate.duckdb", "log.key", "checkpoint"
HANDLES, CONFIG = "handles.jsonl", "trustgate.toml"
NAMES = (DATABASE, LOG_KEY, CHECKPOINT, HANDLES, CONFIG)
#: What the names of archive files begin with.
ARCHIVES = "archive/"
_ARCHIVE = re.compile(r"archive/receipts-[0-9a-z-]+\.parquet", re.ASCII)
_NEEDED = frozenset({DATABASE, LOG_KEY, CHECKPOINT})

_BLOCK = tarfile.BLOCKSIZE
_MANIFEST_BYTES = 8 * 1024 * 1024
PIECE_BYTES = 1024 * 1024


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    #: Of the TrustGate that made it.
    version: str
    created_us: int
    store_id: str
    schema_version: int
    #: The last receipt in it.
    last_seq: int
    #: The log's verifier key, which begins with its name.
    vkey: str
    files: tuple[FileEntry, ...]
    #: Archive files that are not in it.
    archives: tuple[FileEntry, ...] = ()

    @property
    def origin(self) -> str:
        return self.vkey.partition("+")[0]


# writing


def head(name: str, size_bytes: int, at_us: int) -> bytes:
    """Returns what stands before a file's bytes."""
    info = tarfile.TarInfo(f"{FOLDER}/{name}")
    info.size, info.mode, info.mtime = size_bytes, 0o600, at_us // 1_000_000
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size_bytes: int) -> bytes:
    """Returns what stands after them."""
    return bytes(-size_bytes % _BLOCK)


END = bytes(2 * _BLOCK)


# reading


def unpack(backup: Path, folder: Path, report: Callable[[int, int], None]) -> Manifest:
    """Put the files of a backup into the folder, mode 0600, each checked. ``report`` receives bytes done and in all.

    Raises StoreDamaged for a file that is not a backup, or a damaged one; StoreTooNew for a newer TrustGate's.
    """
    try:
        with backup.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            manifest = _read_manifest(backup, archive)
            done, total = 0, sum(entry.size_bytes for entry in manifest.files)
            for entry in manifest.files:
                member = archive.next()
                source = None if member is None else archive.extractfile(member)
                if member is None or source is None or member.name != f"{FOLDER}/{entry.name}":
                    raise _damaged(backup, f"{entry.name} is missing")
                digest = hashlib.sha256()
                with _writing(folder / entry.name) as write:
                    while piece := source.read(PIECE_BYTES):
                        digest.update(piece)
                        write(piece)
                        done += len(piece)
                        report(done, total)
                if digest.hexdigest() != entry.sha256:
                    raise _damaged(backup, f"{entry.name} is not what was backed up")
    except tarfile.TarError as error:
        raise _damaged(backup, "it is cut short, or not a backup") from error
    except OSError as error:
        raise OperatorError(
            f"{backup} cannot be read: {error.strerror or error}.", hint="Check the name and its permissions."
        ) from None
    return manifest


def _read_manifest(backup: Path, archive: tarfile.TarFile) -> Manifest:
    member = archive.next()
    source = None if member is None else archive.extractfile(member)
    if member is None or source is None or member.name != f"{FOLDER}/{MANIFEST}" or member.size > _MANIFEST_BYTES:
        raise _damaged(backup, "it is not a backup of TrustGate")
    text = source.read()
    try:
        told = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format")
        if told not in [msgspec.Raw(b"%d" % known) for known in FORMATS]:
            raise StoreTooNew(
                f"{backup} was written by a newer TrustGate.", hint="Restore it with that version or a newer one."
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(backup, "its manifest cannot be read") from error
    names = [entry.name for entry in manifest.files]
    if len(set(names)) != len(names) or not set(names) >= _NEEDED or not all(map(_belongs, names)):
        raise _damaged(backup, "its manifest lists files that do not belong to a backup")
    return manifest


def _belongs(name: str) -> bool:
    return name in NAMES or _ARCHIVE.fullmatch(name) is not None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Make a file, mode 0600, for the block to write to. Raises HomeUnusable where it cannot be written."""

    def write(piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            raise _unwritable(path, error) from None

    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield write
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"The backup cannot be unpacked: {path} cannot be written: {error.strerror or error}.",
        hint=disk_hint(error, "Correct the permissions of its folder."),
    )


def _damaged(backup: Path, what: str) -> StoreDamaged:
    return StoreDamaged(f"{backup} cannot be restored: {what}.", hint="Nothing was changed. Use another backup.")
