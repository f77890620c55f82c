"""``llm``: the command, with nothing but its base URL and key set."""

from __future__ import annotations

import json
import os

from click.testing import CliRunner
from llm.cli import cli

from tests.clients.programs.report import REPLY, TEXT, equal, folder, given, report

_EXTRA = f"""\
- model_id: scripted
  api_key_name: openai
  model_name: scripted
  api_base: {given.url}
  supports_tools: true
  supports_schema: true
- model_id: breaks-off
  api_key_name: openai
  model_name: breaks-off
  api_base: {given.url}
- model_id: gpt-3.5-turbo-instruct-here
  api_key_name: openai
  model_name: gpt-3.5-turbo-instruct
  api_base: {given.url}
  completion: true
"""
_TOOL = "def weather(city: str, days: int) -> str:\n    return f'{city} {days} sunny'\n"


def llm(*arguments: str, fails: bool = False) -> str:
    """Run the command in this process: to start it takes it seconds. Gives what it says."""
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code != 0) is fails, f"exit code {done.exit_code}: {done.output}"
    return (done.output if fails else done.stdout).strip()


def chat() -> None:
    equal(llm("-m", "gpt-4o-mini", "--no-stream", "Hello"), REPLY)


def stream() -> None:
    equal(llm("-m", "gpt-4o", "Hello"), TEXT)


def usage() -> None:
    llm("-m", "gpt-4o", "Hello")
    assert json.loads(llm("logs", "-n", "1", "--json"))[0]["output_tokens"] > 0


def tools() -> None:
    equal(llm("-m", "scripted", "--no-stream", "--functions", _TOOL, "Hello"), TEXT)


def tools_stream() -> None:
    said = llm("-m", "scripted", "--functions", _TOOL, "--td", "Hello")
    assert TEXT in said, said


def schema() -> None:
    equal(json.loads(llm("-m", "scripted", "--schema", "city, days int", "Hello")), {"city": "Köln", "days": 3})


def completions() -> None:
    # Streamed, LiteLLM ends with a text of null, which llm takes no better from LiteLLM itself.
    equal(llm("-m", "gpt-3.5-turbo-instruct-here", "--no-stream", "Hello"), REPLY)


def embeddings() -> None:
    equal(json.loads(llm("embed", "-m", "3-small", "-c", "one")), [0.25, -0.5, 0.125])


def wrong_key() -> None:
    assert "Incorrect API key" in llm("-m", "gpt-4o-mini", "--key", given.wrong_key, "Hello", fails=True)


def broken_stream() -> None:
    assert llm("-m", "breaks-off", "Hello", fails=True)


if __name__ == "__main__":
    os.environ |= {"LLM_USER_PATH": str(folder), "OPENAI_BASE_URL": given.url}
    (folder / "extra-openai-models.yaml").write_text(_EXTRA)
    (folder / "keys.json").write_text(json.dumps({"openai": given.key}))
    report(
        {
            "chat": chat,
            "stream": stream,
            "usage": usage,
            "tools": tools,
            "tools_stream": tools_stream,
            "schema": schema,
            "completions": completions,
            "embeddings": embeddings,
            "wrong_key": wrong_key,
            "broken_stream": broken_stream,
        }
    )
