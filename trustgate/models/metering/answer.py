"""Whether an answer is a failure, by its content: whatever its shape and its status.

Owns the shapes. Sources: OpenAI API reference, "Error codes"; Anthropic, "Errors"; FastAPI, "Handling errors" (vLLM,
SGLang, LiteLLM); Google API design guide, "Errors"; RFC 9457 (problem details); the sources of llama.cpp, Ollama, TGI
and LocalAI; the API references of Mistral, Cohere, DashScope, MiniMax and OpenRouter. Nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from trustgate.models.metering.lenient import dict_of, list_of, read_json, text_of

_MOST_MESSAGE = 4_000
_MOST_DEPTH = 4


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failure as the upstream told it. All texts are the upstream's: they may name its address or its credential."""

    #: The HTTP status (400 … 599) that the body itself gives or implies; None if it does neither.
    status: int | None = None
    code: str | None = None
    type: str | None = None
    #: "" where the upstream gave no reason.
    message: str = ""
    #: The member of the request that is at fault.
    param: str | None = None

    @property
    def is_context_overflow(self) -> bool:
        """Whether the request was too long for the model: another model may take it."""
        return any(_overflows(said) for said in (self.code, self.type)) or _OVERFLOW.search(self.message) is not None

    @property
    def is_unfunded(self) -> bool:
        """Whether the account at the upstream has no more money or quota, which waiting does not mend."""
        return any(word in _word(said) for said in (self.code, self.type) for word in _UNFUNDED)


#: Members of which any answer that is one has at least one that is not empty.
_ANSWER_MEMBERS = (
    *("choices", "output", "content", "data", "results", "result", "embeddings", "embedding", "candidates", "text"),
    *("segments", "response", "usage", "audio", "images", "image", "object", "generated_text", "input_tokens"),
)
_MESSAGES = (
    *("message", "detail", "error_message", "errorMessage", "error_msg", "msg", "Message", "title", "description"),
    *("reason", "status_msg", "faultstring", "exception"),
)
_STATUSES = (
    *("status", "status_code", "statusCode", "http_status", "http_status_code", "http_code", "code", "error_code"),
)
_CODES = ("code", "error_code", "errorCode", "errorcode")
_TYPES = ("type", "error_type", "__type", "status")

