"""Budgets through the gateway and the command line: shared, exact, kept through restarts, told of once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.notify.conftest import QUICK
from tests.support.gateway import Gateway
from tests.support.receiver import Receiver
from tests.support.shifted_clock import ShiftedClock
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta


def standing(gateway: Gateway, name: str, *tenant: str) -> dict[str, Any]:
    found = [each for each in gateway.cli_json("budget", *tenant)["budgets"] if each["name"] == name]
    assert len(found) == 1
    return dict(found[0])


def test_two_tenants_and_a_restart_share_one_budget(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    one, two, other = sign_up(gateway), sign_up(gateway), sign_up(gateway)
    assert one.chat().status_code == 200
    gateway.cli("budget", "add", "team", "--requests", "4", "--per", "30d", "--tenant", one.name, "--tenant", two.name)
    assert standing(gateway, "team")["used"] == 1, "what was used in its running span counts"
    assert two.chat().status_code == 200
    gateway.kill()
    gateway.start()
    assert standing(gateway, "team", two.name)["used"] == 2
    passed = two.chat()
    assert (passed.headers["x-ratelimit-limit-requests"], passed.headers["x-ratelimit-remaining-requests"]) == (
        "4",
        "1",
    )
    assert one.chat().status_code == 200
    refused = one.chat()
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 29 * 86_400
    error = refused.json()["error"]
    assert (
        error["code"] == "rate_limit_exceeded"
        and "'team' is reached: requests in 30d, limit 4, left 0" in error["message"]
    )
    assert two.chat().status_code == 429
    assert other.chat().status_code == 200
    assert gateway.cli_json("budget", other.name)["budgets"] == []

    (mine,) = two.http.get("/v1/usage").json()["budgets"]
    assert (mine["name"], mine["used"], mine["held"], mine["left"]) == ("team", 4, 0, 0)
    gateway.cli("budget", "set", "team", "--requests", "5")
    assert two.chat().status_code == 200
    assert gateway.stop() == 0
    assert standing(gateway, "team")["used"] == 5, "without a server, from the receipts"
    gateway.start()
    gateway.cli("budget", "remove", "team")
    assert two.chat().status_code == 200
    assert gateway.cli_json("budget")["budgets"] == []


def test_of_many_at_once_exactly_the_budget_passes(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenants = [sign_up(shared_gateway), sign_up(shared_gateway)]
    gateway = shared_gateway
    gateway.cli("budget", "add", "fifty", "--requests", "50", "--per", "total", *_for(tenants))

    def ask(number: int) -> int:
        return tenants[number % 2].chat().status_code

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(400)))
    # A machine that is busy may refuse some of fifty at once for want of time: these are not counted.
    assert (answers.count(200), set(answers) - {503}) == (50, {200, 429})
    assert standing(gateway, "fifty")["used"] == 50
    gateway.cli("budget", "remove", "fifty")


def test_a_budget_that_is_added_or_changed_meanwhile_counts_what_is_under_way(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    gateway, one, two = shared_gateway, sign_up(shared_gateway), sign_up(shared_gateway)
    gate = Gate()
    scripted.script(*[Reply.chat().held(gate)] * 3)
    with ThreadPoolExecutor(3) as pool:
        under_way = [pool.submit(one.chat) for _ in range(3)]
        scripted.wait_for_requests(3)
        gateway.cli("budget", "add", "late", "--requests", "9", "--per", "total", "--tenant", one.name)
        assert (standing(gateway, "late")["used"], standing(gateway, "late")["held"]) == (0, 3)
        gateway.cli("budget", "set", "late", "--requests", "4", *_for([one, two]))
        assert [two.chat().status_code for _ in range(2)] == [200, 429]
        gate.open()
        assert [answer.result().status_code for answer in under_way] == [200, 200, 200]
    late = standing(gateway, "late")
    assert (late["used"], late["held"]) == (4, 0)
    assert gateway.cli_json("doctor", "--books")["ok"]
    gateway.cli("budget", "remove", "late")


def test_a_restart_under_a_clock_that_was_set_back_gives_nothing_anew(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp, tmp_path: Path
) -> None:
    """As after a machine's start without a battery for its clock: what was used is in the future for a while."""
    clock = ShiftedClock(tmp_path / "clock")
    gateway = make_gateway(upstream=upstream.api_url, environment=clock.environment, forked=False).start()
    budgeted, planned = sign_up(gateway), sign_up(gateway)
    daily = sign_up(gateway)
    gateway.cli("budget", "add", "rolling", "--requests", "2", "--per", "30d", "--tenant", budgeted.name)
    gateway.cli("budget", "add", "daily", "--requests", "2", "--per", "day", "--tenant", daily.name)
    gateway.cli("plan", "add", "two", "--like", "pro", "--requests-per-day", "2")
    gateway.cli("tenant", "set", planned.name, "--plan", "two")
    tenants = (budgeted, planned, daily)
    assert [tenant.chat().status_code for tenant in tenants * 2] == [200] * 6
    gateway.kill()
    clock.shift(-3 * 86_400)
    gateway.start()
    assert [tenant.chat().status_code for tenant in tenants] == [429] * 3
    clock.shift(0)
    assert [tenant.chat().status_code for tenant in tenants] == [429] * 3
    assert gateway.cli("doctor", "--books").returncode == 0


