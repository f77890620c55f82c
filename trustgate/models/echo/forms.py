"""What the APIs of the built-in model share: reading a body, refusing it, JSON and server-sent events as responses.

Owns the forms of refusals: OpenAI's, and Anthropic's below ``/messages``. Sources: OpenAI API reference, "Error codes";
Anthropic API reference, "Errors".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import httpx
import msgspec

from trustgate.ids import new_id

ECHO_MODEL = "trustgate/echo"

_MESSAGES_TYPES = {404: "not_found_error"}

_T = TypeVar("_T")
encode = msgspec.json.Encoder().encode


class EchoRefusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def response(self, *, is_messages: bool) -> httpx.Response:
        """Returns the refusal in OpenAI's form of an error, or in Anthropic's (``is_messages``)."""
        message = str(self)
        if is_messages:
            kind = _MESSAGES_TYPES.get(self.status, "invalid_request_error")
            return json_response({"type": "error", "error": {"type": kind, "message": message}}, self.status)
        error = {"message": message, "type": "invalid_request_error", "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status)


def decode(body: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
    """Returns the body's value. Raises ``EchoRefusal`` where it is no JSON, or not of the decoder's type."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _, _, place = str(error).partition(" - at `$.")
        raise EchoRefusal(400, f"{error}.", "invalid_value", place.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EchoRefusal(400, "The body is not valid JSON.", "invalid_json") from None


def check_model(model: str) -> None:
    """Raise ``EchoRefusal`` (404) unless ``model`` names the built-in model."""
    if model != ECHO_MODEL:
        message = f"The model {model!r} does not exist here; there is {ECHO_MODEL}."
        raise EchoRefusal(404, message, "model_not_found", "model")


def check_range(param: str, value: int | None, least: int, most: int | None = None) -> None:
    """Raise ``EchoRefusal`` unless ``value`` is None or in bounds."""
    if value is not None and (value < least or (most is not None and value > most)):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise EchoRefusal(400, f"{param} must be {allowed}.", "invalid_value", param)


def made_id(prefix: str, divider: str = "_") -> str:
    """Returns a new id as an API has it: ``chatcmpl-…``, ``resp_…``."""
    return new_id(prefix).replace("_", divider)


def json_response(value: dict[str, Any], status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, content=encode(value))


def data_frames(chunks: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yields frames without names of events, and ``[DONE]`` last."""
    for chunk in chunks:
        yield b"data: " + encode(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def event_frames(events: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yields frames whose events have the name of their ``type``."""
    for event in events:
        yield b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"


def stream_response(frames: Iterator[bytes]) -> httpx.Response:
    """Returns a stream of server-sent events whose frames are made as they are read."""
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return httpx.Response(200, headers=headers, stream=_EventFrames(frames))


class _EventFrames(httpx.AsyncByteStream):
    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for frame in self._frames:
            yield frame
            # Other requests run between two frames, and a long answer can be cancelled there.
            await asyncio.sleep(0)
