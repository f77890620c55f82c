"""A batch whose charging a gateway does not bring to its end, beside another on the same Postgres: charged once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.side_by_side import SideBySide
from tests.gateway.test_batch_limits import ASKED, BatchServer
from tests.gateway.test_batch_prices import results, usage
from tests.gateway.test_batches import lines
from tests.support.postgres import GivenPostgres, Postgres
from tests.support.processes import wait_until
from tests.support.stopping_itself import POINTS, Order
from tests.support.upstream import Upstream

MODEL = "stepped"
#: Of the three lines of a batch.
COST_NANO_USD = 170 * 1_000 + 101 * 2_000 + 3 * 10_000


class Pair(SideBySide):
    """Two gateways, of which the one that charges a batch stops itself."""

    order: Order
    server: BatchServer

    def request(self, gateway: int, method: str, path: str, key: str, **more: object) -> httpx.Response:
        url = f"http://127.0.0.1:{self.neighbours[gateway].port}/v1{path}"
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, url, headers=headers, timeout=30.0, trust_env=False, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair(postgres: Postgres | GivenPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder, upstream = tmp_path_factory.mktemp("pair"), Upstream().start()
    upstream.default = server = BatchServer()
    order = Order(folder)
    environment = {"TRUSTGATE_UPSTREAM_BACKGROUND_INTERVAL_S": "0.1", **order.environment}
    built = Pair(folder, postgres.schema(), 2, upstream.api_url, environment)
    try:
        built.order, built.server = order, server
        built.gateway.cli("passport", "add", MODEL, "--input-price", "1", "--output-price", "10")
        built.gateway.cli("passport", "set", MODEL, "--above-prompt-tokens", "100", "--input-price", "2")
        yield built
    finally:
        built.close()
        upstream.stop()


@pytest.mark.parametrize(
    ("point", "number"),
    [*((point, signal.SIGSTOP) for point in POINTS), ("noted", signal.SIGKILL), ("first", signal.SIGKILL)],
)
def test_a_batch_whose_charging_is_broken_off_is_charged_once_by_all(pair: Pair, point: str, number: int) -> None:
    tenant = f"t-{point}-{number}"
    key = pair.gateway.add_tenant(tenant)
    pair.gateway.cli("payment", "set", tenant, "--mode", "prepaid")
    pair.gateway.cli("tenant", "credit", tenant, "--add", "1")
    file = {"file": ("a.jsonl", lines(*[MODEL] * 3, max_tokens=50))}
    uploaded = pair.request(0, "POST", "/files", key, data={"purpose": "batch"}, files=file)
    batch_id = pair.request(1, "POST", "/batches", key, json={"input_file_id": uploaded.json()["id"], **ASKED}).json()[
        "id"
    ]
    pair.server.files[batch_id] = results(usage(90, 1), usage(101, 1), usage(80, 1))
    pair.order.give(point, number)
    pair.server.finish(batch_id, output_file_id=batch_id)
    process_id = pair.order.wait()
    broken, other = sorted((0, 1), key=lambda each: pair.neighbours[each].process_id != process_id)
    asked = {"order": "asc", "limit": "100"}

    def charged() -> list[tuple[int, int, int]]:
        listed = pair.request(other, "GET", "/receipts", key, params=asked).json()["data"]
        found = [card["receipt"] for card in listed]
        return [(each["prompt_tokens"], each["calls"], each["cost_nano_usd"]) for each in found if each.get("calls")]

    if number == signal.SIGKILL:
        pair.neighbours[broken].kill()
        pair.neighbours[broken].start().wait()
    wait_until(lambda: len(charged()) == 2, "it to be charged")
    if number == signal.SIGSTOP:
        os.kill(process_id, signal.SIGCONT)
    wait_until(lambda: pair.request(broken, "GET", f"/batches/{batch_id}", key).status_code == 200, "it to serve again")
    expected = [(170, 2, 170 * 1_000 + 2 * 10_000), (101, 1, 101 * 2_000 + 10_000)]
    assert sorted(charged(), reverse=True) == expected
    balance = pair.neighbours[other].gateway.cli_json("tenant", "credit", tenant)
    assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (10**9 - COST_NANO_USD, 0)
    pair.books()