def test_what_was_used_while_the_clock_ran_ahead_counts_after_a_restart_too(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp, tmp_path: Path
) -> None:
    """The clock was set back while the gateway ran, and has served since: its newest receipt has the right date."""
    clock = ShiftedClock(tmp_path / "clock")
    clock.shift(3 * 86_400)
    gateway = make_gateway(upstream=upstream.api_url, environment=clock.environment, forked=False).start()
    tenant, other = sign_up(gateway), sign_up(gateway)
    gateway.cli("budget", "add", "rolling", "--requests", "3", "--per", "30d", "--tenant", tenant.name)
    assert [tenant.chat().status_code for _ in range(2)] == [200, 200]
    clock.shift(0)
    assert [tenant.chat().status_code for _ in range(2)] == [200, 429]
    assert other.chat().status_code == 200
    gateway.kill()
    gateway.start()
    assert tenant.chat().status_code == 429
    assert standing(gateway, "rolling")["used"] == 3
    # Behind, too, it serves some before the end.
    clock.shift(-7_200)
    assert other.chat().status_code == 200
    gateway.kill()
    gateway.start()
    assert tenant.chat().status_code == 429
    clock.shift(3 * 86_400)
    assert standing(gateway, "rolling")["used"] == 3
    assert gateway.cli("doctor", "--books").returncode == 0


def test_after_kill_9_in_mid_traffic_budgets_are_what_the_receipts_say(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    tenants = [sign_up(gateway), sign_up(gateway)]
    for name, terms in (
        ("most", ("--requests", "90", "--per", "total")),
        ("rolling", ("--tokens", "1000000", "--per", "1h")),
        ("monthly", ("--tokens", "1000000", "--per", "month", "--each", "key", "--soft")),
    ):
        gateway.cli("budget", "add", name, *terms, *_for(tenants))
    enough = threading.Semaphore(0)

    def ask_on(tenant: Tenant) -> int:
        answered = 0
        with tenant.client(tenant.secret) as client:
            while True:
                try:
                    answer = client.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
                except httpx.TransportError:
                    return answered
                answered += answer.status_code == 200
                enough.release()

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_on, tenants[number % 2]) for number in range(8)]
        for _ in range(40):
            assert enough.acquire(timeout=30)
        gateway.kill()
        acknowledged = sum(client.result() for client in clients)
    gateway.start()

    counted = [receipt for tenant in tenants for receipt in tenant.receipts() if receipt["finish"] != "refused"]
    tokens = {tenant.key_id: 0 for tenant in tenants}
    for receipt in counted:
        tokens[receipt["key"]] += receipt["prompt_tokens"] + receipt["completion_tokens"]
    assert 40 <= acknowledged <= len(counted) < 90
    standings = gateway.cli_json("budget")["budgets"]
    assert all(each["held"] == 0 for each in standings)
    assert {(each["name"], each["subject"]): each["used"] for each in standings} == {
        ("most", ""): len(counted),
        ("rolling", ""): sum(tokens.values()),
        **{("monthly", key_id): amount for key_id, amount in tokens.items()},
    }
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: tenants[number % 2].chat().status_code, range(100)))
    assert answers.count(200) == 90 - len(counted)
    assert gateway.cli_json("doctor", "--books")["ok"]


def test_each_step_is_told_once(make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp) -> None:
    gateway = make_gateway(upstream=upstream.api_url, environment=QUICK).start()
    tenant = sign_up(gateway)
    with Receiver() as receiver:
        gateway.cli("notify", "add", receiver.url, "--private", "--on", "budget")
        gateway.cli("budget", "add", "told", "--requests", "4", "--per", "month", "--tenant", tenant.name)
        for _ in range(3):
            assert tenant.chat().status_code == 200
        half = receiver.take()
        assert half.data["details"]["percent"] == 50
        gateway.kill()
        gateway.start()
        assert tenant.chat().status_code == 200
        # Killed before it had noted that the first one arrived, it sends that again, by the same id.
        last = next(message for message in iter(receiver.take, None) if message.id != half.id).data
        assert (last["details"]["percent"], last["details"]["used"], last["details"]["hard"]) == (100, 4, True)
        assert "'told' is used to 100 %: 4 of 4 requests, span month." in last["message"]
        assert tenant.chat().status_code == 429
        assert receiver.rest() == []


