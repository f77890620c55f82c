"""What goes on upstream after its request, at gateways that serve one Postgres: held by all, and charged once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.cluster.town import Town, name
from tests.gateway.test_batch_limits import ASKED, MODEL, BatchServer
from tests.gateway.test_batches import lines
from tests.support.processes import wait_until
from tests.support.upstream import Gate, Recorded, Reply
from trustgate.types import NANO_USD_PER_USD

USAGE = {"input_tokens": 700, "output_tokens": 300, "total_tokens": 1_000}
#: At 1 and 10 USD for a million.
COST_NANO_USD = 700 * 1_000 + 300 * 10_000


class GatedServer(BatchServer):
    """What comes in for one object is answered for all at once, when so many stand at its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gated: tuple[str, Reply, Gate] | None = None
        #: What a request for a response is answered. A script's next reply could be given to a look at a batch.
        self.response: Reply | None = None
        self.standing = threading.Semaphore(0)

    def __call__(self, request: Recorded) -> Reply:
        if request.method == "POST" and request.path.endswith("/responses") and self.response is not None:
            return self.response
        gated = self.gated
        if gated is None or request.method != "GET" or not request.path.endswith(gated[0]):
            return super().__call__(request)
        self.standing.release()
        return Reply.raw(gated[2], *gated[1].steps)

    def wait_for(self, requests: int) -> None:
        for _ in range(requests):
            assert self.standing.acquire(timeout=60)


@pytest.fixture
def server(world: Town) -> Iterator[GatedServer]:
    upstream, server = world.market.upstream, GatedServer()
    if MODEL not in world.gateway.cli("passport", "list").stdout:
        world.gateway.cli("passport", "add", MODEL, "--input-price", "1", "--output-price", "10")
        world.gateway.cli("plan", "add", "ten-thousand", "--tokens-per-day", "10000")
    answer_before, upstream.default = upstream.default, server
    yield server
    upstream.default = answer_before


def start(world: Town, gateway: int, key: str) -> httpx.Response:
    """Begin a batch of 100 lines, some 6,200 tokens at most."""
    content = lines(*[MODEL] * 100, max_tokens=50)
    uploaded = world.request(
        gateway, "POST", "/files", key, data={"purpose": "batch"}, files={"file": ("a.jsonl", content)}
    )
    assert uploaded.status_code == 200, uploaded.text
    return world.request(gateway, "POST", "/batches", key, json={"input_file_id": uploaded.json()["id"], **ASKED})


def see_the_end_at_once(world: Town, server: GatedServer, path: str, key: str, end: Any, looks: int) -> None:
    """Have all gateways, and the ``looks`` of the batch keeper, see it before any has charged it."""
    gate = Gate()
    server.gated = path.rpartition("/")[2], Reply.json(end), gate
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(world.request, turn % 3, "GET", path, key) for turn in range(6)]
        server.wait_for(6 + looks)
        gate.open()
        assert [each.result().json()["status"] for each in asked] == ["completed"] * 6


def charged(world: Town, key: str) -> list[tuple[int, int, int]]:
    """What receipts charge, of those that charge anything."""
    found = [(each["prompt_tokens"], each["completion_tokens"], each["cost_nano_usd"]) for each in world.receipts(key)]
    return [each for each in found if any(each)]


def standing(world: Town, tenant: str) -> Callable[[], tuple[int, int]]:
    def stands() -> tuple[int, int]:
        [budget] = world.gateway.cli_json("budget", tenant)["budgets"]
        return budget["used"], budget["held"]

    return stands


def test_what_a_batch_may_use_is_held_at_every_gateway_and_its_end_charged_once(
    world: Town, server: GatedServer
) -> None:
    tenant = name()
    key = world.gateway.add_tenant(tenant, plan="ten-thousand")
    world.gateway.cli("payment", "set", tenant, "--mode", "prepaid")
    world.gateway.cli("tenant", "credit", tenant, "--add", "1")
    world.gateway.cli("budget", "add", f"of-{tenant}", "--tokens", "20000", "--per", "total", "--tenant", tenant)
    stands = standing(world, tenant)
    made = start(world, 2, key)
    assert made.status_code == 200, made.text
    used, held = stands()
    assert used == 0 and 5_000 < held < 10_000
    held_nano_usd = world.balance(tenant)["held_nano_usd"]
    assert held_nano_usd > COST_NANO_USD
    for gateway in range(3):
        usage = world.request(gateway, "GET", "/usage", key).json()["current"]["tenant"]["day"]
        assert (usage["tokens"], usage["cost_nano_usd"]) == (held, held_nano_usd)
        assert start(world, gateway, key).status_code == 429
    world.books()
    # A budget that comes later holds it, too; a gateway that is killed takes nothing of it along.
    world.gateway.cli("budget", "remove", f"of-{tenant}")
    world.gateway.cli("budget", "add", f"later-{tenant}", "--tokens", "20000", "--per", "total", "--tenant", tenant)
    wait_until(lambda: stands() == (0, held), "the new budget to hold it")
    world.neighbours[2].kill()
    world.neighbours[2].start().wait()
    assert (stands(), world.balance(tenant)["held_nano_usd"]) == ((0, held), held_nano_usd)
    end = {"id": made.json()["id"], "object": "batch", "status": "completed", "usage": USAGE}
    see_the_end_at_once(world, server, f"/batches/{end['id']}", key, end, looks=1)
    assert charged(world, key) == [(700, 300, COST_NANO_USD)]
    # The others sum up no calls.
    assert [each["calls"] for each in world.receipts(key) if each["v"] >= 7 and each["calls"]] == [100]
    assert stands() == (1_000, 0)
    balance = world.balance(tenant)
    assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (NANO_USD_PER_USD - COST_NANO_USD, 0)
    last = start(world, 1, key)
    assert last.status_code == 200
    world.books()
    # Looks at one that goes on would take scripted replies of other tests.
    server.finish(last.json()["id"], usage=USAGE)
    wait_until(lambda: stands() == (2_000, 0), "the last batch to be charged")


