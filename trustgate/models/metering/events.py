"""Metering streams whose events say their own type: OpenAI's Responses, images and audio, and Anthropic's Messages.

Owns what each type of event means for the account: generated text, usage, an error, the end. Like ``StreamMeter``,
these never raise: what makes no sense counts as not said. Sources: OpenAI API reference, "Streaming events";
Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from trustgate.models.metering.sse import DONE
from trustgate.models.metering.usage import FrameKind, Reported, StreamMeter, read_json_usage
from trustgate.models.upstream.client import stream_error
from trustgate.models.upstream.targets import Target
from trustgate.types import Usage

_encode = msgspec.json.Encoder().encode


class _Event(msgspec.Struct, gc=False):
    """One event of either API. Members that are objects stay raw until their type says that they matter."""

    type: str | None = None
    delta: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    sequence_number: int | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_text = msgspec.json.Decoder(str).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Events after which nothing follows, and events that each report a finished part of an answer.
_LAST = frozenset({"response.completed", "response.incomplete"})
_PARTS = frozenset(
    {"image_generation.completed", "image_edit.completed", "transcript.text.done", "speech.audio.done"},
)
#: Deltas that are no text a model generated as tokens of text.
_NOT_TEXT = frozenset({"response.audio.delta", "speech.audio.delta", "response.image_generation_call.partial_image"})


class EventMeter(StreamMeter):
    """Meters Responses, image and audio streams of OpenAI."""

    __slots__ = ("failed", "images", "object_id", "sequence", "status")

    def __init__(self) -> None:
        super().__init__()
        #: The id of the response that the stream tells of, and its status as last told; "" until known.
        self.object_id = ""
        self.status = ""
        #: The number of the last event; the gateway's own last words count on from there.
        self.sequence = -1
        #: Images made.
        self.images = 0
        #: The JSON of a response that failed.
        self.failed: bytes | None = None

    def feed(self, data: bytes) -> FrameKind:
        """Count one payload and say what it is. Never raises."""
        if data == DONE:
            self.done = True
            return FrameKind.DONE
        event = _read_event(data)
        if event is None:
            return FrameKind.OTHER
        if event.sequence_number is not None:
            self.sequence = event.sequence_number
        kind = event.type or ""
        if kind.endswith(".delta"):
            return self._count_delta(kind, bytes(event.delta))
        if bytes(event.response)[:1] == b"{":
            return self._read_response(kind, bytes(event.response))
        if kind in _PARTS:
            self._count_part(kind, data)
            return FrameKind.OTHER
        if kind == "error":
            # Either {"type": "error", "message": …} or with the members inside "error".
            self.error = bytes(event.error) if bytes(event.error)[:1] == b"{" else data
            return FrameKind.ERROR
        if bytes(event.error) not in _NO_ERROR:
            self.error = bytes(event.error)
            return FrameKind.ERROR
        return FrameKind.OTHER

    def _count_delta(self, kind: str, delta: bytes) -> FrameKind:
        if delta[:1] != b'"' or kind in _NOT_TEXT:
            return FrameKind.OTHER
        self._stale = True
        self._keep(_text(delta))
        return FrameKind.CONTENT

    def _read_response(self, kind: str, response: bytes) -> FrameKind:
        said = _read_object(response)
        self.object_id = said.id or self.object_id
        self.status = said.status or self.status
        self.model = said.model or self.model
        reported = read_json_usage(response)
        if reported.usage is not None:
            self.usage = reported.usage
            self._stale = False
        if kind == "response.failed":
            self.failed = response
            return FrameKind.FAILED
        if kind in _LAST:
            self.done = self.finished = True
            return FrameKind.DONE
        return FrameKind.OTHER

    def _count_part(self, kind: str, data: bytes) -> None:
        """A part is finished: each reports what it used, and they add up."""
        self.finished = True
        self.images += kind.startswith("image")
        usage = read_json_usage(data).usage
        if usage is None:
            return
        self._stale = False
        if self.usage is not None:
            usage = Usage(
                prompt_tokens=self.usage.prompt_tokens + usage.prompt_tokens,
                completion_tokens=self.usage.completion_tokens + usage.completion_tokens,
                cached_tokens=self.usage.cached_tokens + usage.cached_tokens,
                reasoning_tokens=self.usage.reasoning_tokens + usage.reasoning_tokens,
                audio_ms=self.usage.audio_ms + usage.audio_ms,
            )
        self.usage = usage

    def usage_or_estimate(self, prompt_estimate: int) -> Usage:
        usage = super().usage_or_estimate(prompt_estimate)
        return msgspec.structs.replace(usage, images=self.images) if self.images else usage


class MessagesMeter(StreamMeter):
    """Meters a stream of Anthropic's Messages: ``message_start`` tells the prompt, ``message_delta`` the rest."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Any] = {}

    def feed(self, data: bytes) -> FrameKind:
        """Count one payload and say what it is. Never raises."""
        event = _read_event(data)
        if event is None:
            return FrameKind.OTHER
        match event.type:
            case "content_block_delta":
                return self._count_delta(bytes(event.delta))
            case "message_start":
                said = _read_object(bytes(event.message))
                self.model = said.model or self.model
                self._merge(bytes(said.usage))
            case "message_delta":
                self.finished = True
                self._merge(bytes(event.usage))
                self._stale = False
            case "message_stop":
                self.done = self.finished = True
                return FrameKind.DONE
            case "error":
                self.error = bytes(event.error) or b"{}"
                return FrameKind.ERROR
            case _ if bytes(event.error) not in _NO_ERROR:
                self.error = bytes(event.error)
                return FrameKind.ERROR
        return FrameKind.OTHER

    def _count_delta(self, delta: bytes) -> FrameKind:
        value = _lenient(delta)
        texts = [value.get(name) for name in ("text", "partial_json", "thinking")] if isinstance(value, dict) else []
        text = "".join(text for text in texts if isinstance(text, str))
        if not text:
            return FrameKind.OTHER
        self._stale = True
        self._keep(text)
        return FrameKind.CONTENT

    def _merge(self, usage: bytes) -> None:
        """Counts are running totals: what a later event says replaces what an earlier one said."""
        value = _lenient(usage)
        if isinstance(value, dict):
            self._counts.update((name, count) for name, count in value.items() if count is not None)
            self.usage = read_json_usage(_encode({"usage": self._counts})).usage or self.usage


