"""What upstreams keep for their users: whose each id is, on every route; what the calls cost, and who may make them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of
from tests.support.answers import response
from tests.support.gateway import Gateway
from tests.support.upstream import Recorded, Reply, Upstream, answer_like_openai
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.gateway.api.resources import RESOURCES

FILE = ("a.bin", b"abc")
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def keeping(shared_upstream: Upstream) -> Iterator[None]:
    """An upstream that makes whatever it is asked for, under an id of its own, and knows every id."""

    def answer(request: Recorded) -> Reply:
        if request.path.endswith(("/chat/completions", "/responses")) and request.method == "POST":
            return answer_like_openai(request)
        object_id = f"{request.path.rsplit('/', 1)[-1]}_{next(_numbers)}"
        return Reply.json({"id": object_id, "object": "thing", "status": "completed"})

    shared_upstream.default = answer
    yield
    shared_upstream.default = answer_like_openai


def call(tenant: Tenant, endpoint: Endpoint, **ids: str) -> Any:
    """Calls a resource's endpoint with the least that it takes."""
    path = re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], "x1"), endpoint.path)
    values = {"model": "gpt-4o", "consent": ids.get("consent", "x")}
    needed: dict[str, Any] = {name: values[name] for name in endpoint.needed}
    if endpoint.body == "form":
        return tenant.http.request(endpoint.method, path, data=needed, files={"file": FILE})
    return tenant.http.request(endpoint.method, path, json=needed if endpoint.body == "json" else None)


def maker_of(kind: str) -> Endpoint:
    return next(each for each in ENDPOINTS if each.makes == kind and each.names is None)


