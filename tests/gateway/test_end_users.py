"""End users of an app behind one key: each with a budget, listed, blocked, and known by pseudonym alone."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.support.answers import message
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

HEADER = "X-OpenWebUI-User-Id"
ALICE, BOB = "alice.liddell@wonderland.example", "bob@wonderland.example"


def ask(tenant: Tenant, name: str | None, **members: Any) -> httpx.Response:
    headers = {} if name is None else {HEADER: name}
    body = {"model": "gpt-4o", "messages": HELLO, **members}
    return tenant.http.post("/v1/chat/completions", json=body, headers=headers)


def with_end_users(gateway: Gateway, tenant: Tenant, *sources: str) -> None:
    gateway.cli("key", "set", tenant.key_id, *(part for source in sources for part in ("--end-users", source)))


def everything_in(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    return b"".join(path.read_bytes() for path in files)


def test_each_end_user_has_a_budget_and_no_name_is_kept(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    tenant = sign_up(gateway)
    with_end_users(gateway, tenant, f"header:{HEADER}", "user")
    whom = ("--tenant", tenant.name, "--each", "end-user")
    gateway.cli("budget", "add", "per-user", "--requests", "2", "--per", "month", *whom)

    assert [ask(tenant, ALICE).status_code for _ in range(3)] == [200, 200, 429]
    assert ask(tenant, BOB).status_code == 200, "another's budget is another's"
    assert ask(tenant, None, user=BOB).status_code == 200, "the body names the same user"
    assert ask(tenant, None, safety_identifier=BOB).status_code == 429
    assert [ask(tenant, None).status_code for _ in range(3)] == [200, 200, 429], "without a name there is one for all"

    listed = gateway.cli_json("end-user", "list", tenant.name)["end_users"]
    alice = gateway.cli_json("end-user", "show", tenant.name, ALICE)
    pseudonym = alice["end_user"]["end_user"]
    assert re.fullmatch(r"eu_[0-9a-f]{24}", pseudonym)
    assert {each["end_user"]: each["requests"] for each in listed}[pseudonym] == 2
    assert sorted(each["requests"] for each in listed) == [2, 2, 2]
    assert [(each["used"], each["left"]) for each in alice["budgets"]] == [(2, 0)]
    assert ALICE not in gateway.cli("end-user", "list", tenant.name).stdout
    usage = tenant.http.get("/v1/usage", params={"by": "end_user"}).json()["data"]
    assert {row["group"] for row in usage} == {each["end_user"] for each in listed}

    receipts = tenant.receipts()
    assert {receipt["v"] for receipt in receipts} == {5}
    assert sum(receipt["end_user"] == pseudonym and receipt["finish"] == "complete" for receipt in receipts) == 2
    bundle = gateway.home.parent / "bundle.json"
    newest = next(each["id"] for each in reversed(receipts) if each["end_user"] == pseudonym)
    gateway.cli("receipt", "export", newest, "--output", str(bundle))
    gateway.cli("receipt", "verify", str(bundle))
    exported = gateway.home.parent / "receipts.csv"
    gateway.cli("export", "receipts", "--format", "csv", "--output", str(exported))
    with exported.open(newline="") as file:
        assert [row["end_user"] for row in csv.DictReader(file)] == [receipt["end_user"] for receipt in receipts]
    assert gateway.cli_json("doctor", "--books")["ok"]

    gateway.kill()
    gateway.start()
    assert ask(tenant, ALICE).status_code == 429, "kept through a crash"
    gateway.cli("end-user", "limit", tenant.name, ALICE, "--budget", "per-user", "--number", "3")
    assert [ask(tenant, ALICE).status_code for _ in range(2)] == [200, 429]
    assert gateway.stop() == 0
    kept = everything_in(gateway.home) + gateway.logs().encode()
    assert pseudonym.encode() in kept
    for name in (ALICE, BOB):
        assert name.encode() not in kept and name.encode().hex().encode() not in kept


def test_an_end_user_is_blocked_and_served_again(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    gateway, tenant, other = shared_gateway, sign_up(shared_gateway), sign_up(shared_gateway)
    for each in (tenant, other):
        with_end_users(gateway, each, f"header:{HEADER.lower()}")
    assert ask(tenant, ALICE).status_code == 200
    assert "blocked" in gateway.cli("end-user", "block", tenant.name, ALICE).stdout
    refused = ask(tenant, ALICE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "end_user_blocked")
    assert ask(tenant, BOB).status_code == 200
    assert ask(other, ALICE).status_code == 200, "another tenant's end user of that name is another"
    (mine,), (others,) = (
        {receipt["end_user"] for receipt in each.receipts() if receipt["status"] == 200}
        - _pseudonyms(gateway, each, BOB)
        for each in (tenant, other)
    )
    assert mine != others
    gateway.cli("end-user", "unblock", tenant.name, mine)
    assert ask(tenant, ALICE).status_code == 200


def test_a_name_beyond_ascii_is_the_same_in_a_header_a_body_and_a_command(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, name = sign_up(shared_gateway), "Zoë 王"
    with_end_users(shared_gateway, tenant, f"header:{HEADER}", "user")
    shared_gateway.cli("end-user", "block", tenant.name, name)
    shared_gateway.cli("end-user", "block", tenant.name, "Zoë")
    body = {"model": "gpt-4o", "messages": HELLO}
    for value in (name.encode(), "Zoë".encode("latin-1")):
        refused = tenant.http.post("/v1/chat/completions", json=body, headers={HEADER.encode(): value})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "end_user_blocked")
    assert [ask(tenant, None, user=each).status_code for each in (name, f" {name}\n", " ")] == [403, 403, 200]


def _pseudonyms(gateway: Gateway, tenant: Tenant, name: str) -> set[str]:
    shown = gateway.cli("end-user", "show", tenant.name, name, "--json", check=False)
    return set(re.findall(r"eu_[0-9a-f]{24}", shown.stdout))


def test_a_key_without_end_users_has_receipts_as_before(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    gateway, tenant = shared_gateway, sign_up(shared_gateway)
    assert ask(tenant, ALICE, user=BOB).status_code == 200
    gateway.cli("plan", "add", "apps", "--end-users", "user")
    gateway.cli("tenant", "set", tenant.name, "--plan", "apps")
    assert ask(tenant, ALICE, user=BOB).status_code == 200, "as the plan has it"
    with_end_users(gateway, tenant, "none")
    assert ask(tenant, ALICE, user=BOB).status_code == 200
    receipts = tenant.receipts()
    assert [receipt["v"] for receipt in receipts] == [3, 5, 3]
    assert "end_user" not in receipts[0] and {receipts[1]["end_user"]} == _pseudonyms(gateway, tenant, BOB)


def test_messages_name_their_user_in_metadata(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(shared_gateway)
    with_end_users(shared_gateway, tenant, "user")
    large = "x" * 70_000
    for content in ("Hello", large):
        body = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
        scripted.script(Reply.json(message()))
        answer = tenant.http.post("/v1/messages", json={**body, "metadata": {"user_id": ALICE}})
        assert answer.status_code == 200, answer.text
    (pseudonym,) = _pseudonyms(shared_gateway, tenant, ALICE)
    assert [receipt["end_user"] for receipt in tenant.receipts()] == [pseudonym, pseudonym]


def test_a_prepaid_tenants_receipts_name_end_users_too(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    gateway, tenant = shared_gateway, sign_up(shared_gateway)
    with_end_users(gateway, tenant, "user")
    gateway.cli("passport", "add", "gpt-4o", "--input-price", "2", "--output-price", "8")
    gateway.cli("payment", "set", tenant.name, "--mode", "prepaid")
    gateway.cli("tenant", "credit", tenant.name, "--add", "5")
    answer = ask(tenant, None, user=ALICE, max_tokens=20)
    assert answer.status_code == 200, answer.text
    receipt = tenant.receipts()[-1]
    assert (receipt["v"], receipt["charged_nano_usd"] > 0) == (6, True)
    assert {receipt["end_user"]} == _pseudonyms(gateway, tenant, ALICE)
    bundle = gateway.home.parent / "paid.json"
    gateway.cli("receipt", "export", receipt["id"], "--output", str(bundle))
    gateway.cli("receipt", "verify", str(bundle))
    assert gateway.cli_json("doctor", "--books")["ok"]


def test_what_makes_no_sense_is_explained(gateway: Gateway) -> None:
    gateway.add_tenant("acme")
    key = gateway.cli_json("key", "list")["keys"][0]["id"]
    for arguments, said in (
        (("key", "set", key, "--end-users", "header:authorization"), "not where a request can name"),
        (("key", "set", key, "--end-users", "cookie"), "not where a request can name"),
        (("end-user", "block", "acme", "alice"), "No key or plan names end users"),
        (("end-user", "block", "acme", " "), "name is not empty"),
        (("end-user", "show", "acme", "eu_" + "0" * 24), "has no end user"),
        (("end-user", "limit", "acme", "eu_" + "0" * 24, "--budget", "b"), "one amount"),
        (("end-user", "limit", "acme", "eu_" + "0" * 24, "--budget", "b", "--number", "1"), "no budget"),
    ):
        failed = gateway.cli(*arguments, check=False)
        assert failed.returncode and said in failed.stderr, failed.stderr
    assert "named an end user" in gateway.cli("end-user", "list", "acme").stderr