def _for(tenants: list[Tenant]) -> list[str]:
    return [argument for tenant in tenants for argument in ("--tenant", tenant.name)]


def test_a_budget_of_a_key_outlives_its_rotation(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant, gateway = sign_up(shared_gateway), shared_gateway
    gateway.cli("budget", "add", "of-a-key", "--requests", "2", "--per", "month", "--key", tenant.key_id)
    assert tenant.chat().status_code == 200
    new = gateway.cli_json("key", "rotate", tenant.key_id)["key"]["secret"]
    body = {"model": "gpt-4o", "messages": HELLO}
    with tenant.client(new) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/v1/chat/completions", json=body).status_code == 429
    gateway.cli("budget", "remove", "of-a-key")


def test_a_budget_of_money_wants_prices_of_the_models_it_covers(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, gateway = sign_up(shared_gateway), shared_gateway
    whom = ("--tenant", tenant.name)
    gateway.cli("budget", "add", "money", "--usd", "0.01", "--per", "month", "--models", "gpt-*", *whom)
    refused = tenant.chat(model="unheard-of", max_tokens=5)
    assert refused.status_code == 200, "the budget is not for that model"
    gateway.cli("budget", "set", "money", "--models", "*")
    refused = tenant.chat(model="unheard-of", max_tokens=5)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_priced")
    assert "a budget limits what may be spent" in refused.json()["error"]["message"]
    gateway.cli("passport", "add", "gpt-4o", "--input-price", "2.5", "--output-price", "10")
    refused = tenant.chat(max_tokens=2_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "can never pass" in refused.json()["error"]["message"]
    assert tenant.chat(max_tokens=10).status_code == 200
    assert 0 < standing(gateway, "money")["used"] < 10_000_000
    gateway.cli("budget", "remove", "money")


def test_a_tenant_that_comes_onto_a_plan_brings_its_use(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, gateway = sign_up(shared_gateway), shared_gateway
    assert tenant.chat().status_code == 200
    gateway.cli("plan", "add", "club")
    gateway.cli("budget", "add", "club", "--requests", "9", "--per", "month", "--plan", "club")
    assert standing(gateway, "club")["used"] == 0
    gate = Gate()
    scripted.script(Reply.sse([delta("a"), gate, delta(None, finish_reason="stop"), DONE]))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "stream": True}
    with tenant.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines)
        gateway.cli("tenant", "set", tenant.name, "--plan", "club")
        held = standing(gateway, "club")
        assert (held["used"], held["held"]) == (1, 1)
        gate.open()
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert tenant.chat().status_code == 200
    assert standing(gateway, "club")["used"] == 3
    (mine,) = tenant.http.get("/v1/usage").json()["budgets"]
    assert mine["reached"] is False and "used" not in mine, "it is shared with tenants that need not know of each other"
    gateway.cli("budget", "remove", "club")


def test_what_makes_no_sense_is_explained(gateway: Gateway) -> None:
    gateway.add_tenant("acme")
    for arguments, said in (
        (("add", "b"), "needs an amount and a span"),
        (("add", "b", "--usd", "1", "--per", "month"), "needs the callers"),
        (("add", "b", "--usd", "1", "--tokens", "1", "--per", "day", "--everyone"), "one amount"),
        (("add", "b", "--usd", "1", "--per", "fortnight", "--everyone"), "not a budget's span"),
        (("add", "b", "--usd", "1", "--per", "day", "--tenant", "nobody"), "no tenant"),
        (("add", "b", "--usd", "1", "--per", "day", "--everyone", "--notice-at", "0"), "from 1 to 1000 percent"),
        (("set", "b"), "No change"),
        (("set", "b", "--usd", "1"), "no budget 'b'"),
        (("remove", "b"), "no budget 'b'"),
        (("nobody",), "no tenant"),
    ):
        failed = gateway.cli("budget", *arguments, check=False)
        assert failed.returncode and said in failed.stderr, failed.stderr
    gateway.cli("budget", "add", "b", "--tokens", "1000", "--per", "6h", "--tenant", "acme", "--soft")
    assert (
        "already exists"
        in gateway.cli("budget", "add", "b", "--usd", "1", "--per", "day", "--everyone", check=False).stderr
    )
    shown = gateway.cli("budget").stdout
    assert "1,000 tokens in 6h" in shown and "soft" in shown
    assert "acme" in gateway.cli("budget", "list").stdout
    assert "soft: only gives notice" in gateway.cli("budget", "show", "b").stdout
