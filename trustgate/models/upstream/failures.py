"""What a failure of an upstream means: what its client is told, whether to send the request again, whose fault it is.

Owns the translation of everything an upstream can do wrong into the error tree, and the cleaning of what upstreams say:
no address, no credential and no stack trace of theirs reaches a client.

Again, to the same target, only where no work can have been done or paid: no connection; a connection that ended before
the first byte of a response; a refusal for the time being (408, 425, 429, 5xx), as its Retry-After allows. Not after
silence (the model may be at work), and not after a response has begun. Elsewhere, where there is a fallback, also what
this target alone refuses: its operator's credentials or bill, a model it does not have, a prompt too long for it.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from trustgate.errors import TrustGateError, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from trustgate.models.metering.answer import Failure, failure_of
from trustgate.models.metering.sse import frame_data
from trustgate.models.upstream.targets import Target
from trustgate.models.upstream.transport import NotConnected, Unanswered

_BACKOFF_FIRST_S = 0.2
_BACKOFF_LAST_S = 4.0
#: A Retry-After beyond this is passed to the client instead of waited for here.
_RETRY_AFTER_MOST_S = 5.0
#: A Retry-After beyond this is not believed.
_RETRY_AFTER_SANE_S = 7 * 86_400
_MESSAGE_MOST = 2_000
_NAME_MOST = 200

_MAY_BE_ASKED_AGAIN = frozenset({408, 425, 429})
#: A proxy in front of the model gave up waiting: the model may be at work all the same.
_SILENT = frozenset({504, 524})
#: Refusals that another target need not share.
#: 498 is Groq's for "no capacity in this tier".
_ELSEWHERE = frozenset({402, 403, 404, 424, 451, 498})

#: The caller is to blame where its own request broke off: then nothing was learned of the server.
Blame = Literal["caller", "nobody", "server", "network"]


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that gave no answer."""

    error: TrustGateError
    #: Whether the same target may be asked again, and whether another one may.
    again: bool = False
    elsewhere: bool = True
    #: Whose fault it seems to be. What one caller controls is the server's at most by the word of another.
    blame: Blame = "server"
    #: What the upstream asked to wait.
    retry_after_s: float | None = None
    #: The upstream's own status, where it gave or implied one.
    status: int | None = None
    #: Whether the request was sent, whole or in part.
    is_sent: bool = True
    #: Whether the request was too long for the model: a larger one may take it.
    is_too_long: bool = False
    #: Whether a refusal names the members with which a stream's usage is asked for.
    speaks_of_usage: bool = False

    def pause_s(self, attempt: int) -> float:
        """Returns the wait before the next attempt, seconds: as the upstream asks, else a jittered exponential."""
        if self.retry_after_s is not None:
            return self.retry_after_s
        backoff_s: float = min(_BACKOFF_FIRST_S * 2**attempt, _BACKOFF_LAST_S)
        return backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


# what happens on the way


def not_answered(error: Exception) -> FailedAttempt:
    """Returns the verdict on a request that got no head of a response."""
    if isinstance(error, NotConnected) or _kind(error) in _NOT_CONNECTED:
        is_proven = error.is_proven if isinstance(error, NotConnected) else _kind(error) != "PoolTimeout"
        blame: Blame = "network" if is_proven else "server"
        return FailedAttempt(error=translate(error), again=True, blame=blame, is_sent=False)
    if isinstance(error, Unanswered) or _kind(error) in _ENDED:
        return FailedAttempt(error=translate(error), again=True)
    return broken(error)


def broken(error: Exception) -> FailedAttempt:
    """Returns the verdict on a response that stalled, broke off or made no sense: work may have been done for it."""
    translated = translate(error)
    if not isinstance(translated, UpstreamRefused):
        translated.headers.setdefault("x-should-retry", "false")
    return FailedAttempt(error=translated)


_SAYS_NOTHING = Failure()
_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_ENDED = frozenset({"ReadError", "WriteError", "RemoteProtocolError", "ServerDisconnectedError", "ClientOSError"})
_TIMEOUTS = frozenset({"ReadTimeout", "WriteTimeout", "ConnectTimeout", "PoolTimeout"})


