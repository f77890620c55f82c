"""Metering streams whose events carry their own type: OpenAI's Responses, images and audio, and Anthropic's Messages.

Owns what each type of event means for the account. Like ``StreamMeter``, these never raise: what makes no sense counts
as not said. Sources: OpenAI API reference, "Streaming events"; Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.models.metering.answer import failure_in, failure_of_event, is_failed_text
from trustgate.models.metering.chunks import NO_ERROR, FrameKind, StreamMeter, is_done
from trustgate.models.metering.counts import COMPLETION_NAMES, counts_in, counts_of_answer, generated_count
from trustgate.models.metering.generated import GeneratedText, dumped, generated_texts, item_text
from trustgate.models.metering.lenient import UNREADABLE, count, dict_of, read_json, text_of
from trustgate.models.metering.sse import DONE
from trustgate.models.metering.usages import Counts, added
from trustgate.models.metering.whole import last_cue_ms, searches_in
from trustgate.types import Usage


class _Event(msgspec.Struct, gc=False):
    """One event of either API. Members that are objects stay raw until their type shows that they matter."""

    type: str | None = None
    delta: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    content_block: msgspec.Raw = msgspec.Raw()
    sequence_number: int | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_text = msgspec.json.Decoder(str).decode

#: Events with which a Response ends, whatever it came to.
_LAST = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"}
)
#: Events that each report a finished part of an answer.
_PARTS = frozenset(
    {"image_generation.completed", "image_edit.completed", "transcript.text.done", "speech.audio.done"},
)
#: Deltas that are no text a model generated as tokens of text.
_NOT_TEXT = frozenset({"response.audio.delta", "speech.audio.delta"})
#: Events that hold a piece of an answer without being called a delta.
_PIECES = (".partial_image", "transcript.text.segment", ".annotation.added")
#: Items that are announced before there is anything in them.
_EMPTY_ITEMS = frozenset({"message", "reasoning"})


class EventMeter(StreamMeter):
    """Meters Responses, image and audio streams of OpenAI."""

    __slots__ = ("_searches", "failed", "images", "object_id", "sequence", "status")

    def __init__(self) -> None:
        super().__init__()
        #: The id of the stream's response, and its status as last told; "" until known.
        self.object_id = ""
        self.status = ""
        #: The number of the last event; the gateway's own last words count on from there.
        self.sequence = -1
        #: Images made.
        self.images = 0
        self._searches = 0

    def feed(self, data: bytes, event: str | None = None) -> FrameKind:
        if data == DONE:
            return self._end()
        if event == "error":
            return self._fail(failure_of_event(data))
        said = _read_event(data)
        if said is None:
            return self._feed_unreadable(data)
        if said.sequence_number is not None:
            self.sequence = said.sequence_number
        kind = said.type or event or ""
        if kind.endswith(".delta"):
            return self._count_delta(kind, bytes(said.delta))
        if bytes(said.response)[:1] == b"{":
            return self._read_response(kind, bytes(said.response))
        if kind in _PARTS:
            return self._count_part(kind, data)
        if kind.endswith(_PIECES):
            return FrameKind.CONTENT
        if kind == "response.output_item.added":
            return self._read_item(bytes(said.item))
        if kind == "error" or bytes(said.error) not in NO_ERROR or not kind:
            return self._read_failure(data, is_error=kind == "error")
        return FrameKind.NOTHING

    def _feed_unreadable(self, data: bytes) -> FrameKind:
        if is_done(data):
            return self._end()
        return self._fail(failure_of_event(data)) if is_failed_text(data) else FrameKind.NOTHING

    def _read_failure(self, data: bytes, *, is_error: bool) -> FrameKind:
        """Returns an event called an error, or one without a type that may be one, or the text of a segment
        (Speaches).
        """
        value = read_json(data)
        failure = failure_of_event(data) if is_error else failure_in(value)
        if failure is not None:
            return self._fail(failure)
        text = dict_of(value).get("text")
        if not isinstance(text, str) or not text:
            return FrameKind.NOTHING
        # Such a stream has no event of its own for its end: it may end after any segment.
        self.finished = self._stale = True
        self._made.add(text)
        return FrameKind.CONTENT

    def _count_delta(self, kind: str, delta: bytes) -> FrameKind:
        if delta[:1] != b'"':
            return FrameKind.CONTENT if delta not in NO_ERROR or kind in _NOT_TEXT else FrameKind.NOTHING
        if kind in _NOT_TEXT:
            return FrameKind.CONTENT
        text = _text(delta)
        if not text:
            return FrameKind.NOTHING
        self._stale = True
        self._made.add(text)
        return FrameKind.CONTENT

    def _read_item(self, item: bytes) -> FrameKind:
        """Returns an item that is announced: a call of a tool is content by itself, a message when it has text."""
        said = dict_of(read_json(item))
        if said.get("type") in _EMPTY_ITEMS and not item_text(said):
            return FrameKind.NOTHING
        return FrameKind.CONTENT if said else FrameKind.NOTHING

    def _read_response(self, kind: str, response: bytes) -> FrameKind:
        said = _read_object(response)
        self.object_id = said.id or self.object_id
        self.status = said.status or self.status
        self.model = text_of(said.model) or self.model
        if kind not in _LAST:
            if (usage := bytes(said.usage)) not in NO_ERROR:
                self._note(counts_in(read_json(usage)))
            failed = said.status == "failed" and self._read_failed(response)
            return FrameKind.FAILED if failed else FrameKind.NOTHING
        answer = dict_of(read_json(response))
        self._note(counts_of_answer(answer))
        self._searches = searches_in(answer)
        if not self._made:
            # A server that sent no deltas: the text stands here alone.
            for text in generated_texts(answer):
                self._made.add(text)
        if kind == "response.failed" or said.status == "failed" or bytes(said.error) not in NO_ERROR:
            self._read_failed(response)
            return FrameKind.FAILED
        self.done = self.finished = True
        return FrameKind.END

    def _read_failed(self, response: bytes) -> bool:
        self.failure = failure_of_event(response)
        return True

    def _count_part(self, kind: str, data: bytes) -> FrameKind:
        """A part is finished: each reports what it used, and they add up."""
        self.finished = True
        self.images += kind.startswith("image")
        answer = dict_of(read_json(data))
        counts = counts_of_answer(answer)
        if counts is not None:
            self._stale = False
            self._counts = Counts(usage=added(self._counts.usage, counts.usage)) if self._counts else counts
        if not self._made and isinstance(text := answer.get("text"), str):
            self._made.add(text)
        return FrameKind.END

    def usage_or_estimate(
        self, prompt_estimate: int, *, prompt_bound: int | None = None, completion_bound: int | None = None
    ) -> Usage:
        reported = None if self._counts is None else self._counts.usage
        if reported is not None and reported.audio_ms and not reported.total_tokens:
            return reported  # a transcript by its seconds: its text is not counted besides
        usage = super().usage_or_estimate(prompt_estimate, prompt_bound=prompt_bound, completion_bound=completion_bound)
        searches = max(usage.searches, self._searches)
        if not self.images and searches == usage.searches:
            return usage
        return msgspec.structs.replace(usage, images=self.images, searches=searches)


class RunMeter(EventMeter):
    """Follows the stream of an assistant's run, whose events are objects: any of them is an answer, none is metered.

    Source: OpenAI API reference, "Assistants", "Streaming".
    """

    __slots__ = ()

    def feed(self, data: bytes, event: str | None = None) -> FrameKind:
        if is_done(data):
            return self._end()
        return self._fail(failure_of_event(data)) if event == "error" else FrameKind.CONTENT


class MessagesMeter(StreamMeter):
    """Meters a stream of Anthropic's Messages: ``message_start`` has the prompt, ``message_delta`` the rest."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        super().__init__()
        #: The usage so far, each member as last told.
        self._said: dict[str, Any] = {}

    def feed(self, data: bytes, event: str | None = None) -> FrameKind:
        if data == DONE:
            return self._end()
        if event == "error":
            return self._fail(failure_of_event(data))
        said = _read_event(data)
        if said is None:
            if is_done(data):
                return self._end()
            return self._fail(failure_of_event(data)) if is_failed_text(data) else FrameKind.NOTHING
        kind = said.type or event or ""
        match kind:
            case "content_block_delta":
                return self._count_delta(bytes(said.delta))
            case "content_block_start":
                return self._read_block(dict_of(read_json(bytes(said.content_block))))
            case "message_start":
                begun = _read_object(bytes(said.message))
                self.model = text_of(begun.model) or self.model
                self._merge(bytes(begun.usage))
                return FrameKind.NOTHING
            case "message_delta":
                self._merge(bytes(said.usage))
                if not dict_of(read_json(bytes(said.delta))).get("stop_reason"):
                    return FrameKind.NOTHING
                self.finished = True
                return FrameKind.END
            case "message_stop":
                self.done = self.finished = True
                return FrameKind.END
            case "error":
                return self._fail(failure_of_event(data))
            case _ if not kind or bytes(said.error) not in NO_ERROR:
                failure = failure_in(read_json(data))
                return FrameKind.NOTHING if failure is None else self._fail(failure)
        return FrameKind.NOTHING

    def _count_delta(self, delta: bytes) -> FrameKind:
        try:
            said = _decode_delta(delta)
        except UNREADABLE:
            value = dict_of(read_json(delta))
            text, json, thinking, signature = (
                piece if isinstance(piece := value.get(name), str) else None for name in _DELTA_TEXTS
            )
            said = _BlockDelta(text=text, partial_json=json, thinking=thinking, signature=signature)
        text = (said.text or "") + (said.partial_json or "") + (said.thinking or "")
        if text:
            self._stale = True
            self._made.add(text)
        # A signature, a citation: nothing to count, but something made.
        return FrameKind.CONTENT if text or said.signature or bytes(said.citation) else FrameKind.NOTHING

    def _read_block(self, block: dict[str, Any]) -> FrameKind:
        """A block begins: a call of a tool is content by itself, text and thinking when there is any."""
        kind = block.get("type")
        text = item_text({"content": [block]})
        if text:
            self._stale = True
            self._made.add(text)
        is_content = bool(text) or (isinstance(kind, str) and kind not in ("text", "thinking"))
        return FrameKind.CONTENT if is_content else FrameKind.NOTHING

    def _merge(self, usage: bytes) -> None:
        """Counts are running totals: a later event's figures replace an earlier one's, member by member.

        But not with a zero, or with what is no count: servers that translate from another API begin, or end, with
        those. And what was generated does not become less. Text that came before a report without a count of what was
        generated is still uncounted.
        """
        value = read_json(usage)
        if isinstance(value, dict) and value:
            before = generated_count(self._said)
            _update(self._said, value)
            counts = counts_in(self._said)
            self._counts = counts or self._counts
            reported = generated_count(value)
            if reported and reported >= before:
                self._stale = False


