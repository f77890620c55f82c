"""The LiteLLM fixture answers as the end-to-end tests expect."""

from __future__ import annotations

import openai
import pytest

from tests.conftest import ClientFactory
from tests.support.litellm import EMBEDDING, REPLY, LiteLLM


@pytest.fixture
def client(litellm: LiteLLM, make_client: ClientFactory) -> openai.OpenAI:
    return make_client(litellm.api_url, litellm.master_key, max_retries=0)


def test_it_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == REPLY
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0


def test_it_streams_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Grüße aus Köln, 你好 👋"
    assert chunks[-1].usage is not None


def test_it_completes_and_embeds(client: openai.OpenAI) -> None:
    assert client.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi").choices[0].text == REPLY
    embedded = client.embeddings.create(model="text-embedding-3-small", input="hi", encoding_format="float")
    assert embedded.data[0].embedding == EMBEDDING


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("rate-limited", openai.RateLimitError),
        ("too-long", openai.BadRequestError),
        ("filtered", openai.BadRequestError),
        ("broken", openai.InternalServerError),
        ("unknown", openai.BadRequestError),
    ],
)
def test_it_fails_on_request(client: openai.OpenAI, model: str, error: type[openai.APIStatusError]) -> None:
    with pytest.raises(error):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])


def test_it_wants_its_master_key(litellm: LiteLLM, make_client: ClientFactory) -> None:
    # Without a database to look other keys up in, it says 400 where one would expect 401.
    with pytest.raises(openai.BadRequestError, match="No connected db"):
        make_client(litellm.api_url, "sk-wrong", max_retries=0).models.list()
