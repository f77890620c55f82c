"""Gateways that serve one Postgres: no limit is passed, money is to the unit, and a payment buys one answer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from tests.cluster.bookkeeping import WAITING_FOR_ROWS
from tests.cluster.town import Town, name
from tests.support.paying import HELLO, PRICE_NANO_USD
from tests.support.postgres import run_sql
from tests.support.processes import PATIENCE_S, wait_until
from tests.support.upstream import DONE, Gate, Reply, delta
from trustgate.cluster.drafts import home_id
from trustgate.receipts.journal import Journal
from trustgate.types import Entry, Receipt

_ECHO = (
    *("passport", "add", "echo", "--base-url", "builtin:echo", "--api-model-id", "trustgate/echo"),
    *("--input-price", "1", "--output-price", "2"),
)
_PREPAID = ("--mode", "prepaid", "--price", "0.01")


def test_of_a_thousand_at_once_over_three_gateways_exactly_the_quota_passes(world: Town) -> None:
    world.gateway.cli("plan", "add", "hundred", "--requests-per-day", "100")
    key = world.gateway.add_tenant(name(), plan="hundred")
    assert world.ask(key, 1_000).ended() == Counter({200: 100, 429: 900})
    world.books()


def test_of_money_no_unit_is_spent_twice_and_every_gateway_has_the_same_balance(world: Town) -> None:
    tenant = name()
    key = world.gateway.add_tenant(tenant)
    world.gateway.cli("payment", "set", tenant, *_PREPAID)
    world.gateway.cli("tenant", "credit", tenant, "--add", "0.505")
    assert world.ask(key, 300).ended() == Counter({200: 50, 402: 250})
    balance = world.balance(tenant)
    assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (5_000_000, 0)
    for each in world.neighbours:
        card = httpx.get(
            f"http://127.0.0.1:{each.port}/v1/credits", headers={"authorization": f"Bearer {key}"}, trust_env=False
        ).json()
        assert card["balance_nano_usd"] == 5_000_000
    world.books()


def test_parallel_requests_are_limited_over_all_gateways(world: Town) -> None:
    world.gateway.cli("plan", "add", "ten", "--parallel-requests", "10")
    key = world.gateway.add_tenant(name(), plan="ten")
    gate = Gate()
    world.market.upstream.script(*[Reply.chat().held(gate)] * 10)
    answers = world.ask(key, 60, "gpt-4o")
    wait_until(lambda: answers.statuses[429] == 50, "all but ten to be refused")
    gate.open()
    assert answers.ended() == Counter({200: 10, 429: 50})


def test_what_a_killed_gateway_held_is_given_back_once(world: Town) -> None:
    tenant = name()
    world.gateway.cli("plan", "add", "five", "--parallel-requests", "5", "--requests-per-day", "100")
    key = world.gateway.add_tenant(tenant, plan="five")
    world.gateway.cli("payment", "set", tenant, *_PREPAID)
    world.gateway.cli("tenant", "credit", tenant, "--add", "0.05")
    gate = Gate()
    world.market.upstream.script(*[Reply.chat().held(gate)] * 5)
    killed = world.neighbours[2]
    before = len(world.market.upstream.requests)
    answers = world.ask(key, 5, "gpt-4o", of=(2,), connections=5)
    wait_until(lambda: len(world.market.upstream.requests) == before + 5, "five requests to run")
    assert world.balance(tenant)["held_nano_usd"] == 5 * PRICE_NANO_USD
    killed.kill()
    assert answers.ended() == Counter({0: 5})
    wait_until(lambda: world.balance(tenant)["held_nano_usd"] == 0, "the dead gateway's holds to be given back")
    killed.start().wait()
    gate.open()
    assert world.balance(tenant)["balance_nano_usd"] == 5 * PRICE_NANO_USD
    # What it held is free, and no more than that.
    assert world.ask(key, 20, connections=3).ended() == Counter({200: 5, 402: 15})
    world.books()


def test_a_payment_sent_to_three_gateways_at_once_is_settled_once_and_its_answer_found_at_each(world: Town) -> None:
    customer = world.market.customer()
    paying = customer.pay(customer.chat())
    moves = world.market.facilitator.moves

    def send(turn: int) -> httpx.Response:
        return httpx.post(
            f"http://127.0.0.1:{world.neighbours[turn % 3].port}/v1/chat/completions",
            json={"model": "gpt-4o", "messages": HELLO},
            headers={"authorization": customer.http.headers["authorization"], **paying},
            timeout=30.0,
            trust_env=False,
        )

    with ThreadPoolExecutor(9) as pool:
        at_once = list(pool.map(send, range(9)))
    assert {answer.status_code for answer in at_once} <= {200, 503}
    assert all(answer.json()["error"]["code"] == "payment_pending" for answer in at_once if answer.status_code == 503)
    later: list[httpx.Response] = []

    def all_answer() -> bool:
        later[:] = [send(turn) for turn in range(3)]
        return all(answer.status_code == 200 for answer in later)

    wait_until(all_answer, "the answer to be found at each")
    assert len({answer.content for answer in (*at_once, *later) if answer.status_code == 200}) == 1
    assert world.market.facilitator.moves == moves + 1
    [payment] = world.market.payments(customer)
    assert payment.state == "delivered"
    assert customer.balance() == 0
    world.books()


def test_a_limit_that_comes_later_counts_what_was_used_at_every_gateway_before(world: Town) -> None:
    tenant = name()
    key = world.gateway.add_tenant(tenant, plan="internal")
    assert world.ask(key, 30, connections=6).ended() == Counter({200: 30})
    world.gateway.cli("budget", "add", f"of-{tenant}", "--requests", "40", "--per", "month", "--tenant", tenant)
    assert world.ask(key, 20, connections=6).ended() == Counter({200: 10, 429: 10})
    [budget] = world.gateway.cli_json("budget", tenant)["budgets"]
    assert (budget["used"], budget["held"]) == (40, 0)
    world.gateway.cli("plan", "add", "forty-five", "--requests-per-day", "45")
    world.gateway.cli("tenant", "set", tenant, "--plan", "forty-five")
    world.gateway.cli("budget", "remove", f"of-{tenant}")
    assert world.ask(key, 20, connections=6).ended() == Counter({200: 5, 429: 15})
    for each in world.neighbours:
        url = f"http://127.0.0.1:{each.port}/v1/usage"
        usage = httpx.get(url, headers={"authorization": f"Bearer {key}"}, trust_env=False).json()
        assert usage["current"]["tenant"]["day"]["requests"] == 45
    world.books()


def test_a_limit_that_comes_while_requests_run_counts_each_of_them_once(world: Town) -> None:
    tenant = name()
    world.gateway.cli("plan", "add", "thousands", "--requests-per-month", "9000")
    key = world.gateway.add_tenant(tenant, plan="internal")
    answers = world.ask(key, 800, connections=12)
    wait_until(lambda: answers.statuses[200] > 50, "requests to run at all gateways")
    world.gateway.cli("budget", "add", f"of-{tenant}", "--requests", "9000", "--per", "total", "--tenant", tenant)
    world.gateway.cli("tenant", "set", tenant, "--plan", "thousands")
    assert answers.ended() == Counter({200: 800})
    [budget] = world.gateway.cli_json("budget", tenant)["budgets"]
    assert (budget["used"], budget["held"]) == (800, 0)
    assert world.request(1, "GET", "/usage", key).json()["current"]["tenant"]["month"]["requests"] == 800
    world.books()
    run_sql(
        world.url,
        "UPDATE shared_state SET state = jsonb_set(state, '{figures,0,0,1}', '799'::jsonb)"
        f" WHERE key LIKE 'budget/{budget['budget']}/%'",
    )
    found = world.gateway.cli("doctor", "--books", check=False)
    assert found.returncode == 1 and f"budget of-{tenant}: 799 counted, by the receipts 800" in found.stdout
    world.gateway.cli("budget", "set", f"of-{tenant}", "--requests", "9001")
    world.books()


def test_a_tenant_that_comes_onto_a_plan_brings_its_use_to_every_gateway(world: Town) -> None:
    before, after = name(), name()
    for plan, per in ((before, "each"), (after, "all")):
        world.gateway.cli("plan", "add", plan)
        each = ("--each", "tenant") if per == "each" else ()
        world.gateway.cli("budget", "add", plan, "--requests", "50", "--per", "month", "--plan", plan, *each)
    tenant = name()
    key = world.gateway.add_tenant(tenant, plan=before)
    assert world.ask(key, 29, connections=6).ended() == Counter({200: 29})
    gate = Gate()
    world.market.upstream.script(Reply.sse([delta("a"), gate, delta(None, finish_reason="stop"), DONE]))
    with streaming(world, 1, key) as lines:
        assert next(lines)
        world.gateway.cli("tenant", "set", tenant, "--plan", after)
        gate.open()
        # It was begun on the plan before, and counts on that of now.
        assert [line for line in lines if line][-1] == "data: [DONE]"
    world.books()
    assert world.ask(key, 30, connections=6).ended() == Counter({200: 20, 429: 10})
    [budget] = world.gateway.cli_json("budget", tenant)["budgets"]
    assert (budget["name"], budget["used"], budget["held"]) == (after, 50, 0)
    world.gateway.cli("tenant", "set", tenant, "--plan", before)
    [budget] = world.gateway.cli_json("budget", tenant)["budgets"]
    assert (budget["name"], budget["used"]) == (before, 50)
    world.books()
    for plan in (before, after):
        world.gateway.cli("budget", "remove", plan)


@contextlib.contextmanager
def counting_stopped(url: str) -> Iterator[Callable[[], None]]:
    """No command counts anything anew, for the block; gives a call that waits until one is about to."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        # Requests go on beside this lock.
        runner.run(connection.execute("BEGIN; LOCK TABLE shared_state IN ROW SHARE MODE"))
        waits = lambda: runner.run(connection.fetchval(WAITING_FOR_ROWS)) > 0  # noqa: E731
        yield lambda: wait_until(waits, "a command to count")
        runner.run(connection.close())


