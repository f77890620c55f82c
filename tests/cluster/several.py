"""Three gateways serve one Postgres at once while they are killed, put to sleep and cut off, and Postgres with them.

``python -m tests.cluster.several SEED ROUNDS`` runs it and prints what it did. Whatever happens, each answer that a
client has the end of has its receipt in the log, once, all chains are whole, and the books balance. Who asks has a
quota where the seed is even.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.cluster.failover import Failover, Machine, by_hand
from tests.support.postgres import Postgres
from tests.support.processes import wait_until


class Beside(Machine):
    """A machine whose gateway serves beside others."""

    flags = ()


def start_all(machines: Sequence[Machine], copied: Sequence[str] = ("log.key",)) -> None:
    """Start the first, then the others with copies of files of its home, and wait until all serve."""
    first, *others = machines
    first.start()
    wait_until(first.is_ready, "the first to serve")
    for other in others:
        other.gateway.home.mkdir(mode=0o700)
        for name in copied:
            shutil.copy(first.gateway.home / name, other.gateway.home)
        other.start()
    for machine in machines:
        wait_until(machine.is_ready, f"{machine.name} to serve")


class Several(Failover):
    """The world of one run; each fault is a method."""

    def __init__(self, folder: Path, seed: int, count: int = 3) -> None:
        self.random = random.Random(seed)
        self.postgres = Postgres().start()
        self.url = self.postgres.schema()
        self.machines = [Beside(folder, f"gateway{number}", self.url) for number in range(1, count + 1)]
        first = self.machines[0]
        # A request without limits reaches the database at its end; one with a quota at its beginning, too.
        plan = "internal"
        if seed % 2 == 0:
            plan = "bounded"
            first.gateway.cli("plan", "add", plan, "--requests-per-day", "1000000", "--tokens-per-day", "1000000000")
        self.key = first.gateway.add_tenant(plan=plan)
        start_all(self.machines)
        self.faults: Counter[str] = Counter()

    def serving(self) -> Machine:
        """Any that serves."""
        wait_until(lambda: any(machine.listens() for machine in self.machines), "one to serve")
        return self.random.choice([machine for machine in self.machines if machine.listens()] or self.machines)

    def checkpoints(self) -> set[str]:
        """The checkpoints that the gateways show."""
        return {httpx.get(f"http://127.0.0.1:{machine.port}/log/checkpoint").text for machine in self.machines}

    def _all_serve(self) -> bool:
        """Whether all do; one that has ended, because it found no database, is started again."""
        for machine in self.machines:
            if not machine.is_running():
                machine.start()
        return all(machine.listens() for machine in self.machines)

    def check(self, receipts: list[str]) -> None:
        """Check, once all is still, that nothing is lost or doubled, and that all show one log."""
        wait_until(self._all_serve, "all to serve")
        wait_until(lambda: len(self.checkpoints()) == 1, "all to show one checkpoint")
        super().check(receipts)


if __name__ == "__main__":
    by_hand(Several, int(sys.argv[1]), int(sys.argv[2]))
