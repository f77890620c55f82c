"""A real model (SmolLM2-135M in llama.cpp's server), asked directly, through the gateway, and through LiteLLM too.

What the gateway gives has to be what the server gives: text, tool calls, ending, and the usage in the receipt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import Tenant
from tests.support.gateway import Gateway
from tests.support.litellm import LiteLLM
from tests.support.llamacpp import MODEL, LlamaCpp
from tests.support.processes import wait_until

PROMPT = "Write one sentence about the sea."
MESSAGES = [{"role": "user", "content": PROMPT}]
#: No chance, so that the same prompt gives the same answer.
STILL = {"temperature": 0, "seed": 1}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "sea",
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 12}, "deep": {"type": "boolean"}},
            "required": ["name", "deep"],
            "additionalProperties": False,
        },
    },
}


class Answer(NamedTuple):
    """What an answer comes to, whatever its API and its form."""

    text: str
    ending: str
    prompt: int
    cached: int
    completion: int


class Api(NamedTuple):
    """One of the APIs that the server speaks: where, and what to send."""

    path: str
    body: dict[str, Any]


APIS = {
    "chat": Api("/chat/completions", {"messages": MESSAGES, "max_tokens": 24, **STILL}),
    "completions": Api("/completions", {"prompt": "The sea is", "max_tokens": 24, **STILL}),
    "responses": Api("/responses", {"input": PROMPT, "max_output_tokens": 24, **STILL}),
    "messages": Api("/messages", {"messages": MESSAGES, "max_tokens": 24, **STILL}),
    "tools": Api(
        "/chat/completions",
        {"messages": MESSAGES, "max_tokens": 48, "tools": [WEATHER], "tool_choice": "required", **STILL},
    ),
    "grammar": Api("/chat/completions", {"messages": MESSAGES, "max_tokens": 64, "response_format": SCHEMA, **STILL}),
}


@pytest.fixture(scope="module")
def gateway(make_module_gateway: GatewayFactory, llama: LlamaCpp) -> Gateway:
    return make_module_gateway(upstream=llama.api_url).start()


@pytest.fixture(scope="module")
def tenant(gateway: Gateway) -> Iterator[Tenant]:
    tenant = Tenant(gateway, "--plan", "internal")
    yield tenant
    tenant.http.close()


@pytest.fixture(scope="module")
def direct(llama: LlamaCpp) -> Iterator[httpx.Client]:
    # The server closes idle connections after some seconds: this client keeps none.
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=llama.url, timeout=120.0, trust_env=False, limits=limits) as client:
        yield client


def ask(client: httpx.Client, api: Api, *, stream: bool, model: str = MODEL) -> tuple[Answer, httpx.Response]:
    body = {**api.body, "model": model, "stream": stream}
    if stream and api.path.endswith("completions"):
        body["stream_options"] = {"include_usage": True}
    response = client.post(f"/v1{api.path}", json=body, timeout=120.0)
    assert response.status_code == 200, response.text
    return (read_stream if stream else read_whole)(api, response), response


def read_whole(api: Api, response: httpx.Response) -> Answer:
    body = response.json()
    usage = body["usage"]
    if api.path == "/responses":
        text = "".join(part["text"] for item in body["output"] for part in item["content"])
        return Answer(text, body["status"], *_counts(usage, "input_tokens_details"))
    if api.path == "/messages":
        text = "".join(part.get("text", "") for part in body["content"])
        cached = usage.get("cache_read_input_tokens", 0)
        return Answer(text, body["stop_reason"], usage["input_tokens"] + cached, cached, usage["output_tokens"])
    [choice] = body["choices"]
    return Answer(_said(choice.get("message") or choice), choice["finish_reason"], *_counts(usage))


def read_stream(api: Api, response: httpx.Response) -> Answer:
    text, ending, usage = "", "", {}
    for line in response.text.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = json.loads(data)
        kind = event.get("type", "")
        if kind == "response.output_text.delta":
            text += event["delta"]
        elif kind.startswith("response."):
            if kind in ("response.completed", "response.incomplete"):
                usage, ending = event["response"]["usage"], event["response"]["status"]
        elif kind == "content_block_delta":
            text += event["delta"].get("text", "")
        elif kind in ("message_start", "message_delta"):
            usage |= event.get("usage") or event["message"]["usage"]
            ending = event.get("delta", {}).get("stop_reason") or ending
        elif not kind:
            for choice in event.get("choices", ()):
                text += _said(choice.get("delta") or choice)
                ending = choice.get("finish_reason") or ending
            usage = event.get("usage") or usage
    if api.path == "/messages":
        cached = usage.get("cache_read_input_tokens", 0)
        return Answer(text, ending, usage["input_tokens"] + cached, cached, usage["output_tokens"])
    details = "input_tokens_details" if api.path == "/responses" else "prompt_tokens_details"
    return Answer(text, ending, *_counts(usage, details))


def _said(message: dict[str, Any]) -> str:
    """Text, and names and arguments of tool calls."""
    calls = (call.get("function", {}) for call in message.get("tool_calls") or ())
    said = "".join((call.get("name") or "") + (call.get("arguments") or "") for call in calls)
    return (message.get("content") or message.get("text") or "") + said


def _counts(usage: dict[str, Any], details: str = "prompt_tokens_details") -> tuple[int, int, int]:
    cached = (usage.get(details) or {}).get("cached_tokens", 0)
    prompt, completion = ("prompt_tokens", "completion_tokens")
    if prompt not in usage:
        prompt, completion = ("input_tokens", "output_tokens")
    return usage[prompt], cached, usage[completion]


def receipt_of(tenant: Tenant, response: httpx.Response) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        answer = tenant.http.get(f"/v1/receipts/{response.headers['x-trustgate-receipt']}")
        if answer.status_code == 200:
            found.append(answer.json()["receipt"])
        return bool(found)

    wait_until(is_there, "the receipt")
    return found[0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", APIS)
def test_an_answer_through_the_gateway_is_the_servers(
    name: str, stream: bool, tenant: Tenant, direct: httpx.Client
) -> None:
    api = APIS[name]
    ask(direct, api, stream=stream)  # from now on the server has the prompt in its cache
    expected, _ = ask(direct, api, stream=stream)
    got, response = ask(tenant.http, api, stream=stream)
    assert got == expected
    assert expected.text
    receipt = receipt_of(tenant, response)
    counted = (receipt["prompt_tokens"], receipt["cached_tokens"], receipt["completion_tokens"])
    assert counted == (expected.prompt, expected.cached, expected.completion)
    assert (receipt["usage_source"], receipt["finish"]) == ("provider", "complete")
    if name == "grammar":
        assert set(json.loads(got.text)) == {"name", "deep"}


def test_a_stream_without_usage_asked_for_is_metered_all_the_same(tenant: Tenant, direct: httpx.Client) -> None:
    body = {**APIS["chat"].body, "model": MODEL, "stream": True}
    expected, _ = ask(direct, APIS["chat"], stream=True)
    response = tenant.http.post("/v1/chat/completions", json=body, timeout=120.0)
    assert '"usage"' not in response.text.replace('"usage":null', "")
    receipt = receipt_of(tenant, response)
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (expected.prompt, expected.completion)
    assert receipt["usage_source"] == "provider"


def test_a_client_that_leaves_frees_the_server(tenant: Tenant, llama: LlamaCpp) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 3_000, "ignore_eos": True, "stream": True, **STILL}
    with tenant.http.stream("POST", "/v1/chat/completions", json=body, timeout=120.0) as response:
        assert response.status_code == 200
        pieces = response.iter_lines()
        while "content" not in next(pieces):
            pass
    receipt = receipt_of(tenant, response)
    assert (receipt["finish"], receipt["usage_source"]) == ("client_gone", "estimate")
    assert receipt["completion_tokens"] > 0
    # Both of the server's slots are idle again: nothing is being generated for the client that left.
    wait_until(
        lambda: all(not slot["is_processing"] for slot in httpx.get(f"{llama.url}/slots").json()), "an idle server"
    )


def test_what_the_server_cannot_do_is_no_fault_of_the_server(tenant: Tenant, direct: httpx.Client) -> None:
    """Its refusals pass with their reason, and however many there are, the model goes on serving."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    wrong = {"model": MODEL, "messages": [{"role": "user", "content": [image]}], "max_tokens": 4}
    for _ in range(7):
        refused = tenant.http.post("/v1/chat/completions", json=wrong)
        assert refused.status_code >= 400
        assert "image" in refused.json()["error"]["message"]
        embedding = tenant.http.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
        assert embedding.status_code == 501
        assert "embeddings" in embedding.json()["error"]["message"]
    answer, _ = ask(tenant.http, APIS["chat"], stream=False)
    assert answer.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ["chat", "tools"])
