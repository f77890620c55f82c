"""Files and batches through the gateway: whose they are, which model they may use, when they are charged."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from tests.conftest import ClientFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of, receipt_of
from tests.support.gateway import Gateway
from tests.support.upstream import Recorded, Reply, Upstream


def lines(*models: str, **members: Any) -> bytes:
    asked = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": HELLO, **members},
        }
        for number, model in enumerate(models)
    ]
    return b"".join(json.dumps(one).encode() + b"\n" for one in asked)


def file_object(object_id: str) -> dict[str, Any]:
    return {"id": object_id, "object": "file", "bytes": 5, "created_at": 1, "filename": "a", "purpose": "batch"}


def batch_object(object_id: str, status: str, **members: Any) -> dict[str, Any]:
    return {"id": object_id, "object": "batch", "endpoint": "/v1/chat/completions", "status": status, **members}


def upload(tenant: Tenant, content: bytes, purpose: str = "batch") -> httpx.Response:
    return tenant.http.post("/v1/files", data={"purpose": purpose}, files={"file": ("a.jsonl", content)})


def test_a_file_in_anthropics_form_is_told_where_it_belongs(tenant: Tenant, scripted: Upstream) -> None:
    refused = tenant.http.post("/v1/files?beta=true", files={"file": ("a.pdf", b"%PDF-")})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "purpose")
    assert "put a file's content into the message" in error_of(refused)["message"]
    assert scripted.requests == []


def test_a_files_life(tenant: Tenant, scripted: Upstream, sign_up: SignUp, make_client: ClientFactory) -> None:
    mine, other = f"file-{tenant.name}", f"file-other-{tenant.name}"
    stranger = sign_up(tenant.gateway)
    scripted.script(
        Reply.json(file_object(mine)),
        Reply.json(file_object(other)),
        Reply.json(
            {"object": "list", "data": [file_object(other), file_object(mine)], "first_id": other, "last_id": mine}
        ),
        Reply.body(b"the content", content_type="application/octet-stream"),
        Reply.json({"id": mine, "object": "file", "deleted": True}),
    )
    client = make_client(tenant.gateway.api_url, tenant.secret)
    assert client.files.create(file=b"the content", purpose="user_data").id == mine
    assert upload(stranger, b"x", "user_data").status_code == 200
    listed = tenant.http.get("/v1/files").json()
    assert listed == {"object": "list", "data": [file_object(mine)], "first_id": mine, "last_id": mine}
    assert client.files.content(mine).read() == b"the content"
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        refused = stranger.http.request(method, f"/v1/files/{mine}{path}")
        assert (refused.status_code, error_of(refused)["code"]) == (404, "file_not_found")
    assert client.files.delete(mine).deleted
    assert tenant.http.get(f"/v1/files/{mine}").status_code == 404
    assert all(receipt["endpoint"] == "files" for receipt in tenant.receipts())
    assert tenant.used()["day"]["tokens"] == 0


def test_a_batch_is_charged_when_its_end_is_seen(tenant: Tenant, scripted: Upstream, sign_up: SignUp) -> None:
    file_id, batch_id, output_id = (f"{kind}-{tenant.name}" for kind in ("file", "batch", "output"))
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    done = batch_object(batch_id, "completed", output_file_id=output_id, usage=usage)
    scripted.script(
        Reply.json(file_object(file_id)),
        Reply.json(batch_object(batch_id, "validating")),
        Reply.json(batch_object(batch_id, "in_progress")),
        Reply.json(done),
        Reply.json(done),
        Reply.body(b'{"custom_id":"r0"}', content_type="application/octet-stream"),
    )
    assert upload(tenant, lines("gpt-4o", "gpt-4o")).status_code == 200
    assert b'name="model"' not in scripted.requests[0].body
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = receipt_of(tenant, tenant.http.post("/v1/batches", json=asked))["receipt"]
    assert scripted.requests[-1].json() == asked
    assert (made["model"], made["prompt_tokens"], made["completion_tokens"]) == ("gpt-4o", 0, 0)
    looks = [receipt_of(tenant, tenant.http.get(f"/v1/batches/{batch_id}"))["receipt"] for _ in range(3)]
    assert [(look["prompt_tokens"], look["completion_tokens"]) for look in looks] == [(0, 0), (100, 50), (0, 0)]
    stranger = sign_up(tenant.gateway)
    assert stranger.http.get(f"/v1/files/{output_id}/content").status_code == 404
    assert stranger.http.get(f"/v1/batches/{batch_id}").status_code == 404
    refused = stranger.http.post("/v1/batches", json=asked)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "file_not_found")
    assert tenant.http.get(f"/v1/files/{output_id}/content").content == b'{"custom_id":"r0"}'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines("gpt-4o", "gpt-4o-mini"), "one model"),
        (b"hello\n", "no request"),
        (b"\n\n", "no requests"),
        (lines("gpt-4o") + b'{"custom_id":"x","method":"POST","url":"/v1/x","body":{}}', "POST /v1/x"),
        (lines("gpt-4o") + b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions"}', "names a model"),
        (lines("gpt-4o", input=[{"file_id": "file-of-somebody"}]), "names a file"),
        (lines("gpt-4o", max_tokens="many"), "max_tokens"),
        (lines("gpt-4o", fallbacks=["o1-pro"]), "'fallbacks'"),
        (lines("gpt-4o", MODEL="o1-pro"), "'MODEL'"),
    ],
)
def test_a_batchs_file_is_looked_at(tenant: Tenant, scripted: Upstream, content: bytes, said: str) -> None:
    refused = upload(tenant, content)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "file")
    assert said in error_of(refused)["message"]
    assert scripted.requests == []


#: A request that only another reader of the same line finds.
OTHER = b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"o1-pro"}}'
LINE = lines("gpt-4o").strip()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINE.replace(b'"body":', b'"body": {"model":"o1-pro"}, "body":'), "twice"),
        (LINE[:-1] + b', "Body": {"model":"o1-pro"}}', "another spelling"),
        (LINE[:-1] + b', "b\\u006fdy": {"model":"o1-pro"}}', "twice"),
        (LINE[:-1] + b', "u\\u0072l": "/v1/chat/completions"}', "twice"),
        (LINE[:-1] + b', "a":\r%b\r}' % OTHER, "carriage return"),
        (LINE[:-1] + b', "a": "%b",\r"b": 1}' % (b"x" * 60_000), "carriage return"),
    ],
)
def test_a_line_of_a_batchs_file_has_one_reading(tenant: Tenant, scripted: Upstream, content: bytes, said: str) -> None:
    refused = upload(tenant, content)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "file"), refused.text
    assert said in error_of(refused)["message"]
    assert scripted.requests == []


def test_lines_may_end_as_windows_ends_them(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json(file_object(f"file-{tenant.name}")))
    content = LINE + b"\r\n\r\n" + LINE.replace(b'"r0"', b'"r1"').replace(b"}}", b'}, "note": "a\\r\\nb"}') + b"\r\n"
    answered = upload(tenant, content)
    assert answered.status_code == 200, answered.text
    assert content in scripted.requests[0].body


@pytest.mark.parametrize("last", ["gpt-4o", "o1-pro"])
def test_the_file_may_come_before_its_purpose(tenant: Tenant, scripted: Upstream, last: str) -> None:
    """As JavaScript's clients send it. It is looked at all the same."""
    content = lines("gpt-4o", last)
    boundary = b"--x\r\ncontent-disposition: form-data; name="
    form = boundary + b'"file"; filename="a.jsonl"\r\n\r\n' + content + b"\r\n"
    form += boundary + b'"purpose"\r\n\r\nbatch\r\n--x--\r\n'
    if last == "gpt-4o":
        scripted.script(Reply.json(file_object(f"file-{tenant.name}")))
    answer = tenant.http.post("/v1/files", content=form, headers={"content-type": "multipart/form-data; boundary=x"})
    if last == "gpt-4o":
        assert answer.status_code == 200
        assert content in scripted.requests[0].body
    else:
        assert (answer.status_code, error_of(answer)["param"]) == (400, "file")
        assert scripted.requests == []