def test_each_step_of_a_batchs_price_is_charged_once(world: Town, server: GatedServer) -> None:
    """Its lines have two receipts: each settles a row of its own, and the first gives back what is held."""
    tenant, model = name(), f"stepped-{name()}"
    key = world.gateway.add_tenant(tenant)
    world.gateway.cli("passport", "add", model, "--input-price", "1", "--output-price", "10")
    world.gateway.cli("passport", "set", model, "--above-prompt-tokens", "100", "--input-price", "2")
    world.gateway.cli("payment", "set", tenant, "--mode", "prepaid")
    world.gateway.cli("tenant", "credit", tenant, "--add", "1")
    content = lines(*[model] * 3, max_tokens=50)
    uploaded = world.request(0, "POST", "/files", key, data={"purpose": "batch"}, files={"file": ("a.jsonl", content)})
    body = {"input_file_id": uploaded.json()["id"], **ASKED}
    made = world.request(0, "POST", "/batches", key, json=body).json()["id"]
    usages = [{"prompt_tokens": prompt, "completion_tokens": 1, "total_tokens": prompt + 1} for prompt in (90, 101, 80)]
    results = [{"response": {"body": {"usage": usage}}} for usage in usages]
    server.files[made] = b"\n".join(json.dumps(each).encode() for each in results)
    server.finish(made, output_file_id=made, usage={"input_tokens": 271, "output_tokens": 3, "total_tokens": 274})
    for gateway in range(3):
        assert world.request(gateway, "GET", f"/batches/{made}", key).json()["status"] == "completed"
    wait_until(lambda: world.balance(tenant)["held_nano_usd"] == 0 and len(charged(world, key)) == 2, "its charges")
    assert charged(world, key) == [(170, 2, 170 * 1_000 + 2 * 10_000), (101, 1, 101 * 2_000 + 10_000)]
    assert world.balance(tenant)["balance_nano_usd"] == NANO_USD_PER_USD - 170_000 - 202_000 - 30_000
    world.books()


def test_a_response_in_the_background_is_charged_once_wherever_its_end_is_seen(
    world: Town, server: GatedServer
) -> None:
    tenant, response_id = name(), name()
    key = world.gateway.add_tenant(tenant, plan="ten-thousand")
    world.gateway.cli("payment", "set", tenant, "--mode", "prepaid")
    world.gateway.cli("tenant", "credit", tenant, "--add", "1")
    response = {"id": response_id, "object": "response", "status": "queued", "output": []}
    # The batch keeper's looks wait.
    server.gated = response_id, Reply.json(response), Gate()
    server.response = Reply.json(response)
    made = world.request(0, "POST", "/responses", key, json={"model": MODEL, "input": "Hi", "background": True})
    assert made.status_code == 200, made.text
    assert charged(world, key) == []
    held = world.balance(tenant)["held_nano_usd"]
    assert held > 0
    for gateway in range(3):
        usage = world.request(gateway, "GET", "/usage", key).json()["current"]["tenant"]["day"]
        assert usage["cost_nano_usd"] == held
    # It is charged by the price at which it was accepted.
    world.gateway.cli("passport", "set", MODEL, "--input-price", "7")
    end = {**response, "status": "completed", "usage": USAGE}
    see_the_end_at_once(world, server, f"/responses/{response_id}", key, end, looks=1)
    assert charged(world, key) == [(700, 300, COST_NANO_USD)]
    balance = world.balance(tenant)
    assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (NANO_USD_PER_USD - COST_NANO_USD, 0)
    world.gateway.cli("passport", "set", MODEL, "--input-price", "1")
    world.books()


def test_what_a_database_cannot_hold_of_an_answer_or_a_request_ends_no_gateway(
    world: Town, server: GatedServer
) -> None:
    """Postgres's text takes no NUL: such an id is none, and the receipt of such a model counts as any other."""
    key = world.gateway.add_tenant(name())
    response = {"object": "response", "status": "completed", "output": [], "usage": USAGE}
    for response_id in ("resp_a\0b", name()):
        server.response = Reply.json({"id": response_id, **response})
        made = world.request(0, "POST", "/responses", key, json={"model": f"{MODEL}\0", "input": "Hi"})
        assert made.status_code == 200, made.text
        # Its id is in the table, or is none: the answer's last byte waits for that.
        assert world.request(1, "GET", f"/receipts/{made.headers['x-trustgate-receipt']}", key).status_code == 200
    assert [each["model"] for each in world.receipts(key)] == [f"{MODEL}\ufffd"] * 2
    assert [used for used, *_ in charged(world, key)] == [700, 700]
    assert "set aside" not in world.gateway.cli("doctor", check=False).stdout
    world.books()