def test_a_command_that_is_killed_before_it_has_counted_is_finished_by_others(world: Town) -> None:
    before, after, tenant = name(), name(), name()
    for plan, amount in ((before, "90"), (after, "50")):
        world.gateway.cli("plan", "add", plan)
        world.gateway.cli("budget", "add", plan, "--requests", amount, "--per", "month", "--plan", plan)
    key = world.gateway.add_tenant(tenant, plan=before)
    third = world.neighbours[2]
    assert world.ask(key, 20, connections=6).ended() == Counter({200: 20})
    # Its row is there already, and lacks what the tenant brings.
    other = world.gateway.add_tenant(name(), plan=after)
    assert world.ask(other, 5, connections=5).ended() == Counter({200: 5})
    with counting_stopped(world.url) as wait_for_count:
        moving = threading.Thread(
            target=lambda: third.gateway.cli("tenant", "set", tenant, "--plan", after, check=False)
        )
        moving.start()
        wait_for_count()
        third.kill()
        moving.join()
    wait_until(lambda: not run_sql(world.url, "SELECT 1 FROM shared_state WHERE key = 'count'"), "it to be finished")
    world.books()
    third.start().wait()
    assert world.ask(key, 40, connections=6).ended() == Counter({200: 25, 429: 15})
    for plan in (before, after):
        world.gateway.cli("budget", "remove", plan)