def make(tenant: Tenant, kind: str) -> str:
    """Has the upstream make an object of this kind for the tenant."""
    if kind == "model":
        job = make(tenant, "fine_tuning_job")
        return str(tenant.http.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"])
    maker = maker_of(kind)
    consent = make(tenant, "voice_consent") if kind == "voice" else ""
    made = call(tenant, maker, consent=consent)
    assert made.status_code == 200, (kind, made.text)
    return str(made.json()["id"])


OF_ONE = [endpoint for endpoint in RESOURCES if endpoint.names is not None]


@pytest.fixture(scope="module")
def pair(shared_gateway: Gateway) -> Iterator[tuple[Tenant, Tenant]]:
    """Two tenants."""
    tenants = Tenant(shared_gateway), Tenant(shared_gateway)
    yield tenants
    for each in tenants:
        each.http.close()


@pytest.mark.parametrize("kind", sorted({endpoint.names for endpoint in OF_ONE if endpoint.names}))
def test_an_id_is_its_tenants_alone_on_every_route(pair: tuple[Tenant, Tenant], scripted: Upstream, kind: str) -> None:
    tenant, stranger = pair
    if kind == "model":
        trained = Reply.json({"id": "ftjob_1", "object": "fine_tuning.job", "fine_tuned_model": "ft:gpt-4o:x::1"})
        scripted.script(trained, trained)
    mine = make(tenant, kind)
    routes = [endpoint for endpoint in OF_ONE if endpoint.names == kind]
    # What deletes comes last.
    for endpoint in sorted(routes, key=lambda each: each.deletes and not each.children):
        asked = len(scripted.requests)
        refused = call(stranger, endpoint, id=mine)
        assert (refused.status_code, error_of(refused)["code"]) == (404, f"{kind}_not_found"), endpoint
        assert len(scripted.requests) == asked, f"{endpoint.path} asked the upstream"
        answered = call(tenant, endpoint, id=mine)
        assert answered.status_code == 200, (endpoint, answered.text)
        sent = re.sub(r"\{\w+\}", "x1", endpoint.path.replace("{id}", quote(mine, safe="")))
        assert scripted.requests[-1].path == sent
    if any(endpoint.deletes and not endpoint.children for endpoint in routes):
        assert call(tenant, routes[0], id=mine).status_code == 404


def test_an_id_below_ones_own_may_not_be_a_strangers(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, stranger = pair
    mine, theirs = make(tenant, "thread"), make(stranger, "thread")
    message = tenant.http.post(f"/v1/threads/{mine}/messages", json={"role": "user", "content": "x"}).json()["id"]
    asked = len(scripted.requests)
    refused = stranger.http.get(f"/v1/threads/{theirs}/messages/{message}")
    assert (refused.status_code, error_of(refused)["code"]) == (404, "message_not_found")
    climbing = stranger.http.get(f"/v1/threads/{theirs}/messages/%2e%2e")
    assert climbing.status_code == 404
    assert len(scripted.requests) == asked
    assert tenant.http.get(f"/v1/threads/{mine}/messages/{message}").status_code == 200


@pytest.mark.parametrize(
    ("kind", "path", "naming"),
    [
        ("file", "/v1/vector_stores", lambda one: {"file_ids": [one]}),
        ("file", "/v1/fine_tuning/jobs", lambda one: {"model": "gpt-4o", "training_file": one}),
        ("file", "/v1/threads", lambda one: {"messages": [{"role": "user", "attachments": [{"file_id": one}]}]}),
        ("file", "/v1/evals", lambda one: {"data_source": {"source": {"type": "file_id", "id": one}}}),
        ("assistant", "/v1/threads/runs", lambda one: {"assistant_id": one}),
        ("video", "/v1/videos/edits", lambda one: {"prompt": "x", "video": {"id": one}}),
        ("character", "/v1/videos", lambda one: {"prompt": "x", "characters": [{"id": one}]}),
        ("conversation", "/v1/responses", lambda one: {"model": "gpt-4o", "input": "x", "conversation": one}),
        ("conversation", "/v1/responses", lambda one: {"model": "gpt-4o", "input": "x", "conversation": {"id": one}}),
    ],
)
def test_an_id_in_a_body_must_be_ones_own(
    pair: tuple[Tenant, Tenant], scripted: Upstream, kind: str, path: str, naming: Any
) -> None:
    tenant, stranger = pair
    if kind == "file":
        data = {"purpose": "assistants"}
        mine = str(tenant.http.post("/v1/files", data=data, files={"file": FILE}).json()["id"])
    else:
        mine = make(tenant, kind)
    asked = len(scripted.requests)
    refused = stranger.http.post(path, json=naming(mine))
    assert (refused.status_code, error_of(refused)["code"]) == (404, f"{kind}_not_found")
    assert len(scripted.requests) == asked
    if path == "/v1/responses":
        scripted.script(Reply.json(response(object_id=f"resp_{mine}")))
    assert tenant.http.post(path, json=naming(mine)).status_code == 200
    assert scripted.requests[-1].json() == naming(mine)


def test_a_vector_store_of_ones_own_may_be_searched_by_a_response(
    pair: tuple[Tenant, Tenant], scripted: Upstream
) -> None:
    tenant, stranger = pair
    store = make(tenant, "vector_store")
    body = {"model": "gpt-4o", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": [store]}]}
    scripted.script(Reply.json(response(object_id=f"resp_{store}")))
    assert tenant.http.post("/v1/responses", json=body).status_code == 200
    refused = stranger.http.post("/v1/responses", json=body)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "vector_store_not_found")


def test_what_everybody_stored_is_no_source_of_an_evaluation(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, _ = pair
    mine = make(tenant, "eval")
    asked = len(scripted.requests)
    run = {"data_source": {"type": "completions", "source": {"type": "stored_completions"}}}
    refused = tenant.http.post(f"/v1/evals/{mine}/runs", json=run)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "source")
    assert len(scripted.requests) == asked


def test_a_stored_chat_completion_is_its_tenants(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, stranger = pair
    kept: dict[str, Any] = {"id": f"chatcmpl-kept-{tenant.name}"}
    streamed = {"id": f"chatcmpl-streamed-{tenant.name}", "object": "chat.completion.chunk", "model": "gpt-4o"}
    frames = [
        {**streamed, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
        {**streamed, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    scripted.script(Reply.chat("Hi", **kept), Reply.sse([*frames, b"data: [DONE]\n\n"]), Reply.chat("Hi", id="other"))
    assert tenant.chat(store=True).status_code == 200
    with tenant.stream(store=True) as stream:
        stream.read()
    assert tenant.chat().status_code == 200
    for object_id in (kept["id"], streamed["id"]):
        for method, rest in (("GET", ""), ("GET", "/messages"), ("POST", ""), ("DELETE", "")):
            url = f"/v1/chat/completions/{object_id}{rest}"
            body = {"metadata": {"a": "b"}} if method == "POST" else None
            assert stranger.http.request(method, url, json=body).status_code == 404
            assert tenant.http.request(method, url, json=body).status_code == 200, (method, url)
        assert tenant.http.get(f"/v1/chat/completions/{object_id}").status_code == 404
    # The third was not to be kept.
    assert tenant.http.get("/v1/chat/completions/other").status_code == 404


def test_a_trained_model_is_its_tenants(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, stranger = pair
    name = f"ft:gpt-4o:{tenant.name}::1"
    trained = Reply.json({"id": f"ftjob_{tenant.name}", "object": "fine_tuning.job", "fine_tuned_model": name})
    scripted.script(trained, trained)
    make(tenant, "model")
    refused = stranger.chat(model=name)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    assert tenant.chat(model=name).status_code == 200


def test_calls_without_a_meter_are_not_in_the_free_plan(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    refused = call(sign_up(shared_gateway, "--plan", "free"), maker_of("conversation"))
    assert (refused.status_code, error_of(refused)["code"]) == (403, "feature_not_allowed")
    assert "unmetered calls" in error_of(refused)["message"]
    assert scripted.requests == []


def test_a_call_without_a_meter_costs_what_its_passport_says(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "counting", "--usd-per-day", "1")
    tenant = sign_up(shared_gateway, "--plan", "counting")
    refused = call(tenant, maker_of("upload"))
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_priced")
    assert "trustgate passport add endpoint:uploads --call-price" in error_of(refused)["message"]
    shared_gateway.cli("passport", "add", "endpoint:uploads", "--call-price", "0.25")
    made = make(tenant, "upload")
    assert tenant.http.post(f"/v1/uploads/{made}/cancel").status_code == 200
    assert [receipt["cost_nano_usd"] for receipt in tenant.receipts() if receipt["status"] == 200] == [250_000_000, 0]
    # It is no model.
    assert tenant.chat(model="endpoint:uploads").status_code == 404
    assert "endpoint:uploads" not in [model["id"] for model in tenant.http.get("/v1/models").json()["data"]]
    for _ in range(3):
        make(tenant, "upload")
    refused = call(tenant, maker_of("upload"))
    assert refused.status_code == 429


def test_a_plans_models_bind_what_a_resource_names(
    shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    shared_gateway.cli("plan", "add", "small", "--models", "gpt-4o-mini")
    tenant = sign_up(shared_gateway, "--plan", "small")
    refused = tenant.http.post("/v1/assistants", json={"model": "gpt-4o"})
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    grader = {"name": "x", "testing_criteria": [{"type": "label_model", "model": "gpt-4o", "input": HELLO}]}
    refused = tenant.http.post("/v1/evals", json=grader)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    assert scripted.requests == []
    assert tenant.http.post("/v1/assistants", json={"model": "gpt-4o-mini"}).status_code == 200


def test_images_are_edited_by_json_as_by_a_form(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, _ = pair
    body = {"model": "gpt-image-1", "prompt": "x", "images": [{"image_url": "data:image/png;base64,AA=="}]}
    scripted.script(Reply.json({"created": 1, "data": [{"b64_json": "AA=="}]}))
    assert tenant.http.post("/v1/images/edits", json=body).status_code == 200
    assert scripted.requests[-1].json() == body
    assert scripted.requests[-1].header("content-type") == "application/json"
    assert tenant.receipts()[-1]["images"] == 1


def test_a_run_that_is_streamed_gives_its_ids_to_its_tenant(pair: tuple[Tenant, Tenant], scripted: Upstream) -> None:
    tenant, _ = pair
    thread, run = f"thread_{tenant.name}", f"run_{tenant.name}"
    frames = [
        b"event: thread.created\ndata: " + json.dumps({"id": thread, "object": "thread"}).encode() + b"\n\n",
        b"event: thread.run.created\ndata: " + json.dumps({"id": run, "object": "thread.run"}).encode() + b"\n\n",
        b"event: done\ndata: [DONE]\n\n",
    ]
    assistant = make(tenant, "assistant")
    scripted.script(Reply.sse(frames))
    streamed = tenant.http.post("/v1/threads/runs", json={"assistant_id": assistant, "stream": True})
    assert streamed.content == b"".join(frames)
    assert tenant.http.get(f"/v1/threads/{thread}/runs/{run}").status_code == 200
