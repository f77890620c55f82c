"""What the built-in model answers: one rule for all of its APIs.

Owns the rule. Of these the first that applies:

1. Where ``tool_choice`` names a tool, that tool is called; where it requires one, the tool asked for by name, else the
   first.
2. Where the last message brings the results of tools, the answer repeats them: so an agent's loop ends.
3. Where a line of the user's last message begins with ``call NAME`` or ``use NAME``, and NAME is a tool of the request,
   that tool is called; several lines call several tools at once, unless the request forbids it. JSON after the name
   (``call get_weather {"city": "Oslo"}``) becomes the arguments; of tools that take a text the rest of the line does.
   Otherwise the arguments are the smallest that satisfy the tool's schema (``models.echo.schema_values``).
4. Where a JSON schema is asked for, the answer is a value valid by it, whose free texts are the user's; where any JSON
   object is, ``{"text": …}`` with the user's text.
5. The text of the user's last message is repeated. Blocks that a coding agent puts into it between tags with a dash
   or an underscore in their names (``<system-reminder>``, ``<environment_context>``) are left out, unless there is
   nothing else.

An answer ends before the first stop sequence, and after as many words as the limit allows. Usage is what
``models.estimate`` counts: of the prompt every text, role, image and tool's description; of the answer its text, and
the names and arguments of its calls. Recordings count 10 tokens a second, as OpenAI's do. The same request has the
same usage every time.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal

import msgspec

from trustgate.models.echo.forms import EchoRefusal, encode
from trustgate.models.echo.schema_values import SchemaUnmet, SchemaWork, value_for
from trustgate.models.estimate import estimate_chat, estimate_tokens
from trustgate.models.metering.audio_length import audio_ms, estimate_ms

#: The model's "tokens" for a limit on them: a word with the white space around it.
_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+$")
_SILENCE = "(There was no text to repeat.)"
_TAG = re.compile(r"<(/?)([a-z]{1,40}[-_][a-z_-]{1,40})>\s*")
_CALL_LINE = re.compile(
    r"^[ \t]*(?:call|use)[ \t]+[`'\"]?([^\s`'\"{:]{1,200})[`'\"]?[ \t:]*", re.MULTILINE | re.IGNORECASE
)
_MOST_CALLS = 128
_AUDIO_MS_PER_TOKEN = 100
_ANY_TEXT = "text"

Ending = Literal["stop", "length", "tools", "stop_sequence"]


class EchoTool(msgspec.Struct, frozen=True):
    """A tool that may be called. ``schema``: of its arguments; None for a tool that takes a text."""

    name: str
    schema: Any


class EchoCall(msgspec.Struct, frozen=True):
    """A call of a tool. ``arguments``: JSON, or the text of a tool that takes one (``is_text``)."""

    name: str
    arguments: str
    is_text: bool = False


class EchoPrompt(msgspec.Struct, kw_only=True):
    """What the rule needs of a request in any of the APIs."""

    #: Every text of the prompt, and what it has besides.
    texts: list[str] = []
    messages: int = 0
    images: int = 0
    audio_tokens: int = 0
    tools_bytes: int = 0
    #: Of the user's last message.
    user_text: str = ""
    #: The results of tools that the last message brings; None: it brings none.
    results: list[str] | None = None
    tools: list[EchoTool] = []
    #: "auto", "none", "required", or "=" and a tool's name.
    choice: str = "auto"
    parallel: bool = True
    #: The JSON schema of the answer; ``{}`` for any object; None for text.
    schema: Any = None
    limit: int | None = None
    stops: list[str] = []

    def prompt_tokens(self) -> int:
        """Returns the usage of the prompt."""
        counted = estimate_chat(self.texts, messages=self.messages, images=self.images, tools_bytes=self.tools_bytes)
        return counted + self.audio_tokens


class EchoAnswer(msgspec.Struct, frozen=True):
    """An answer, before it has the form of an API. ``words``: the text, in the pieces it is streamed in; empty where
    tools are called.
    """

    words: list[str]
    calls: list[EchoCall]
    ending: Ending
    stopped_by: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.words)

    def tokens(self) -> int:
        """Returns the usage of the answer."""
        called = sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in self.calls)
        return called + estimate_tokens(self.text)


def answer(asked: EchoPrompt) -> EchoAnswer:
    """Returns the answer by the rule of this module.

    Raises EchoRefusal: ``tool_choice`` names a tool that is not there, or a schema cannot be met.
    """
    calls = _calls(asked)
    if calls:
        return EchoAnswer([], calls, "tools")
    text = _text(asked)
    found = [(at, stop) for stop in asked.stops if stop and (at := text.find(stop)) >= 0]
    at, stopped_by = min(found, default=(len(text), None))
    words = _WORD.findall(text[:at])
    if asked.limit is not None and len(words) > asked.limit:
        return EchoAnswer(words[: asked.limit], [], "length")
    return EchoAnswer(words, [], "stop" if stopped_by is None else "stop_sequence", stopped_by)


def _calls(asked: EchoPrompt) -> list[EchoCall]:
    if not asked.tools or asked.choice == "none":
        return []
    if asked.choice.startswith("="):
        named = [tool for tool in asked.tools if tool.name == asked.choice[1:]]
        if not named:
            raise EchoRefusal(
                400, f"tool_choice names {asked.choice[1:]!r}, which is not among the tools.", None, "tool_choice"
            )
        wanted = [call for call in _called_by_text(asked) if call.name == named[0].name]
        return wanted[:1] or [_call(named[0], SchemaWork(), "tool_choice")]
    if asked.choice != "required" and asked.results is not None:
        return []
    called = _called_by_text(asked)
    if not called and asked.choice == "required":
        called = [_call(asked.tools[0], SchemaWork(), "tools")]
    return called if asked.parallel else called[:1]


def _called_by_text(asked: EchoPrompt) -> list[EchoCall]:
    """Returns the calls that lines of the user's last message name."""
    tools = {tool.name: tool for tool in asked.tools}
    text = _without_tagged(asked.user_text)
    found = (line for line in _CALL_LINE.finditer(text) if line[1].rstrip(".,;!?") in tools)
    lines = islice(found, _MOST_CALLS)
    work = SchemaWork()
    return [_call(tools[line[1].rstrip(".,;!?")], work, "tools", text, line.end()) for line in lines]