class _Object(msgspec.Struct, gc=False):
    """What matters of a response, a message, a file or a batch."""

    id: str | None = None
    status: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


_decode_object = msgspec.json.Decoder(_Object).decode
_NO_ERROR = frozenset({b"", b"null", b"{}", b'""', b"false"})


def read_object(body: bytes) -> tuple[str, str]:
    """The id and the status of the object that an answer is; "" for what it does not say. Never raises."""
    said = _read_object(body)
    return said.id or "", said.status or ""


def _read_object(body: bytes) -> _Object:
    try:
        return _decode_object(body)
    except _UNREADABLE:
        value = _lenient(body)
        if not isinstance(value, dict):
            return _Object()
        texts = {name: value[name] for name in ("id", "status", "model") if isinstance(value.get(name), str)}
        return _Object(**texts, usage=_raw(value.get("usage")))


def _read_event(data: bytes) -> _Event | None:
    try:
        return _decode(data)
    except _UNREADABLE:
        value = _lenient(data)
        if not isinstance(value, dict):
            return None
        kind = value.get("type")
        delta, response, message, usage, error = (
            _raw(value[name]) if name in value else msgspec.Raw()
            for name in ("delta", "response", "message", "usage", "error")
        )
        kind = kind if isinstance(kind, str) else None
        return _Event(type=kind, delta=delta, response=response, message=message, usage=usage, error=error)


def _raw(value: object) -> msgspec.Raw:
    """Any JSON value in bytes again, lone surrogates escaped."""
    try:
        return msgspec.Raw(json.dumps(value).encode())
    except RecursionError:
        return msgspec.Raw()


def _text(delta: bytes) -> str:
    try:
        return _decode_text(delta)
    except _UNREADABLE:
        value = _lenient(delta)
        return value if isinstance(value, str) else ""


def _lenient(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


# whole answers that are not metered by tokens alone


class _Images(msgspec.Struct, gc=False):
    data: list[msgspec.Raw] | None = None


class _Transcript(msgspec.Struct, gc=False):
    text: str = ""
    duration: float | None = None
    usage: dict[str, Any] | None = None


def read_images(body: bytes) -> Reported:
    """The answer of an image endpoint: its token usage where it has any, and how many images it holds."""
    reported = read_json_usage(body)
    try:
        images = len(msgspec.json.decode(body, type=_Images).data or ())
    except _UNREADABLE:
        images = 0
    usage = reported.usage or Usage()
    return msgspec.structs.replace(reported, usage=msgspec.structs.replace(usage, images=images))


def read_transcript(body: bytes) -> Reported:
    """The answer of an audio endpoint: tokens, or seconds, or (of older models) the duration it tells besides."""
    reported = read_json_usage(body)
    try:
        transcript = msgspec.json.decode(body, type=_Transcript)
    except _UNREADABLE:
        return reported
    seconds = (transcript.usage or {}).get("seconds", transcript.duration)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < _MOST_SECONDS:
        seconds = None
    if seconds is None and reported.usage is None:
        return reported
    usage = reported.usage or Usage()
    audio_ms = 0 if seconds is None else -int(-seconds * 1000 // 1)
    return msgspec.structs.replace(reported, usage=msgspec.structs.replace(usage, audio_ms=audio_ms))


#: A year: what a transcript claims beyond is nonsense.
_MOST_SECONDS = 31_536_000


def read_nothing_used(body: bytes) -> Reported:
    """The answer of an endpoint that is not metered: looking at what was paid for when it was made."""
    return Reported(usage=Usage())


def clean_failure(data: bytes, target: Target) -> bytes:
    """The frame of a ``response.failed`` event without what its error tells of the upstream."""
    event = _lenient(data)
    response = event.get("response")
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        said = stream_error(_raw_bytes(response["error"]), target)
        response["error"] = {**response["error"], "message": said.message, "code": said.code}
    return b"event: response.failed\ndata: " + json.dumps(event).encode() + b"\n\n"


def _raw_bytes(value: object) -> bytes:
    return bytes(_raw(value))