def test_behind_litellm_it_is_the_same(name: str, stream: bool, behind: Tenant, direct: httpx.Client) -> None:
    api = APIS[name]
    ask(direct, api, stream=stream)
    expected, _ = ask(direct, api, stream=stream)
    got, response = ask(behind.http, api, stream=stream, model=f"behind-{MODEL}")
    assert (got.text, got.ending, got.prompt, got.completion) == (
        *(expected.text, expected.ending, expected.prompt, expected.completion),
    )
    receipt = receipt_of(behind, response)
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (expected.prompt, expected.completion)
    assert (receipt["usage_source"], receipt["finish"]) == ("provider", "complete")


@pytest.fixture(scope="module")
def behind(make_module_gateway: GatewayFactory, litellm_and_llama: LiteLLM) -> Iterator[Tenant]:
    """A tenant of a gateway before LiteLLM before the model."""
    gateway = make_module_gateway(
        upstream=litellm_and_llama.api_url,
        arguments=("--upstream-key-env", "UPSTREAM_KEY"),
        environment={"UPSTREAM_KEY": litellm_and_llama.master_key},
    ).start()
    tenant = Tenant(gateway, "--plan", "internal")
    yield tenant
    tenant.http.close()


@pytest.fixture(scope="module")
def litellm_and_llama(tmp_path_factory: pytest.TempPathFactory, llama: LlamaCpp) -> Iterator[LiteLLM]:
    """A LiteLLM proxy whose model is the real one."""
    parameters = {"model": f"openai/{MODEL}", "api_base": llama.api_url, "api_key": "sk-none"}
    entry = {"model_name": f"behind-{MODEL}", "litellm_params": parameters}
    proxy = LiteLLM(tmp_path_factory.mktemp("litellm-and-llama"), [entry])
    proxy.start()
    yield proxy
    proxy.stop()


def test_the_books_balance(gateway: Gateway) -> None:
    assert "balance" in gateway.cli("doctor", "--books").stdout
