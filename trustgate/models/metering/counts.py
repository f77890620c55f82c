"""The usage of an answer: the counts that a server reports, in all known names and conventions.

Owns the reading of a ``usage`` object, member by member: each count is the first plausible one under any of its names,
never "the one of this vendor's family". What stands beside what (a prompt with or without what the cache served, a
completion with or without its reasoning) is decided by the numbers themselves where a total proves it, else by the
names. What contradicts itself is marked.

Sources: the API references of OpenAI (Chat, Responses, Images, Audio), Anthropic ("Prompt caching": ``input_tokens``
leaves out what was read from and written to the cache), DeepSeek ("Context caching"), Google (``usageMetadata``; its
OpenAI endpoint leaves thinking out of the parts but not out of the total), xAI, Mistral, Moonshot, Groq, OpenRouter,
Cohere, Jina, Voyage, Amazon Bedrock (Converse) and Ollama; the sources of llama.cpp's server and of TGI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from trustgate.models.metering.lenient import count, dict_of, list_of, number, read_json, text_of
from trustgate.models.metering.ordinary import ordinary_counts
from trustgate.models.metering.usages import Counts, consistent, milliseconds
from trustgate.models.prices import CONDITION_MOST
from trustgate.types import Usage

_PROMPT = (
    *("prompt_tokens", "input_tokens", "promptTokens", "inputTokens", "promptTokenCount", "prompt_token_count"),
    *("prompt_eval_count", "tokens_evaluated", "input_token_count"),
)
COMPLETION_NAMES = (
    *("completion_tokens", "output_tokens", "completionTokens", "outputTokens", "candidatesTokenCount"),
    *("candidates_token_count", "eval_count", "tokens_predicted", "generated_tokens"),
)
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details", "prompt_token_details")
_COMPLETION_DETAILS = (
    *("completion_tokens_details", "output_tokens_details", "output_token_details", "completion_token_details"),
)
_CACHED_DETAIL = ("cached_tokens", "cache_read_tokens", "cache_read", "cached_token_count")
_CACHED = (
    *("prompt_cache_hit_tokens", "cached_tokens", "cachedContentTokenCount", "cached_content_token_count"),
    *("num_cached_tokens", "cache_read_tokens"),
)
#: Anthropic's and Bedrock's names, whose prompt leaves these out.
_CACHED_BESIDE = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITTEN_BESIDE = ("cache_creation_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount")
_WRITTEN_DETAIL = ("cache_write_tokens", "cache_creation_tokens", "cache_creation")
_REASONING = ("reasoning_tokens", "thinking_tokens", "reasoning")
_THOUGHTS = ("thoughtsTokenCount", "thoughts_token_count")
_SEARCHES = ("web_search_requests", "num_search_queries", "num_sources_used", "search_units", "num_searches")
_SECONDS = ("seconds", "prompt_audio_seconds", "duration_seconds", "audio_seconds", "duration")
_BEYOND_USAGE = ("usageMetadata", "usage_metadata", "token_usage", "tokenUsage", "tokens", "billed_units")


def counts_of_json(usage: bytes) -> Counts | None:
    """Returns what the JSON of a ``usage`` member reports; None if it reports nothing."""
    return ordinary_counts(usage) or counts_in(read_json(usage))


def counts_in(usage: object, *, generates: bool = True) -> Counts | None:
    """Returns what a decoded ``usage`` object reports; None if it reports nothing. Never raises.

    ``generates``: whether a model that answers so can have generated tokens; what a total holds beyond its parts is
    then of the completion, else of the prompt.
    """
    if not isinstance(usage, dict):
        return None
    inner = [place for name in _BEYOND_USAGE if isinstance(place := usage.get(name), dict)]
    found = [counts for place in (usage, *inner) if (counts := _read(place, usage, generates)) is not None]
    return next((counts for counts in found if not counts.lacks), found[0] if found else None)


def generated_count(usage: dict[str, Any]) -> int:
    """Returns what a decoded ``usage`` object reports as generated, without judging it; 0 where it does not."""
    return _largest(usage, COMPLETION_NAMES)


def counts_of_answer(answer: object, *, generates: bool = True) -> Counts | None:
    """Returns what a decoded answer reports, wherever it stands: in ``usage``, in a choice, or where its server puts
    it.
    """
    if not isinstance(answer, dict):
        return None
    tier = text_of(answer.get("service_tier"), CONDITION_MOST)
    best = counts_in(answer.get("usage"), generates=generates)
    if best is not None and not best.lacks:
        return _with(best, searches=0, tier=tier)
    places = _other_places(answer)
    for place in places:
        counts = counts_in(place, generates=generates)
        if counts is not None and (best is None or not counts.lacks):
            best = counts
            if not counts.lacks:
                break
    searches = max(_largest(place, _SEARCHES) for place in places)
    return None if best is None else _with(best, searches=searches, tier=tier)


def _other_places(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns where servers report usage that is not in ``usage``; the answer itself is the last."""
    meta = dict_of(answer.get("meta"))
    choices = reversed(list_of(answer.get("choices")))
    places: list[object] = [dict_of(answer.get("x_groq")).get("usage"), *(dict_of(one).get("usage") for one in choices)]
    places += [dict_of(answer.get(name)).get("usage") for name in ("response", "message")]
    places += [meta.get("billed_units"), meta.get("tokens"), meta.get("usage"), answer.get("details")]
    places += [answer.get("usageMetadata"), answer.get("usage_metadata"), _timings(answer.get("timings"))]
    return [*(place for place in places if isinstance(place, dict) and place), answer]


