"""What every usage has to fulfil, wherever it was read: parts within their sums, no count that cannot be.

Owns what is done about a usage that lacks something, or has too much of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trustgate.models.metering.lenient import MAX_COUNT
from trustgate.models.pricing import COUNTS
from trustgate.types import Usage

#: A year: what is said to last longer is nonsense.
MOST_AUDIO_MS = 31_536_000_000


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was reported. What ``lacks`` names is to be estimated; with "split", ``prompt_tokens`` is the total."""

    usage: Usage
    lacks: Literal["", "prompt", "completion", "split"] = ""


def milliseconds(seconds: float) -> int:
    """Seconds as milliseconds, rounded up; 0 where they cannot be right."""
    milli = -int(-seconds * 1000 // 1)
    return milli if 0 <= milli <= MOST_AUDIO_MS else 0


def consistent(usage: Usage, *, is_sum_known: bool = True) -> Usage:
    """Returns the usage with each part at most as large as what it is part of, and no sum beyond ``MAX_COUNT``.

    A part that was larger marks the usage as contradictory, unless the sums are not known yet.
    """
    prompt, completion = min(usage.prompt_tokens, MAX_COUNT), min(usage.completion_tokens, MAX_COUNT)
    cached = min(usage.cached_tokens, prompt)
    written = min(usage.cache_write_tokens, prompt - cached)
    fitted = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cached_tokens": cached,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": min(usage.cache_write_1h_tokens, written),
        "reasoning_tokens": min(usage.reasoning_tokens, completion),
        "audio_prompt_tokens": min(usage.audio_prompt_tokens, prompt),
        "image_prompt_tokens": min(usage.image_prompt_tokens, prompt),
        "audio_completion_tokens": min(usage.audio_completion_tokens, completion),
        "image_completion_tokens": min(usage.image_completion_tokens, completion),
    }
    if all(getattr(usage, name) == value for name, value in fitted.items()):
        return usage
    return msgspec.structs.replace(usage, **fitted, contradictory=usage.contradictory or is_sum_known)


def filled(counts: Counts | None, prompt_estimate: int, completion_estimate: int) -> Usage:
    """Returns the usage that was reported, with estimates for what was not; it is marked where an estimate is in it."""
    prompt_estimate, completion_estimate = min(prompt_estimate, MAX_COUNT), min(completion_estimate, MAX_COUNT)
    if counts is None:
        return Usage(prompt_tokens=prompt_estimate, completion_tokens=completion_estimate, estimated=True)
    usage = counts.usage
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    contradictory = usage.contradictory
    match counts.lacks:
        case "prompt":
            prompt = max(prompt_estimate, prompt)
        case "completion":
            completion = max(completion_estimate, completion)
        case "split" if prompt:
            completion = min(completion_estimate, prompt)
            prompt -= completion
        case "split":
            prompt, completion = prompt_estimate, completion_estimate
        case _ if not completion and completion_estimate:
            # A count of nothing beside a text that was generated.
            completion, contradictory = completion_estimate, True
        case _:
            return usage
    is_changed = prompt != usage.prompt_tokens or completion != usage.completion_tokens
    return consistent(
        msgspec.structs.replace(
            usage,
            prompt_tokens=prompt,
            completion_tokens=completion,
            contradictory=contradictory,
            estimated=usage.estimated or is_changed,
        )
    )


def added(one: Usage, other: Usage) -> Usage:
    """Returns the sum of two usages: of the parts of one answer that each report their own."""
    sums = {name: min(getattr(one, name) + getattr(other, name), MAX_COUNT) for name in COUNTS}
    return consistent(
        msgspec.structs.replace(
            other,
            **sums,
            estimated=one.estimated or other.estimated,
            contradictory=one.contradictory or other.contradictory,
        )
    )


def plausible(
    usage: Usage,
    *,
    prompt_bound: int | None,
    completion_bound: int | None = None,
    prompt_estimate: int | None = None,
    completion_estimate: int | None = None,
) -> Usage:
    """The usage with no count beyond what is plausible for its request.

    Args:
        prompt_bound: the most prompt tokens there can have been (the model's context length, say); None: not known.
        completion_bound: the most that can have been generated (what was held for the request, say).
        prompt_estimate: what counts instead of a prompt beyond its bound; None: the bound itself.
        completion_estimate: the same for a completion.

    Returns the usage itself where it is plausible, else one that is marked as estimated.
    """
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt_bound is not None and prompt > prompt_bound:
        prompt = min(prompt_bound, prompt_bound if prompt_estimate is None else prompt_estimate)
    if completion_bound is not None and completion > completion_bound:
        completion = min(completion_bound, completion_bound if completion_estimate is None else completion_estimate)
    if prompt == usage.prompt_tokens and completion == usage.completion_tokens:
        return usage
    prompt, completion = max(prompt, 0), max(completion, 0)
    return consistent(
        msgspec.structs.replace(usage, prompt_tokens=prompt, completion_tokens=completion, estimated=True)
    )
