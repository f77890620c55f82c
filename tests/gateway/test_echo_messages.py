"""The built-in model's Messages behind a gateway, as Anthropic's SDK sees them: its own types judge every event."""

from __future__ import annotations

import json
import subprocess

from tests import environments
from tests.conftest import GatewayFactory
from tests.support.processes import clean_environment
from trustgate.models.echo import ECHO_MODEL

_PROGRAM = """
import json, sys
import anthropic, pydantic
from anthropic.types import Message, RawMessageStreamEvent

address, key, model = json.loads(sys.stdin.read())
client = anthropic.Anthropic(base_url=address, api_key=key, max_retries=0)
event_type = pydantic.TypeAdapter(RawMessageStreamEvent)
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [{"name": "get_weather", "input_schema": schema}]
said = [{"role": "user", "content": 'call get_weather {"city": "Oslo"}'}]
ask = {"model": model, "max_tokens": 99}

kinds = []
for event in client.messages.create(messages=said, tools=tools, stream=True, **ask):
    event_type.validate_python(event.to_dict())
    kinds.append(event.type)
assert kinds == ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
                 "message_stop"], kinds
with client.messages.stream(messages=said, tools=tools, **ask) as stream:
    made = stream.get_final_message()
whole = client.messages.create(messages=said, tools=tools, **ask)
for answer in (made, whole):
    Message.model_validate(answer.to_dict())
    [block] = answer.content
    assert (answer.stop_reason, block.type, block.input) == ("tool_use", "tool_use", {"city": "Oslo"}), answer
assert made.usage.output_tokens == whole.usage.output_tokens > 0
counted = client.messages.count_tokens(model=model, messages=said, tools=tools)
assert counted.input_tokens == whole.usage.input_tokens

result = {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "12 °C"}]}
said += [{"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
ended = client.messages.create(messages=said, tools=tools, **ask)
assert (ended.stop_reason, ended.content[0].text) == ("end_turn", "12 °C"), ended

hello = [{"role": "user", "content": "one two three"}]
with client.messages.stream(messages=hello, system="Be kind.", **ask) as stream:
    assert "".join(stream.text_stream) == "one two three"
stopped = client.messages.create(messages=hello, stop_sequences=["three"], **ask)
assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", "three", "one two ")
cut = client.messages.create(messages=hello, model=model, max_tokens=1)
assert (cut.stop_reason, cut.content[0].text) == ("max_tokens", "one")
forced = client.messages.create(messages=hello, tools=tools, tool_choice={"type": "any"}, **ask)
assert forced.content[0].input == {"city": "text"}
try:
    client.messages.create(messages=hello, tools=tools, tool_choice={"type": "tool", "name": "none"}, **ask)
except anthropic.BadRequestError as error:
    assert "not among the tools" in str(error), error
else:
    raise AssertionError("a tool that is not there was called")
print("done")
"""


def test_messages_as_anthropics_sdk_sees_them(make_gateway: GatewayFactory) -> None:
    python = environments.find_clients()
    assert python is not None, "the clients are not installed: python3 tests --install-only"
    gateway = make_gateway(upstream="builtin:echo").start()
    given = [gateway.base_url, gateway.add_tenant("echo", plan="internal"), ECHO_MODEL]
    done = subprocess.run(
        [str(python), "-c", _PROGRAM],
        env=clean_environment({}),
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-4000:]
