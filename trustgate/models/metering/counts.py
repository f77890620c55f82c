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
from typing import Annotated, Any, Literal

import msgspec

from trustgate.models.metering.lenient import MAX_COUNT, UNREADABLE, count, dict_of, list_of, number, read_json, text_of
from trustgate.models.prices import CONDITION_MOST
from trustgate.models.pricing import COUNTS
from trustgate.types import Usage

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
#: A year: what is said to last longer is nonsense.
MOST_AUDIO_MS = 31_536_000_000


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was reported. What ``lacks`` names is to be estimated; with "split", ``prompt_tokens`` is the total."""

    usage: Usage
    lacks: Literal["", "prompt", "completion", "split"] = ""


# the quick way: an object that holds nothing but what is ordinary, and that adds up


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


def ordinary_counts(usage: bytes, tier: str = "") -> Counts | None:
    """Returns the counts in the JSON of a ``usage`` member, if they need no thinking about; None if they do.

    ``tier``: what stands beside it.
    """
    try:
        return counts_of_ordinary(_decode_ordinary(usage), tier)
    except UNREADABLE:
        return None


def counts_of_json(usage: bytes) -> Counts | None:
    """Returns what the JSON of a ``usage`` member reports; None if it reports nothing."""
    return ordinary_counts(usage) or counts_in(read_json(usage))


def counts_of_ordinary(said: OrdinaryUsage, tier: str) -> Counts | None:
    """Returns the counts in a decoded ``usage``, if they add up; None if they need thinking about."""
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


# the thorough way: any object

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
    usage = bounded(
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


# what every usage has to fulfil


def milliseconds(seconds: float) -> int:
    """Seconds as milliseconds, rounded up; 0 where they cannot be right."""
    milli = -int(-seconds * 1000 // 1)
    return milli if 0 <= milli <= MOST_AUDIO_MS else 0


def bounded(usage: Usage, *, is_sum_known: bool = True) -> Usage:
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
    return bounded(
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
    return bounded(
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
    prompt_bound: int | None = None,
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
    return bounded(msgspec.structs.replace(usage, prompt_tokens=prompt, completion_tokens=completion, estimated=True))