@contextlib.contextmanager
def sequencing_stopped(url: str) -> Iterator[None]:
    """No receipt gets its place in the log, for the block."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute("BEGIN; SELECT FROM roles WHERE role = 'sequencer' FOR UPDATE"))
        yield
        runner.run(connection.close())


def test_what_cannot_be_counted_while_receipts_get_no_places_holds_nothing_up_and_is_counted_later(world: Town) -> None:
    """No gateway that has the log's key serves: requests go on, and so do other commands."""
    tenant, stranger, budget = name(), name(), name()
    key, other = world.gateway.add_tenant(tenant), world.gateway.add_tenant(stranger)
    third = world.neighbours[2].gateway
    # A command that had the table to itself would not end.
    with counting_stopped(world.url), sequencing_stopped(world.url):
        assert world.ask(key, 6).ended() == Counter({200: 6})
        added = third.cli(
            *("budget", "add", budget, "--requests", "10", "--per", "month", "--tenant", tenant), check=False
        )
        assert "Receipts wait for their places" in added.stderr
        third.cli("tenant", "suspend", stranger)
        assert world.ask(other, 3).ended() == Counter({401: 3})
        another = third.cli(
            *("budget", "add", name(), "--requests", "10", "--per", "month", "--tenant", stranger), check=False
        )
        assert "Receipts wait for their places" in another.stderr
    wait_until(lambda: not run_sql(world.url, "SELECT 1 FROM shared_state WHERE key = 'count'"), "it to be counted")
    world.books()
    assert world.ask(key, 9).ended() == Counter({200: 4, 429: 5})


@pytest.mark.slow
def test_one_that_is_stopped_while_it_counts_anew_holds_the_others_up_for_seconds(world: Town) -> None:
    tenant = name()
    key = world.gateway.add_tenant(tenant)
    assert world.ask(key, 6).ended() == Counter({200: 6})
    third = world.neighbours[2]
    budget = ("budget", "add", name(), "--requests", "10", "--per", "month", "--tenant", tenant)
    adding = threading.Thread(target=lambda: third.gateway.cli(*budget, check=False))
    with counting_stopped(world.url) as wait_for_count:
        adding.start()
        wait_for_count()
        third.signal(signal.SIGSTOP)
    # Now it has the table.
    answers = world.ask(key, 6, of=(0, 1))
    answers.thread.join(PATIENCE_S)
    third.signal(signal.SIGCONT)
    adding.join()
    assert answers.ended()[200] >= 4
    wait_until(lambda: not run_sql(world.url, "SELECT 1 FROM shared_state WHERE key = 'count'"), "it to be counted")
    world.books()


@contextlib.contextmanager
def streaming(world: Town, gateway: int, key: str) -> Iterator[Iterator[str]]:
    """The lines of a stream from the scripted upstream."""
    url = f"http://127.0.0.1:{world.neighbours[gateway].port}/v1/chat/completions"
    ask = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5, "stream": True}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", url, json=ask, headers=headers, timeout=30.0, trust_env=False) as response:
        yield response.iter_lines()


