"""What a whole answer is: its usage, its model, or its failure.

Owns the meter of each kind of endpoint for an answer that was read whole. Of an ordinary answer only the members that
matter are decoded, in about two microseconds; any other is read again by the forgiving readers. Nothing that a server
sends raises: what makes no sense counts as not reported, and is then estimated (models.estimate).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from trustgate.models.metering.answer import Failure, failure_in, failure_of, is_failed_text
from trustgate.models.metering.counts import counts_of_answer
from trustgate.models.metering.generated import generated_tokens
from trustgate.models.metering.lenient import UNREADABLE, dict_of, list_of, number, read_json, text_of
from trustgate.models.metering.ordinary import OrdinaryUsage, counts_of_ordinary
from trustgate.models.metering.usages import Counts, filled, milliseconds, plausible
from trustgate.types import Usage


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a whole answer."""

    #: None: it reports nothing that makes sense.
    counts: Counts | None = None
    #: The model's name as the server gave it, fit to be kept; "" when it did not.
    model: str = ""
    #: The answer is none: its status notwithstanding, this is what went wrong.
    failure: Failure | None = None
    #: What an estimate of the generated tokens is made from, where one is needed.
    body: bytes = b""

    @property
    def usage(self) -> Usage | None:
        """What is reported, as far as it is."""
        return None if self.counts is None else self.counts.usage

    @property
    def completion_estimate(self) -> int:
        """An estimate of the generated tokens."""
        return generated_tokens(self.body) if self.body else 0

    def usage_or_estimate(
        self, prompt_estimate: int, *, prompt_bound: int | None = None, completion_bound: int | None = None
    ) -> Usage:
        """Returns the reported usage, completed by estimates, which mark it; no count is beyond its bound
        (``plausible``).
        """
        counts = self.counts
        if counts is not None and not counts.lacks and counts.usage.completion_tokens:
            usage = counts.usage
        else:
            usage = filled(counts, prompt_estimate, self.completion_estimate)
        if (prompt_bound is None or usage.prompt_tokens <= prompt_bound) and (
            completion_bound is None or usage.completion_tokens <= completion_bound
        ):
            return usage
        return plausible(
            usage,
            prompt_bound=prompt_bound,
            completion_bound=completion_bound,
            prompt_estimate=prompt_estimate,
            completion_estimate=self.completion_estimate,
        )


class _Body(msgspec.Struct, gc=False):
    """The members of an answer that matter for an ordinary one."""

    model: str | None = None
    usage: OrdinaryUsage | None = None
    error: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None
    object: str | None = None
    status: str | None = None
    type: str | None = None
    base_resp: msgspec.Raw = msgspec.Raw()


_decode_body = msgspec.json.Decoder(_Body).decode
_NO_ERROR = frozenset({b"", b"null", b"{}", b'""', b"false"})


def read_answer(body: bytes) -> Reported:
    """Returns the answer of an endpoint that generates: chat, completions, messages."""
    return _ordinary(body) or _read(body, read_json(body))


def _ordinary(body: bytes) -> Reported | None:
    """Returns the content of an answer that is plainly a good one; None if it has to be looked at more closely."""
    try:
        answer = _decode_body(body)
    except UNREADABLE:
        return None
    usage = answer.usage
    if usage is None or (answer.error and bytes(answer.error) not in _NO_ERROR) or answer.base_resp:
        return None
    if answer.status not in _GOOD_STATUSES or answer.object == "error" or answer.type == "error":
        return None
    counts = counts_of_ordinary(usage, answer.service_tier or "")
    if counts is None or (answer.object != "response" and body.find(b'"error"') >= 0):
        return None
    return Reported(counts=counts, model=text_of(answer.model), body=body)


#: Of a Response; other answers have no status.
_GOOD_STATUSES = frozenset({None, "completed", "incomplete", "queued", "in_progress"})


def _read(body: bytes, answer: Any, *, generates: bool = True) -> Reported:
    """Returns the content of any body; ``answer``: its JSON."""
    failure = failure_of(body) if answer is None else failure_in(answer)
    if not isinstance(answer, dict):
        # No endpoint answers with a number, a text or nothing; some servers' scores and vectors are bare lists.
        is_answer = isinstance(answer, list) and not generates
        return Reported(failure=failure or (None if is_answer else Failure()), body=body)
    counts = counts_of_answer(answer, generates=generates)
    if failure is None and counts is None and (not answer or ("choices" in answer and not answer["choices"])):
        # An answer without anything in it.
        failure = Failure()
    return Reported(counts=counts, model=_model(answer), failure=failure, body=body)


def _model(answer: dict[str, Any]) -> str:
    return text_of(answer.get("model")) or text_of(answer.get("modelVersion"))


def read_scores(body: bytes) -> Reported:
    """Returns the answer of an endpoint that generates nothing: embeddings, rerank, moderations."""
    return _ordinary(body) or _read(body, read_json(body), generates=False)


def read_response(body: bytes) -> Reported:
    """Returns the answer to a request for a Response: one that failed is a failure. Searches that it made are
    counted.
    """
    reported = _ordinary(body)
    answer: Any = None
    if reported is None:
        answer = read_json(body)
        reported = _read(body, answer)
    if b"_search_call" not in body or reported.counts is None:
        return reported
    searches = searches_in(read_json(body) if answer is None else answer)
    usage = reported.counts.usage
    if searches <= usage.searches:
        return reported
    counts = msgspec.structs.replace(reported.counts, usage=msgspec.structs.replace(usage, searches=searches))
    return msgspec.structs.replace(reported, counts=counts)


