"""``python3 tests/chaos``: everything goes wrong, and after each round every promise is checked.

    …                       five rounds
    … --minutes 60          as many as an hour takes
    … --seed 7 --rounds 1   the first round of a run again
    … --only kill,clock     these faults alone
    … --list

A gateway on a small disk, clients, customers who pay on a local chain, and faults in an order that the seed decides
(faults.py); after each round no fault is left, and the promises are checked (checks.py). Prints what was done and
found; the exit code is 1 where a promise was broken, and the home is kept for a look. Linux alone; the disk can be
filled up only as root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.chaos import checks
from tests.chaos.clients import Traffic
from tests.chaos.faults import FAULTS
from tests.chaos.world import Told, World, world
from tests.support.disks import mounted_disk

_FAULTS_A_ROUND = 4
_DISK_BYTES = 256 * 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """Run what ``arguments`` choose. Returns 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python3 tests/chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="decides which faults come when (default: 1)")
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 5, or what --minutes allow)")
    parser.add_argument("--minutes", type=float, help="for how long")
    parser.add_argument("--only", help="these faults, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the faults, run nothing")
    options = parser.parse_args(arguments)
    if options.list:
        for name, fault in FAULTS.items():
            print(f"{name:18} {(fault.__doc__ or '').splitlines()[0]}")
        return 0
    chosen = options.only.split(",") if options.only else list(FAULTS)
    if unknown := set(chosen) - FAULTS.keys():
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; see --list")
    rounds = options.rounds or (None if options.minutes else 5)
    deadline = None if options.minutes is None else time.monotonic() + options.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="trustgate-chaos-"))
    try:
        with _disk(folder) as disk:
            try:
                asyncio.run(run(folder, disk, options.seed, _plan(options.seed, chosen, rounds, deadline)))
            except BaseException:
                if disk is not None:
                    shutil.copytree(disk / "home", folder / "kept-home", ignore=shutil.ignore_patterns("*.sock"))
                raise
    except (AssertionError, TimeoutError) as broken:
        print(f"BROKEN: {str(broken) or 'something that should have happened did not'}\nWhat is left is in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _plan(seed: int, chosen: Sequence[str], rounds: int | None, deadline: float | None) -> Iterator[list[str]]:
    """The faults of each round."""
    number = 0
    while (rounds is None or number < rounds) and (deadline is None or time.monotonic() < deadline):
        number += 1
        chance = random.Random(f"{seed} {number}")
        yield [chance.choice(chosen) for _ in range(_FAULTS_A_ROUND)]


async def run(folder: Path, disk: Path | None, seed: int, rounds: Iterable[Sequence[str]]) -> Told:
    """Rounds of faults, by name, each followed by every check. Raises AssertionError for a broken promise."""
    done: Counter[str] = Counter()
    async with world(folder, disk) as found:
        try:
            for number, names in enumerate(rounds, start=1):
                found.told.counts["rounds"] = number
                chance = random.Random(f"{seed} {number} faults")
                found.chance = random.Random(chance.random())
                print(f"round {number}: {', '.join(names)}", flush=True)
                began = time.monotonic()
                await _round(found, chance, names)
                done.update(names)
                told = len(found.told.receipts)
                print(f"  all promises hold after {time.monotonic() - began:.1f} s; {told} receipts told", flush=True)
        finally:
            _report(found.told, done)
        return found.told


async def _round(found: World, chance: random.Random, names: Sequence[str]) -> None:
    traffic = Traffic(found, chance)
    try:
        await traffic.wait_for(30)
        for name in names:
            found.told.fault = name
            await FAULTS[name](found, traffic, chance)
        await found.heal()
        await traffic.wait_for(100)
    finally:
        found.upstream_mode = "ok"
        await traffic.stop()
    await checks.all_promises(found)


def _report(told: Told, done: Counter[str]) -> None:
    print("faults: " + ", ".join(f"{name} {times}" for name, times in sorted(done.items())))
    print("clients: " + ", ".join(f"{what} {times}" for what, times in sorted(told.counts.items())))


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Path | None]:
    """A small disk of its own, where this user may mount one."""
    with mounted_disk(folder / "disk", _DISK_BYTES) as (disk, why):
        if disk is None:
            print(f"no disk is filled up: {why}")
        yield disk


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
