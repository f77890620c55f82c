"""The younger APIs through a real gateway in front of a real LiteLLM proxy, which translates them for its models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import Gateway
from tests.support.litellm import REPLY

SignUp = Callable[..., openai.OpenAI]


def test_responses(client: openai.OpenAI, served: Gateway) -> None:
    answer = client.responses.create(model="gpt-4o-mini", input="Hello, who are you?")
    assert answer.output_text == REPLY
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


def test_a_server_that_fails_at_one_thing_is_still_asked_for_others(sign_up: SignUp) -> None:
    """Its mocked models cannot stream a response: LiteLLM says 500, again and again."""
    client = sign_up(max_retries=0)
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="gpt-4o", input="Hello", stream=True)
    messages: Any = [{"role": "user", "content": "Hello"}]
    assert client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content


def test_messages(served: Gateway, tenant: str) -> None:
    headers = {"x-api-key": served.add_tenant(tenant), "anthropic-version": "2023-06-01"}
    body: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
    with httpx.Client(base_url=served.api_url, headers=headers, trust_env=False, timeout=60) as http:
        whole = http.post("/messages", json=body)
        assert whole.status_code == 200, whole.text
        assert whole.json()["content"][0]["text"] == REPLY
        streamed = http.post("/messages", json={**body, "stream": True})
    assert streamed.status_code == 200, streamed.text
    # LiteLLM does not stream what it mocks on this route: its whole answer becomes the stream that was asked for.
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in (events[0], events[-1])] == ["message_start", "message_stop"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == REPLY
    for receipt in served.cli_json("receipt", "list", "--tenant", tenant)["receipts"]:
        assert receipt["receipt"]["endpoint"] == "messages"
        assert receipt["receipt"]["completion_tokens"] > 0
