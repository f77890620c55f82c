"""Archiving that is killed at every one of its steps, and gone on with.

``python -m tests.support.archive_kills FOLDER`` makes a home in the folder and, for each step, copies it, forks a child
that archives and kills itself there, and forks another that looks at what is left, archives again and looks again. It
prints the steps, and leaves with 1 where anything was lost, doubled or in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - loaded once, for all children

from tests.support.forks import in_a_child
from tests.support.old_receipts import fill
from trustgate.admin.local import open_local_admin
from trustgate.admin.log_commands import ArchiveReceipts, ArchiveReport
from trustgate.admin.money import BooksAudit
from trustgate.settings import Settings
from trustgate.store import ReceiptFilter, UsageFilter, archiving, copying, open_store
from trustgate.types import Receipt

#: Some whole tiles, and some receipts besides.
COUNT = 600
_TENANTS = (("ten_a", "key_a"), ("ten_b", "key_b"))
_BEFORE_US = 1_785_000_000_000_000  # 2026-07-25

#: What is done in an archiving, each a step before it and one after it.
_DONE = (
    *((archiving, name) for name in ("_clear", "_write", "sync", "_digest", "_move", "in_transaction")),
    *((copying, name) for name in ("_rewrite", "sync")),
    (Path, "rename"),
)


class _Steps:
    def __init__(self, deadly: int) -> None:
        self.number = 0
        self._deadly = deadly

    def wrap(self, of: Any, name: str) -> None:
        done: Callable[..., Any] = getattr(of, name)

        def stepwise(*args: Any, **options: Any) -> Any:
            self._step(f"before {name}")
            result = done(*args, **options)
            self._step(f"after {name}")
            return result

        setattr(of, name, stepwise)

    def _step(self, what: str) -> None:
        self.number += 1
        if self.number == self._deadly:
            print(what, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


async def archive(home: Path) -> ArchiveReport:
    admin = await open_local_admin(Settings(home=home))
    try:
        command = ArchiveReceipts(order="archive_1", before_us=_BEFORE_US)
        while (state := await admin.execute(command)).report is None:
            pass
        return state.report
    finally:
        await admin.close()


async def look(home: Path) -> tuple[list[Receipt], list[bytes], Any]:
    """Everything that must stay what it is: receipts, secrets, sums."""
    store = await open_store(home / "trustgate.duckdb")
    try:
        entries = await store.entries(ReceiptFilter(oldest_first=True, limit=10 * COUNT))
        assert [entry.seq for entry in entries] == list(range(1, COUNT + 1)), "each once, in order"
        newest = await store.entries(ReceiptFilter(limit=10 * COUNT))
        assert newest == entries[::-1]
        sums = [await store.usage(UsageFilter(by=by)) for by in ("day", "model", "key", "tenant")]
        windows = await store.window_usage(0)
        return [entry.receipt for entry in entries], [entry.secret for entry in entries], (sums, windows)
    finally:
        await store.close()


async def audit(home: Path) -> None:
    admin = await open_local_admin(Settings(home=home))
    try:
        command = BooksAudit(audit="audit_1")
        while (state := await admin.execute(command)).report is None:
            pass
        assert not state.report.differences, state.report.differences
    finally:
        await admin.close()


def main(folder: Path) -> int:
    home = folder / "home"
    home.mkdir(parents=True)

    def prepare() -> None:
        fill(home, COUNT, _TENANTS)
        asyncio.run(audit(home))  # so that there is a checkpoint

    def killed(at: Path, step: int) -> None:
        steps = _Steps(step)
        for of, name in _DONE:
            steps.wrap(of, name)
        report = asyncio.run(archive(at))
        assert report.receipts, "it has archived, without a step of that number"

    def gone_on_with(at: Path) -> None:
        before = asyncio.run(look(home))
        assert asyncio.run(look(at)) == before, "what is left is all there was"
        asyncio.run(archive(at))
        assert asyncio.run(look(at)) == before, "and after it is done"
        asyncio.run(audit(at))
        (file,) = (at / "archive").iterdir()
        assert (file.stat().st_mode & 0o777, file.suffix) == (0o600, ".parquet"), "nothing else is left behind"
        assert not list(at.glob("*.compact*"))

    if in_a_child(prepare):
        return 1
    step = 0
    while True:
        step += 1
        at = folder / str(step)
        shutil.copytree(home, at)
        status = in_a_child(partial(killed, at, step))
        if os.WIFEXITED(status):
            print(f"{step - 1} steps", flush=True)
            return os.WEXITSTATUS(status)
        if in_a_child(partial(gone_on_with, at)):
            return 1
        with contextlib.suppress(OSError):
            shutil.rmtree(at)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
