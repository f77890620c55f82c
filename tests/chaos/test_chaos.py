"""A short chaos run: each fault once, in three rounds. ``python3 tests/chaos --minutes 60`` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.run import run
from tests.support.disks import mounted_disk

_DISK_BYTES = 256 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Client is deprecated:FutureWarning")
async def test_every_promise_holds_after_every_fault(tmp_path: Path) -> None:
    names = list(FAULTS)
    random.Random(20261129).shuffle(names)
    third = -(-len(names) // 3)
    with mounted_disk(tmp_path / "disk", _DISK_BYTES) as (disk, _):
        told = await run(tmp_path, disk, 20261129, [names[at : at + third] for at in range(0, len(names), third)])
    assert told.counts["rounds"] == 3
    assert len(told.receipts) > 200 and told.counts["payments"] > 5, "the run was too tame"
    assert told.counts["rounds that reached the quota"] and told.counts["dead key: 401"] and told.counts["left early"]
