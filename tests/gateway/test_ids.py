"""Whose an upstream's object is: ids in bodies, the same id from two servers, many ids of one tenant."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of
from tests.support.answers import response, response_stream
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream
from trustgate.errors import NotFound
from trustgate.gateway.api.object_accounting import less
from trustgate.gateway.api.object_ids import Kind, ObjectId, ObjectIds
from trustgate.types import Usage


def ask(tenant: Tenant, **members: Any) -> Any:
    return tenant.http.post("/v1/responses", json={"model": "gpt-4o", "input": "Hello", **members})


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


# ids in bodies


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "vector_store_ids"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "container"),
        ({"input": [{"type": "code_interpreter_call", "container_id": "cntr_1", "role": "x"}]}, "container"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "mcp", "server_url": "litellm_proxy/mcp/all"}]}, "server_url"),
        ({"tools": [{"type": "file_search", "vector_store_\\u0069ds": ["vs_1"]}]}, "vector_store_ids"),
    ],
)
def test_what_no_tenant_can_own_is_refused(
    tenant: Tenant, scripted: Upstream, members: dict[str, Any], param: str
) -> None:
    body = dumps({"model": "gpt-4o", "input": "Hello", **members}).replace(b"\\\\u", b"\\u")
    refused = tenant.http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
    assert error_of(refused)["param"] == param
    assert scripted.requests == []


def test_other_endpoints_are_looked_at_too(tenant: Tenant, scripted: Upstream) -> None:
    chat = tenant.chat(messages=[*HELLO, {"role": "assistant", "audio": {"id": "audio_1"}}])
    assert (chat.status_code, error_of(chat)["param"]) == (400, "audio")
    body = {"model": "claude", "max_tokens": 5, "messages": HELLO, "container": "container_1"}
    messages = tenant.http.post("/v1/messages", json=body)
    assert messages.status_code == 400
    assert "'container'" in messages.json()["error"]["message"]
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("members", "param"),
    [
        # What LiteLLM takes along when it makes a response, or a message of Claude's, of a chat request.
        ({"container": "container_1"}, "container"),
        ({"container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}}, "skill_id"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "container"),
        ({"tools": [{"type": "mcp", "server_label": "x", "tunnel_id": "tunnel_1"}]}, "tunnel_id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"deferred": True}, "deferred"),
    ],
)
def test_a_chat_that_may_become_a_response_is_looked_at_like_it(
    tenant: Tenant, scripted: Upstream, members: dict[str, Any], param: str
) -> None:
    refused = tenant.chat(**members)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
    assert error_of(refused)["param"] == param
    assert scripted.requests == []


def test_what_looks_like_an_id_and_is_the_clients_own_passes(tenant: Tenant, scripted: Upstream) -> None:
    schema = {"type": "object", "properties": {"container": {"type": "string"}, "tunnel_id": {"type": "string"}}}
    members: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "start", "parameters": schema}}],
        "background": False,
        "conversation": None,
        "thread": {"type": "create"},
    }
    assert tenant.chat(**members).status_code == 200
    assert {name: scripted.requests[0].json()[name] for name in members} == members


def test_a_thread_is_not_gone_on_with_by_the_id_of_a_message(tenant: Tenant, scripted: Upstream) -> None:
    body = {"model": "claude", "max_tokens": 5, "messages": HELLO}
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    refused = tenant.http.post("/v1/messages", json={**body, "thread": thread})
    assert refused.status_code == 400
    assert "'thread'" in refused.json()["error"]["message"]
    assert scripted.requests == []


@pytest.mark.parametrize("path", ["/v1/responses/compact", "/v1/responses/input_tokens"])
def test_what_is_asked_about_a_response_is_looked_at_like_it(tenant: Tenant, scripted: Upstream, path: str) -> None:
    tools = [{"type": "code_interpreter", "container": "cntr_1"}]
    refused = tenant.http.post(path, json={"model": "gpt-4o", "input": "Hello", "tools": tools})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "container")
    assert scripted.requests == []


def test_a_plan_may_open_what_the_operator_shares(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    shared_gateway.cli("plan", "add", "searching", "--parameters", "vector_store_ids")
    tenant = sign_up(shared_gateway, "--plan", "searching")
    scripted.script(Reply.json(response(object_id="resp_search")))
    tools = [{"type": "file_search", "vector_store_ids": ["vs_shared"]}]
    assert ask(tenant, tools=tools).status_code == 200
    assert scripted.requests[0].json()["tools"] == tools


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "referring",
    [
        lambda item_id: {"type": "item_reference", "id": item_id},
        lambda item_id: {"id": item_id},
        lambda item_id: {"type": "reasoning", "id": item_id, "summary": []},
        lambda item_id: {"type": "image_generation_call", "id": item_id},
        lambda item_id: {"type": "mcp_approval_response", "approval_request_id": item_id, "approve": True},
    ],
)
def test_an_item_is_its_tenants_alone(
    tenant: Tenant, scripted: Upstream, sign_up: SignUp, streamed: bool, referring: Any
) -> None:
    item_id = f"msg_{tenant.name}"
    made = response(object_id=f"resp_{tenant.name}")
    made["output"][0]["id"] = item_id
    if streamed:
        done = {"type": "response.output_item.done", "output_index": 0, "item": made["output"][0]}
        stream = response_stream(["Hi"], object_id=f"resp_{tenant.name}")
        stream.insert(-1, b"event: response.output_item.done\ndata: " + dumps(done) + b"\n\n")
        scripted.script(Reply.sse(stream))
    else:
        scripted.script(Reply.json(made))
    scripted.script(Reply.json(response(object_id=f"resp_next_{tenant.name}")))
    assert ask(tenant, stream=streamed).status_code == 200
    stranger = sign_up(tenant.gateway)
    again = [referring(item_id), {"role": "user", "content": "And?"}]
    refused = ask(stranger, input=again)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "item_not_found")
    assert ask(tenant, input=again).status_code == 200
    assert scripted.requests[-1].json()["input"] == again


def test_items_that_say_all_there_is_need_no_owner(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json(response(object_id=f"resp_{tenant.name}")))
    items = [
        {
            "type": "message",
            "id": "msg_elsewhere",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "x"}],
        },
        {"type": "reasoning", "id": "rs_elsewhere", "summary": [], "encrypted_content": "…"},
        {"type": "function_call", "id": "fc_elsewhere", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    assert ask(tenant, input=items).status_code == 200


# the memory of ids


def handle(object_id: str, tenant: str = "a", upstream: str = "http://one", kind: Kind = "response") -> ObjectId:
    return ObjectId(kind, object_id, tenant, "passport_1", "m", "m", upstream=upstream)


def test_two_servers_may_give_out_the_same_id(tmp_path: Path) -> None:
    path = tmp_path / "handles.jsonl"
    ids = ObjectIds(path)
    ids.keep(handle("resp_1"))
    ids.keep(handle("resp_1", "b", "http://two"))
    # The same server's again: it stays whose it was.
    ids.keep(handle("resp_1", "b"))
    ids.keep(handle("resp_1", upstream="http://three"))
    ids.close()
    for known in (ids, ObjectIds(path)):
        assert [each.upstream for each in known.find_all("response", "resp_1", "a")] == ["http://one", "http://three"]
        assert [each.upstream for each in known.find_all("response", "resp_1", "b")] == ["http://two"]
        known.close()
    again = ObjectIds(path)
    again.forget(handle("resp_1", "b", "http://two"))
    again.close()
    last = ObjectIds(path)
    with pytest.raises(NotFound):
        last.find("response", "resp_1", "b")
    last.close()


def test_a_kind_is_part_of_an_id() -> None:
    ids = ObjectIds()
    ids.keep(handle("x", kind="file"))
    with pytest.raises(NotFound):
        ids.find("response", "x", "a")


@pytest.mark.parametrize("object_id", ["", "a\0", "a\nb", "\ud800", "\x7f", "x" * 257], ids=ascii)
def test_what_cannot_be_written_down_is_no_id(tmp_path: Path, object_id: str) -> None:
    path = tmp_path / "handles.jsonl"
    ids = ObjectIds(path)
    ids.keep(handle(object_id))
    ids.keep(handle("resp_1"))
    ids.close()
    if object_id.isascii():
        # As a version that kept it wrote it.
        path.write_bytes(msgspec.json.encode(handle(object_id)) + b"\n" + path.read_bytes())
    again = ObjectIds(path)
    assert [each.id for each in again.of_tenant("response", "a")] == ["resp_1"]
    again.close()


def test_a_line_that_a_crash_cut_short_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "handles.jsonl"
    ids = ObjectIds(path)
    ids.keep(handle("first"))
    ids.keep(handle("cut"))
    ids.close()
    path.write_bytes(path.read_bytes()[:-9])
    ids = ObjectIds(path)
    ids.keep(handle("next"))
    ids.close()
    again = ObjectIds(path)
    assert [each.id for each in again.of_tenant("response", "a")] == ["first", "next"]
    again.close()


def test_the_file_is_written_anew_while_ids_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "handles.jsonl"
    ids = ObjectIds(path)
    for number in range(3000):
        ids.keep(msgspec.structs.replace(handle("resp"), owed=number))
    size = path.stat().st_size

    async def meanwhile() -> None:
        writing = asyncio.create_task(ids.compact())
        await asyncio.sleep(0)
        ids.keep(handle("late"))
        await writing
        ids.keep(handle("later"))

    asyncio.run(meanwhile())
    ids.close()
    assert path.stat().st_size < size / 100
    assert sorted(each.name for each in tmp_path.iterdir()) == ["handles.jsonl"]
    again = ObjectIds(path)
    assert [(each.id, each.owed) for each in again.of_tenant("response", "a")] == [
        ("resp", 2999),
        ("late", -1),
        ("later", -1),
    ]
    again.close()


def test_what_is_not_charged_yet_is_not_forgotten() -> None:
    ids = ObjectIds(most=100)
    for number in range(50):
        ids.keep(msgspec.structs.replace(handle(f"open_{number}"), owed=0))
    for number in range(500):
        ids.keep(handle(f"done_{number}"))
    assert len(ids.unsettled("response")) == 50
    assert len(ids) <= 100


def test_many_ids_of_one_tenant_push_out_none_of_anothers() -> None:
    ids = ObjectIds(most=1000)
    for number in range(20):
        ids.keep(handle(f"mine_{number}", "small"))
    ids.keep(handle("file", "large", kind="file"))
    for number in range(5000):
        ids.keep(handle(f"theirs_{number}", "large"))
    assert len(ids) <= 1000
    assert len(ids.of_tenant("response", "small")) == 20
    assert ids.find("file", "file", "large").id == "file"
    assert ids.find("response", "theirs_4999", "large").id == "theirs_4999"
    with pytest.raises(NotFound):
        ids.find("response", "theirs_0", "large")


def test_what_was_charged_before_is_not_charged_again_as_a_part_of_the_rest() -> None:
    whole = Usage(prompt_tokens=10, completion_tokens=4, audio_prompt_tokens=10, cached_tokens=2, reasoning_tokens=3)
    assert less(whole, 0) == whole
    rest = Usage(prompt_tokens=4, completion_tokens=4, audio_prompt_tokens=4, cached_tokens=2, reasoning_tokens=3)
    assert less(whole, 6) == rest
    assert less(whole, 12) == Usage(completion_tokens=2, reasoning_tokens=2)
    assert less(whole, 100) == Usage()


@pytest.mark.parametrize(
    ("prompt", "completion", "left"),
    [(8, 1, (92, 49)), (100, 50, (0, 0)), (0, 50, (100, 0)), (90, 70, (0, 0)), (90, 55, (5, 0)), (110, 10, (0, 30))],
)
def test_what_was_charged_before_is_taken_off_its_own_kind_of_tokens(
    prompt: int, completion: int, left: tuple[int, int]
) -> None:
    """More of a kind than was used in the end is taken off the other, so that the sum is never charged twice."""
    rest = less(Usage(prompt_tokens=100, completion_tokens=50), prompt + completion, completion)
    assert (rest.prompt_tokens, rest.completion_tokens) == left
