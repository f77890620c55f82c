"""What is judged is what is sent: bounds under every name, members that steer, names that can be read two ways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES = "/v1/messages"


@pytest.fixture(scope="module")
def plans(shared_gateway: Gateway) -> Gateway:
    shared_gateway.cli("plan", "add", "tight", "--max-tokens", "100", "--models", "gpt-4o")
    shared_gateway.cli("plan", "add", "metered", "--tokens-per-day", "1000000")
    shared_gateway.cli("plan", "add", "routed", "--parameters", "provider,models")
    return shared_gateway


@pytest.fixture
def tight(plans: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    """May ask for 100 tokens, of one model."""
    return sign_up(plans, "--plan", "tight")


@pytest.fixture
def metered(plans: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(plans, "--plan", "metered")


# bounds


@pytest.mark.parametrize(
    "members",
    [
        {"max_completion_tokens": 1, "max_tokens": 50_000},
        {"max_completion_tokens": 50_000, "max_tokens": 1},
        {"max_tokens": 1, "max_output_tokens": 50_000},
        {"n_predict": 50_000},
        {"max_tokens": 5, "num_predict": 101},
        {"max_tokens": 5, "max_new_tokens": 101.0},
        {"max_tokens": 5, "options": {"num_predict": 101}},
        {"max_tokens": 5, "generationConfig": {"maxOutputTokens": 101}},
    ],
)
def test_the_largest_of_all_bounds_is_checked(tight: Tenant, scripted: Upstream, members: dict[str, Any]) -> None:
    refused = tight.chat(**members)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "max_tokens_exceeded")
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("path", "asked", "sent"),
    [
        # Nothing asked for: what is held is sent.
        (CHAT, {}, {"max_tokens": 100}),
        (COMPLETIONS, {"prompt": "x"}, {"max_tokens": 100}),
        (RESPONSES, {"input": "x"}, {"max_output_tokens": 100}),
        # "No bound" gets one, under the same name.
        (CHAT, {"max_tokens": -1}, {"max_tokens": 100}),
        (CHAT, {"max_tokens": 0}, {"max_tokens": 100}),
        (CHAT, {"max_completion_tokens": -1}, {"max_completion_tokens": 100}),
        (CHAT, {"n_predict": -1}, {"n_predict": 100, "max_tokens": 100}),
        (CHAT, {"max_tokens": 7, "options": {"num_predict": -1, "a": 1}},
         {"max_tokens": 7, "options": {"num_predict": 100, "a": 1}}),
        # A name that not every server reads does not stand alone.
        (CHAT, {"n_predict": 9}, {"n_predict": 9, "max_tokens": 9}),
        # What is small enough stays as it is.
        (CHAT, {"max_tokens": 100.0}, {"max_tokens": 100.0}),
        (CHAT, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        # Scoring a text: nothing is generated, by the API's definition.
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0, "echo": True}, {"max_tokens": 0}),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 5, "best_of": 0}, {"max_tokens": 5}),
    ],
)  # fmt: skip
def test_what_is_held_bounds_the_work(
    tight: Tenant, scripted: Upstream, path: str, asked: dict[str, Any], sent: dict[str, Any]
) -> None:
    base = {"messages": HELLO} if path == CHAT else {}
    if path == RESPONSES:
        scripted.script(Reply.json({"id": f"resp_{tight.name}", "object": "response", "status": "completed"}))
    answered = tight.http.post(path, json={"model": "gpt-4o", **base, **asked})
    assert answered.status_code == 200, answered.text
    got = scripted.requests[0].json()
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "options")
    assert {name: got[name] for name in names if name in got} == sent


def test_a_tenant_with_a_quota_of_tokens_is_bounded_by_what_is_held(metered: Tenant, scripted: Upstream) -> None:
    metered.chat()
    slug = f"{metered.name}/small"
    metered.gateway.cli("passport", "add", slug, "--api-model-id", "small", "--max-output-tokens", "300")
    metered.chat(model=slug)
    metered.chat(model=slug, max_tokens=500)
    metered.gateway.cli("passport", "set", slug, "--parameter", "max_completion_tokens=200")
    metered.chat(model=slug)
    bounds = [{name: value for name, value in each.json().items() if "tokens" in name} for each in scripted.requests]
    assert bounds == [{"max_tokens": 4096}, {"max_tokens": 300}, {"max_tokens": 300}, {"max_completion_tokens": 200}]


def test_whom_nothing_limits_is_not_bounded(tenant: Tenant, scripted: Upstream) -> None:
    tenant.chat()
    tenant.chat(max_tokens=-1)
    assert [each.json().get("max_tokens") for each in scripted.requests] == [None, -1]


@pytest.mark.parametrize("members", [{"n": 3}, {"n_cmpl": 3}, {"generationConfig": {"candidateCount": 3}}])
def test_each_choice_is_held(plans: Gateway, scripted: Upstream, sign_up: SignUp, members: dict[str, Any]) -> None:
    plans.cli("plan", "add", "small-day", "--tokens-per-day", "1000", check=False)
    tenant = sign_up(plans, "--plan", "small-day")
    assert tenant.chat(max_tokens=400, **members).status_code == 429
    assert tenant.chat(max_tokens=400).status_code == 200


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": "100"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"n_predict": "100"}, "n_predict"),
        ({"max_new_tokens": [5]}, "max_new_tokens"),
        ({"options": {"num_predict": "5"}}, "options"),
        ({"n_cmpl": 1000}, "n_cmpl"),
    ],
)
def test_a_bound_of_the_wrong_kind_is_named(tenant: Tenant, members: dict[str, Any], param: str) -> None:
    refused = tenant.chat(**members)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)


# members that steer


@pytest.mark.parametrize(
    "members",
    [
        {"fallbacks": ["expensive"]},
        {"context_window_fallbacks": [{"gpt-4o": ["expensive"]}]},
        {"model_list": []},
        {"models": ["expensive"]},
        {"route": "fallback"},
        {"provider": {"order": ["x"]}},
        {"providerOptions": {"gateway": {"order": ["x"]}}},
        {"api_base": "http://127.0.0.1:1"},
        {"api_key": "sk-x"},
        {"base_url": "http://127.0.0.1:1"},
        {"custom_llm_provider": "x"},
        {"mock_response": "free"},
        {"num_retries": 10},
        {"extra_body": {"model": "expensive"}},
        {"litellm_metadata": {"tags": ["x"]}},
        {"aws_region_name": "x"},
        {"input_cost_per_token": 0},
        {"langfuse_host": "http://127.0.0.1:1"},
        {"_litellm_anything": 1},
        {"lora_path": "x"},
        {"adapter_id": "x"},
        {"adapters": "/etc"},
        {"lora": [{"id": 0, "scale": 1.0}]},
        {"id_slot": 3},
        {"keep_alive": -1},
        {"priority": -1},
        {"kv_transfer_params": {"remote_host": "x"}},
        {"bootstrap_host": "x"},
        {"custom_logit_processor": "x"},
        {"logits_processors": ["os.system"]},
        {"chat_template": "{{ x }}"},
        {"data_sources": [{"type": "azure_search"}]},
        {"MODEL": "expensive"},
        {"user_config": {"model_list": []}},
        {"mock_testing_fallbacks": True},
        {"auto_router_config": "x"},
        {"sagemaker_base_url": "x"},
        {"disable_global_guardrails": True},
        {"success_callback": ["x"]},
        {"Model": "expensive"},
        {"\uff4dodel": "expensive"},
        {"maxTokens": 50_000},
        {"Max_Tokens": 50_000},
        {"\u017ftream": True},
        {"mess\u0061\u200bges": []},
    ],
)
def test_nothing_steers_the_upstream_away_from_what_was_judged(
    tight: Tenant, scripted: Upstream, members: dict[str, Any]
) -> None:
    refused = tight.chat(**members)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
    assert error_of(refused)["param"] == next(iter(members))
    assert scripted.requests == []
    assert tight.used()["day"]["requests"] == 0


@pytest.mark.parametrize(
    "metadata",
    [
        *({"tags": ["x"]}, {"tags": "x"}, {"guardrails": {}}, {"user_api_key": "x"}, {"a": {"b": 1}}, "x"),
        *({"a": [1]}, {"langfuse_host": "x"}, {"disable_global_guardrails": True}, {"user_config": "x"}),
    ],
)
def test_metadata_is_flat_and_steers_nothing(tenant: Tenant, metadata: Any) -> None:
    refused = tenant.chat(metadata=metadata)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "metadata")


def test_what_steers_nothing_passes(tenant: Tenant, scripted: Upstream) -> None:
    members = {
        "metadata": {"customer": "7"},
        "fallbacks": None,
        "chat_template_kwargs": {"enable_thinking": False},
        "cache_prompt": True,
        "something_new": {"model": "x"},
        "größe": 1,
    }
    assert tenant.chat(**members).status_code == 200
    sent = scripted.requests[0].json()
    assert {name: sent[name] for name in members} == members


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_metadata_may_have_names_that_steer_elsewhere(tenant: Tenant, scripted: Upstream, path: str) -> None:
    names = ("project", "request_id", "client_id", "tenant_id", "order", "priority", "file_id", "container", "Model")
    metadata = {**dict.fromkeys(names, "7"), "run": 3, "score": 0.5, "dry": True, "none": None}
    wire = {"messages": HELLO} if path == CHAT else {"input": "x"}
    answered = tenant.http.post(path, json={"model": "gpt-4o", **wire, "metadata": metadata})
    assert scripted.requests, answered.text
    assert scripted.requests[0].json()["metadata"] == metadata


SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("model", "fallbacks", "container", "file_id", "server_url")},
    "examples": [{"container": "web", "file_id": "7", "vector_store_ids": ["a"], "audio": {"id": "x"}}],
}
NAMED = {"name": "f", "parameters": SCHEMA}
TOOL_USE = {"type": "tool_use", "id": "t", "name": "docker", "input": {"container": "web", "file_id": "7"}}
CALLED = {"name": "docker", "arguments": {"container": "web", "file_id": "7"}}
SHELL = {"type": "exec", "command": ["ls"], "env": {"container": "oci"}}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "up"}


@pytest.mark.parametrize(
    ("path", "members"),
    [
        (CHAT, {"messages": HELLO, "tools": [{"type": "function", "function": NAMED}]}),
        (
            CHAT,
            {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {**NAMED, "schema": SCHEMA}}},
        ),
        (RESPONSES, {"input": "x", "tools": [{"type": "function", **NAMED}]}),
        (RESPONSES, {"input": "x", "text": {"format": {"type": "json_schema", "name": "f", "schema": SCHEMA}}}),
        (MESSAGES, {"messages": HELLO, "max_tokens": 5, "tools": [{"name": "f", "input_schema": SCHEMA}]}),
        (
            MESSAGES,
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": [TOOL_USE]},
                    {"role": "user", "content": [TOOL_RESULT]},
                ],
                "max_tokens": 5,
            },
        ),
        # Some clients write the arguments of a call as an object.
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"type": "function", "function": CALLED}]}]}),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "function_call": CALLED}]}),
        (RESPONSES, {"input": [{"type": "function_call", "call_id": "c", **CALLED}]}),
        (RESPONSES, {"input": [{"type": "local_shell_call", "call_id": "c", "action": SHELL}]}),
        ("/v1/rerank", {"query": "x", "documents": [{"text": "a", "file_id": "7"}]}),
    ],
)
def test_what_the_clients_own_tools_and_texts_name_is_no_upstreams_id(
    tenant: Tenant, scripted: Upstream, path: str, members: dict[str, Any]
) -> None:
    answered = tenant.http.post(path, json={"model": "gpt-4o", **members})
    assert scripted.requests, answered.text
    sent = scripted.requests[0].json()
    assert {name: sent[name] for name in members} == members


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [{"type": "tool_use", "input": [{"container": "cntr_1"}]}]},
        {"tools": [{"type": "code_interpreter", "name": "x", "container": "cntr_1"}]},
        {"tools": [{"type": "file_search", "name": "x", "vector_store_ids": ["vs_1"]}]},
        {"arguments": {"container": "cntr_1"}},
        {"name": "x", "type": "tool_use", "input": [{"type": "code_interpreter_call", "container_id": "cntr_1"}]},
        {"tools": [{"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "skill_1"}]}}]},
    ],
)
def test_an_upstreams_id_is_found_beside_what_is_the_clients_own(
    tenant: Tenant, scripted: Upstream, members: dict[str, Any]
) -> None:
    refused = tenant.http.post(RESPONSES, json={"model": "gpt-4o", "input": "x", **members})
    assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
    assert scripted.requests == []


def test_a_plan_may_allow_what_steers_and_a_key_may_narrow_it(
    plans: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(plans, "--plan", "routed")
    assert tenant.chat(provider={"order": ["x"]}).status_code == 200
    assert scripted.requests[0].json()["provider"] == {"order": ["x"]}
    assert tenant.chat(fallbacks=["x"]).status_code == 400
    narrow = plans.cli_json("key", "create", tenant.name, "--parameters", "models")["key"]["secret"]
    with tenant.client(narrow) as http:
        body = {"model": "gpt-4o", "messages": HELLO}
        assert http.post(CHAT, json={**body, "provider": {}}).status_code == 400
        assert http.post(CHAT, json={**body, "models": ["x"]}).status_code == 200
    plans.cli("plan", "set", "routed", "--parameters", "none")
    assert tenant.chat(provider={}).status_code == 400
    plans.cli("plan", "set", "routed", "--parameters", "provider,models")


@pytest.mark.parametrize("field", ["target_model_names", "custom_llm_provider", "api_base", "MODEL", "models[]"])
def test_no_field_of_a_form_steers(tenant: Tenant, scripted: Upstream, field: str) -> None:
    refused = tenant.http.post(
        "/v1/audio/transcriptions", data={"model": "whisper-1", field: "x"}, files={"file": ("a.wav", b"x")}
    )
    assert (refused.status_code, error_of(refused)["param"]) == (400, field)
    assert scripted.requests == []


@pytest.mark.parametrize("field", ["model", "file_id", "target_model_names"])
def test_no_field_of_a_files_form_steers(tenant: Tenant, scripted: Upstream, field: str) -> None:
    form = {"purpose": "user_data", field: "x"}
    refused = tenant.http.post("/v1/files", data=form, files={"file": ("a", b"x")})
    assert (refused.status_code, error_of(refused)["param"]) == (400, field)
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?custom_llm_provider=azure", "custom_llm_provider"),
        ("?limit=5&model=expensive", "model"),
        ("?target_model_names=a", "target_model_names"),
        ("?api%5Fbase=x", "api_base"),
    ],
)
def test_no_query_steers(tenant: Tenant, scripted: Upstream, query: str, param: str) -> None:
    refused = tenant.http.get(f"/v1/files{query}")
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)
    assert scripted.requests == []


def test_a_query_that_steers_nothing_passes(tenant: Tenant, scripted: Upstream) -> None:
    made = {"id": f"file-of-{tenant.name}", "object": "file"}
    scripted.script(Reply.json(made), Reply.json({"object": "list", "data": [made]}))
    form: dict[str, Any] = {"data": {"purpose": "user_data"}, "files": {"file": ("a", b"x")}}
    assert tenant.http.post("/v1/files", **form).status_code == 200
    query = "?limit=200&after=file-x&purpose=batch&order=desc"
    assert tenant.http.get(f"/v1/files{query}").status_code == 200
    path, _, sent = scripted.requests[-1].target.partition("?")
    assert (path, set(sent.split("&"))) == ("/v1/files", set(query[1:].split("&")))


def test_a_batch_names_no_model_of_its_own(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json({"id": f"file-{tenant.name}", "object": "file"}))
    body = {"model": "gpt-4o", "messages": HELLO}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body}).encode()
    assert tenant.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", line)}).status_code == 200
    batch = {"input_file_id": f"file-{tenant.name}", "endpoint": CHAT, "completion_window": "24h", "model": "expensive"}
    refused = tenant.http.post("/v1/batches", json=batch)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "model")


# names


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"expensive","model":"gpt-4o","messages":[{"role":"user","content":"x"}]}',
        b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "model": "gpt-4o"}',
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"max_tokens":50000,"max_tokens":1}',
    ],
)
def test_a_member_that_comes_twice_is_refused(tight: Tenant, scripted: Upstream, body: bytes) -> None:
    refused = tight.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, error_of(refused)["code"]) == (400, "duplicate_parameter")
    assert scripted.requests == []


@pytest.mark.parametrize(
    "options",
    [
        b'{"num_predict":50000,"num_predict":5}',
        b'{"num_predict": 50000, "a": 1, "num_\\u0070redict": 5}',
        b'{"num_\\u0070redict":5}',
    ],
)
def test_a_member_of_options_has_one_reading(tight: Tenant, scripted: Upstream, options: bytes) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"max_tokens":5,"options":%b}' % options
    refused = tight.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "options")
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (b'{"include_usage":false,"include_usage":true}', "duplicate_parameter"),
        (b'{"include_usage": true, "include_usage": false}', "duplicate_parameter"),
        (b'{"x":1,"x":2}', "duplicate_parameter"),
        (b'{"Include_Usage":true}', "unsupported_parameter"),
        (b'{"include_usage":true},"stream_options":{}', "duplicate_parameter"),
    ],
)
def test_the_options_of_a_stream_have_one_reading(
    tenant: Tenant, scripted: Upstream, options: bytes, code: str
) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":%b}' % options
    refused = tenant.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, error_of(refused)["code"]) == (400, code)
    assert error_of(refused)["param"].startswith("stream_options")
    assert scripted.requests == []


def test_a_name_in_escapes_is_refused_where_it_needs_none(tight: Tenant, scripted: Upstream) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "größe": 1}).encode()
    for content, status in ((body.replace(b'"model"', b'"mod\\u0065l"'), 400), (body, 200)):
        answered = tight.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert answered.status_code == status, answered.text
    assert len(scripted.requests) == 1


IMAGE = b'[{"type":"image_url","image_url":{"url":"data:x"}}]'


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b'{"role":"user","content":"x","content":%b}' % IMAGE, "duplicate_parameter"),
        (b'{"role":"user","content":"x","Content":%b}' % IMAGE, "unsupported_parameter"),
        (b'{"Role":"system","role":"user","CONTENT":"x","content":"x"}', "unsupported_parameter"),
        (b'{"role":"user","content":"x","conten\\u0074":%b}' % IMAGE, "duplicate_parameter"),
        (b'{"role":"user","content":[{"type":"text","text":"x","Type":"image_url"}]}', "unsupported_parameter"),
        (b'{"role":"user","content":[{"type":"text","text":"x","type":"text"}]}', "duplicate_parameter"),
    ],
)
def test_a_message_has_one_reading(tenant: Tenant, scripted: Upstream, message: bytes, code: str) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"},%b]}' % message
    refused = tenant.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, error_of(refused)["code"]) == (400, code)
    assert scripted.requests == []


def test_what_only_looks_like_a_second_reading_passes(tenant: Tenant, scripted: Upstream) -> None:
    properties = {name: {"type": "string"} for name in ("content", "Content", "Type", "role", "TEXT")}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    messages = [
        {"role": "user", "content": 'Write {"content": 1, "Content": 2} and "content" again.'},
        {"role": "assistant", "content": None, "Contents": 1},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": '"Type"'}]},
    ]
    assert tenant.chat(messages=messages, tools=[tool]).status_code == 200
    assert scripted.requests[0].json()["messages"] == messages