def _kind(error: BaseException) -> str:
    """Returns the class name of what happened.

    httpx-aiohttp calls a lost connection a connect timeout; the cause behind that is right.
    """
    is_wrapped = error.__cause__ is not None and type(error).__module__.startswith("httpx")
    cause = error.__cause__ if is_wrapped else error
    name = type(cause).__name__
    return "ConnectError" if name.startswith("ClientConnector") else name


def translate(error: BaseException) -> TrustGateError:
    """Returns what a client may know of a failure on the way to or from an upstream: no address, no detail of ours."""
    if isinstance(error, TrustGateError):
        return error
    if isinstance(error, NotConnected):
        return (
            UpstreamFailed("The upstream could not be reached.")
            if error.is_proven
            else UpstreamTimeout("The upstream could not be reached in time.")
        )
    kind = _kind(error)
    if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError) or kind in _TIMEOUTS:
        return UpstreamTimeout("The upstream did not answer in time.")
    if kind == "ConnectError":
        return UpstreamFailed("The upstream could not be reached.")
    if type(error).__module__.startswith("aiohttp.http"):
        return UpstreamFailed("The upstream's response is not valid HTTP/1.1.")
    return UpstreamFailed("The upstream broke off the connection.")


# an upstream's own words


def refused(status: int, headers: Mapping[str, str], body: bytes, target: Target, model: str) -> FailedAttempt:
    """Returns the verdict on a response with a status that is no success.

    Args:
        status: the response's.
        headers: the response's.
        body: the response's, whole.
        target: who answered.
        model: the name that the client called the model by.
    """
    failure = failure_of(body)
    return _marked(judge(status, failure, headers, body, target, model), failure)


def told(failure: Failure, target: Target, model: str) -> FailedAttempt:
    """Returns the verdict on an answer with a success's status that is a failure by its content."""
    if failure == _SAYS_NOTHING:
        # Work may have been done for an answer that is empty.
        return broken(UpstreamFailed("The upstream's answer holds nothing."))
    status = failure.status or 502
    verdict = judge(status, failure, {}, failure.message.encode("utf-8", "replace"), target, model)
    verdict = _marked(verdict, failure)
    if isinstance(verdict.error, UpstreamRefused) or status in (401, 402, 403):
        return verdict
    # That it failed is all there is to say of a status that was never sent.
    said = _Said.of(failure, target, model)
    error = UpstreamFailed(said.message or "The upstream failed.", type=said.type, code=said.code, param=said.param)
    return msgspec.structs.replace(verdict, error=error)


def _marked(verdict: FailedAttempt, failure: Failure | None) -> FailedAttempt:
    """Returns the verdict with whether the request was too long for the model."""
    if failure is None or not failure.is_context_overflow:
        return verdict
    return msgspec.structs.replace(verdict, is_too_long=True)


def stream_error(failure: Failure | None, target: Target, model: str) -> UpstreamFailed:
    """Returns the error that a client gets in the middle of a stream."""
    said = _Said.of(failure, target, model)
    message = said.message or "The upstream failed in the middle of its answer."
    return UpstreamFailed(message, type=said.type, code=said.code, param=said.param)