def _update(said: dict[str, Any], value: dict[str, Any], depth: int = 0) -> None:
    """Take a later report's members into those that were ``said`` before (``MessagesMeter._merge``)."""
    for name, later in value.items():
        earlier = said.get(name)
        if isinstance(earlier, dict) and isinstance(later, dict) and depth < _MOST_DEPTH:
            said[name] = earlier = dict(earlier)
            _update(earlier, later, depth + 1)
        elif name not in said or (later and not _says_less(name, earlier, later)):
            said[name] = later


def _says_less(name: str, earlier: object, later: object) -> bool:
    known, new = count(earlier), count(later)
    return known is not None and (new is None or (new < known and name in COMPLETION_NAMES))


#: How deep objects stand in one another in a usage: ``cache_creation`` holds counts, and no more objects.
_MOST_DEPTH = 2


class _BlockDelta(msgspec.Struct, gc=False):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: msgspec.Raw = msgspec.Raw()


_decode_delta = msgspec.json.Decoder(_BlockDelta).decode
_DELTA_TEXTS = ("text", "partial_json", "thinking", "signature")


class _Object(msgspec.Struct, gc=False):
    """What matters of a response, a message, a file or a batch."""

    id: str | None = None
    status: str | None = None
    #: Anthropic's word for it, of a batch.
    processing_status: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_decode_object = msgspec.json.Decoder(_Object).decode