#: What names of codes and types mean, small letters and digits alone; the first that fits counts.
_MEANINGS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (400, ("contextlength", "contextsize", "contextwindow", "stringabovemaxlength", "promptistoolong")),
    (429, ("insufficientquota",)),
    (402, ("insufficientbalance", "insufficientcredit", "insufficientfund", "billing", "paymentrequired", "arrearage")),
    (429, ("ratelimit", "toomanyrequest", "resourceexhausted", "throttl", "quotaexceeded", "limitexceeded")),
    (529, ("overloadederror",)),
    (503, ("overloaded", "unavailable", "modelloading", "serverbusy", "enginebusy", "slowdown", "nocapacity")),
    (504, ("timeout", "timedout", "deadlineexceeded")),
    (404, ("notfound", "doesnotexist", "nosuchmodel", "unknownmodel")),
    (401, ("authentication", "unauthenticated", "unauthorized", "apikey")),
    (403, ("permission", "forbidden", "accessdenied")),
    (413, ("toolarge",)),
    (422, ("validation", "unprocessable")),
    (400, ("contentfilter", "contentpolicy", "moderation", "badrequest", "invalid", "missing", "unsupported")),
    (500, ("servererror", "internal", "apierror", "upstreamerror")),
)
#: MiniMax's ``base_resp.status_code``.
_MINIMAX = {1000: 500, 1001: 504, 1002: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 1039: 429, 2013: 400}
_OVERFLOW = re.compile(
    r"context[ _](?:length|window|size)|prompt is too long|too many (?:input )?tokens|input is too long", re.IGNORECASE
)
_UNFUNDED = (
    *("insufficientquota", "insufficientbalance", "insufficientcredit", "insufficientfund", "billing", "arrearage"),
)
#: What a message alone implies, where there is neither a code nor a type.
_MESSAGE_MEANINGS = (
    (400, _OVERFLOW),
    (429, re.compile(r"rate.?limit|too many requests|resource ?exhausted", re.IGNORECASE)),
    (503, re.compile(r"overloaded|at capacity|currently loading|loading model|temporarily unavailable", re.IGNORECASE)),
)
#: How text begins, or what stands in it, that means a failure in a place where JSON is due.
_FAILED_STARTS = (b"<!doctype", b"<html", b"error", b"[error", b"traceback")
_FAILED_TEXT = re.compile(
    rb"(?:internal|connect|connection|server|gateway) error|(?:bad|gateway) (?:gateway|timeout)|service unavailable"
    rb"|no healthy upstream|disconnect|too many requests|rate limit",
    re.IGNORECASE,
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


def failure_of(body: bytes) -> Failure | None:
    """Returns the failure in a body, whether the status is 200, 4xx or 5xx.

    None for a body that is an answer, and for JSON without a failure. What is no JSON is a failure: its
    text, or a page's title, is the message.
    """
    value = read_json(body)
    if value is None and body.strip() != b"null":
        return Failure(message=_plain_text(body))
    return failure_in(value)


def failure_in(value: object) -> Failure | None:
    """Returns the failure in decoded JSON; None if there is none."""
    if isinstance(value, dict):
        return _failure_in_object(value)
    if isinstance(value, str):
        return _failure([], value)
    if isinstance(value, list):
        return _failure_in_list(value)
    return None


def failure_of_event(data: bytes) -> Failure:
    """Returns the failure in a payload whose event is named ``error``, or which its server calls a failure."""
    value = read_json(data)
    failure = failure_in(value)
    if failure is None and isinstance(value, dict):
        failure = _failure([value, dict_of(value.get("error"))], value)
    return failure or Failure(message=_plain_text(data))


def is_failed_text(data: bytes) -> bool:
    """Returns whether a payload that is no JSON, in a place where JSON is due, is a failure: a page, or a word of
    error.
    """
    start = data.strip()[:40].lower()
    return start.startswith(_FAILED_STARTS) or _FAILED_TEXT.search(data[:_MOST_MESSAGE]) is not None


def _failure_in_object(value: dict[str, Any]) -> Failure | None:
    for name in ("error", "fault"):
        if _says(value.get(name)):
            return _failure_of_member(value, value[name])
    kinds = [kind for name in ("type", "object", "status") if (kind := value.get(name)) in ("error", "failed")]
    is_response = value.get("object") == "response" or "output" in value
    if "error" in kinds or (kinds and is_response) or value.get("success") is False or value.get("ok") is False:
        return _failure([value], value)
    base = dict_of(value.get("base_resp"))
    if code := base.get("status_code"):
        return _failure([base], base, _MINIMAX.get(code, 500) if isinstance(code, int) else None)
    if (failure := _failure_in_choices(value)) is not None:
        return failure
    if any(value.get(name) for name in _ANSWER_MEMBERS) or isinstance(dict_of(value.get("message")).get("role"), str):
        return None
    if errors := value.get("errors"):
        return _failure_of_member(value, errors)
    if any(_says(value.get(name)) for name in _MESSAGES):
        return _failure([value], value)
    if isinstance(value.get("Error"), dict | str) or isinstance(value.get("Message"), str):
        # Some vendors' services write the names with capitals.
        return _failure_in_object(_in_small_letters(value))
    return None


def _in_small_letters(value: dict[str, Any]) -> dict[str, Any]:
    """Returns the names in small letters; those of an ``Error`` inside too, and no deeper."""
    small = {name.lower(): inner for name, inner in value.items()}
    if isinstance(small.get("error"), dict):
        small["error"] = {name.lower(): inner for name, inner in small["error"].items()}
    return small


def _failure_of_member(value: dict[str, Any], inner: object) -> Failure:
    """Returns the failure in an ``error`` or ``errors`` member: an object, a text, a list of either, or a mere
    ``true``.
    """
    sources = [value]
    for _ in range(_MOST_DEPTH):
        if isinstance(inner, list) and inner and isinstance(inner[0], dict) and len(inner) == 1:
            inner = inner[0]
        if not isinstance(inner, dict):
            break
        sources.insert(0, inner)
        if not _says(inner.get("error")):
            break
        inner = inner["error"]
    return _failure(sources, inner if isinstance(inner, dict | list | str) else value)


def _failure_in_list(value: list[Any]) -> Failure | None:
    """Google's servers put an error into a list of one; others send a list of reasons."""
    if len(value) == 1 and isinstance(value[0], dict):
        return _failure_in_object(value[0])
    return _failure([], value) if value and all(map(_is_reason, value)) else None


def _is_reason(one: object) -> bool:
    return isinstance(one, str) or (isinstance(one, dict) and _says(_first(one, ("msg", "message", "error"))))


def _failure_in_choices(value: dict[str, Any]) -> Failure | None:
    """Every choice failed, and none of them holds anything made before it did."""
    choices = [choice for choice in list_of(value.get("choices")) if isinstance(choice, dict)]
    failed = [choice for choice in choices if _says(choice.get("error")) or choice.get("finish_reason") == "error"]
    if not choices or len(failed) < len(choices) or any(map(_made, choices)):
        return None
    inner = choices[0].get("error")
    return _failure_of_member(value, inner) if _says(inner) else _failure([], "")


def _made(choice: dict[str, Any]) -> bool:
    made = dict_of(choice.get("message") or choice.get("delta"))
    names = ("content", "reasoning", "reasoning_content", "tool_calls")
    return bool(choice.get("text")) or any(made.get(name) for name in names)


def _says(value: object, depth: int = 0) -> bool:
    """Returns whether an error member holds anything: ``null``, ``{}``, ``""``, ``false`` and an object of these do
    not.
    """
    if isinstance(value, dict | list) and depth < _MOST_DEPTH:
        return any(_says(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value))
    return bool(value)


def _failure(sources: list[dict[str, Any]], said: object, status: int | None = None) -> Failure:
    """``sources``: the objects in which members of a failure may stand, the innermost first; ``said``: its reason."""
    message = _message(said)
    codes = [text for text in (_name(_first(source, _CODES)) for source in sources) if text]
    types = [text for text in (_name(source.get(name)) for source in sources for name in _TYPES) if text]
    types = [kind for kind in types if kind not in ("error", "failed", "response") and not kind.isdigit()]
    params = [text_of(source.get("param")) for source in sources]
    params += [_place(dict_of(one)) for one in _items(said)]
    status = status or next(_given(sources), None) or _implied([*codes, *types], message)
    if status is None and any("loc" in dict_of(one) for one in _items(said)):
        status = 422
    return Failure(
        status=status,
        code=codes[0] if codes else None,
        type=types[0] if types else None,
        message=message,
        param=next((param for param in params if param), None),
    )


def _items(said: object) -> list[Any]:
    """Returns the list of reasons, as FastAPI gives it under ``detail``."""
    if isinstance(said, dict):
        said = next((said[name] for name in ("detail", "message") if isinstance(said.get(name), dict | list)), None)
    if isinstance(said, dict):
        said = said.get("detail")
    return list_of(said)


def _place(one: dict[str, Any]) -> str:
    """Returns the member that one of FastAPI's reasons names: ``["body", "tools", 0]`` is ``tools.0``."""
    parts = [str(part) for part in list_of(one.get("loc")) if isinstance(part, str | int)]
    return text_of(".".join(parts[1:] if parts[:1] == ["body"] else parts))


def _message(said: object, depth: int = 0) -> str:
    """Returns the reason in words, whatever it is wrapped in."""
    if isinstance(said, str):
        return text_of(said.strip(), _MOST_MESSAGE)
    if depth >= _MOST_DEPTH:
        return ""
    if isinstance(said, dict):
        place = _place(said)
        words: Iterable[object] = (said.get(name) for name in _MESSAGES)
        text = next((text for text in (_message(word, depth + 1) for word in words) if text), "")
        text = text or _message(said.get("error") or said.get("errors"), depth + 1)
        return text_of(f"{place}: {text}" if place and text else text, _MOST_MESSAGE)
    if isinstance(said, list):
        texts = (_message(one, depth + 1) for one in said[:10])
        return text_of("; ".join(text for text in texts if text), _MOST_MESSAGE)
    return ""


def _given(sources: list[dict[str, Any]]) -> Iterator[int]:
    """Yields the statuses that the members give as numbers."""
    for source in sources:
        for name in _STATUSES:
            value = source.get(name)
            if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
                value = int(value)
            if isinstance(value, int | float) and not isinstance(value, bool) and 400 <= value <= 599:
                yield int(value)


def _implied(names: list[str], message: str) -> int | None:
    for name in names:
        word = _word(name)
        for status, parts in _MEANINGS:
            if any(part in word for part in parts):
                return status
    return next((status for status, pattern in _MESSAGE_MEANINGS if pattern.search(message)), None)


def _overflows(name: str | None) -> bool:
    return any(part in _word(name) for part in _MEANINGS[0][1])


def _word(name: str | None) -> str:
    return "".join(character for character in (name or "").lower() if character.isalnum())


def _name(value: object) -> str:
    """Returns a code or a type: a text, or a number in digits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12:
        return str(value)
    return text_of(value)


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name)), None)


def _plain_text(body: bytes) -> str:
    """Returns the text of a body that is not JSON: its text, or of a page its title."""
    text = body[: 8 * _MOST_MESSAGE].decode("utf-8", "replace").removeprefix("\ufeff").strip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        text = " ".join((title[1] if title else _TAG.sub(" ", text)).split())
    return text_of(text, _MOST_MESSAGE)
