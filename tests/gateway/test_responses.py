"""OpenAI's Responses API through the gateway: what passes, what is charged, and whose an id is."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.gateway.conftest import SignUp, Tenant
from tests.gateway.test_path import error_of, only_receipt, receipt_of
from tests.support.answers import RESPONSE_USAGE, event, response, response_stream
from tests.support.gateway import Gateway
from tests.support.upstream import CLOSE, Gate, Reply, Upstream


def ask(tenant: Tenant, **members: Any) -> httpx.Response:
    return tenant.http.post("/v1/responses", json={"model": "gpt-4o", "input": "Hello, who are you?", **members})


def tokens(receipt: dict[str, Any]) -> tuple[int, int, int, int]:
    return (
        receipt["prompt_tokens"],
        receipt["completion_tokens"],
        receipt["cached_tokens"],
        receipt["reasoning_tokens"],
    )


def test_a_response_passes_byte_for_byte_and_is_metered(tenant: Tenant, scripted: Upstream) -> None:
    body = '{"model":"gpt-4o", "input":[{"role":"user","content":"hi \\ud83d\\udc4b"}],"unknown":{"a":1.0e0}}'
    answer = json.dumps(response(object_id="resp_bytes"), indent=1).encode()
    scripted.script(Reply.body(answer))
    got = tenant.http.post("/v1/responses", content=body.encode(), headers={"content-type": "application/json"})
    assert got.content == answer
    assert scripted.requests[0].path == "/v1/responses"
    assert scripted.requests[0].body == body.encode()
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["endpoint"], receipt["upstream_model"], receipt["usage_source"]) == (
        "responses",
        "gpt-4o",
        "provider",
    )
    assert tokens(receipt) == (9, 6, 4, 2)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_of_events_passes_as_it_is(tenant: Tenant, scripted: Upstream, size: int) -> None:
    whole = b"".join(response_stream(["Grüße ", "👋"], object_id=f"resp_stream_{size}"))
    scripted.script(Reply.sse([whole[at : at + size] for at in range(0, len(whole), size)]))
    got = ask(tenant, stream=True)
    assert got.content == whole
    assert got.headers["x-accel-buffering"] == "no"
    assert "stream_options" not in scripted.requests[0].json()
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["finish"], receipt["stream"], *tokens(receipt)) == ("complete", True, 9, 6, 4, 2)


def test_the_sdks_helpers_work(tenant: Tenant, scripted: Upstream, make_client: ClientFactory) -> None:
    scripted.script(Reply.sse(response_stream(object_id="resp_sdk")), Reply.json(response(object_id="resp_sdk")))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    with client.responses.stream(model="gpt-4o", input="Hello") as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_text == "Hello!"
    assert final.usage is not None
    assert final.usage.total_tokens == RESPONSE_USAGE["total_tokens"]
    assert client.responses.retrieve("resp_sdk").output_text == "Hello!"


def test_a_stored_prompt_gets_the_model_that_its_operator_names(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    prompt: dict[str, Any] = {"prompt": {"id": "pmpt_1", "variables": {"city": "Bern"}}}
    shared_gateway.cli("plan", "add", "prompts", "--parameters", "prompt")
    tenant = sign_up(shared_gateway, "--plan", "prompts")
    unnamed: list[dict[str, Any]] = [prompt, {"input": "Hello"}, {"prompt": {}}]
    for members in unnamed:
        refused = tenant.http.post("/v1/responses", json=members)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "missing_required_parameter"), refused.text
        assert error_of(refused)["param"] == "model"
    assert "passport alias prompt:pmpt_1 SLUG" in error_of(tenant.http.post("/v1/responses", json=prompt))["message"]
    assert scripted.requests == []
    shared_gateway.cli("passport", "add", "prompted", "--api-model-id", "gpt-4o-mini")
    shared_gateway.cli("passport", "alias", "prompt:pmpt_1", "prompted")
    scripted.script(Reply.json(response()))
    receipt = receipt_of(tenant, tenant.http.post("/v1/responses", json=prompt))["receipt"]
    assert scripted.requests[0].json() == {**prompt, "model": "gpt-4o-mini"}
    assert receipt["model"] == "prompt:pmpt_1"
    # A plan that does not include that model does not get it by the prompt either.
    shared_gateway.cli("plan", "add", "prompts-4o", "--parameters", "prompt", "--models", "gpt-4o")
    narrow = sign_up(shared_gateway, "--plan", "prompts-4o")
    refused = narrow.http.post("/v1/responses", json=prompt)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    # Its tenant's profile may name another.
    shared_gateway.cli("profile", "set", "--tenant", narrow.name, "--name", "prompt:pmpt_1=gpt-4o")
    scripted.script(Reply.json(response()))
    assert narrow.http.post("/v1/responses", json=prompt).status_code == 200
    assert scripted.requests[-1].json()["model"] == "gpt-4o"
    assert "prompt:pmpt_1" not in narrow.http.get("/v1/models").text


def test_a_plans_cap_goes_by_its_own_name(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    shared_gateway.cli("plan", "add", "short-answers", "--max-tokens", "50")
    tenant = sign_up(shared_gateway, "--plan", "short-answers")
    scripted.script(Reply.json(response()), Reply.json(response()))
    ask(tenant)
    ask(tenant, max_output_tokens=20)
    assert [request.json()["max_output_tokens"] for request in scripted.requests] == [50, 20]
    assert error_of(ask(tenant, max_output_tokens=51))["code"] == "max_tokens_exceeded"


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"stream": True}, "streaming"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}, "structured outputs"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, "vision"),
        (
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_file", "file_data": "x"}]}]},
            "files",
        ),
    ],
)
def test_plans_gate_what_a_response_asks_for(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp, members: dict[str, Any], what: str
) -> None:
    shared_gateway.cli("plan", "add", "plain", "--features", "logprobs", check=False)
    tenant = sign_up(shared_gateway, "--plan", "plain")
    refused = ask(tenant, **members)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "feature_not_allowed")
    assert what in error_of(refused)["message"]
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"input": 5}, "input"),
        ({"max_output_tokens": "9"}, "max_output_tokens"),
        ({"conversation": 5}, "conversation"),
    ],
)
def test_what_is_wrong_is_named(tenant: Tenant, members: dict[str, Any], param: str) -> None:
    refused = ask(tenant, **members)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)


# ids


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/{}"),
        ("DELETE", "/v1/responses/{}"),
        ("POST", "/v1/responses/{}/cancel"),
        ("GET", "/v1/responses/{}/input_items"),
    ],
)
def test_an_id_leads_its_own_tenant_to_its_maker_and_nobody_else(
    tenant: Tenant, scripted: Upstream, sign_up: SignUp, method: str, path: str
) -> None:
    object_id = f"resp_{tenant.name}"
    slug = f"{tenant.name}/named"
    tenant.gateway.cli("passport", "add", slug, "--api-model-id", "other", "--base-url", f"{scripted.url}/elsewhere")
    scripted.script(Reply.json(response(object_id=object_id)))
    ask(tenant, model=slug)
    used = tenant.used()["day"]
    stranger = sign_up(tenant.gateway)
    for unknown in (
        stranger.http.request(method, path.format(object_id)),
        tenant.http.request(method, path.format("resp_x")),
    ):
        assert (unknown.status_code, error_of(unknown)["code"]) == (404, "response_not_found")
    assert len(scripted.requests) == 1
    answer = {"id": object_id, "object": "response", "status": "completed", "deleted": True, "usage": RESPONSE_USAGE}
    scripted.script(Reply.json(answer))
    got = tenant.http.request(method, path.format(object_id), params={"limit": "5"} if method == "GET" else None)
    assert got.json() == answer
    sent = scripted.requests[-1]
    assert (sent.method, sent.target) == (
        method,
        path.format(object_id).replace("/v1", "/elsewhere") + ("?limit=5" if method == "GET" else ""),
    )
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["endpoint"], receipt["cost_nano_usd"], *tokens(receipt)) == ("responses", 0, 0, 0, 0, 0)
    # Looking costs a request, and no tokens.
    assert tenant.used()["day"] == {**used, "requests": used["requests"] + 1}
    if method == "DELETE":
        assert tenant.http.get(path.format(object_id)).status_code == 404


def test_ids_outlive_a_restart_and_kill_9(make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    tenant = sign_up(gateway)
    upstream.script(Reply.json(response(object_id="resp_kept")))
    ask(tenant)
    gateway.kill()
    gateway.start()
    upstream.script(Reply.json(response(object_id="resp_kept")))
    assert tenant.http.get("/v1/responses/resp_kept").status_code == 200


def test_a_response_builds_on_its_own_tenants_only(tenant: Tenant, scripted: Upstream, sign_up: SignUp) -> None:
    object_id = f"resp_{tenant.name}"
    scripted.script(*[Reply.json(response(object_id=object_id))] * 2)
    ask(tenant)
    assert ask(tenant, previous_response_id=object_id).status_code == 200
    stranger = sign_up(tenant.gateway)
    refused = ask(stranger, previous_response_id=object_id)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "response_not_found")
    # A model that another server has cannot go on from there.
    slug = f"{tenant.name}/elsewhere"
    tenant.gateway.cli("passport", "add", slug, "--base-url", f"{scripted.url}/elsewhere")
    elsewhere = ask(tenant, previous_response_id=object_id, model=slug)
    assert (elsewhere.status_code, error_of(elsewhere)["param"]) == (400, "previous_response_id")


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"gpt-4o","input":[{"role":"user","content":[{"type":"input_file","file_id":"file-strange"}]}]}',
        '{"model":"gpt-4o","input":[{"role":"user","content":[{"type":"input_file","file\\u005fid":"file-strange"}]}]}',
        '{"model":"gpt-4o","input":"x","tools":[{"container":{"file_ids":["file-strange"]}}]}',
    ],
)
def test_files_of_others_cannot_be_named(tenant: Tenant, scripted: Upstream, body: str) -> None:
    refused = tenant.http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, error_of(refused)["code"]) == (404, "file_not_found")
    assert scripted.requests == []


@pytest.mark.parametrize("begun_usage", [None, {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}])
def test_work_in_the_background_is_charged_when_its_end_is_seen(
    tenant: Tenant, scripted: Upstream, begun_usage: dict[str, int] | None
) -> None:
    object_id = f"resp_{tenant.name}"
    begun = response(object_id=object_id, status="queued")
    scripted.script(
        Reply.json(begun | {"usage": begun_usage}),
        Reply.json(response(object_id=object_id, status="in_progress")),
        *[Reply.json(response(object_id=object_id))] * 2,
    )
    first = receipt_of(tenant, ask(tenant, background=True))["receipt"]
    looks = [receipt_of(tenant, tenant.http.get(f"/v1/responses/{object_id}"))["receipt"] for _ in range(3)]
    assert [each["prompt_tokens"] + each["completion_tokens"] for each in (first, looks[0], looks[2])] == [0, 0, 0]
    charged = looks[1]["prompt_tokens"], looks[1]["completion_tokens"]
    assert charged == (RESPONSE_USAGE["input_tokens"], RESPONSE_USAGE["output_tokens"])


def test_looking_at_an_answer_is_no_call(tenant: Tenant, scripted: Upstream) -> None:
    """What a call costs is charged for what was asked, not for each look at what came of it."""
    object_id, slug = f"resp_{tenant.name}", f"called-{tenant.name}"
    tenant.gateway.cli("passport", "add", slug, "--call-price", "0.002", "--output-price", "1")
    scripted.script(
        Reply.json(response(object_id=object_id, status="queued")), *[Reply.json(response(object_id=object_id))] * 2
    )
    asked = tenant.http.post("/v1/responses", json={"model": slug, "input": "x", "background": True})
    first = receipt_of(tenant, asked)["receipt"]
    looks = [receipt_of(tenant, tenant.http.get(f"/v1/responses/{object_id}"))["receipt"] for _ in range(2)]
    written = looks[0]["completion_tokens"] * 1_000
    assert written > 0
    assert [each["cost_nano_usd"] for each in (first, *looks)] == [0, 2_000_000 + written, 0]
    month = tenant.gateway.home.parent / f"{tenant.name}.json"
    tenant.gateway.cli("statement", tenant.name, "--month", "this", "--format", "json", "--output", str(month))
    assert tenant.gateway.cli("statement", "verify", str(month)).returncode == 0
    assert looks[0]["price_hash"] in json.loads(month.read_text())["prices"]


# streams that go wrong


def test_a_stream_that_is_cut_raises_in_the_sdk(tenant: Tenant, scripted: Upstream, make_client: ClientFactory) -> None:
    scripted.script(Reply.sse([*response_stream(["Once upon a time"], object_id="resp_cut")[:5], CLOSE]))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    seen: list[str] = []
    with pytest.raises(openai.APIError, match="broke off"):  # noqa: PT012 - what came before the cut counts too
        stream: Any = client.responses.create(model="gpt-4o", input="Hello", stream=True)
        seen.extend(one.type for one in stream)
    assert seen[-1] == "response.output_text.delta"
    receipt = only_receipt(tenant)
    assert (receipt["finish"], receipt["usage_source"]) == ("upstream_cut", "estimate")
    assert receipt["completion_tokens"] > 0


def test_the_error_event_counts_on_from_the_last_event(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(
        Reply.sse([*response_stream(object_id="resp_e")[:5], event("error", code="x", message=f"at {scripted.url}")])
    )
    got = ask(tenant, stream=True)
    head, _, last = got.content.rpartition(b"event: error\ndata: ")
    said = json.loads(last)
    assert head.endswith(b"\n\n")
    assert (said["type"], said["sequence_number"], said["message"], said["code"]) == ("error", 5, "at …", "x")
    assert said["error"]["message"] == "at …"


def test_a_response_that_fails_says_so_in_its_own_way(tenant: Tenant, scripted: Upstream) -> None:
    failed = {
        **response(object_id="resp_failed", status="failed"),
        "error": {"code": "server_error", "message": f"no luck at {scripted.url}"},
    }
    scripted.script(
        Reply.sse([*response_stream(object_id="resp_failed")[:5], event("response.failed", response=failed)])
    )
    got = ask(tenant, stream=True)
    last = json.loads(got.content.rpartition(b"data: ")[2])
    assert (last["type"], last["response"]["error"]) == (
        "response.failed",
        {"code": "server_error", "message": "no luck at …"},
    )
    assert receipt_of(tenant, got)["receipt"]["finish"] == "upstream_cut"


def test_a_client_that_hangs_up_can_still_name_its_response(tenant: Tenant, scripted: Upstream) -> None:
    gate = Gate()
    object_id = f"resp_{tenant.name}"
    scripted.script(Reply.sse([*response_stream(object_id=object_id)[:5], gate]))
    with tenant.http.stream("POST", "/v1/responses", json={"model": "gpt-4o", "input": "x", "stream": True}) as got:
        lines = got.iter_lines()
        while "delta" not in next(lines):
            pass
    scripted.requests[0].wait_aborted()
    gate.open()
    assert only_receipt(tenant)["finish"] == "client_gone"
    scripted.script(Reply.json(response(object_id=object_id, status="cancelled")))
    assert tenant.http.get(f"/v1/responses/{object_id}").json()["status"] == "cancelled"
