"""Three gateways on one Postgres through every fault of processes, of the database, of its disk and of the network.

``python -m tests.cluster.faults SEED ROUNDS [FAULT]`` runs rounds, prints what each did, and ends with the figures. In
each round clients ask while one fault happens; then all is still, and every promise is looked at: each answer that a
client had the end of has its receipt, once; no chain and no place has a gap; all show one log, which continues each
checkpoint that was shown; quota, budget and balance are drawn to their end, to the unit; ``doctor --books`` is clean;
no state of the log is anchored twice; no answer took longer than ``load.BOUND_S``.
"""

from __future__ import annotations

import asyncio
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

from tests.cluster.failover import _CUT, LEASE_S, Machine
from tests.cluster.load import CLIENTS, Load
from tests.cluster.promises import Asked, Promises
from tests.cluster.several import Beside, start_all
from tests.support.disks import fill, mounted_disk
from tests.support.links import BOTH, Link
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import wait_until
from trustgate.admin import commands, money
from trustgate.localnet import running_localnet

_logger = logging.getLogger(__name__)

#: What each round's tenants may have.
QUOTA, BUDGET, PAID = 40, 30, 25
_CENT = 10_000_000
#: What is printed of the database where a round has failed.
_ACTIVITY = (
    "SELECT pid, application_name, state, now() - state_change AS since, wait_event, pg_blocking_pids(pid) AS behind,"
    " left(query, 200) AS query FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()"
)
_DISK_BYTES = 400 * 2**20
_PATIENCE_S = 60.0


