"""Clients of several gateways: what they were answered, and how long that took."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter

from tests.cluster.failover import CHAT, Machine
from tests.support.processes import wait_until

#: How long an answer may take, whatever happens to the database or to the network before it (processes.md): twice ten
#: seconds, and what a busy machine needs.
BOUND_S = 23.0
#: The same of what is read from the database.
LOOK_BOUND_S = 45.0
_PATIENCE_S = 60.0
#: How many ask at once.
CLIENTS = 4


class Load:
    """Threads that ask all machines for all tenants, and keep what they were answered."""

    def __init__(self, machines: list[Machine], seed: int, count: int = CLIENTS) -> None:
        self._machines = machines
        self._go, self._end = threading.Event(), threading.Event()
        self._under_way: set[int] = set()
        self.keys: list[str] = []
        #: Receipts of answers that were read to their end.
        self.receipts: list[str] = []
        self.statuses: Counter[int] = Counter()
        #: Machines that are stopped now: the time that their answers take is not looked at.
        self.asleep: set[str] = set()
        #: Answers that took too long: seconds, status, machine.
        self.late: list[tuple[float, int, str]] = []
        self.slowest_s = 0.0
        self.unexpected: list[str] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number, random.Random(f"{seed} {number}")), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int, chance: random.Random) -> None:
        while not self._end.is_set():
            if not self._go.wait(0.1):
                continue
            self._under_way.add(number)
            if self._go.is_set():
                machine = chance.choice(self._choices(number))
                if self.receipts and chance.random() < 0.1:
                    # Read from the database, as a client looks something up.
                    path = chance.choice(("/v1/usage", f"/v1/receipts/{self.receipts[-1]}"))
                    status = self.ask(machine, chance.choice(self.keys), path, None)
                else:
                    status = self.ask(machine, chance.choice(self.keys))
                if status in (0, 503):
                    time.sleep(0.05)
            self._under_way.discard(number)

    def _choices(self, number: int) -> list[Machine]:
        """Returns the machines that a client may use. Requests to a stopped one wait: half of the clients send some."""
        awake = [machine for machine in self._machines if machine.name not in self.asleep]
        return awake if number % 2 and awake else self._machines

    def ask(self, machine: Machine, key: str, path: str = "/v1/chat/completions", body: str | None = CHAT) -> int:
        """One request; its status, 0 where the connection was lost."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=60)
        began = time.monotonic()
        was_asleep = machine.name in self.asleep
        status = 0
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            status, receipt = answer.status, answer.headers.get("x-trustgate-receipt")
            text = answer.read()
            if status == 200 and body is not None and receipt is not None:
                self.receipts.append(receipt)
            elif body is None and status in (200, 404):
                pass
            elif status not in (402, 429, 503):
                self.unexpected.append(f"{status} {text[:300]!r}")
            elif status == 503 and (answer.headers.get("retry-after") is None or b"postgresql:" in text):
                self.unexpected.append(f"503 without Retry-After, or with too much: {text[:300]!r}")
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        took_s = time.monotonic() - began
        self.statuses[status] += 1
        if not was_asleep and machine.name not in self.asleep:
            self.slowest_s = max(self.slowest_s, took_s)
            if took_s > (LOOK_BOUND_S if body is None else BOUND_S):
                self.late.append((took_s, status, machine.name))
        return status

    def go(self) -> None:
        self._go.set()

    def rest(self) -> None:
        """Begin no more requests, and wait for those that run."""
        self._go.clear()
        time.sleep(0.02)
        wait_until(lambda: not self._under_way, "the clients to have their answers", _PATIENCE_S)

    def close(self) -> None:
        self._end.set()
        self._go.set()
        for thread in self._threads:
            thread.join()