def searches_in(response: object) -> int:
    """Returns how often a Response searched the web: its ``usage`` does not tell, its items do."""
    items = list_of(dict_of(response).get("output"))
    return sum(dict_of(item).get("type") == "web_search_call" for item in items)


def read_kept(body: bytes) -> Reported:
    """Returns the answer to a look at what an upstream keeps: that a Response or a batch failed is no failure of the
    look.
    """
    reported = read_response(body)
    if reported.failure is None:
        return reported
    answer = dict_of(read_json(body))
    is_kept = isinstance(answer.get("object"), str) and answer.get("object") != "error" and "id" in answer
    return msgspec.structs.replace(reported, failure=None) if is_kept else reported


def read_images(body: bytes) -> Reported:
    """Returns the answer of an image endpoint: its token usage where it has any, and how many images it holds.

    An answer without images (``"data": null`` or ``[]``) made none, and cost none.
    """
    answer = read_json(body)
    reported = _read(body, answer)
    made = dict_of(answer)
    images = sum(map(_is_image, list_of(made.get("data")))) or sum(map(_is_image, list_of(made.get("images"))))
    usage = reported.usage or Usage()
    usage = msgspec.structs.replace(usage, images=images)
    if usage.completion_tokens and not usage.image_completion_tokens:
        # All that an image endpoint generates is images, whether or not it is marked so.
        usage = msgspec.structs.replace(usage, image_completion_tokens=usage.completion_tokens - usage.reasoning_tokens)
    return msgspec.structs.replace(reported, counts=Counts(usage=usage), body=b"")


def _is_image(item: object) -> bool:
    """Returns whether an item of a list of images holds one: a refusal, or members without a value, are none."""
    if not isinstance(item, dict):
        return bool(item)
    return not item.get("error") and any(value for name, value in item.items() if name not in _NOT_OF_AN_IMAGE)


_NOT_OF_AN_IMAGE = frozenset({"revised_prompt", "object", "index", "type"})


def read_transcript(body: bytes) -> Reported:
    """Returns the answer of a transcription, in whatever ``response_format``: tokens, or seconds, or both.

    Seconds are those of ``usage``, else the ``duration``, else the end of the last segment or cue, which is marked as
    an estimate. Where none of these is told, and no tokens are, nothing is reported: the recording's own length has to
    serve.
    """
    answer = read_json(body)
    if not isinstance(answer, dict):
        if answer is None and is_failed_text(body) and body.lstrip()[:1] == b"<":
            return Reported(failure=failure_of(body))
        audio_ms = last_cue_ms(body)
        usage = Usage(audio_ms=audio_ms, estimated=True)
        return Reported(counts=Counts(usage=usage) if audio_ms else None)
    failure = failure_in(answer)
    counts = counts_of_answer(answer)
    usage = Usage() if counts is None else counts.usage
    audio_ms = usage.audio_ms or milliseconds(number(answer.get("duration")) or 0.0)
    is_told = bool(audio_ms)
    audio_ms = audio_ms or _last_segment_ms(answer)
    has_tokens = bool(usage.prompt_tokens or usage.completion_tokens)
    if not audio_ms and not has_tokens:
        return Reported(model=_model(answer), failure=failure, body=body)
    is_estimate = usage.estimated or not (is_told or has_tokens)
    usage = msgspec.structs.replace(usage, audio_ms=audio_ms, estimated=is_estimate)
    lacks = counts.lacks if counts is not None and has_tokens else ""
    return Reported(
        counts=Counts(usage=usage, lacks=lacks),
        model=_model(answer),
        failure=failure,
        # Where seconds are what is counted, an estimate of tokens would be charged besides.
        body=body if has_tokens else b"",
    )


def _last_segment_ms(answer: dict[str, Any]) -> int:
    segments = [dict_of(segment) for name in ("segments", "words") for segment in list_of(answer.get(name))]
    return milliseconds(max((number(segment.get("end")) or 0.0 for segment in segments), default=0.0))


_CUE = re.compile(rb"-->\s*(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")


def last_cue_ms(text: bytes) -> int:
    """When the last cue of SubRip or WebVTT text ends, milliseconds; 0 where there is none.

    Sources: W3C WebVTT, section 4.1; SubRip's ``HH:MM:SS,mmm``.
    """
    last = 0
    for cue in _CUE.finditer(text):
        hours, minutes, seconds, fraction = cue.groups()
        milli = (int(hours or 0) * 60 + int(minutes)) * 60_000 + int(seconds) * 1000 + int(fraction.ljust(3, b"0"))
        last = max(last, milli)
    return last


def read_speech(body: bytes) -> Reported:
    """Returns the answer of a speech endpoint that is JSON instead of audio: what it costs is told by its request."""
    failure = failure_of(body)
    return Reported(counts=Counts(usage=Usage()), failure=failure)


def read_nothing_used(body: bytes) -> Reported:
    """Returns the answer of an endpoint that is not metered: looking at what was paid for when it was made, or
    counting.
    """
    answer = read_json(body)
    reported = _read(body, answer) if answer is None or failure_in(answer) is not None else Reported()
    kept = dict_of(answer)
    is_kept = isinstance(kept.get("object"), str) and kept.get("object") != "error"
    return Reported(counts=Counts(usage=Usage()), failure=None if is_kept else reported.failure)
