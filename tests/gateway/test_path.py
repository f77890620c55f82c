"""The request path over real sockets, against a scripted upstream: what passes, what is charged, what is told."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import CLOSE, DONE, Gate, Reply, Upstream, completion, delta


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The OpenAI-shaped error of a refusal; fails if it has any other shape."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


def receipt_of(tenant: Tenant, response: httpx.Response) -> dict[str, Any]:
    receipt: dict[str, Any] = tenant.http.get(f"/v1/receipts/{response.headers['x-trustgate-receipt']}").json()
    return receipt


# what passes


def test_a_request_and_its_answer_pass_byte_for_byte(tenant: Tenant, scripted: Upstream) -> None:
    body = '{ "model":"gpt-4o", "messages":[{"role":"user","content":"\\u00e9 é 👋"}], "new_thing":{"a":[1.0e0,null]} }'
    answer = b'{ "id": "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "extra": 1.50 }'
    scripted.script(Reply.body(answer))
    response = tenant.http.post(
        "/v1/chat/completions", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert response.content == answer
    assert scripted.requests[0].body == body.encode()
    receipt = receipt_of(tenant, response)["receipt"]
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["usage_source"]) == (3, 4, "provider")


def test_only_what_may_travel_does(tenant: Tenant, scripted: Upstream) -> None:
    headers = {"x-upstream-note": "hi", "x-other": "no", "set-cookie": "a=b"}
    scripted.script(Reply.json(completion("Hi"), headers=headers))
    response = tenant.http.post(
        "/v1/chat/completions",
        json={"model": "gpt-4o", "messages": HELLO},
        headers={
            "cookie": "a=b",
            "x-secret": "1",
            "x-allowed": "2",
            "x-request-id": "my-id",
            "proxy-authorization": "x",
            "user-agent": "Mine/1",
        },
    )
    names = [name.lower() for name, _ in scripted.requests[0].headers]
    assert len(names) == len(set(names)), "each is listed once"
    sent = {name.lower(): value for name, value in scripted.requests[0].headers}
    assert sent["authorization"] == "Bearer sk-upstream-secret"
    assert sent["x-request-id"] == response.headers["x-request-id"] == "my-id"
    assert (sent["x-allowed"], sent["user-agent"]) == ("2", "Mine/1")
    assert sent["accept-encoding"] == "identity"
    assert not {"cookie", "x-secret", "proxy-authorization"} & sent.keys()
    assert tenant.secret not in str(sent)
    assert response.headers["x-upstream-note"] == "hi"
    assert not {"x-other", "set-cookie", "server"} & response.headers.keys()


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "ü"])
def test_a_request_id_that_is_not_sane_is_replaced(tenant: Tenant, bad: str) -> None:
    response = tenant.http.post(
        "/v1/chat/completions",
        json={"model": "gpt-4o", "messages": HELLO},
        headers=[(b"x-request-id", bad.encode())],
    )
    assert response.headers["x-request-id"].startswith("req_")


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 22,
    "total_tokens": 33,
    "prompt_tokens_details": {"cached_tokens": 5},
}


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_passes_frame_by_frame_without_the_gateways_own_chunk(
    tenant: Tenant, scripted: Upstream, asked: bool
) -> None:
    usage = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    stream = b": comment\r\n\r\n" + b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f\x91\x8b"}}]}\n\n'
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    # In pieces that respect neither frames nor characters.
    whole = stream + finish + usage + DONE
    scripted.script(Reply.sse([whole[at : at + 7] for at in range(0, len(whole), 7)]))
    options = {"stream_options": {"include_usage": True, "extra": 1}} if asked else {}
    with tenant.stream(**options) as response:
        received = response.read()
    assert received == stream + finish + (usage if asked else b"") + DONE
    assert scripted.requests[0].json()["stream_options"] == {"include_usage": True, **({"extra": 1} if asked else {})}
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    receipt = receipt_of(tenant, response)["receipt"]
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["cached_tokens"]) == (11, 22, 5)


def test_frames_leave_as_they_arrive(tenant: Tenant, scripted: Upstream) -> None:
    gate = Gate()
    scripted.script(Reply.sse([delta("first"), gate, delta(None, finish_reason="stop"), DONE]))
    with tenant.stream() as response:
        lines = response.iter_lines()
        assert "first" in next(lines)
        gate.wait_reached()
        gate.open()
        assert any("[DONE]" in line for line in lines)


@pytest.mark.parametrize(
    "ending", [[delta(None, finish_reason="stop")], [delta(None, finish_reason="length"), b"data: [DONE]"]]
)
def test_a_stream_that_ends_a_little_wrong_is_complete_all_the_same(
    tenant: Tenant, scripted: Upstream, ending: list[Any]
) -> None:
    scripted.script(Reply.sse([delta("a"), *ending]))
    with tenant.stream() as response:
        assert b'"a"' in response.read()
    assert receipt_of(tenant, response)["receipt"]["finish"] == "complete"


def test_a_model_may_go_by_another_name_upstream(tenant: Tenant, scripted: Upstream) -> None:
    slug = f"{tenant.name}/fast"
    tenant.gateway.cli(
        *("passport", "add", slug, "--api-model-id", "llama-3", "--base-url", scripted.api_url),
        *("--parameter", "temperature=0.5", "--parameter", "seed=7", "--input-price", "1", "--output-price", "2.5"),
    )
    response = tenant.chat(model=slug, temperature=0.9)
    assert response.status_code == 200, response.text
    sent = scripted.requests[0].json()
    assert (sent["model"], sent["temperature"], sent["seed"]) == ("llama-3", 0.9, 7)
    assert scripted.requests[0].header("authorization") == "Bearer sk-upstream-secret"
    receipt = receipt_of(tenant, response)["receipt"]
    # 1 USD a million prompt tokens, 2.50 a million completion tokens: 1,000 and 2,500 nano-USD each.
    assert receipt["cost_nano_usd"] == 1_000 * receipt["prompt_tokens"] + 2_500 * receipt["completion_tokens"] > 0
    assert receipt["model"] == slug


def test_a_plans_cap_reaches_an_upstream_that_was_asked_for_no_bound(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "capped", "--max-tokens", "50")
    tenant = sign_up(shared_gateway, "--plan", "capped")
    tenant.chat()
    tenant.chat(max_tokens=20)
    assert [request.json().get("max_tokens") for request in scripted.requests] == [50, 20]
    refused = tenant.chat(max_tokens=51)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "max_tokens_exceeded")


# what is refused


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "invalid_api_key"),
        ({"authorization": "Basic abc"}, 401, "invalid_api_key"),
        ({"authorization": "Bearer"}, 401, "invalid_api_key"),
        ({"authorization": "Bearer tgk_nobody"}, 401, "invalid_api_key"),
        ({"authorization": b"Bearer \xff\xfe"}, 401, "invalid_api_key"),
        ({"content-type": "text/plain"}, 400, "unsupported_content_type"),
        ({"content-encoding": "compress"}, 415, "unsupported_content_encoding"),
    ],
)
def test_a_head_that_is_wrong(tenant: Tenant, headers: Any, status: int, code: str) -> None:
    content = json.dumps({"model": "gpt-4o", "messages": HELLO})
    response = httpx.post(
        f"{tenant.gateway.api_url}/chat/completions",
        content=content,
        headers={"content-type": "application/json", **headers},
        trust_env=False,
    )
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert "x-trustgate-receipt" not in response.headers
    assert response.headers["x-request-id"]


def test_credentials_given_twice_are_refused(tenant: Tenant) -> None:
    response = tenant.http.post(
        "/v1/chat/completions",
        json={"model": "gpt-4o", "messages": HELLO},
        headers=[("authorization", f"Bearer {tenant.secret}"), ("authorization", "Bearer other")],
    )
    assert (response.status_code, error_of(response)["code"]) == (400, "duplicate_header")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[1]", "invalid_request"),
        (b'{"model":"gpt-4o"}', "missing_required_parameter"),
        (b'{"model":"gpt-4o","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json"),
        (b'{"model":"gpt-4o","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "invalid_json"),
        (b'{"model":"gpt-4o","messages":[{"role":"user"}],"temperature":NaN}', "invalid_json"),
    ],
)
def test_a_body_that_is_wrong_costs_nothing(tenant: Tenant, scripted: Upstream, body: bytes, code: str) -> None:
    response = tenant.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (400, code)
    assert scripted.requests == []
    assert tenant.used()["day"] == {"requests": 0, "tokens": 0, "cost_nano_usd": 0}
    assert tenant.receipts() == []


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large(tenant: Tenant, declared: bool) -> None:
    body = b'{"model":"gpt-4o","messages":"' + b"x" * 200_000 + b'"}'
    content: Any = body if declared else (body[at : at + 10_000] for at in range(0, len(body), 10_000))
    headers = {"content-type": "application/json"}
    try:
        response = tenant.http.post("/v1/chat/completions", content=content, headers=headers)
    except httpx.WriteError:
        pytest.fail("the gateway broke off instead of answering")
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


def test_a_body_that_does_not_come(tenant: Tenant) -> None:
    host, port = tenant.gateway.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer " + tenant.secret.encode() + b"\r\ncontent-length: 100\r\n\r\n{"
        )
        answer = b""
        while b"}}" not in answer and (more := connection.recv(65536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions//x", 404, "unknown_url"),
        ("POST", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/receipts/rcpt_0", 404, "receipt_not_found"),
        ("GET", "/v1/receipts/%00%ff", 404, "receipt_not_found"),
        ("GET", "/v1/models/trustgate/nothing%2f..%2f", 200, None),
        ("GET", "/v1/models?available=maybe", 400, "invalid_request"),
        ("GET", "/v1/usage?since=yesterday", 400, "invalid_request"),
        ("GET", "/v1/usage?by=colour", 400, "invalid_request"),
    ],
)
def test_paths_and_methods(tenant: Tenant, method: str, path: str, status: int, code: str | None) -> None:
    response = tenant.http.request(method, path)
    assert response.status_code == status, response.text
    if code is not None:
        assert error_of(response)["code"] == code


def test_a_slash_behind_models_is_still_the_list(tenant: Tenant) -> None:
    listed = tenant.http.get("/v1/models/?available=true").json()
    assert (listed["object"], listed) == ("list", tenant.http.get("/v1/models?available=true").json())


@pytest.mark.parametrize("path", ["/v1/models", "/v1/usage", "/v1/receipts/rcpt_1", "/v1/models/gpt-4o"])
def test_reading_needs_a_key_too(shared_gateway: Gateway, path: str) -> None:
    response = httpx.get(shared_gateway.base_url + path, trust_env=False)
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")


def test_one_tenants_receipt_is_no_other_tenants(tenant: Tenant, sign_up: SignUp) -> None:
    stranger = sign_up(tenant.gateway)
    response = stranger.http.get(f"/v1/receipts/{tenant.chat().headers['x-trustgate-receipt']}")
    assert (response.status_code, error_of(response)["code"]) == (404, "receipt_not_found")


def test_a_refusal_by_quota_has_a_receipt_too(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    shared_gateway.cli("plan", "add", "one-a-day", "--requests-per-day", "1", "--tokens-per-day", "100000")
    tenant = sign_up(shared_gateway, "--plan", "one-a-day")
    answered = tenant.chat(max_tokens=10)
    assert answered.headers["x-ratelimit-limit-requests"] == "1"
    assert answered.headers["x-ratelimit-remaining-requests"] == "0"
    assert answered.headers["x-ratelimit-limit-tokens"] == "100000"
    refused = tenant.chat(max_tokens=10)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    assert len(scripted.requests) == 1
    shown = receipt_of(tenant, refused)
    assert (shown["receipt"]["finish"], shown["receipt"]["status"]) == ("refused", 429)
    assert opens(shown, "response", refused.content)
    # Hammering writes no more than one a second.
    for _ in range(20):
        assert tenant.chat().status_code == 429
    assert len(tenant.receipts()) < 10


# what goes wrong upstream


@pytest.mark.parametrize("failure", [Reply.reset(), Reply.close(), Reply.error(500), Reply.html(502)])
@pytest.mark.parametrize("stream", [True, False])
def test_what_fails_before_the_first_byte_is_tried_again(
    tenant: Tenant, scripted: Upstream, failure: Reply, stream: bool
) -> None:
    scripted.script(failure, failure, Reply.chat_stream() if stream else Reply.chat("at last"))
    response = tenant.chat(stream=stream)
    assert response.status_code == 200
    assert len(scripted.requests) == 3
    assert tenant.used()["day"]["requests"] == 1


def test_what_keeps_failing_is_told_and_not_charged(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(*[Reply.close()] * 3)
    response = tenant.chat()
    error = error_of(response)
    assert (response.status_code, error["type"]) == (502, "upstream_error")
    assert str(scripted.port) not in response.text
    assert tenant.used()["day"] == {"requests": 0, "tokens": 0, "cost_nano_usd": 0}
    shown = receipt_of(tenant, response)
    assert (shown["receipt"]["finish"], shown["receipt"]["status"], shown["receipt"]["cost_nano_usd"]) == (
        "upstream_error",
        502,
        0,
    )
    assert opens(shown, "response", response.content)


def test_a_stream_that_is_cut_raises_in_the_sdk_and_is_accounted(
    tenant: Tenant, scripted: Upstream, make_client: ClientFactory
) -> None:
    scripted.script(Reply.sse([delta("Once upon a time"), delta(" there was"), CLOSE]))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    texts: list[str] = []
    with pytest.raises(openai.APIError, match="broke off"):  # noqa: PT012 - what came before the cut counts too
        create: Any = client.chat.completions.create
        stream = create(model="gpt-4o", messages=HELLO, stream=True)
        texts.extend(chunk.choices[0].delta.content for chunk in stream)
    assert "".join(texts) == "Once upon a time there was"
    [receipt] = tenant.receipts()
    assert (receipt["finish"], receipt["usage_source"]) == ("upstream_cut", "estimate")
    assert receipt["completion_tokens"] > 0
    assert tenant.used()["day"]["requests"] == 1


def test_an_error_inside_a_stream_is_cleaned_and_passed_on(tenant: Tenant, scripted: Upstream) -> None:
    error = {
        "error": {"message": f"overloaded at {scripted.url}/x with sk-upstream-secret", "type": "overloaded", "code": 5}
    }
    scripted.script(Reply.sse([delta("a"), error]))
    with tenant.stream() as response:
        received = response.read()
    last = json.loads(received.rpartition(b"data: ")[2])["error"]
    assert last == {"message": "overloaded at … with …", "type": "overloaded", "param": None, "code": "5"}
    assert receipt_of(tenant, response)["receipt"]["finish"] == "upstream_cut"


def test_an_error_as_a_streams_first_frame_is_an_error_response(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(*[Reply.sse([{"error": {"message": "no capacity"}}])] * 3)
    response = tenant.chat(stream=True)
    assert (response.status_code, error_of(response)["message"]) == (502, "no capacity")
    assert tenant.used()["day"]["requests"] == 0


def test_an_upstream_that_reports_no_usage_is_estimated_and_marked(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.chat("five words are in here", without_usage=True))
    receipt = receipt_of(tenant, tenant.chat())["receipt"]
    assert receipt["usage_source"] == "estimate"
    assert 3 <= receipt["completion_tokens"] <= 9


# clients that leave, keys that die


@pytest.mark.parametrize("when", ["before the first byte", "in mid-stream"])
def test_a_client_that_hangs_up_is_accounted_and_its_upstream_aborted(
    tenant: Tenant, scripted: Upstream, when: str
) -> None:
    gate = Gate()
    if when == "in mid-stream":
        scripted.script(Reply.sse([delta("one two three four"), gate, DONE]))
    else:
        scripted.script(Reply.chat_stream().held(gate))
    with (
        suppress(httpx.ReadTimeout),
        tenant.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": HELLO, "stream": True},
            timeout=httpx.Timeout(30, read=0.3),
        ) as response,
    ):
        next(response.iter_lines())
    scripted.requests[0].wait_aborted()
    receipt = only_receipt(tenant)
    assert (receipt["finish"], receipt["usage_source"]) == ("client_gone", "estimate")
    assert receipt["prompt_tokens"] > 0
    assert (receipt["completion_tokens"] > 0) is (when == "in mid-stream")
    assert tenant.used()["day"]["requests"] == 1
    gate.open()


def test_a_plan_can_have_the_upstream_read_to_its_end(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "draining", "--on-disconnect", "drain")
    tenant = sign_up(shared_gateway, "--plan", "draining")
    gate = Gate()
    scripted.script(Reply.chat_stream(["one", gate, "two"], usage=USAGE))
    with tenant.stream() as response:
        next(response.iter_lines())
    gate.wait_reached()
    let_it_notice(shared_gateway)
    gate.open()
    scripted.requests[0].wait_finished()
    receipt = only_receipt(tenant)
    assert (receipt["finish"], receipt["usage_source"]) == ("client_gone", "provider")
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (11, 22)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (("key", "revoke"), "api_key_revoked"),
        (("tenant", "suspend"), "account_inactive"),
        (("tenant", "remove", "--yes"), "api_key_revoked"),
    ],
)
def test_a_dead_keys_streams_are_cut_and_its_next_request_fails(
    tenant: Tenant, scripted: Upstream, how: tuple[str, ...], code: str
) -> None:
    gate = Gate()
    scripted.script(Reply.sse([delta("a"), gate, DONE]))
    with tenant.stream() as response:
        lines = response.iter_lines()
        assert next(lines)
        tenant.gateway.cli(*how, tenant.key_id if how[0] == "key" else tenant.name)
        rest = list(lines)
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == code
    scripted.requests[0].wait_aborted()
    refused = tenant.chat()
    assert refused.status_code == 401
    gate.open()


def test_changes_hold_from_the_next_request(tenant: Tenant) -> None:
    for _ in range(3):  # so that its connection knows the head, and the head its key
        assert tenant.chat().status_code == 200
    tenant.gateway.cli("tenant", "set", tenant.name, "--plan", "free")
    assert tenant.chat(stream=True).status_code == 403
    tenant.gateway.cli("tenant", "suspend", tenant.name)
    assert error_of(tenant.chat())["code"] == "account_inactive"
    tenant.gateway.cli("tenant", "resume", tenant.name)
    assert tenant.chat().status_code == 200


def test_a_rotated_key_lives_through_its_grace(tenant: Tenant) -> None:
    new = tenant.gateway.cli_json("key", "rotate", tenant.key_id, "--grace", "1h")["key"]["secret"]
    assert tenant.chat().status_code == 200
    newest = tenant.gateway.cli_json("key", "rotate", tenant.key_id)["key"]["secret"]
    assert tenant.chat().status_code == 401
    for secret in (new, newest):
        with tenant.client(secret) as client:
            assert client.get("/v1/models").status_code == 200


# what is promised together


def test_of_a_thousand_at_once_exactly_the_quota_passes(
    make_gateway: GatewayFactory, scripted: Upstream, sign_up: SignUp
) -> None:
    # Of its own: fifty clients in one process may pause longer between head and body than the shared one waits.
    gateway = make_gateway(upstream=scripted.api_url).start()
    gateway.cli("plan", "add", "hundred", "--requests-per-day", "100")
    tenant = sign_up(gateway, "--plan", "hundred")
    statuses: list[int] = []
    barrier = threading.Barrier(50)

    def caller() -> None:
        with tenant.client(tenant.secret) as client:
            barrier.wait()
            for _ in range(20):
                response = client.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
                statuses.append(response.status_code)

    threads = [threading.Thread(target=caller) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(statuses)) == [200, 429]
    assert (statuses.count(200), statuses.count(429)) == (100, 900)
    assert len(scripted.requests) == 100


def test_receipts_form_a_chain_and_open_to_what_was_said(tenant: Tenant) -> None:
    sent = [tenant.chat(seed=number) for number in range(3)]
    shown = [receipt_of(tenant, response) for response in sent]
    assert [detail["receipt"]["tseq"] for detail in shown] == [1, 2, 3]
    assert shown[0]["receipt"]["tprev"] == "0" * 64
    for before, after in itertools.pairwise(shown):
        assert after["receipt"]["tprev"] == before["leaf_hash"] == leaf_hash(before["receipt"])
    for detail, response in zip(shown, sent, strict=True):
        assert opens(detail, "request", response.request.content)
        assert opens(detail, "response", response.content)
        assert not opens(detail, "response", response.content + b" ")


def test_prompts_and_secrets_are_nowhere_on_disk(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(shared_gateway)
    scripted.script(Reply.chat("PURPLE-ELEPHANT-ANSWER"))
    tenant.chat(messages=[{"role": "user", "content": "PURPLE-ELEPHANT-QUESTION"}])
    tenant.receipts()
    kept = b"".join(path.read_bytes() for path in shared_gateway.home.rglob("*.journal"))
    for copy in ("trustgate.duckdb", "trustgate.duckdb.wal"):
        # In a child process: closing a descriptor of the database would drop the server's lock on it.
        kept += read_elsewhere(shared_gateway.home / copy)
    log = shared_gateway.logs()
    for secret in ("PURPLE-ELEPHANT", tenant.secret, tenant.secret[8:-4], "sk-upstream-secret"):
        assert secret.encode() not in kept
        assert secret not in log


# helpers


def opens(shown: dict[str, Any], label: str, content: bytes) -> bool:
    """Whether a receipt's commitment opens to the content: the published rule, written out again."""
    salt = hmac.digest(bytes.fromhex(shown["secret"]), label.encode(), "sha256")
    expected = hmac.digest(salt, hashlib.sha256(content).digest(), "sha256").hex()
    return bool(shown["receipt"][f"{label}_commitment"] == expected)


def leaf_hash(receipt: dict[str, Any]) -> str:
    canonical = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.sha256(b"\x00" + canonical).hexdigest()


def only_receipt(tenant: Tenant) -> dict[str, Any]:
    wait_until(lambda: bool(tenant.receipts()), "the receipt")
    [receipt] = tenant.receipts()
    return receipt


def let_it_notice(gateway: Gateway) -> None:
    """Give the gateway's event loop some full turns: what reached its sockets before is handled after this."""
    for _ in range(5):
        assert httpx.get(f"{gateway.base_url}/health", trust_env=False).json() == {"status": "ok"}


def read_elsewhere(path: Path) -> bytes:
    """The bytes of a file, read by another process."""
    return subprocess.run(["cat", path], capture_output=True, check=True).stdout
