"""Metering streams of Chat Completions and Completions: what each payload is, and how much the stream used so far.

Owns what a chunk means for the account: nothing yet, something generated, a failure, an end. A payload is decoded
first by a typed decoder of about a microsecond; one that does not fit it, or in which that finds nothing generated, is
read again by the forgiving readers. Nothing that a server sends raises.

Sources: OpenAI API reference, "The chat completion chunk object"; LiteLLM, vLLM, llama.cpp, Groq, OpenRouter and
Moonshot for what they add to it.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from trustgate.models.metering.answer import Failure, failure_in, failure_of_event, is_failed_text
from trustgate.models.metering.counts import counts_of_answer, counts_of_json
from trustgate.models.metering.generated import GeneratedText, choice_text, dumped
from trustgate.models.metering.lenient import UNREADABLE, dict_of, list_of, read_json, text_of
from trustgate.models.metering.sse import DONE
from trustgate.models.metering.usages import Counts, filled, plausible
from trustgate.models.prices import CONDITION_MOST
from trustgate.types import Usage


class FrameKind(Enum):
    """What one payload of a stream is."""

    #: Nothing yet, or nothing that is known: a ping, a role, an empty delta, the announcement of an answer.
    NOTHING = 0
    #: Something generated: text, reasoning, a refusal, a call of a tool, audio, a piece of an image.
    CONTENT = 1
    #: Usage and nothing else that was generated: what ``stream_options.include_usage`` adds. A client that did not ask
    #: for it need not see it; ``StreamMeter.without_usage`` gives what else it holds.
    USAGE_ONLY = 2
    #: An error in the stream, in any shape; ``StreamMeter.failure`` has it.
    ERROR = 3
    #: An answer that holds its own failure, as a Response does; it is the stream's last event.
    FAILED = 4
    #: An answer's end without anything generated beside it. Usage may follow it, unless ``StreamMeter.done``.
    END = 5
    #: ``[DONE]``.
    DONE = 6


#: To look a member up in its enumeration costs more than to look at a chunk.
_CONTENT = FrameKind.CONTENT


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
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Chunk(msgspec.Struct, gc=False):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None
    x_groq: msgspec.Raw = msgspec.Raw()
    timings: msgspec.Raw = msgspec.Raw()


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
NO_ERROR = frozenset({b"", b"null", b"{}", b'""', b"false", b"[]"})
#: Members that every chunk has: without anything else, a chunk of usage is nothing but that.
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "system_fingerprint", "service_tier", "choices", "usage", "obfuscation"}
)
#: Members of a delta or a choice that are no content, whatever they hold.
_NO_CONTENT = frozenset(
    {"role", "index", "id", "name", "type", "finish_reason", "native_finish_reason", "usage", "logprobs"}
)


class StreamMeter:
    """Meters one stream from the payload of each of its frames (models.metering.sse.frame_data), in order."""

    __slots__ = (
        *("_counts", "_elsewhere", "_made", "_stale", "_tier"),
        *("done", "failure", "finished", "model"),
    )

    def __init__(self) -> None:
        #: The model's name as the server gave it, fit to be kept; "" until it does.
        self.model = ""
        #: The failure that the stream told last.
        self.failure: Failure | None = None
        #: A choice has given its ``finish_reason``: the answer is whole.
        self.finished = False
        #: The stream's last event was seen: nothing that is to be charged follows.
        self.done = False
        self._counts: Counts | None = None
        #: The last payload that may report usage elsewhere than in ``usage``; looked into if that never comes.
        self._elsewhere = b""
        self._tier = ""
        #: Text came after the last usage report.
        self._stale = False
        self._made = GeneratedText()

    @property
    def usage(self) -> Usage | None:
        """The last usage reported, as far as it is. Some servers report a running count with every chunk."""
        return None if self._counts is None else self._counts.usage

    def feed(self, data: bytes, event: str | None = None) -> FrameKind:
        """Count one payload and say what it is. Never raises.

        Args:
            data: the payload of a frame (``sse.frame_data``); b"" for a frame without one.
            event: the name in its ``event:`` line (``sse.frame_event``).
        """
        if data == DONE:
            return self._end()
        if event == "error":
            return self._fail(failure_of_event(data))
        try:
            chunk = _decode_chunk(data)
        except UNREADABLE:
            return self._feed_any(data)
        usage, choices = chunk.usage, chunk.choices
        has_usage = bool(usage) and bytes(usage) != b"null"
        if choices is None and not has_usage:
            return self._feed_any(data)
        if chunk.error and bytes(chunk.error) not in NO_ERROR and (failure := failure_in(read_json(data))) is not None:
            return self._fail(failure)
        if chunk.model and chunk.model != self.model:
            self.model = text_of(chunk.model)
        if chunk.service_tier:
            self._tier = chunk.service_tier
        if chunk.x_groq or chunk.timings:
            self._elsewhere = data
        has_text = is_end = False
        for choice in choices or ():
            if choice.finish_reason:
                if choice.finish_reason == "error":
                    return self._feed_any(data)
                is_end = True
            if text := _text(choice):
                has_text = True
                self._made.add(text)
            if choice.usage:
                self._elsewhere = data
        if is_end:
            self.finished = True
        if has_text:
            self._stale = True
        if has_usage:
            self._note(counts_of_json(bytes(usage)))
        if has_text:
            return _CONTENT
        return self._kind(data, is_end=is_end, has_usage=has_usage)

    def _kind(self, data: bytes, *, is_end: bool, has_usage: bool) -> FrameKind:
        """Returns what a payload without generated text is."""
        if is_end:
            return FrameKind.END
        value = dict_of(read_json(data))
        choices = list_of(value.get("choices"))
        if choices and (failure := failure_in(value)) is not None:
            return self._fail(failure)
        if any(_has_content(choice) for choice in choices):
            return FrameKind.CONTENT
        if has_usage and all(_is_empty(choice) for choice in choices):
            return FrameKind.USAGE_ONLY
        return FrameKind.NOTHING

    def _feed_any(self, data: bytes) -> FrameKind:
        """``feed`` for a payload that the typed decoder cannot read, or that has neither choices nor usage."""
        if is_done(data):
            return self._end()
        value = read_json(data)
        if value is None:
            return self._fail(failure_of_event(data)) if is_failed_text(data) else FrameKind.NOTHING
        if (failure := failure_in(value)) is not None:
            return self._fail(failure)
        if not isinstance(value, dict):
            return FrameKind.NOTHING
        self.model = text_of(value.get("model")) or self.model
        self._tier = text_of(value.get("service_tier")) or self._tier
        choices = list_of(value.get("choices"))
        texts = [text for choice in choices if (text := choice_text(dict_of(choice)))]
        for text in texts:
            self._made.add(text)
        is_end = any(dict_of(choice).get("finish_reason") not in (None, "") for choice in choices)
        self.finished = self.finished or is_end
        self._stale = self._stale or bool(texts)
        has_usage = isinstance(value.get("usage"), dict)
        if (counts := counts_of_answer(value)) is not None:
            self._note(counts)
        return FrameKind.CONTENT if texts else self._kind(data, is_end=is_end, has_usage=has_usage)

    def _end(self) -> FrameKind:
        self.done = True
        return FrameKind.DONE

    def _fail(self, failure: Failure) -> FrameKind:
        self.failure = failure
        return FrameKind.ERROR

    def _note(self, counts: Counts | None) -> None:
        """A report replaces the one before it, but a running count never falls."""
        if counts is None:
            return
        before = self._counts
        if before is not None and counts.usage.completion_tokens < before.usage.completion_tokens:
            # It has less than is known: what came since the report before it is still in no report.
            return
        self._stale = False
        if (
            before is not None
            and counts.lacks
            and not before.lacks
            and counts.usage.completion_tokens == before.usage.completion_tokens
        ):
            return
        if before is not None and counts.lacks == "prompt" and before.usage.prompt_tokens:
            merged = msgspec.structs.replace(
                before.usage,
                completion_tokens=counts.usage.completion_tokens,
                reasoning_tokens=counts.usage.reasoning_tokens,
            )
            counts = Counts(usage=merged)
        self._counts = counts

    def completion_estimate(self) -> int:
        """Returns an estimate of the tokens generated so far."""
        return self._made.tokens()

    def usage_or_estimate(
        self, prompt_estimate: int, *, prompt_bound: int | None = None, completion_bound: int | None = None
    ) -> Usage:
        """Returns what the stream used so far: as reported, else from the estimates, which mark it.

        When text came after the last report (the stream broke off before its final one), the report's completion is a
        lower bound and the estimate counts if it is higher. No count is beyond its bound (``usages.plausible``).
        """
        counts = self._counts
        if self._elsewhere and (counts is None or counts.lacks):
            found = counts_of_answer(read_json(self._elsewhere))
            counts = found if counts is None or (found is not None and not found.lacks) else counts
        estimate = self.completion_estimate()
        usage = filled(counts, prompt_estimate, estimate)
        if self._stale and counts is not None and estimate > usage.completion_tokens:
            usage = msgspec.structs.replace(usage, completion_tokens=estimate, estimated=True)
        if self._tier and not usage.service_tier:
            usage = msgspec.structs.replace(usage, service_tier=text_of(self._tier, CONDITION_MOST))
        return plausible(
            usage,
            prompt_bound=prompt_bound,
            completion_bound=completion_bound,
            prompt_estimate=prompt_estimate,
            completion_estimate=estimate,
        )

    def without_usage(self, data: bytes) -> bytes | None:
        """Returns what a payload of the kind USAGE_ONLY holds besides (llama.cpp's ``timings``, citations), as a
        payload.

        None if it holds nothing besides. A chunk without choices gets an empty one, since clients that did
        not ask for usage never meet a chunk that has none.
        """
        try:
            members: dict[str, Any] = dict(_decode_members(data))
            held = [name for name, raw in members.items() if name not in _ENVELOPE and bytes(raw) not in NO_ERROR]
        except UNREADABLE:
            members = dict(dict_of(read_json(data)))
            held = [name for name, value in members.items() if name not in _ENVELOPE and value]
        if not held:
            return None
        members.pop("usage", None)
        if not _choices(data):
            members["choices"] = [{"index": 0, "delta": {}, "finish_reason": None}]
        try:
            return _encode(members)
        except (UnicodeEncodeError, RecursionError):
            return dumped(members).encode() or None


def is_done(data: bytes) -> bool:
    """Returns whether a payload is ``[DONE]``, be it with blanks around it, in quotes, or in small letters."""
    return len(data) < 64 and data.strip().strip(b'"').upper() == DONE


def _text(choice: _Choice) -> str:
    """Returns all that a choice generated: content, reasoning, refusal, names and arguments of calls."""
    delta = choice.delta or choice.message
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


def _choices(data: bytes) -> list[Any]:
    return list_of(dict_of(read_json(data)).get("choices"))


def _has_content(choice: object) -> bool:
    """Returns whether a choice without text holds something generated all the same: audio, an image, an annotation."""
    holders = (dict_of(choice), dict_of(dict_of(choice).get("delta")), dict_of(dict_of(choice).get("message")))
    return any(
        value and name not in _NO_CONTENT and name not in ("delta", "message")
        for holder in holders
        for name, value in holder.items()
        if isinstance(value, str | list | dict)
    )


def _is_empty(choice: object) -> bool:
    """Returns whether a choice is empty: LiteLLM sends usage beside one such, ``{"index":0,"delta":{}}``.

    Strict, since such a chunk may be withheld from the client: an empty string is something said.
    """
    if not isinstance(choice, dict):
        return False
    members = {name: value for name, value in choice.items() if name not in ("index", "delta")}
    delta = choice.get("delta") or {}
    return isinstance(delta, dict) and all(value is None for value in (*members.values(), *delta.values()))