def _timings(timings: object) -> dict[str, Any]:
    """llama.cpp's: ``prompt_n`` are the tokens that were worked on, ``cache_n`` those that its cache held."""
    if not isinstance(timings, dict) or count(timings.get("prompt_n")) is None:
        return {}
    cached = count(timings.get("cache_n")) or 0
    prompt = (count(timings.get("prompt_n")) or 0) + cached
    return {"prompt_tokens": prompt, "completion_tokens": timings.get("predicted_n"), "cached_tokens": cached}


def _with(counts: Counts, *, searches: int, tier: str) -> Counts:
    usage = counts.usage
    if searches <= usage.searches and (not tier or usage.service_tier):
        return counts
    changed = msgspec.structs.replace(
        usage, searches=max(searches, usage.searches), service_tier=usage.service_tier or tier
    )
    return msgspec.structs.replace(counts, usage=changed)


class _Parts(msgspec.Struct, kw_only=True):
    """The numbers of one place on their way to agreeing with each other."""

    prompt: int | None
    completion: int | None
    total: int | None
    cached: int
    written: int
    reasoning: int
    #: By their names, the cache's tokens stand beside the prompt; the reasoning stands beside the completion.
    cache_beside: bool
    reasoning_beside: bool
    contradictory: bool = False


def _read(place: dict[str, Any], around: dict[str, Any], generates: bool) -> Counts | None:
    """Returns the counts of one object. ``around``: the object that holds it, where searches and the tier may stand."""
    given = _merged(place, _PROMPT_DETAILS)
    made = _merged(place, _COMPLETION_DETAILS)
    created = dict_of(place.get("cache_creation"))
    hour = count(created.get("ephemeral_1h_input_tokens")) or 0
    parts = _parts(place, given, made, hour + (count(created.get("ephemeral_5m_input_tokens")) or 0))
    _settle(parts, generates)
    seconds = next((value for name in _SECONDS if (value := number(place.get(name))) is not None), 0.0)
    lacks: Literal["", "prompt", "completion", "split"] = ""
    prompt, completion = parts.prompt, parts.completion
    if prompt is None and completion is None:
        # A total alone; nothing but units that are no tokens; or nothing.
        prompt, lacks = parts.total or 0, "split"
    elif not prompt:
        # No request is without a prompt: a zero is a report that was not made.
        lacks = "prompt"
    elif completion is None:
        lacks = "completion"
    usage = consistent(
        Usage(
            prompt_tokens=prompt or 0,
            completion_tokens=completion or 0,
            cached_tokens=parts.cached,
            cache_write_tokens=parts.written,
            cache_write_1h_tokens=hour,
            reasoning_tokens=parts.reasoning,
            audio_prompt_tokens=count(given.get("audio_tokens")) or count(given.get("audio")) or 0,
            audio_completion_tokens=count(made.get("audio_tokens")) or count(made.get("audio")) or 0,
            image_prompt_tokens=count(given.get("image_tokens")) or 0,
            image_completion_tokens=count(made.get("image_tokens")) or 0,
            audio_ms=milliseconds(seconds),
            searches=max(_largest(dict_of(around.get("server_tool_use")), _SEARCHES), _largest(around, _SEARCHES)),
            service_tier=text_of(around.get("service_tier"), CONDITION_MOST),
            contradictory=parts.contradictory,
        ),
        is_sum_known=not lacks,
    )
    if not (usage.prompt_tokens or usage.completion_tokens):
        return Counts(usage=usage, lacks="split") if usage.audio_ms or usage.searches else None
    return Counts(usage=usage, lacks=lacks)