def test_a_large_batch_file_is_looked_at_to_its_end(tenant: Tenant, scripted: Upstream) -> None:
    content = lines(*["gpt-4o"] * 4000, messages=[{"role": "user", "content": "x" * 400}]) + lines("o1-pro")
    refused = upload(tenant, content)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "file")
    assert "Line 4001" in error_of(refused)["message"]
    assert scripted.requests == []


def test_plans_hold_for_batches(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    shared_gateway.cli("plan", "add", "small-models", "--models", "gpt-4o-mini")
    tenant = sign_up(shared_gateway, "--plan", "small-models")
    refused = upload(tenant, lines("gpt-4o"))
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    scripted.script(Reply.json(file_object(f"file-{tenant.name}")))
    assert upload(tenant, lines("gpt-4o-mini")).status_code == 200


def test_a_batch_names_models_as_its_upstream_does(tenant: Tenant) -> None:
    slug = f"{tenant.name}/renamed"
    tenant.gateway.cli("passport", "add", slug, "--api-model-id", "gpt-4o")
    refused = upload(tenant, lines(slug))
    assert refused.status_code == 400
    assert "must be called 'gpt-4o'" in error_of(refused)["message"]


def test_a_list_is_pages_of_ones_own(tenant: Tenant, scripted: Upstream, sign_up: SignUp) -> None:
    """However many newer files of others there are: none of them shows, and no page is short for them."""
    stranger = sign_up(tenant.gateway)
    assert stranger.http.get("/v1/files").json()["data"] == []
    assert scripted.requests == []
    mine = [f"file-{tenant.name}-{number}" for number in range(3)]
    theirs = [f"file-{stranger.name}-{number}" for number in range(250)]
    scripted.script(*(Reply.json(file_object(name)) for name in mine))
    for _ in mine:
        assert upload(tenant, b"x", "user_data").status_code == 200
    # The newest first, and one's own the oldest but one.
    everything = [*theirs[:120], mine[2], *theirs[120:240], mine[1], mine[0], *theirs[240:]]

    def listed(request: Recorded) -> Reply:
        query = dict(parse_qsl(request.target.partition("?")[2]))
        start = everything.index(query["after"]) + 1 if "after" in query else 0
        page = everything[start : start + int(query["limit"])]
        return Reply.json(
            {
                "object": "list",
                "data": [file_object(name) for name in page],
                "first_id": page[0],
                "last_id": page[-1],
                "has_more": start + len(page) < len(everything),
            }
        )

    scripted.script(*[listed] * 7)
    first = tenant.http.get("/v1/files?limit=2&order=desc").json()
    assert [each["id"] for each in first["data"]] == [mine[2], mine[1]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (mine[2], mine[1], True)
    assert all("order=desc" in request.target for request in scripted.requests[3:])
    second = tenant.http.get(f"/v1/files?limit=2&after={mine[1]}").json()
    assert [each["id"] for each in second["data"]] == [mine[0]]
    assert second["has_more"] is False
    whole = tenant.http.get("/v1/files?limit=3").json()
    assert ([each["id"] for each in whole["data"]], whole["has_more"]) == ([mine[2], mine[1], mine[0]], False)
    assert tenant.http.get("/v1/files?limit=many").status_code == 400
