"""Metering: what a model's server says was used, and how much text it generated if it does not say.

Owns the reading of answers, whole (``read_json_usage``) and streamed (``StreamMeter``). Only the members that
matter are decoded, first by a typed decoder of about a microsecond; what does not fit it (wrong types, lone
surrogates, NaN, invalid UTF-8) is read again by a slow, forgiving reader. Nothing that a server sends raises: what
makes no sense counts as not reported, and is then estimated (models.estimate).

Read are the counts of the Chat Completions, Completions, Embeddings and Responses APIs (OpenAI API reference,
"usage"), of Anthropic's Messages (``input_tokens`` there leaves out what the cache served) and DeepSeek's
``prompt_cache_hit_tokens``.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import msgspec

from trustgate.models.estimate import estimate_tokens
from trustgate.models.metering.sse import DONE
from trustgate.types import Usage

#: The largest count kept: the largest integer that every JSON reader holds exactly.
MAX_TOKENS = 2**53 - 1

#: A count that is there but cannot be right.
_INVALID = -1
#: Generated text is estimated in pieces of this many characters, so that a stream's memory stays bounded.
_FOLD_CHARS = 8192


class FrameKind(Enum):
    """What one payload of a stream is."""

    #: Text, reasoning or arguments of a tool call.
    CONTENT = 1
    #: Usage and nothing else: what ``stream_options.include_usage`` adds. Whoever did not ask needs not see it.
    USAGE_ONLY = 2
    #: An object with an ``error``.
    ERROR = 3
    #: ``[DONE]``.
    DONE = 4
    #: A role, a finish reason, usage beside one of these, a ping, or something unknown.
    OTHER = 5
    #: An answer that tells its own failure, as a Response does; it is the stream's last.
    FAILED = 6


class _CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _ReasoningTokens(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _UsageWire(msgspec.Struct, gc=False):
    """``usage`` as servers send it. None is absent, negative is nonsense."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _CachedTokens | None = None
    output_tokens_details: _ReasoningTokens | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    usage: _UsageWire | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    #: The same as ``reasoning_content``, under the name that OpenRouter and newer vLLM use; some send both.
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _UsageWire | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
#: What the typed decoders raise at answers that do not fit them.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: Errors that say nothing: ``"error": null`` stands in many a good answer.
_NO_ERROR = frozenset({b"", b"null", b"{}", b'""', b"false"})


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole answer says about itself."""

    #: None: not reported, or nonsense.
    usage: Usage | None = None
    #: The model's name as the server gave it; "" when it did not.
    model: str = ""
    #: The JSON of its ``error`` member.
    error: bytes | None = None
    #: An estimate of the generated tokens, made only when ``usage`` is None.
    completion_estimate: int = 0

    def usage_or_estimate(self, prompt_estimate: int) -> Usage:
        """The reported usage, else one from the estimates, marked as such."""
        return self.usage or _estimated(prompt_estimate, self.completion_estimate)


def read_json_usage(body: bytes) -> Reported:
    """What the JSON body of an answer (chat, completion, embedding, response, message) says.

    Never raises; what is no JSON says nothing.
    """
    try:
        answer = _decode_body(body)
    except _UNREADABLE:
        return _read_leniently(body)
    usage = None if answer.usage is None else _to_usage(answer.usage)
    if usage is None:
        return _read_leniently(body)
    return Reported(usage=usage, model=answer.model or "", error=_error(answer.error))


def _read_leniently(body: bytes) -> Reported:
    answer = _lenient_chunk(body)
    if answer is None:
        return Reported()
    usage = None if answer.usage is None else _to_usage(answer.usage)
    return Reported(
        usage=usage,
        model=answer.model or "",
        error=_error(answer.error),
        completion_estimate=0 if usage else sum(estimate_tokens(_text(choice)) for choice in answer.choices or ()),
    )


class StreamMeter:
    """Meters one stream from the payload of each of its frames (models.metering.sse.frame_data), in order."""

    __slots__ = ("_folded_tokens", "_stale", "_texts", "_texts_chars", "done", "error", "finished", "model", "usage")

    def __init__(self) -> None:
        #: The model's name as the server gave it; "" until it does.
        self.model = ""
        #: The last usage reported. Some servers report a running count with every chunk.
        self.usage: Usage | None = None
        #: The JSON of the last ``error``.
        self.error: bytes | None = None
        #: A choice has given its ``finish_reason``.
        self.finished = False
        #: ``[DONE]`` was seen.
        self.done = False
        #: Text came after the last usage report.
        self._stale = False
        self._texts: list[str] = []
        self._texts_chars = 0
        self._folded_tokens = 0

    def feed(self, data: bytes) -> FrameKind:
        """Count one payload and say what it is. Never raises."""
        if data == DONE:
            self.done = True
            return FrameKind.DONE
        try:
            chunk: _Chunk | None = _decode_chunk(data)
        except _UNREADABLE:
            chunk = _lenient_chunk(data)
        if chunk is None:
            return FrameKind.OTHER
        if chunk.model:
            self.model = chunk.model
        has_text = self._count_text(chunk.choices) if chunk.choices else False
        if chunk.usage is not None:
            self.usage = _to_usage(chunk.usage) or self.usage
            self._stale = False
        elif has_text:
            self._stale = True
        if (error := _error(chunk.error)) is not None:
            self.error = error
            return FrameKind.ERROR
        if has_text:
            return FrameKind.CONTENT
        if chunk.usage is not None and (not chunk.choices or _choices_say_nothing(data)):
            return FrameKind.USAGE_ONLY
        return FrameKind.OTHER

    def _count_text(self, choices: list[_Choice]) -> bool:
        """Keep the text the choices generated, for the estimate; whether there was any."""
        has_text = False
        for choice in choices:
            if choice.finish_reason is not None:
                self.finished = True
            if text := _text(choice):
                has_text = True
                self._keep(text)
        return has_text

    def _keep(self, text: str) -> None:
        """Remember generated text for the estimate, folded into a number when it gets long."""
        self._texts.append(text)
        self._texts_chars += len(text)
        if self._texts_chars >= _FOLD_CHARS:
            self._folded_tokens = self.completion_estimate()
            self._texts.clear()
            self._texts_chars = 0

    def completion_estimate(self) -> int:
        """An estimate of the tokens generated so far."""
        return self._folded_tokens + estimate_tokens("".join(self._texts))

    def usage_or_estimate(self, prompt_estimate: int) -> Usage:
        """What the stream used so far: as reported, else from the estimates, marked as such.

        When text came after the last report (the stream broke off before its final one), the report's
        completion is a lower bound and the estimate counts if it is higher.
        """
        if self.usage is None:
            return _estimated(prompt_estimate, self.completion_estimate())
        if self._stale and (completion := self.completion_estimate()) > self.usage.completion_tokens:
            return msgspec.structs.replace(self.usage, completion_tokens=completion, estimated=True)
        return self.usage


def _estimated(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, estimated=True)


def _error(raw: msgspec.Raw) -> bytes | None:
    error = bytes(raw)
    return None if error in _NO_ERROR else error


def _text(choice: _Choice) -> str:
    """All that a choice generated: content, reasoning, refusal, names and arguments of calls."""
    delta = choice.delta
    if delta is None:
        return choice.text or ""
    text = delta.content or ""
    if reasoning := delta.reasoning_content or delta.reasoning:
        text += reasoning
    if delta.refusal:
        text += delta.refusal
    if delta.tool_calls:
        text += "".join(_call_text(call.function) for call in delta.tool_calls)
    if delta.function_call:
        text += _call_text(delta.function_call)
    return text


def _call_text(function: _Function | None) -> str:
    return "" if function is None else (function.name or "") + (function.arguments or "")


def _to_usage(wire: _UsageWire) -> Usage | None:
    """The counts in OpenAI's words; None if they are missing, nonsense or all zero (no request has no prompt)."""
    prompt, completion, total = wire.prompt_tokens, wire.completion_tokens, wire.total_tokens
    prompt_details, completion_details = wire.prompt_tokens_details, wire.completion_tokens_details
    cache_read = max(wire.cache_read_input_tokens or 0, 0)
    if prompt is None and completion is None:
        prompt, completion = wire.input_tokens, wire.output_tokens
        prompt_details, completion_details = wire.input_tokens_details, wire.output_tokens_details
        if prompt is not None and prompt >= 0 and prompt_details is None:
            # Anthropic's input_tokens are those neither read from the cache nor written to it.
            prompt += cache_read + max(wire.cache_creation_input_tokens or 0, 0)
    if (prompt or 0) < 0 or (completion or 0) < 0 or (total or 0) < 0:
        return None
    if prompt is None:
        if completion is None or total is None:
            return None
        prompt = max(total - completion, 0)
    if completion is None:
        completion = 0 if total is None else max(total - prompt, 0)
    if prompt == 0 and completion == 0:
        return None
    reasoning = max((completion_details and completion_details.reasoning_tokens) or 0, 0)
    if reasoning and total == prompt + completion + reasoning:
        # xAI and Gemini count reasoning beside the completion; in OpenAI's words it is part of it.
        completion += reasoning
    cached = (prompt_details and prompt_details.cached_tokens) or wire.prompt_cache_hit_tokens or cache_read
    prompt, completion = min(prompt, MAX_TOKENS), min(completion, MAX_TOKENS)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=min(max(cached, 0), prompt),
        reasoning_tokens=min(reasoning, completion),
    )


