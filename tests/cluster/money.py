"""Money over three gateways that serve one Postgres while they are killed: what was paid and used is counted once.

``python -m tests.cluster.money SEED REQUESTS KILLS`` runs it and prints what it came to. Customers pay for each request
(x402) or draw on a balance at a markup, under a budget and a quota, and send what was not answered again, to any.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.town import Town, name, town
from tests.support.paying import HELLO, Customer
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import wait_until
from trustgate.admin.money import PaymentList

#: Prepaid: 9 tokens and 10 at most, of the built-in model, at 1 and 2 USD a million, times 1.5.
_CREDIT_NANO_USD = 1_000_000_000
_TENANTS = 3
_CUSTOMERS = 3


class MoneyRun:
    """Customers of a town, and what became of their requests."""

    def __init__(self, world: Town, seed: int) -> None:
        self.world = world
        self._random = random.Random(seed)
        self.statuses: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._left = 0
        self.acknowledged: list[str] = []
        plan = name()
        world.gateway.cli("plan", "add", plan, "--price-factor", "1.5", "--requests-per-month", "1000000")
        self.tenants = [name() for _ in range(_TENANTS)]
        self.keys = [world.gateway.add_tenant(tenant, plan=plan) for tenant in self.tenants]
        for tenant in self.tenants:
            world.gateway.cli("payment", "set", tenant, "--mode", "prepaid")
            world.gateway.cli("tenant", "credit", tenant, "--add", str(_CREDIT_NANO_USD // 10**9))
            world.gateway.cli("budget", "add", tenant, "--usd", "100", "--per", "total", "--tenant", tenant)
        self.customers = [world.market.customer() for _ in range(_CUSTOMERS)]
        self._moves = world.market.facilitator.moves

    def run(self, requests: int, kills: int) -> None:
        """Ask so often, and kill so many gateways meanwhile, each once a part of the requests has been made."""
        self._left = requests
        works: list[Callable[[random.Random], None]] = [self._draws(key) for key in self.keys]
        works += [self._pays(customer) for customer in self.customers]
        threads = [
            threading.Thread(target=self._repeat, args=(work, random.Random(self._random.random()))) for work in works
        ]
        for thread in threads:
            thread.start()
        for number in range(kills):
            until = requests - requests * (number + 1) // (kills + 1)
            wait_until(lambda until=until: self._left <= until, "requests to be made", timeout_s=600)  # type: ignore[misc]
            killed = self._random.choice(self.world.neighbours)
            killed.kill()
            killed.start().wait()
        for thread in threads:
            thread.join()

    def _repeat(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        while self._take():
            work(chance)

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _note(self, what: str, answer: httpx.Response | None) -> None:
        with self._lock:
            self.statuses[f"{what} {0 if answer is None else answer.status_code}"] += 1
            if answer is not None and answer.status_code == 200:
                self.acknowledged.append(answer.headers["x-trustgate-receipt"])

    def _ask(self, chance: random.Random, key: str, body: Any, **headers: str) -> httpx.Response | None:
        """Ask any gateway; None: it was killed."""
        with contextlib.suppress(httpx.TransportError):
            gateway = chance.randrange(len(self.world.neighbours))
            return self.world.request(gateway, "POST", "/chat/completions", key, json=body, headers=headers)
        return None

    def _draws(self, key: str) -> Callable[[random.Random], None]:
        def work(chance: random.Random) -> None:
            body = {"model": "echo", "messages": HELLO, "max_tokens": chance.randrange(1, 10)}
            self._note("prepaid", self._ask(chance, key, body))

        return work

    def _pays(self, customer: Customer) -> Callable[[random.Random], None]:
        key = customer.http.headers["authorization"].removeprefix("Bearer ")

        def work(chance: random.Random) -> None:
            body = {"model": "gpt-4o", "messages": HELLO, "seed": chance.randrange(10**9)}
            challenge = self._ask(chance, key, body)
            if challenge is None or challenge.status_code != 402:
                self._note("challenge", challenge)
                return
            paying = customer.pay(challenge)
            for _ in range(8):
                answer = self._ask(chance, key, body, **paying)
                if answer is not None and answer.status_code not in (500, 502, 503):
                    self._note("paid", answer)
                    if answer.status_code == 200 and chance.random() < 0.2:
                        # The same payment again, at any gateway, buys nothing more.
                        again = self._ask(chance, key, body, **paying)
                        assert again is None or again.status_code in (200, 409, 503), again.text
                        if again is not None and again.status_code == 200:
                            assert again.content == answer.content
                    return
                self._note("to be sent again", answer)
                time.sleep(0.2)

        return work

    def check(self) -> str:
        """Check that everything adds up to the unit, once nothing is held and all payments are known."""
        world = self.world
        wait_until(lambda: not self._is_held(), "what was held to be given back")
        world.market.reconcile()
        world.books()
        paid = value = drawn = 0
        for customer in self.customers:
            found = world.market.admin(PaymentList(tenant=customer.name, limit=10_000))
            payments = [each for each in found if each.state in ("delivered", "credited")]
            receipts = _receipts(world, customer.name)
            paid, value = paid + len(payments), value + sum(payment.value_nano_usd for payment in payments)
            credited = sum(receipt["credited_nano_usd"] for receipt in receipts)
            charged = sum(receipt["charged_nano_usd"] for receipt in receipts)
            assert credited == sum(payment.value_nano_usd for payment in payments)
            assert customer.balance() == credited - charged
            self._check_acknowledged(receipts)
        assert world.market.facilitator.moves - self._moves == paid
        for tenant in self.tenants:
            receipts = _receipts(world, tenant)
            charged = sum(receipt["charged_nano_usd"] for receipt in receipts)
            assert charged == sum(receipt["billed_nano_usd"] for receipt in receipts if "billed_nano_usd" in receipt)
            balance = world.balance(tenant)
            assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (_CREDIT_NANO_USD - charged, 0)
            [budget] = world.gateway.cli_json("budget", tenant)["budgets"]
            assert (budget["used"], budget["held"]) == (charged, 0)
            drawn += charged
            self._check_acknowledged(receipts)
        assert not self.acknowledged, "an answer that its client has the end of has no receipt"
        return f"{paid} payments of {value} nano-USD, {drawn} nano-USD drawn on balances"

    def _is_held(self) -> bool:
        """Whether any node holds anything: of one that was killed it is given back."""
        [[held]] = run_sql(
            self.world.url,
            "SELECT count(*) FROM shared_state, jsonb_path_query(state, '$.nodes.**') AS figure"
            " WHERE key !~ '^work/' AND jsonb_typeof(figure) = 'number' AND figure <> '0'::jsonb",
        )
        return bool(held)

    def _check_acknowledged(self, receipts: list[dict[str, Any]]) -> None:
        ids = [receipt["id"] for receipt in receipts]
        assert len(ids) == len(set(ids))
        has = set(ids)
        self.acknowledged = [each for each in self.acknowledged if each not in has]


def _receipts(world: Town, tenant: str) -> list[dict[str, Any]]:
    listed = world.gateway.cli_json("receipt", "list", "--tenant", tenant, "--limit", "10000")["receipts"]
    return [card["receipt"] for card in listed]


def _main(seed: int, requests: int, kills: int) -> None:
    postgres = Postgres().start()
    try:
        with town(Path(tempfile.mkdtemp()), postgres.schema()) as world:
            run = MoneyRun(world, seed)
            began_s = time.monotonic()
            run.run(requests, kills)
            print(dict(run.statuses))
            print(
                f"seed {seed}: {requests} requests, {kills} kills in {time.monotonic() - began_s:.0f} s; {run.check()}"
            )
    finally:
        postgres.stop()


if __name__ == "__main__":
    _main(*(int(argument) for argument in sys.argv[1:4]))
