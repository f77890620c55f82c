"""The money identity: over thousands of random requests and many kills, credits + costs = payments, to the unit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.environments import ROOT
from tests.support.shop import Shop

#: Ten thousand and more are a matter of minutes: TRUSTGATE_TEST_MONEY_REQUESTS=10000 python3 tests tests/payment
_REQUESTS = int(os.environ.get("TRUSTGATE_TEST_MONEY_REQUESTS", "1500"))
#: A kill leaves to a process's successor what was written, synced or not, so the disk's syncs need not be waited for.
_MEMORY = Path("/dev/shm")


@pytest.mark.slow
async def test_money_adds_up_over_many_requests_and_kills(tmp_path: Path) -> None:
    chance = random.Random(20261125)
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else tmp_path) as folder:
        await _run(chance, Path(folder) / "home")


async def _run(chance: random.Random, home: Path) -> None:
    served = kills = 0
    while served < _REQUESTS:
        command = [sys.executable, "-m", "tests.support.shop_driver", str(home), str(served), "2000"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            wanted = chance.randrange(30, _REQUESTS // 6)
            got = len(process.stdout.read(wanted))
            process.kill()
            got += len(process.stdout.read())
        assert got >= wanted, f"the customers ended by themselves: exit code {process.returncode}"
        served += got
        kills += 1

    shop = await Shop.open(home)
    await shop.check_books()
    states = Counter(payment.state for payment in await shop.payments())
    receipts = await shop.receipts()
    await shop.close()
    print(f"{served} requests, {kills} kills, {len(receipts)} receipts, payments {dict(states)}")
    assert kills >= 6
    assert states["delivered"] and states["credited"] and states["failed"], "the run was too tame"
