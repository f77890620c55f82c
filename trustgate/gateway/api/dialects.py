"""The dialects clients speak: how each wants its errors, alone or inside a stream, and how its streams are metered.

Owns the forms of refusals. OpenAI's is the form of all routes but Anthropic's; the Responses API has a form of its own
inside a stream. Sources: OpenAI API reference, "Error codes" and "Streaming events"; Anthropic API reference, "Errors".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from trustgate.errors import TrustGateError
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.events import EventMeter, MessagesMeter, RunMeter

_encode = msgspec.json.Encoder().encode


class Dialect(msgspec.Struct, frozen=True):
    #: The JSON of an error; takes the request's id.
    error: Callable[[TrustGateError, str], dict[str, Any]]
    #: The error as the last event of a stream that has begun; takes the number of the event before it.
    event: Callable[[TrustGateError, str, int], bytes]
    meter: Callable[[], StreamMeter]
    #: The header that holds the request's id besides ``X-Request-Id``, lower case.
    id_header: bytes | None = None

    def body(self, error: TrustGateError, request_id: str = "") -> bytes:
        return _encode(self.error(error, request_id))


def _openai_error(error: TrustGateError, request_id: str) -> dict[str, Any]:
    return error.to_openai()


def _openai_event(error: TrustGateError, request_id: str, sequence: int) -> bytes:
    return b"data: " + _encode(error.to_openai()) + b"\n\n"


def _responses_event(error: TrustGateError, request_id: str, sequence: int) -> bytes:
    """Returns the API's own error event, with the ``error`` member besides that makes the SDK raise it."""
    event = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "sequence_number": sequence + 1,
        **error.to_openai(),
    }
    return b"event: error\ndata: " + _encode(event) + b"\n\n"


#: Anthropic's types of errors by status.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANTHROPIC_KNOWN = frozenset({*_ANTHROPIC_TYPES.values(), "api_error"})


def _anthropic_error(error: TrustGateError, request_id: str) -> dict[str, Any]:
    kind = error.type if error.type in _ANTHROPIC_KNOWN and error.status >= 500 else None
    fallback = "api_error" if error.status >= 500 else "invalid_request_error"
    inner = {"type": kind or _ANTHROPIC_TYPES.get(error.status, fallback), "message": error.message}
    named = {"request_id": request_id} if request_id else {}
    return {**error.beside, "type": "error", "error": inner, **named}


def _anthropic_event(error: TrustGateError, request_id: str, sequence: int) -> bytes:
    return b"event: error\ndata: " + _encode(_anthropic_error(error, request_id)) + b"\n\n"


def is_anthropics(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Returns whether a request is of one of Anthropic's clients, whatever its path: they name their API's version."""
    return any(name == b"anthropic-version" for name, _ in headers)


OPENAI = Dialect(error=_openai_error, event=_openai_event, meter=StreamMeter)
RESPONSES = Dialect(error=_openai_error, event=_responses_event, meter=EventMeter)
#: Image and audio streams: OpenAI's errors, events with types.
EVENTS = Dialect(error=_openai_error, event=_openai_event, meter=EventMeter)
#: The runs of assistants.
RUNS = Dialect(error=_openai_error, event=_openai_event, meter=RunMeter)
ANTHROPIC = Dialect(
    error=_anthropic_error,
    event=_anthropic_event,
    meter=MessagesMeter,
    id_header=b"request-id",
)