def _choices_say_nothing(data: bytes) -> bool:
    """Whether no choice of a chunk says anything: LiteLLM sends usage beside one such, ``{"index":0,"delta":{}}``.

    Strict, since such a chunk may be withheld from the client: an empty string is something said.
    """
    chunk = _lenient_json(data)
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    return isinstance(choices, list) and all(_is_empty(choice) for choice in choices)


def _is_empty(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    members = {name: value for name, value in choice.items() if name not in ("index", "delta")}
    delta = choice.get("delta") or {}
    return isinstance(delta, dict) and all(value is None for value in (*members.values(), *delta.values()))


# The forgiving reader: any JSON into the same structs, leaving out what does not fit.


def _lenient_json(data: bytes) -> Any:
    """Any JSON: NaN, lone surrogates and invalid UTF-8 included. None if it is none."""
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _lenient_chunk(data: bytes) -> _Chunk | None:
    """A chunk or a whole answer (whose messages are read as deltas)."""
    value = _lenient_json(data)
    if not isinstance(value, dict):
        return None
    choices = value.get("choices") or _generated_items(value)
    usage = value.get("usage")
    return _Chunk(
        model=_lenient_text(value.get("model")) or None,
        choices=[_lenient_choice(choice) for choice in choices] if isinstance(choices, list) else None,
        usage=_lenient_usage(usage) if isinstance(usage, dict) else None,
        error=_lenient_error(value.get("error")),
    )


def _generated_items(value: dict[str, Any]) -> list[Any] | None:
    """What a Response (``output``) or an Anthropic message (``content``) generated, in the form of choices."""
    items, parts = value.get("output"), value.get("content")
    if isinstance(items, list):
        return [{"message": {**_dict(item), "function_call": item}} for item in items]
    if isinstance(parts, list):
        calls = [{"name": _dict(part).get("name"), "arguments": _dict(part).get("input")} for part in parts]
        return [{"message": {"content": parts, "tool_calls": [{"function": call} for call in calls]}}]
    return None


def _lenient_choice(value: object) -> _Choice:
    choice = _dict(value)
    delta = choice.get("delta") or choice.get("message")
    return _Choice(
        delta=_lenient_delta(delta) if isinstance(delta, dict) else None,
        text=_lenient_text(choice.get("text")),
        finish_reason=None if choice.get("finish_reason") is None else str(choice["finish_reason"]),
    )


def _lenient_delta(value: dict[str, Any]) -> _Delta:
    calls = value.get("tool_calls")
    return _Delta(
        content=_lenient_text(value.get("content")),
        reasoning_content=_lenient_text(value.get("reasoning_content")),
        reasoning=_lenient_text(value.get("reasoning")),
        refusal=_lenient_text(value.get("refusal")),
        tool_calls=[_ToolCall(_lenient_function(_dict(call).get("function"))) for call in calls]
        if isinstance(calls, list)
        else None,
        function_call=_lenient_function(value.get("function_call")),
    )


def _lenient_function(value: object) -> _Function:
    function = _dict(value)
    arguments = function.get("arguments")
    return _Function(
        name=_lenient_text(function.get("name")),
        # Some servers send the arguments as an object instead of as JSON text.
        arguments=json.dumps(arguments) if isinstance(arguments, dict) else _lenient_text(arguments),
    )


def _lenient_text(value: object) -> str:
    """A string, or the text of a list of content parts (Mistral sends such), else ""."""
    if isinstance(value, str):
        return value
    return "".join(_part_text(_dict(part)) for part in value) if isinstance(value, list) else ""


def _part_text(part: dict[str, Any]) -> str:
    """What one part says: ``{"type": "text", "text": …}`` or ``{"type": "thinking", "thinking": [parts]}``."""
    thinking = part.get("thinking")
    inner = thinking if isinstance(thinking, list) else [{"text": thinking}]
    texts = (part.get("text"), *(_dict(one).get("text") for one in inner))
    return "".join(text for text in texts if isinstance(text, str))


def _lenient_error(value: object) -> msgspec.Raw:
    try:
        return msgspec.Raw(json.dumps(value).encode())
    except RecursionError:
        return msgspec.Raw(b'"an error too deeply nested to repeat"')


def _lenient_usage(usage: dict[str, Any]) -> _UsageWire:
    counts = {name: _lenient_count(usage.get(name)) for name in _COUNTS}
    return _UsageWire(
        **counts,
        prompt_tokens_details=_lenient_cached(usage.get("prompt_tokens_details")),
        completion_tokens_details=_lenient_reasoning(usage.get("completion_tokens_details")),
        input_tokens_details=_lenient_cached(usage.get("input_tokens_details")),
        output_tokens_details=_lenient_reasoning(usage.get("output_tokens_details")),
    )


_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "prompt_cache_hit_tokens",
)


def _lenient_cached(value: object) -> _CachedTokens | None:
    return _CachedTokens(_lenient_count(value.get("cached_tokens"))) if isinstance(value, dict) else None


def _lenient_reasoning(value: object) -> _ReasoningTokens | None:
    return _ReasoningTokens(_lenient_count(value.get("reasoning_tokens"))) if isinstance(value, dict) else None


def _lenient_count(value: object) -> int | None:
    """A count: an integer, or a float that is one. Anything else but null is nonsense."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else _INVALID


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
