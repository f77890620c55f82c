"""What the log has signed: it is kept, checked at every start, and never contradicted."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.support.entries import make_entries
from trustgate.errors import HomeUnusable, SettingsError, StoreDamaged
from trustgate.receipts.checkpoint import open_checkpoint
from trustgate.receipts.publisher import Publisher
from trustgate.receipts.tree import Tree
from trustgate.store import Store, open_store
from trustgate.types import Anchor, Entry


class Home:
    """A home folder with the database and the two files of the publisher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: Store | None = None

    async def open(self, *, origin: str = "") -> Publisher:
        self.store = await open_store(self.folder / "trustgate.duckdb")
        return await Publisher.open(
            self.store,
            await Tree.open(self.store),
            key_file=self.folder / "log.key",
            checkpoint_file=self.folder / "checkpoint",
            origin=origin,
        )

    async def add(self, *entries: Entry) -> None:
        """Receipts that get into the database behind the publisher's back."""
        store = await open_store(self.folder / "trustgate.duckdb")
        await store.append_entries(entries)
        await store.close()

    async def grow(self, publisher: Publisher) -> None:
        """Two receipts that the publisher's tree has too."""
        assert self.store is not None
        tree = publisher._tree
        grown, tiles = await tree.extended([b"\0" * 32, b"\1" * 32])
        await self.store.append_entries(make_entries(1, 2), tiles)
        tree.adopt(grown)

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()
            self.store = None


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    home = Home(tmp_path)
    yield home
    await home.close()


async def test_the_first_start_makes_a_key_and_signs_the_empty_log(home: Home) -> None:
    publisher = await home.open()

    assert stat.S_IMODE((home.folder / "log.key").stat().st_mode) == 0o600
    signed = open_checkpoint((home.folder / "checkpoint").read_bytes(), publisher.verifier)
    assert signed == publisher.checkpoint
    assert signed.size == 0
    assert signed.origin.startswith("trustgate-")
    assert home.store is not None
    assert [name.vkey for name in await home.store.log_names()] == [str(publisher.verifier)]


async def test_the_name_may_be_chosen_once(home: Home) -> None:
    assert (await home.open(origin="example.com/log")).checkpoint.origin == "example.com/log"
    await home.close()
    assert (await home.open()).checkpoint.origin == "example.com/log"
    await home.close()
    with pytest.raises(SettingsError, match=r"receipts\.origin is other, but the log is named example\.com/log"):
        await home.open(origin="other")


async def test_a_restart_goes_on_with_what_was_added(home: Home) -> None:
    await home.open()
    await home.close()
    await home.add(*make_entries(1, 300))

    first = await home.open()

    assert first.checkpoint.size == 300
    assert home.store is not None
    assert first.checkpoint.root == (await Tree.open(home.store)).root
    await home.close()
    assert (await home.open()).note == first.note


async def test_a_database_put_back_from_an_older_copy_is_refused(home: Home) -> None:
    await home.add(*make_entries(1, 10))
    shutil.copy(home.folder / "trustgate.duckdb", home.folder / "copy")
    await home.add(*make_entries(11, 5))
    await home.open()
    await home.close()
    shutil.move(home.folder / "copy", home.folder / "trustgate.duckdb")

    with pytest.raises(StoreDamaged, match=r"ends at receipt 10, .* signed a checkpoint of 15: 5 receipts") as refused:
        await home.open()
    assert "move log.key and checkpoint out" in (refused.value.hint or "")

    await home.close()
    for name in ("log.key", "checkpoint"):  # as the hint says
        (home.folder / name).rename(home.folder / f"old-{name}")
    assert (await home.open()).checkpoint.size == 10
    assert home.store is not None
    assert len(await home.store.log_names()) == 2, "the copy had never had a name: the operators' journal knows it"