def read_object(body: bytes) -> tuple[str, str]:
    """Returns the id and the status of the object that an answer is; "" for what it does not say. Never raises."""
    said = _read_object(body)
    return said.id or "", said.status or said.processing_status or ""


def _read_object(body: bytes) -> _Object:
    try:
        return _decode_object(body)
    except UNREADABLE:
        value = dict_of(read_json(body))
        texts = {
            name: text
            for name in ("id", "status", "processing_status", "model")
            if isinstance(text := value.get(name), str)
        }
        return _Object(**texts, usage=_raw(value.get("usage")), error=_raw(value.get("error")))


def _read_event(data: bytes) -> _Event | None:
    try:
        return _decode(data)
    except UNREADABLE:
        value = read_json(data)
        if not isinstance(value, dict):
            return None
        kind, sequence = value.get("type"), value.get("sequence_number")
        members = {
            name: _raw(value[name])
            for name in ("delta", "response", "message", "usage", "error", "item", "content_block")
            if name in value
        }
        return _Event(
            type=kind if isinstance(kind, str) else None,
            sequence_number=sequence if isinstance(sequence, int) and not isinstance(sequence, bool) else None,
            **members,
        )


def _raw(value: object) -> msgspec.Raw:
    """Any JSON value in bytes again, lone surrogates escaped."""
    return msgspec.Raw(dumped(value).encode())


def _text(delta: bytes) -> str:
    try:
        return _decode_text(delta)
    except UNREADABLE:
        value = read_json(delta)
        return value if isinstance(value, str) else ""


class TranscriptTextMeter:
    """Meters a transcript that is relayed as text (plain, SubRip, WebVTT) while it arrives, in bounded memory."""

    __slots__ = ("_edge", "_text", "audio_ms")

    def __init__(self) -> None:
        #: The end of the last cue seen, milliseconds; 0 where the text has none.
        self.audio_ms = 0
        self._edge = b""
        self._text = GeneratedText()

    def feed(self, chunk: bytes) -> None:
        """Count one piece of the text, cut anywhere."""
        around = self._edge + chunk
        self.audio_ms = max(self.audio_ms, last_cue_ms(around))
        # A cue's time may be cut in two. One cut in its fraction is read too short first, and rightly then.
        self._edge = around[-40:]
        self._text.add(chunk.decode("utf-8", "replace"))

    def usage(self) -> Usage:
        """The text's tokens, and when its last cue ends: estimates, of what the recording itself has exactly."""
        return Usage(completion_tokens=self._text.tokens(), audio_ms=self.audio_ms, estimated=True)
