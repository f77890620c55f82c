"""Requests as clients write them: other paths, other headers for the key, compressed bodies, whole floats."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import httpx
import pytest
from backports import zstd

from tests.gateway.conftest import HELLO, Tenant
from tests.gateway.test_path import error_of, receipt_of
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream
from trustgate.receipts.receipt import commitment

CHAT = {"model": "gpt-4o", "messages": HELLO}


@pytest.fixture(scope="module")
def one(shared_gateway: Gateway) -> Iterator[Tenant]:
    tenant = Tenant(shared_gateway)
    yield tenant
    tenant.http.close()


# paths


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1/chat/completions/", "/openai/v1/chat/completions", "/openai/chat/completions"]
)
def test_a_path_that_means_one_thing_is_served_as_that(one: Tenant, scripted: Upstream, path: str) -> None:
    assert one.http.post(path, json=CHAT).status_code == 200
    assert scripted.requests[-1].target == "/v1/chat/completions"


def test_azures_deployment_is_the_model(one: Tenant, scripted: Upstream) -> None:
    path = "/openai/deployments/gpt-4o-mini"
    answered = one.http.post(f"{path}/chat/completions?api-version=2024-10-21", json={"messages": HELLO})
    assert answered.status_code == 200
    assert scripted.requests[-1].target == "/v1/chat/completions"
    assert scripted.requests[-1].json() == {"messages": HELLO, "model": "gpt-4o-mini"}
    # The path's name counts, not the body's.
    assert one.http.post(f"{path}/chat/completions", json=CHAT).status_code == 200
    assert scripted.requests[-1].json()["model"] == "gpt-4o-mini"
    assert [receipt["model"] for receipt in one.receipts()[-2:]] == ["gpt-4o-mini"] * 2
    scripted.script(Reply.json({"text": "Hi"}))
    form = {"file": ("a.mp3", b"\xff\xfb\x90\x00" * 200)}
    assert one.http.post("/openai/deployments/whisper/audio/transcriptions", files=form).status_code == 200
    assert b'name="model"\r\n\r\nwhisper\r\n' in scripted.requests[-1].body
    for name in ("openai/gpt-4o", "openai%2Fgpt-4o"):
        assert one.http.post(f"/openai/deployments/{name}/chat/completions", json=CHAT).status_code == 200
        assert one.receipts()[-1]["model"] == "openai/gpt-4o"
    broken = one.http.post(f"{path}/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, error_of(broken)["code"]) == (400, "invalid_json")


def test_models_have_their_aliases(one: Tenant) -> None:
    listed = one.http.get("/v1/models").json()
    for path in ("/models", "/models/", "/openai/v1/models", "/openai/models?api-version=1"):
        assert one.http.get(path).json() == listed
    assert one.http.get("/models/gpt-4o").json()["id"] == "gpt-4o"


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/embeddings", "/v1/embeddings"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/proxy/openai/v1/files/file-1/content", "/v1/files/file-1/content"),
    ],
)
def test_a_wrong_base_url_is_answered_with_the_right_one(one: Tenant, path: str, there: str) -> None:
    refused = one.http.post(path, json={})
    assert (refused.status_code, error_of(refused)["code"]) == (404, "unknown_url")
    assert f"There is {there}: set the client's base URL" in error_of(refused)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/organization/users", 403, "operators_only"),
        ("POST", "/v1/projects/p/groups", 403, "operators_only"),
        ("POST", "/v1/realtime/client_secrets", 400, "not_served"),
        ("GET", "/v1/nothing/at/all", 404, "unknown_url"),
    ],
)
def test_what_is_not_served_is_refused_with_its_reason(
    one: Tenant, method: str, path: str, status: int, code: str
) -> None:
    refused = one.http.request(method, path)
    assert (refused.status_code, error_of(refused)["code"]) == (status, code)


def test_a_websocket_elsewhere_than_on_responses_is_refused_at_once(one: Tenant) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "x"}
    refused = one.http.get("/v1/embeddings", headers=upgrade)
    assert (refused.status_code, error_of(refused)["code"]) == (426, "upgrade_required")
    assert refused.headers["upgrade"] == "HTTP/1.1"


def test_what_is_looked_for_in_vain_is_counted(one: Tenant) -> None:
    one.http.get("/v1/looked/for")
    one.http.get("/v1/models", headers={"authorization": "Bearer tgk_unknown"})
    metrics = httpx.get(f"{one.gateway.base_url}/metrics", trust_env=False).text
    assert 'trustgate_errors_total{code="unknown_url"}' in metrics
    assert 'trustgate_errors_total{code="invalid_api_key"}' in metrics


# keys and dialects


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/usage", "/v1/chat/completions"])
def test_a_key_is_a_key_in_each_header_on_every_route(one: Tenant, name: str, path: str) -> None:
    url = one.gateway.base_url + path
    method, body = ("POST", CHAT) if path.endswith("completions") else ("GET", None)
    answered = httpx.request(method, url, json=body, headers={name: one.secret}, trust_env=False)
    assert answered.status_code == 200
    two = {name: one.secret, "authorization": "Bearer tgk_other"}
    assert httpx.request(method, url, json=body, headers=two, trust_env=False).status_code == 401


def test_anthropics_clients_get_models_and_errors_in_their_form(one: Tenant) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    listed = one.http.get("/v1/models?limit=1", headers=headers).json()
    [model] = listed["data"]
    assert (model["type"], model["id"], listed["has_more"]) == ("model", listed["first_id"], True)
    rest = one.http.get(f"/v1/models?after_id={listed['last_id']}", headers=headers).json()
    assert model not in rest["data"] and rest["data"]
    assert one.http.get(f"/v1/models/{model['id']}", headers=headers).json() == model
    for path in ("/v1/models/endpoint:nothing", "/v1/nothing"):
        refused = one.http.get(path, headers=headers).json()
        assert (refused["type"], refused["error"]["type"]) == ("error", "not_found_error")


# bodies


def compressors() -> dict[str, Any]:
    raw = zlib.compressobj(wbits=-15)
    return {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "deflate raw": lambda data: raw.compress(data) + raw.flush(),
        "br": brotli.compress,
        "zstd": zstd.compress,
    }


@pytest.mark.parametrize("coding", list(compressors()))
def test_a_compressed_body_is_its_content(one: Tenant, scripted: Upstream, coding: str) -> None:
    body = json.dumps({**CHAT, "messages": [{"role": "user", "content": "Hello! " * 9000}]}).encode()
    assert len(body) < 100_000
    headers = {"content-type": "application/json", "content-encoding": coding.split(" ", maxsplit=1)[0]}
    answered = one.http.post("/v1/chat/completions", content=compressors()[coding](body), headers=headers)
    assert answered.status_code == 200, answered.text
    assert scripted.requests[-1].json() == json.loads(body)
    assert scripted.requests[-1].header("content-encoding") is None
    # The receipt commits to the content.
    detail = receipt_of(one, answered)
    secret = bytes.fromhex(detail["secret"])
    assert detail["receipt"]["request_commitment"] == commitment(secret, "request", hashlib.sha256(body).digest())


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        # Without a time in it: every process that runs tests has to make the same list of them.
        ("gzip", gzip.compress(b" " * 50_000_000, mtime=0), 413, "request_too_large"),
        ("br", brotli.compress(b" " * 50_000_000), 413, "request_too_large"),
        ("zstd", zstd.compress(b" " * 50_000_000), 413, "request_too_large"),
        ("gzip", gzip.compress(b"{}" * 400, mtime=0)[:-9], 400, "invalid_content_encoding"),
        ("gzip", b"{}", 400, "invalid_content_encoding"),
        ("compress", b"{}", 415, "unsupported_content_encoding"),
        ("gzip, gzip", b"{}", 415, "unsupported_content_encoding"),
    ],
    ids=["gzip bomb", "br bomb", "zstd bomb", "half a gzip", "no gzip", "compress", "gzip twice"],
)
def test_a_compressed_body_is_taken_within_bounds(
    one: Tenant, scripted: Upstream, coding: str, body: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    refused = one.http.post("/v1/chat/completions", content=body, headers=headers)
    assert (refused.status_code, error_of(refused)["code"]) == (status, code)
    if status == 415:
        assert refused.headers["accept-encoding"] == "gzip, deflate, br, zstd"
    assert scripted.requests == []


def test_a_compressed_body_without_content_is_taken_within_bounds(one: Tenant, scripted: Upstream) -> None:
    """Its length is not told, and nothing comes of it that could be counted."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    body = (gzip.compress(b"") * 500 for _ in range(12))
    refused = one.http.post("/v1/chat/completions", content=body, headers=headers)
    assert (refused.status_code, error_of(refused)["code"]) == (413, "request_too_large")
    assert scripted.requests == []


def test_a_whole_float_is_an_integer(one: Tenant, scripted: Upstream) -> None:
    assert one.http.post("/v1/chat/completions", json={**CHAT, "n": 1.0, "max_tokens": 100.0}).status_code == 200
    text = {"model": "gpt-4o", "prompt": "x", "best_of": 0, "n": 1.0, "logprobs": 2.0, "max_tokens": 9.0}
    assert one.http.post("/v1/completions", json=text).status_code == 200
    refused = one.http.post("/v1/chat/completions", json={**CHAT, "n": 1.5})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "n")
