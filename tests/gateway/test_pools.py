"""Pools through the gateway: several keys for one server, limits of an upstream, and who is kept at one target."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of, receipt_of
from tests.support.gateway import Gateway
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta

KEYS = ("sk-key-one", "sk-key-two", "sk-key-three")


@pytest.fixture(scope="module")
def pooled(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    """A gateway with a pool of three keys for one server."""
    gateway = make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={f"KEY_{number}": key for number, key in enumerate(KEYS, start=1)},
    ).start()
    for number, name in enumerate(("gpt", "gpt-b", "gpt-c"), start=1):
        gateway.cli(
            *("passport", "add", name, "--api-model-id", "gpt", "--free", "--base-url", shared_upstream.api_url),
            *("--credential-env", f"KEY_{number}"),
        )
    gateway.cli("passport", "set", "gpt", "--pool", "gpt-b,gpt-c")
    return gateway


@pytest.fixture
def acme(pooled: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(pooled)


def keys_asked(upstream: Upstream) -> list[str]:
    """The key of each request for a model, in order."""
    asked = [each for each in upstream.requests if each.method == "POST"]
    return [{name.lower(): value for name, value in each.headers}["authorization"][7:] for each in asked]


def test_every_key_gets_its_share_and_a_tenant_or_a_conversation_stays_at_one(
    acme: Tenant, sign_up: SignUp, scripted: Upstream
) -> None:
    gateway = acme.gateway
    for _ in range(40):
        assert acme.chat(model="gpt").status_code == 200
    assert set(keys_asked(scripted)) == set(KEYS)
    assert {each.json()["model"] for each in scripted.requests if each.method == "POST"} == {"gpt"}

    gateway.cli("passport", "set", "gpt", "--choice", "tenant")
    scripted.requests.clear()
    tenants = [acme, *(sign_up(gateway) for _ in range(4))]
    for tenant in tenants:
        for number in range(3):
            assert tenant.chat(model="gpt", messages=[*HELLO, {"role": "user", "content": str(number)}]).is_success
    asked = keys_asked(scripted)
    assert [len(set(asked[at : at + 3])) for at in range(0, len(asked), 3)] == [1] * len(tenants)

    gateway.cli("passport", "set", "gpt", "--choice", "conversation")
    scripted.requests.clear()
    of_conversation = []
    for number in range(12):
        first = [{"role": "user", "content": f"Conversation {number}"}]
        for turns in (first, [*first, {"role": "assistant", "content": "Yes?"}, *HELLO]):
            assert acme.chat(model="gpt", messages=turns).is_success
        of_conversation.append(keys_asked(scripted)[-2:])
    assert all(one == other for one, other in of_conversation)
    assert len({one for one, _ in of_conversation}) > 1, "not all at one"


def test_the_least_busy_and_the_limits_of_an_upstream(acme: Tenant, scripted: Upstream) -> None:
    gateway = acme.gateway
    limit = ("--upstream-parallel-requests", "1")
    gateway.cli("passport", "set", "gpt", "--choice", "least-busy", *limit)
    for name in ("gpt-b", "gpt-c"):
        gateway.cli("passport", "set", name, *limit)
    shown = gateway.cli("passport", "show", "gpt").stdout
    assert "itself or gpt-b or gpt-c" in shown and "the least busy" in shown and "1 at the same time" in shown
    gates = [Gate() for _ in KEYS]
    for gate in gates:
        scripted.script(Reply.sse([delta("a"), gate, delta("b"), DONE]))
    streams = [acme.stream(model="gpt") for _ in gates]
    opened = [stream.__enter__() for stream in streams]
    assert [each.status_code for each in opened] == [200, 200, 200]
    for gate in gates:
        gate.wait_reached()
    assert Counter(keys_asked(scripted)) == Counter(KEYS), "one each"
    refused = acme.chat(model="gpt")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_unavailable")
    assert refused.headers["retry-after"] == "1"
    for gate, stream, answer in zip(gates, streams, opened, strict=True):
        gate.open()
        assert b"[DONE]" in answer.read()
        stream.__exit__(None, None, None)
    assert acme.chat(model="gpt").status_code == 200
    gateway.cli("passport", "set", "gpt", "--upstream-parallel-requests", "none", "--pool", "none")
    assert gateway.cli_json("passport", "show", "gpt")["passport"]["fallbacks"] == []


def test_a_prompt_that_is_too_long_is_answered_by_a_larger_model_at_its_price(acme: Tenant, scripted: Upstream) -> None:
    gateway = acme.gateway
    place = ("--base-url", scripted.api_url, "--input-price", "1")
    gateway.cli("passport", "add", "large", *place, "--output-price", "100", "--context-length", "100000")
    gateway.cli("passport", "add", "small", *place, "--output-price", "1", "--context-fallback", "large")
    assert "large" in gateway.cli("passport", "show", "small").stdout
    explained = gateway.cli("passport", "resolve", "small", "--tenant", acme.name).stdout
    assert "for prompts that are too long" in explained
    scripted.requests.clear()
    too_long = {"error": {"message": "too many tokens", "code": "context_length_exceeded"}}
    answer = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    scripted.script(Reply.json(too_long, status=400), Reply.chat_stream("Hello!", usage=answer))
    with acme.stream(model="small") as stream:
        assert stream.status_code == 200
        assert b"context_length" not in stream.read()
        receipt = receipt_of(acme, stream)["receipt"]
    assert [each.json()["model"] for each in scripted.requests] == ["small", "large"]
    assert (receipt["model"], receipt["cost_nano_usd"]) == ("small", 2 * 1_000 + 3 * 100_000)
    scripted.script(Reply.json(too_long, status=400), Reply.json(too_long, status=400))
    refused = acme.chat(model="small")
    assert (refused.status_code, error_of(refused)["code"]) == (400, "context_length_exceeded")
    gateway.cli("passport", "set", "small", "--fallback", "gpt")
    assert [each["passport"] for each in gateway.cli_json("passport", "show", "small")["passport"]["fallbacks"]] == [
        *("gpt", "large")
    ]
    gateway.cli("passport", "set", "small", "--context-fallback", "none")
    assert [each["passport"] for each in gateway.cli_json("passport", "show", "small")["passport"]["fallbacks"]] == [
        "gpt"
    ]
