"""The commands that copy and rewrite the database: ``backup`` and ``compact``.

A backup is made of the log as it is at one moment: everything acknowledged is brought into the database, a checkpoint
of it signed, then the database copied (which has the same receipts, or some more), then what lies beside it. So it
needs no journal, and whatever is restored from it continues what it has signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from trustgate import __version__
from trustgate.admin.backupfile import (
    ARCHIVES,
    CHECKPOINT,
    CONFIG,
    DATABASE,
    END,
    HANDLES,
    LOG_KEY,
    MANIFEST,
    PIECE_BYTES,
    FileEntry,
    Manifest,
    head,
    padding,
)
from trustgate.admin.commands import Write
from trustgate.admin.context import AdminContext
from trustgate.admin.log_commands import Backup, BackupMade, Compact
from trustgate.errors import Conflict, HomeUnusable, Unavailable
from trustgate.ids import now_us
from trustgate.store import Compacted

_STAGES = "backup-*.tmp"


async def backup(context: AdminContext, command: Backup, write: Write) -> BackupMade:
    async with alone(context):
        home = context.settings.home
        for leftover in home.glob(_STAGES):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(prefix="backup-", suffix=".tmp", dir=home) as folder:
                return await _send(context, Path(folder), write, archives=command.archives)
        except OSError as error:
            raise HomeUnusable(
                f"The home folder cannot be backed up: {error.strerror or error} ({error.filename or home}).",
                hint="Free some space on its disk, and check who owns its files.",
            ) from error


async def _send(context: AdminContext, stage: Path, write: Write, *, archives: bool) -> BackupMade:
    manifest, paths = await _collect(context, stage, archives=archives)
    words = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    size_bytes = 0

    async def send(data: bytes) -> None:
        nonlocal size_bytes
        size_bytes += len(data)
        await write(data)

    await send(head(MANIFEST, len(words), manifest.created_us) + words + padding(len(words)))
    for entry, path in zip(manifest.files, paths, strict=True):
        await send(head(entry.name, entry.size_bytes, manifest.created_us))
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                await send(piece)
        await send(padding(entry.size_bytes))
    await send(END)
    return BackupMade(
        created_us=manifest.created_us,
        store_id=manifest.store_id,
        last_seq=manifest.last_seq,
        origin=manifest.origin,
        size_bytes=size_bytes,
        archives=sum(entry.name.startswith(ARCHIVES) for entry in manifest.files),
        archives_left_out=len(manifest.archives),
    )


async def _collect(context: AdminContext, stage: Path, *, archives: bool) -> tuple[Manifest, list[Path]]:
    """Copies of everything, in the stage: what changes meanwhile changes no copy. Archive files never change."""
    settings = context.settings
    archive = await context.archive()
    (stage / CHECKPOINT).write_bytes(await archive.renewed())
    copied = await context.store.copy_to(stage / DATABASE)
    # After the database, which knows every tenant that an id in here may belong to, or will.
    for name, path in ((LOG_KEY, settings.log_key), (HANDLES, settings.handles_file), (CONFIG, settings.config_file)):
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.copyfile, path, stage / name)
    paths = [path for name in (CHECKPOINT, LOG_KEY, CONFIG, HANDLES, DATABASE) if (path := stage / name).exists()]
    entries = [await asyncio.to_thread(_describe, path) for path in paths]
    # None is added meanwhile: that is one of the commands of which only one runs.
    files = context.store.archives
    archived = tuple(
        FileEntry(name=f"{ARCHIVES}{file.name}", size_bytes=file.size_bytes, sha256=file.sha256) for file in files
    )
    if archives and files:
        await _check_archives(context)
        paths += [context.store.archive_path(file) for file in files]
    manifest = Manifest(
        # Earlier versions can restore what has no archive files.
        format=2 if files else 1,
        version=__version__,
        created_us=now_us(),
        store_id=context.store.store_id,
        schema_version=context.store.info.schema_version,
        last_seq=copied.last_seq,
        vkey=archive.vkey,
        files=(*entries, *archived) if archives else tuple(entries),
        archives=() if archives else archived,
    )
    return manifest, paths


async def _check_archives(context: AdminContext) -> None:
    problems = await context.store.archive_problems(deep=True)
    if problems:
        raise Unavailable(
            f"The archive file {problems[0].path} is {problems[0].problem}.",
            hint="Put it back first, or leave archive files out: --without-archives",
            code="archive_unavailable",
        )


def _describe(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name=path.name, size_bytes=path.stat().st_size, sha256=digest)


async def compact(context: AdminContext, command: Compact) -> Compacted:
    async with alone(context):
        await context.flush()
        return await context.store.compact()


@contextlib.asynccontextmanager
async def alone(context: AdminContext) -> AsyncIterator[None]:
    """The database is copied or rewritten by one command at a time. Raises ``Conflict`` (``copy_running``)."""
    if context.copying.locked():
        raise Conflict(
            "The database is being copied or rewritten already.",
            hint="Wait until that has finished.",
            code="copy_running",
        )
    async with context.copying:
        yield
