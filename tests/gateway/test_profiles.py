"""Model and configuration by the tenant's profile: names, parameters, targets, headers and keys of its own."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_batches import lines, upload
from tests.gateway.test_path import error_of, receipt_of
from tests.support.gateway import Gateway
from tests.support.upstream import Recorded, Reply, Upstream
from trustgate.receipts.receipt import commitment

SYSTEM = "Answer in one sentence."


@pytest.fixture(scope="module")
def profiled(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    """A gateway without the wildcard that takes every name."""
    gateway = make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "UPSTREAM_KEY": "sk-the-operators",
            "TRUSTGATE_UPSTREAM_KEY_ENV": "UPSTREAM_KEY",
            "ACME_KEY": "sk-the-tenants-own",
            "ACME_HEADER": "a-secret-of-acme",
        },
    ).start()
    gateway.cli("passport", "revoke", "*")
    gateway.cli(
        "passport", "add", "local", "--api-model-id", "llama-small", "--input-price", "1", "--output-price", "2"
    )
    gateway.cli("passport", "add", "big", "--api-model-id", "gpt-big", "--provider", "acme-cloud", "--free")
    gateway.cli("passport", "set", "local", "--fallback", "big")
    return gateway


@pytest.fixture
def acme(profiled: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(profiled)


def setting(tenant: Tenant, *options: str) -> dict[str, Any]:
    profile: dict[str, Any] = tenant.gateway.cli_json("profile", "set", "--tenant", tenant.name, *options)["profile"]
    return profile


def said(rules: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rules.items() if value not in (None, {})}


def sent(upstream: Upstream) -> Recorded:
    return upstream.requests[-1]


def models(tenant: Tenant) -> list[str]:
    return [model["id"] for model in tenant.http.get("/v1/models").json()["data"]]


def test_a_name_is_another_model_for_another_tenant_and_unknown_to_a_third(
    acme: Tenant, sign_up: SignUp, scripted: Upstream
) -> None:
    other, third = sign_up(acme.gateway), sign_up(acme.gateway)
    setting(acme, "--name", "gpt-4=local", "--name", "acme-secret-name=big", "--only-own-names", "yes")
    setting(other, "--name", "gpt-4=big")
    for tenant, expected in ((acme, "llama-small"), (other, "gpt-big")):
        assert tenant.chat(model="gpt-4").status_code == 200
        assert sent(scripted).json()["model"] == expected
        assert tenant.receipts()[-1]["model"] == "gpt-4", "a receipt has the name that was asked for"
    assert models(acme) == ["gpt-4", "acme-secret-name"]
    assert models(other)[0] == "gpt-4" and "local" in models(other)
    assert acme.http.get("/v1/models/gpt-4").status_code == 200

    for name in ("gpt-4", "acme-secret-name"):
        refused = third.chat(model=name)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        assert third.http.get(f"/v1/models/{name}").status_code == 404
    assert not {"gpt-4", "acme-secret-name"} & set(models(third))
    assert acme.chat(model="local").status_code == 404, "no other names but its own"

    acme.gateway.cli("profile", "clear", "--tenant", acme.name)
    assert acme.chat(model="gpt-4").status_code == 404, "from the next request on"
    assert acme.chat(model="local").status_code == 200


def test_what_is_judged_is_what_is_sent_and_the_receipt_commits_to_what_came(acme: Tenant, scripted: Upstream) -> None:
    acme.gateway.cli("plan", "add", "small", "--max-tokens", "100")
    acme.gateway.cli("tenant", "set", acme.name, "--plan", "small")
    body = json.dumps({"model": "local", "messages": HELLO, "max_tokens": 5_000, "temperature": 1.5}).encode()

    def ask() -> httpx.Response:
        return acme.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})

    assert error_of(ask())["code"] == "max_tokens_exceeded"
    plain = acme.chat(model="local")
    setting(acme, "--cap", "max_tokens=50", "--cap", "temperature=1.0", "--default", "top_p=0.5")
    answer = ask()
    assert answer.status_code == 200, answer.text
    got = sent(scripted).json()
    assert (got["max_tokens"], got["temperature"], got["top_p"]) == (50, 1.0, 0.5)
    found = receipt_of(acme, answer)
    receipt = found["receipt"]
    expected = commitment(bytes.fromhex(found["secret"]), "request", hashlib.sha256(body).digest())
    assert receipt["request_commitment"] == expected
    assert receipt["policy_hash"] != receipt_of(acme, plain)["receipt"]["policy_hash"]

    assert acme.chat(model="local", temperature=0.1, top_p=0.9).status_code == 200
    got = sent(scripted).json()
    assert (got["temperature"], got["top_p"]) == (0.1, 0.9), "a cap and a default leave what is allowed"
    assert got["max_tokens"] == 50, "without a bound the most is sent along"


def test_parameters_and_the_system_message_in_each_apis_words(acme: Tenant, scripted: Upstream) -> None:
    setting(
        acme,
        *("--set", "temperature=0", "--set", "seed=7", "--cap", "reasoning_effort=low", "--default", "max_tokens=64"),
        *("--system", SYSTEM, "--set", 'response_format={"type": "json_schema", "json_schema": {"name": "a"}}'),
    )
    chat = "/v1/chat/completions"

    def ask(path: str, **members: Any) -> dict[str, Any]:
        answer = acme.http.post(path, json={"model": "local", **members})
        assert answer.status_code == 200, answer.text
        got: dict[str, Any] = sent(scripted).json()
        return got

    got = ask(chat, messages=HELLO, reasoning_effort="high", max_tokens=9)
    assert got["messages"] == [{"role": "system", "content": SYSTEM}, *HELLO]
    assert (got["temperature"], got["seed"], got["reasoning_effort"], got["max_tokens"]) == (0, 7, "low", 9)
    assert got["response_format"]["json_schema"] == {"name": "a"}
    own = {"role": "developer", "content": "Be kind."}
    got = ask(chat, messages=[own, *HELLO])
    assert got["messages"][0] == {"role": "developer", "content": f"{SYSTEM}\n\nBe kind."}
    assert (got["max_tokens"], "reasoning_effort" in got) == (64, False)
    long = "x" * 70_000
    got = ask(chat, messages=[{"role": "system", "content": long}, *HELLO])
    assert got["messages"][0]["content"] == f"{SYSTEM}\n\n{long}"
    assert got["messages"][1:] == HELLO

    scripted.script(Reply.json(RESPONSE), Reply.json(RESPONSE))
    got = ask("/v1/responses", input="Hi", reasoning={"effort": "high", "summary": "auto"})
    assert got["reasoning"] == {"effort": "low", "summary": "auto"}
    assert (got["instructions"], got["max_output_tokens"]) == (SYSTEM, 64)
    assert got["text"]["format"] == {"type": "json_schema", "name": "a"}
    assert "seed" not in got and "response_format" not in got
    assert ask("/v1/responses", input="Hi", instructions="Be kind.")["instructions"] == f"{SYSTEM}\n\nBe kind."

    scripted.script(Reply.json(MESSAGE), Reply.json(MESSAGE))
    got = ask("/v1/messages", messages=HELLO, output_config={"effort": "max"})
    assert got["output_config"] == {"effort": "low"}
    assert (got["system"], got["max_tokens"], got["temperature"]) == (SYSTEM, 64, 0)
    assert "seed" not in got
    own_parts = [{"type": "text", "text": "Be kind."}]
    got = ask("/v1/messages", messages=HELLO, max_tokens=3, system=own_parts)
    assert got["system"] == [{"type": "text", "text": SYSTEM}, *own_parts] and got["max_tokens"] == 3

    assert ask("/v1/completions", prompt="Hi")["temperature"] == 0
    refused = acme.http.post(
        chat, content=b'{"model": "local", "model": "big", "messages": [{"role": "user", "content": "a"}]}'
    )
    assert error_of(refused)["code"] == "duplicate_parameter"
    assert error_of(acme.http.post(chat, content=b"[1]"))["code"] == "invalid_request"


RESPONSE = {
    "id": "resp_profiles",
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def test_a_key_of_the_tenants_own_is_used_for_it_alone_and_a_fee_is_charged(
    acme: Tenant, sign_up: SignUp, scripted: Upstream
) -> None:
    stranger = sign_up(acme.gateway)
    setting(acme, "--credential-env", "local=ACME_KEY", "--fee", "local=0.0005", "--header", "X-Team=acme")
    setting(acme, "--header-env", "x-acme-secret=ACME_HEADER", "--header", "X-Team@elsewhere=not-here")
    setting(acme, "--header", "X-Org@OpenAI=here", "--header", "x-org=everywhere")
    own = acme.chat(model="local")
    headers = {name.lower(): value for name, value in sent(scripted).headers}
    assert headers["authorization"] == "Bearer sk-the-tenants-own"
    assert (headers["x-team"], headers["x-acme-secret"]) == ("acme", "a-secret-of-acme")
    # What is for one provider goes to its servers alone, in place of what all get.
    assert headers["x-org"] == "here"
    other = stranger.chat(model="local")
    headers = {name.lower(): value for name, value in sent(scripted).headers}
    assert headers["authorization"] == "Bearer sk-the-operators" and "x-team" not in headers

    mine, theirs = receipt_of(acme, own)["receipt"], receipt_of(stranger, other)["receipt"]
    assert (mine["cost_nano_usd"], mine["price_known"]) == (500_000, True)
    assert theirs["cost_nano_usd"] == 7 * 1_000 + 5 * 2_000, "the model's price"
    history = acme.gateway.cli_json("passport", "prices", "show", mine["price_hash"])
    assert "0.0005" in json.dumps(history) or "500000" in json.dumps(history)

    explained = acme.gateway.cli_json("passport", "resolve", "local", "--tenant", acme.name)["resolution"]
    first = explained["targets"][0]
    assert first["has_own_key"] and "ACME_KEY" in first["credential"]
    assert first["prices"]["call_nano_usd"] == 500_000
    everything = acme.gateway.cli("profile", "show", "--tenant", acme.name).stdout
    assert "sk-the-tenants-own" not in everything and "a-secret-of-acme" not in everything

    scripted.script(Reply.error(401, "bad key sk-the-tenants-own"))
    setting(acme, "--target", "local")
    refused = acme.chat(model="local")
    assert (refused.status_code, error_of(refused)["code"]) == (502, "upstream_authentication_error")
    assert "sk-the" not in refused.text
    assert stranger.chat(model="local").status_code == 200


def test_embeddings_take_what_is_theirs_and_no_other_api_does(acme: Tenant, scripted: Upstream) -> None:
    setting(acme, "--set", 'encoding_format="float"', "--default", "dimensions=256", "--cap", "dimensions=512")
    setting(acme, "--set", "temperature=0")
    for asked, dimensions in ((None, 256), (100, 100), (1024, 512)):
        body = {"model": "local", "input": "Hello"} | ({} if asked is None else {"dimensions": asked})
        scripted.script(Reply.json({"object": "list", "data": [], "model": "x", "usage": {"prompt_tokens": 1}}))
        acme.http.post("/v1/embeddings", json=body)
        got = sent(scripted).json()
        assert (got["encoding_format"], got["dimensions"], "temperature" in got) == ("float", dimensions, False)
    assert acme.chat(model="local").status_code == 200
    assert sent(scripted).json().keys().isdisjoint({"dimensions", "encoding_format"})


def test_without_its_secret_a_header_is_not_left_out(acme: Tenant, scripted: Upstream) -> None:
    setting(acme, "--header-env", "x-acme-secret=NO_SUCH_VARIABLE")
    asked = len(scripted.requests)
    refused = acme.chat(model="local")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_unavailable")
    assert "NO_SUCH_VARIABLE" not in refused.text
    found = json.loads(acme.gateway.cli("doctor", "--json", check=False).stdout)
    assert any(f"tenant {acme.name}, header x-acme-secret" in json.dumps(each) for each in found["checks"])
    acme.gateway.cli("profile", "clear", "--tenant", acme.name)
    assert [each for each in scripted.requests[asked:] if each.method == "POST"] == []


def test_the_default_model_is_for_requests_without_one_and_where_wanted_for_unknown_ones(
    acme: Tenant, scripted: Upstream
) -> None:
    nameless = {"messages": HELLO}
    assert acme.http.post("/v1/chat/completions", json=nameless).status_code == 400
    setting(acme, "--default-model", "local")
    assert acme.http.post("/v1/chat/completions", json=nameless).status_code == 200
    assert sent(scripted).json()["model"] == "llama-small"
    assert acme.receipts()[-1]["model"] == "local"
    assert acme.chat(model="no-such-model").status_code == 404
    setting(acme, "--unknown-models", "default")
    assert acme.chat(model="no-such-model").status_code == 200
    assert sent(scripted).json()["model"] == "llama-small"
    acme.gateway.cli("plan", "add", "none-of-it", "--models", "big")
    acme.gateway.cli("tenant", "set", acme.name, "--plan", "none-of-it")
    refused = acme.chat(model="no-such-model")
    assert error_of(refused)["code"] == "model_not_allowed", "a name of its own opens nothing that the plan closes"


def test_a_keys_profile_goes_before_its_tenants_and_that_before_its_plans(acme: Tenant, scripted: Upstream) -> None:
    acme.gateway.cli("plan", "add", "merged", "--like", "pro")
    acme.gateway.cli("tenant", "set", acme.name, "--plan", "merged")
    acme.gateway.cli(
        "profile", "set", "--plan", "merged", "--set", "temperature=0.1", "--set", "seed=1", "--name", "m=big"
    )
    setting(acme, "--set", "temperature=0.2", "--name", "m=local")
    acme.gateway.cli("profile", "set", "--key", acme.key_id, "--set", "seed=3")
    assert acme.chat(model="m").status_code == 200
    got = sent(scripted).json()
    assert (got["model"], got["temperature"], got["seed"]) == ("llama-small", 0.2, 3)
    merged = acme.gateway.cli_json("profile", "show", "--key", acme.key_id, "--merged")["profile"]["rules"]
    assert said(merged) == {"names": {"m": "local"}, "parameters": {"temperature": 0.2, "seed": 3}}
    own = acme.gateway.cli_json("profile", "show", "--key", acme.key_id)["profile"]["rules"]
    assert said(own) == {"parameters": {"seed": 3}}
    rotated = acme.gateway.cli_json("key", "rotate", acme.key_id)["key"]["secret"]
    with acme.client(rotated) as client:
        assert client.post("/v1/chat/completions", json={"model": "m", "messages": HELLO}).status_code == 200
    assert sent(scripted).json()["seed"] == 3, "a rotated key keeps it"
    listed = acme.gateway.cli_json("profile", "list")["profiles"]
    assert {each["kind"] for each in listed} == {"plan", "tenant", "key"}


def test_providers_and_targets_say_who_may_serve_and_who_first(acme: Tenant, scripted: Upstream) -> None:
    setting(acme, "--provider", "acme-cloud,openai")
    assert acme.chat(model="local").status_code == 200
    assert sent(scripted).json()["model"] == "gpt-big", "the fallback's provider is preferred"
    setting(acme, "--provider", "openai")
    scripted.script(Reply.error(404, "no such model"))
    assert acme.chat(model="local").status_code == 404, "and there is no other to go to"
    assert sent(scripted).json()["model"] == "llama-small"
    refused = acme.chat(model="big")
    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    assert "big" not in models(acme)


def test_a_batchs_lines_must_be_as_the_profile_has_them(acme: Tenant, scripted: Upstream) -> None:
    setting(acme, "--set", "temperature=0", "--cap", "max_tokens=50")
    refused = upload(acme, lines("llama-small"))
    assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_batch_file")
    assert "temperature" in error_of(refused)["message"]
    refused = upload(acme, lines("llama-small", temperature=0, max_tokens=51))
    assert error_of(refused)["code"] == "invalid_batch_file"
    scripted.script(Reply.json({"id": "file-profiles", "object": "file"}))
    assert upload(acme, lines("llama-small", temperature=0, max_tokens=50)).status_code == 200


def test_a_batchs_file_is_started_under_the_profile_that_its_lines_were_judged_by(
    acme: Tenant, scripted: Upstream
) -> None:
    def started(file_id: str) -> httpx.Response:
        asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return acme.http.post("/v1/batches", json=asked)

    scripted.script(Reply.json({"id": "file-before", "object": "file"}))
    assert upload(acme, lines("llama-small", max_tokens=900)).status_code == 200
    setting(acme, "--cap", "max_tokens=50")
    refused = started("file-before")
    assert (refused.status_code, error_of(refused)["param"]) == (400, "input_file_id")
    assert "upload it again" in error_of(refused)["message"]
    scripted.script(
        Reply.json({"id": "file-after", "object": "file"}),
        Reply.json({"id": "batch-profiles", "object": "batch", "status": "in_progress"}),
    )
    assert upload(acme, lines("llama-small", max_tokens=50)).status_code == 200
    assert started("file-after").status_code == 200


def test_commands_explain_and_refuse(acme: Tenant) -> None:
    setting(acme, "--name", "gpt-4=local", "--target", "local", "--set", "temperature=0")
    text = acme.gateway.cli("passport", "resolve", "gpt-4", "--tenant", acme.name, "--key", acme.key_id).stdout
    for part in (
        f"the tenant {acme.name}",
        "'gpt-4' leads to 'local'",
        "'llama-small'",
        "default upstream",
        "allowed",
        "temperature",
    ):
        assert part.lower() in text.lower(), part
    unknown = acme.gateway.cli_json("passport", "resolve", "nothing", "--tenant", acme.name)["resolution"]
    assert (unknown["is_allowed"], unknown["code"]) == (False, "model_not_found")
    for options, message in (
        (("--name", "gpt-4=no-such-model"), "There is no model 'no-such-model'."),
        (("--header", "x-api-token=abc"), "seems to hold a secret"),
        (("--header", "x-team@=abc"), "a provider's name is expected"),
        (("--fee", "local=1"), "there is none for local"),
        (("--name", "other=none"), "has no 'other' among its names"),
        ((), "No change was given"),
    ):
        failed = acme.gateway.cli("profile", "set", "--tenant", acme.name, *options, check=False)
        assert failed.returncode != 0 and message in failed.stderr, (options, failed.stderr)
    assert said(setting(acme, "--name", "gpt-4=none", "--target", "none")["rules"]) == {
        "parameters": {"temperature": 0}
    }
    assert acme.gateway.cli_json("doctor", "--books")["ok"]