def failed_event(frame: bytes, failure: Failure | None, target: Target, model: str) -> bytes:
    """Returns the frame of a ``response.failed`` event, without what its error discloses of the upstream."""
    try:
        event = json.loads((frame_data(frame) or b"").decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        event = None
    response = event.get("response") if isinstance(event, dict) else None
    if not isinstance(response, dict):
        event = {"type": "response.failed", "response": (response := {"status": "failed"})}
    error = response.get("error")
    said = stream_error(failure, target, model)
    response["error"] = {**(error if isinstance(error, dict) else {}), "message": said.message, "code": said.code}
    return b"event: response.failed\ndata: " + json.dumps(event).encode() + b"\n\n"


def judge(
    status: int, failure: Failure | None, headers: Mapping[str, str], body: bytes, target: Target, model: str
) -> FailedAttempt:
    """Returns the verdict on a status and what was said with it."""
    if is_credential_refusal(status, body):
        error = UpstreamFailed(
            "The upstream refused the gateway's credentials.", code="upstream_authentication_error", retryable=False
        )
        return FailedAttempt(error=error, blame="nobody", status=status)
    if status == 402:
        error = UpstreamFailed(
            "The upstream refuses to serve this gateway until its operator has paid (status 402).",
            code="upstream_payment_required",
            retryable=False,
        )
        return FailedAttempt(error=error, blame="nobody", status=status)
    said = _Said.of(failure, target, model)
    wait_s, wait_headers = retry_after(headers)
    may_wait = wait_s is None or wait_s <= _RETRY_AFTER_MOST_S
    if status >= 500 or status < 400:
        if status in (501, 505) or (status == 500 and _blames_the_request(failure, body)):
            # A sign of life: it understood what is asked, and does not do it.
            return FailedAttempt(
                error=_refusal(status, said, {"x-should-retry": "false"}), blame="nobody", status=status
            )
        reason = f": {said.message}" if said.message else "."
        error = UpstreamFailed(f"The upstream failed (status {status}){reason}", headers=wait_headers)
        again = status >= 500 and may_wait and (status not in _SILENT or wait_s is not None)
        if status in _SILENT and not again:
            error.headers.setdefault("x-should-retry", "false")
        return FailedAttempt(error=error, again=again, retry_after_s=wait_s, status=status)
    if status in _MAY_BE_ASKED_AGAIN:
        # An account that is used up does not fill by waiting.
        is_bill = failure is not None and failure.is_unfunded
        if is_bill:
            wait_headers["x-should-retry"] = "false"
        return FailedAttempt(
            error=_refusal(status, said, wait_headers),
            again=may_wait and not is_bill,
            blame="nobody",
            retry_after_s=wait_s,
            status=status,
        )
    return FailedAttempt(
        error=_refusal(status, said, wait_headers),
        elsewhere=status in _ELSEWHERE or (failure is not None and failure.is_context_overflow),
        blame="nobody",
        status=status,
        speaks_of_usage=b"stream_options" in body or b"include_usage" in body,
    )


def _refusal(status: int, said: _Said, headers: Mapping[str, str]) -> UpstreamRefused:
    return UpstreamRefused(
        said.message or f"The upstream refused the request (status {status}).",
        status=status,
        type=said.type or "invalid_request_error",
        code=said.code,
        param=said.param,
        headers=headers,
    )


def is_credential_refusal(status: int, body: bytes) -> bool:
    """Returns whether an answer means that the gateway's own key is missing or wrong, or may not do this.

    A 403 does unless it is about what was asked. A LiteLLM proxy without a database answers 400 ``no_db_connection``
    for every key but its master key.
    """
    if status == 403:
        return _OF_A_KEY.search(body) is not None or _OF_WHAT_WAS_ASKED.search(body) is None
    return status == 401 or (status == 400 and b'"no_db_connection"' in body)


_OF_A_KEY = re.compile(rb"api[ _-]?key|credential|authenticat|authoriz|access[ _]token|bearer", re.IGNORECASE)
_OF_WHAT_WAS_ASKED = re.compile(
    rb"moderat|flagged|content|polic(?:y|ies)|safety|guardrail|filter|blocked|harm|sensitive|violat|prohibited"
    rb"|region|country|territor|location|model|input|prompt|image",
    re.IGNORECASE,
)
#: A 500 that is about the request: a text model that gets an image, a server without the kind of answer asked for.
_NOT_DONE_HERE = re.compile(
    rb"not supported|unsupported|does(?: not|n't) support|not implemented|not_supported|invalid_request|invalid input"
    rb"|image input|mmproj|invalid (?:image|audio|json|schema|grammar|argument|value|parameter)"
    rb"|failed to (?:load|decode|parse)",
    re.IGNORECASE,
)


def _blames_the_request(failure: Failure | None, body: bytes) -> bool:
    """Returns whether a 500 means, by its words, that this request cannot be served and the server is in order."""
    return failure is not None and _NOT_DONE_HERE.search(body[:_SEARCHED_BYTES]) is not None


_SEARCHED_BYTES = 16_384


def retry_after(headers: Mapping[str, str]) -> tuple[float | None, dict[str, str]]:
    """How long an upstream asks to wait, and how a client is told so.

    Read are ``retry-after-ms`` (of Azure and OpenAI), and ``Retry-After`` in seconds or as a date (RFC 9110, section
    10.2.3).

    Returns: seconds, None where nothing sensible is said; and the headers for the client, whose ``retry-after`` is
    whole seconds, rounded up.
    """
    told_ms = headers.get("retry-after-ms")
    seconds = _sane(_number(told_ms) / 1000)
    passed = {} if seconds is None else {"retry-after-ms": str(math.ceil(seconds * 1000))}
    if seconds is None:
        value = headers.get("retry-after")
        seconds = _sane(_number(value))
        if seconds is None and value:
            seconds = _sane(_seconds_until(value))
    if seconds is None:
        return None, {}
    return seconds, {"retry-after": str(math.ceil(seconds)), **passed}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _sane(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _RETRY_AFTER_SANE_S else None


def _seconds_until(date: str) -> float:
    try:
        at = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


# cleaning


class _Said(msgspec.Struct, frozen=True):
    """An upstream's reason in OpenAI's words, cleaned; ``message`` is "" where it gave none."""

    message: str
    type: str | None
    code: str | None
    param: str | None

    @classmethod
    def of(cls, failure: Failure | None, target: Target, model: str) -> _Said:
        if failure is None:
            return cls("", None, None, None)
        return cls(
            clean(failure.message, target, model),
            _name(failure.type, target),
            _name(failure.code, target),
            _name(failure.param, target),
        )


def _name(text: str | None, target: Target) -> str | None:
    return clean(text, target)[:_NAME_MOST] if text else None


_URL = re.compile(r"\b[a-z][a-z0-9+.\-]{1,20}://[^\s'\"<>)\]}]+", re.IGNORECASE)
_KEY = re.compile(
    r"\b(?:(?:sk|pk|rk|key|tgk|gsk|hf|xai|nvapi|pplx|fw|r8)[-_][A-Za-z0-9_\-*.]{8,}|AIza[\w\-]{20,}"
    r"|eyJ[\w\-]{10,}\.[\w.\-]+|bearer\s+[\w\-.~+/*]{8,}=*)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d{1,5})?"
    r"|\b(?:[a-z0-9][a-z0-9\-]*\.)+[a-z][a-z0-9\-]*:\d{2,5}\b|\blocalhost(?::\d{1,5})?\b",
    re.IGNORECASE,
)
_TRACE = re.compile(
    r"\s*(?:Traceback \(most recent call last\)|\bFile \"[^\"]*\", line \d+|\n\s*at [\w.$<>]+ ?\(|goroutine \d+ \[).*",
    re.DOTALL,
)


def clean(message: str, target: Target, model: str = "") -> str:
    """Returns an upstream's message without its address, its credential and its stack traces, cut at a sane length.

    ``model``: what the client called the model; it stands in place of the upstream's own name for it.
    """
    if target.upstream.credential:
        message = message.replace(target.upstream.credential, "…")
    host = target.upstream.base_url.partition("://")[2].partition("/")[0]
    message = _TRACE.sub("", message[: 4 * _MESSAGE_MOST])
    message = _ADDRESS.sub("…", _KEY.sub("…", _URL.sub("…", message)))
    name = host.partition(":")[0]
    if "." in name or name != host or name == "localhost":
        message = message.replace(host, "…").replace(name, "…")
    if model and len(target.model) >= _TELLING_NAME and target.model != model:
        message = message.replace(target.model, model)
    return message[:_MESSAGE_MOST].strip()


#: Upstream names shorter than this are words that may mean something else.
_TELLING_NAME = 4
