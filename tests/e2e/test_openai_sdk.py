"""The official OpenAI SDK on a real gateway in front of a real LiteLLM proxy: nothing in between is pretended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conftest import ClientFactory
from tests.support.gateway import Gateway
from tests.support.litellm import EMBEDDING, REPLY

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who are you?"}]
GREETING = "Grüße aus Köln, 你好 👋"


class Counter:
    """Counts what the SDK sends, its own retries among it."""

    def __init__(self) -> None:
        self.requests = 0
        self.http = httpx.Client(event_hooks={"request": [self._count]})

    def _count(self, request: httpx.Request) -> None:
        self.requests += 1


@pytest.fixture
def counter() -> Counter:
    return Counter()


def get_json(client: openai.OpenAI, path: str) -> Any:
    return json.loads(client.get(path, cast_to=httpx.Response).content)


# answers


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert answer.choices[0].message.content == REPLY
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_response_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=HELLO, extra_headers={"x-request-id": "my-own-id-1"}
    )
    assert raw.headers["x-request-id"] == "my-own-id-1"
    assert re.fullmatch(r"[a-z]+_[0-9a-f]{32}", raw.headers["x-trustgate-receipt"])
    limit, remaining = (int(raw.headers[f"x-ratelimit-{what}-requests"]) for what in ("limit", "remaining"))
    assert limit == 50_000
    assert remaining == limit - 1
    assert raw.headers["x-ratelimit-reset-requests"]


@pytest.mark.parametrize("asks_for_usage", [True, False])
def test_chat_streamed(client: openai.OpenAI, asks_for_usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, **options))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == GREETING
    # The gateway asks for usage itself; who did not ask for it must not see it.
    assert [chunk for chunk in chunks if chunk.usage] == (chunks[-1:] if asks_for_usage else [])


async def test_chat_streamed_to_the_asynchronous_client(served: Gateway, tenant: str) -> None:
    async with openai.AsyncOpenAI(base_url=served.api_url, api_key=served.add_tenant(tenant)) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        text = "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])
    assert text == GREETING


def test_completions(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello")
    assert plain.choices[0].text == REPLY
    stream = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello", stream=True)
    assert "".join(choice.text or "" for chunk in stream for choice in chunk.choices) == REPLY


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"], encoding_format="float")
    assert answer.data[0].embedding == EMBEDDING
    assert client.embeddings.create(model="text-embedding-3-small", input="one").data[0].embedding == EMBEDDING


def test_models(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"gpt-4o", "gpt-4o-mini", "text-embedding-3-small"} <= listed
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"


# refusals


def test_an_unknown_key(served: Gateway, counter: Counter, make_client: ClientFactory) -> None:
    stranger = make_client(served.api_url, "sk-nobody", http_client=counter.http)
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert refused.value.code == "invalid_api_key"
    assert counter.requests == 1


def test_a_plan_without_streaming(sign_up: Callable[..., openai.OpenAI], counter: Counter) -> None:
    client = sign_up(plan="free", http_client=counter.http)
    assert client.chat.completions.create(model="gpt-4o-mini", messages=HELLO).choices
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True)
    assert counter.requests == 2


def test_a_used_up_quota_is_not_retried(
    served: Gateway, client: openai.OpenAI, tenant: str, counter: Counter, make_client: ClientFactory
) -> None:
    limited = served.cli_json("key", "create", tenant, "--requests-per-day", "1")["key"]["secret"]
    once = make_client(served.api_url, limited, http_client=counter.http)
    assert once.chat.completions.create(model="gpt-4o-mini", messages=HELLO).choices
    with pytest.raises(openai.RateLimitError) as refused:
        once.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert counter.requests == 2, "the SDK retried what cannot succeed before tomorrow"
    # The tenant's other key has its own limits.
    assert client.chat.completions.create(model="gpt-4o-mini", messages=HELLO).choices


def test_a_path_that_does_not_exist(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.get("/no/such/path", cast_to=object)
    assert isinstance(refused.value.body, dict)


def test_a_member_of_the_wrong_type(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_body={"max_tokens": "many"})
    assert refused.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("rate-limited", openai.RateLimitError),
        ("too-long", openai.BadRequestError),
        ("filtered", openai.BadRequestError),
        ("broken", openai.InternalServerError),
        ("no-such-model", openai.BadRequestError),  # LiteLLM knows it not, and says so with a 400
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_upstream_refuses(
    sign_up: Callable[..., openai.OpenAI], model: str, error: type[openai.APIStatusError], stream: bool
) -> None:
    client = sign_up(max_retries=0)
    with pytest.raises(error) as refused:
        client.chat.completions.create(model=model, messages=HELLO, stream=stream)
    body = refused.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    assert "127.0.0.1" not in json.dumps(body)


def test_a_revoked_key(served: Gateway, tenant: str, client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="gpt-4o-mini", messages=HELLO).choices
    [key] = served.cli_json("key", "list", tenant)["keys"]
    served.cli("key", "revoke", key["id"])
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


# the books


def test_usage_and_receipt_of_a_request(
    served: Gateway, tenant: str, client: openai.OpenAI, make_client: ClientFactory
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    usage = raw.parse().usage
    assert usage is not None
    receipt_id = raw.headers["x-trustgate-receipt"]

    receipt = get_json(client, f"/receipts/{receipt_id}")["receipt"]
    assert receipt["id"] == receipt_id
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert (receipt["finish"], receipt["status"], receipt["stream"]) == ("complete", 200, False)
    assert receipt["usage_source"] == "provider"
    assert served.cli_json("receipt", "show", receipt_id)["receipt"] == receipt

    [row] = get_json(client, "/usage?by=model")["data"]
    assert (row["group"], row["requests"], row["prompt_tokens"]) == ("gpt-4o-mini", 1, usage.prompt_tokens)
    [same] = served.cli_json("usage", "--tenant", tenant, "--by", "model")["usage"]
    assert same == {**row, "name": row["group"]}

    stranger = make_client(served.api_url, served.add_tenant(f"{tenant}-stranger"))
    with pytest.raises(openai.NotFoundError):
        get_json(stranger, f"/receipts/{receipt_id}")


def test_a_stream_is_metered_by_the_upstream_though_the_client_did_not_ask(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=HELLO, stream=True
    ) as response:
        receipt_id = response.headers["x-trustgate-receipt"]
        assert response.read().endswith(b"data: [DONE]\n\n")
    receipt = get_json(client, f"/receipts/{receipt_id}")["receipt"]
    assert receipt["usage_source"] == "provider"
    assert receipt["completion_tokens"] > 0
    assert (receipt["stream"], receipt["finish"]) == (True, "complete")
