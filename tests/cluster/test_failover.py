"""Two gateways on one Postgres: whatever is killed, stopped or cut, no answer's receipt is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.failover import Failover


@pytest.mark.slow
def test_no_receipt_is_lost_or_doubled_while_one_gateway_takes_the_others_place(tmp_path: Path) -> None:
    world = Failover(tmp_path, seed=1)
    try:
        # What the first has in its journal alone when it is killed is in the log at the end, too.
        receipts = [receipt for fault in ("restart_postgres", "kill", "sleep") for receipt in world.run(1, fault)]
        world.check(receipts)
    finally:
        world.close()
