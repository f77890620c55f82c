"""Two gateways on one Postgres while they are killed, stopped, put to sleep and cut off, and Postgres with them.

``python -m tests.cluster.failover SEED ROUNDS`` runs it and prints what it did. Whatever happens, each answer that a
client has the end of has its receipt in the log, once, and the books balance.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from tests.environments import ROOT
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import Process, clean_environment, free_port, wait_until

_logger = logging.getLogger(__name__)

LEASE_S = 1
CHAT = json.dumps({"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hello!"}]})
_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'trustgate %'"


class Machine:
    """A home and, while it runs, the gateway on it, which serves or waits."""

    program: tuple[str, ...] = (sys.executable, "-m", "trustgate")
    flags: tuple[str, ...] = ("--wait",)

    def __init__(self, folder: Path, name: str, url: str, environment: Mapping[str, str] | None = None) -> None:
        """``environment``: what its gateway gets besides."""
        self.folder = folder
        self.name = name
        self.port = free_port()
        self.gateway = Gateway(folder / name, environment={"TRUSTGATE_STORE_URL": url})
        self._environment = clean_environment(
            {
                "TRUSTGATE_STORE_URL": url,
                "TRUSTGATE_STORE_LEASE_S": str(LEASE_S),
                "PYTHONPATH": str(ROOT),
                "TRUSTGATE_DEBUG": "1",
                **(environment or {}),
            }
        )
        self.process: Process | None = None
        self.count = 0

    def start(self) -> None:
        self.count += 1
        command = [*self.program, "--home", str(self.gateway.home), "serve", *self.flags]
        command += ["--port", str(self.port), "--upstream", "builtin:echo"]
        log = self.folder / f"{self.name}.{self.count}.log"
        self.process = Process(self.name, command, self.folder, self._environment, log)

    def is_running(self) -> bool:
        return self.process is not None and self.process.exit_code is None

    def is_ready(self) -> bool:
        return self.process is not None and "ready at " in self.process.stdout

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def send(self, number: int) -> None:
        if self.process is not None:
            self.process.signal(number)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.signal(number)
            self.process.wait()


class Clients:
    """Threads that ask both machines, and keep the receipts of the answers that they have the end of."""

    def __init__(self, machines: list[Machine], key: str, count: int = 3) -> None:
        self._machines = machines
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._end = threading.Event()
        self.receipts: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def _ask(self, turn: int) -> None:
        while not self._end.is_set():
            turn += 1
            connection = http.client.HTTPConnection(
                "127.0.0.1", self._machines[turn % len(self._machines)].port, timeout=10
            )
            try:
                connection.request("POST", "/v1/chat/completions", CHAT, self._headers)
                answer = connection.getresponse()
                receipt = answer.headers.get("x-trustgate-receipt")
                answer.read()
                if answer.status == 200 and receipt is not None:
                    self.receipts.append(receipt)
            except (OSError, http.client.HTTPException):
                self._end.wait(0.02)
            finally:
                connection.close()

    def have(self, count: int) -> bool:
        return len(self.receipts) >= count

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


class Failover:
    """The world of one run; each fault is a method."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.postgres = Postgres().start()
        self.url = self.postgres.schema()
        self.machines = [Machine(folder, name, self.url) for name in ("one", "two")]
        one, two = self.machines
        self.key = one.gateway.add_tenant(plan="internal")
        one.start()
        wait_until(one.is_ready, "the first to serve")
        two.gateway.home.mkdir(mode=0o700)
        (two.gateway.home / "log.key").write_bytes((one.gateway.home / "log.key").read_bytes())
        (two.gateway.home / "log.key").chmod(0o600)
        two.start()
        self.faults: Counter[str] = Counter()

    def serving(self) -> Machine:
        wait_until(lambda: any(machine.listens() for machine in self.machines), "one to serve")
        return next((machine for machine in self.machines if machine.listens()), self.machines[0])

    def kill(self) -> None:
        self.serving().end(signal.SIGKILL)

    def stop(self) -> None:
        self.serving().end()

    def sleep(self) -> None:
        """The one that serves is stopped, and its connections are cut, until the other has taken over, or not quite."""
        asleep = self.serving()
        asleep.send(signal.SIGSTOP)
        run_sql(self.url, _CUT)
        time.sleep(self.random.uniform(0.2, 3 * LEASE_S))
        asleep.send(signal.SIGCONT)

    def cut(self) -> None:
        run_sql(self.url, _CUT)

    def restart_postgres(self) -> None:
        self.postgres.stop(self.random.choice((signal.SIGINT, signal.SIGQUIT)))
        time.sleep(self.random.uniform(0, 2 * LEASE_S))
        self.postgres.start()

    def kill_with_postgres(self) -> None:
        """Both at once: what the one that served had in its journal alone, no other gateway has acknowledged."""
        serving = self.serving()
        serving.end(signal.SIGKILL)
        self.restart_postgres()

    def run(self, rounds: int, only: str | None = None) -> list[str]:
        """Run faults under load; ``only``: this one.

        Returns:
            The receipts of the answers that clients had the end of."""
        faults: list[Callable[[], None]] = [
            *(self.kill, self.stop, self.sleep, self.cut, self.restart_postgres, self.kill_with_postgres)
        ]
        with Clients(self.machines, self.key) as clients:
            for _ in range(rounds):
                before = len(clients.receipts)
                wait_until(partial(clients.have, before + 20), "answers before a fault")
                fault = self.random.choice(faults) if only is None else getattr(self, only)
                _logger.info("%s after %d answers", fault.__name__, before)
                self.faults[fault.__name__] += 1
                fault()
                for machine in self.machines:
                    if not machine.is_running():
                        machine.start()
            wait_until(partial(clients.have, len(clients.receipts) + 20), "answers after the last fault")
        return clients.receipts

    def check(self, receipts: list[str]) -> None:
        """Check, once all is still, that nothing is lost or doubled."""
        for machine in self.machines:
            machine.end()
        # What one has in its journal alone, from while Postgres was away, it brings into the log at its next turn.
        for machine in self.machines:
            machine.start()
            wait_until(machine.is_ready, f"{machine.name} to serve")
            machine.end()
        kept = Counter(row[0] for row in run_sql(self.url, "SELECT id FROM receipts"))
        assert max(kept.values()) == 1
        missing = [receipt for receipt in receipts if receipt not in kept]
        _logger.info("missing: %s", [receipts.index(each) for each in missing])
        assert not missing, f"{len(missing)} of {len(receipts)} receipts are missing"
        books = self.machines[0].gateway.cli("doctor", "--books", check=False)
        assert books.returncode == 0, books.stdout
        for machine in self.machines:
            for log in machine.folder.glob(f"{machine.name}.*.log"):
                before, found, after = log.read_text().partition("Traceback")
                assert not found, before[-500:] + found + after[:3_000]

    def close(self) -> None:
        for machine in self.machines:
            machine.end(signal.SIGKILL)
        self.postgres.close()


def by_hand(kind: type[Failover], seed: int, rounds: int) -> None:
    """Run rounds in a world of this kind, check its promises and print what was done."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    world = kind(Path(tempfile.mkdtemp()), seed)
    try:
        started = time.monotonic()
        receipts = world.run(rounds)
        world.check(receipts)
        print(f"seed {seed}: {rounds} rounds in {time.monotonic() - started:.0f} s, {len(receipts)} answers, none lost")
        print(dict(world.faults))
    finally:
        world.close()


if __name__ == "__main__":
    by_hand(Failover, int(sys.argv[1]), int(sys.argv[2]))
