"""An ordinary ``usage`` object: one with nothing but the usual members, that adds up. Read in about a microsecond.

Owns what is ordinary. Any other object is left to ``metering.counts``, which reads every name and convention.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.models.metering.lenient import MAX_COUNT, UNREADABLE, text_of
from trustgate.models.metering.usages import Counts
from trustgate.models.prices import CONDITION_MOST
from trustgate.types import Usage

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class _PromptDetails(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    cached_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    text_tokens: msgspec.Raw = msgspec.Raw()
    image_tokens: _Count | None = None


class _CompletionDetails(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    text_tokens: msgspec.Raw = msgspec.Raw()
    image_tokens: _Count | None = None
    accepted_prediction_tokens: msgspec.Raw = msgspec.Raw()
    rejected_prediction_tokens: msgspec.Raw = msgspec.Raw()


class _CacheCreation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    ephemeral_5m_input_tokens: _Count = 0
    ephemeral_1h_input_tokens: _Count = 0


class OrdinaryUsage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A ``usage`` with no other members than these, each of its usual type."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _PromptDetails | None = None
    output_tokens_details: _CompletionDetails | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _CacheCreation | None = None
    server_tool_use: None = None
    service_tier: str | None = None
    inference_geo: msgspec.Raw = msgspec.Raw()


_decode_ordinary = msgspec.json.Decoder(OrdinaryUsage).decode


def ordinary_counts(usage: bytes) -> Counts | None:
    """Returns the counts in the JSON of a ``usage`` member, if it is an ordinary one that adds up; else None."""
    try:
        return counts_of_ordinary(_decode_ordinary(usage), "")
    except UNREADABLE:
        return None


def counts_of_ordinary(said: OrdinaryUsage, tier: str) -> Counts | None:
    """Returns the counts in a decoded ``usage``, if they add up; else None.

    ``tier``: the service tier that stands beside it.
    """
    prompt, completion = said.prompt_tokens or said.input_tokens, said.completion_tokens or said.output_tokens
    total = said.total_tokens
    if (
        not prompt
        or (completion is None and total != prompt)
        or (said.prompt_tokens and said.input_tokens)
        or (said.completion_tokens and said.output_tokens)
        # Details under both names: each may have what the other lacks.
        or (said.prompt_tokens_details is not None and said.input_tokens_details is not None)
        or (said.completion_tokens_details is not None and said.output_tokens_details is not None)
        or (total is not None and total != prompt + (completion or 0))
    ):
        return None
    completion = completion or 0
    if said.service_tier:
        tier = said.service_tier
    if tier:
        tier = text_of(tier, CONDITION_MOST)
    if said.cache_read_input_tokens or said.cache_creation_input_tokens or said.cache_creation is not None:
        return _anthropic(said, prompt, completion, tier)
    given, made = (
        said.prompt_tokens_details or said.input_tokens_details,
        said.completion_tokens_details or said.output_tokens_details,
    )
    if given is None and made is None:
        return Counts(usage=Usage(prompt_tokens=prompt, completion_tokens=completion, service_tier=tier))
    given, made = given or _NO_PROMPT_DETAILS, made or _NO_COMPLETION_DETAILS
    cached, reasoning = given.cached_tokens or 0, made.reasoning_tokens or 0
    heard, seen = given.audio_tokens or 0, given.image_tokens or 0
    spoken, drawn = made.audio_tokens or 0, made.image_tokens or 0
    if max(cached, heard, seen) > prompt or max(reasoning, spoken, drawn) > completion:
        return None
    return Counts(
        usage=Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=cached,
            reasoning_tokens=reasoning,
            audio_prompt_tokens=heard,
            audio_completion_tokens=spoken,
            image_prompt_tokens=seen,
            image_completion_tokens=drawn,
            service_tier=tier,
        )
    )


def _anthropic(said: OrdinaryUsage, prompt: int, completion: int, tier: str) -> Counts | None:
    """Returns the counts of Anthropic's own servers, whose prompt leaves out what its cache served and took."""
    made = said.output_tokens_details
    if said.prompt_tokens or said.total_tokens is not None or said.input_tokens_details or said.completion_tokens:
        return None
    if said.prompt_tokens_details is not None or said.completion_tokens_details is not None:
        return None
    created = said.cache_creation or _NOTHING_CREATED
    cached, hour = said.cache_read_input_tokens or 0, created.ephemeral_1h_input_tokens
    written = said.cache_creation_input_tokens or 0
    reasoning = 0 if made is None else made.reasoning_tokens or 0
    if written != hour + created.ephemeral_5m_input_tokens and said.cache_creation is not None:
        return None
    if reasoning > completion or prompt + cached + written > MAX_COUNT:
        return None
    return Counts(
        usage=Usage(
            prompt_tokens=prompt + cached + written,
            completion_tokens=completion,
            cached_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
            reasoning_tokens=reasoning,
            service_tier=tier,
        )
    )


_NOTHING_CREATED = _CacheCreation()
_NO_PROMPT_DETAILS = _PromptDetails()
_NO_COMPLETION_DETAILS = _CompletionDetails()