def _parts(place: dict[str, Any], given: dict[str, Any], made: dict[str, Any], created: int) -> _Parts:
    prompts, completions = _all(place, _PROMPT), _all(place, COMPLETION_NAMES)
    total = _largest(place, _TOTAL) or None
    cached_beside, written_beside = _largest(place, _CACHED_BESIDE), _largest(place, _WRITTEN_BESIDE)
    cached = _largest(given, _CACHED_DETAIL) or _largest(place, _CACHED) or cached_beside
    written = max(written_beside, created) or _largest(given, _WRITTEN_DETAIL)
    thoughts = _largest(place, _THOUGHTS)
    hit, missed = count(place.get("prompt_cache_hit_tokens")), count(place.get("prompt_cache_miss_tokens"))
    if not any(prompts) and hit is not None and missed is not None:
        prompts = [hit + missed]
    prompt, completion, contradictory = _agreeing(prompts, completions, total, cached + written)
    is_openai = bool(count(place.get("prompt_tokens"))) or any(name in given for name in _CACHED_DETAIL)
    return _Parts(
        prompt=prompt,
        completion=completion,
        total=total,
        cached=cached,
        written=written,
        reasoning=_largest(made, _REASONING) or _largest(place, _REASONING) or thoughts,
        cache_beside=bool(cached_beside or written_beside or created) and not is_openai,
        reasoning_beside=bool(thoughts),
        contradictory=contradictory or (hit is not None and missed is not None and prompt != hit + missed),
    )


def _agreeing(
    prompts: Sequence[int], completions: Sequence[int], total: int | None, beside: int
) -> tuple[int | None, int | None, bool]:
    """Returns one prompt and one completion out of what stands under several names; whether they contradict each other.

    Those that make up the total, else the first that is not zero. A prompt that leaves out the cache and one that does
    not may stand side by side: they are no contradiction, and the larger is the whole.
    """
    some_prompts = [value for value in prompts if value] or list(prompts[:1])
    some_completions = [value for value in completions if value] or list(completions[:1])
    if len(set(some_prompts)) < 2 and len(set(some_completions)) < 2:
        return next(iter(some_prompts), None), next(iter(some_completions), None), False
    for prompt in some_prompts:
        for completion in some_completions:
            if prompt + completion == total:
                return prompt, completion, False
    if beside and some_prompts and max(some_prompts) - min(some_prompts) == beside and len(set(some_completions)) < 2:
        return max(some_prompts), next(iter(some_completions), None), False
    return next(iter(some_prompts), None), next(iter(some_completions), None), True


def _settle(parts: _Parts, generates: bool) -> None:
    """Make the parts agree: what stands beside a count, and is part of it in our words, is added to it."""
    prompt, completion, total = parts.prompt, parts.completion, parts.total
    beside = parts.cached + parts.written
    if prompt is not None and beside:
        prompt += _beside_prompt(parts)
    if completion is not None and parts.reasoning:
        whole = None if total is None or prompt is None else prompt + completion
        is_proven = whole is not None and total == whole + parts.reasoning
        if is_proven or parts.reasoning > completion or (parts.reasoning_beside and (whole is None or total != whole)):
            completion += parts.reasoning
    if total is not None:
        if prompt is None and (completion is not None or not generates):
            prompt = max(total - (completion or 0), 0)
        elif completion is None and prompt is not None:
            completion = max(total - prompt, 0) if generates else 0
        if prompt is not None and completion is not None:
            if total > prompt + completion and not generates:
                prompt = total - completion
            elif total > prompt + completion:
                # What is in no part was generated: thinking, as Google's servers count it.
                completion = total - prompt
            parts.contradictory = parts.contradictory or total < prompt + completion
    parts.prompt, parts.completion = prompt, completion


def _beside_prompt(parts: _Parts) -> int:
    """Returns what the cache served, or took, that the prompt does not hold yet."""
    assert parts.prompt is not None, "asked only of a prompt"
    beside = parts.cached + parts.written
    inner = parts.prompt + (parts.completion or 0)
    if parts.total is not None and parts.completion is not None:
        for more in (beside, parts.cached):
            if more and parts.total in (inner + more, inner + more + parts.reasoning):
                return more
        if parts.total == inner and beside <= parts.prompt:
            return 0
    if not parts.cache_beside and beside <= parts.prompt:
        return 0
    # A part cannot be larger than its sum, so it stands beside it, as far as the total has room for it: no more is used
    # than what is reported in all. Where the names say so, a total may leave it out altogether.
    if parts.total is None or (parts.cache_beside and parts.total == inner):
        return beside
    room = max(0, min(beside, parts.total - inner))
    parts.contradictory = parts.contradictory or room < beside
    return room


def _merged(place: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in reversed(names):
        merged.update({key: value for key, value in dict_of(place.get(name)).items() if value})
    return merged


def _all(place: dict[str, Any], names: tuple[str, ...]) -> list[int]:
    return [value for name in names if (value := count(place.get(name))) is not None]


def _largest(place: dict[str, Any], names: tuple[str, ...]) -> int:
    return max((value for name in names if (value := count(place.get(name))) is not None), default=0)