def _call(tool: EchoTool, work: SchemaWork, param: str, text: str = "", at: int = 0) -> EchoCall:
    """Returns a call of ``tool``. ``at``: where in the user's ``text`` that begins which follows its name.

    ``work``: of all calls of the answer.
    """
    if tool.schema is None:
        end = text.find("\n", at)
        return EchoCall(tool.name, text[at : len(text) if end < 0 else end].strip() or _ANY_TEXT, True)
    if text.startswith("{", at):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return EchoCall(tool.name, json.dumps(value, separators=(",", ":"), ensure_ascii=False))
    value = _value(tool.schema, _ANY_TEXT, param, work)
    return EchoCall(tool.name, encode(value if isinstance(value, dict) else {}).decode())


def _text(asked: EchoPrompt) -> str:
    text = _own_text(asked.user_text) if asked.results is None else "\n".join(asked.results)
    if asked.schema is None:
        return text if text.strip() else _SILENCE
    value = (
        {"text": text}
        if asked.schema == {}
        else _value(asked.schema, text or _ANY_TEXT, "response_format", SchemaWork())
    )
    return encode(value).decode()


def _own_text(text: str) -> str:
    """Returns the text without the blocks that a program put into it, unless there is nothing else."""
    own = _without_tagged(text)
    return own if own.strip() else text


def _without_tagged(text: str) -> str:
    """Returns the text without blocks between tags, the white space behind each included, in one pass."""
    tags = list(_TAG.finditer(text))
    closing: dict[str, list[re.Match[str]]] = {}
    for tag in reversed(tags):
        if tag[1]:
            closing.setdefault(tag[2], []).append(tag)
    kept, at = [], 0
    for tag in tags:
        ends = closing.get(tag[2], [])
        while ends and ends[-1].start() < max(at, tag.start()):
            ends.pop()
        if tag.start() >= at and not tag[1] and ends:
            kept.append(text[at : tag.start()])
            at = ends[-1].end()
    return "".join([*kept, text[at:]])


def _value(schema: Any, text: str, param: str, work: SchemaWork) -> Any:
    try:
        return value_for(schema, text, work)
    except SchemaUnmet as unmet:
        raise EchoRefusal(400, f"{unmet}", "invalid_json_schema", param) from None


def audio_tokens(data: object) -> int:
    """Returns what a recording in base64 counts, by its length; one whose length is not known, by its size."""
    if not isinstance(data, str):
        return 0
    try:
        recorded = base64.b64decode(data)
    except ValueError:
        return 0
    length_ms = audio_ms(recorded)
    return -(-(estimate_ms(len(recorded)) if length_ms is None else length_ms) // _AUDIO_MS_PER_TOKEN)


def bytes_of(values: Iterable[Any] | None) -> int:
    """Returns the size of the JSON of ``values``: of tools, and of calls made before."""
    return sum(len(encode(value)) for value in values or ())
