"""A corpus of damaged requests: every endpoint refuses each in its own API's form, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import Tenant
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint

_JSON = {"content-type": "application/json"}
_FORM = {"content-type": "multipart/form-data; boundary=x"}


def nested(depth: int) -> bytes:
    return b'{"model":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


#: What is wrong with any JSON body.
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \r\n\t ",
    "null": b"null",
    "a number": b"1e999",
    "an array": b'[{"model": "gpt-4o"}]',
    "a string": b'"model"',
    "half an object": b'{"model": "gpt-4o", "messages": [{"role": "user", "con',
    "two objects": b'{"model": "gpt-4o"}{"model": "gpt-4o"}',
    "something behind it": b'{"model": "gpt-4o"} x',
    "a trailing comma": b'{"model": "gpt-4o",}',
    "single quotes": b"{'model': 'gpt-4o'}",
    "a comment": b'{"model": "gpt-4o" /* the best */}',
    "NaN": b'{"model": "gpt-4o", "temperature": NaN}',
    "a byte order mark": b'\xef\xbb\xbf{"model": "gpt-4o"}',
    "UTF-16": '{"model": "gpt-4o"}'.encode("utf-16"),
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "half a character": b'{"model": "\xe4\xbd',
    "overlong UTF-8": b'{"model": "\xc0\xaf"}',
    "a control character": b'{"model": "a\x00b"}',
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a bad escape": b'{"model": "\\x41"}',
    "deep nesting": nested(50_000),
    "deep brackets": b"[" * 90_000,
    "a model that is no text": b'{"model": {"name": "gpt-4o"}, "input": "x"}',
    "an empty model": b'{"model": "", "messages": [], "input": "", "prompt": ""}',
    "an endless model": b'{"model": "' + b"m" * 90_000 + b'"}',
    "an endless number": b'{"model": ' + b"9" * 50_000 + b"}",
    "HTML": b"<html><body>hello</body></html>",
    "a form": b"model=gpt-4o&stream=true",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff",
}

#: What is wrong with any form.
FORMS: dict[str, bytes] = {
    "nothing": b"",
    "no boundary": b"hello",
    "another boundary": b'--y\r\ncontent-disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--y--\r\n',
    "no end": b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--x\r\n',
    "no name": b"--x\r\ncontent-disposition: form-data\r\n\r\ngpt-4o\r\n--x--\r\n",
    "no head": b"--x\r\n\r\ngpt-4o\r\n--x--\r\n",
    "no UTF-8": b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n\xff\xfe\r\n--x--\r\n',
    "bare line feeds": b'--x\ncontent-disposition: form-data; name="model"\n\ngpt-4o\n--x--\n',
    "two models": b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\na\r\n' * 2 + b"--x--\r\n",
    "an endless head": b"--x\r\n" + b"a: b\r\n" * 9000,
    "many parts": b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n' * 600 + b"--x--\r\n",
    "something at its end": b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n--x--more',
}

HEADS: dict[str, dict[str, str]] = {
    "a type that is none": {"content-type": "nonsense"},
    "text": {"content-type": "text/plain"},
    "an encoding": {**_JSON, "content-encoding": "gzip"},
    "an endless header": {**_JSON, "x-long": "a" * 60_000},
    "an odd request id": {**_JSON, "x-request-id": "<script>" * 99},
}

WITH_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.body != "none"]


def problem(endpoint: Endpoint, response: httpx.Response) -> str | None:
    """What is wrong with a refusal."""
    if not 400 <= response.status_code < 500:
        return f"status {response.status_code}"
    if response.headers["content-type"] != "application/json" or not response.headers["x-request-id"]:
        return f"headers {response.headers}"
    answer: Any = json.loads(response.content)
    members = {"message", "type"} if endpoint.path.startswith("/v1/messages") else {"message", "type", "param", "code"}
    if set(answer["error"]) != members or not answer["error"]["message"]:
        return f"form {response.text[:200]}"
    return f"too long: {len(response.content)}" if len(response.content) > 2000 else None


@pytest.fixture(scope="module")
def http(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    """One tenant's client, for all of them."""
    tenant = Tenant(shared_gateway)
    yield tenant.http
    tenant.http.close()


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=lambda endpoint: endpoint.path)
def test_damaged_bodies(http: httpx.Client, scripted: Upstream, endpoint: Endpoint) -> None:
    is_form = endpoint.body == "form"
    corpus = dict(FORMS if is_form else BODIES)
    # Where no member is needed, nothing is wrong with an object that is empty or a form that goes on behind its end.
    needs_nothing = endpoint.is_unmetered
    if needs_nothing:
        corpus.pop("something at its end", None)
    requests = [(what, body, _FORM if is_form else _JSON) for what, body in corpus.items()]
    requests += [(what, b"null" if needs_nothing else b"{}", head) for what, head in HEADS.items()]
    wrong = {}
    for what, body, head in requests:
        path = endpoint.path.replace("{id}", "resp_x")
        wrong[what] = problem(endpoint, http.request(endpoint.method, path, content=body, headers=head))
    assert {what: why for what, why in wrong.items() if why} == {}
    assert scripted.requests == [], "none of them was sent on"


@pytest.mark.parametrize("path", ["/v1/chat/completions%00", "/v1//chat", "/v1/%2e%2e/", "/v1/ünï", "/" + "a" * 9000])
def test_damaged_paths(http: httpx.Client, path: str) -> None:
    response = http.post(path, json={})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "unknown_url"
    assert len(error["message"]) < 300
