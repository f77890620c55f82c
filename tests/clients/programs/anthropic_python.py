"""anthropic for Python: Messages, streamed and not, on the gateway's own address."""

from __future__ import annotations

from typing import Any

import anthropic

from tests.clients.programs.report import CALLS, HELLO, REPLY, TEXT, TOOLS, equal, given, raises, report

client: Any = anthropic.Anthropic(base_url=given.origin, api_key=given.key)
_TOOLS = [{"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in TOOLS]
_ASK: dict[str, Any] = {"max_tokens": 64, "messages": HELLO}


def messages() -> None:
    answer = client.messages.create(model="gpt-4o-mini", **_ASK)
    equal(answer.content[0].text, REPLY)
    assert answer.usage.input_tokens > 0
    equal(client.messages.count_tokens(model="scripted", messages=HELLO).input_tokens, 9)
    # The same key as a bearer token.
    bearer: Any = anthropic.Anthropic(base_url=given.origin, auth_token=given.key, api_key=None)
    equal(bearer.messages.create(model="scripted", **_ASK).content[0].text, TEXT)


def messages_stream() -> None:
    with client.messages.stream(model="scripted", **_ASK) as events:
        equal("".join(events.text_stream), TEXT)
        equal(events.get_final_message().usage.output_tokens, 5)


def tools() -> None:
    answer = client.messages.create(model="scripted", tools=_TOOLS, **_ASK)
    equal([(block.name, block.input) for block in answer.content], CALLS)


def tools_stream() -> None:
    with client.messages.stream(model="scripted", tools=_TOOLS, **_ASK) as events:
        equal([(block.name, block.input) for block in events.get_final_message().content], CALLS)


def wrong_key() -> None:
    with raises(anthropic.AuthenticationError, status=401):
        anthropic.Anthropic(base_url=given.origin, api_key=given.wrong_key).messages.create(model="scripted", **_ASK)


def quota() -> None:
    spent = anthropic.Anthropic(base_url=given.origin, api_key=given.spent_key)
    with raises(anthropic.RateLimitError, status=429):
        spent.messages.create(model="scripted", **_ASK)


def broken_stream() -> None:
    with raises(anthropic.APIError), client.messages.stream(model="breaks-off", **_ASK) as events:
        for _ in events:
            pass


def hang_up() -> None:
    with client.messages.create(model="endless", stream=True, **_ASK) as events:
        equal(next(iter(events)).type, "message_start")


if __name__ == "__main__":
    report(
        {
            "messages": messages,
            "messages_stream": messages_stream,
            "tools": tools,
            "tools_stream": tools_stream,
            "wrong_key": wrong_key,
            "quota": quota,
            "broken_stream": broken_stream,
            "hang_up": hang_up,
        }
    )