async def test_receipts_that_were_changed_are_refused(home: Home) -> None:
    await home.add(*make_entries(1, 300))
    await home.open()
    await home.close()
    for file in home.folder.glob("trustgate.duckdb*"):
        file.unlink()
    changed = make_entries(1, 300)
    changed[7] = msgspec.structs.replace(changed[7], receipt=msgspec.structs.replace(changed[7].receipt, status=500))
    await home.add(*changed)

    with pytest.raises(StoreDamaged, match="not those whose checkpoint the log has signed"):
        await home.open()


@pytest.mark.parametrize("content", [b"", b"\xff", b"something else\n"])
async def test_a_checkpoint_that_is_none_is_refused(home: Home, content: bytes) -> None:
    await home.open()
    await home.close()
    (home.folder / "checkpoint").write_bytes(content)
    with pytest.raises(StoreDamaged, match="is not a checkpoint signed with the log's key"):
        await home.open()


async def test_another_logs_key_is_refused(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Home(tmp_path_factory.mktemp("other"))
    await other.open()
    await other.close()
    await home.open()
    await home.close()
    shutil.copy(other.folder / "log.key", home.folder / "log.key")
    with pytest.raises(StoreDamaged, match="is not a checkpoint signed with the log's key"):
        await home.open()


async def test_a_lost_key_is_not_replaced_unasked(home: Home) -> None:
    await home.open()
    await home.close()
    (home.folder / "log.key").unlink()
    with pytest.raises(StoreDamaged, match=r"its key .*log\.key is missing"):
        await home.open()
    assert not (home.folder / "log.key").exists()


@pytest.mark.parametrize(("size", "root"), [(3, "ab" * 32), (4, None)])
async def test_a_log_other_than_was_anchored_is_refused(home: Home, size: int, root: str | None) -> None:
    await home.add(*make_entries(1, 3))
    publisher = await home.open()
    assert home.store is not None
    anchor = Anchor(
        id="anchor_1",
        genesis="G",
        fee_payer="F",
        tree_size=size,
        root=root or publisher.checkpoint.root.hex(),
        note=publisher.note.decode(),
        created_us=1,
    )
    await home.store.put(anchor)
    await home.close()
    with pytest.raises(StoreDamaged, match=r"are not those that were anchored \(anchor anchor_1\)"):
        await home.open()


async def test_a_checkpoint_that_cannot_be_written_is_not_shown(home: Home) -> None:
    publisher = await home.open()
    shown = publisher.note
    await home.grow(publisher)
    (home.folder / "checkpoint.new").mkdir()  # root may write anywhere, but not into a folder

    with pytest.raises(OSError, match="directory"):
        await publisher.renew()

    assert publisher.note == shown
    (home.folder / "checkpoint.new").rmdir()
    await publisher.renew()
    assert publisher.checkpoint.size == 2


async def test_a_start_whose_checkpoint_cannot_be_written_names_the_checkpoint(home: Home) -> None:
    await home.open()
    await home.close()
    await home.add(*make_entries(1, 2))
    (home.folder / "checkpoint.new").mkdir()

    with pytest.raises(HomeUnusable, match="The log's checkpoint cannot be written: Is a directory") as refused:
        await home.open()
    assert "Free some space on the disk of the home folder" in (refused.value.hint or "")


async def test_who_leaves_while_it_is_written_does_not_let_another_write_beside_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = await home.open()
    await home.grow(publisher)
    writing, disk_moves, fsync = threading.Event(), threading.Event(), os.fsync

    def slow_fsync(descriptor: int) -> None:
        writing.set()
        assert disk_moves.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    leaving = asyncio.create_task(publisher.renew())
    assert await asyncio.to_thread(writing.wait, 30)
    writing.clear()
    leaving.cancel()
    staying = asyncio.create_task(publisher.renew())
    await asyncio.wait({leaving})
    assert not await asyncio.to_thread(writing.wait, 0.1)
    disk_moves.set()

    note = await staying

    assert publisher.checkpoint.size == 2
    assert (home.folder / "checkpoint").read_bytes() == note
    assert not (home.folder / "checkpoint.new").exists()
