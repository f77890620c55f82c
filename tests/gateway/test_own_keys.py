"""``/v1/account``, ``/v1/keys`` and what else a tenant reads of its own: over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import SignUp, Tenant
from tests.support.gateway import Gateway
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.verify import verify_bundle

MOST = 3


@pytest.fixture(scope="module")
def plan(shared_gateway: Gateway) -> str:
    shared_gateway.cli("plan", "add", "makers", "--own-keys", str(MOST), "--requests-per-day", "100")
    return "makers"


@pytest.fixture
def maker(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp, plan: str) -> Tenant:
    return sign_up(shared_gateway, "--plan", plan)


@pytest.fixture
def other(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp, plan: str) -> Tenant:
    return sign_up(shared_gateway, "--plan", plan)


@pytest.fixture
def made(maker: Tenant) -> Iterator[tuple[dict[str, Any], httpx.Client]]:
    """A key that the tenant has made, and a client that sends it."""
    key = make(maker, name="notebook")
    with maker.client(key["secret"]) as http:
        yield key, http


def make(tenant: Tenant, **members: Any) -> dict[str, Any]:
    response = tenant.http.post("/v1/keys", json=members)
    assert response.status_code == 201, response.text
    key: dict[str, Any] = response.json()
    return key


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def chat(http: httpx.Client, **members: Any) -> httpx.Response:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **members}
    return http.post("/v1/chat/completions", json=body)


# keys


def test_a_key_is_made_used_and_revoked_and_its_secret_shown_once(maker: Tenant) -> None:
    response = maker.http.post("/v1/keys", json={"name": "notebook"})
    key = response.json()
    assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
    assert key["secret"].startswith("tgk_") and key["made_by"] == maker.key_id and not key["is_this"]
    listed = maker.http.get("/v1/keys")
    assert [each["name"] for each in listed.json()["data"]] == ["notebook", "default"]
    assert key["secret"] not in listed.text + maker.http.get(f"/v1/keys/{key['id']}").text
    with maker.client(key["secret"]) as http:
        assert chat(http).status_code == 200
        assert maker.http.delete(f"/v1/keys/{key['id']}").json()["revoked_at"] is not None
        assert code_of(chat(http)) == (401, "api_key_revoked")
    assert [each["name"] for each in maker.http.get("/v1/keys").json()["data"]] == ["default"]


def test_a_revoked_keys_stream_is_cut(maker: Tenant, scripted: Upstream, made: Any) -> None:
    key, http = made
    gate = Gate()
    scripted.script(Reply.sse([delta("a"), gate, DONE]))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines)
        assert maker.http.delete(f"/v1/keys/{key['id']}").status_code == 200
        rest = list(lines)
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "api_key_revoked"
    gate.open()


def test_limits_narrow_the_plan_and_can_be_changed(maker: Tenant) -> None:
    limits = {"requests_per_day": 1, "usd_per_month": "2.5"}
    key = make(maker, models=["gpt-4o"], limits=limits, expires_at=int(time.time()) + 3600)
    assert key["limits"] == {"requests_per_day": 1, "cost_nano_usd_per_month": 2_500_000_000}
    with maker.client(key["secret"]) as http:
        assert code_of(chat(http, model="trustgate/echo")) == (403, "model_not_allowed")
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["gpt-4o"]
        changed = maker.http.post(
            f"/v1/keys/{key['id']}",
            json={"models": ["trustgate/echo"], "limits": {"usd_per_month": None}, "expires_at": None, "name": "two"},
        )
        assert changed.status_code == 200, changed.text
        assert (changed.json()["limits"], changed.json()["expires_at"]) == ({"requests_per_day": 1}, None)
        assert changed.json()["name"] == "two"
        assert chat(http, model="trustgate/echo").status_code == 200
        assert code_of(chat(http, model="trustgate/echo")) == (429, "rate_limit_exceeded")


def test_the_operator_sees_which_key_made_it(maker: Tenant, made: Any) -> None:
    key, _ = made
    shown = maker.gateway.cli_json("key", "show", key["id"])["key"]
    assert shown["made_by"] == maker.key_id
    assert f"its tenant's key {maker.key_id}" in maker.gateway.cli("key", "show", key["id"]).stdout
    maker.http.delete(f"/v1/keys/{key['id']}")
    assert maker.gateway.cli_json("key", "show", key["id"])["key"]["revoked_by"] == maker.key_id
    journal = next(Path(maker.gateway.home).glob("*.changes")).read_text()
    assert f'"made_by":"{maker.key_id}"' in journal and f'"revoked_by":"{maker.key_id}"' in journal
    assert key["secret"] not in journal


def test_no_more_than_the_plan_says_also_at_once(maker: Tenant) -> None:
    found: list[int] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        with maker.client(maker.secret) as http:
            barrier.wait()
            found.append(http.post("/v1/keys", json={}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [201] * MOST + [403] * (8 - MOST)
    assert code_of(maker.http.post("/v1/keys", json={})) == (403, "own_keys_reached")


def test_keys_cannot_be_made_and_revoked_without_end(shared_gateway: Gateway, sign_up: SignUp) -> None:
    """Each is kept for ever, in memory too: its receipts name it."""
    shared_gateway.cli("plan", "add", "one-key", "--own-keys", "1")
    tenant = sign_up(shared_gateway, "--plan", "one-key")
    for _ in range(10):
        assert tenant.http.delete(f"/v1/keys/{make(tenant)['id']}").status_code == 200
    refused = tenant.http.post("/v1/keys", json={})
    assert code_of(refused) == (403, "own_keys_reached") and "tomorrow" in refused.json()["error"]["message"]


def test_a_plan_without_the_right_gives_none(tenant: Tenant) -> None:
    refused = tenant.http.post("/v1/keys", json={})
    assert code_of(refused) == (403, "own_keys_not_allowed")
    assert "operator" in refused.json()["error"]["message"]
    assert tenant.http.get("/v1/account").json()["plan"]["own_keys"] == 0


def test_a_key_that_was_made_makes_changes_and_revokes_none(maker: Tenant, made: Any) -> None:
    key, http = made
    for response in (
        http.post("/v1/keys", json={}),
        http.post(f"/v1/keys/{key['id']}", json={"name": "x"}),
        http.delete(f"/v1/keys/{key['id']}"),
        http.delete(f"/v1/keys/{maker.key_id}"),
    ):
        assert code_of(response) == (403, "own_keys_not_allowed")


@pytest.mark.parametrize("narrowed", [("--requests-per-day", "5"), ("--models", "gpt-4o")])
def test_a_limited_key_cannot_make_an_unlimited_one(maker: Tenant, narrowed: tuple[str, str]) -> None:
    limited = maker.gateway.cli_json("key", "create", maker.name, *narrowed)["key"]["secret"]
    with maker.client(limited) as http:
        assert code_of(http.post("/v1/keys", json={})) == (403, "own_keys_not_allowed")


def test_a_key_under_a_budget_cannot_make_one_beside_it(maker: Tenant) -> None:
    made = maker.gateway.cli_json("key", "create", maker.name)["key"]
    maker.gateway.cli("budget", "add", f"b-{maker.name}", "--key", made["id"], "--requests", "5", "--per", "day")
    with maker.client(made["secret"]) as http:
        assert code_of(http.post("/v1/keys", json={})) == (403, "own_keys_not_allowed")


def test_a_key_with_a_profile_of_its_own_cannot_make_one_without(maker: Tenant) -> None:
    held = maker.gateway.cli_json("key", "create", maker.name)["key"]
    maker.gateway.cli("profile", "set", "--key", held["id"], "--cap", "max_tokens=8")
    with maker.client(held["secret"]) as http:
        assert code_of(http.post("/v1/keys", json={})) == (403, "own_keys_not_allowed")
        maker.gateway.cli("profile", "clear", "--key", held["id"])
        assert http.post("/v1/keys", json={}).status_code == 201


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(("key", "set", "KEY", "--requests-per-day", "5"), id="limits"),
        pytest.param(("key", "set", "KEY", "--models", "gpt-4o"), id="scope"),
        pytest.param(("budget", "add", "NAME", "--key", "KEY", "--requests", "5", "--per", "day"), id="budget"),
        pytest.param(("profile", "set", "--key", "KEY", "--cap", "max_tokens=8"), id="profile"),
    ],
)
def test_a_key_is_not_limited_while_keys_that_it_made_would_not_be(maker: Tenant, limit: tuple[str, ...]) -> None:
    held = maker.gateway.cli_json("key", "create", maker.name)["key"]
    command = [{"KEY": held["id"], "NAME": f"b-{held['id']}"}.get(word, word) for word in limit]
    with maker.client(held["secret"]) as http:
        made = http.post("/v1/keys", json={}).json()
        refused = maker.gateway.cli(*command, check=False)
        assert refused.returncode == 5, refused.stderr
        assert made["id"] in refused.stderr and f"trustgate key revoke {made['id']}" in refused.stderr
        assert http.post("/v1/keys", json={}).status_code == 201, "nothing was changed"
        for each in http.get("/v1/keys").json()["data"]:
            if each["made_by"] == held["id"]:
                assert http.delete(f"/v1/keys/{each['id']}").status_code == 200
        maker.gateway.cli(*command)
        assert code_of(http.post("/v1/keys", json={})) == (403, "own_keys_not_allowed")


def test_a_budget_may_bind_a_key_with_all_that_it_made(maker: Tenant) -> None:
    held = maker.gateway.cli_json("key", "create", maker.name)["key"]
    with maker.client(held["secret"]) as http:
        made = http.post("/v1/keys", json={}).json()
    both = ("--key", held["id"], "--key", made["id"])
    maker.gateway.cli("budget", "add", f"b-{maker.name}", *both, "--requests", "5", "--per", "day")


def test_what_the_operator_made_stays_the_operators(maker: Tenant, other: Tenant) -> None:
    theirs = make(other)
    for method, path in (("POST", maker.key_id), ("DELETE", maker.key_id)):
        response = maker.http.request(method, f"/v1/keys/{path}", json={} if method == "POST" else None)
        assert code_of(response) == (403, "own_keys_not_allowed")
    for method in ("GET", "POST", "DELETE"):  # another tenant's, as if there were none
        response = maker.http.request(method, f"/v1/keys/{theirs['id']}", json={} if method == "POST" else None)
        assert code_of(response) == (404, "key_not_found")
    assert other.http.get(f"/v1/keys/{theirs['id']}").status_code == 200


def test_made_keys_end_with_the_one_that_made_them(maker: Tenant, made: Any) -> None:
    _, http = made
    second = maker.gateway.cli_json("key", "rotate", maker.key_id, "--grace", "1h")["key"]
    maker.gateway.cli("key", "revoke", maker.key_id)
    assert chat(http).status_code == 200, "its maker goes on by rotation"
    maker.gateway.cli("key", "revoke", second["id"])
    assert code_of(chat(http)) == (401, "api_key_revoked")


def test_a_made_key_outlives_no_maker(maker: Tenant) -> None:
    short = maker.gateway.cli_json("key", "create", maker.name, "--expires", "1h")["key"]
    with maker.client(short["secret"]) as http:
        key = http.post("/v1/keys", json={"expires_at": int(time.time()) + 86_400}).json()
        assert key["expires_at"] <= time.time() + 3601
        lifted = http.post(f"/v1/keys/{key['id']}", json={"expires_at": None}).json()
        assert lifted["expires_at"] is not None and lifted["expires_at"] <= time.time() + 3601


def test_a_made_key_ends_with_its_maker_also_where_that_is_decided_later(maker: Tenant) -> None:
    lasting, short = make(maker, name="lasting"), make(maker, expires_at=int(time.time()) + 600)
    rotated = maker.gateway.cli_json("key", "rotate", maker.key_id, "--grace", "30m")["key"]

    def ends() -> list[int | None]:
        with maker.client(rotated["secret"]) as http:
            return [http.get(f"/v1/keys/{key['id']}").json()["expires_at"] for key in (lasting, short)]

    maker.gateway.cli("key", "set", maker.key_id, "--expires", "20m")
    assert ends() == [None, short["expires_at"]], "its maker goes on by rotation"
    end = maker.gateway.cli_json("key", "set", rotated["id"], "--expires", "1h")["key"]["expires_us"] // 1_000_000
    assert ends() == [end, short["expires_at"]]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": ""}, "invalid_request"),
        ({"name": "x" * 65}, "invalid_request"),
        ({"name": 1}, None),
        ({"models": []}, "invalid_request"),
        ({"features": []}, "invalid_request"),
        ({"endpoints": ["teleport"]}, "invalid_request"),
        ({"limits": {"requests_per_day": -1}}, "invalid_request"),
        ({"limits": {"requests_per_day": 1.5}}, "invalid_request"),
        ({"limits": {"requests_per_year": 1}}, "invalid_request"),
        ({"limits": {"usd_per_day": "-1"}}, "invalid_request"),
        ({"limits": {"usd_per_day": 1e-12}}, "invalid_request"),
        ({"expires_at": 5}, "invalid_request"),
        ({"expires_at": 2**60}, "invalid_request"),
        ({"scope": {"end_users": []}}, None),
        ({"end_users": []}, None),
        ([], None),
    ],
)
def test_what_is_wrong_is_refused_by_name(maker: Tenant, body: Any, code: str | None) -> None:
    response = maker.http.post("/v1/keys", json=body)
    assert response.status_code == 400, response.text
    assert code is None or response.json()["error"]["code"] == code
    assert len(maker.http.get("/v1/keys").json()["data"]) == 1


def test_without_a_key_nothing_is_read(shared_gateway: Gateway) -> None:
    with httpx.Client(base_url=shared_gateway.base_url, trust_env=False) as http:
        for method in ("GET", "POST"):
            assert code_of(http.request(method, "/v1/keys", content=b"{" if method == "POST" else None))[0] == 401
        assert http.get("/v1/account").status_code == 401


# what a tenant reads


def test_the_account_says_what_is_left_and_when_it_begins_anew(maker: Tenant) -> None:
    maker.gateway.cli("budget", "add", f"of-{maker.name}", "--tenant", maker.name, "--requests", "5", "--per", "month")
    maker.chat()
    account = maker.http.get("/v1/account").json()
    assert account["tenant"] == {"id": maker.id, "name": maker.name}
    assert (account["plan"]["name"], account["plan"]["own_keys"], account["payment"]) == ("makers", MOST, "off")
    assert (account["key"]["id"], account["key"]["is_this"]) == (maker.key_id, True)
    [limit] = account["limits"]
    midnight_us = (int(time.time()) // 86_400 + 1) * 86_400 * 1_000_000
    assert limit == {
        "of": "plan",
        "unit": "requests",
        "window": "day",
        "limit": 100,
        "used": 1,
        "left": 99,
        "resets_us": midnight_us,
    }
    [budget] = account["budgets"]
    assert (budget["amount"], budget["left"]) == (5, 4) and budget["resets_us"] > time.time() * 1e6
    assert account["log"]["vkey"].startswith(account["log"]["origin"])


def test_no_cache_keeps_what_a_tenant_reads(maker: Tenant) -> None:
    receipt = maker.chat().headers["x-trustgate-receipt"]
    reads = ("account", "keys", "usage", "models", "receipts", "statements", "credits", "payments")
    paths = [*reads, *(f"receipts/{receipt}{part}" for part in ("", "/proof", "/bundle")), "receipts/none"]
    with httpx.Client(base_url=maker.gateway.base_url, headers={"x-api-key": maker.secret}, trust_env=False) as http:
        for path in paths:
            response = http.get(f"/v1/{path}")
            assert response.status_code == (404 if path == "receipts/none" else 200), path
            assert response.headers.get_list("cache-control") == ["no-store"], path


def test_receipts_are_found_by_what_they_say(maker: Tenant) -> None:
    maker.chat()
    chat(maker.http, model="trustgate/echo")
    chat(maker.http, model="trustgate/echo", temperature="hot")
    today, tomorrow = (time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * 86_400)) for days in (0, 1))

    def found(**query: str) -> list[str]:
        response = maker.http.get("/v1/receipts", params=query)
        assert response.status_code == 200, response.text
        return [each["receipt"]["model"] for each in response.json()["data"]]

    assert found(model="trustgate/*", status="ok") == ["trustgate/echo"]
    assert found(model="gpt-4o") == ["gpt-4o"] == found(model="gpt-4o", since=today, before=tomorrow)
    assert found(before=today) == [] == found(since=tomorrow) == found(key="key_of_nobody")
    assert len(found(key=maker.key_id)) >= 2
    for query in ({"status": "maybe"}, {"before": "soon"}, {"since": "2026-1-1"}):
        assert maker.http.get("/v1/receipts", params=query).status_code == 400


def test_a_bundle_is_the_tenants_own_and_holds(maker: Tenant, other: Tenant) -> None:
    answer = maker.chat()
    receipt = answer.headers["x-trustgate-receipt"]
    bundle = maker.http.get(f"/v1/receipts/{receipt}/bundle")
    assert bundle.headers["content-disposition"] == f'attachment; filename="{receipt}.json"'
    vkey = maker.http.get("/v1/account").json()["log"]["vkey"]
    assert verify_bundle(bundle.content, key=VerifierKey.parse(vkey), response=answer.content).ok
    assert not verify_bundle(bundle.content, key=VerifierKey.parse(vkey), response=answer.content + b" ").ok
    assert code_of(other.http.get(f"/v1/receipts/{receipt}/bundle")) == (404, "receipt_not_found")
