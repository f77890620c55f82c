"""Ways round: another tenant's objects, and models and parameters that are not allowed, by an unusual spelling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_batches import file_object, lines, upload
from tests.gateway.test_path import error_of
from tests.gateway.test_resources import FILE, keeping, make
from tests.support.answers import response
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

__all__ = ["keeping"]


@pytest.fixture(scope="module")
def pair(shared_gateway: Gateway) -> Iterator[tuple[Tenant, Tenant]]:
    """Two tenants."""
    tenants = Tenant(shared_gateway), Tenant(shared_gateway)
    yield tenants
    for each in tenants:
        each.http.close()


@pytest.mark.parametrize("field", ["video[id]", "characters[0][id]", "characters[][id]", "input_reference[file_id]"])
def test_a_form_names_no_object_of_an_upstream(pair: tuple[Tenant, Tenant], scripted: Upstream, field: str) -> None:
    tenant, stranger = pair
    theirs = make(tenant, "video")
    asked = len(scripted.requests)
    refused = stranger.http.post("/v1/videos/edits", data={"prompt": "x", field: theirs}, files={"file": FILE})
    assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
    assert len(scripted.requests) == asked


def test_a_voice_is_its_tenants_where_it_speaks(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, stranger = pair
    body = {"model": "tts", "input": "Hi", "voice": {"id": make(tenant, "voice")}}
    asked = len(scripted.requests)
    refused = stranger.http.post("/v1/audio/speech", json=body)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "voice_not_found")
    assert len(scripted.requests) == asked
    scripted.script(Reply.body(b"\xff\xfb\x90\x00" * 50, content_type="audio/mpeg"))
    assert tenant.http.post("/v1/audio/speech", json=body).status_code == 200


@pytest.mark.parametrize("item", [{"type": "item_reference"}, {"type": "reasoning"}, {"type": "mcp_approval_response"}])
def test_a_conversation_takes_in_no_strangers_item(
    pair: tuple[Tenant, Tenant], scripted: Upstream, item: dict[str, Any]
) -> None:
    tenant, stranger = pair
    item_id = f"msg_{tenant.name}_{item['type']}"
    made = response(object_id=f"resp_{item_id}") | {"output": [{"id": item_id, "type": "reasoning", "summary": []}]}
    scripted.script(Reply.json(made))
    assert tenant.http.post("/v1/responses", json={"model": "gpt-4o", "input": "x"}).status_code == 200
    member = "approval_request_id" if item["type"] == "mcp_approval_response" else "id"
    body = {"items": [{**item, member: item_id}]}
    own = make(stranger, "conversation")
    asked = len(scripted.requests)
    for path in ("/v1/conversations", f"/v1/conversations/{own}/items"):
        refused = stranger.http.post(path, json=body)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "item_not_found")
    assert len(scripted.requests) == asked
    assert tenant.http.post("/v1/conversations", json=body).status_code == 200
    message = {"items": [{"type": "message", "role": "user", "content": "x"}]}
    assert stranger.http.post(f"/v1/conversations/{own}/items", json=message).status_code == 200


def test_a_batchs_line_names_no_strangers_store(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, stranger = pair
    search = {"type": "file_search", "vector_store_ids": [make(tenant, "vector_store")]}
    asked = len(scripted.requests)
    line = {"custom_id": "1", "method": "POST", "url": "/v1/responses"}
    body: dict[str, Any] = {"model": "gpt-4o", "input": "x", "tools": [search]}
    refused = upload(stranger, json.dumps({**line, "body": body}).encode())
    assert (refused.status_code, error_of(refused)["code"]) == (404, "vector_store_not_found")
    body["tools"] = [{"type": "file_search", "vector_store_ids": ["vs_nobodys"]}]
    refused = upload(stranger, json.dumps({**line, "body": body}).encode())
    assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
    assert len(scripted.requests) == asked


def test_what_an_operator_shares_opens_no_strangers_store(
    shared_gateway: Gateway, scripted: Upstream, pair: tuple[Tenant, Tenant], sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "sharing", "--parameters", "vector_store_ids")
    stranger = sign_up(shared_gateway, "--plan", "sharing")
    theirs, shared = make(pair[0], "vector_store"), "vs_the_operators"
    asked = len(scripted.requests)

    def body(store: str) -> dict[str, Any]:
        return {"model": "gpt-4o", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": [store]}]}

    line = {"custom_id": "1", "method": "POST", "url": "/v1/responses"}
    refused = stranger.http.post("/v1/responses", json=body(theirs))
    assert (refused.status_code, error_of(refused)["code"]) == (404, "vector_store_not_found")
    refused = upload(stranger, json.dumps({**line, "body": body(theirs)}).encode())
    assert (refused.status_code, error_of(refused)["code"]) == (404, "vector_store_not_found")
    assert len(scripted.requests) == asked
    scripted.script(Reply.json(response(object_id=f"resp_{stranger.name}")))
    assert stranger.http.post("/v1/responses", json=body(shared)).status_code == 200
    assert upload(stranger, json.dumps({**line, "body": body(shared)}).encode()).status_code == 200


def test_a_list_shows_no_strangers_object_of_the_same_id_from_another_server(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, stranger = sign_up(shared_gateway), sign_up(shared_gateway)
    other = Upstream().start()
    try:
        shared_gateway.cli("passport", "add", "elsewhere", "--base-url", other.api_url, "--free")
        same, second = f"file-same-{tenant.name}", f"file-second-{tenant.name}"
        scripted.script(Reply.json(file_object(same)))
        other.script(Reply.json(file_object(same)), Reply.json(file_object(second)))
        assert upload(stranger, lines("elsewhere")).json()["id"] == same
        assert upload(tenant, lines("gpt-4o")).json()["id"] == same
        assert upload(tenant, lines("elsewhere")).json()["id"] == second
        scripted.script(Reply.json({"object": "list", "data": [{**file_object(same), "filename": "mine"}]}))
        other.script(
            Reply.json({"object": "list", "data": [{**file_object(same), "filename": "theirs"}, file_object(second)]})
        )
        listed = tenant.http.get("/v1/files").json()["data"]
        assert {(each["id"], each["filename"]) for each in listed} == {(same, "mine"), (second, "a")}
    finally:
        other.stop()


def test_an_id_leads_to_no_strangers_object_of_another_server(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant, stranger = sign_up(shared_gateway), sign_up(shared_gateway)
    other = Upstream().start()
    try:
        shared_gateway.cli("passport", "add", "far", "--base-url", other.api_url, "--free")
        same, kept = f"file-both-{tenant.name}", f"resp-both-{tenant.name}"
        scripted.script(Reply.json(file_object(same)), Reply.json(response(object_id=kept)))
        other.script(Reply.json(file_object(same)), Reply.json(response(object_id=kept)))
        for each, model in ((stranger, "far"), (tenant, "gpt-4o")):
            assert upload(each, lines(model)).json()["id"] == same
            assert each.http.post("/v1/responses", json={"model": model, "input": "x"}).json()["id"] == kept
        asked = len(other.requests)
        content = [{"role": "user", "content": [{"type": "input_file", "file_id": same}]}]
        refused = tenant.http.post("/v1/responses", json={"model": "far", "input": content})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "file_elsewhere")
        refused = tenant.http.post("/v1/responses", json={"model": "far", "input": "x", "previous_response_id": kept})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "response_elsewhere")
        assert len(other.requests) == asked
        scripted.script(Reply.json(response(object_id=f"{kept}-2")))
        assert tenant.http.post("/v1/responses", json={"model": "gpt-4o", "input": content}).status_code == 200
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/responses", {"input": "x", "tools": [{"type": "image_generation", "model": "gpt-image-1"}]}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 5, "tools": [{"type": "advisor", "model": "gpt-4o"}]}),
        # Servers make a response of it (LiteLLM).
        ("/v1/chat/completions", {"messages": HELLO, "tools": [{"type": "image_generation", "model": "gpt-image-1"}]}),
    ],
)
def test_a_plans_models_bind_the_tools_of_an_upstream(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp, path: str, members: dict[str, Any]
) -> None:
    name = f"tooled{path.replace('/', '-')}"
    shared_gateway.cli("plan", "add", name, "--models", "gpt-4o-mini")
    tenant = sign_up(shared_gateway, "--plan", name)
    refused = tenant.http.post(path, json={"model": "gpt-4o-mini", **members})
    assert refused.status_code == 403, refused.text
    assert "does not include the model" in refused.json()["error"]["message"]
    assert scripted.requests == []


def test_a_plans_models_bind_what_changes_or_runs_an_object(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "running", "--models", "gpt-4o-mini")
    tenant = sign_up(shared_gateway, "--plan", "running")
    assistant = tenant.http.post("/v1/assistants", json={"model": "gpt-4o-mini"}).json()["id"]
    thread = make(tenant, "thread")
    run = {"assistant_id": assistant}
    asked = len(scripted.requests)
    for path, body in (
        (f"/v1/assistants/{assistant}", {"model": "gpt-4o"}),
        (f"/v1/threads/{thread}/runs", {**run, "model": "gpt-4o"}),
        ("/v1/threads/runs", {**run, "model": "gpt-4o"}),
    ):
        refused = tenant.http.post(path, json=body)
        assert (refused.status_code, refused.json().get("error", {}).get("code")) == (403, "model_not_allowed"), path
    assert len(scripted.requests) == asked
    assert tenant.http.post(f"/v1/threads/{thread}/runs", json={**run, "model": "gpt-4o-mini"}).status_code == 200
    assert tenant.http.post(f"/v1/threads/{thread}/runs", json=run).status_code == 200
    assert tenant.http.post(f"/v1/assistants/{assistant}", json={"name": "x"}).status_code == 200
    assert "model" not in scripted.requests[-1].json()


def test_a_narrower_key_runs_no_assistant_of_another_model(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(shared_gateway)
    made = [tenant.http.post("/v1/assistants", json={"model": each}).json()["id"] for each in ("gpt-4o", "gpt-4o-mini")]
    thread = make(tenant, "thread")
    added = shared_gateway.cli_json("key", "create", tenant.name, "--models", "gpt-4o-mini")
    with tenant.client(added["key"]["secret"]) as narrow:
        for path in ("/v1/threads/runs", f"/v1/threads/{thread}/runs"):
            answers = [narrow.post(path, json={"assistant_id": each}) for each in made]
            assert [answer.status_code for answer in answers] == [403, 200], path
        assert "model" not in scripted.requests[-1].json()
        assert tenant.http.post(f"/v1/assistants/{made[1]}", json={"model": "gpt-4o"}).status_code == 200
        assert narrow.post("/v1/threads/runs", json={"assistant_id": made[1]}).status_code == 403


def test_a_model_that_means_nothing_means_nothing_to_resources(
    shared_gateway: Gateway, scripted: Upstream, pair: tuple[Tenant, Tenant]
) -> None:
    shared_gateway.cli("passport", "add", "gone", "--api-model-id", "gone-model")
    shared_gateway.cli("passport", "revoke", "gone")
    for name in ("gone", "gone-model"):
        for path in ("/v1/chat/completions", "/v1/assistants", "/v1/videos"):
            refused = pair[0].http.post(path, json={"model": name, "messages": HELLO, "prompt": "x"})
            assert (refused.status_code, refused.json().get("error", {}).get("code")) == (404, "model_not_found"), path
    assert scripted.requests == []


def test_a_batchs_line_makes_nothing_without_a_meter(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(shared_gateway)
    line = {"custom_id": "1", "method": "POST", "url": "/v1/assistants", "body": {"model": "gpt-4o"}}
    refused = upload(tenant, json.dumps(line).encode())
    assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_batch_file")
    assert scripted.requests == []


def test_what_a_profile_sets_of_chats_steers_nothing_else(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(shared_gateway)
    shared_gateway.cli("profile", "set", "--tenant", tenant.name, "--set", 'provider={"only":["a"]}')
    assert tenant.chat(provider={"only": ["b"]}).status_code == 200
    assert scripted.requests[-1].json()["provider"] == {"only": ["a"]}
    asked = len(scripted.requests)
    for path, body in (
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/moderations", {"input": "x"}),
        ("/v1/responses/input_tokens", {"input": "x"}),
        ("/v1/messages/count_tokens", {"messages": HELLO}),
    ):
        refused = tenant.http.post(path, json={"model": "gpt-4o", **body, "provider": {"only": ["b"]}})
        assert (refused.status_code, "'provider' is not taken" in refused.text) == (400, True), path
    assert len(scripted.requests) == asked


def test_a_cap_holds_however_it_is_asked_for(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    tenant = sign_up(shared_gateway)
    caps = ("--cap", "top_k=10", "--cap", "temperature=1", "--cap", "reasoning_effort=low")
    shared_gateway.cli("profile", "set", "--tenant", tenant.name, *caps)
    asked = {
        "top_k": "50",
        "reasoning": {"effort": "high", "exclude": True},
        "output_config": {"effort": "high"},
        "options": {"temperature": 2, "top_k": 5, "num_ctx": 4},
        "Temperature": 2,
        "sampling_params": {"temperature": "2"},
    }
    assert tenant.chat(**asked).status_code == 200
    sent = scripted.requests[-1].json()
    assert {name: sent[name] for name in asked} == {
        "top_k": 10,
        "reasoning": {"effort": "low", "exclude": True},
        "output_config": {"effort": "low"},
        "options": {"temperature": 1, "top_k": 5, "num_ctx": 4},
        "Temperature": 1,
        "sampling_params": {"temperature": 1},
    }
    scripted.script(Reply.json(response(object_id=f"resp_{tenant.name}")))
    body = {"model": "gpt-4o", "input": "x", "reasoning_effort": "high"}
    assert tenant.http.post("/v1/responses", json=body).status_code == 200
    assert scripted.requests[-1].json()["reasoning_effort"] == "low"
    shared_gateway.cli("profile", "set", "--tenant", tenant.name, "--set", "temperature=0.5")
    assert tenant.chat(options={"temperature": 2}).status_code == 200
    assert (sent := scripted.requests[-1].json())["temperature"] == 0.5
    assert sent["options"] == {"temperature": 0.5}


def test_a_trained_model_is_its_tenants_by_every_name(
    shared_gateway: Gateway, pair: tuple[Tenant, Tenant], scripted: Upstream
) -> None:
    tenant, stranger = pair
    name = f"ft:gpt-4o:{tenant.name}::crossing"
    trained = Reply.json({"id": f"ftjob_x_{tenant.name}", "object": "fine_tuning.job", "fine_tuned_model": name})
    scripted.script(trained, trained)
    make(tenant, "model")
    shared_gateway.cli("passport", "add", "cloud/*", "--api-model-id", "*")
    grader = {"grader": {"type": "score_model", "model": name}, "model_sample": "x"}
    asked = len(scripted.requests)
    for each in (name, f"cloud/{name}", f"{name}:ckpt-step-90"):
        refused = stranger.chat(model=each)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found"), each
    refused = stranger.http.post("/v1/fine_tuning/alpha/graders/run", json=grader)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    assert len(scripted.requests) == asked
    for each in (name, f"cloud/{name}", f"{name}:ckpt-step-90"):
        assert tenant.chat(model=each).status_code == 200, each
    assert tenant.http.post("/v1/fine_tuning/alpha/graders/run", json=grader).status_code == 200


def test_a_plans_models_bind_the_grader_of_a_training(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "tiny", "--models", "gpt-4o-mini,handy")
    shared_gateway.cli("passport", "add", "handy", "--api-model-id", "gpt-4o-mini-2024")
    tenant = sign_up(shared_gateway, "--plan", "tiny")
    scripted.script(Reply.json(file_object(f"file-{tenant.name}")))
    file_id = tenant.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": FILE}).json()["id"]
    body = {"model": "handy", "training_file": file_id}
    grading = {"type": "reinforcement", "reinforcement": {"grader": {"type": "score_model", "model": "gpt-4o"}}}
    refused = tenant.http.post("/v1/fine_tuning/jobs", json={**body, "method": grading})
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    assert tenant.http.post("/v1/fine_tuning/jobs", json=body).status_code == 200