class Faulty(Promises):
    """The world of one run; each fault is a method."""

    def __init__(self, folder: Path, disk: Path | None, seed: int, chain: str, count: int = 3) -> None:
        """``disk``: for the database, so that it can be filled up. ``chain``: a Solana node's URL; "": no anchors."""
        self.folder, self.disk = folder, disk
        self.postgres = Postgres(disk).start()
        super().__init__(self.postgres.schema(), chain, random.Random(seed))
        self.links = [Link(self.postgres.port) for _ in range(count)]
        environment = {"TRUSTGATE_ANCHOR_RPC": chain, "TRUSTGATE_ANCHOR_AFTER_RECEIPTS": "25"} if chain else {}
        self.machines = [
            Beside(
                folder,
                f"gateway{number}",
                link.over(self.url),
                {**environment, "TRUSTGATE_RECEIPTS_CHECKPOINT_EVERY_S": "1"},
            )
            for number, link in enumerate(self.links, start=1)
        ]
        first = self.machines[0]
        first.gateway.cli("plan", "add", "forty", "--requests-per-day", str(QUOTA), "--parallel-requests", "20")
        if chain:
            first.gateway.cli("anchor", "keygen")
        start_all(self.machines, ("log.key", "anchor.json") if chain else ("log.key",))
        self.faults: Counter[str] = Counter()
        self.load = Load(self.machines, seed)
        self.free = self._tenant("free", "internal", 0, 0)

    # tenants

    def _tenant(self, name: str, plan: str, most: int, refusal: int) -> Asked:
        added = self.execute(commands.TenantAdd(name=name, plan=plan), self.random.choice(self.machines))
        return Asked(name, added.tenant.id, added.secret, most, refusal)

    def _tenants(self, number: int) -> list[Asked]:
        """Three for a round: by a quota, by a budget, by money."""
        quota = self._tenant(f"quota{number}", "forty", QUOTA, 429)
        budget = self._tenant(f"budget{number}", "internal", BUDGET, 429)
        first = self.machines[0].gateway
        first.cli("budget", "add", f"of{number}", "--requests", str(BUDGET), "--per", "total", "--tenant", budget.name)
        paying = self._tenant(f"paying{number}", "internal", PAID, 402)
        self.execute(money.PaymentSet(tenant=paying.name, mode="prepaid", price_nano_usd=_CENT))
        self.execute(money.TenantCredit(tenant=paying.name, add_nano_usd=PAID * _CENT + _CENT // 2))
        return [quota, budget, paying]

    # faults of processes

    def kill(self) -> None:
        """``kill -9`` of a gateway."""
        self._any().end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM for a gateway, with the database there or hardly there."""
        link = self.links[self.machines.index(machine := self._any())]
        link.delay_s["there"] = self.random.choice((0.0, 0.05))
        machine.end()

    def sleep(self) -> None:
        """A gateway is stopped for about a lease, or for 20 s, and continued (SIGSTOP, SIGCONT)."""
        machine = self._any()
        with self._asleep(machine):
            time.sleep(self.random.choice((0.3, LEASE_S, 1.3 * LEASE_S, 3 * LEASE_S, 20)))

    def sleep_of_the_signer(self) -> None:
        """The gateway with most roles is stopped until others have them."""
        holder = self._holder("sequencer") or self._any()
        with self._asleep(holder):
            time.sleep(self.random.uniform(1, 4) * LEASE_S)

    def kill_of_the_signer(self) -> None:
        (self._holder(self.random.choice(("sequencer", "anchorer"))) or self._any()).end(signal.SIGKILL)

    def sleep_at_the_start(self) -> None:
        """One is stopped, or cut off, in the middle of its start; the others serve on."""
        machine = self._any()
        link = self.links[self.machines.index(machine)]
        # It listens early in its start, so that clients wait for it.
        self.load.asleep.add(machine.name)
        machine.end()
        machine.start()
        time.sleep(self.random.uniform(0.5, 2))
        with self._asleep(machine):
            if self.random.random() < 0.5:
                link.swallow()
            before = len(self.load.receipts)
            wait_until(lambda: len(self.load.receipts) >= before + 20, "the others to serve on")
            time.sleep(self.random.choice((0, 12)))
        link.mend()

    @contextlib.contextmanager
    def _asleep(self, machine: Machine) -> Iterator[None]:
        self.load.asleep.add(machine.name)
        machine.send(signal.SIGSTOP)
        try:
            yield
        finally:
            machine.send(signal.SIGCONT)
            time.sleep(1.0)
            self.load.asleep.discard(machine.name)

    def _any(self) -> Machine:
        return self.random.choice(self.machines)

    def _holder(self, role: str) -> Machine | None:
        found = run_sql(self.url, f"SELECT n.address FROM roles r JOIN nodes n USING (node_id) WHERE role = '{role}'")
        ports = {int(address.rpartition(":")[2]) for (address,) in found}
        return next((machine for machine in self.machines if machine.port in ports), None)

    # faults of the database

    def cut(self) -> None:
        """Every session ends."""
        run_sql(self.url, _CUT)

    def restart_postgres(self) -> None:
        self.postgres.stop(self.random.choice((signal.SIGINT, signal.SIGQUIT)))
        self._pause()
        self.postgres.start()

    def kill_postgres(self) -> None:
        """``kill -9`` of the server and all of its processes: what was not on the disk is gone."""
        self.postgres.kill()
        self._pause()
        self.postgres.start()

    def kill_backend(self) -> None:
        """``kill -9`` of one session: the server ends all of them, and recovers."""
        found = run_sql(self.url, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'trustgate %'")
        with contextlib.suppress(ProcessLookupError):
            if found:
                signal.pidfd_send_signal(_pidfd(self.random.choice(found)[0]), signal.SIGKILL)
        wait_until(self._database_answers, "Postgres to have recovered")

    def hang_postgres(self) -> None:
        """The server is there and answers nothing, as on a machine that swaps; for less than others wait, or more."""
        self.postgres.send(signal.SIGSTOP)
        time.sleep(self.random.choice((1, 3, 14)))
        self.postgres.send(signal.SIGCONT)

    def slow_postgres(self) -> None:
        """Each commit of receipts takes a while."""
        pause_s = self.random.choice((0.1, 0.5, 2, 12))
        run_sql(
            self.url,
            "CREATE OR REPLACE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" PERFORM pg_sleep({pause_s}); RETURN NULL; END $$;",
        )
        run_sql(
            self.url,
            "CREATE OR REPLACE TRIGGER dawdle BEFORE INSERT ON waiting_receipts FOR EACH STATEMENT"
            " EXECUTE FUNCTION dawdle();",
        )
        time.sleep(max(4.0, pause_s + 2))
        wait_until(self._drop_trigger, "the trigger to be removed", _PATIENCE_S)

    def _drop_trigger(self) -> bool:
        import asyncpg

        try:
            run_sql(self.url, "SET lock_timeout = '500ms'; DROP TRIGGER IF EXISTS dawdle ON waiting_receipts;")
        except asyncpg.PostgresError:
            return False
        return True

    def lock_tables(self) -> None:
        """Another session holds a lock of a table for a while."""
        held_s = self.random.choice((2, 13))
        lock = "LOCK TABLE shared_state IN ACCESS EXCLUSIVE MODE"
        run_sql(self.url, f"BEGIN; {lock}; SELECT pg_sleep({held_s}); COMMIT;")

    def read_only(self) -> None:
        """Nothing can be written, as at a hoster whose disk is full."""
        for value in ("on", "off"):
            run_sql(
                self.url,
                "SET default_transaction_read_only = off",
                f"ALTER SYSTEM SET default_transaction_read_only = {value}",
                "SELECT pg_reload_conf()",
            )
            time.sleep(self.random.uniform(0.5, 4) if value == "on" else 0)

    def fill_disk(self) -> None:
        """Its disk is full until some of it is freed; it may have ended by then, and is started again."""
        assert self.disk is not None, "its disk can be filled up"
        filler = fill(self.disk)
        time.sleep(self.random.uniform(2, 8))
        filler.unlink()
        wait_until(self._database_is_back, "Postgres to be back")

    def _database_is_back(self) -> bool:
        if self.postgres.has_ended():
            self.postgres.stop()
            with contextlib.suppress(AssertionError):
                self.postgres.start()
        return self._database_answers()

    def kill_all(self) -> None:
        """The database and two of the gateways at once."""
        for machine in self.random.sample(self.machines, 2):
            machine.end(signal.SIGKILL)
        self.kill_postgres()

    def _pause(self) -> None:
        time.sleep(self.random.choice((0, 0.3, LEASE_S, 3 * LEASE_S)))

    def _database_answers(self) -> bool:
        try:
            return run_sql(self.url, "SELECT 1") == [(1,)]
        except Exception:  # noqa: BLE001 - whatever the driver raises of one that starts
            return False

    # faults of the network between a gateway and the database

    def reset(self) -> None:
        """All connections of one are cut with RST."""
        self._link().reset()

    def cut_in_message(self) -> None:
        """A message arrives in part, and its connection is cut."""
        for _ in range(self.random.randint(1, 4)):
            self._link().cut_in_message(self.random.choice(BOTH))
            time.sleep(0.3)

    def delay(self) -> None:
        """A way to the database as long as around the world, or worse; in one direction or both."""
        link = self._link()
        for direction in self.random.choice((BOTH, ("there",), ("back",))):
            link.delay_s[direction] = self.random.choice((0.02, 0.1, 0.4))
        time.sleep(self.random.uniform(3, 6))

    def throttle(self) -> None:
        """So little passes that everything waits."""
        self._link().rate = self.random.choice((20_000, 100_000))
        time.sleep(self.random.uniform(3, 6))

    def swallow(self) -> None:
        """Nothing arrives any more, in one direction or both; later all of it does, or nothing."""
        link = self._link()
        link.swallow(*self.random.choice((BOTH, ("there",), ("back",))))
        time.sleep(self.random.choice((0.5, LEASE_S, 3 * LEASE_S, 13, 25)))
        link.mend(late=self.random.random() < 0.7)

    def swallow_all(self) -> None:
        """No gateway reaches the database; each comes back by itself."""
        for link in self.links:
            link.swallow()
        time.sleep(self.random.choice((2 * LEASE_S, 12, 25)))
        for link in self.links:
            link.mend(late=self.random.random() < 0.5)
            time.sleep(self.random.uniform(0, 2))

    def swallow_and_kill(self) -> None:
        """A gateway is killed while it is cut off; what it had sent arrives after its death."""
        machine = self._any()
        link = self.links[self.machines.index(machine)]
        link.swallow()
        time.sleep(self.random.uniform(0.2, 2 * LEASE_S))
        machine.end(signal.SIGKILL)
        machine.start()
        time.sleep(self.random.uniform(0, 2 * LEASE_S))
        link.mend()

    def _link(self) -> Link:
        return self.random.choice(self.links)

    # the anchors

    def flush(self) -> None:
        """Operators ask two gateways at once for an anchor."""
        threads = [
            threading.Thread(target=self._flush, args=(machine,)) for machine in self.random.sample(self.machines, 2)
        ]
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(0, 1))
        if self.random.random() < 0.5:
            self.random.choice(self.machines).end(signal.SIGKILL)
        for thread in threads:
            thread.join()

    def _flush(self, machine: Machine) -> None:
        machine.gateway.cli("anchor", "flush", check=False)

    # rounds

    def choices(self) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = [
            *(self.kill, self.stop, self.sleep, self.sleep_of_the_signer, self.sleep_at_the_start),
            self.kill_of_the_signer,
            *(self.cut, self.restart_postgres, self.kill_postgres, self.kill_backend, self.hang_postgres),
            *(self.slow_postgres, self.lock_tables, self.read_only, self.kill_all),
            *(self.reset, self.cut_in_message, self.delay, self.throttle),
            *(self.swallow, self.swallow, self.swallow_all, self.swallow_and_kill),
        ]
        if self.disk is not None:
            found.append(self.fill_disk)
        if self.chain:
            found.append(self.flush)
        return found

    def round(self, number: int, only: str = "") -> None:
        """One fault under load, then every promise."""
        fault = getattr(self, only) if only else self.random.choice(self.choices())
        self.faults[fault.__name__] += 1
        began, before = time.monotonic(), len(self.load.receipts)
        starts = sum(machine.count for machine in self.machines)
        tenants = self._tenants(number)
        self.load.keys = [self.free.key, *(tenant.key for tenant in tenants)]
        self.load.slowest_s = 0.0
        self.load.go()
        wait_until(lambda: len(self.load.receipts) >= before + 10, "answers before a fault", _PATIENCE_S)
        _logger.info("%s", fault.__name__)
        fault()
        for link in self.links:
            if fault.__name__ in ("delay", "throttle", "stop", "cut_in_message"):
                link.mend()
        for machine in self.machines:
            if not machine.is_running():
                machine.start()
        after = len(self.load.receipts)
        wait_until(lambda: len(self.load.receipts) >= after + 10, "answers after a fault", _PATIENCE_S)
        self.load.rest()
        slowest_s = self.load.slowest_s
        # What they held is given back, and may be used by others before they come back, or wake.
        begun = CLIENTS if fault.__name__.startswith(("swallow", "sleep")) else 0
        self.check(tenants, was_killed=sum(machine.count for machine in self.machines) > starts, begun=begun)
        _logger.info(
            "round %d: %s, %d answers, the slowest %.1f s, %.0f s in all",
            *(number, fault.__name__, len(self.load.receipts) - before, slowest_s, time.monotonic() - began),
        )


def _pidfd(pid: int) -> int:
    import os

    return os.pidfd_open(pid)


@contextlib.contextmanager
def chain() -> Iterator[str]:
    """A local Solana; its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = contextlib.AsyncExitStack()
    net = asyncio.run_coroutine_threadsafe(
        stack.enter_async_context(running_localnet(slot_ms=100, finality_slots=4)), loop
    ).result()
    try:
        yield net.url
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def main(seed: int, rounds: int, only: str = "") -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="faults"))
    print(folder, flush=True)
    with contextlib.ExitStack() as stack:
        disk, why = stack.enter_context(mounted_disk(Path(tempfile.mkdtemp(prefix="disk")), _DISK_BYTES))
        if disk is None:
            print(f"the disk is not filled up: {why}")
        world = Faulty(folder, disk, seed, stack.enter_context(chain()))
        stack.callback(world.close)
        began = time.monotonic()
        try:
            for number in range(1, rounds + 1):
                world.round(number, only)
            world.check_history()
        except Exception:
            with contextlib.suppress(Exception):
                print(*run_sql(world.url, _ACTIVITY), sep="\n")
            raise
        took_s = time.monotonic() - began
        print(f"seed {seed}: {rounds} rounds in {took_s:.0f} s, {len(world.load.receipts)} answers, none lost")
        print(dict(world.faults), dict(world.load.statuses), f"{world.beyond} charged beyond a limit after a kill")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
