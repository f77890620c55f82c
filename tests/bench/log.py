"""``python3 tests/bench log``: what the tree over the receipts costs, with as many leaves as one likes.

Writes receipts through the code that the gateway runs (tree, store, publisher), without the HTTP in front, and prints
one table: CPU time a receipt for the tree and for the store, time of a proof (first and cached), time to open, bytes on
disk a receipt with and without the tree's share.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.entries import make_entries
from trustgate.receipts.merkle import verify_inclusion
from trustgate.receipts.publisher import Publisher
from trustgate.receipts.receipt import leaf_hash
from trustgate.receipts.tree import Tree
from trustgate.store import ReceiptFilter, Store, open_store

_BATCH = 1_000
_PROOFS = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench log", description=__doc__)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the files here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = asyncio.run(_measure(options.folder or Path(temporary), options.leaves))
    table = Table("measure", "value", title=f"A log of {options.leaves:,} receipts")
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)
    return 0


async def _measure(folder: Path, leaves: int) -> list[tuple[str, str]]:
    path = folder / "trustgate.duckdb"
    store = await open_store(path)
    tree = await Tree.open(store)
    tree_cpu_s = store_cpu_s = 0.0
    for first in range(tree.size + 1, leaves + 1, _BATCH):
        entries = make_entries(first, min(_BATCH, leaves + 1 - first))
        hashes = [leaf_hash(entry.receipt) for entry in entries]
        before = time.thread_time()
        grown, tiles = await tree.extended(hashes)
        tree_cpu_s += time.thread_time() - before
        before = time.process_time()
        await store.append_entries(entries, tiles)
        store_cpu_s += time.process_time() - before
        tree.adopt(grown)
    root_ms = await _timed(_async(lambda: tree.root), 20)
    await store.close()

    began = time.perf_counter()
    store = await open_store(path)
    opened_s = time.perf_counter() - began
    tree = await Tree.open(store)
    resumed_s = time.perf_counter() - began - opened_s
    began = time.perf_counter()
    publisher = await Publisher.open(
        store, tree, key_file=folder / "log.key", checkpoint_file=folder / "checkpoint", origin="example.com/log"
    )
    published_s = time.perf_counter() - began
    checkpoint = publisher.checkpoint

    chance = random.Random(1)
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(_PROOFS):
        index = chance.randrange(leaves)
        leaf = await _leaf(store, index)
        for times in (cold, warm):
            began = time.perf_counter()
            proof = await tree.inclusion(index, leaves)
            times.append((time.perf_counter() - began) * 1000)
        verify_inclusion(leaf, index, leaves, proof, checkpoint.root)
    size_bytes = store.info.size_bytes
    await store.close()
    tile_bytes = leaves / 256 * 257 * 32
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        ("tree, CPU a receipt", f"{tree_cpu_s / leaves * 1e6:.2f} µs"),
        ("store (receipts and tiles), CPU a receipt", f"{store_cpu_s / leaves * 1e6:.1f} µs"),
        ("root of all, p50", f"{root_ms:.3f} ms"),
        ("proof, tiles not in memory, p50 / max", f"{statistics.median(cold):.2f} / {max(cold):.2f} ms"),
        ("proof, tiles in memory, p50 / max", f"{statistics.median(warm):.2f} / {max(warm):.2f} ms"),
        ("open the database", f"{opened_s:.2f} s"),
        ("take up the tree", f"{resumed_s:.3f} s"),
        ("check and sign the checkpoint", f"{published_s:.3f} s"),
        ("disk a receipt, all", f"{size_bytes / leaves:.0f} bytes"),
        ("disk a receipt, tiles", f"{tile_bytes / leaves:.1f} bytes"),
        ("memory, most", f"{peak_mib:.0f} MiB"),
    ]


async def _leaf(store: Store, index: int) -> bytes:
    [entry] = await store.entries(ReceiptFilter(after_seq=index, oldest_first=True, limit=1))
    return leaf_hash(entry.receipt)


def _async(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return work()

    return call


async def _timed(work: Callable[[], Awaitable[object]], times: int) -> float:
    """The median, milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    raise SystemExit(main())
