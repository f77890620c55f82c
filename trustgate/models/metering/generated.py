"""The text that an answer holds which a model generated, for an estimate of its tokens where none are reported.

Owns where it stands: in the choices of Chat Completions and Completions, the output of a Response, the content of
Anthropic's messages, and what Ollama, Gemini, Cohere and TGI call theirs. Nothing raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from trustgate.models.estimate import estimate_tokens
from trustgate.models.metering.lenient import UNREADABLE, dict_of, list_of, read_json


class _Holders(msgspec.Struct, gc=False):
    """The members that may hold generated text; all others are skipped, however large."""

    choices: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    candidates: msgspec.Raw = msgspec.Raw()
    generated_text: msgspec.Raw = msgspec.Raw()
    text: msgspec.Raw = msgspec.Raw()


#: Generated text is estimated in pieces of this many characters, so that a stream's memory stays bounded.
_FOLD_CHARS = 8192
#: So many texts, or one of so many characters with those before it, are put together: each takes some fifty bytes
#: besides its characters.
_JOINED_TEXTS = 64
_JOINED_CHARS = 512

_decode_holders = msgspec.json.Decoder(_Holders).decode


class GeneratedText:
    """The text that a stream generates, on its way to an estimate of its tokens, in bounded memory."""

    __slots__ = ("_folded_tokens", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._folded_tokens = 0

    def __bool__(self) -> bool:
        """Returns whether there is any text."""
        return bool(self._folded_tokens or any(self._texts))

    def add(self, text: str) -> None:
        """Remember a piece; folded into a number when they get long."""
        texts = self._texts
        texts.append(text)
        # Not by their length in all: a number of each stream's own, for every piece.
        if len(texts) >= _JOINED_TEXTS or len(text) >= _JOINED_CHARS:
            joined = "".join(texts)
            texts.clear()
            if len(joined) >= _FOLD_CHARS:
                self._folded_tokens += estimate_tokens(joined)
            else:
                texts.append(joined)

    def tokens(self) -> int:
        """Returns an estimate of the tokens so far."""
        return self._folded_tokens + estimate_tokens("".join(self._texts))


def generated_tokens(body: bytes) -> int:
    """Returns an estimate of the tokens that the JSON of a whole answer holds; 0 where it holds no generated text."""
    try:
        holders = _decode_holders(body)
    except UNREADABLE:
        answer = dict_of(read_json(body))
    else:
        found = {name: bytes(getattr(holders, name)) for name in _Holders.__struct_fields__}
        answer = {name: read_json(raw) for name, raw in found.items() if raw}
    return sum(map(estimate_tokens, generated_texts(answer)))


def generated_texts(answer: dict[str, Any]) -> Iterator[str]:
    """Yields the texts of a decoded answer, one for each of its choices or parts."""
    for choice in list_of(answer.get("choices")):
        yield choice_text(dict_of(choice))
    for item in list_of(answer.get("output")):
        yield item_text(dict_of(item))
    for candidate in list_of(answer.get("candidates")):
        parts = dict_of(dict_of(candidate).get("content")).get("parts")
        yield "".join(_part_text(dict_of(part)) for part in list_of(parts))
    yield "".join(_part_text(dict_of(part)) for part in list_of(answer.get("content")))
    yield from (text for name in ("content", "response", "generated_text", "text") if (text := _str(answer.get(name))))
    yield delta_text(dict_of(answer.get("message")))


def choice_text(choice: dict[str, Any]) -> str:
    """Returns all that a choice of a chunk or of an answer holds."""
    delta = choice.get("delta") or choice.get("message")
    return delta_text(delta) if isinstance(delta, dict) else plain_text(choice.get("text"))


def delta_text(delta: dict[str, Any]) -> str:
    """Content, reasoning, refusal, and the names and arguments of calls."""
    audio = dict_of(delta.get("audio"))
    texts = [
        plain_text(delta.get("content")),
        # The same text under two names; some servers send both.
        plain_text(delta.get("reasoning_content")) or plain_text(delta.get("reasoning")) or _str(delta.get("thinking")),
        plain_text(delta.get("refusal")),
        _str(audio.get("transcript")),
        *(call_text(dict_of(dict_of(call).get("function"))) for call in list_of(delta.get("tool_calls"))),
        call_text(dict_of(delta.get("function_call"))),
    ]
    return "".join(texts)


def item_text(item: dict[str, Any]) -> str:
    """Returns an item of a Response's ``output``: a message, reasoning, a call."""
    return "".join((plain_text(item.get("content")), plain_text(item.get("summary")), call_text(item)))


def call_text(function: dict[str, Any]) -> str:
    """Returns the name and the arguments of a call; some servers send the latter as an object instead of as JSON
    text.
    """
    arguments = function.get("arguments") or function.get("input")
    return _str(function.get("name")) + (dumped(arguments) if isinstance(arguments, dict) else _str(arguments))


def plain_text(value: object) -> str:
    """Returns a string, or the text of a list of content parts, else ""."""
    return "".join(_part_text(dict_of(part)) for part in value) if isinstance(value, list) else _str(value)


def _part_text(part: dict[str, Any]) -> str:
    """Returns one part: ``{"type": "text", "text": …}``, ``{"thinking": TEXT or PARTS}``, a refusal, a call of a
    tool.
    """
    thinking = part.get("thinking")
    inner = thinking if isinstance(thinking, list) else [{"text": thinking}]
    texts = (part.get("text"), part.get("refusal"), *(dict_of(one).get("text") for one in inner))
    return "".join(map(_str, texts)) + (call_text(part) if part.get("name") else "")


def dumped(value: object) -> str:
    """Any JSON value as text again, lone surrogates escaped; "" for one too deep to be written."""
    try:
        return json.dumps(value)
    except RecursionError:
        return ""


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
