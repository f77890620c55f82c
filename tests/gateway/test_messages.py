"""Anthropic's Messages API through the gateway: its keys, its errors, its usage, its streams."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import only_receipt, receipt_of
from tests.support.answers import MESSAGE_USAGE, event, message, message_stream, response_stream
from tests.support.gateway import Gateway
from tests.support.upstream import CLOSE, Gate, Reply, Upstream


def ask(tenant: Tenant, **members: Any) -> httpx.Response:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 64, "messages": HELLO, **members}
    return tenant.http.post("/v1/messages", json=body)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The Anthropic-shaped error of a refusal; fails if it has any other shape."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["x-request-id"] == response.headers["request-id"]
    assert set(body["error"]) == {"type", "message"}
    error: dict[str, Any] = body["error"]
    return error


def test_a_message_passes_byte_for_byte_and_is_metered(tenant: Tenant, scripted: Upstream) -> None:
    answer = json.dumps(message("é 👋"), indent=1, ensure_ascii=False).encode()
    scripted.script(Reply.body(answer))
    got = ask(tenant, top_k=5, metadata={"user_id": "u"})
    assert got.content == answer
    assert got.headers["request-id"] == got.headers["x-request-id"]
    sent = scripted.requests[0]
    assert (sent.path, sent.json()["top_k"]) == ("/v1/messages", 5)
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["endpoint"], receipt["upstream_model"]) == ("messages", "claude-sonnet-4-5")
    assert (receipt["prompt_tokens"], receipt["cached_tokens"], receipt["completion_tokens"]) == (11, 3, 5)


def test_what_the_router_refuses_has_the_requests_id(tenant: Tenant) -> None:
    assert error_of(tenant.http.get("/v1/messages"))["type"] == "invalid_request_error"


def test_the_key_may_come_in_anthropics_own_header(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json(message()))
    headers = {"x-api-key": tenant.secret, "anthropic-version": "2023-06-01", "anthropic-beta": "b1,b2"}
    got = httpx.post(
        f"{tenant.gateway.api_url}/messages",
        json={"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": HELLO},
        headers=headers,
        trust_env=False,
    )
    assert got.status_code == 200
    sent = {name.lower(): value for name, value in scripted.requests[0].headers}
    assert (sent["anthropic-version"], sent["anthropic-beta"]) == ("2023-06-01", "b1,b2")
    # The upstream gets its own key both ways, and no other.
    assert (sent["authorization"], sent["x-api-key"]) == ("Bearer sk-upstream-secret", "sk-upstream-secret")
    assert tenant.secret not in str(sent)


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": "tgk_nobody"}, {"x-api-key": ""}, {}, {"x-api-key": "tgk_nobody", "authorization": "Bearer OURS"}],
)
def test_a_key_that_is_none_is_refused_in_anthropics_words(tenant: Tenant, headers: dict[str, str]) -> None:
    headers = {name: value.replace("OURS", tenant.secret) for name, value in headers.items()}
    got = httpx.post(f"{tenant.gateway.api_url}/messages", json={}, headers=headers, trust_env=False)
    assert (got.status_code, error_of(got)["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_passes_as_it_is_and_its_usage_is_put_together(tenant: Tenant, scripted: Upstream, size: int) -> None:
    whole = b"".join(message_stream(["Grüße ", "👋"]))
    scripted.script(Reply.sse([whole[at : at + size] for at in range(0, len(whole), size)]))
    got = ask(tenant, stream=True)
    assert got.content == whole
    assert "stream_options" not in scripted.requests[0].json()
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["finish"], receipt["usage_source"]) == ("complete", "provider")
    assert (receipt["prompt_tokens"], receipt["cached_tokens"], receipt["completion_tokens"]) == (
        MESSAGE_USAGE["input_tokens"] + 3,
        3,
        MESSAGE_USAGE["output_tokens"],
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (401, "api_error"),
        (403, "api_error"),
        (500, "api_error"),
        (529, "api_error"),
    ],
)
def test_upstream_failures_are_told_in_anthropics_words(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp, status: int, kind: str
) -> None:
    gateway = make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_UPSTREAM_RETRIES": "0"}).start()
    tenant = sign_up(gateway)
    said = {"type": "error", "error": {"type": "some_error", "message": f"no: {upstream.url}"}}
    upstream.script(Reply.json(said, status=status))
    got = ask(tenant)
    assert got.status_code == (502 if status in (401, 403) or status >= 500 else status)
    assert error_of(got)["type"] == kind
    assert str(upstream.port) not in got.text
    assert only_receipt(tenant)["finish"] == "upstream_error"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_wrong_is_named(tenant: Tenant, members: dict[str, Any], said: str) -> None:
    got = ask(tenant, **members)
    assert (got.status_code, error_of(got)["type"]) == (400, "invalid_request_error")
    assert said in error_of(got)["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/messages", 405), ("POST", "/v1/messages/x", 404)])
def test_what_is_not_there_is_told_in_anthropics_words(tenant: Tenant, method: str, path: str, status: int) -> None:
    got = tenant.http.request(method, path)
    assert got.status_code == status
    error_of(got)


def test_plans_and_quotas_hold(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    shared_gateway.cli("plan", "add", "one-message", "--requests-per-day", "1", "--features", "logprobs")
    tenant = sign_up(shared_gateway, "--plan", "one-message")
    parts = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}]
    for members, what in (
        ({"stream": True}, "streaming"),
        ({"tools": [{"name": "t", "input_schema": {}}]}, "tools"),
        ({"messages": [{"role": "user", "content": parts}]}, "vision"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "files"),
    ):
        refused = ask(tenant, **members)
        assert (refused.status_code, error_of(refused)["type"]) == (403, "permission_error")
        assert what in error_of(refused)["message"]
    scripted.script(Reply.json(message()))
    assert ask(tenant).status_code == 200
    limited = ask(tenant)
    assert (limited.status_code, error_of(limited)["type"]) == (429, "rate_limit_error")
    assert int(limited.headers["retry-after"]) > 0


@pytest.mark.parametrize("ending", ["cut", "error"])
def test_a_stream_that_goes_wrong_ends_with_anthropics_error_event(
    tenant: Tenant, scripted: Upstream, ending: str
) -> None:
    last: Any = CLOSE
    if ending == "error":
        last = event("error", error={"type": "overloaded_error", "message": f"busy at {scripted.url}"})
    scripted.script(Reply.sse([*message_stream(["Once upon a time"])[:4], last]))
    got = ask(tenant, stream=True)
    _, mark, data = got.content.rpartition(b"event: error\ndata: ")
    assert mark
    said = json.loads(data)
    assert said["type"] == "error"
    expected = (
        ("overloaded_error", "busy at …")
        if ending == "error"
        else ("api_error", "The upstream broke off the connection.")
    )
    assert (said["error"]["type"], said["error"]["message"]) == expected
    receipt = receipt_of(tenant, got)["receipt"]
    assert receipt["finish"] == "upstream_cut"
    assert (receipt["prompt_tokens"], receipt["usage_source"]) == (11, "estimate")
    assert receipt["completion_tokens"] > 1


def test_counting_tokens_costs_none(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json({"input_tokens": 2095}))
    got = tenant.http.post("/v1/messages/count_tokens", json={"model": "claude-sonnet-4-5", "messages": HELLO})
    assert got.json() == {"input_tokens": 2095}
    assert scripted.requests[0].path == "/v1/messages/count_tokens"
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (0, 0)
    assert tenant.used()["day"] == {"requests": 1, "tokens": 0, "cost_nano_usd": 0}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tokenize", {"prompt": "Hello", "add_special_tokens": False}),
        ("POST", "/tokenize", {"messages": HELLO}),
        ("POST", "/detokenize", {"tokens": [1, 2, 3]}),
        ("GET", "/tokenizer_info?model=tokens", None),
    ],
)
def test_a_models_tokenizer_is_asked_beside_the_api_at_no_cost(
    tenant: Tenant, scripted: Upstream, method: str, path: str, body: Any
) -> None:
    tenant.gateway.cli("passport", "add", "tokens", "--api-model-id", "gpt-4o-mini", check=False)
    answer: dict[str, Any] = {"status": "ok"}  # what the upstream says to a GET
    if method == "POST":
        answer = {"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3]}
        scripted.script(Reply.json(answer))
    sent = None if body is None else {"model": "tokens", **body}
    got = tenant.http.request(method, path, json=sent)
    assert (got.status_code, got.json()) == (200, answer)
    asked = scripted.requests if method == "POST" else scripted.probes
    assert path.partition("?")[0] in [request.target for request in asked]
    if body is not None:
        assert scripted.requests[0].json() == {**body, "model": "gpt-4o-mini"}
    assert receipt_of(tenant, got)["receipt"]["model"] == "tokens"
    assert tenant.used()["day"] == {"requests": 1, "tokens": 0, "cost_nano_usd": 0}
    without = tenant.http.request(method, path.partition("?")[0], json=body)
    assert (without.status_code, without.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("endpoint", ["messages", "responses"])
def test_the_last_event_leaves_behind_its_receipt_though_the_stream_has_not_ended(
    tenant: Tenant, scripted: Upstream, endpoint: str
) -> None:
    *events, last = message_stream() if endpoint == "messages" else response_stream()
    more, end = Gate(), Gate()
    scripted.script(Reply.sse([*events, more, last, end]))
    body = {"model": "m", "max_tokens": 64, "messages": HELLO, "input": "Hello", "stream": True}
    with tenant.http.stream("POST", f"/v1/{endpoint}", json=body) as response:
        pieces, got = response.iter_raw(), b""
        more.wait_reached()
        while not got.endswith(events[-1]):
            got += next(pieces)
        more.open()
        while not got.endswith(last):
            got += next(pieces)
        # Here clients hang up: for them the answer is whole.
    receipt = only_receipt(tenant)
    end.open()
    assert (receipt["finish"], receipt["status"]) == ("complete", 200)
