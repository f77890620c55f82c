"""Three gateways on one Postgres whose operator changes limits, budgets, plans, keys and balances while clients ask.

``python -m tests.cluster.commanded SEED ROUNDS`` runs rounds and prints what each did. In each round clients ask while
random commands are carried out at random gateways, some of which are killed, stopped or cut off meanwhile. Then all is
still: each answer that a client had the end of has its receipt, once, and ``doctor --books`` is clean.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from tests.cluster.failover import LEASE_S, Machine
from tests.cluster.load import Load
from tests.cluster.promises import Promises
from tests.cluster.several import Beside, start_all
from tests.support.links import Link
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import wait_until
from trustgate.admin import budgeting, commands, money
from trustgate.errors import TrustGateError

_logger = logging.getLogger(__name__)

_TENANTS = 5
_PLANS = ("one", "two")
_NAMES = ("a", "b", "c")


class Commanded(Promises):
    """The world of one run; each command and each fault is a method."""

    def __init__(self, folder: Path, seed: int, count: int = 3) -> None:
        self.postgres = Postgres().start()
        super().__init__(self.postgres.schema(), "", random.Random(seed))
        self.links = [Link(self.postgres.port) for _ in range(count)]
        self.machines = [
            Beside(folder, f"gateway{number}", link.over(self.url)) for number, link in enumerate(self.links, start=1)
        ]
        start_all(self.machines)
        self.load = Load(self.machines, seed)
        for plan in _PLANS:
            self.execute(commands.PlanPut(name=plan, create=True))
        for number in range(_TENANTS):
            plan = ("internal", *_PLANS)[number % 3]
            added = self.execute(commands.TenantAdd(name=f"t{number}", plan=plan))
            self.load.keys.append(added.secret)
        self.keys = [key.id for key in self.execute(commands.KeyList())]
        self.execute(money.PaymentSet(tenant="t0", mode="prepaid", price_nano_usd=1_000))
        self.execute(money.TenantCredit(tenant="t0", add_nano_usd=10**9))
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    # commands

    def _any_tenant(self) -> str:
        return f"t{self.random.randrange(_TENANTS)}"

    def _limits(self) -> dict[str, int | None]:
        """Some are so low that they refuse."""
        limits: tuple[Callable[[], tuple[str, int | None]], ...] = (
            lambda: ("requests_per_day", self.random.choice((None, 20, 10**6))),
            lambda: ("tokens_per_day", self.random.choice((None, 10**9))),
            lambda: ("parallel_requests", self.random.choice((None, 2, 50))),
        )
        return dict(each() for each in self.random.sample(limits, self.random.randint(1, 3)))

    def add_budget(self) -> commands.Command[Any]:
        name = self.random.choice(_NAMES)
        each: Literal["all", "tenant", "key"] = self.random.choice(("all", "tenant", "key"))
        whom: dict[str, Any] = self.random.choice(
            ({"tenants": (self._any_tenant(),)}, {"plans": (self.random.choice(_PLANS),)}, {"everyone": True})
        )
        amount = self.random.choice((30, 10**6))
        return budgeting.BudgetPut(
            budget=name, create=True, unit="requests", amount=amount, span="month", each=each, **whom
        )

    def set_budget(self) -> commands.Command[Any]:
        change: dict[str, Any] = self.random.choice(
            ({"amount": self.random.choice((5, 10**6))}, {"each": "tenant"}, {"each": "all"}, {"span": "total"})
        )
        return budgeting.BudgetPut(budget=self.random.choice(_NAMES), **change)

    def remove_budget(self) -> commands.Command[Any]:
        return budgeting.BudgetRemove(budget=self.random.choice(_NAMES))

    def move_tenant(self) -> commands.Command[Any]:
        return commands.TenantSet(tenant=self._any_tenant(), plan=self.random.choice(("internal", *_PLANS)))

    def set_plan(self) -> commands.Command[Any]:
        return commands.PlanPut(name=self.random.choice(_PLANS), limits=self._limits())

    def set_key(self) -> commands.Command[Any]:
        return commands.KeySet(key=self.random.choice(self.keys), limits=self._limits())

    def suspend(self) -> commands.Command[Any]:
        return commands.TenantSuspend(tenant=self._any_tenant())

    def resume(self) -> commands.Command[Any]:
        return commands.TenantResume(tenant=self._any_tenant())

    def remove_tenant(self) -> commands.Command[Any]:
        return commands.TenantRemove(tenant=self._any_tenant())

    def restore_tenant(self) -> commands.Command[Any]:
        return commands.TenantRestore(tenant=self._any_tenant())

    def credit(self) -> commands.Command[Any]:
        reference = str(self.random.randrange(5))
        return money.TenantCredit(tenant="t0", add_nano_usd=1_000 * (1 + int(reference)), reference=reference)

    def take(self) -> commands.Command[Any]:
        return money.PaymentRefundCredit(tenant="t0", amount_nano_usd=1)

    def command(self, machine: Machine) -> None:
        """A random command at a machine."""
        kinds = (
            *(self.add_budget, self.add_budget, self.set_budget, self.set_budget, self.remove_budget),
            *(self.move_tenant, self.move_tenant, self.set_plan, self.set_plan, self.set_key, self.set_key),
            *(self.suspend, self.resume, self.remove_tenant, self.restore_tenant, self.credit, self.take),
        )
        made = self.random.choice(kinds)()
        name = type(made).__name__
        _logger.info("%s at %s", made, machine.name)
        try:
            self.execute(made, machine)
            self.done[name] += 1
        except (TrustGateError, OSError) as error:
            self.refused[f"{name}: {type(error).__name__}"] += 1

    # faults

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        """Something happens to a machine within the block, at any moment."""
        machine = self.random.choice(self.machines)
        kind = self.random.choice(("none", "none", "kill", "kill", "sleep", "cut"))
        after_s, for_s = self.random.uniform(0, 0.4), self.random.uniform(0.2, 3 * LEASE_S)
        _logger.info("%s of %s", kind, machine.name)
        link = self.links[self.machines.index(machine)]

        def happen() -> None:
            time.sleep(after_s)
            if kind == "kill":
                machine.end(signal.SIGKILL)
            elif kind == "sleep":
                machine.send(signal.SIGSTOP)
                time.sleep(for_s)
                machine.send(signal.SIGCONT)
            elif kind == "cut":
                link.swallow()
                link.reset()
                time.sleep(for_s)
                link.mend(late=False)

        if kind == "sleep":
            self.load.asleep.add(machine.name)
        thread = threading.Thread(target=happen)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            self.load.asleep.discard(machine.name)
            self.done[kind] += 1

    def _await_answers(self, count: int) -> None:
        before = self.load.statuses.total()
        wait_until(lambda: self.load.statuses.total() >= before + count, "some to be asked", 60)

    def bring_back(self) -> None:
        """Have most tenants ask again."""
        for tenant in self.execute(commands.TenantList(removed=True)):
            if tenant.status == "removed" and self.random.random() < 0.7:
                self.execute(commands.TenantRestore(tenant=tenant.id))
            elif tenant.status == "suspended" and self.random.random() < 0.7:
                self.execute(commands.TenantResume(tenant=tenant.id))

    def round(self) -> None:
        self.bring_back()
        self.load.go()
        with self.fault():
            for _ in range(self.random.randint(2, 5)):
                self._await_answers(15)
                self.command(self.random.choice([each for each in self.machines if each.is_running()]))
        self.load.rest()
        wait_until(self._all_serve, "all to serve", 60)
        wait_until(lambda: run_sql(self.url, "SELECT count(*) FROM waiting_receipts") == [(0,)], "all to have places")
        wait_until(lambda: not run_sql(self.url, "SELECT 1 FROM shared_state WHERE key = 'count'"), "all to be counted")
        kept = Counter(row[0] for row in run_sql(self.url, "SELECT id FROM receipts"))
        assert not kept or max(kept.values()) == 1, "a receipt is in the log twice"
        missing = [receipt for receipt in self.load.receipts if receipt not in kept]
        assert not missing, f"{len(missing)} receipts are missing: {missing[:5]}"
        books = self.random.choice(self.machines).gateway.cli("doctor", "--books", check=False)
        assert books.returncode == 0, books.stdout


def main(seed: int, rounds: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = Path(tempfile.mkdtemp())
    world = Commanded(folder, seed)
    began_s = time.monotonic()
    try:
        for number in range(rounds):
            _logger.info("round %d", number + 1)
            world.round()
        world.check_history()
    finally:
        world.close()
    print(f"seed {seed}: {rounds} rounds in {time.monotonic() - began_s:.0f} s, {len(world.load.receipts)} answers")
    print(dict(world.done), dict(world.refused), dict(world.load.statuses), world.load.unexpected[:3])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