def test_what_is_held_stays_held_where_a_process_that_begins_writes_the_rows_anew(world: Town) -> None:
    """It has found chains with other ends than the rows have, while others serve."""
    plan, gate = name(), Gate()
    world.gateway.cli("plan", "add", plan, "--parallel-requests", "1", "--requests-per-day", "100")
    key = world.gateway.add_tenant(name(), plan=plan)
    ask = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}

    def statuses(*gateways: int) -> list[int]:
        return [world.request(each, "POST", "/chat/completions", key, json=ask).status_code for each in gateways]

    third = world.neighbours[2]
    third.close()
    world.market.upstream.script(Reply.sse([delta("a"), gate, delta(None, finish_reason="stop"), DONE]))
    with streaming(world, 0, key) as lines:
        assert next(lines)
        run_sql(world.url, "INSERT INTO shared_state VALUES ('head/ten_other', '[7, \"00\"]')")
        third.start().wait()
        assert run_sql(world.url, "SELECT state FROM shared_state WHERE key = 'head/ten_other'") == []
        assert statuses(0, 1, 2) == [429] * 3
        gate.open()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert statuses(0, 1, 2) == [200] * 3
    world.books()


def test_what_an_upstream_keeps_is_its_tenants_at_every_gateway_and_nobody_elses(world: Town) -> None:
    own, stranger = world.gateway.add_tenant(name()), world.gateway.add_tenant(name())

    def ask(gateway: int, method: str, path: str, key: str, **more: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{world.neighbours[gateway].port}/v1{path}"
        return httpx.request(method, url, headers={"authorization": f"Bearer {key}"}, trust_env=False, **more)

    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    response = {"id": name(), "object": "response", "status": "completed", "output": [], "usage": usage}
    world.market.upstream.script(*[Reply.json(response)] * 3, Reply.json({"id": response["id"], "deleted": True}))
    made = ask(0, "POST", "/responses", own, json={"model": "gpt-4o", "input": "Hi"})
    assert made.status_code == 200, made.text
    path = f"/responses/{response['id']}"
    assert [ask(gateway, "GET", path, own).status_code for gateway in (1, 2)] == [200, 200]
    assert [ask(gateway, "GET", path, stranger).status_code for gateway in (0, 1, 2)] == [404, 404, 404]
    assert ask(2, "DELETE", path, own).status_code == 200
    assert ask(1, "GET", path, own).status_code == 404


def test_what_a_gateway_that_served_alone_had_in_its_journal_is_taken_in_when_it_serves_beside_others(
    world: Town,
) -> None:
    tenant = name()
    world.gateway.cli("plan", "add", "ten-a-day", "--requests-per-day", "10")
    key = world.gateway.add_tenant(tenant, plan="ten-a-day")
    assert world.ask(key, 2, connections=1).ended() == Counter({200: 2})
    third = world.neighbours[2]
    third.close()
    [listed] = world.gateway.cli_json("receipt", "list", "--tenant", tenant, "--limit", "1")["receipts"]
    like = msgspec.convert(listed["receipt"], Receipt)
    [[store_id, last_seq]] = run_sql(world.url, "SELECT store_id, (SELECT max(seq) FROM receipts) FROM meta")
    folder = third.gateway.home / "journal"
    journal = Journal.open(folder, store_id=store_id, last_seq=last_seq, segment_bytes=64 * 1024)
    left = [f"{like.id[:-4]}{number:04x}" for number in range(3)]
    for number, receipt_id in enumerate(left, start=1):
        receipt = msgspec.structs.replace(like, id=receipt_id, tseq=like.tseq + number)
        journal.append(Entry(seq=last_seq + number, receipt=receipt, secret=bytes(32)))
    journal.close()
    # It served with --workers in between, and its first worker was killed while the database was away.
    worker = third.gateway.home / "workers" / "1"
    worker.mkdir(parents=True)
    drafts = Journal.open(worker / "drafts", store_id=home_id(worker / "drafts"), last_seq=0, segment_bytes=64 * 1024)
    left.append(f"{like.id[:-4]}{len(left):04x}")
    draft = msgspec.structs.replace(like, id=left[-1], tseq=0, tprev="")
    drafts.append(Entry(seq=1, receipt=draft, secret=bytes(32)))
    drafts.close()
    third.start().wait()
    assert not folder.exists()
    assert world.ask(key, 8, connections=2).ended() == Counter({200: 4, 429: 4})
    found = [card["receipt"] for card in world.gateway.cli_json("receipt", "list", "--tenant", tenant)["receipts"]]
    assert [receipt["tseq"] for receipt in found] == list(range(len(found), 0, -1))
    assert {receipt["id"] for receipt in found} >= set(left)
    world.books()
